//! What `/api/v1` shows: from the board, and from history what the board no longer has.
//! Must not know: how JSON is written, what changes something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Answered, Call};
use super::error::{Denied, bad, missing, unreadable};
use super::http::{Body, Response};
use super::views::{self, Version, concerns};
use crate::clock;
use crate::config::{Problem, Role};
use crate::engine::board::{JobBoard, MachineBoard, RunBoard};
use crate::engine::id::RunId;
use crate::engine::notice::NoticeStage;
use crate::limits;
use crate::storage::{AuditFilter, EventKinds, NoticeFilter, PageOf, RunBrief, RunFilter, RunOutcome};

/// The description of this API.
pub const OPENAPI: &str = include_str!("openapi.json");

/// Entries of a list unless asked for otherwise.
const PAGE: u64 = 100;
/// Next runs shown of one job.
const NEXT_RUNS: usize = 5;
/// Machines named of those that failed in a recent run.
const FAILED_SHOWN: usize = 10;
/// Events without a start begin so long before their end.
const EVENTS_MS: i64 = 3_600_000;

/// `GET /api/v1/jobs`.
pub fn jobs(call: &Call) -> Answered {
    let group = call.query.get("group");
    let recent = call
        .query
        .number("recent", 0..=20)?
        .unwrap_or(limits::RECENT_RUNS);
    let mut shown = Vec::new();
    for (name, job) in &call.board.jobs {
        let configured = call.board.config.jobs.get(&**name);
        if group.is_none_or(|group| configured.is_some_and(|job| job.group == group)) {
            shown.push(job_view(call, name, job, recent as usize, 1)?);
        }
    }
    // bad from the first, never in force: it is only known as a problem
    Ok(Response::json(
        200,
        &json!({"jobs": shown, "serial": call.board.config.serial}),
    ))
}

/// `GET /api/v1/jobs/{job}`.
pub fn job(call: &Call) -> Answered {
    let name = call.parts[0].as_str();
    let Some(job) = call.board.jobs.get(name) else {
        return Err(missing(views::no_such_job(&call.board, name)));
    };
    let recent = call.query.number("recent", 0..=100)?.unwrap_or(20);
    let mut shown = job_view(call, name, job, recent as usize, NEXT_RUNS)?;
    if call.query.flag("machines")? {
        for run in shown["recent"].as_array_mut().into_iter().flatten() {
            let instance = run["instance"].as_str().unwrap_or_default();
            let tally = call.shared.reader.lock().tally(instance, FAILED_SHOWN);
            run["machines"] = views::tally(&tally.map_err(unreadable)?);
        }
    }
    Ok(Response::json(200, &shown))
}

/// `GET /api/v1/runs`.
pub fn runs(call: &Call) -> Answered {
    let now = clock::wall();
    let outcome = match call.query.get("outcome") {
        None => None,
        Some("running") => Some(RunOutcome::Unfinished),
        Some("succeeded") => Some(RunOutcome::Succeeded),
        Some("failed") => Some(RunOutcome::Failed),
        Some("killed") => Some(RunOutcome::Killed),
        Some("skipped") => Some(RunOutcome::Skipped),
        Some(_) => {
            let words = "'outcome' must be running, succeeded, failed, killed or skipped";
            return Err(bad(words));
        }
    };
    let filter = RunFilter {
        job: call.query.text("job"),
        group: call.query.text("group"),
        machine: call.query.text("machine"),
        outcome,
        from: call.query.moment("from", now)?,
        until: call.query.moment("until", now)?,
    };
    let limit = call
        .query
        .number("limit", 1..=limits::HISTORY_PAGE as u64)?
        .unwrap_or(PAGE) as usize;
    let before = call.query.number("before", 0..=i64::MAX as u64)?.map(RunId);
    let reader = call.shared.reader.lock();
    let found = reader.runs(&filter, PageOf { before, limit });
    drop(reader);
    let found = found.map_err(unreadable)?;
    let next = found.last().filter(|_| found.len() == limit).map(|run| run.id.0);
    let shown: Vec<Value> = found
        .iter()
        .map(|run| views::run_summary(run, &call.board, call.caller.role))
        .collect();
    Ok(Response::json(200, &json!({"runs": shown, "next": next})))
}

