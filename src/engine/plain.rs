//! Machine runs without a wrapper (`use_wrapper: false`): the executor runs the command itself, and tells when it has
//! started, and when it has ended, with all its output.
//! Must not know: how the executor runs it.

use crate::budget::Chunk;
use crate::ending::Ending;
use crate::engine::effect::{ExecutorOrder, Fact, Write};
use crate::engine::id::MachineRunId;
use crate::engine::machine_run::MachineRun;
use crate::engine::record::{Handover, MachineStage};
use crate::engine::{Engine, Turn};

impl Engine {
    /// These were asked to run their command. Nothing more is heard of them before the end: they count as started.
    pub(super) fn plain_started(&mut self, turn: &mut Turn, machine_runs: &[MachineRunId]) {
        for id in machine_runs {
            let Some(m) = self
                .runs
                .machine_mut(*id)
                .filter(|m| m.handover == Handover::Plain && m.record.stage == MachineStage::Dispatched)
            else {
                continue;
            };
            m.clocks.dispatched = Some(turn.awake);
            m.record.stage = MachineStage::Started;
            m.record.started.get_or_insert(turn.now.wall);
            let facts = vec![Fact::Machine(Box::new(m.record.clone()))];
            turn.store(facts);
            self.touch_machine(*id);
        }
    }

    /// The command has ended.
    pub(super) fn returned(&mut self, turn: &mut Turn, id: MachineRunId, output: Vec<u8>, ending: Ending) {
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let day = run.record.day();
        let m = &mut run.machines[place];
        if !m.is_open() {
            return;
        }
        if !output.is_empty() {
            let placed = m.output.append(id, day, Chunk::free(output));
            turn.commit(Write {
                output: placed.rows,
                trim: placed.trim.into_iter().collect(),
                after_output_of: Some(id),
                ..Write::default()
            });
            m.shown = None;
        }
        self.end_machine(turn, id, ending, Vec::new());
    }
}

/// Has it ended, once: the executor goes on by itself.
pub(super) fn terminate(turn: &mut Turn, m: &mut MachineRun) {
    let has_started = m.record.stage == MachineStage::Started;
    if let Some(kill) = m.kill.as_mut().filter(|kill| has_started && kill.sent.is_none()) {
        kill.sent = Some(turn.awake);
        turn.execute(ExecutorOrder::Terminate {
            machine_run: m.record.id,
        });
    }
}
