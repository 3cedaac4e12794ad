//! What a configuration directory holds, and how a changed file is told from an unchanged one.
//! Must not know: what the files say.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Problem, Severity};
use crate::{clock, limits};

/// What the name of a job file ends with; what stands before it is the group.
pub(super) const SUFFIX: &str = ".yaml";

/// Tells a changed file from an unchanged one without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// False: so young that a further change might leave the same stamp.
    pub(super) settled: bool,
}

/// A file's content, or why there is none.
pub(super) type Content = Result<Vec<u8>, String>;

/// What a directory holds.
pub(super) struct Found {
    pub(super) files: BTreeMap<String, FileStamp>,
    pub(super) problems: Vec<Problem>,
}

/// Looks at every `*.yaml`; reads none. Hidden ones are editors' and other programs' business.
pub(super) fn list(dir: &Path) -> io::Result<Found> {
    let mut found = Found {
        files: BTreeMap::new(),
        problems: Vec::new(),
    };
    let now_us = clock::wall().0;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if has_short_suffix(&name) {
            found.problems.push(Problem {
                severity: Severity::Warning,
                ..Problem::of_file(
                    &name.to_string_lossy(),
                    None,
                    "is not read: names of job files end with .yaml; rename it".into(),
                )
            });
        }
        if !is_job_file(&name) {
            continue;
        }
        match name.into_string() {
            Ok(name) => {
                let path = dir.join(&name);
                // a link to nowhere, a directory: reading it says why it is no file
                let stamp = match fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)) {
                    Ok(metadata) => FileStamp::new(&metadata, now_us),
                    // gone since
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    // whatever else is in the way, the file is there and its jobs stay
                    Err(_) => FileStamp::unknown(),
                };
                found.files.insert(name, stamp);
            }
            Err(name) => found.problems.push(Problem::of_file(
                &name.to_string_lossy(),
                None,
                "its name is no UTF-8, not read; rename it".into(),
            )),
        }
    }
    found.problems.sort_by(|one, other| one.file.cmp(&other.file));
    Ok(found)
}

/// Whether a directory entry is a job file by its name.
pub(super) fn is_job_file(name: &OsString) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.ends_with(SUFFIX.as_bytes()) && !bytes.starts_with(b".")
}

/// Whether a directory entry looks like a job file that is not read. Hidden ones are left alone.
pub(super) fn has_short_suffix(name: &OsString) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.ends_with(b".yml") && !bytes.starts_with(b".")
}

impl FileStamp {
    fn new(metadata: &Metadata, now_us: i64) -> FileStamp {
        let changed_us = metadata.ctime().saturating_mul(1_000_000) + metadata.ctime_nsec() / 1_000;
        FileStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            settled: now_us.saturating_sub(changed_us) > limits::CONFIG_UNSETTLED_MS * 1_000,
        }
    }

    /// Of a file that cannot be examined: tried again every time.
    pub(super) fn unknown() -> FileStamp {
        FileStamp {
            device: 0,
            inode: 0,
            bytes: 0,
            modified: (0, 0),
            changed: (0, 0),
            settled: false,
        }
    }
}

/// A file's content, unless it is too large.
pub(super) fn read(path: &Path) -> Content {
    let told = |error: io::Error| format!("cannot be read: {error}");
    let too_large = || {
        Err(format!(
            "is larger than {} bytes; split it",
            limits::CONFIG_FILE_BYTES
        ))
    };
    let mut bytes = Vec::new();
    // looked at first: to open a device may do things, to open a pipe may wait for ever
    let found = fs::metadata(path).map_err(told)?;
    if !found.is_file() {
        return Err("is not a regular file".to_string());
    }
    if found.len() > limits::CONFIG_FILE_BYTES {
        return too_large();
    }
    let file = File::open(path).map_err(told)?;
    file.take(limits::CONFIG_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(told)?;
    if bytes.len() as u64 > limits::CONFIG_FILE_BYTES {
        return too_large();
    }
    Ok(bytes)
}
