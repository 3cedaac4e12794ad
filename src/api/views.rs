//! The JSON shapes of the API, written straight from a board: nothing is copied but what is asked for.
//! Must not know: sockets, routes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::clock::Wall;
use crate::config::{Job, Problem, Role, Severity, likeliest};
use crate::ending::GivenBy;
use crate::engine::board::{Board, JobBoard, MachineBoard, RunBoard};
use crate::engine::notice::NoticeRecord;
use crate::engine::record::{MachineCounts, MachineStage, PauseRecord, RunRecord, RunStage, SwitchRecord};
use crate::storage::{AuditEntry, HistoryEvent, HistoryEventKind, MachineTally, RunBrief};

/// In place of a value that the caller may not see.
const HIDDEN: &str = "***";
/// Longer names are not compared with those of all jobs.
const NAME_CHARS: usize = 100;

/// `GET /api/v1/version`.
#[derive(Serialize)]
pub struct Version {
    pub version: &'static str,
    pub last_build: &'static str,
}

/// Body of `POST /api/v1/jobs/{job}/run`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunBody {
    pub targets: Option<Vec<String>>,
    pub parameters: Option<BTreeMap<String, String>>,
}

/// Body of `POST /api/v1/jobs/{job}/kill`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillJobBody {
    pub machine: Option<String>,
    pub instance: Option<String>,
}

/// Body of `POST /api/v1/jobs/{job}/pause`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseBody {
    pub reason: String,
    pub until: Option<String>,
}

/// Body of `PUT /api/v1/maintenance`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchBody {
    pub on: bool,
    pub reason: String,
    /// Whole; JSON knows no other numbers than these.
    pub seconds: Option<f64>,
    pub machine: Option<String>,
}

/// A run was started.
#[derive(Serialize)]
pub struct Started {
    pub instance: String,
}

/// The request is carried out.
#[derive(Serialize)]
pub struct Told {
    pub message: String,
}

/// A notice is on its way.
#[derive(Serialize)]
pub struct Noticed {
    pub id: u64,
}

/// A notice, without anything secret.
pub fn notice(notice: &NoticeRecord) -> Value {
    let facts = &notice.facts;
    json!({
        "id": notice.id, "notifier": notice.to, "stage": notice.stage.word(), "kind": facts.kind.word(),
        "job": facts.job, "instance": facts.instance, "at": iso(Some(notice.at)), "not_before": iso(notice.not_before),
        "message": notice.message, "tries": notice.tries, "error": notice.error, "done": iso(notice.done),
        "summary": facts.summary(),
    })
}

/// The problem keeps something from being in force.
pub fn is_error(problem: &Problem) -> bool {
    problem.severity == Severity::Error
}

/// Every key of the job as its file has it.
pub fn job_config(job: &Job, role: Role) -> Map<String, Value> {
    let mut shown = job.raw.fields();
    if role < Role::Operate {
        for field in ["env", "parameters"] {
            match shown.get_mut(field) {
                Some(Value::Object(values)) => {
                    values.values_mut().for_each(|value| *value = HIDDEN.into());
                }
                Some(other) if !other.is_null() => *other = HIDDEN.into(),
                _ => {}
            }
        }
    }
    shown
}

/// An entry of `GET /api/v1/events`.
pub fn event(happened: &HistoryEvent) -> Value {
    let mut event = json!({"at": happened.at.iso(), "job": happened.job, "instance": happened.instance});
    let more = match &happened.kind {
        HistoryEventKind::MachineStarted { machine } => {
            json!({"type": "machine_started", "machine": machine})
        }
        HistoryEventKind::MachineEnded {
            machine,
            retcode,
            given_by,
        } => json!({
            "type": "machine_ended", "machine": machine, "retcode": retcode, "outcome": given_by.outcome(*retcode),
        }),
        HistoryEventKind::NotStarted { why, reason, count } => {
            json!({"type": why, "reason": reason, "count": count})
        }
    };
    if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
        event.extend(more);
    }
    event
}

/// An entry of `GET /api/v1/audit`.
pub fn audit(entry: &AuditEntry) -> Value {
    let record = &entry.record;
    json!({
        "id": entry.id, "at": record.at.iso(), "by": record.by, "action": record.action, "object": record.object,
        "detail": record.detail, "outcome": record.outcome,
    })
}

/// A run without its machines; `board` knows how they stand while it runs.
pub fn run_summary(run: &RunRecord, board: &Board, role: Role) -> Value {
    let counts = counts(run.counts, &run.instance, board);
    json!({
        "id": run.id.0,
        "instance": run.instance,
        "job": run.job,
        "group": run.spec.group,
        "due": iso(run.due),
        "asked_by": run.asked_by,
        "started": run.started.iso(),
        "ended": iso(run.ended),
        "duration_ms": run.duration_ms,
        "outcome": run_outcome(run.ended, run.success, run.is_killed()),
        "total_count": counts.total,
        "ended_count": counts.ended,
        "failed_count": counts.failed,
        "kill_asked": iso(run.kill_asked),
        "killed_by": run.killed_by,
        "note": run.note,
        "parameters": secrets(&run.spec.parameters, role),
        "only": run.spec.only,
    })
}

