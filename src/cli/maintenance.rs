//! `saltpeter maintenance`, `pause`, `resume`, `seen`: what keeps runs from starting, or has kept them.
//! Must not know: how the daemon keeps it.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::Arguments;
use super::client::{Client, Failure, encoded};
use super::table::{Table, cell, plain, time};
use crate::time_text;

pub const HELP: &str = "\
usage: saltpeter maintenance [--json]
       saltpeter maintenance on|off --reason TEXT [--machine MACHINE] [--for 2h] [--json]
       saltpeter maintenance clear [--machine MACHINE] [--json]

Shows maintenance, or switches it on or off on top of what the files say: of a machine, or global (no run starts).
A switch holds an hour unless --for says otherwise (s, m, h, d, w; at most 7d); clear takes it back.

  -m, --machine MACHINE   of this machine; else global

exit codes: 0 success, 1 refused, 2 a command line that cannot be understood,
            69 the daemon cannot be reached, 77 not allowed
";

pub const PAUSE_HELP: &str = "\
usage: saltpeter pause JOB --reason TEXT [--until TIME] [--json]
       saltpeter resume JOB [--json]

A paused job's due times start nothing, until TIME (2026-11-21T10:00:00Z, now+2h) or until it is resumed.
It can still be started by hand.

exit codes: 0 success, 1 refused, 2 a command line that cannot be understood,
            69 the daemon cannot be reached, 77 not allowed
";

pub const SEEN_HELP: &str = "\
usage: saltpeter seen JOB [--json]

Marks the due times that the job missed as seen: status and the web UI no longer show their number. Without this they show
it for a day.

exit codes: 0 success, 1 refused, 2 a command line that cannot be understood, 69 the daemon cannot be reached,
            77 not allowed
";

/// Shows or switches maintenance.
pub fn run(arguments: &Arguments) -> ExitCode {
    super::told(maintenance(arguments))
}

/// Pauses a job.
pub fn pause(arguments: &Arguments) -> ExitCode {
    if arguments.reason.is_none() {
        return usage("pause", "--reason is missing").tell();
    }
    let body = json!({"reason": arguments.reason, "until": arguments.until});
    super::told(act(arguments, "POST", &job_path(arguments, "pause"), Some(body)))
}

/// Resumes a job.
pub fn resume(arguments: &Arguments) -> ExitCode {
    super::told(act(
        arguments,
        "POST",
        &job_path(arguments, "resume"),
        Some(json!({})),
    ))
}

/// Marks the due times that a job missed as seen.
pub fn seen(arguments: &Arguments) -> ExitCode {
    super::told(act(
        arguments,
        "POST",
        &job_path(arguments, "seen"),
        Some(json!({})),
    ))
}

fn usage(verb: &str, message: &str) -> Failure {
    Failure {
        code: super::USAGE,
        message: format!("{message}; see saltpeter {verb} --help"),
    }
}

fn job_path(arguments: &Arguments, verb: &str) -> String {
    format!("/api/v1/jobs/{}/{verb}", encoded(&arguments.words[0]))
}

fn maintenance(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let machine = arguments.machines.first();
    let usage = |message: &str| usage("maintenance", message);
    match arguments.words.first().map(String::as_str) {
        None => show(arguments),
        Some(word @ ("on" | "off")) => {
            if arguments.reason.is_none() {
                return Err(usage("--reason is missing"));
            }
            let seconds = match arguments.duration.as_deref().map(time_text::duration_s) {
                None => None,
                Some(Some(seconds)) => Some(seconds),
                Some(None) => return Err(usage("--for takes a number and s, m, h, d or w")),
            };
            let body = json!({
                "on": word == "on", "reason": arguments.reason, "seconds": seconds, "machine": machine,
            });
            act(arguments, "PUT", "/api/v1/maintenance", Some(body))
        }
        Some("clear") => {
            let query = machine.map(|machine| format!("?machine={}", encoded(machine)));
            let path = format!("/api/v1/maintenance{}", query.unwrap_or_default());
            act(arguments, "DELETE", &path, None)
        }
        Some(_) => Err(usage("it takes on, off or clear")),
    }
}

fn act(arguments: &Arguments, method: &str, path: &str, body: Option<Value>) -> Result<ExitCode, Failure> {
    let answer = Client::new(arguments)?.json(method, path, body)?;
    super::print(&if arguments.json {
        format!("{answer:#}\n")
    } else {
        format!("{}\n", plain(answer["message"].as_str().unwrap_or_default()))
    });
    Ok(ExitCode::SUCCESS)
}

fn show(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let answer = Client::new(arguments)?.get("/api/v1/maintenance")?;
    if arguments.json {
        super::print(&format!("{answer:#}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let global = if answer["global"] == true {
        "on: no run starts"
    } else {
        "off"
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut text = format!("global: {global}\n");
    for machine in list(&answer["machines"]) {
        text.push_str(&format!("left out: {}\n", plain(&cell(&machine))));
    }
    let switches = list(&answer["switches"]);
    if !switches.is_empty() {
        let mut table = Table::new(&["SWITCH", "STATE", "UNTIL", "BY", "REASON"]);
        for switch in switches {
            let what = switch["machine"].as_str().unwrap_or("global").to_string();
            let state = if switch["on"] == true { "on" } else { "off" };
            let until = time(&switch["until"]);
            table.line([
                what,
                state.into(),
                until,
                cell(&switch["by"]),
                cell(&switch["reason"]),
            ]);
        }
        text.push_str(&table.text());
    }
    super::print(&text);
    Ok(ExitCode::SUCCESS)
}
