//! `saltpeter status`, `saltpeter runs`: what there is to see.
//! Must not know: how it is found out.

use std::process::ExitCode;

use serde_json::Value;

use super::Arguments;
use super::client::{Client, Failure, encoded};
use super::table::{Table, cell, failed, lasted, outcome, time};

pub const HELP: &str = "\
usage: saltpeter status [JOB] [--json | --names]
       saltpeter status --check

Shows all jobs, or one with its recent runs and the machines of its last run.

  --json    the daemon's answer as it is
  --names   the jobs' names alone, a line each
  --check   one line and an exit code for monitors such as Nagios: 0 all is well, 1 a job's last run failed,
            due times were missed or the configuration has errors, 2 the daemon does not answer or is in trouble

exit codes: 0 success, 1 no such job, 2 a command line that cannot be understood,
            69 the daemon cannot be reached, 77 not allowed
";

pub const RUNS_HELP: &str = "\
usage: saltpeter runs [JOB] [--machine MACHINE] [--outcome running|succeeded|failed|killed|skipped]
                      [--from TIME] [--until TIME] [--count COUNT] [--json]

Shows runs, newest first.

  -m, --machine MACHINE   only those on this machine
  -n, --count COUNT       so many at most (20)
  --from, --until TIME    only those that started in between

TIME: 2026-11-21T10:00:00Z, 2026-11-21, now-1h, yesterday.

exit codes: 0 success, 1 refused, 2 a command line that cannot be understood,
            69 the daemon cannot be reached, 77 not allowed
";

/// Shows jobs.
pub fn run(arguments: &Arguments) -> ExitCode {
    if arguments.check {
        return check(arguments);
    }
    super::told(status(arguments))
}

/// One line as monitors read it, whatever is wrong.
fn check(arguments: &Arguments) -> ExitCode {
    let found = Client::new(arguments).and_then(|client| judge(&client));
    let (code, line) = found.unwrap_or_else(|failure| (2, failure.message));
    let word = ["OK", "WARNING", "CRITICAL"][usize::from(code)];
    super::print(&format!("{word}: {}\n", super::table::plain(&line)));
    ExitCode::from(code)
}

fn judge(client: &Client) -> Result<(u8, String), Failure> {
    let overview = client.get("/api/v1/overview")?;
    let troubles: Vec<String> = list(&overview["troubles"]).map(cell).collect();
    let errors = list(&overview["problems"])
        .filter(|problem| problem["severity"] == "error")
        .count();
    let names = |is_it: &dyn Fn(&Value) -> bool| -> Vec<String> {
        let jobs = list(&overview["jobs"]).filter(|job| is_it(job));
        jobs.map(|job| cell(&job["name"])).collect()
    };
    // a user who kills a run knows of it, and notifications do not tell it either
    let failed = names(&|job| job["last_ok"] == false && job["last_outcome"] != "killed");
    let missed = names(&|job| job["missed"].as_u64().unwrap_or(0) > 0);
    let mut warnings = Vec::new();
    for (what, names) in [("failed", &failed), ("missed due times", &missed)] {
        if !names.is_empty() {
            let shown = names
                .iter()
                .take(CHECK_NAMES)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            let more = if names.len() > CHECK_NAMES { ", ..." } else { "" };
            let noun = if names.len() == 1 { "job" } else { "jobs" };
            warnings.push(format!("{} {noun} {what} ({shown}{more})", names.len()));
        }
    }
    if errors > 0 {
        let noun = if errors == 1 { "error" } else { "errors" };
        warnings.push(format!("the configuration has {errors} {noun}"));
    }
    let (jobs, running) = (
        list(&overview["jobs"]).count(),
        list(&overview["running"]).count(),
    );
    let figures = format!(
        "|jobs={jobs} running={running} failed={} missed={} errors={errors}",
        failed.len(),
        missed.len()
    );
    let text = format!("{jobs} jobs, {running} running");
    Ok(if !troubles.is_empty() {
        (2, format!("{}{figures}", troubles.join("; ").replace('|', "/")))
    } else if !warnings.is_empty() {
        (1, format!("{}{figures}", warnings.join("; ").replace('|', "/")))
    } else {
        (0, format!("{text}{figures}"))
    })
}

/// Jobs that the line names.
const CHECK_NAMES: usize = 5;

/// Shows runs.
pub fn runs(arguments: &Arguments) -> ExitCode {
    super::told(list_runs(arguments))
}

