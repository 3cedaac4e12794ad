//! The command line: which verb, with which options. One file a verb, or a few that are much alike; `client.rs` speaks
//! with the daemon, `table.rs` with people.
//! Must not know: how the verbs do it.

mod check;
mod client;
mod compare;
mod completions;
mod following;
mod logs;
mod maintenance;
mod next;
mod notifications;
mod run;
mod schema;
mod serve;
mod status;
mod surroundings;
mod table;
mod terminal;
mod token;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::prelude::*;

use crate::logging;

/// Where the configuration is if `-c` does not say.
pub const DEFAULT_CONFIG_DIR: &str = "/etc/saltpeter";

/// Exit code of a command line that cannot be understood.
const USAGE: u8 = 2;

/// Plays the part that `argv[0]` names: the wrapper as `sp-wrapper`, else what the arguments say.
pub fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    if Path::new(&program)
        .file_name()
        .is_some_and(|name| name == "sp-wrapper")
    {
        // rules.md 28: the daemon's binary plays the wrapper when it is called so
        return crate::wrapper::main();
    }
    match parse(std::env::args_os()) {
        Ok(Action::Run(verb, arguments)) => (verb.run)(&arguments),
        Ok(Action::Print(text)) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("saltpeter: {error}; see saltpeter --help");
            ExitCode::from(USAGE)
        }
    }
}

/// Writes to stdout. A reader that went away (`| head`) is no error; where there is no room (`> file`), that is the end.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("saltpeter: cannot write: {error}");
        std::process::exit(1);
    }
}

/// The arguments as typed; each verb takes what it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Arguments {
    config_dir: Option<PathBuf>,
    json: bool,
    count: Option<usize>,
    after: Option<String>,
    /// What stands after the verb without a dash.
    words: Vec<String>,
    url: Option<String>,
    cacert: Option<PathBuf>,
    wait: bool,
    follow: bool,
    names: bool,
    machines: Vec<String>,
    parameters: Vec<(String, String)>,
    reason: Option<String>,
    duration: Option<String>,
    until: Option<String>,
    from: Option<String>,
    outcome: Option<String>,
    check: bool,
    retry: Option<String>,
    test: Option<String>,
    log_format: Option<logging::Format>,
}

#[derive(Debug)]
enum Action {
    Run(&'static VerbInfo, Box<Arguments>),
    Print(String),
}

/// One verb: what it is called, what it takes, what it does.
#[derive(Debug)]
struct VerbInfo {
    name: &'static str,
    about: &'static str,
    /// How many words follow it.
    words: RangeInclusive<usize>,
    /// Options besides `-c`, `-h` and those of [`VerbInfo::asks`].
    own_options: &'static [&'static str],
    /// Its first word is a job's name, or may be.
    takes_job: bool,
    /// It asks the daemon, and may be told where that is.
    asks: bool,
    run: fn(&Arguments) -> ExitCode,
    help: &'static str,
}

/// What every verb takes that asks the daemon.
const ASKING: &[&str] = &["--url", "--cacert"];

/// The first is what happens without a verb.
#[rustfmt::skip]
const VERBS: [VerbInfo; 18] = [
    verb("serve", "run the daemon (what happens without a verb)", serve_verb, serve::HELP).options(&["--log-format"]),
    verb("check", "tell what is wrong with the configuration", check_verb, check::HELP).options(&["--json"]),
    verb("next", "tell when jobs are due", next::run, next::HELP).of_job(0..=1).options(&["--count", "--after", "--json"]),
    verb("status", "show jobs, or one", status::run, status::HELP).of_job(0..=1).options(&["--json", "--names", "--check"]).asking(),
    verb("run", "start a run", run::run, run::RUN_HELP)
        .of_job(1..=1).options(&["--machine", "--param", "--wait", "--json"]).asking(),
    verb("kill", "end runs", run::kill, run::KILL_HELP).of_job(1..=2).options(&["--json"]).asking(),
    verb("retry", "run again on the machines that failed", run::retry, run::RETRY_HELP)
        .words(1..=1).options(&["--wait", "--json"]).asking(),
    verb("logs", "print output", logs::run, logs::HELP).of_job(1..=2).options(&["--follow"]).asking(),
    verb("runs", "show runs", status::runs, status::RUNS_HELP)
        .of_job(0..=1).options(&["--machine", "--outcome", "--from", "--until", "--count", "--json"]).asking(),
    verb("pause", "keep a job from starting by itself", maintenance::pause, maintenance::PAUSE_HELP)
        .of_job(1..=1).options(&["--reason", "--until", "--json"]).asking(),
    verb("resume", "let it start by itself again", maintenance::resume, maintenance::PAUSE_HELP)
        .of_job(1..=1).options(&["--json"]).asking(),
    verb("seen", "mark missed due times as seen", maintenance::seen, maintenance::SEEN_HELP)
        .of_job(1..=1).options(&["--json"]).asking(),
    verb("maintenance", "show maintenance, or switch it", maintenance::run, maintenance::HELP)
        .words(0..=1).options(&["--reason", "--machine", "--for", "--json"]).asking(),
    verb("notifications", "show who was told of what, test a notifier", notifications::run, notifications::HELP)
        .of_job(0..=1).options(&["--count", "--retry", "--test", "--json"]).asking(),
    verb("token", "make a token for the API", token::run, token::HELP).words(2..=2).options(&["--json"]),
    verb("schema", "print the JSON Schema of the job files", schema::run, schema::HELP),
    verb("compare", "tell what another daemon started and this one did not", compare::run, compare::HELP).words(1..=1),
    verb("completions", "print completions for a shell", completions::run, completions::HELP).words(1..=1),
];

