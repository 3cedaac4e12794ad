//! The lock that keeps two runs of a job apart: an flock that the kernel frees when its holder dies.
//! Must not know: processes, frames.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
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
        .map_err(|error| why_not_opened(path, error.into()))?;
    let status = rustix::fs::fstat(&file).map_err(|error| format!("cannot look at {shown}: {error}"))?;
    if !FileType::from_raw_mode(status.st_mode).is_file() {
        return Err(format!("{shown} is no plain file"));
    }
    if status.st_uid != geteuid().as_raw() {
        return Err(not_ours(path, status.st_uid));
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(format!("{shown} is held by another run")),
        Err(error) => Err(format!("cannot lock {shown}: {}", io::Error::from(error))),
    }
}

/// The kernel refuses another's file in a directory for all (`fs.protected_regular`) before its owner could be looked at.
fn why_not_opened(path: &Path, error: io::Error) -> String {
    use std::os::unix::fs::MetadataExt;
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => format!("{shown} is a link, which is not followed; remove it"),
        Ok(found) if found.uid() != geteuid().as_raw() => not_ours(path, found.uid()),
        _ => format!("cannot open {shown}: {error}"),
    }
}

fn not_ours(path: &Path, owner: u32) -> String {
    let shown = path.display();
    format!("{shown} belongs to uid {owner}, so it is not trusted; remove it")
}

/// One per job and machine; as root in /run/lock, else in a directory of the user's own.
fn default_path(job: &str, machine: &str) -> Result<PathBuf, String> {
    let file = default_name(job, machine);
    if geteuid().is_root() {
        let directory = Path::new("/run/lock");
        // small containers come without it; should that fail, opening the file says why
        let _ = std::fs::create_dir_all(directory);
        return Ok(directory.join(file));
    }
    let directory = private_directory().join("sp-wrapper");
    make_private(&directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    Ok(directory.join(file))
}

/// Neither name can hold a NUL: between them, encoded, it keeps `a_b` on `c` apart from `a` on `b_c`.
fn default_name(job: &str, machine: &str) -> String {
    format!("sp-wrapper_{}.lock", safe_name(&format!("{job}\0{machine}")))
}

/// Where this user's own files lie (`$XDG_CACHE_HOME`, `~/.cache` by the user database). A user without a home gets a
/// directory in `/var/tmp`.
pub fn private_directory() -> PathBuf {
    let uid = geteuid().as_raw();
    let home = user::account_of(uid).ok().flatten().map(|account| account.home);
    private_directory_of(uid, std::env::var_os("XDG_CACHE_HOME"), home)
}

fn private_directory_of(uid: u32, cache: Option<OsString>, home: Option<OsString>) -> PathBuf {
    if let Some(cache) = cache.map(PathBuf::from).filter(|cache| cache.is_absolute()) {
        return cache;
    }
    match home.map(PathBuf::from).filter(|home| home.is_dir()) {
        Some(home) => home.join(".cache"),
        None => PathBuf::from(format!("/var/tmp/sp-wrapper-{uid}")),
    }
}

/// Makes a directory that only this user may enter, with its parents, and refuses one that is somebody else's or lies
/// below what somebody else has in a directory for all (`/var/tmp`).
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
    // its owner could swap all that lies below it while a lock is held
    for (path, parent) in directory.ancestors().zip(directory.ancestors().skip(1)) {
        if !std::fs::metadata(parent).is_ok_and(|parent| parent.mode() & 0o1002 == 0o1002) {
            continue;
        }
        let owner = std::fs::symlink_metadata(path)?.uid();
        if owner != 0 && owner != geteuid().as_raw() {
            return Err(io::Error::other(not_ours(path, owner)));
        }
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
        assert!(
            take_path(&link)
                .unwrap_err()
                .ends_with("is a link, which is not followed; remove it")
        );
        assert!(take_path(&directory).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn another_users_file_is_named_as_such_wherever_it_lies() {
        if !geteuid().is_root() {
            return eprintln!("SKIPPED: needs root");
        }
        let directory = scratch("foreign");
        let path = directory.join("l");
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        for mode in [0o755, 0o1777] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&directory, mode).unwrap();
            let error = take_path(&path).unwrap_err();
            assert!(
                error.ends_with("belongs to uid 65534, so it is not trusted; remove it"),
                "{error}"
            );
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn each_job_on_each_machine_has_a_lock_of_its_own_however_long_their_names() {
        assert_ne!(default_name("a_b", "c"), default_name("a", "b_c"));
        let long = |machine: &str| default_name(&"j".repeat(300), &(machine.to_string() + &"m".repeat(253)));
        assert_ne!(long("a"), long("b"));
        assert!(long("a").len() < 255);
    }

    #[test]
    fn a_user_without_a_home_has_a_private_directory_all_the_same() {
        let directory = |cache: &str, home: Option<&str>| {
            private_directory_of(7, Some(cache.into()), home.map(OsString::from))
        };
        assert_eq!(directory("/c", Some("/")), Path::new("/c"));
        assert_eq!(directory("c", Some("/")), Path::new("/.cache"));
        let own = Path::new("/var/tmp/sp-wrapper-7");
        assert_eq!(directory("", Some("/nonexistent")), own);
        assert_eq!(directory("", None), own);
    }

    #[test]
    fn nothing_is_trusted_below_what_another_user_has_in_a_directory_for_all() {
        if !geteuid().is_root() {
            return eprintln!("SKIPPED: needs root");
        }
        let for_all = scratch("for-all");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(&for_all, mode).unwrap();
        let base = for_all.join("sp-wrapper-0");
        let own = base.join("sp-wrapper").join("spool");
        make_private(&own).unwrap();
        make_private(&own).unwrap();
        std::os::unix::fs::chown(&base, Some(65534), None).unwrap();
        let error = make_private(&own).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{} belongs to uid 65534", base.display())),
            "{error}"
        );
        std::fs::remove_dir_all(for_all).unwrap();
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
