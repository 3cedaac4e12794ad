//! `state_dir` itself: its permissions, its lock, its reserve of disk space, private files in it.
//! Must not know: what the files contain.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::process::{Pid, test_kill_process};

use crate::clock;
use crate::limits;
use crate::wake;

const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// Mode bits of the group, of others, and the sticky bit.
const SHARED_BITS: u32 = 0o077;
const STICKY_BIT: u32 = 0o1000;

/// A directory that this process alone uses until it is dropped.
pub(super) struct StateDir {
    path: PathBuf,
    // the kernel frees the lock with the descriptor, however the process ends
    _lock: File,
}

/// Disk space held back for facts (rules.md 16).
pub(super) struct Reserve {
    path: PathBuf,
    is_made: bool,
}

impl StateDir {
    /// Makes the directory if only its last component is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<StateDir, String> {
        make_private_directory(path)?;
        let lock = take_lock(path)?;
        Ok(StateDir {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Reserve {
    /// The reserve of `state_dir`, not made yet.
    pub(super) fn of(state_dir: &Path) -> Reserve {
        Reserve {
            path: state_dir.join("reserve"),
            is_made: false,
        }
    }

    pub(super) fn is_made(&self) -> bool {
        self.is_made
    }

    /// Takes the space. Fails when there is not that much; then nothing is taken.
    pub(super) fn make(&mut self) -> io::Result<()> {
        if self.is_made {
            return Ok(());
        }
        let file = private_file(&self.path)?;
        let taken = fallocate(&file, FallocateFlags::empty(), 0, limits::DISK_RESERVE_BYTES);
        match taken {
            // a file system that cannot do it: zeros do the same
            Err(rustix::io::Errno::OPNOTSUPP) => fill_with_zeros(file),
            other => other.map_err(io::Error::from),
        }
        .inspect_err(|_| self.release())?;
        self.is_made = true;
        Ok(())
    }

    /// Gives the space back.
    pub(super) fn release(&mut self) {
        self.is_made = false;
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            log::error!(
                "cannot free the reserve '{}' ({error}): remove it by hand",
                self.path.display()
            );
        }
    }
}

/// Makes an empty 0600 file appear under `path` in one step, so that it is never seen with other permissions. Leaves an
/// existing one alone.
pub(super) fn make_private_file(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    // SQLite's locks are lost when any descriptor of the file is closed in this process: close ours before the
    // file has its name
    let mut unnamed = path.as_os_str().to_os_string();
    unnamed.push(".new");
    drop(private_file(Path::new(&unnamed))?);
    fs::rename(&unnamed, path)?;
    sync_parent(path)
}

/// Makes a new, renamed or removed name durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE_FILE)
        .open(path)
}

fn fill_with_zeros(mut file: File) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut left = limits::DISK_RESERVE_BYTES as usize;
    while left > 0 {
        let part = left.min(zeros.len());
        file.write_all(&zeros[..part])?;
        left -= part;
    }
    file.sync_all()
}

fn make_private_directory(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match DirBuilder::new().mode(PRIVATE_DIRECTORY).create(path) {
        Ok(()) => {
            return sync_parent(path).map_err(|error| format!("cannot make state_dir '{shown}': {error}"));
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(format!(
                "cannot make state_dir '{shown}': the directory above it does not exist; make it, or set another \
                 state_dir"
            ));
        }
        Err(error) => {
            return Err(format!(
                "cannot make state_dir '{shown}': {error}; set a state_dir that this user can write"
            ));
        }
    }
    let found = fs::metadata(path).map_err(|error| format!("cannot look at state_dir '{shown}': {error}"))?;
    if !found.is_dir() {
        return Err(format!(
            "state_dir '{shown}' is not a directory; set another state_dir"
        ));
    }
    make_existing_private(path, &found)
}

/// An existing directory is narrowed to 0700 only where it can only be ours: never `/tmp`.
fn make_existing_private(path: &Path, found: &fs::Metadata) -> Result<(), String> {
    let mode = found.mode();
    let shown = path.display();
    if mode & STICKY_BIT != 0 || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!(
            "state_dir '{shown}' belongs to others too (mode {:o}, owner {}); set a directory of saltpeter's own",
            mode & 0o7777,
            found.uid()
        ));
    }
    if mode & SHARED_BITS != 0 {
        let narrowed = fs::Permissions::from_mode(PRIVATE_DIRECTORY);
        fs::set_permissions(path, narrowed)
            .map_err(|error| format!("cannot make state_dir '{shown}' private (0700): {error}"))?;
    }
    Ok(())
}

/// The process that took the lock last, as it wrote down itself.
fn holder(lock: &mut File) -> Option<i32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn is_alive(pid: i32) -> bool {
    let Some(pid) = Pid::from_raw(pid) else {
        return false;
    };
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

pub(super) fn take_lock(state_dir: &Path) -> Result<File, String> {
    let shown = state_dir.display();
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        .open(state_dir.join("lock"))
        .map_err(|error| {
            format!("cannot write in state_dir '{shown}': {error}; mend its rights or set another state_dir")
        })?;
    let deadline = clock::mono().plus_ms(limits::STATE_LOCK_WAIT_MS);
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(format!("cannot lock state_dir '{shown}': {error}")),
        }
        let holder = holder(&mut lock);
        // one that was killed holds it no longer than a child of it takes from fork to exec
        if clock::mono() < deadline && holder.is_some_and(|pid| !is_alive(pid)) {
            // nothing tells when a lock is free
            let _ = wake::poll_any(&[], Some(limits::STATE_LOCK_POLL_MS));
            continue;
        }
        let holder = holder.map_or("unknown".to_string(), |pid| pid.to_string());
        return Err(format!(
            "state_dir '{shown}' is in use by another saltpeter (pid {holder}); stop it, or set another state_dir"
        ));
    }
    // a full disk must not keep the daemon from starting: the pid is only for people
    let _ = lock.set_len(0);
    let _ = lock.rewind();
    let _ = lock.write_all(format!("{}\n", std::process::id()).as_bytes());
    Ok(lock)
}
