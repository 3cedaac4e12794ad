//! What storage keeps of runs: the shapes that pass between engine and storage in both directions.
//! Must not know: how they are kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Wall;
use crate::config::JobSpec;
use crate::ending::GivenBy;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::notice::{NoticeRecord, NoticeState};

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunStage {
    /// The executor finds out which machines are up. After a restart: ask again.
    #[default]
    Pinging,
    /// Its machine runs are known.
    Running,
    Ended,
}

/// A run as stored. Written whole whenever it changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunRecord {
    pub id: RunId,
    /// `<job>_<unix seconds it fired>`, `_2`... on a collision; unique for ever.
    pub instance: String,
    pub job: String,
    /// The due time it fired for; None: a user asked for it.
    pub due: Option<Wall>,
    /// Who asked, and from where; None: it was due.
    pub asked_by: Option<String>,
    /// The daemon's clock when it fired. Also decides the day file of its output.
    pub started: Wall,
    pub ended: Option<Wall>,
    pub stage: RunStage,
    /// Set when it has ended.
    pub success: Option<bool>,
    /// Set when it has ended.
    pub counts: Option<MachineCounts>,
    /// When a kill of the whole run was asked for.
    pub kill_asked: Option<Wall>,
    /// Who asked first for a kill of it, or of one of its machines.
    pub killed_by: Option<String>,
    /// Milliseconds from its start to the end of its last command, by the wrappers' clocks where they tell; set when it has
    /// ended. An end that was reported late does not make it longer.
    pub duration_ms: Option<u64>,
    /// Machines to be killed that were not known yet when that was asked for.
    pub kill_when_known: BTreeSet<String>,
    /// Why no machine run came of it ("No targets matched", the executor's error).
    pub note: Option<String>,
    /// The secret that wrappers of this run carry in their URL.
    pub token: String,
    /// The job as it was when the run fired.
    pub spec: Arc<JobSpec>,
}

/// Where a machine run's output is stored, and how much of it is presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputRef {
    pub machine_run: MachineRunId,
    /// Day file: days since the epoch of the run's start.
    pub day: i64,
    /// `output_limit` of the job; 0: none.
    pub limit_bytes: u64,
}

impl RunRecord {
    /// It did not succeed, and nothing but kills kept it from that.
    pub fn is_killed(&self) -> bool {
        let counts = self.counts.unwrap_or_default();
        let only_kills = counts.killed == counts.failed && (counts.killed > 0 || self.kill_asked.is_some());
        self.success == Some(false) && only_kills
    }

    /// Day file of its outputs: days since the epoch of its start.
    pub fn day(&self) -> i64 {
        self.started.utc_day()
    }

    /// Where the output of one of its machine runs is.
    pub fn output_of(&self, machine_run: MachineRunId) -> OutputRef {
        OutputRef {
            machine_run,
            day: self.day(),
            limit_bytes: self.spec.output_limit_bytes,
        }
    }
}

impl OutputRef {
    /// The whole stream, as far as it is stored.
    pub fn unlimited(self) -> OutputRef {
        OutputRef {
            limit_bytes: 0,
            ..self
        }
    }
}

/// Machines of a run that say something about its success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineCounts {
    pub total: u64,
    pub ended: u64,
    pub failed: u64,
    /// Of the failed: those that a kill ended.
    pub killed: u64,
}

impl MachineCounts {
    /// How a run's machines stand.
    pub fn of<'m>(machines: impl IntoIterator<Item = &'m MachineRecord>) -> MachineCounts {
        let counted = machines.into_iter().filter(|machine| !machine.not_counted);
        counted.fold(MachineCounts::default(), |counts, machine| {
            let has_ended = machine.ended.is_some();
            let has_failed = has_ended && machine.retcode != Some(0);
            let is_killed = has_failed && machine.given_by == Some(GivenBy::Kill);
            MachineCounts {
                total: counts.total + 1,
                ended: counts.ended + u64::from(has_ended),
                failed: counts.failed + u64::from(has_failed),
                killed: counts.killed + u64::from(is_killed),
            }
        })
    }
}

/// How a command reaches its machine. Decided once, when its run starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handover {
    /// Without a wrapper: the executor runs it (`use_wrapper: false`).
    Plain,
    /// Command and environment travel in the dispatch: starting needs no permission, and is never repeated.
    InDispatch,
    /// A wrapper gets it over its connection, with the permission to start.
    #[default]
    OverSocket,
}

