//! Day files: `output-YYYY-MM-DD.db`, by the UTC day on which a run started. Rows are appended, and removed only
//! from the front of a tail. Must not know: facts, groups, acknowledgments.
//!
//! A row belongs to the head if it begins before half of the run's `output_limit`, else to the tail.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{NaiveDate, TimeDelta};
use rusqlite::{Connection, OptionalExtension, params};

use crate::engine::id::MachineRunId;
use crate::engine::record::{OutputPosition, OutputRow};
use crate::limits;

use super::{directory, schema, text};

/// Day files that are open for writing, the latest used last.
pub(super) struct DayFiles {
    state_dir: PathBuf,
    open: Vec<OpenDay>,
}

/// A day file that is open.
struct OpenDay {
    day: i64,
    connection: Connection,
    /// Written to its WAL since that was last moved into the file (estimated).
    wal_bytes: usize,
}

/// Why a day file could not be written.
#[derive(Debug)]
pub(super) enum OutputError {
    Sqlite(i64, rusqlite::Error),
    Io(i64, io::Error),
}

impl DayFiles {
    /// Opens nothing yet.
    pub(super) fn new(state_dir: &Path) -> DayFiles {
        DayFiles {
            state_dir: state_dir.to_path_buf(),
            open: Vec::new(),
        }
    }

    /// Starts a transaction on that day's file; the file is made if it is not there.
    pub(super) fn begin(&mut self, day: i64) -> Result<&Connection, OutputError> {
        let connection = self.connection(day)?;
        connection
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut begin| begin.execute([]))
            .map_err(|error| OutputError::Sqlite(day, error))?;
        Ok(connection)
    }

    /// Counts what a commit has put into that day's WAL: the rows, and a page or two that they begin on.
    pub(super) fn count_written(&mut self, day: i64, bytes: usize) {
        let pages_bytes = 2 * schema::OUTPUT_LAYOUT.page_bytes as usize;
        for open in self.open.iter_mut().filter(|open| open.day == day) {
            open.wal_bytes += bytes + pages_bytes;
        }
    }

    /// Moves WALs that have grown into their files. Takes some 100 ms where it does anything: called when everyone who
    /// waited for the last commit has been told. A failure is none: the rows are safe in the WAL, and the next time is soon.
    pub(super) fn checkpoint(&mut self) {
        for open in &mut self.open {
            if open.wal_bytes < limits::OUTPUT_WAL_BYTES {
                continue;
            }
            open.wal_bytes = 0;
            let moved = open
                .connection
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            if let Err(error) = moved {
                log::debug!("'{}' keeps its WAL for now: {error}", name_of_day(open.day));
            }
        }
    }

    /// That day's file for reading; None: there is no such file.
    pub(super) fn existing(&mut self, day: i64) -> Result<Option<&Connection>, OutputError> {
        let is_open = self.open.iter().any(|open| open.day == day);
        if !is_open && !path_of_day(&self.state_dir, day).exists() {
            return Ok(None);
        }
        self.connection(day).map(Some)
    }

    /// Closes that day's file.
    pub(super) fn close(&mut self, day: i64) {
        self.open.retain(|open| open.day != day);
    }

    fn connection(&mut self, day: i64) -> Result<&Connection, OutputError> {
        match self.open.iter().position(|open| open.day == day) {
            Some(last) if last + 1 == self.open.len() => {}
            Some(at) => {
                let used = self.open.remove(at);
                self.open.push(used);
            }
            None => {
                let path = path_of_day(&self.state_dir, day);
                make_file(&path).map_err(|error| OutputError::Io(day, error))?;
                let connection = schema::open(&path, &schema::OUTPUT_LAYOUT)
                    .map_err(|error| OutputError::Sqlite(day, error))?;
                if self.open.len() >= limits::OPEN_DAY_FILES {
                    self.open.remove(0);
                }
                self.open.push(OpenDay {
                    day,
                    connection,
                    wal_bytes: 0,
                });
            }
        }
        Ok(&self.open[self.open.len() - 1].connection)
    }
}

impl OutputError {
    /// One line that names the file.
    pub(super) fn describe(&self) -> String {
        match self {
            OutputError::Sqlite(day, error) => format!("writing '{}': {error}", name_of_day(*day)),
            OutputError::Io(day, error) => format!("making '{}': {error}", name_of_day(*day)),
        }
    }
}

/// The file of a day (days since the epoch).
pub(super) fn path_of_day(state_dir: &Path, day: i64) -> PathBuf {
    state_dir.join(name_of_day(day))
}

/// Every day that has a file.
pub(super) fn days(state_dir: &Path) -> io::Result<BTreeSet<i64>> {
    let mut days = BTreeSet::new();
    for entry in std::fs::read_dir(state_dir)? {
        days.extend(entry?.file_name().to_str().and_then(day_of_name));
    }
    Ok(days)
}

