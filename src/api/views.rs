//! The JSON shapes of the API, written straight from a board: nothing is copied but what is asked for.
//! Must not know: sockets, who asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::outputs::Outputs;
use crate::clock::Wall;
use crate::config::{Job, Problem, Role, Severity, likeliest};
use crate::engine::board::{Board, JobBoard, MachineBoard, RunBoard, outcome_word};
use crate::engine::record::{MachineCounts, MachineStage, PauseRecord, RunRecord, RunStage, SwitchRecord};
use crate::storage::{AuditEntry, Brief, Happening, HappeningKind, Tally};

/// Stands for what the caller may not see.
const HIDDEN: &str = "***";
/// Longer names are not compared with those of all jobs.
const NAME_CHARS: usize = 100;

/// `GET /version`.
#[derive(Serialize)]
pub struct Version {
    pub version: &'static str,
    pub last_build: &'static str,
}

/// What every `POST` and every refusal answers.
#[derive(Serialize)]
pub struct Verdict<'a> {
    pub status: &'static str,
    pub message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<&'a str>,
}

/// Body of `POST /run`.
#[derive(Deserialize)]
pub struct OldRunBody {
    pub job: String,
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

/// It is done.
#[derive(Serialize)]
pub struct Done {
    pub message: String,
}

/// Body of `POST /kill`.
#[derive(Deserialize)]
pub struct KillBody {
    pub job: String,
    pub machine: Option<String>,
    pub instance: Option<String>,
}

/// `GET /status`. Outputs' ends are read while it is written.
pub struct Status<'a> {
    pub board: &'a Board,
    pub outputs: &'a Outputs,
}

impl Verdict<'_> {
    /// It is done.
    pub fn ok(message: &str) -> Verdict<'_> {
        Verdict {
            status: "ok",
            message,
            instance: None,
        }
    }

    /// It is not.
    pub fn error(message: &str) -> Verdict<'_> {
        Verdict {
            status: "error",
            message,
            instance: None,
        }
    }
}

/// The day file that holds a run's output: days since the epoch of its start.
pub fn day_of(started: Wall) -> i64 {
    started.secs().div_euclid(86_400)
}

impl Serialize for Status<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("running", &Running(self.board))?;
        map.serialize_entry("state", &State(self))?;
        let problems = &self.board.config.problems;
        let bad: Vec<&Problem> = problems.iter().filter(|problem| is_error(problem)).collect();
        map.serialize_entry("bad", &bad)?;
        map.serialize_entry("problems", problems)?;
        map.serialize_entry("troubles", &self.board.troubles)?;
        map.end()
    }
}

/// `running`: what has not ended, by instance.
pub struct Running<'a>(pub &'a Board);

impl Serialize for Running<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let runs = self.0.running.iter();
        serializer.collect_map(runs.map(|(instance, run)| (&**instance, RunningRun::of(run))))
    }
}

#[derive(Serialize)]
struct RunningRun<'a> {
    name: &'a str,
    started: String,
    machines: Vec<&'a str>,
}

impl RunningRun<'_> {
    fn of(run: &RunBoard) -> RunningRun<'_> {
        let unfinished = run
            .machines
            .iter()
            .filter(|machine| machine.record.ended.is_none());
        RunningRun {
            name: &run.run.job,
            started: run.run.started.iso(),
            machines: unfinished
                .map(|machine| machine.record.machine.as_str())
                .collect(),
        }
    }
}

/// `state`: every job that is configured, or known from its past.
struct State<'a>(&'a Status<'a>);

impl Serialize for State<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let jobs = self.0.board.jobs.iter();
        serializer.collect_map(jobs.map(|(name, job)| {
            (
                &**name,
                JobState {
                    status: self.0,
                    name,
                    job,
                },
            )
        }))
    }
}

struct JobState<'a> {
    status: &'a Status<'a>,
    name: &'a str,
    job: &'a JobBoard,
}

