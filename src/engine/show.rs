//! Makes the board: what has changed since the last one is shown again, the rest is shared with it.
//! Must not know: what the API makes of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock::Wall;
use crate::engine::Engine;
use crate::engine::board::{Board, JobBoard, MachineBoard, RunBoard};
use crate::engine::id::RunId;
use crate::engine::machine_run::MachineRun;

/// What has changed since the last board, and that board.
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
