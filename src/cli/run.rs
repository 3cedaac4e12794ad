//! `saltpeter run`, `retry`, `kill`: what changes runs.
//! Must not know: how the daemon does it.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use crossbeam_channel::bounded;
use serde_json::{Map, Value, json};

use super::Arguments;
use super::client::{Client, Failure, UNREACHABLE, encoded, neither};
use super::table::plain;
use crate::{clock, limits};

pub const RUN_HELP: &str = "\
usage: saltpeter run JOB [-m MACHINE]... [-p NAME=VALUE]... [--wait] [--json]

Starts a run now and prints its name.

  -m, --machine MACHINE    only on this one of the machines that the job matches; may be given again
  -p, --param NAME=VALUE   a value for a parameter that the job declares; the command finds it as SP_PARAM_NAME
  --wait                   stay until the run has ended

exit codes: 0 started (with --wait: it succeeded), 1 refused (with --wait: it failed; the machines' own code if all
            that failed have the same), 2 a command line that cannot be understood, 69 the daemon cannot be reached,
            77 not allowed
";

pub const RETRY_HELP: &str = "\
usage: saltpeter retry RUN [--wait] [--json]

Runs the job again on the machines that failed in that run, with the same parameters.

exit codes: as of saltpeter run
";

pub const KILL_HELP: &str = "\
usage: saltpeter kill JOB|RUN [MACHINE] [--json]

Kills all running runs of the job, or one run; on all machines or on one.

exit codes: 0 the kill is on its way, 1 nothing to kill, 2 a command line that cannot be understood,
            69 the daemon cannot be reached, 77 not allowed
";

/// Starts a run.
pub fn run(arguments: &Arguments) -> ExitCode {
    super::told(start(arguments))
}

/// Starts one on the machines that failed.
pub fn retry(arguments: &Arguments) -> ExitCode {
    super::told(start_again(arguments))
}

/// Kills.
pub fn kill(arguments: &Arguments) -> ExitCode {
    super::told(end(arguments))
}

fn start(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let client = Client::new(arguments)?;
    let mut body = Map::new();
    if !arguments.machines.is_empty() {
        body.insert("targets".into(), json!(arguments.machines));
    }
    if !arguments.parameters.is_empty() {
        let values: Map<String, Value> = arguments
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        body.insert("parameters".into(), values.into());
    }
    let path = format!("/api/v1/jobs/{}/run", encoded(&arguments.words[0]));
    let answer = client.json("POST", &path, Some(body.into()))?;
    started(&client, arguments, &answer)
}

fn start_again(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let client = Client::new(arguments)?;
    let path = format!("/api/v1/runs/{}/retry", encoded(&arguments.words[0]));
    let answer = client.json("POST", &path, Some(json!({})))?;
    started(&client, arguments, &answer)
}

