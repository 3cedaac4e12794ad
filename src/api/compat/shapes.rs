//! The JSON of the Python version, key by key: `/status`, `/config`, `/running`, `/timeline` and the answers to its
//! `POST`s. Frozen: the React UI and scripts read it.
//! Must not know: sockets, what came later.

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::tails::Tails;
use crate::api::views::{concerns, is_error, job_config};
use crate::clock::Wall;
use crate::config::{Problem, Role};
use crate::engine::board::{Board, JobBoard, MachineBoard, RunBoard};
use crate::storage::{HistoryEvent, HistoryEventKind};

/// `GET /version`.
#[derive(Serialize)]
pub struct Version {
    pub version: &'static str,
    pub last_build: &'static str,
}

/// What every `POST` and every refusal answers.
#[derive(Serialize)]
pub struct OldReply<'a> {
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
    pub tails: &'a Tails,
}

impl OldReply<'_> {
    /// A success.
    pub fn ok(message: &str) -> OldReply<'_> {
        OldReply {
            status: "ok",
            message,
            instance: None,
        }
    }

    /// An error.
    pub fn error(message: &str) -> OldReply<'_> {
        OldReply {
            status: "error",
            message,
            instance: None,
        }
    }
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
        let tails = self.0.status.tails;
        serializer.collect_map(run.machines.iter().map(|machine| {
            (
                machine.record.machine.as_str(),
                MachineResult { run, machine, tails },
            )
        }))
    }
}

struct MachineResult<'a> {
    run: &'a RunBoard,
    machine: &'a MachineBoard,
    tails: &'a Tails,
}

impl Serialize for MachineResult<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &self.machine.record;
        let iso = |at: Option<Wall>| at.map(Wall::iso).unwrap_or_default();
        let output = self.run.run.output_of(record.id);
        let tail = self.tails.tail(self.machine, output);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("starttime", &iso(record.started.or(record.dispatched)))?;
        map.serialize_entry("endtime", &iso(record.ended))?;
        map.serialize_entry("ret", &*tail.text)?;
        map.serialize_entry("ret_truncated", &tail.is_truncated)?;
        match record.retcode.filter(|_| record.ended.is_some()) {
            Some(retcode) => map.serialize_entry("retcode", &retcode)?,
            // as the Python version says while the machine run is open
            None => map.serialize_entry("retcode", "")?,
        }
        map.end()
    }
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

/// `content` of the old UI's timeline.
pub fn timeline(found: &[HistoryEvent]) -> Vec<Value> {
    let entry = |happening: &HistoryEvent, msg_type: &str, ret_code: Value| {
        json!({
            "cron": happening.job, "timestamp": happening.at.iso(), "ret_code": ret_code, "msg_type": msg_type,
            "job_instance": happening.instance,
        })
    };
    found
        .iter()
        .filter_map(|happening| match &happening.kind {
            HistoryEventKind::MachineStarted { .. } => Some(entry(happening, "machine_start", "".into())),
            HistoryEventKind::MachineEnded { retcode, .. } => {
                Some(entry(happening, "machine_result", (*retcode).into()))
            }
            HistoryEventKind::NotStarted { .. } => None,
        })
        .collect()
}