impl Handover {
    /// As it was decided for a stored machine run.
    pub fn stored(spec: &JobSpec, env_delivery: bool) -> Handover {
        match (spec.use_wrapper, env_delivery) {
            (false, _) => Handover::Plain,
            (true, true) => Handover::InDispatch,
            (true, false) => Handover::OverSocket,
        }
    }
}

/// How far a machine run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MachineStage {
    /// Its batch has not come yet.
    #[default]
    Waiting,
    /// Handed to the executor (stored before it is). Where delivery is `env` it is never handed over again.
    Dispatched,
    /// The executor says that the wrapper was launched.
    Launched,
    /// A wrapper has connected; with delivery `job` it has the permission to start.
    Permitted,
    /// The wrapper said `start`.
    Started,
    Ended,
}

/// A machine run as stored. Written whole whenever it changes; beats and output do not change it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineRecord {
    pub id: MachineRunId,
    pub run: RunId,
    pub machine: String,
    /// Order in which machines are started (batches).
    pub position: u32,
    pub stage: MachineStage,
    /// Command and environment travel in the dispatch: starting needs no permission, and is never repeated.
    pub env_delivery: bool,
    /// The wrapper that holds the permission (feature `job`), or that connected first.
    pub wrapper_id: Option<String>,
    /// The wrapper offered features: it is ours.
    pub ours: bool,
    pub wrapper_version: Option<String>,
    pub pid: Option<i64>,
    /// By the daemon's clock: the dispatch, and the wrapper's `start`.
    pub dispatched: Option<Wall>,
    pub started: Option<Wall>,
    pub ended: Option<Wall>,
    pub retcode: Option<i32>,
    /// Who gave the code; set with it.
    pub given_by: Option<GivenBy>,
    /// How long the command ran, by its wrapper's monotonic clock and at most as long as the daemon can confirm; None: the
    /// wrapper did not tell.
    pub duration_ms: Option<u64>,
    /// The daemon gave the outcome by itself; a wrapper may still tell the true one (rules.md 4).
    pub presumed: bool,
    /// The outcome that a later one replaced.
    pub revised_from: Option<i32>,
    pub kill_asked: Option<Wall>,
    /// Who asked for that kill.
    pub killed_by: Option<String>,
    /// It says nothing about the run's success: in maintenance, or down and not needed (`number_of_targets`).
    pub not_counted: bool,
    /// Last heartbeat (or start, or connect) as known at the last write.
    pub last_heartbeat: Option<Wall>,
    /// The wrapper's own stamps of `start` and `complete`, as it wrote them.
    pub wrapper_started: Option<String>,
    pub wrapper_ended: Option<String>,
    /// Bytes of output left out between head and tail (`output_limit`); set when it ends.
    pub left_out_bytes: u64,
}

impl MachineRecord {
    /// Its outcome in one word; None: it has none yet.
    pub fn outcome(&self) -> Option<&'static str> {
        let given_by = |code| self.given_by.unwrap_or_else(|| GivenBy::of_code(code));
        self.retcode.map(|code| given_by(code).outcome(code))
    }
}

/// Where a machine run's output stands; read from the output rows themselves, never stored twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputPosition {
    /// Next seq expected from the wrapper: one past the highest covered.
    pub next_seq: u64,
    /// Next number of a row.
    pub next_row: u64,
    /// Bytes and UTF-16 code units of the whole stream so far, what was left out included.
    pub bytes: u64,
    pub utf16: u64,
    /// Up to the last 4 bytes, to go on decoding.
    pub last_bytes: Vec<u8>,
    /// Lowest row of the tail that is still stored, if a tail has begun.
    pub tail_from_row: Option<u64>,
}

/// One row of output. Rows are only appended; tail rows are removed from the front (`output_limit`).
#[derive(Debug)]
pub struct OutputRow {
    pub machine_run: MachineRunId,
    /// Day file: days since the epoch of the run's start.
    pub day: i64,
    pub row: u64,
    /// Highest seq that the stream covers up to and including this row; None: none yet (a line of the daemon's
    /// own before any output).
    pub seq: Option<u64>,
    /// Offsets of its first byte and UTF-16 unit in the whole stream.
    pub byte_offset: u64,
    pub utf16_offset: u64,
    pub data: crate::budget::Chunk,
}

/// What became of a due time. Every due time gets exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It started this run.
    Started { instance: String },
    /// Still running, and overlap is not allowed.
    Overlap,
    /// Global maintenance.
    Maintenance,
    /// The job was paused; with the reason.
    Paused { reason: String },
    /// Passed over: a stall, a restart, a full disk; with the reason.
    Missed { reason: String },
}