fn started(client: &Client, arguments: &Arguments, answer: &Value) -> Result<ExitCode, Failure> {
    let instance = answer["instance"].as_str().unwrap_or_default();
    if !arguments.wait {
        super::print(&if arguments.json {
            format!("{answer:#}\n")
        } else {
            format!("{}\n", plain(instance))
        });
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.json {
        super::print(&format!("{}\n", plain(instance)));
    }
    let run = wait(client, instance)?;
    super::print(&if arguments.json {
        format!("{run:#}\n")
    } else {
        super::status::machines_table(&run)
    });
    if let Some(note) = run["note"].as_str() {
        eprintln!("saltpeter: {}", plain(note));
    }
    Ok(ExitCode::from(outcome(&run)))
}

/// Looks until the run has ended; on a terminal a line says how far it is.
fn wait(client: &Client, instance: &str) -> Result<Value, Failure> {
    let path = format!("/api/v1/runs/{}", encoded(instance));
    let shows = std::io::stderr().is_terminal();
    let (_never, pause) = bounded::<()>(0);
    let mut answered = clock::mono();
    loop {
        let asked = client.get(&path);
        let now = clock::mono();
        // the run goes on while the daemon is restarted
        let is_away =
            |failure: &Failure| failure.code == UNREACHABLE && now.since_ms(answered) < limits::CLI_AWAY_MS;
        let line = match &asked {
            Ok(run) if !run["ended"].is_null() => None,
            Ok(run) => Some(progress(run)),
            Err(failure) if is_away(failure) => Some("the daemon is away".to_string()),
            Err(_) => None,
        };
        if shows {
            // writing to a terminal that is gone is no reason to stop waiting
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{}", line.as_deref().unwrap_or_default());
            let _ = stderr.flush();
        }
        if line.is_none() {
            return asked;
        }
        if asked.is_ok() {
            answered = now;
        }
        let _ = pause.recv_timeout(Duration::from_millis(limits::CLI_LOOK_MS));
    }
}

fn progress(run: &Value) -> String {
    let machines = run["machines"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ended = machines
        .iter()
        .filter(|machine| !machine["ended"].is_null())
        .count();
    let failed = machines
        .iter()
        .filter(|machine| machine["retcode"].as_i64().is_some_and(|code| code != 0))
        .count();
    match machines.len() {
        0 => "looking for machines".to_string(),
        all => format!("{ended} of {all} machines have ended, {failed} failed"),
    }
}

/// The exit code that tells a run's outcome.
fn outcome(run: &Value) -> u8 {
    if run["outcome"] == "succeeded" {
        return 0;
    }
    let machines = run["machines"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut codes = machines
        .iter()
        .filter(|machine| machine["counted"] == true)
        .filter_map(|machine| machine["retcode"].as_i64())
        .filter(|code| *code != 0);
    let first = codes.next();
    match first.filter(|first| codes.all(|code| code == *first)) {
        Some(code) => u8::try_from(code).unwrap_or(1),
        None => 1,
    }
}

fn end(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let client = Client::new(arguments)?;
    let name = &arguments.words[0];
    let machine = arguments.words.get(1);
    let is_job = match client.get(&format!("/api/v1/jobs/{}?recent=0", encoded(name))) {
        Ok(_) => true,
        Err(no_job) if no_job.code == 1 => match client.get(&format!("/api/v1/runs/{}", encoded(name))) {
            Err(failure) if failure.code == 1 => return Err(neither(&no_job)),
            run => run.map(|_| false)?,
        },
        Err(failure) => return Err(failure),
    };
    let (path, body) = match (is_job, machine) {
        (true, machine) => (
            format!("/api/v1/jobs/{}/kill", encoded(name)),
            json!({"machine": machine}),
        ),
        (false, None) => (format!("/api/v1/runs/{}/kill", encoded(name)), json!({})),
        (false, Some(machine)) => (
            format!(
                "/api/v1/runs/{}/machines/{}/kill",
                encoded(name),
                encoded(machine)
            ),
            json!({}),
        ),
    };
    let answer = client.json("POST", &path, Some(body))?;
    super::print(&if arguments.json {
        format!("{answer:#}\n")
    } else {
        format!("{}\n", plain(answer["message"].as_str().unwrap_or_default()))
    });
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_runs_outcome() {
        let run = |outcome: &str, codes: &[i64]| {
            let machines: Vec<Value> = codes
                .iter()
                .map(|code| json!({"retcode": code, "counted": true}))
                .collect();
            json!({"outcome": outcome, "machines": machines})
        };
        assert_eq!(outcome(&run("succeeded", &[0, 0])), 0);
        assert_eq!(outcome(&run("failed", &[0, 3, 3])), 3);
        assert_eq!(outcome(&run("failed", &[2, 3])), 1);
        assert_eq!(outcome(&run("failed", &[])), 1);
        assert_eq!(outcome(&run("failed", &[-1])), 1);
        assert_eq!(outcome(&run("skipped", &[])), 1);
    }
}
