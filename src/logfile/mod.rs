//! The job log thread: `logdir/<job>.log`, as operators know it (rules.md "Job log, exactly").
//! Must not know: the engine, why an entry was made.

mod progress;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::Mutex;

use crate::engine::effect::{JobLogEntry, JobLogLine};
use crate::engine::record::OutputRef;
use crate::limits;
use crate::safe_name::safe_name;
use crate::storage::Reader;
use crate::thread::{self, Actor};

use progress::CopyError;

/// Outputs may hold what is nobody else's business; an existing file keeps its rights.
const LOG_FILE_MODE: u32 = 0o640;
const LOG_DIRECTORY_MODE: u32 = 0o750;

/// The running job log thread. Dropped: everything queued is written, then the thread is joined.
pub struct JobLog {
    // declared before the thread: the queue closes first, which ends the thread's loop
    entries: Sender<JobLogEntry>,
    poke: Sender<()>,
    changes: Arc<Mutex<Changes>>,
    _thread: Actor,
}

/// What was asked for beside entries.
#[derive(Default)]
struct Changes {
    reopen: bool,
    logdir: Option<PathBuf>,
}

/// What the thread owns.
struct Writer {
    logdir: PathBuf,
    reader: Reader,
    changes: Arc<Mutex<Changes>>,
    /// By job.
    open: HashMap<String, OpenLog>,
    /// Jobs whose log could not be written, and whom it was said of.
    in_trouble: HashSet<String>,
    /// Counts entries: tells which file was used longest ago.
    entries: u64,
}

/// A log file that is open.
struct OpenLog {
    file: BufWriter<File>,
    /// Device and inode: the path may lead to another file by now.
    identity: (u64, u64),
    last_entry: u64,
}