/// One that takes neither words nor options of its own.
const fn verb(
    name: &'static str,
    about: &'static str,
    run: fn(&Arguments) -> ExitCode,
    help: &'static str,
) -> VerbInfo {
    VerbInfo {
        name,
        about,
        words: 0..=0,
        own_options: &[],
        takes_job: false,
        asks: false,
        run,
        help,
    }
}

impl VerbInfo {
    const fn words(self, words: RangeInclusive<usize>) -> VerbInfo {
        VerbInfo { words, ..self }
    }

    const fn of_job(self, words: RangeInclusive<usize>) -> VerbInfo {
        VerbInfo {
            takes_job: true,
            ..self.words(words)
        }
    }

    const fn options(self, own_options: &'static [&'static str]) -> VerbInfo {
        VerbInfo { own_options, ..self }
    }

    const fn asking(self) -> VerbInfo {
        VerbInfo { asks: true, ..self }
    }

    /// What it takes besides `-c` and `-h`.
    fn takes(&self) -> impl Iterator<Item = &'static str> {
        let asking: &[&str] = if self.asks { ASKING } else { &[] };
        self.own_options.iter().chain(asking).copied()
    }
}

fn serve_verb(arguments: &Arguments) -> ExitCode {
    serve::run(&arguments.config_dir(), arguments.log_format)
}

fn check_verb(arguments: &Arguments) -> ExitCode {
    check::run(&arguments.config_dir(), arguments.json)
}

/// Tells a failure, if it is one.
fn told(outcome: Result<ExitCode, client::Failure>) -> ExitCode {
    outcome.unwrap_or_else(client::Failure::tell)
}

impl Arguments {
    fn config_dir(&self) -> PathBuf {
        self.config_dir
            .clone()
            .unwrap_or_else(|| DEFAULT_CONFIG_DIR.into())
    }
}