/// `GET /api/v1/runs/{instance}`.
pub fn run(call: &Call) -> Answered {
    let run = call.run(&call.parts[0])?;
    Ok(Response::json(
        200,
        &views::run(&run, &call.board, call.caller.role),
    ))
}

/// `GET /api/v1/machines`.
pub fn machines(call: &Call) -> Answered {
    let board = &call.board;
    let mut found: BTreeMap<&str, Machine> = BTreeMap::new();
    let of_past = board.jobs.values().filter_map(|job| job.last.as_deref());
    let all = of_past.chain(board.running.values().map(|run| &**run));
    for run in all {
        for machine in &run.machines {
            let entry = found.entry(&machine.record.machine).or_default();
            if machine.record.ended.is_none() {
                entry.running.insert(&run.run.instance);
            } else if entry
                .last
                .is_none_or(|(_, last)| last.record.ended < machine.record.ended)
            {
                entry.last = Some((run, machine));
            }
        }
    }
    // on this host every machine is known from the start
    for name in board.config.settings.local_machines.iter().flatten() {
        found.entry(name).or_default();
    }
    for name in &board.maintenance.machines {
        found.entry(name).or_default();
    }
    let shown: Vec<Value> = found
        .iter()
        .map(|(name, machine)| {
            let last = machine.last.map(|(run, machine)| {
                json!({
                    "job": run.run.job, "instance": run.run.instance, "retcode": machine.record.retcode,
                    "ended": views::iso(machine.record.ended),
                })
            });
            json!({
                "machine": name, "running": machine.running, "last": last,
                "maintenance": board.maintenance.machines.contains(*name),
            })
        })
        .collect();
    Ok(Response::json(200, &json!({"machines": shown})))
}

/// What is known of a machine.
#[derive(Default)]
struct Machine<'a> {
    running: BTreeSet<&'a str>,
    last: Option<(&'a RunBoard, &'a Arc<MachineBoard>)>,
}

/// `GET /api/v1/maintenance`.
pub fn maintenance(call: &Call) -> Answered {
    Ok(Response::json(200, &views::maintenance(&call.board)))
}

/// `GET /api/v1/problems`.
pub fn problems(call: &Call) -> Answered {
    let board = &call.board;
    Ok(Response::json(
        200,
        &json!({"problems": board.config.problems, "troubles": board.troubles}),
    ))
}

/// `GET /api/v1/events`: what happened in a stretch of time, ascending.
pub fn events(call: &Call) -> Answered {
    let now = clock::wall();
    let until = call.query.moment("until", now)?.unwrap_or(now);
    let from = call
        .query
        .moment("from", now)?
        .unwrap_or(until.plus_ms(-EVENTS_MS));
    if from > until {
        return Err(bad("'from' must not be after 'until'"));
    }
    let limit = call
        .query
        .number("limit", 1..=limits::HISTORY_PAGE as u64)?
        .unwrap_or(PAGE) as usize;
    let kinds = match call.query.get("type") {
        None => EventKinds::All,
        Some("not_started") => EventKinds::NotStarted,
        Some(_) => return Err(bad("'type' must be not_started")),
    };
    let reader = call.shared.reader.lock();
    let found = reader.history_events(from, until, call.query.get("job"), kinds, limit);
    drop(reader);
    let shown: Vec<Value> = found.map_err(unreadable)?.iter().map(views::event).collect();
    let (from, until) = (from.iso(), until.iso());
    Ok(Response::json(
        200,
        &json!({"events": shown, "from": from, "until": until}),
    ))
}

/// `GET /api/v1/audit`: what people did, newest first.
pub fn audit(call: &Call) -> Answered {
    let now = clock::wall();
    let limit = call
        .query
        .number("limit", 1..=limits::HISTORY_PAGE as u64)?
        .unwrap_or(PAGE) as usize;
    let filter = AuditFilter {
        action: call.query.text("action"),
        object: call.query.text("object"),
        from: call.query.moment("from", now)?,
        until: call.query.moment("until", now)?,
        before: call.query.number("before", 0..=i64::MAX as u64)?,
        limit,
    };
    let found = call.shared.reader.lock().audit(&filter).map_err(unreadable)?;
    let next = found
        .last()
        .filter(|_| found.len() == limit)
        .map(|entry| entry.id);
    let shown: Vec<Value> = found.iter().map(views::audit).collect();
    Ok(Response::json(200, &json!({"audit": shown, "next": next})))
}