fn status(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let client = Client::new(arguments)?;
    let Some(name) = arguments.words.first() else {
        let answer = client.get(if arguments.json {
            "/api/v1/jobs"
        } else {
            "/api/v1/jobs?recent=0"
        })?;
        super::print(&match (arguments.json, arguments.names) {
            (true, _) => format!("{answer:#}\n"),
            (false, true) => names(&answer),
            (false, false) => jobs_table(&answer),
        });
        if !arguments.json && !arguments.names {
            warn(&client)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let job = client.get(&format!("/api/v1/jobs/{}", encoded(name)))?;
    let run = match job["last_instance"].as_str() {
        Some(instance) => client.get(&format!("/api/v1/runs/{}", encoded(instance))).ok(),
        None => None,
    };
    super::print(&if arguments.json {
        format!("{:#}\n", serde_json::json!({"job": job, "last": run}))
    } else {
        job_text(&job, run.as_ref())
    });
    Ok(ExitCode::SUCCESS)
}

/// What somebody who looks should know besides.
fn warn(client: &Client) -> Result<(), Failure> {
    let found = client.get("/api/v1/problems")?;
    for trouble in list(&found["troubles"]) {
        eprintln!("trouble: {}", super::table::plain(&cell(trouble)));
    }
    let errors = list(&found["problems"])
        .filter(|problem| problem["severity"] == "error")
        .count();
    if errors > 0 {
        eprintln!("the configuration has {errors} errors: saltpeter check");
    }
    let maintenance = client.get("/api/v1/maintenance")?;
    if maintenance["global"] == true {
        eprintln!("global maintenance: no run starts");
    }
    Ok(())
}

fn names(answer: &Value) -> String {
    list(&answer["jobs"])
        .map(|job| format!("{}\n", super::table::plain(&cell(&job["name"]))))
        .collect()
}

fn jobs_table(answer: &Value) -> String {
    let mut table = Table::new(&["JOB", "GROUP", "STATE", "LAST RUN", "FAILED", "NEXT RUN"]);
    for job in list(&answer["jobs"]) {
        table.line([
            cell(&job["name"]),
            cell(&job["group"]),
            state(job),
            time(&job["last_run"]),
            format!("{}/{}", job["last_failed_count"], job["last_total_count"]),
            time(&job["next_runs"][0]),
        ]);
    }
    table.text()
}

fn job_text(job: &Value, run: Option<&Value>) -> String {
    let mut facts = Table::new(&["JOB", &super::table::plain(&cell(&job["name"]))]);
    for (label, value) in [
        ("group", cell(&job["group"])),
        ("description", cell(&job["description"])),
        ("state", state(job)),
        ("next run", time(&job["next_runs"][0])),
        ("last run", time(&job["last_run"])),
        ("last success", time(&job["last_success"])),
        ("missed", cell(&job["missed"])),
    ] {
        facts.line([label.to_string(), value]);
    }
    if !job["paused"].is_null() {
        let until = match &job["paused"]["until"] {
            Value::Null => "resumed".to_string(),
            until => time(until),
        };
        let text = format!(
            "until {until} by {}: {}",
            cell(&job["paused"]["by"]),
            cell(&job["paused"]["reason"])
        );
        facts.line(["paused".to_string(), text]);
    }
    let mut text = facts.text();
    for problem in list(&job["problems"]) {
        let line = format!(
            "{}: {}: {}\n",
            cell(&problem["file"]),
            cell(&problem["field"]),
            cell(&problem["reason"])
        );
        text.push_str(&super::table::plain(&line.replace('\n', " ")));
        text.push('\n');
    }
    if let Some(run) = run {
        text.push('\n');
        text.push_str(&machines_table(run));
    }
    let mut recent = Table::new(&["RECENT RUN", "STARTED", "ENDED", "TOOK", "OUTCOME", "FAILED"]);
    for run in list(&job["recent"]) {
        recent.line([
            cell(&run["instance"]),
            time(&run["started"]),
            time(&run["ended"]),
            lasted(&run["duration_ms"]),
            outcome(run),
            failed(run),
        ]);
    }
    text.push('\n');
    text + &recent.text()
}

/// A job's state; of one whose last run was killed, that and by whom.
fn state(job: &Value) -> String {
    match (&job["state"], &job["last_outcome"]) {
        (state, last) if state == "failed" && last == "killed" => {
            outcome(&serde_json::json!({"outcome": last, "killed_by": job["last_killed_by"]}))
        }
        (state, _) => cell(state),
    }
}

/// The machines of a run.
pub fn machines_table(run: &Value) -> String {
    let mut table = Table::new(&[
        "MACHINE", "STAGE", "CODE", "OUTCOME", "STARTED", "ENDED", "TOOK", "OUTPUT",
    ]);
    for machine in list(&run["machines"]) {
        table.line([
            cell(&machine["machine"]),
            cell(&machine["stage"]),
            cell(&machine["retcode"]),
            outcome(machine),
            time(&machine["started"]),
            time(&machine["ended"]),
            lasted(&machine["duration_ms"]),
            cell(&machine["output_bytes"]),
        ]);
    }
    table.text()
}

fn list_runs(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut path = format!(
        "/api/v1/runs?limit={}",
        arguments.count.unwrap_or(20).clamp(1, 1_000)
    );
    for (name, value) in [
        ("job", arguments.words.first()),
        ("machine", arguments.machines.first()),
        ("outcome", arguments.outcome.as_ref()),
        ("from", arguments.from.as_ref()),
        ("until", arguments.until.as_ref()),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    let answer = Client::new(arguments)?.get(&path)?;
    if arguments.json {
        super::print(&format!("{answer:#}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&[
        "RUN", "STARTED", "ENDED", "TOOK", "OUTCOME", "FAILED", "ASKED BY", "NOTE",
    ]);
    for run in list(&answer["runs"]) {
        table.line([
            cell(&run["instance"]),
            time(&run["started"]),
            time(&run["ended"]),
            lasted(&run["duration_ms"]),
            outcome(run),
            failed(run),
            cell(&run["asked_by"]),
            cell(&run["note"]),
        ]);
    }
    super::print(&table.text());
    Ok(ExitCode::SUCCESS)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