/// Removes a file's WAL and its index.
pub(super) fn remove_side_files(path: &Path) -> io::Result<()> {
    for suffix in ["-wal", "-shm"] {
        let mut side = path.as_os_str().to_os_string();
        side.push(suffix);
        match std::fs::remove_file(&side) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn make_file(path: &Path) -> io::Result<()> {
    if !path.exists() {
        // a removal that was cut short leaves the WAL of another file: it must never be read into this one
        remove_side_files(path)?;
    }
    directory::make_private_file(path)
}

/// Appends a row within the open transaction.
pub(super) fn insert(connection: &Connection, row: &OutputRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO output(machine_run, row, seq, byte_offset, utf16_offset, data) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            row.machine_run.0 as i64,
            row.row as i64,
            row.seq.map(|seq| seq as i64),
            row.byte_offset as i64,
            row.utf16_offset as i64,
            row.data.bytes(),
        ])?;
    Ok(())
}

/// Removes the rows below `below` that belong to the tail.
pub(super) fn trim(
    connection: &Connection,
    machine_run: MachineRunId,
    limit_bytes: u64,
    below: u64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM output WHERE machine_run = ?1 AND byte_offset >= ?2 AND row < ?3")?
        .execute(params![
            machine_run.0 as i64,
            (limit_bytes / 2) as i64,
            below as i64
        ])?;
    Ok(())
}

/// Where a machine run's output stands.
pub(super) fn position(
    connection: &Connection,
    machine_run: MachineRunId,
    limit_bytes: u64,
) -> rusqlite::Result<OutputPosition> {
    let last = connection
        .prepare_cached(
            "SELECT row, seq, byte_offset, utf16_offset, data FROM output WHERE machine_run = ?1
             ORDER BY byte_offset DESC, row DESC LIMIT 1",
        )?
        .query_row([machine_run.0 as i64], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Option<i64>>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, i64>(3)?,
                row.get::<_, Vec<u8>>(4)?,
            ))
        })
        .optional()?;
    let Some((row, seq, byte_offset, utf16_offset, data)) = last else {
        return Ok(OutputPosition::default());
    };
    let before = match byte_offset {
        0 => Vec::new(),
        _ => bytes_before(connection, machine_run, row, byte_offset)?,
    };
    // a sequence that the rows before left open counts where it is completed
    let carried = text::cut_at_end(&before);
    let joined = [&before[before.len() - carried..], &data].concat();
    let around = [before.as_slice(), &data].concat();
    let end_bytes = byte_offset as u64 + data.len() as u64;
    Ok(OutputPosition {
        next_seq: seq.map_or(0, |seq| seq as u64 + 1),
        next_row: row as u64 + 1,
        bytes: end_bytes,
        utf16: utf16_offset as u64 + text::utf16_units(&joined),
        last_bytes: around[around.len().saturating_sub(KEPT_BYTES)..].to_vec(),
        tail_from_row: if limit_bytes > 0 && end_bytes > limit_bytes / 2 {
            tail_from_row(connection, machine_run, limit_bytes)?
        } else {
            None
        },
    })
}

/// The highest machine run that has a row.
pub(super) fn highest_machine_run(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT max(machine_run) FROM output", [], |row| row.get(0))
}

/// [`OutputPosition::last_bytes`] has at most this many.
const KEPT_BYTES: usize = 4;

/// Up to 4 bytes of the stream before the row `row` that begins at `byte_offset`, as far as they are kept.
pub(super) fn bytes_before(
    connection: &Connection,
    machine_run: MachineRunId,
    row: i64,
    byte_offset: i64,
) -> rusqlite::Result<Vec<u8>> {
    let mut statement = connection.prepare_cached(
        "SELECT byte_offset, length(data), substr(data, -4) FROM output
         WHERE machine_run = ?1 AND byte_offset <= ?2 AND row < ?3 ORDER BY byte_offset DESC, row DESC",
    )?;
    let mut rows = statement.query(params![machine_run.0 as i64, byte_offset, row])?;
    let mut before = Vec::new();
    let mut begins_at = byte_offset;
    while before.len() < KEPT_BYTES
        && let Some(row) = rows.next()?
    {
        let (offset, length): (i64, i64) = (row.get(0)?, row.get(1)?);
        if offset + length != begins_at {
            break;
        }
        before = [row.get_ref(2)?.as_blob()?, &before].concat();
        begins_at = offset;
    }
    Ok(before)
}

fn tail_from_row(
    connection: &Connection,
    machine_run: MachineRunId,
    limit_bytes: u64,
) -> rusqlite::Result<Option<u64>> {
    let row: Option<i64> = connection
        .prepare_cached(
            "SELECT row FROM output WHERE machine_run = ?1 AND byte_offset >= ?2 ORDER BY byte_offset, row LIMIT 1",
        )?
        .query_row(params![machine_run.0 as i64, (limit_bytes / 2) as i64], |row| row.get(0))
        .optional()?;
    Ok(row.map(|row| row as u64))
}

fn name_of_day(day: i64) -> String {
    let date = NaiveDate::default() + TimeDelta::days(day.clamp(-MOST_DAYS, MOST_DAYS));
    format!("output-{}.db", date.format("%Y-%m-%d"))
}

/// Within chrono's calendar: a clock in the year 9000 must not cause a panic.
const MOST_DAYS: i64 = 90_000_000;

fn day_of_name(name: &str) -> Option<i64> {
    let date = name.strip_prefix("output-")?.strip_suffix(".db")?;
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    Some((date - NaiveDate::default()).num_days())
}