/// `GET /api/v1/notifications`: notices, newest first, and their destinations.
pub fn notifications(call: &Call) -> Answered {
    let limit = call
        .query
        .number("limit", 1..=limits::HISTORY_PAGE as u64)?
        .unwrap_or(PAGE) as usize;
    let stage = match call.query.get("stage") {
        None => None,
        Some(word) => {
            Some(NoticeStage::of_word(word).ok_or_else(|| bad("'stage' must be waiting, sent or failed"))?)
        }
    };
    let filter = NoticeFilter {
        destination: call.query.text("notifier"),
        job: call.query.text("job"),
        stage,
        before: call.query.number("before", 0..=i64::MAX as u64)?,
        limit,
    };
    let found = call.shared.reader.lock().notices(&filter).map_err(unreadable)?;
    let next = found
        .last()
        .filter(|_| found.len() == limit)
        .map(|notice| notice.id);
    let shown: Vec<Value> = found.iter().map(views::notice).collect();
    let notifiers: Vec<Value> = call
        .board
        .notifiers
        .iter()
        .map(|(name, notifier)| {
            json!({
                "name": name, "configured": call.board.config.settings.notifiers.contains_key(name),
                "waiting": notifier.waiting, "given_up": notifier.given_up, "error": notifier.error,
                "failing_since": views::iso(notifier.failing_since),
            })
        })
        .collect();
    Ok(Response::json(
        200,
        &json!({"notifications": shown, "next": next, "notifiers": notifiers}),
    ))
}

/// `GET /api/v1/whoami`.
pub fn whoami(call: &Call) -> Answered {
    Ok(Response::json(200, &call.you()))
}

/// `GET /api/v1/version`.
pub fn version(_call: &Call) -> Answered {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        last_build: option_env!("SALTPETER_BUILD").unwrap_or("unknown"),
    };
    Ok(Response::json(200, &version))
}

/// `GET /api/v1/openapi.json`.
pub fn openapi(_call: &Call) -> Answered {
    Ok(Response {
        status: 200,
        content_type: "application/json",
        headers: Vec::new(),
        body: Body::Bytes(OPENAPI.as_bytes().to_vec()),
    })
}

fn job_view(call: &Call, name: &str, job: &JobBoard, recent: usize, next: usize) -> Result<Value, Denied> {
    let board = &call.board;
    let configured = board.config.jobs.get(name);
    let recent: Vec<RunBrief> = match recent {
        0 => Vec::new(),
        limit => call
            .shared
            .reader
            .lock()
            .recent(name, limit)
            .map_err(unreadable)?,
    };
    let problems: Vec<&Problem> = board
        .config
        .problems
        .iter()
        .filter(|problem| concerns(problem, name))
        .collect();
    let running: Vec<&str> = board
        .running
        .values()
        .filter(|run| run.run.job == name)
        .map(|run| run.run.instance.as_str())
        .collect();
    let record = &job.record;
    let counts = views::last_counts(job);
    let (last_outcome, last_killed_by) = views::last_outcome(job);
    let role: Role = call.caller.role;
    Ok(json!({
        "name": name,
        "group": configured.map(|job| job.group.as_str()),
        "description": configured.map(|job| job.description.as_str()),
        "enabled": configured.is_some_and(|job| job.enabled),
        "state": views::job_state(job, configured.map(|job| &**job), !running.is_empty()),
        "config": configured.map(|job| views::job_config(job, role)),
        "parameters": configured.map(|job| job.spec.parameters.keys().collect::<Vec<_>>()),
        "next_runs": views::next_runs(job, configured.map(|job| &**job), next),
        "running": running,
        "paused": job.paused.as_deref().map(views::pause),
        "last_run": views::iso(record.last_run),
        "last_instance": record.last_instance,
        "last_success": views::iso(record.last_success),
        "last_outcome": last_outcome,
        "last_killed_by": last_killed_by,
        "last_failed_count": counts.failed,
        "last_total_count": counts.total,
        "result_ok": record.result_ok,
        "missed": record.missed,
        "overlap": record.overlap,
        "recent": recent.iter().map(|run| views::brief(run, board)).collect::<Vec<_>>(),
        "problems": problems,
    }))
}
