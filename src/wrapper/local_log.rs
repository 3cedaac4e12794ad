//! The wrapper's own log, one file per job, and the last resort for output that could not be delivered.
//! A directory that cannot be written to never stops a run. Must not know: what is worth a line.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;
use rustix::fs::OFlags;

use crate::clock;
use crate::limits;
use crate::safe_name::safe_name;

/// Opens `<directory>/<job>.log` and sends the crate's log there from now on. The file that undeliverable
/// output goes to, if one can be opened at all.
pub fn open(directory: &OsStr, job: &str, level: LevelFilter) -> Option<File> {
    let path = Path::new(directory).join(format!("{}.log", safe_name(job)));
    let _ = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory);
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32 | OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .ok()?;
    let for_output = file.try_clone().ok();
    let local_log = LocalLog {
        file: Mutex::new(file),
        pid: std::process::id(),
    };
    if log::set_boxed_logger(Box::new(local_log)).is_ok() {
        log::set_max_level(level);
    }
    for_output
}

struct LocalLog {
    file: Mutex<File>,
    pid: u32,
}

impl Log for LocalLog {
    /// Only our own lines: a library's trace may hold frames, and frames hold commands.
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with("saltpeter")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = format!(
            "{} [{}] {} {}",
            clock::wall().iso(),
            self.pid,
            record.level(),
            record.args()
        );
        if line.len() > limits::LOG_LINE_BYTES {
            let end = (0..=limits::LOG_LINE_BYTES)
                .rev()
                .find(|&at| line.is_char_boundary(at));
            line.truncate(end.unwrap_or(0));
        }
        let line = line.replace('\n', "\\n") + "\n";
        // a full disk must not stop a run
        let _ = self.file.lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