/// A run with its machines, and the job as it was.
pub fn run(run: &RunBoard, board: &Board, role: Role) -> Value {
    let mut shown = run_summary(&run.run, board, role);
    let spec = &run.run.spec;
    let machines: Vec<Value> = run.machines.iter().map(|machine| machine_run(machine)).collect();
    let stage = match run.run.stage {
        RunStage::Pinging => "pinging",
        RunStage::Running => "running",
        RunStage::Ended => "ended",
    };
    if let Value::Object(shown) = &mut shown {
        shown.insert("stage".into(), stage.into());
        shown.insert(
            "spec".into(),
            json!({
                "command": spec.command, "targets": spec.targets, "target_type": spec.target_type, "cwd": spec.cwd,
                "user": spec.user, "env": secrets(&spec.env, role), "timeout": spec.timeout_s,
                "number_of_targets": spec.number_of_targets, "batch_size": spec.batch_size,
                "output_limit": spec.output_limit_bytes,
            }),
        );
        shown.insert("machines".into(), machines.into());
    }
    shown
}

/// One machine of a run.
pub fn machine_run(machine: &MachineBoard) -> Value {
    let record = &machine.record;
    let stage = match record.stage {
        MachineStage::Waiting => "waiting",
        MachineStage::Dispatched => "dispatched",
        MachineStage::Launched => "launched",
        MachineStage::Permitted => "connected",
        MachineStage::Started => "running",
        MachineStage::Ended => "ended",
    };
    json!({
        "machine": record.machine,
        "stage": stage,
        "dispatched": iso(record.dispatched),
        "started": iso(record.started),
        "ended": iso(record.ended),
        "retcode": record.retcode,
        "outcome": record.outcome(),
        "given_by": record.given_by.map(GivenBy::word),
        "duration_ms": record.duration_ms,
        "presumed": record.presumed,
        "revised_from": record.revised_from,
        "kill_asked": iso(record.kill_asked),
        "killed_by": record.killed_by,
        "counted": !record.not_counted,
        "last_heartbeat": iso(record.last_heartbeat),
        "wrapper_version": record.wrapper_version,
        "pid": record.pid,
        "output_bytes": machine.output_bytes,
        "left_out_bytes": record.left_out_bytes,
    })
}

/// An entry of a job's recent runs.
pub fn brief(run: &RunBrief, board: &Board) -> Value {
    let counts = counts(run.counts, &run.instance, board);
    json!({
        "instance": run.instance, "started": run.started.iso(), "ended": iso(run.ended),
        "duration_ms": run.duration_ms, "killed_by": run.killed_by,
        "outcome": run_outcome(run.ended, run.success, run.is_killed),
        "total_count": counts.total, "ended_count": counts.ended, "failed_count": counts.failed,
    })
}

/// As stored with its end, or as they are.
fn counts(stored: Option<MachineCounts>, instance: &str, board: &Board) -> MachineCounts {
    stored.unwrap_or_else(|| {
        let found = board.run(instance);
        MachineCounts::of(
            found
                .iter()
                .flat_map(|run| &run.machines)
                .map(|machine| &machine.record),
        )
    })
}

/// How the machines of a job's last run stand: of the one that `last_run` and `last_instance` name, also while it runs.
pub fn last_counts(job: &JobBoard) -> MachineCounts {
    let record = &job.record;
    let last = job
        .last
        .as_ref()
        .filter(|last| Some(&last.run.instance) == record.last_instance.as_ref());
    let at_its_end = MachineCounts {
        total: record.last_total_count,
        ended: record.last_total_count,
        failed: record.last_failed_count,
        killed: 0,
    };
    last.map_or(at_its_end, |last| {
        let machines = last.machines.iter().map(|machine| &machine.record);
        last.run.counts.unwrap_or_else(|| MachineCounts::of(machines))
    })
}

/// How a run's machines have ended: how many by outcome, and the first that failed.
pub fn tally(tally: &MachineTally) -> Value {
    let outcomes = tally.outcomes.iter();
    let outcomes: BTreeMap<&str, u32> = outcomes
        .map(|(outcome, count)| (outcome.unwrap_or("unfinished"), *count))
        .collect();
    let failed: Vec<Value> = tally
        .failed
        .iter()
        .map(
            |(machine, retcode, outcome)| json!({"machine": machine, "retcode": retcode, "outcome": outcome}),
        )
        .collect();
    json!({"outcomes": outcomes, "failed": failed})
}

