//! The read model: what the API shows, immutable, published by the engine.
//! Must not know: HTTP, JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::clock::Wall;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::machine_run::MachineRun;
use crate::engine::record::{JobRecord, MachineRecord, RunId, RunRecord};

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
        board.config = self.config.clone();
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
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.is_stored) else {
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
        let Some(state) = self.jobs.get_mut(name) else {
            board.jobs.remove(name);
            return;
        };
        if state.job.is_none() && state.open.is_empty() {
            board.jobs.remove(name);
            return;
        }
        let shown = Arc::new(JobBoard {
            record: state.record.clone(),
            next_run: state.next_s.map(Wall::from_secs),
            last: state.last.clone(),
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
