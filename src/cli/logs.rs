//! `saltpeter logs`: what machines put out, from storage or as it comes.
//! Must not know: how it is kept.

use std::io::{BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use serde_json::Value;

use super::Arguments;
use super::client::{Client, Failure, encoded, neither, unreachable};
use super::following::Following;
use super::table::plain;
use super::terminal::Filter;
use crate::{limits, thread};

pub const HELP: &str = "\
usage: saltpeter logs [-f] JOB|RUN [MACHINE]

Prints the output of a run, or of a job's last run: of one machine as it is, of several one after the other.

  -f, --follow   stay until it ends; of several machines each line begins with its machine

On a terminal, colors are kept and every other control sequence is shown escaped. In a pipe or a file the output is byte
for byte what the command printed.

exit codes: 0 success, 1 no such job, run or machine, 2 a command line that cannot be understood,
            69 the daemon cannot be reached, 77 not allowed
";

/// Prints output.
pub fn run(arguments: &Arguments) -> ExitCode {
    super::told(print_logs(arguments))
}

fn print_logs(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let client = Arc::new(Client::new(arguments)?);
    let run = find(&client, &arguments.words[0], arguments.follow)?;
    let instance = run["instance"].as_str().unwrap_or_default();
    let all = run["machines"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names = all.iter().filter_map(|machine| machine["machine"].as_str());
    let machines: Vec<String> = match arguments.words.get(1) {
        Some(machine) => vec![machine.clone()],
        None => names.map(str::to_string).collect(),
    };
    if let Some(note) = run["note"].as_str() {
        eprintln!("saltpeter: {}", plain(note));
    }
    let path = |machine: &str| {
        let follow = if arguments.follow { "?follow=1" } else { "" };
        format!(
            "/api/v1/runs/{}/machines/{}/output{follow}",
            encoded(instance),
            encoded(machine)
        )
    };
    match machines.as_slice() {
        [machine] => {
            if arguments.follow {
                copy(Following::begin(&client, path(machine))?)?;
            } else {
                copy(client.stream(&path(machine), 0)?)?;
            }
        }
        machines if !arguments.follow => {
            for machine in machines {
                let code = all.iter().find(|entry| entry["machine"] == machine.as_str());
                let code = code.map_or(Value::Null, |entry| entry["retcode"].clone());
                super::print(&format!("== {} ({code})\n", plain(machine)));
                copy(client.stream(&path(machine), 0)?)?;
            }
        }
        machines => follow_all(&client, machines, path)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The run of that name, or the last of the job of that name; when it is to be followed, with its machines.
fn find(client: &Client, name: &str, follow: bool) -> Result<Value, Failure> {
    let (_never, pause) = bounded::<()>(0);
    let mut instance = name.to_string();
    let mut no_job = None;
    match client.get(&format!("/api/v1/jobs/{}?recent=0", encoded(name))) {
        Ok(job) => match job["last_instance"].as_str() {
            Some(last) => instance = last.to_string(),
            None => {
                return Err(Failure {
                    code: 1,
                    message: format!("{name} has never run"),
                });
            }
        },
        Err(failure) if failure.code == 1 => no_job = Some(failure),
        Err(failure) => return Err(failure),
    }
    loop {
        let run = match (
            client.get(&format!("/api/v1/runs/{}", encoded(&instance))),
            &no_job,
        ) {
            (Err(failure), Some(no_job)) if failure.code == 1 => return Err(neither(no_job)),
            (run, _) => run?,
        };
        if !follow || run["stage"] != "pinging" {
            return Ok(run);
        }
        let _ = pause.recv_timeout(Duration::from_millis(limits::CLI_LOOK_MS));
    }
}

/// Bytes as they are; what goes to a terminal is filtered.
fn copy(mut from: impl Read) -> Result<(), Failure> {
    let mut piece = [0; 16 << 10];
    let mut filter = std::io::stdout().is_terminal().then(Filter::default);
    loop {
        let count = from.read(&mut piece).map_err(|error| broken_off(&error))?;
        let goes_on = match &mut filter {
            None => put(&piece[..count])?,
            Some(filter) if count == 0 => put(&filter.end())?,
            Some(filter) => put(&filter.pass(&piece[..count]))?,
        };
        if count == 0 || !goes_on {
            return Ok(());
        }
    }
}

/// To stdout. False: the reader went away (`| head`), which is no error.
fn put(bytes: &[u8]) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure {
            code: 1,
            message: format!("cannot write: {error}"),
        }),
    }
}

/// What was printed is not all: a script must not take it for that.
fn broken_off(error: &std::io::Error) -> Failure {
    unreachable(format!("the output broke off: {error}; ask again"))
}

fn follow_all(
    client: &Arc<Client>,
    machines: &[String],
    path: impl Fn(&str) -> String,
) -> Result<(), Failure> {
    if machines.len() > limits::CLI_FOLLOWED {
        return Err(Failure {
            code: 1,
            message: format!(
                "{} machines are too many to follow at once: name one",
                machines.len()
            ),
        });
    }
    let mut threads = Vec::new();
    for machine in machines {
        let stream = Following::begin(client, path(machine))?;
        let prefix = format!("{}: ", plain(machine));
        let thread = thread::spawn("follow", limits::STACK_BYTES, move || {
            prefix_lines(stream, &prefix)
        });
        threads.push(thread.map_err(|error| Failure {
            code: 1,
            message: format!("cannot start a thread: {error}"),
        })?);
    }
    let mut outcome = Ok(());
    for thread in threads {
        // one that panicked has said so
        outcome = outcome.and(thread.join().unwrap_or(Ok(())));
    }
    outcome
}

fn prefix_lines(stream: impl Read, prefix: &str) -> Result<(), Failure> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        line.clear();
        // a line without an end is cut: it must not grow for ever
        let read = reader
            .by_ref()
            .take(limits::CLI_LINE_BYTES)
            .read_until(b'\n', &mut line);
        if line.is_empty() {
            return read.map(|_| ()).map_err(|error| broken_off(&error));
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        if is_terminal {
            // colors do not reach into another machine's line
            let mut filter = Filter::default();
            let end = line.pop();
            line = [filter.pass(&line), filter.end(), end.into_iter().collect()].concat();
        }
        if !put(&[prefix.as_bytes(), &line].concat())? {
            return Ok(());
        }
    }
}