/// How a job's last run ended, in one word, and which users killed it; None: it has none that ended.
pub fn last_outcome(job: &JobBoard) -> (Option<&'static str>, Option<&str>) {
    let last = job
        .last
        .as_ref()
        .map(|last| &last.run)
        .filter(|run| Some(&run.instance) == job.record.last_instance.as_ref() && run.ended.is_some());
    let outcome = last.map(|run| run_outcome(run.ended, run.success, run.is_killed()));
    let killed_by = last.and_then(|run| run.killed_by.as_deref());
    (outcome, killed_by)
}

/// Why a job does not start by itself.
pub fn pause(pause: &PauseRecord) -> Value {
    json!({
        "since": pause.since.iso(), "until": iso(pause.until), "reason": pause.reason, "by": pause.by,
    })
}

/// A maintenance switch.
pub fn switch(switch: &SwitchRecord) -> Value {
    json!({
        "machine": switch.machine, "on": switch.is_on, "since": switch.since.iso(), "until": switch.until.iso(),
        "reason": switch.reason, "by": switch.by,
    })
}

/// How a job stands, in one word.
pub fn job_state(job: &JobBoard, configured: Option<&Job>, is_running: bool) -> &'static str {
    match configured {
        _ if is_running => "running",
        None => "gone",
        Some(configured) if !configured.enabled => "disabled",
        Some(_) if job.paused.is_some() => "paused",
        Some(_) => match job.record.result_ok {
            None => "new",
            Some(true) => "ok",
            Some(false) => "failed",
        },
    }
}

/// Why nothing can be done with a job of that name, and what may have been meant.
pub fn no_such_job(board: &Board, name: &str) -> String {
    if name.chars().count() > NAME_CHARS {
        return "there is no such job".into();
    }
    let config = &board.config;
    let mut problems = config.problems.iter();
    if problems.any(|problem| is_error(problem) && concerns(problem, name)) {
        return format!("there is no such job as '{name}': its file has errors; see saltpeter check");
    }
    match likeliest(name, config.jobs.keys().map(String::as_str)) {
        Some(other) => format!("there is no such job as '{name}'; did you mean '{other}'?"),
        None => format!("there is no such job as '{name}'"),
    }
}

/// When a job will start by itself.
pub fn next_runs(job: &JobBoard, configured: Option<&Job>, count: usize) -> Vec<String> {
    let Some(configured) = configured else {
        return Vec::new();
    };
    let mut at = match (&job.paused, job.next_run) {
        (_, None) => return Vec::new(),
        (None, Some(next)) => Some(next.utc()),
        (Some(paused), Some(next)) => match paused.until {
            // until a user resumes it
            None => return Vec::new(),
            Some(until) if until > next => configured.schedule.next_after(until.plus_ms(-1_000).utc()),
            Some(_) => Some(next.utc()),
        },
    };
    let mut times = Vec::new();
    while let Some(time) = at.filter(|_| times.len() < count) {
        times.push(Wall::from_utc(time).iso());
        at = configured.schedule.next_after(time);
    }
    times
}

/// What is in force, and why.
pub fn maintenance(board: &Board) -> Value {
    let files = &board.config.maintenance;
    let switches: Vec<Value> = board.switches.iter().map(switch).collect();
    json!({
        "global": board.maintenance.global, "machines": board.maintenance.machines,
        "files": {"global": files.global, "machines": files.machines},
        "switches": switches,
    })
}

/// How many machines a kill was sent to.
pub fn kill_sent(machines: usize) -> String {
    let plural = if machines == 1 { "" } else { "s" };
    format!("kill sent to {machines} machine{plural}")
}

/// A role's name.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Operate => "operate",
        Role::Admin => "admin",
    }
}

/// A moment, if there is one.
pub fn iso(at: Option<Wall>) -> Option<String> {
    at.map(Wall::iso)
}

fn run_outcome(ended: Option<Wall>, success: Option<bool>, is_killed: bool) -> &'static str {
    match (ended, success) {
        (None, _) => "running",
        (Some(_), _) if is_killed => "killed",
        (Some(_), Some(true)) => "succeeded",
        (Some(_), Some(false)) => "failed",
        (Some(_), None) => "skipped",
    }
}

/// Values that only callers with the role operate may see.
fn secrets(values: &BTreeMap<String, String>, role: Role) -> BTreeMap<&str, &str> {
    let shown = |value| if role < Role::Operate { HIDDEN } else { value };
    values
        .iter()
        .map(|(name, value)| (name.as_str(), shown(value.as_str())))
        .collect()
}

/// The problem's field is the job, or something of it.
pub fn concerns(problem: &Problem, job: &str) -> bool {
    problem
        .field
        .strip_prefix(job)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
