//! The JSON shapes of the API, written straight from a board: nothing is copied but what is asked for.
//! Must not know: sockets, who asks.

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::outputs::Outputs;
use crate::clock::Wall;
use crate::config::{Problem, Severity};
use crate::engine::board::{Board, JobBoard, MachineBoard, RunBoard};

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
pub struct RunBody {
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
struct Running<'a>(&'a Board);

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

/// The problem's field is the job, or something of it.
fn concerns(problem: &Problem, job: &str) -> bool {
    problem
        .field
        .strip_prefix(job)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
