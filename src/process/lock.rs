//! The lock that keeps two runs of a job apart: an flock that the kernel frees when its holder dies.
//! Must not know: processes, frames.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::process::{Pid, geteuid};

use crate::process::order::LockWish;
use crate::process::user;
use crate::safe_name::safe_name;

/// Takes the lock. The descriptor is the lock (close-on-exec); the text of an error follows `LOCKFILE ERROR: `.
pub fn take(wish: &LockWish) -> Result<OwnedFd, String> {
    let job = wish.job.to_string_lossy();
    refuse_old_holder(&job, Path::new("/tmp"))?;
    let path = match &wish.path {
        Some(path) => PathBuf::from(path),
        None => default_path(&job, &wish.machine.to_string_lossy())?,
    };
    take_path(&path)
}

fn take_path(path: &Path) -> Result<OwnedFd, String> {
    let shown = path.display();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| format!("cannot open {shown}: {}", io::Error::from(error)))?;
    let status = rustix::fs::fstat(&file).map_err(|error| format!("cannot look at {shown}: {error}"))?;
    if !FileType::from_raw_mode(status.st_mode).is_file() {
        return Err(format!("{shown} is no plain file"));
    }
    if status.st_uid != geteuid().as_raw() {
        return Err(format!(
            "{shown} belongs to uid {}, so it is not trusted; remove it",
            status.st_uid
        ));
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(format!("{shown} is held by another run")),
        Err(error) => Err(format!("cannot lock {shown}: {}", io::Error::from(error))),
    }
}

/// One per job and machine; as root in /run/lock, else in a directory of the user's own.
fn default_path(job: &str, machine: &str) -> Result<PathBuf, String> {
    let file = format!("sp-wrapper_{}_{}.lock", safe_name(job), safe_name(machine));
    if geteuid().is_root() {
        return Ok(Path::new("/run/lock").join(file));
    }
    let directory = private_directory().join("sp-wrapper");
    make_private(&directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    Ok(directory.join(file))
}

/// The user's cache directory (`$XDG_CACHE_HOME`, `~/.cache` by the user database).
pub fn private_directory() -> PathBuf {
    if let Some(cache) = std::env::var_os("XDG_CACHE_HOME").filter(|cache| cache.as_bytes().starts_with(b"/"))
    {
        return PathBuf::from(cache);
    }
    let account = user::account_of(geteuid().as_raw()).ok().flatten();
    let home = account.map_or_else(|| "/nonexistent".into(), |account| account.home);
    Path::new(&home).join(".cache")
}

/// Makes a directory that only this user may enter, with its parents, and refuses one that is somebody else's.
pub fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let found = std::fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "it is a link, somebody else's, or others may write there",
        ));
    }
    Ok(())
}

/// The Python wrapper's lock: a file with a pid. Honoured while a fleet changes over, if the file is root's (or
/// ours) and the pid lives; anybody may write to /tmp.
fn refuse_old_holder(job: &str, directory: &Path) -> Result<(), String> {
    if job.contains('/') {
        return Ok(());
    }
    let path = directory.join(format!("sp_wrapper_{job}.lock"));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()) else {
        return Ok(());
    };
    let trusted = rustix::fs::fstat(&file).is_ok_and(|status| {
        FileType::from_raw_mode(status.st_mode).is_file()
            && (status.st_uid == 0 || status.st_uid == geteuid().as_raw())
    });
    if !trusted {
        return Ok(());
    }
    let mut text = [0u8; 32];
    let length = rustix::io::read(&file, &mut text).unwrap_or(0);
    match pid_in(&text[..length]).filter(|&pid| lives(pid)) {
        Some(pid) => Err(format!(
            "{} names pid {}, which is running",
            path.display(),
            pid.as_raw_nonzero()
        )),
        None => Ok(()),
    }
}

fn pid_in(text: &[u8]) -> Option<Pid> {
    let text = std::str::from_utf8(text).ok()?;
    Pid::from_raw(text.trim().parse().ok().filter(|&pid: &i32| pid > 1)?)
}

/// Alive, and root's or ours: a recycled pid of somebody else does not count.
fn lives(pid: Pid) -> bool {
    use std::os::unix::fs::MetadataExt;
    let entry = Path::new("/proc").join(OsStr::new(&pid.as_raw_nonzero().to_string()));
    std::fs::metadata(entry).is_ok_and(|entry| entry.uid() == 0 || entry.uid() == geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("sp-lock-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_lock_excludes_until_it_is_dropped_and_links_are_not_followed() {
        let directory = scratch("excludes");
        let path = directory.join("l");
        let held = take_path(&path).unwrap();
        assert!(take_path(&path).unwrap_err().contains("held by another run"));
        drop(held);
        drop(take_path(&path).unwrap());
        let link = directory.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(take_path(&link).is_err());
        assert!(take_path(&directory).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_living_pid_in_the_old_lock_is_honoured_and_a_dead_one_is_not() {
        let directory = scratch("old");
        assert!(refuse_old_holder("j", &directory).is_ok());
        std::fs::write(
            directory.join("sp_wrapper_j.lock"),
            format!("{}\n", std::process::id()),
        )
        .unwrap();
        assert!(
            refuse_old_holder("j", &directory)
                .unwrap_err()
                .contains("which is running")
        );
        for stale in ["", "x", "2147483000", "-5"] {
            std::fs::write(directory.join("sp_wrapper_j.lock"), stale).unwrap();
            assert!(refuse_old_holder("j", &directory).is_ok(), "{stale}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