impl Serialize for JobState<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &self.job.record;
        let problems = self.status.board.config.problems.iter();
        let bad: Vec<&Problem> = problems
            .filter(|problem| is_error(problem) && concerns(problem, self.name))
            .collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("next_run", &self.job.next_run.map(Wall::iso))?;
        map.serialize_entry("last_run", &record.last_run.map(Wall::iso))?;
        map.serialize_entry("last_instance", &record.last_instance)?;
        map.serialize_entry("result_ok", &record.result_ok)?;
        map.serialize_entry("missed", &record.missed)?;
        map.serialize_entry("overlap", &record.overlap)?;
        map.serialize_entry("bad", &bad)?;
        map.serialize_entry(
            "note",
            &self.job.last.as_ref().and_then(|run| run.run.note.as_deref()),
        )?;
        map.serialize_entry("results", &Results(self))?;
        map.end()
    }
}

/// `results`: the machines of the last run.
struct Results<'a>(&'a JobState<'a>);

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(run) = &self.0.job.last else {
            return serializer.collect_map(std::iter::empty::<(&str, ())>());
        };
        let outputs = self.0.status.outputs;
        serializer.collect_map(run.machines.iter().map(|machine| {
            (
                machine.record.machine.as_str(),
                MachineResult {
                    run,
                    machine,
                    outputs,
                },
            )
        }))
    }
}

struct MachineResult<'a> {
    run: &'a RunBoard,
    machine: &'a MachineBoard,
    outputs: &'a Outputs,
}

impl Serialize for MachineResult<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &self.machine.record;
        let iso = |at: Option<Wall>| at.map(Wall::iso).unwrap_or_default();
        let limit_bytes = self.run.run.spec.output_limit_bytes;
        let day = day_of(self.run.run.started);
        let tail = self.outputs.tail(self.machine, day, limit_bytes);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("starttime", &iso(record.started.or(record.dispatched)))?;
        map.serialize_entry("endtime", &iso(record.ended))?;
        map.serialize_entry("ret", &*tail.text)?;
        map.serialize_entry("ret_truncated", &tail.is_truncated)?;
        match record.retcode.filter(|_| record.ended.is_some()) {
            Some(retcode) => map.serialize_entry("retcode", &retcode)?,
            // what the old API said while it runs
            None => map.serialize_entry("retcode", "")?,
        }
        map.end()
    }
}

fn is_error(problem: &Problem) -> bool {
    problem.severity == Severity::Error
}

/// The `config` object of the old UI (wire-protocol.md section 2). Values of `env` and `parameters` are for those who
/// may operate.
pub fn config(board: &Board, role: Role) -> Value {
    let config = &board.config;
    let crons: Map<String, Value> = config
        .jobs
        .iter()
        .map(|(name, job)| (name.clone(), Value::Object(job_config(job, role))))
        .collect();
    let bad: Vec<&Problem> = config
        .problems
        .iter()
        .filter(|problem| is_error(problem))
        .collect();
    without_nulls(json!({
        "crons": crons,
        "maintenance": {"global": board.maintenance.global, "machines": board.maintenance.machines},
        "serial": config.serial,
        "saltpeter_config": &*config.settings.raw,
        "bad": bad,
    }))
}

