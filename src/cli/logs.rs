//! `saltpeter logs`: what machines put out, from storage or as it comes.
//! Must not know: how it is kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use crossbeam_channel::bounded;
use serde_json::Value;

use super::Arguments;
use super::client::{Client, Failure, encoded};
use super::table::plain;
use crate::{limits, thread};

pub const HELP: &str = "\
usage: saltpeter logs [-f] JOB|RUN [MACHINE]

Prints the output of a run, or of a job's last run: of one machine as it is, of several one after the other.

  -f, --follow   stay until it ends; of several machines each line begins with its machine

exit codes: 0 success, 1 no such job, run or machine, 2 a command line that cannot be understood,
            69 the daemon cannot be reached, 77 not allowed
";

/// Prints output.
pub fn run(arguments: &Arguments) -> ExitCode {
    super::told(print_logs(arguments))
}

fn print_logs(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let client = Client::new(arguments)?;
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
        [machine] => copy(client.stream(&path(machine))?),
        machines if !arguments.follow => {
            for machine in machines {
                let code = all.iter().find(|entry| entry["machine"] == machine.as_str());
                let code = code.map_or(Value::Null, |entry| entry["retcode"].clone());
                super::print(&format!("== {} ({code})\n", plain(machine)));
                copy(client.stream(&path(machine))?);
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
        Err(failure) if failure.code == 1 => {}
        Err(failure) => return Err(failure),
    }
    loop {
        let run = client.get(&format!("/api/v1/runs/{}", encoded(&instance)))?;
        if !follow || run["stage"] != "pinging" {
            return Ok(run);
        }
        let _ = pause.recv_timeout(Duration::from_millis(limits::CLI_LOOK_MS));
    }
}

/// Bytes as they are. A reader that went away (`| head`) is no error.
fn copy(mut from: Box<dyn Read + Send>) {
    let mut stdout = std::io::stdout().lock();
    let mut piece = [0; 16 << 10];
    while let Ok(count) = from.read(&mut piece)
        && count > 0
    {
        if stdout
            .write_all(&piece[..count])
            .and_then(|()| stdout.flush())
            .is_err()
        {
            return;
        }
    }
}

fn follow_all(client: &Client, machines: &[String], path: impl Fn(&str) -> String) -> Result<(), Failure> {
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
        let stream = client.stream(&path(machine))?;
        let prefix = format!("{}: ", plain(machine));
        let thread = thread::spawn("follow", limits::STACK_BYTES, move || {
            prefix_lines(stream, &prefix)
        });
        threads.push(thread.map_err(|error| Failure {
            code: 1,
            message: format!("cannot start a thread: {error}"),
        })?);
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn prefix_lines(stream: Box<dyn Read + Send>, prefix: &str) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        // a line without an end is cut: it must not grow for ever
        let read = reader
            .by_ref()
            .take(limits::CLI_LINE_BYTES)
            .read_until(b'\n', &mut line);
        if !matches!(read, Ok(count) if count > 0) {
            return;
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let mut stdout = std::io::stdout().lock();
        let whole = [prefix.as_bytes(), &line].concat();
        if stdout.write_all(&whole).and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}
