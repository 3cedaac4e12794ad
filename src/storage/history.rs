//! Reads for the API and the job log: runs, one run, one machine's output. Each reader has connections of its own,
//! read-only and opened when first needed; no read holds up a commit. Must not know: HTTP, the storage thread.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

use crate::clock::Wall;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::record::{MachineCounts, OutputPosition, RunRecord, StoredRun};
use crate::limits;

use super::facts::{self, RUN_COLUMNS};
use super::stream::{self, OutputShape, OutputStream};
use super::{output, recover, schema, text};

/// Which runs. Every field that is set narrows the choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    pub job: Option<String>,
    pub group: Option<String>,
    /// Runs with a machine run on this machine.
    pub machine: Option<String>,
    pub outcome: Option<RunOutcome>,
    /// Started at or after.
    pub from: Option<Wall>,
    /// Started before.
    pub until: Option<Wall>,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    Unfinished,
    Succeeded,
    Failed,
    /// Ended, and said nothing about success: all its machines were in maintenance.
    Skipped,
}

/// The little that a list of recent runs shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brief {
    pub instance: String,
    pub started: Wall,
    /// None: it has not ended.
    pub ended: Option<Wall>,
    /// None: it has not ended, or all its machines were in maintenance.
    pub success: Option<bool>,
    /// None: it has not ended.
    pub counts: Option<MachineCounts>,
}

/// How the machines of a run have ended; those that do not count are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Exit codes, and how many have each. None: not ended.
    pub retcodes: Vec<(Option<i32>, u32)>,
    /// The first that failed, by name.
    pub failed: Vec<(String, i32)>,
}

