//! Reads for the API and the job log: runs, one run, one machine's output. Each reader has connections of its own,
//! read-only and opened when first needed; no read holds up a commit. Must not know: HTTP, the storage thread.

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::clock::Wall;
use crate::engine::record::{MachineRunId, RunId, RunRecord, StoredRun};

use super::stream::{OutputShape, OutputStream};

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
        }
    }

    /// Runs that match, newest first.
    pub fn runs(&self, _filter: &RunFilter, _page: Page) -> Result<Vec<RunRecord>, String> {
        Ok(Vec::new())
    }

    /// One run with its machine runs and where their outputs stand; None: no such run.
    pub fn run(&self, _instance: &str) -> Result<Option<StoredRun>, String> {
        Ok(None)
    }

    /// Lengths of an output as it is presented. `limit_bytes` is the job's `output_limit` (0: none). An output
    /// that was never stored, or whose day file is gone, is empty.
    pub fn output_shape(
        &self,
        _machine_run: MachineRunId,
        _day: i64,
        _limit_bytes: u64,
    ) -> Result<OutputShape, String> {
        Ok(OutputShape::default())
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
        Ok(OutputStream::new(self, shape, range))
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
        _machine_run: MachineRunId,
        _day: i64,
        _limit_bytes: u64,
        _bytes: usize,
    ) -> Result<(Vec<u8>, bool), String> {
        Ok((Vec::new(), false))
    }
}