/// A field that is null says nothing, and the old UI cannot take it.
pub fn without_nulls(value: Value) -> Value {
    match value {
        Value::Null => Value::from(""),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        Value::Object(map) => {
            let fields = map.into_iter().map(|(key, value)| (key, without_nulls(value)));
            Value::Object(fields.collect())
        }
        other => other,
    }
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

/// `content` of the old UI's timeline.
pub fn timeline(found: &[Happening]) -> Vec<Value> {
    let entry = |happening: &Happening, msg_type: &str, ret_code: Value| {
        json!({
            "cron": happening.job, "timestamp": happening.at.iso(), "ret_code": ret_code, "msg_type": msg_type,
            "job_instance": happening.instance,
        })
    };
    found
        .iter()
        .filter_map(|happening| match &happening.kind {
            HappeningKind::MachineStarted { .. } => Some(entry(happening, "machine_start", "".into())),
            HappeningKind::MachineEnded { retcode, .. } => {
                Some(entry(happening, "machine_result", (*retcode).into()))
            }
            HappeningKind::NotStarted { .. } => None,
        })
        .collect()
}

/// An entry of `GET /api/v1/events`.
pub fn event(happening: &Happening) -> Value {
    let mut event = json!({"at": happening.at.iso(), "job": happening.job, "instance": happening.instance});
    let more = match &happening.kind {
        HappeningKind::MachineStarted { machine } => json!({"type": "machine_started", "machine": machine}),
        HappeningKind::MachineEnded { machine, retcode } => json!({
            "type": "machine_ended", "machine": machine, "retcode": retcode, "outcome": outcome_word(*retcode),
        }),
        HappeningKind::NotStarted { why, reason, count } => {
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
        "outcome": run_outcome(run.ended, run.success),
        "total_count": counts.total,
        "ended_count": counts.ended,
        "failed_count": counts.failed,
        "kill_asked": iso(run.kill_asked),
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
        "outcome": record.retcode.map(outcome_word),
        "presumed": record.presumed,
        "revised_from": record.revised_from,
        "kill_asked": iso(record.kill_asked),
        "counted": !record.not_counted,
        "last_heartbeat": iso(record.last_heartbeat),
        "wrapper_version": record.wrapper_version,
        "pid": record.pid,
        "output_bytes": machine.output_bytes,
        "left_out_bytes": record.left_out_bytes,
    })
}

/// An entry of a job's recent runs.
pub fn brief(run: &Brief, board: &Board) -> Value {
    let counts = counts(run.counts, &run.instance, board);
    json!({
        "instance": run.instance, "started": run.started.iso(), "ended": iso(run.ended),
        "outcome": run_outcome(run.ended, run.success),
        "total_count": counts.total, "ended_count": counts.ended, "failed_count": counts.failed,
    })
}

/// As stored with its end, or as they are.
fn counts(stored: Option<MachineCounts>, instance: &str, board: &Board) -> MachineCounts {
    stored.unwrap_or_else(|| {
        let found = run_on_board(board, instance);
        MachineCounts::of(
            found
                .iter()
                .flat_map(|run| &run.machines)
                .map(|machine| &machine.record),
        )
    })
}

/// How a run's machines have ended: how many by outcome, and the first that failed.
pub fn tally(tally: &Tally) -> Value {
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for (retcode, count) in &tally.retcodes {
        *outcomes
            .entry(retcode.map_or("unfinished", outcome_word))
            .or_default() += count;
    }
    let failed: Vec<Value> = tally
        .failed
        .iter()
        .map(|(machine, retcode)| json!({"machine": machine, "retcode": retcode}))
        .collect();
    json!({"outcomes": outcomes, "failed": failed})
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
            // until somebody resumes it
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

/// A run that is on the board: it has not ended, or is the latest of its job.
pub fn run_on_board<'b>(board: &'b Board, instance: &str) -> Option<&'b Arc<RunBoard>> {
    if let Some(run) = board.running.get(instance) {
        return Some(run);
    }
    // an instance is its job's name, the second and maybe a number
    let mut name = instance;
    while let Some((shorter, _)) = name.rsplit_once('_') {
        name = shorter;
        let last = board.jobs.get(name).and_then(|job| job.last.as_ref());
        if let Some(last) = last.filter(|last| last.run.instance == instance) {
            return Some(last);
        }
    }
    None
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

fn run_outcome(ended: Option<Wall>, success: Option<bool>) -> &'static str {
    match (ended, success) {
        (None, _) => "running",
        (Some(_), Some(true)) => "succeeded",
        (Some(_), Some(false)) => "failed",
        (Some(_), None) => "skipped",
    }
}

/// Values that only those may see who may operate.
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
