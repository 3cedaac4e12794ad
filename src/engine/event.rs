//! Everything that can happen to the engine.
//! Must not know: which thread reports it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::budget::Chunk;
use crate::clock::{Mono, Wall};
use crate::config::Config;
use crate::ending::Ending;
use crate::engine::id::{ConnectionId, MachineRunId, RequestId, RunId, Ticket};
use crate::engine::notice::{DeliveryError, NoticeRecord};
use crate::engine::record::StoredRun;
use crate::protocol::{SessionKey, WrapperFrame};

/// The other end of a wrapper connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// `token` of the URL that it asked for.
    pub token: Option<String>,
    /// Its address, for messages.
    pub address: String,
    /// Loopback or verified TLS: a command may travel here (rules.md 23a).
    pub is_confidential: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Once a second, aligned to the wall clock's second.
    Tick,
    /// Nothing else waits, and [`super::Engine::has_more`].
    More,
    /// Heartbeats of bound connections since the last tick, each with the moment its frame was read.
    Beats(Vec<(ConnectionId, Mono)>),
    /// Answer to [`super::effect::ConnectionOrder::Probe`]: that connection had nothing left to read at `at`, and everything
    /// that it had read is forwarded; `last_beat` is the latest heartbeat it has stamped, collected or not.
    Dry {
        connection: ConnectionId,
        at: Mono,
        last_beat: Option<Mono>,
    },
    /// A wrapper connection has read a frame, or has ended. Output comes on the bulk lane, all else on the control lane.
    Wrapper(Arrival),
    /// The byte budget was spent: output frames of this connection were dropped, and there is room again.
    OutputDropped { connection: ConnectionId },
    /// A write with a ticket was committed, or refused.
    Stored { ticket: Ticket, outcome: StoreOutcome },
    /// Answer to [`super::effect::StorageOrder::LoadRun`]; None: no such run.
    RunLoaded {
        instance: String,
        run: Option<Box<StoredRun>>,
    },
    /// Storage cannot write (disk full), or can again.
    StorageTrouble { reason: Option<String> },
    /// Machines that the executor found up or down so far; `finished`: no more will come.
    Resolved {
        run: RunId,
        up: Vec<String>,
        down: Vec<String>,
        finished: bool,
        error: Option<String>,
    },
    /// The executor cannot reach machines (no Salt, its master is away), or can again.
    ExecutorTrouble { reason: Option<String> },
    /// The executor still works on the launch of these: the time allowed for it starts over.
    LaunchPending { machine_runs: Vec<MachineRunId> },
    /// These machines were asked to run a command without a wrapper, which counts as its start.
    PlainStarted { machine_runs: Vec<MachineRunId> },
    /// A command that ran without a wrapper has ended.
    Returned {
        machine_run: MachineRunId,
        output: Vec<u8>,
        ending: Ending,
    },
    /// The executor started the wrapper.
    Launched { machine_run: MachineRunId },
    /// The executor could not start it: the machine run ends with `retcode` and `text`.
    LaunchFailed {
        machine_run: MachineRunId,
        retcode: i32,
        text: String,
    },
    /// New configuration.
    Config(Arc<Config>),
    /// A user's request; answered by [`super::effect::Effect::Answer`].
    Request {
        request: RequestId,
        ask: Ask,
        who: String,
    },
    /// A try to deliver a message has ended.
    Delivered {
        /// The destination's name.
        to: String,
        message: String,
        result: Result<(), DeliveryError>,
    },
    /// The machines port listens: from now on wrappers can reach the daemon.
    Listening,
    /// SIGTERM: nothing new starts.
    Shutdown,
}

/// Something that came over a wrapper connection.
#[derive(Debug)]
pub struct Arrival {
    pub connection: ConnectionId,
    pub peer: Arc<Peer>,
    /// How many output frames this connection has forwarded before: the lanes may change the order, this restores it.
    pub outputs_before: u64,
    pub what: Arrived,
}

/// What came.
#[derive(Debug)]
pub enum Arrived {
    /// Any frame but output; heartbeats only while their connection is not bound to that session.
    Frame {
        frame: Box<WrapperFrame>,
        read_at: Mono,
    },
    Output(Box<OutputFrame>),
    /// The socket is gone; everything that was read from it is forwarded.
    Closed,
}

/// An output frame, decoded.
#[derive(Debug)]
pub struct OutputFrame {
    pub key: SessionKey,
    /// None: the wrapper numbers nothing; taken as the next.
    pub seq: Option<u64>,
    pub data: Chunk,
}

/// A user's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Run {
        job: String,
    },
    /// The same, for some machines, with parameters, or as a retry.
    RunWith {
        job: String,
        order: RunOrder,
    },
    /// `instance` None: all running ones of the job. `machine` None: all machines.
    Kill {
        job: String,
        machine: Option<String>,
        instance: Option<String>,
    },
    /// The job's due times start nothing until then (None: until it is resumed).
    Pause {
        job: String,
        until: Option<Wall>,
        reason: String,
    },
    /// The misses of a job have been seen.
    Seen {
        job: String,
    },
    Resume {
        job: String,
    },
    /// Maintenance of a machine (None: global) on or off, overriding the files.
    Switch {
        machine: Option<String>,
        is_on: bool,
        until: Wall,
        reason: String,
    },
    /// The files apply again.
    SwitchBack {
        machine: Option<String>,
    },
    /// Try this notice now.
    RetryNotice {
        notice: Box<NoticeRecord>,
    },
    /// Send a notice of a test.
    TestNotifier {
        name: String,
    },
}

/// How a user wants a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOrder {
    /// Only these of the machines that the job matches; empty: all.
    pub machines: Vec<String>,
    /// Values for the job's `parameters`.
    pub parameters: BTreeMap<String, String>,
    /// The run whose failed machines these are.
    pub retry_of: Option<String>,
}

/// What became of a write that carried a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    Committed,
    /// A start for this (job, due time) is stored already: nothing was written.
    AlreadyStarted,
    /// The instance name is taken: nothing was written.
    NameTaken,
    /// Nothing was written; why.
    Failed(String),
}