/// Starts the thread. Fails when the system has no thread left; that `logdir` cannot be written is said in the
/// daemon's log when the first entry meets it.
pub fn start(logdir: PathBuf, reader: Reader) -> io::Result<JobLog> {
    let (entries, queue) = crossbeam_channel::bounded(limits::JOB_LOG_QUEUE);
    let (poke, poked) = crossbeam_channel::bounded(1);
    let changes = Arc::new(Mutex::new(Changes::default()));
    let mut writer = Writer {
        logdir,
        reader,
        changes: changes.clone(),
        open: HashMap::new(),
        in_trouble: HashSet::new(),
        entries: 0,
    };
    let thread = thread::spawn("job-log", limits::STACK_BYTES, move || writer.run(&queue, poked))?;
    Ok(JobLog {
        entries,
        poke,
        changes,
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
    pub fn reopen(&self) {
        self.changes.lock().reopen = true;
        self.poke();
    }

    /// Entries not written yet go to this directory.
    pub fn set_logdir(&self, logdir: PathBuf) {
        self.changes.lock().logdir = Some(logdir);
        self.poke();
    }

    fn poke(&self) {
        // full: a poke waits already
        let _ = self.poke.try_send(());
    }
}

impl Writer {
    fn run(&mut self, entries: &Receiver<JobLogEntry>, mut poked: Receiver<()>) {
        loop {
            let mut next = None;
            crossbeam_channel::select! {
                recv(entries) -> entry => match entry {
                    Ok(entry) => next = Some(entry),
                    Err(_) => return,
                },
                recv(poked) -> poke => if poke.is_err() {
                    poked = crossbeam_channel::never();
                },
            }
            self.apply_changes();
            if let Some(entry) = next {
                self.log(&entry);
            }
        }
    }

    fn apply_changes(&mut self) {
        let changes = std::mem::take(&mut *self.changes.lock());
        if changes.reopen {
            self.open.clear();
        }
        if let Some(logdir) = changes.logdir
            && logdir != self.logdir
        {
            self.open.clear();
            self.logdir = logdir;
        }
    }

    /// A write error is said once for each job until it works again.
    fn log(&mut self, entry: &JobLogEntry) {
        let path = self.logdir.join(format!("{}.log", safe_name(&entry.job)));
        match self.try_log(&path, entry) {
            Ok(()) => {
                if !self.in_trouble.is_empty() && self.in_trouble.remove(&entry.job) {
                    log::info!("job log '{}' is written again", path.display());
                }
            }
            Err(error) => {
                self.open.remove(&entry.job);
                if self.in_trouble.insert(entry.job.clone()) {
                    log::error!(
                        "cannot write job log '{}': {error}; its entries are lost until that is mended",
                        path.display()
                    );
                }
            }
        }
    }

    fn try_log(&mut self, path: &Path, entry: &JobLogEntry) -> io::Result<()> {
        self.entries += 1;
        self.ready_file(path, &entry.job)?;
        let Some(log) = self.open.get_mut(&entry.job) else {
            return Err(io::Error::other("it was closed"));
        };
        log.last_entry = self.entries;
        write_entry(&self.reader, entry, &mut log.file)?;
        log.file.flush()
    }

    /// Makes sure that what is open for the job is what its path leads to now.
    fn ready_file(&mut self, path: &Path, job: &str) -> io::Result<()> {
        if let Some(log) = self.open.get(job) {
            let is_same = fs::metadata(path).is_ok_and(|found| identity(&found) == log.identity);
            if is_same {
                return Ok(());
            }
            self.open.remove(job);
        }
        if self.open.len() >= limits::JOB_LOG_FILES {
            let idle = self.open.iter().min_by_key(|(_, log)| log.last_entry);
            if let Some(idle) = idle.map(|(job, _)| job.clone()) {
                self.open.remove(&idle);
            }
        }
        let file = open_log(path)?;
        let identity = identity(&file.metadata()?);
        let log = OpenLog {
            file: BufWriter::new(file),
            identity,
            last_entry: self.entries,
        };
        self.open.insert(job.to_string(), log);
        Ok(())
    }
}

fn write_entry(reader: &Reader, entry: &JobLogEntry, file: &mut impl Write) -> io::Result<()> {
    let JobLogEntry { instance, at, .. } = entry;
    let at = at.iso();
    match &entry.what {
        JobLogLine::Starting => writeln!(file, "###### Starting {instance} at {at} ################"),
        JobLogLine::StartingOn { machine } => {
            writeln!(
                file,
                "###### Starting {instance} on {machine} at {at} ################"
            )
        }
        JobLogLine::Result {
            machine,
            retcode,
            output,
        } => {
            writeln!(file, "########## {machine} from {instance} ################")?;
            writeln!(file, "**** Exit Code {retcode} ******")?;
            write_output(reader, *output, file)?;
            writeln!(file, "####### END {machine} from {instance} at {at} #########")
        }
        JobLogLine::Revised {
            machine,
            from,
            retcode,
            output,
        } => {
            writeln!(
                file,
                "########## {machine} from {instance}, revised (was {from}) ################"
            )?;
            writeln!(file, "**** Exit Code {retcode} ******")?;
            write_output(reader, *output, file)?;
            writeln!(file, "####### END {machine} from {instance} at {at} #########")
        }
        JobLogLine::Finished => writeln!(file, "###### Finished {instance} at {at} ################"),
        JobLogLine::Overlap => {
            writeln!(
                file,
                "###### Overlap detected on {instance} at {at} ################"
            )
        }
        JobLogLine::Maintenance => {
            writeln!(
                file,
                "###### Maintenance, skipped {instance} at {at} ################"
            )
        }
        JobLogLine::NoTargets => writeln!(file, "!!!!!! No targets matched for {instance} !!!!!!"),
        JobLogLine::Note { text } => writeln!(file, "!!!!!! {} for {instance} !!!!!!", text.trim_end()),
    }
}

/// Output that cannot be read is no reason to lose the rest of the block.
fn write_output(reader: &Reader, output: OutputRef, file: &mut impl Write) -> io::Result<()> {
    let copied = match reader.output_len(output) {
        Ok(length) => {
            let open = |range| reader.output(output, range).map_err(io::Error::other);
            progress::copy(open, length, file)
        }
        Err(reason) => Err(CopyError::Read(io::Error::other(reason))),
    };
    match copied {
        Ok(()) => Ok(()),
        Err(CopyError::Write(error)) => Err(error),
        Err(CopyError::Read(error)) => writeln!(file, "[the output cannot be read: {error}]"),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(LOG_FILE_MODE);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(logdir) = path.parent() {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(LOG_DIRECTORY_MODE)
                    .create(logdir)?;
            }
            options.open(path)
        }
        opened => opened,
    }
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}
