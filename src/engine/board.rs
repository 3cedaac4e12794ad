//! The read model: what the API shows, immutable, published by the engine.
//! Must not know: HTTP, JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::clock::Wall;
use crate::config::{Config, Maintenance};
use crate::engine::Engine;
use crate::engine::id::RunId;
use crate::engine::machine_run::MachineRun;
use crate::engine::record::{JobRecord, MachineRecord, PauseRecord, RunRecord, StoredRun, SwitchRecord};

/// One moment of everything. Parts that did not change are shared with the moment before.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// Grows with every published change.
    pub version: u64,
    /// Configuration, maintenance or troubles changed last in this version, or a job went: who has seen an older board
    /// needs all of this one, who has not needs the jobs with a newer version.
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
    fn trouble(&self, name: &str) -> Option<String> {
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

/// What has to be shown anew, and what was shown last.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub board: Arc<Board>,
    pub jobs: BTreeSet<Arc<str>>,
    pub runs: BTreeSet<RunId>,
    /// Configuration or troubles changed.
    pub is_changed: bool,
}

impl Engine {
    /// The board, if anything on it has changed since it was made last.
    pub(super) fn make_board(&mut self) -> Option<Arc<Board>> {
        if self.shown.runs.is_empty() && self.shown.jobs.is_empty() && !self.shown.is_changed {
            return None;
        }
        let mut board = (*self.shown.board).clone();
        board.version += 1;
        if self.shown.is_changed {
            board.whole_since = board.version;
        }
        board.config = self.config.clone();
        board.is_storage_down = self.storage_trouble.is_some();
        board.is_executor_down = self.executor_trouble.is_some();
        board.maintenance.clone_from(&self.maintenance);
        board.switches = self.switches.values().cloned().collect();
        board.troubles = self
            .storage_trouble
            .iter()
            .map(|why| format!("storage cannot write: {why}"))
            .chain(
                self.executor_trouble
                    .iter()
                    .map(|why| format!("no machine can be reached: {why}")),
            )
            .collect();
        board.notifiers = self.notifier_boards();
        let troubles = board
            .notifiers
            .iter()
            .filter_map(|(name, notifier)| notifier.trouble(name));
        board.troubles.extend(troubles);
        for id in std::mem::take(&mut self.shown.runs) {
            self.show_run(&mut board, id);
        }
        for name in std::mem::take(&mut self.shown.jobs) {
            self.show_job(&mut board, &name);
        }
        self.shown.is_changed = false;
        self.shown.board = Arc::new(board);
        Some(self.shown.board.clone())
    }

    fn show_run(&mut self, board: &mut Board, id: RunId) {
        // what is forgotten has ended or never started: it is not among the running ones
        let Some(run) = self.runs.get_mut(id).filter(|run| run.is_stored) else {
            return;
        };
        let machines = run.machines.iter_mut().map(show_machine).collect();
        let shown = Arc::new(RunBoard {
            run: run.record.clone(),
            machines,
        });
        let instance: Arc<str> = run.record.instance.as_str().into();
        if run.is_open() {
            board.running.insert(instance, shown.clone());
        } else {
            board.running.remove(&instance);
        }
        let job: Arc<str> = run.record.job.as_str().into();
        if let Some(state) = self.jobs.get_mut(&job) {
            let is_latest = state.last.as_ref().is_none_or(|last| last.run.id <= id);
            if is_latest {
                state.last = Some(shown);
            }
            self.shown.jobs.insert(job);
        }
    }

    fn show_job(&mut self, board: &mut Board, name: &Arc<str>) {
        let known = self.jobs.get_mut(name);
        let Some(state) = known.filter(|state| state.job.is_some() || !state.open.is_empty()) else {
            if board.jobs.remove(name).is_some() {
                board.whole_since = board.version;
            }
            return;
        };
        let shown = Arc::new(JobBoard {
            version: board.version,
            record: state.record.clone(),
            next_run: state.next_s.map(Wall::from_secs),
            last: state.last.clone(),
            paused: state.paused.clone(),
            counts: state.counts.clone(),
        });
        board.jobs.insert(name.clone(), shown);
    }
}

fn show_machine(m: &mut MachineRun) -> Arc<MachineBoard> {
    let shown = m.shown.get_or_insert_with(|| {
        Arc::new(MachineBoard {
            record: m.record.clone(),
            last_seq: m.output.last_seq(),
            output_bytes: m.output.bytes,
            output_utf16: m.output.utf16,
        })
    });
    shown.clone()
}
