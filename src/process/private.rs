//! Directories that only one user can enter: where they lie, and making them without trusting what is there.
//! Must not know: what is kept in them.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::process::user;

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
            return Err(io::Error::other(format!(
                "{} belongs to uid {owner}, so it is not trusted; remove it",
                path.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("sp-private-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
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
}
