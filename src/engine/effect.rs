//! Everything that the engine wants done.
//! Must not know: which thread does it.

use std::sync::Arc;

use crate::clock::Wall;
use crate::config::JobSpec;
use crate::engine::id::{ConnectionId, RequestId, Ticket};
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::notice::{Message, NoticeRecord, NoticeState};
use crate::engine::record::{
    Control, Handover, JobRecord, MachineRecord, OutputRef, OutputRow, RunRecord, VerdictRecord,
};
use crate::protocol::DaemonFrame;
use crate::url::HttpUrl;

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Effect {
    Store(StorageOrder),
    Connection(ConnectionId, ConnectionOrder),
    Execute(ExecutorOrder),
    /// Deliver notices.
    Notify(NotifyOrder),
    /// A line or block for a job's log file.
    JobLog(JobLogEntry),
    /// A line for the daemon's log.
    Say {
        level: log::Level,
        text: String,
    },
    /// The answer to an API call.
    Answer {
        request: RequestId,
        answer: Answer,
    },
}

/// What storage is asked to do, in this order.
#[derive(Debug)]
pub enum StorageOrder {
    /// Commit, then release the acks, then answer the ticket. Writes are committed in order; several share a commit.
    Commit(Box<Write>),
    /// Find a run that the engine no longer holds. Answered by [`super::event::Event::RunLoaded`]; sees every write
    /// ordered before it.
    LoadRun { instance: String },
    /// Remove runs that started before this moment, in small steps between commits; unfinished runs stay.
    PruneHistory { before: Wall },
}

/// What a wrapper connection is asked to do. A connection that is gone ignores it.
#[derive(Debug)]
pub enum ConnectionOrder {
    /// Send a frame that waits for nothing.
    Send(DaemonFrame),
    /// The socket belongs to this session now: from here on the connection stamps that session's heartbeats by
    /// itself (architecture.md, "Control never waits behind output").
    Bind { instance: String, machine: String },
    /// Read the socket dry, then answer [`super::event::Event::Dry`].
    Probe,
    /// Send what waits, then close.
    Close,
}

/// What the executor is asked to do.
#[derive(Debug)]
pub enum ExecutorOrder {
    /// Find out which machines match, and which of them are up. Answered by [`super::event::Event::Resolved`].
    Resolve { run: RunId, spec: Arc<JobSpec> },
    /// Start wrappers, or commands without one. Answered for each machine run by [`super::event::Event::Launched`],
    /// [`super::event::Event::LaunchFailed`] or [`super::event::Event::Returned`].
    Dispatch(Box<Dispatch>),
    /// End a command that runs without a wrapper, and report its end whatever becomes of it. Answered by
    /// [`super::event::Event::Returned`].
    Terminate { machine_run: MachineRunId },
}

/// What is asked of the threads that deliver notices.
#[derive(Debug)]
pub enum NotifyOrder {
    /// Hand a message to its destination, once. Answered by [`super::event::Event::Delivered`].
    Deliver(Box<Message>),
    /// Request this URL; nobody waits for the answer.
    Heartbeat { url: HttpUrl },
}

/// One unit of a commit: all of it or nothing.
#[derive(Debug, Default)]
pub struct Write {
    pub facts: Vec<Fact>,
    pub output: Vec<OutputRow>,
    pub trim: Vec<Trim>,
    /// Frames that may leave once it is committed.
    pub acks: Vec<(ConnectionId, DaemonFrame)>,
    pub ticket: Option<Ticket>,
    /// This write means something only if all earlier output of that machine run is stored: while that output
    /// waits for room on the disk, so does this.
    pub after_output_of: Option<MachineRunId>,
}

/// Rows of an output's tail that are no longer needed: from `from_row` up to, not including, `below_row`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    pub machine_run: MachineRunId,
    pub day: i64,
    pub from_row: u64,
    pub below_row: u64,
}

/// A fact for `state.db`.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A run fires. The write is refused whole with `AlreadyStarted` if its (job, due time) has a verdict other than
    /// `Missed` already, with `NameTaken` if its instance is taken.
    Start(Box<RunRecord>),
    Run(Box<RunRecord>),
    Machine(Box<MachineRecord>),
    /// Kept only if that due time (or that very stretch) has none yet; but `Started` replaces `Missed`.
    Verdict(VerdictRecord),
    Job(JobRecord),
    LastLook(Wall),
    /// The clock has stepped: the last evaluation before, from which a restart continues with the verdicts given since;
    /// None: the clock is trusted.
    Doubt(Option<Wall>),
    /// That very stretch was not missed after all: it has not come yet.
    Withdraw {
        job: String,
        due: Wall,
        until: Wall,
    },
    /// The time by which history ages: never ahead of the wall clock, never faster than twice as fast.
    HistoryClock(Wall),
    /// What users have set or done.
    Control(Box<Control>),
    /// What is remembered of a job, so that each change is told once.
    NoticeState(String, Box<NoticeState>),
    Notice(Box<NoticeRecord>),
    /// Written to see that it can be.
    Heartbeat(Wall),
}

/// Wrappers to be started for a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    pub run: RunId,
    pub job: String,
    pub instance: String,
    /// Goes into the URL that the wrapper is given.
    pub token: String,
    pub spec: Arc<JobSpec>,
    pub machines: Vec<(MachineRunId, String)>,
    pub handover: Handover,
    /// When it was made, as stored with its machine runs; no two dispatches have the same, and it is even. Salt's job id
    /// is derived from it, so that a repeated dispatch has the same one.
    pub at: Wall,
    /// It may have been sent before a restart.
    pub again: bool,
}

/// Lines of a job's log file, exactly as rules.md has them.
#[derive(Clone, Debug, PartialEq)]
pub struct JobLogEntry {
    pub job: String,
    pub instance: String,
    pub at: Wall,
    pub what: JobLogLine,
}

impl JobLogEntry {
    /// An entry as an effect.
    pub fn effect(job: &str, instance: &str, at: Wall, what: JobLogLine) -> Effect {
        Effect::JobLog(JobLogEntry {
            job: job.into(),
            instance: instance.into(),
            at,
            what,
        })
    }
}

/// Which line or block.
#[derive(Clone, Debug, PartialEq)]
pub enum JobLogLine {
    Starting,
    StartingOn {
        machine: String,
    },
    /// Exit code and output. The output is read from storage: this follows its commit.
    Result {
        machine: String,
        retcode: i32,
        output: OutputRef,
    },
    /// A later outcome replaced the one given (rules.md 4).
    Revised {
        machine: String,
        from: i32,
        retcode: i32,
        output: OutputRef,
    },
    Finished,
    Overlap,
    Maintenance,
    NoTargets,
    /// Any other note: the executor's error, a missed due time.
    Note {
        text: String,
    },
}

/// The answer to an [`super::event::Ask`].
pub type Answer = Result<Done, Refusal>;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The run has started.
    Started { instance: String },
    /// The kill is stored and on its way.
    KillSent { machines: usize },
    /// A setting is stored and in force; the text says which.
    Set(String),
    /// A notice is on its way.
    Noticed { id: u64 },
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request makes no sense (400).
    Invalid(String),
    /// There is no such job (404).
    UnknownJob { job: String },
    /// The job runs already, nothing runs, or maintenance is on (409).
    Conflict(String),
    /// Temporarily unavailable: shutting down, or storage is in trouble (503).
    Unavailable(String),
}
