//! What is kept: facts in `state.db`, output in day files, both behind one thread that commits in groups and lets
//! acks leave only after the commit. Must not know: what facts mean, sockets, wrappers.
//!
//! Reading order: `directory.rs` state_dir, its lock and reserve; `schema.rs` tables; `facts.rs`, `controls.rs`, `notices.rs`
//! and `output.rs` the kinds of rows; `recover.rs` what a daemon starts from; `worker.rs` the thread; `retention.rs` what
//! is removed; `reader.rs` connections for reading, and on them `runs.rs`, `grid.rs`,
//! `events.rs`, `timeline.rs` and `stream.rs` (output).

mod controls;
mod directory;
mod events;
mod facts;
mod grid;
mod notices;
mod output;
mod reader;
mod recover;
mod retention;
mod runs;
mod schema;
mod stream;
mod text;
mod timeline;
mod worker;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::engine::effect::StorageOrder;
use crate::engine::event::Event;
use crate::engine::id::ConnectionId;
use crate::engine::record::Recovered;
use crate::limits;
use crate::protocol::DaemonFrame;
use crate::thread::{self, Actor};

pub use controls::{AuditEntry, AuditFilter};
pub use events::{EventKinds, HistoryEvent, HistoryEventKind};
pub use grid::{Grid, GridCell, GridRun};
pub use notices::NoticeFilter;
pub use reader::Reader;
pub use runs::{MachineTally, PageOf, RunBrief, RunFilter, RunOutcome};
pub use stream::{OutputShape, OutputStream};
pub use timeline::{TimelineRun, TimelineVerdict};

/// What the storage thread is asked to do. One queue, served in order.
#[derive(Debug)]
pub enum Request {
    Order(StorageOrder),
    /// A message is sent here when everything queued before is dealt with (committed, refused, or held back because
    /// the disk is full).
    Sync(Sender<()>),
}

/// Where the thread's answers go. Both are called on the storage thread and must not block.
pub struct Callbacks {
    /// A frame that may leave now: its write is committed. Called in the order of the writes.
    pub deliver: Box<dyn Fn(ConnectionId, DaemonFrame) + Send>,
    /// `Stored`, `RunLoaded`, `StorageTrouble`; after the acks of the same commit.
    pub report: Box<dyn Fn(Event) + Send>,
}

/// An opened, locked and recovered state directory whose thread does not run yet.
pub struct OpenStore {
    worker: worker::Worker,
    reader: Reader,
}

/// The running storage thread. Dropped: everything queued is committed, then the thread is joined.
pub struct Storage {
    // declared before the thread: the queue closes first, which ends the thread's loop
    sender: Sender<Request>,
    reader: Reader,
    _thread: Actor,
}

/// Opens `state_dir` (made, 0700, if only its last component is missing), takes its lock, brings its tables up to
/// date and reads what a daemon starts from. The error is one line for people: it names the directory or file, the
/// reason and what to do.
pub fn open(state_dir: &Path) -> Result<(OpenStore, Recovered), String> {
    let (worker, recovered) = worker::open(state_dir)?;
    let reader = Reader::new(state_dir);
    Ok((OpenStore { worker, reader }, recovered))
}

impl OpenStore {
    /// Starts the thread. Fails when the system has no thread left.
    pub fn start(self, callbacks: Callbacks) -> io::Result<Storage> {
        let OpenStore { mut worker, reader } = self;
        let (sender, receiver): (Sender<Request>, Receiver<Request>) =
            crossbeam_channel::bounded(limits::STORAGE_QUEUE);
        let thread = thread::spawn("storage", limits::STACK_BYTES, move || {
            worker.run(&receiver, &callbacks)
        })?;
        Ok(Storage {
            sender,
            reader,
            _thread: Actor::new(thread, || ()),
        })
    }

    /// Reads what is stored; usable before the thread runs.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }
}

impl Storage {
    /// Queues a request. Hands it back when the queue is full; the last part of the queue takes only writes that
    /// carry facts (rules.md 15), so output is handed back a little earlier.
    pub fn try_send(&self, request: Request) -> Result<(), Request> {
        if is_bulk(&request) && self.sender.len() >= limits::STORAGE_QUEUE_FOR_OUTPUT {
            return Err(request);
        }
        self.sender.try_send(request).map_err(|refused| match refused {
            TrySendError::Full(request) | TrySendError::Disconnected(request) => request,
        })
    }

    /// Requests that wait.
    pub fn queued(&self) -> usize {
        self.sender.len()
    }

    /// Reads what is stored, on connections of its own.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }
}

fn is_bulk(request: &Request) -> bool {
    match request {
        Request::Order(StorageOrder::Commit(write)) => write.facts.is_empty() && !write.output.is_empty(),
        _ => false,
    }
}
