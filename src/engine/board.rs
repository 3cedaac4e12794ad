//! The read model: what the API shows, immutable, published by the engine.
//! Must not know: HTTP, JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Wall;
use crate::config::Config;
use crate::engine::record::{JobRecord, MachineRecord, RunRecord};

/// One moment of everything. Parts that did not change are shared with the moment before.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// Grows with every published change.
    pub version: u64,
    pub config: Arc<Config>,
    pub jobs: BTreeMap<Arc<str>, Arc<JobBoard>>,
    /// Runs that have not ended, by instance.
    pub running: BTreeMap<Arc<str>, Arc<RunBoard>>,
    /// Trouble of the daemon's own, for people.
    pub troubles: Vec<String>,
}

/// A job: configured, or known from its past.
#[derive(Clone, Debug, Default)]
pub struct JobBoard {
    pub record: JobRecord,
    pub next_run: Option<Wall>,
    /// The latest run, running or ended.
    pub last: Option<Arc<RunBoard>>,
}

/// A run.
#[derive(Clone, Debug, Default)]
pub struct RunBoard {
    pub run: RunRecord,
    pub machines: Vec<Arc<MachineBoard>>,
}

/// A machine run.
#[derive(Clone, Debug, Default)]
pub struct MachineBoard {
    pub record: MachineRecord,
    pub last_seq: Option<u64>,
    pub output_bytes: u64,
    pub output_utf16: u64,
}