fn parse(command_line: impl IntoIterator<Item = OsString>) -> Result<Action, String> {
    let mut parser = lexopt::Parser::from_iter(command_line);
    let mut arguments = Arguments::default();
    let mut verb: Option<&'static VerbInfo> = None;
    let mut given: Vec<&'static str> = Vec::new();
    let mut help = false;
    while let Some(argument) = parser.next().map_err(error_text)? {
        match argument {
            Short('h') | Long("help") => help = true,
            Short('v') | Short('V') | Long("version") => {
                return Ok(Action::Print(format!(
                    "saltpeter {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Short('c') | Long("configdir") => {
                arguments.config_dir = Some(parser.value().map_err(error_text)?.into());
            }
            Value(word) if verb.is_none() => verb = Some(verb_named(&word.string().map_err(error_text)?)?),
            Value(word) => arguments.words.push(word.string().map_err(error_text)?),
            Short(short) => match long_of(short) {
                Some(long) => given.push(take(&mut arguments, long, &mut parser)?),
                None => return Err(error_text(Short(short).unexpected())),
            },
            Long(long) => {
                let long = format!("--{long}");
                let known = VERBS
                    .iter()
                    .flat_map(VerbInfo::takes)
                    .find(|option| *option == long);
                let Some(known) = known else {
                    return Err(error_text(Long(&long[2..]).unexpected()));
                };
                given.push(take(&mut arguments, known, &mut parser)?);
            }
        }
    }
    if help {
        let text = verb.map_or_else(help_text, |verb| verb.help.to_string());
        return Ok(Action::Print(text));
    }
    let verb = verb.unwrap_or(&VERBS[0]);
    fits(verb, &given, &arguments)?;
    Ok(Action::Run(verb, Box::new(arguments)))
}

/// What was given is what the verb takes.
fn fits(verb: &VerbInfo, given: &[&'static str], arguments: &Arguments) -> Result<(), String> {
    let takes = |verb: &VerbInfo, option: &str| verb.takes().any(|known| known == option);
    if let Some(option) = given.iter().find(|option| !takes(verb, option)) {
        let takers: Vec<&str> = VERBS
            .iter()
            .filter(|verb| takes(verb, option))
            .map(|verb| verb.name)
            .collect();
        return Err(format!(
            "{option} does not belong to '{}' but to {}",
            verb.name,
            takers.join(", ")
        ));
    }
    // a script's variable that is not set
    if arguments
        .words
        .iter()
        .chain(&arguments.machines)
        .any(String::is_empty)
    {
        return Err(format!("'{}' takes no empty argument", verb.name));
    }
    let machines = given.iter().filter(|option| **option == "--machine").count();
    if machines > 1 && verb.name != "run" {
        return Err(format!("'{}' takes --machine only once", verb.name));
    }
    match arguments.words.len() {
        count if count > *verb.words.end() => Err(format!(
            "unexpected argument '{}'",
            arguments.words[*verb.words.end()]
        )),
        count if count < *verb.words.start() => Err(format!(
            "'{}' needs more: {}",
            verb.name,
            verb.help.lines().next().unwrap_or_default()
        )),
        _ => Ok(()),
    }
}

fn long_of(short: char) -> Option<&'static str> {
    Some(match short {
        'n' => "--count",
        'm' => "--machine",
        'p' => "--param",
        'f' => "--follow",
        _ => return None,
    })
}

/// Takes an option's value; gives back the option.
fn take(
    arguments: &mut Arguments,
    option: &'static str,
    parser: &mut lexopt::Parser,
) -> Result<&'static str, String> {
    let mut text = || parser.value().map_err(error_text)?.string().map_err(error_text);
    match option {
        "--json" => arguments.json = true,
        "--wait" => arguments.wait = true,
        "--follow" => arguments.follow = true,
        "--names" => arguments.names = true,
        "--count" => {
            let count = text()?;
            let number = count
                .parse()
                .map_err(|_| format!("--count takes a number, not '{count}'"))?;
            arguments.count = Some(number);
        }
        "--after" => arguments.after = Some(text()?),
        "--url" => arguments.url = Some(text()?),
        "--cacert" => arguments.cacert = Some(text()?.into()),
        "--machine" => arguments.machines.push(text()?),
        "--param" => {
            let pair = text()?;
            let Some((name, value)) = pair.split_once('=') else {
                return Err("--param takes NAME=VALUE".to_string());
            };
            arguments.parameters.push((name.into(), value.into()));
        }
        "--reason" => arguments.reason = Some(text()?),
        "--for" => arguments.duration = Some(text()?),
        "--until" => arguments.until = Some(text()?),
        "--from" => arguments.from = Some(text()?),
        "--log-format" => arguments.log_format = Some(log_format(&text()?)?),
        "--check" => arguments.check = true,
        "--retry" => arguments.retry = Some(text()?),
        "--test" => arguments.test = Some(text()?),
        "--outcome" => arguments.outcome = Some(text()?),
        // VERBS has no others; a test gives each
        other => return Err(format!("unknown option '{other}'")),
    }
    Ok(option)
}

fn log_format(word: &str) -> Result<logging::Format, String> {
    let found = logging::FORMATS.iter().find(|(name, _)| *name == word);
    found.map(|(_, format)| *format).ok_or_else(|| {
        format!(
            "--log-format is plain, journal or json, not '{}'",
            word.escape_debug()
        )
    })
}

fn error_text(error: lexopt::Error) -> String {
    error.to_string()
}

fn verb_named(word: &str) -> Result<&'static VerbInfo, String> {
    if let Some(verb) = VERBS.iter().find(|verb| verb.name == word) {
        return Ok(verb);
    }
    let names = VERBS.map(|verb| verb.name);
    Err(match crate::config::likeliest(word, names) {
        Some(name) => format!("unknown verb '{word}', did you mean '{name}'?"),
        None => format!("unknown verb '{word}'"),
    })
}

fn help_text() -> String {
    let verbs: String = VERBS
        .iter()
        .map(|verb| format!("  {:<15}{}\n", verb.name, verb.about))
        .collect();
    format!(
        "saltpeter: cron for a fleet\n\nusage: saltpeter [VERB] [-c DIR] ...\n\nverbs:\n{verbs}\n\
         options:\n  \
         -c, --configdir DIR   the configuration directory (default: /etc/saltpeter)\n  \
         --url URL             the daemon's API (or SALTPETER_URL): http://HOST:PORT, https://HOST:PORT,\n                        \
         unix:/PATH/control.sock; else the control socket in the configuration's state_dir,\n                        \
         else its port on this host\n  \
         --cacert FILE         certificates that https:// believes, PEM (or SALTPETER_CACERT; else the system's)\n  \
         -v, --version         print the version\n  \
         -h, --help            print this help, or a verb's\n\n\
         A token for the API is taken from SALTPETER_TOKEN. NO_COLOR takes the colours away.\n\n\
         exit codes: 0 success, 1 failure, 2 a command line that cannot be understood; see each verb's help\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<(&'static str, Arguments), String> {
        let command_line = std::iter::once("saltpeter").chain(words.iter().copied());
        match parse(command_line.map(OsString::from))? {
            Action::Run(verb, arguments) => Ok((verb.name, *arguments)),
            Action::Print(text) => Err(text),
        }
    }

    #[test]
    fn the_daemon_is_the_default_verb() {
        let arguments = Arguments {
            config_dir: Some("conf".into()),
            ..Arguments::default()
        };
        let wanted = Ok(("serve", arguments));
        assert_eq!(parsed(&["-c", "conf"]), wanted);
        assert_eq!(parsed(&["--configdir=conf"]), wanted);
        assert_eq!(parsed(&["serve", "-cconf"]), wanted);
        assert_eq!(parsed(&["-c", "conf", "serve"]), wanted);
    }

    #[test]
    fn a_misspelt_verb_or_option_is_refused() {
        assert_eq!(
            parsed(&["chekc"]),
            Err("unknown verb 'chekc', did you mean 'check'?".into())
        );
        assert_eq!(parsed(&["frobnicate"]), Err("unknown verb 'frobnicate'".into()));
        for words in [
            &["--nonsense"][..],
            &["-x"],
            &["check", "extra"],
            &["check", "-n", "3"],
            &["--json"],
            &["next", "-n", "many"],
            &["-c"],
            &["run"],
            &["run", "a", "b"],
            &["run", "a", "-p", "b"],
            &["kill", "a", "b", "c"],
            &["token", "a"],
            &["kill", ""],
            &["kill", "a", ""],
            &["maintenance", "on", "-m", "a", "-m", "b", "--reason", "r"],
            &["runs", "-m", "a", "--machine", "b"],
            &["run", "a", "-m", ""],
        ] {
            assert!(parsed(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn every_option_of_every_verb_is_understood() {
        for verb in &VERBS {
            for option in verb.takes() {
                let mut words = vec![verb.name];
                words.extend(std::iter::repeat_n("word", *verb.words.start()));
                words.push(option);
                if !["--json", "--wait", "--follow", "--names", "--check"].contains(&option) {
                    words.push(match option {
                        "--param" => "a=b",
                        "--log-format" => "json",
                        _ => "7",
                    });
                }
                assert!(parsed(&words).is_ok(), "{words:?}: {:?}", parsed(&words));
                assert!(
                    verb.help.contains(option) || ASKING.contains(&option),
                    "{} {option}",
                    verb.name
                );
            }
        }
    }

    #[test]
    fn help_is_of_the_verb_that_is_named_and_of_all_without_one() {
        let shown = |words: &[&str]| parsed(words).unwrap_err();
        assert_eq!(shown(&["--help"]), help_text());
        for verb in &VERBS {
            assert_eq!(shown(&[verb.name, "-h"]), verb.help);
            assert!(help_text().contains(verb.about), "{}", verb.name);
        }
    }

    #[test]
    fn a_run_is_asked_for_with_machines_and_values() {
        let (verb, arguments) = parsed(&["run", "j", "-m", "a", "-m", "b", "-p", "x=1=2", "--wait"]).unwrap();
        assert_eq!((verb, arguments.wait), ("run", true));
        assert_eq!(arguments.machines, ["a", "b"]);
        assert_eq!(arguments.parameters, [("x".to_string(), "1=2".to_string())]);
    }

    #[test]
    fn the_manual_tells_of_every_verb() {
        let manual = include_str!("../../packaging/doc/http-and-cli.md");
        for verb in &VERBS {
            let row = format!("| `{}` | {} |", verb.name, verb.about);
            assert!(manual.lines().any(|line| line == row), "{row}");
        }
    }
}
