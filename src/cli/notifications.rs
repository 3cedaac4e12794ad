//! `saltpeter notifications`: who was told of what, trying again, testing a destination.
//! Must not know: how anything is delivered.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::Arguments;
use super::client::{Client, Failure, encoded};
use super::table::{Table, cell, time};
use crate::{clock, limits};

pub const HELP: &str = "\
usage: saltpeter notifications [JOB] [--count COUNT] [--json]
       saltpeter notifications --retry ID
       saltpeter notifications --test NOTIFIER

Shows notifications, newest first: who was told of what, and what has not been delivered, with the reason.

  -n, --count COUNT   so many at most (20)
  --retry ID          try this one now; also if it was given up
  --test NOTIFIER     send a test to this notifier, and wait for the result
  --json              the daemon's answer as it is

exit codes: 0 success, 1 refused, or the test was not delivered, 2 a command line that cannot be understood,
            69 the daemon cannot be reached, 77 not allowed
";

/// Shows notifications, or acts on them.
pub fn run(arguments: &Arguments) -> ExitCode {
    super::told(notifications(arguments))
}

fn notifications(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let client = Client::new(arguments)?;
    if let Some(name) = &arguments.test {
        return test(&client, name);
    }
    if let Some(id) = &arguments.retry {
        client.json(
            "POST",
            &format!("/api/v1/notifications/{}/retry", encoded(id)),
            None,
        )?;
        super::print(&format!("notification {id} will be tried now\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut path = format!("/api/v1/notifications?limit={}", arguments.count.unwrap_or(20));
    if let Some(job) = arguments.words.first() {
        path.push_str(&format!("&job={}", encoded(job)));
    }
    let answer = client.get(&path)?;
    super::print(&if arguments.json {
        format!("{answer:#}\n")
    } else {
        table(&answer)
    });
    Ok(ExitCode::SUCCESS)
}

fn table(answer: &Value) -> String {
    let none = Vec::new();
    let mut table = Table::new(&["ID", "TIME", "NOTIFIER", "STATE", "TRIES", "NOTIFICATION"]);
    for notice in answer["notifications"].as_array().unwrap_or(&none) {
        let error = match notice["error"].as_str() {
            Some(error) => format!(" ({error})"),
            None => String::new(),
        };
        table.line([
            cell(&notice["id"]),
            time(&notice["at"]),
            cell(&notice["notifier"]),
            cell(&notice["stage"]),
            cell(&notice["tries"]),
            format!("{}{error}", notice["summary"].as_str().unwrap_or_default()),
        ]);
    }
    table.text()
}

/// A test is tried once: its result is known when it no longer waits.
fn test(client: &Client, name: &str) -> Result<ExitCode, Failure> {
    let answer = client.json("POST", &format!("/api/v1/notifiers/{}/test", encoded(name)), None)?;
    let id = answer["id"].as_u64().unwrap_or_default();
    let (never, pause) = crossbeam_channel::bounded::<()>(0);
    let until = clock::mono().plus_ms(limits::CLI_TEST_MS);
    loop {
        let found = client.get(&format!("/api/v1/notifications?limit=1&before={}", id + 1))?;
        let notice = &found["notifications"][0];
        match notice["stage"].as_str() {
            Some("sent") => {
                super::print(&format!("'{name}' took the test\n"));
                drop(never);
                return Ok(ExitCode::SUCCESS);
            }
            Some("failed") => {
                return Err(Failure {
                    code: 1,
                    message: format!(
                        "'{name}' did not take the test: {}",
                        notice["error"].as_str().unwrap_or_default()
                    ),
                });
            }
            _ if clock::mono() >= until => {
                return Err(Failure {
                    code: 1,
                    message: format!("'{name}' has not answered yet; see saltpeter notifications"),
                });
            }
            _ => drop(pause.recv_timeout(Duration::from_millis(limits::CLI_LOOK_MS))),
        }
    }
}
