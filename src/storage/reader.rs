//! Connections for reading: read-only, opened when first needed, kept; no read blocks a commit.
//! Must not know: tables, HTTP, the storage thread.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::limits;

use super::{output, schema};

/// Reads what is stored. A clone opens its own connections.
pub struct Reader {
    state_dir: PathBuf,
    state: RefCell<Option<Connection>>,
    /// Day files, the latest used last.
    days: RefCell<Vec<OpenDay>>,
}

/// A day file open for reading.
struct OpenDay {
    day: i64,
    /// Inode of the file when it was opened: retention may have removed the file since.
    inode: u64,
    connection: Connection,
}

impl Clone for Reader {
    fn clone(&self) -> Reader {
        Reader::new(&self.state_dir)
    }
}

impl Reader {
    pub(super) fn new(state_dir: &Path) -> Reader {
        Reader {
            state_dir: state_dir.to_path_buf(),
            state: RefCell::new(None),
            days: RefCell::new(Vec::new()),
        }
    }

    /// Asks that day's file; None: there is no such file (any more).
    pub(super) fn with_day<T>(
        &self,
        day: i64,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, String> {
        let path = output::path_of_day(&self.state_dir, day);
        let mut days = self.days.borrow_mut();
        let inode = inode_of(&path);
        days.retain(|open| open.day != day || Some(open.inode) == inode);
        let Some(inode) = inode else {
            return Ok(None);
        };
        let asked = match days.iter().position(|open| open.day == day) {
            Some(at) => {
                let used = days.remove(at);
                days.push(used);
                Ok(true)
            }
            None => open_day(&path, day, inode).map(|opened| {
                let is_open = opened.is_some();
                if days.len() >= limits::OPEN_DAY_FILES {
                    days.remove(0);
                }
                days.extend(opened);
                is_open
            }),
        }
        .and_then(|is_open| match days.last() {
            Some(open) if is_open => ask(&open.connection).map(Some),
            _ => Ok(None),
        });
        match asked {
            // retention has removed it meanwhile, and its side files with it
            Err(_) if inode_of(&path) != Some(inode) => Ok(None),
            asked => asked.map_err(|error| schema::describe(&path, &error)),
        }
    }

    pub(super) fn with_state<T>(
        &self,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, String> {
        let path = self.state_dir.join("state.db");
        let mut state = self.state.borrow_mut();
        let connection = match state.take() {
            Some(connection) => connection,
            None => schema::open_for_reading(&path)
                .map_err(|error| schema::describe(&path, &error))?
                .ok_or_else(|| format!("'{}' is gone: restart the daemon", path.display()))?,
        };
        let answer = ask(&connection).map_err(|error| schema::describe(&path, &error));
        *state = Some(connection);
        answer
    }
}

/// None: there is no such file, or it was created a moment ago and has no tables yet.
fn open_day(path: &Path, day: i64, inode: u64) -> rusqlite::Result<Option<OpenDay>> {
    let Some(connection) = schema::open_for_reading(path)? else {
        return Ok(None);
    };
    let open = OpenDay {
        day,
        inode,
        connection,
    };
    Ok(schema::has_tables(&open.connection)?.then_some(open))
}

fn inode_of(path: &Path) -> Option<u64> {
    fs::metadata(path).map(|found| found.ino()).ok()
}
