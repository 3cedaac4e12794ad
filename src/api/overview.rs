//! `GET /api/v1/overview`: what the page polls. The first answer tells of everything, the next ones only of what has
//! changed since, so that many people can look at thousands of jobs.
//! Must not know: how the page shows it.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use serde_json::Value;

use super::call::{Answered, Call};
use super::http::Response;
use super::shared::Shared;
use super::{ui, views};
use crate::clock;
use crate::config::{Config, Problem};
use crate::engine::board::{Board, JobBoard, RunBoard};

#[derive(Serialize)]
struct Overview<'a> {
    /// For `since` of the next request.
    as_of: String,
    /// Everything is here; else only the jobs that have changed, and nothing of what a file says.
    whole: bool,
    now: String,
    version: &'static str,
    /// Changes when the page's own files do.
    page: &'a str,
    you: Value,
    jobs: Vec<JobLine<'a>>,
    running: Vec<RunLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<&'a [Problem]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    troubles: Option<&'a [String]>,
}

#[derive(Serialize)]
struct JobLine<'a> {
    name: &'a str,
    group: Option<&'a str>,
    description: Option<&'a str>,
    state: &'static str,
    /// How the last run that has ended did, also while the next one runs.
    last_ok: Option<bool>,
    last_run: Option<String>,
    last_ended: Option<String>,
    last_instance: Option<&'a str>,
    last_outcome: Option<&'static str>,
    last_killed_by: Option<&'a str>,
    last_failed_count: u64,
    last_total_count: u64,
    next_run: Option<String>,
    missed: u64,
    overlap: bool,
    problems: usize,
}

#[derive(Serialize)]
struct RunLine<'a> {
    instance: &'a str,
    job: &'a str,
    started: String,
    machines: usize,
    ended: usize,
    failed: usize,
    kill_asked: bool,
}

/// Names a board: versions start from 0 with each start of the daemon.
pub fn as_of(shared: &Shared, board: &Board) -> String {
    format!("{}-{}", shared.started.0, board.version)
}

/// `GET /api/v1/overview`.
pub fn overview(call: &Call) -> Answered {
    let board = &call.board;
    // versions start from 0 with each start of the daemon
    let of_start = call.shared.started.0;
    let seen = call.query.get("since").and_then(|text| {
        let (start, version) = text.split_once('-')?;
        let version: u64 = version.parse().ok()?;
        (start.parse() == Ok(of_start) && version <= board.version).then_some(version)
    });
    let seen = seen.filter(|seen| *seen >= board.whole_since);
    let running: HashSet<&str> = board.running.values().map(|run| run.run.job.as_str()).collect();
    let problems = problems_of(&board.config);
    let changed = board
        .jobs
        .iter()
        .filter(|(_, job)| seen.is_none_or(|seen| job.version > seen));
    let jobs = changed.map(|(name, job)| JobLine {
        problems: problems.get(&**name).copied().unwrap_or_default(),
        ..job_line(&board.config, name, job, running.contains(&**name))
    });
    Ok(Response::json(
        200,
        &Overview {
            as_of: as_of(call.shared, board),
            whole: seen.is_none(),
            now: clock::wall().iso(),
            version: env!("CARGO_PKG_VERSION"),
            page: ui::fingerprint(),
            you: call.you(),
            jobs: jobs.collect(),
            running: board.running.values().map(|run| run_line(run)).collect(),
            maintenance: seen.is_none().then(|| views::maintenance(board)),
            problems: seen.is_none().then_some(&board.config.problems),
            troubles: seen.is_none().then_some(&board.troubles),
        },
    ))
}

fn job_line<'a>(config: &'a Config, name: &'a str, job: &'a JobBoard, is_running: bool) -> JobLine<'a> {
    let configured = config.jobs.get(name).map(|job| &**job);
    let record = &job.record;
    let counts = views::last_counts(job);
    let (last_outcome, last_killed_by) = views::last_outcome(job);
    let next_run = match &job.paused {
        None => job.next_run.map(|next| next.iso()),
        Some(_) => views::next_runs(job, configured, 1).pop(),
    };
    JobLine {
        name,
        group: configured.map(|job| job.group.as_str()),
        description: configured.map(|job| job.description.as_str()),
        state: views::job_state(job, configured, is_running),
        last_ok: match is_running {
            false => record.result_ok,
            // `result_ok` is true while it runs
            true if record.last_ended.is_none() => None,
            true => Some(record.last_ended == record.last_success),
        },
        last_run: views::iso(record.last_run),
        last_ended: views::iso(record.last_ended),
        last_instance: record.last_instance.as_deref(),
        last_outcome,
        last_killed_by,
        last_failed_count: counts.failed,
        last_total_count: counts.total,
        next_run,
        missed: record.missed,
        overlap: record.overlap,
        problems: 0,
    }
}

fn run_line(run: &RunBoard) -> RunLine<'_> {
    let ended = || {
        run.machines
            .iter()
            .filter(|machine| machine.record.ended.is_some())
    };
    let has_failed = |record: &crate::engine::record::MachineRecord| {
        !record.not_counted && record.retcode.is_some_and(|retcode| retcode != 0)
    };
    RunLine {
        instance: &run.run.instance,
        job: &run.run.job,
        started: run.run.started.iso(),
        machines: run.machines.len(),
        ended: ended().count(),
        failed: ended().filter(|machine| has_failed(&machine.record)).count(),
        kill_asked: run.run.kill_asked.is_some(),
    }
}

/// How many problems each job has. A problem's field is a job, or something of it; a job's name may have dots.
fn problems_of(config: &Config) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for problem in &config.problems {
        let field = problem.field.as_str();
        let ends = field.match_indices('.').map(|(at, _)| at);
        for end in ends.chain([field.len()]) {
            *counts.entry(&field[..end]).or_default() += 1;
        }
    }
    counts
}
