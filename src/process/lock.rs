//! The lock that keeps two runs of a job apart: an flock in a directory that no other user can enter. The command
//! inherits its descriptor, so the kernel keeps it held as long as anything of the command lives, whoever was killed.
//! Must not know: processes, frames.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::process::old_lock::{self, Claim, Record};
use crate::process::order::LockRequest;
use crate::process::private;
use crate::safe_name::safe_name;

/// A lock that is held, until [`Held::release`] or until the last process with its descriptor has ended.
#[derive(Debug)]
pub struct Held {
    lock: File,
    /// Our pid in the file that a Python wrapper looks at.
    record: Option<Record>,
}

/// Takes the lock. The text of an error follows `LOCKFILE ERROR: `.
pub fn take(request: &LockRequest) -> Result<Held, String> {
    let directory = directory()?;
    let job = request.job.to_string_lossy();
    let explicit = request.path.as_deref().map(Path::new);
    let name = match explicit {
        Some(path) => name_of_path(path),
        None => default_name(&job, &request.machine.to_string_lossy()),
    };
    let lock = take_path(&directory.join(&name))?;
    if explicit.is_none() {
        refuse_former_place(&Path::new("/run/lock").join(&name))?;
    }
    let default = old_lock::default_path(&job);
    let record = match explicit.or(default.as_deref()) {
        Some(path) => old_lock::claim(Claim {
            path,
            job: &job,
            is_explicit: explicit.is_some(),
        })?,
        None => None,
    };
    Ok(Held { lock, record })
}

impl Held {
    /// What the command inherits.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Frees it, also where processes that the command left running have its descriptor.
    pub fn release(self) {
        if let Some(record) = self.record {
            record.remove();
        }
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Only this user can enter it: nobody else can lock, replace or hold open what lies there.
fn directory() -> Result<PathBuf, String> {
    let directory = if geteuid().is_root() {
        PathBuf::from("/run/sp-wrapper")
    } else {
        private::private_directory().join("sp-wrapper")
    };
    private::make_private(&directory)
        .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
    Ok(directory)
}

fn take_path(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| format!("cannot open {shown}: {}", io::Error::from(error)))?;
    let status = rustix::fs::fstat(&file).map_err(|error| format!("cannot inspect {shown}: {error}"))?;
    if !FileType::from_raw_mode(status.st_mode).is_file() {
        return Err(format!("{shown} is not a regular file; remove it"));
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(File::from(file)),
        Err(Errno::WOULDBLOCK) => Err(format!("{shown} is held by another run")),
        Err(error) => Err(format!("cannot lock {shown}: {}", io::Error::from(error))),
    }
}

/// Where an older sp-wrapper has its lock as root: a run of it may be active while the package is upgraded. A file
/// that others can open proves nothing.
fn refuse_former_place(path: &Path) -> Result<(), String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()).map(File::from) else {
        return Ok(());
    };
    let is_private = file
        .metadata()
        .is_ok_and(|found| found.is_file() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0);
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) if is_private => Err(format!("{} is held by another run", path.display())),
        _ => Ok(()),
    }
}

/// Neither name can contain a NUL: between them, encoded, it keeps `a_b` on `c` apart from `a` on `b_c`.
fn default_name(job: &str, machine: &str) -> String {
    format!("sp-wrapper_{}.lock", safe_name(&format!("{job}\0{machine}")))
}

/// Paths are bytes: each of them as a letter, so that different paths stay different.
fn name_of_path(path: &Path) -> String {
    let letters: String = path
        .as_os_str()
        .as_bytes()
        .iter()
        .map(|&byte| char::from(byte))
        .collect();
    format!("sp-wrapper_path_{}.lock", safe_name(&letters))
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
        assert!(take_path(&link).unwrap_err().contains("cannot open"));
        assert!(take_path(&directory).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_lock_outlives_its_holder_while_a_descriptor_of_it_is_open_and_ends_with_its_release() {
        let directory = scratch("inherited");
        let path = directory.join("l");
        let take = || Held {
            lock: take_path(&path).unwrap(),
            record: None,
        };
        let held = take();
        let inherited = held.descriptor().try_clone_to_owned().unwrap();
        drop(held);
        assert!(take_path(&path).unwrap_err().contains("held by another run"));
        drop(inherited);
        let held = take();
        let _inherited = held.descriptor().try_clone_to_owned().unwrap();
        held.release();
        take().release();
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn an_older_sp_wrappers_lock_counts_and_one_that_others_can_open_does_not() {
        let directory = scratch("former");
        let path = directory.join("l");
        assert!(refuse_former_place(&path).is_ok());
        let held = take_path(&path).unwrap();
        assert!(refuse_former_place(&path).is_err());
        held.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        assert!(refuse_former_place(&path).is_ok());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn each_job_on_each_machine_has_a_lock_of_its_own_however_long_their_names() {
        assert_ne!(default_name("a_b", "c"), default_name("a", "b_c"));
        let long = |machine: &str| default_name(&"j".repeat(300), &(machine.to_string() + &"m".repeat(253)));
        assert_ne!(long("a"), long("b"));
        assert!(long("a").len() < 255);
        let path = |tail: &str| name_of_path(Path::new(&("/".to_string() + &"ü".repeat(300) + tail)));
        assert_ne!(path("a"), path("b"));
        assert!(path("a").len() < 255);
    }
}