/// Which part of a long answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Only runs older than this one (the last of the page before).
    pub before: Option<RunId>,
    /// At most so many.
    pub limit: usize,
}

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
    /// The file that it was when it was opened: retention may have removed it since.
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

    /// Runs that match, newest first (at most [`limits::HISTORY_PAGE`]).
    pub fn runs(&self, filter: &RunFilter, page: Page) -> Result<Vec<RunRecord>, String> {
        let (condition, values) = conditions(filter, page);
        let limit = page.limit.min(limits::HISTORY_PAGE);
        self.with_state(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {RUN_COLUMNS} FROM runs JOIN specs ON specs.id = runs.spec {condition}
                     ORDER BY runs.id DESC LIMIT {limit}"
                ))?
                .query_map(params_from_iter(values), facts::run_of_row)?
                .collect()
        })
    }

    /// A job's latest runs in brief, newest first.
    pub fn recent(&self, job: &str, limit: usize) -> Result<Vec<Brief>, String> {
        self.with_state(|connection| {
            connection
                .prepare_cached(
                    "SELECT instance, started, ended, success, total, failed FROM runs WHERE job = ?1
                     ORDER BY id DESC LIMIT ?2",
                )?
                .query_map(params![job, limit.min(limits::HISTORY_PAGE) as i64], |row| {
                    Ok(Brief {
                        instance: row.get(0)?,
                        started: Wall(row.get(1)?),
                        ended: row.get::<_, Option<i64>>(2)?.map(Wall),
                        success: row.get(3)?,
                        counts: facts::counts(row, 4)?,
                    })
                })?
                .collect()
        })
    }

    /// How a run's machines have ended, and the first `failed` that did not end well.
    pub fn tally(&self, instance: &str, failed: usize) -> Result<Tally, String> {
        self.with_state(|connection| {
            let retcodes = connection
                .prepare_cached(
                    "SELECT m.retcode, count(*) FROM machine_runs m JOIN runs r ON m.run = r.id
                     WHERE r.instance = ?1 AND NOT m.not_counted GROUP BY m.retcode",
                )?
                .query_map([instance], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let failed = connection
                .prepare_cached(
                    "SELECT m.machine, m.retcode FROM machine_runs m JOIN runs r ON m.run = r.id
                     WHERE r.instance = ?1 AND NOT m.not_counted AND m.retcode <> 0 ORDER BY m.machine LIMIT ?2",
                )?
                .query_map(params![instance, failed as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Tally { retcodes, failed })
        })
    }

    /// One run with its machine runs and where their outputs stand; None: no such run.
    pub fn run(&self, instance: &str) -> Result<Option<StoredRun>, String> {
        let found = self.with_state(|connection| {
            let Some(run) = recover::run(connection, instance)? else {
                return Ok(None);
            };
            let machines = recover::machines(connection, &run)?;
            Ok(Some((run, machines)))
        })?;
        let Some((run, machines)) = found else {
            return Ok(None);
        };
        let limit_bytes = run.spec.output_limit_bytes;
        let positions = self.with_day(recover::day_of(run.started), |file| {
            machines
                .iter()
                .map(|machine| output::position(file, machine.id, limit_bytes))
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let positions = positions.into_iter().flatten();
        let positions = positions.chain(std::iter::repeat_with(OutputPosition::default));
        let machines = machines.into_iter().zip(positions).collect();
        Ok(Some(StoredRun { run, machines }))
    }

    /// Lengths of an output as it is presented. `limit_bytes` is the job's `output_limit` (0: none). An output
    /// that was never stored, or whose day file is gone, is empty.
    pub fn output_shape(
        &self,
        machine_run: MachineRunId,
        day: i64,
        limit_bytes: u64,
    ) -> Result<OutputShape, String> {
        let shape = self.with_day(day, |file| stream::shape(file, machine_run, limit_bytes))?;
        Ok(shape.unwrap_or_default())
    }

    /// Bytes of an output as it is presented: what ranges refer to.
    pub fn output_len(&self, machine_run: MachineRunId, day: i64, limit_bytes: u64) -> Result<u64, String> {
        Ok(self
            .output_shape(machine_run, day, limit_bytes)?
            .presented_bytes())
    }

    /// An output as it is presented, or the part of it in `range`, to be read piece by piece.
    pub fn output(
        &self,
        machine_run: MachineRunId,
        day: i64,
        limit_bytes: u64,
        range: Range<u64>,
    ) -> Result<OutputStream<'_>, String> {
        let shape = self.output_shape(machine_run, day, limit_bytes)?;
        Ok(OutputStream::new(self, machine_run, day, shape, range))
    }

    /// Writes the part of an output in `range` to `into`, never holding the whole. Returns the bytes written.
    pub fn read_output(
        &self,
        machine_run: MachineRunId,
        day: i64,
        limit_bytes: u64,
        range: Range<u64>,
        into: &mut impl Write,
    ) -> io::Result<u64> {
        let mut stream = self
            .output(machine_run, day, limit_bytes, range)
            .map_err(io::Error::other)?;
        io::copy(&mut stream, into)
    }

    /// The last `bytes` of an output as it is presented (not starting within a UTF-8 sequence), and whether
    /// anything stands before them.
    pub fn output_tail(
        &self,
        machine_run: MachineRunId,
        day: i64,
        limit_bytes: u64,
        bytes: usize,
    ) -> Result<(Vec<u8>, bool), String> {
        let length = self.output_len(machine_run, day, limit_bytes)?;
        let from = length.saturating_sub(bytes as u64);
        let mut tail = Vec::with_capacity((length - from) as usize);
        self.read_output(machine_run, day, limit_bytes, from..length, &mut tail)
            .map_err(|error| error.to_string())?;
        if from > 0 {
            tail.drain(..text::cut_at_start(&tail));
        }
        Ok((tail, from > 0))
    }

    /// Stored bytes of an output from offset `at` of the whole stream on, as many as are read in one go, `wanted` at
    /// least where so many follow without a gap; empty: that byte is not stored (yet, or any more).
    pub fn stored_output(
        &self,
        machine_run: MachineRunId,
        day: i64,
        at: u64,
        wanted: usize,
    ) -> Result<Vec<u8>, String> {
        let read = self.with_day(day, |file| stream::read_from(file, machine_run, at, wanted))?;
        Ok(read.unwrap_or_default())
    }

    /// Asks that day's file; None: there is no such file (any more).
    pub(super) fn with_day<T>(
        &self,
        day: i64,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, String> {
        let path = output::path_of_day(&self.state_dir, day);
        let mut days = self.days.borrow_mut();
        let inode = fs::metadata(&path).map(|found| found.ino()).ok();
        days.retain(|open| open.day != day || Some(open.inode) == inode);
        let Some(inode) = inode else {
            return Ok(None);
        };
        if let Some(at) = days.iter().position(|open| open.day == day) {
            let used = days.remove(at);
            days.push(used);
        } else {
            let opened = schema::open_for_reading(&path).map_err(|error| recover::describe(&path, &error))?;
            let Some(connection) = opened else {
                return Ok(None);
            };
            if days.len() >= limits::OPEN_DAY_FILES {
                days.remove(0);
            }
            days.push(OpenDay {
                day,
                inode,
                connection,
            });
        }
        match ask(&days[days.len() - 1].connection) {
            Ok(answer) => Ok(Some(answer)),
            // made a moment ago: its tables are not there yet
            Err(error) if error.to_string().starts_with("no such table") => Ok(None),
            Err(error) => Err(recover::describe(&path, &error)),
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
                .map_err(|error| recover::describe(&path, &error))?
                .ok_or_else(|| format!("'{}' is gone: restart the daemon", path.display()))?,
        };
        let answer = ask(&connection).map_err(|error| recover::describe(&path, &error));
        *state = Some(connection);
        answer
    }
}

fn conditions(filter: &RunFilter, page: Page) -> (String, Vec<Value>) {
    let mut conditions = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    let mut and = |condition: &'static str, value: Value| {
        conditions.push(condition);
        values.push(value);
    };
    if let Some(job) = &filter.job {
        and("runs.job = ?", job.clone().into());
    }
    if let Some(group) = &filter.group {
        and("runs.job_group = ?", group.clone().into());
    }
    if let Some(machine) = &filter.machine {
        and(
            "EXISTS(SELECT 1 FROM machine_runs WHERE machine_runs.run = runs.id AND machine = ?)",
            machine.clone().into(),
        );
    }
    match filter.outcome {
        None => {}
        Some(RunOutcome::Unfinished) => and("runs.stage <> ?", "ended".to_string().into()),
        Some(RunOutcome::Succeeded) => and("runs.success = ?", 1.into()),
        Some(RunOutcome::Failed) => and("runs.success = ?", 0.into()),
        Some(RunOutcome::Skipped) => {
            let condition = "runs.success IS NULL AND runs.stage = ?";
            and(condition, "ended".to_string().into());
        }
    }
    if let Some(from) = filter.from {
        and("runs.started >= ?", from.0.into());
    }
    if let Some(until) = filter.until {
        and("runs.started < ?", until.0.into());
    }
    if let Some(before) = page.before {
        and("runs.id < ?", (before.0 as i64).into());
    }
    let text = if conditions.is_empty() {
        String::new()
    } else {
        format!("WHERE {}", conditions.join(" AND "))
    };
    (text, values)
}