/// A verdict on one due time of a job; or, for long stretches of misses, on all from `due` to `until` that have none
/// of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictRecord {
    pub job: String,
    pub due: Wall,
    /// With `count` > 1: the last of the stretch.
    pub until: Wall,
    pub count: u64,
    pub verdict: Verdict,
}

/// What outlives runs of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobRecord {
    pub job: String,
    /// Due times count from here: first seen, enabled again, or out of maintenance. None: not active now.
    pub active_since: Option<Wall>,
    pub last_run: Option<Wall>,
    pub last_instance: Option<String>,
    pub last_ended: Option<Wall>,
    pub last_success: Option<Wall>,
    /// Outcome of the last run that ended; true while one runs.
    pub result_ok: Option<bool>,
    pub last_failed_count: u64,
    pub last_total_count: u64,
    /// Missed due times that are not marked as seen, of the last day.
    pub missed: u64,
    /// When the last of them was recorded.
    pub missed_at: Option<Wall>,
    /// The last due time found it still running.
    pub overlap: bool,
    /// The schedule that its due times are looked at by ([`crate::schedule::Schedule::mark`]).
    pub schedule: Option<String>,
}

/// What people have set, or what they did: kept beside the runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// That job's due times start nothing.
    Pause(PauseRecord),
    /// The job's due times count again.
    Resume {
        job: String,
    },
    /// Maintenance on or off, overriding the files.
    Switch(SwitchRecord),
    /// The files apply again.
    SwitchBack {
        machine: Option<String>,
    },
    Audit(AuditRecord),
}

/// A paused job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PauseRecord {
    pub job: String,
    pub since: Wall,
    /// None: until a user resumes it.
    pub until: Option<Wall>,
    pub reason: String,
    pub by: String,
}

/// A maintenance switch: what it says goes before what the files say, until it expires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchRecord {
    /// None: global maintenance.
    pub machine: Option<String>,
    pub is_on: bool,
    pub since: Wall,
    pub until: Wall,
    pub reason: String,
    pub by: String,
}

/// A user's request and its outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditRecord {
    pub at: Wall,
    /// Who, and from where.
    pub by: String,
    /// run, kill, retry, pause, resume, maintenance.
    pub action: String,
    /// The job, the instance or the machine.
    pub object: String,
    /// Machines, parameters' names, the reason given; never a parameter's value.
    pub detail: String,
    /// `ok`, or why not.
    pub outcome: String,
}

/// A run with everything that the engine needs to take it up again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredRun {
    pub run: RunRecord,
    pub machines: Vec<(MachineRecord, OutputPosition)>,
}

#[cfg(test)]
impl StoredRun {
    /// A run of the job `backup` whose one machine has started its command.
    pub fn under_way() -> StoredRun {
        let run = RunRecord {
            id: RunId(7),
            instance: "backup_1".into(),
            job: "backup".into(),
            stage: RunStage::Running,
            ..RunRecord::default()
        };
        let machine = MachineRecord {
            id: MachineRunId(9),
            run: RunId(7),
            machine: "web1".into(),
            stage: MachineStage::Started,
            env_delivery: true,
            ..MachineRecord::default()
        };
        StoredRun {
            run,
            machines: vec![(machine, OutputPosition::default())],
        }
    }
}

/// What a daemon finds in storage when it starts.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// When the schedule was last evaluated; None: never.
    pub last_look: Option<Wall>,
    /// How far the clock of retention had come; None: it never ran.
    pub history_clock: Option<Wall>,
    /// The look before a step of the clock that was still in doubt.
    pub doubt: Option<Wall>,
    /// Verdicts that were given after that look was stored.
    pub verdicts: Vec<VerdictRecord>,
    /// First numbers not used yet.
    pub next_run: u64,
    pub next_machine_run: u64,
    pub jobs: Vec<JobRecord>,
    /// Runs that have not ended or have a machine run that has not (output that waits for room on the disk holds back
    /// the outcome that depends on it), and the last ended run of each job.
    pub runs: Vec<StoredRun>,
    /// Pauses and switches in force when the daemon ended.
    pub controls: Vec<Control>,
    /// Notices that have not been delivered, the number for the next, what is remembered of jobs, and how many were given
    /// up by destination since the last that was delivered.
    pub notices: Vec<NoticeRecord>,
    pub next_notice: u64,
    pub notice_states: Vec<(String, NoticeState)>,
    pub notices_given_up: Vec<(String, u64)>,
}
