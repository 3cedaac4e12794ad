//! The read model: what the API shows, immutable, published by the engine.
//! Must not know: HTTP, JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Wall;
use crate::config::{Config, Maintenance};
use crate::engine::record::{JobRecord, MachineRecord, PauseRecord, RunRecord, StoredRun, SwitchRecord};

/// One moment of everything. Parts that did not change are shared with the moment before.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// Grows with every published change.
    pub version: u64,
    /// Configuration, maintenance or troubles changed last in this version, or a job was removed: a client
    /// that has only seen an older board needs all of this one, any other needs the jobs with a newer version.
    pub whole_since: u64,
    pub config: Arc<Config>,
    pub jobs: BTreeMap<Arc<str>, Arc<JobBoard>>,
    /// Runs that have not ended, by instance.
    pub running: BTreeMap<Arc<str>, Arc<RunBoard>>,
    /// Trouble of the daemon's own, for people.
    pub troubles: Vec<String>,
    /// Which of the troubles there are.
    pub is_storage_down: bool,
    pub is_executor_down: bool,
    /// What is in force: the files', with the switches on top.
    pub maintenance: Maintenance,
    pub switches: Vec<SwitchRecord>,
    /// Destinations of notices.
    pub notifiers: BTreeMap<String, NotifierBoard>,
}

/// A destination of notices: what waits for it, and what has happened since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifierBoard {
    /// Notices on their way.
    pub waiting: u64,
    /// Of the message that was tried most often.
    pub tries: u32,
    pub sent: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Notices given up since the last that was delivered.
    pub given_up: u64,
    /// Why the last try failed, if it did.
    pub error: Option<String>,
    pub failing_since: Option<Wall>,
}

impl NotifierBoard {
    /// What is wrong with it, for people; a single failure is not worth a word.
    pub(super) fn trouble(&self, name: &str) -> Option<String> {
        let why = self.error.as_deref().unwrap_or("see saltpeter notifications");
        let since = self
            .failing_since
            .map_or_else(String::new, |at| format!(" since {}", at.iso()));
        if self.given_up > 0 {
            let count = self.given_up;
            return Some(format!("{count} notifications to '{name}' were given up: {why}"));
        }
        (self.tries > 1).then(|| {
            let count = self.waiting;
            format!("{count} notifications to '{name}' cannot be delivered{since}: {why}")
        })
    }
}

/// A job: configured, or known from its past.
#[derive(Clone, Debug, Default)]
pub struct JobBoard {
    /// The board's version in which it changed last.
    pub version: u64,
    pub record: JobRecord,
    pub next_run: Option<Wall>,
    /// The latest run, running or ended.
    pub last: Option<Arc<RunBoard>>,
    /// Its due times start nothing.
    pub paused: Option<Arc<PauseRecord>>,
    pub counts: Counts,
}

/// What has happened to a job since the daemon started.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub succeeded: u64,
    pub failed: u64,
    /// All machines in maintenance.
    pub skipped: u64,
    /// Due times that started nothing, by the reason.
    pub missed: u64,
    pub overlap: u64,
    pub maintenance: u64,
    pub paused: u64,
    /// Machine runs by outcome, see [`crate::ending::GivenBy::outcome`].
    pub machines: BTreeMap<&'static str, u64>,
    /// Starts for a due time, and how late they were in all and the last time.
    pub starts: u64,
    pub late_ms_sum: u64,
    pub late_ms_last: u64,
}

impl Counts {
    /// A machine run has ended.
    pub(super) fn ended(&mut self, outcome: &'static str) {
        *self.machines.entry(outcome).or_default() += 1;
    }
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

impl Board {
    /// A run that is on the board: it has not ended, or is the latest of its job.
    pub fn run(&self, instance: &str) -> Option<&Arc<RunBoard>> {
        if let Some(run) = self.running.get(instance) {
            return Some(run);
        }
        // an instance is its job's name, the second and maybe a number
        let mut name = instance;
        while let Some((shorter, _)) = name.rsplit_once('_') {
            name = shorter;
            let last = self.jobs.get(name).and_then(|job| job.last.as_ref());
            if let Some(last) = last.filter(|last| last.run.instance == instance) {
                return Some(last);
            }
        }
        None
    }
}

impl From<StoredRun> for RunBoard {
    fn from(stored: StoredRun) -> RunBoard {
        let machines = stored.machines.into_iter().map(|(record, position)| {
            Arc::new(MachineBoard {
                record,
                last_seq: position.next_seq.checked_sub(1),
                output_bytes: position.bytes,
                output_utf16: position.utf16,
            })
        });
        RunBoard {
            run: stored.run,
            machines: machines.collect(),
        }
    }
}
