//! The command line: which verb, with which options. One file a verb.
//! Must not know: how the verbs do it.

mod check;
mod compare;
mod next;
mod schema;
mod serve;
mod surroundings;

use std::ffi::OsString;
use std::io::Write;
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
        // fine-print.md 28: the daemon's binary plays the wrapper when it is called so
        return crate::wrapper::main();
    }
    match parse(std::env::args_os()) {
        Ok(Action::Run(verb, arguments)) => verb.run(arguments),
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

/// Writes to stdout; a reader that went away (`| head`) is no error.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Serve,
    Check,
    Next,
    Schema,
    Compare,
}

/// The arguments as typed; each verb takes what it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Arguments {
    config_dir: Option<PathBuf>,
    json: bool,
    count: Option<usize>,
    after: Option<String>,
    /// The job of `next`, the directory of `compare`.
    word: Option<String>,
    log_format: Option<logging::Format>,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Run(Verb, Arguments),
    Print(String),
}

const VERBS: [(&str, Verb); 5] = [
    ("serve", Verb::Serve),
    ("check", Verb::Check),
    ("next", Verb::Next),
    ("schema", Verb::Schema),
    ("compare", Verb::Compare),
];

impl Verb {
    fn run(self, arguments: Arguments) -> ExitCode {
        match self {
            Verb::Serve => serve::run(&arguments.config_dir(), arguments.log_format),
            Verb::Check => check::run(&arguments.config_dir(), arguments.json),
            Verb::Next => next::run(&arguments),
            Verb::Schema => schema::run(),
            Verb::Compare => compare::run(&arguments),
        }
    }

    fn help(self) -> &'static str {
        match self {
            Verb::Serve => serve::HELP,
            Verb::Check => check::HELP,
            Verb::Next => next::HELP,
            Verb::Schema => schema::HELP,
            Verb::Compare => compare::HELP,
        }
    }
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
    let mut verb = None;
    let mut only_next: Option<&str> = None;
    let mut help = false;
    while let Some(argument) = parser.next().map_err(told)? {
        match argument {
            Short('h') | Long("help") => help = true,
            Short('v') | Short('V') | Long("version") => {
                return Ok(Action::Print(format!(
                    "saltpeter {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Short('c') | Long("configdir") => {
                arguments.config_dir = Some(parser.value().map_err(told)?.into())
            }
            Long("json") => arguments.json = true,
            Short('n') | Long("count") => {
                only_next = Some("-n");
                arguments.count = Some(parser.value().map_err(told)?.parse().map_err(told)?);
            }
            Long("after") => {
                only_next = Some("--after");
                arguments.after = Some(parser.value().map_err(told)?.string().map_err(told)?);
            }
            Value(word) if verb.is_none() => verb = Some(verb_named(&word.string().map_err(told)?)?),
            Long("log-format") => {
                let word = parser.value().map_err(told)?.string().map_err(told)?;
                arguments.log_format = Some(log_format(&word)?);
            }
            Value(word) if matches!(verb, Some(Verb::Next | Verb::Compare)) && arguments.word.is_none() => {
                arguments.word = Some(word.string().map_err(told)?);
            }
            Value(word) => return Err(format!("unexpected argument '{}'", word.to_string_lossy())),
            other => return Err(told(other.unexpected())),
        }
    }
    if help {
        return Ok(Action::Print(verb.map_or(HELP, Verb::help).to_string()));
    }
    let verb = verb.unwrap_or(Verb::Serve);
    match only_next {
        Some(option) if verb != Verb::Next => return Err(format!("{option} belongs to the verb 'next'")),
        _ => {}
    }
    if arguments.json && !matches!(verb, Verb::Check | Verb::Next) {
        return Err("--json belongs to the verbs 'check' and 'next'".to_string());
    }
    if arguments.log_format.is_some() && verb != Verb::Serve {
        return Err("--log-format belongs to the verb 'serve'".to_string());
    }
    Ok(Action::Run(verb, arguments))
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

fn told(error: lexopt::Error) -> String {
    error.to_string()
}

fn verb_named(word: &str) -> Result<Verb, String> {
    if let Some((_, verb)) = VERBS.iter().find(|(name, _)| *name == word) {
        return Ok(*verb);
    }
    let names = VERBS.map(|(name, _)| name);
    Err(match crate::config::likeliest(word, names) {
        Some(name) => format!("unknown verb '{word}', did you mean '{name}'?"),
        None => format!("unknown verb '{word}'"),
    })
}

const HELP: &str = "\
saltpeter: cron for a fleet

usage: saltpeter [serve] [-c DIR] [--log-format FORMAT]
       saltpeter check [-c DIR] [--json]
       saltpeter next [-c DIR] [JOB] [-n COUNT] [--after TIME] [--json]
       saltpeter schema
       saltpeter compare LOGDIR [-c DIR]

verbs:
  serve   run the daemon (what happens without a verb)
  check   tell what is wrong with the configuration
  next    tell when jobs are due
  schema  print the JSON Schema of the job files
  compare tell which due times another daemon started, and this one did not

options:
  -c, --configdir DIR   the configuration directory (default: /etc/saltpeter)
  -v, --version         print the version
  -h, --help            print this help, or a verb's

exit codes: 0 success, 1 failure, 2 a command line that cannot be understood
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Action, String> {
        parse(
            std::iter::once("saltpeter")
                .chain(words.iter().copied())
                .map(OsString::from),
        )
    }

    #[test]
    fn the_daemon_is_the_default_verb() {
        let arguments = Arguments {
            config_dir: Some("conf".into()),
            ..Arguments::default()
        };
        let wanted = Ok(Action::Run(Verb::Serve, arguments));
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
        assert!(parsed(&["--nonsense"]).is_err());
        assert!(parsed(&["check", "extra"]).is_err());
        assert!(parsed(&["check", "-n", "3"]).is_err());
        assert!(parsed(&["next", "-n", "many"]).is_err());
        assert!(parsed(&["-c"]).is_err());
    }
}
