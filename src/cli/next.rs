//! `saltpeter next`: when jobs are due.
//! Must not know: how due times are found.

use std::process::ExitCode;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};

use super::Arguments;
use crate::clock;
use crate::config::{self, Config, Job, Loader, Severity};
use crate::time_text::{MOMENTS, moment};

pub const HELP: &str = "\
usage: saltpeter next [-c DIR] [JOB] [-n COUNT] [--after TIME] [--json]

Prints when jobs are due, in UTC. A job that is disabled, or whose schedule has run out, has no times.

  -n, --count COUNT   so many times a job (default: 5)
  --after TIME        strictly after this (default: now): 2026-11-21T10:00:00Z, with any offset;
                      2026-11-21, 2026-11-21T10:00:00 (UTC); now-2h (s, m, h, d, w); yesterday;
                      or seconds since 1970
  --json              [{\"job\": NAME, \"next\": [\"2026-11-22T02:30:00Z\", ...]}]

exit codes: 0 success, 1 no such job, or it is not valid, 2 a command line that cannot be understood
";

const DEFAULT_COUNT: usize = 5;

/// Prints the due times of one job or of all.
pub fn run(arguments: &Arguments) -> ExitCode {
    let after = match arguments.after.as_deref().map(|text| moment(text, clock::wall())) {
        None => clock::wall().utc(),
        Some(Some(after)) => after.utc(),
        Some(None) => {
            let text = arguments.after.as_deref().unwrap_or_default();
            eprintln!("saltpeter: invalid time '{text}' after --after: expected {MOMENTS}");
            return ExitCode::from(super::USAGE);
        }
    };
    let loaded = Loader::new(arguments.config_dir()).load();
    let jobs = match loaded.and_then(|config| wanted(&config, arguments.words.first().map(String::as_str))) {
        Ok(jobs) => jobs,
        Err(error) => {
            eprintln!("saltpeter: {error}");
            return ExitCode::FAILURE;
        }
    };
    let count = arguments.count.unwrap_or(DEFAULT_COUNT);
    let times = |job: &Job| due_times(job, after, count);
    if arguments.json {
        let list: Vec<_> = jobs
            .iter()
            .map(|job| serde_json::json!({"job": job.name, "next": times(job)}))
            .collect();
        super::print(&format!("{:#}\n", serde_json::Value::Array(list)));
    } else {
        for job in jobs {
            super::print(&as_text(&job, &times(&job)));
        }
    }
    ExitCode::SUCCESS
}

/// The job asked for, or all; tells on stderr if some are missing because they are not valid.
fn wanted(config: &Config, name: Option<&str>) -> Result<Vec<Arc<Job>>, String> {
    let errors: Vec<_> = config
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect();
    let Some(name) = name else {
        if !errors.is_empty() {
            eprintln!(
                "saltpeter: the configuration has {} errors; see saltpeter check",
                errors.len()
            );
        }
        return Ok(config.jobs.values().cloned().collect());
    };
    if let Some(job) = config.jobs.get(name) {
        return Ok(vec![job.clone()]);
    }
    let of_job =
        |field: &str| field == name || field.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    if let Some(problem) = errors.iter().find(|problem| of_job(&problem.field)) {
        return Err(problem.to_string());
    }
    Err(
        match config::likeliest(name, config.jobs.keys().map(String::as_str)) {
            Some(likely) => format!("there is no job '{name}', did you mean '{likely}'?"),
            None => format!("there is no job '{name}'; saltpeter next without a name lists all"),
        },
    )
}

fn due_times(job: &Job, after: DateTime<Utc>, count: usize) -> Vec<String> {
    if !job.enabled {
        return Vec::new();
    }
    let mut times = Vec::new();
    let mut last = after;
    while times.len() < count
        && let Some(time) = job.schedule.next_after(last)
    {
        times.push(time.to_rfc3339_opts(SecondsFormat::Secs, true));
        last = time;
    }
    times
}

fn as_text(job: &Job, times: &[String]) -> String {
    let note = match (job.enabled, times) {
        (false, _) => " (disabled)",
        (true, []) => " (no next run)",
        (true, _) => "",
    };
    let mut text = format!("{}{note}\n", job.name.escape_debug());
    for time in times {
        text.push_str(&format!("  {time}\n"));
    }
    text
}
