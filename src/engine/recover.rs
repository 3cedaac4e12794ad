//! Continues after a restart: stored runs are loaded, and those that had not ended are resumed as far as that can be done
//! without starting anything twice (rules.md 11).
//! Must not know: how anything is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use log::Level;

use crate::clock::{Now, Wall};
use crate::config::Config;
use crate::engine::effect::{Effect, ExecutorOrder, StorageOrder, Write};
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::look::Look;
use crate::engine::outbox::Outbox;
use crate::engine::record::{Handover, MachineStage, Recovered, RunStage};
use crate::engine::run::{Run, dispatch_effect};
use crate::engine::{Engine, Turn};
use crate::limits;

impl Engine {
    pub(super) fn recover(&mut self, config: Arc<Config>, recovered: Recovered, now: Now) {
        let awake = self.awake.at(now.mono);
        // a daemon that was killed before its first look was stored knows since when its jobs count
        let since = recovered.jobs.iter().filter_map(|job| job.active_since).min();
        self.recover_jobs(recovered.jobs, now.wall);
        self.look = Look::recovered(
            recovered.last_look.or(since),
            recovered.doubt,
            &recovered.verdicts,
            now,
            awake,
        );
        for mut stored in recovered.runs {
            stored.machines.sort_by_key(|(machine, _)| machine.position);
            let id = stored.run.id;
            let job: Arc<str> = stored.run.job.as_str().into();
            let run = Run::new(stored.run, stored.machines, awake);
            let state = self.jobs.entry(job.clone()).or_default();
            state.record.job = job.to_string();
            if run.is_open() {
                state.open.push(id);
            }
            self.runs.insert(run);
            self.touch_run(id);
            self.shown.jobs.insert(job);
        }
        self.recover_controls(recovered.controls);
        self.outbox = Outbox::recovered(
            recovered.next_notice,
            recovered.notices,
            recovered.notices_given_up,
        );
        for (job, notices) in recovered.notice_states {
            self.jobs.entry(job.as_str().into()).or_default().notices = notices;
        }
        let facts = self.apply_config(config, now.wall);
        // before the first turn there is time
        let mut all = usize::MAX;
        self.plan_some(&mut all);
        if !facts.is_empty() {
            let write = Write {
                facts,
                ..Write::default()
            };
            self.startup_effects
                .push(Effect::Store(StorageOrder::Commit(Box::new(write))));
        }
    }

    /// Wrappers can reach the daemon: every open machine run gets its full windows from now on.
    pub(super) fn listening(&mut self, turn: &mut Turn) {
        self.is_listening = true;
        self.resuming = self.runs.open().into();
        self.resume_some(turn);
    }

    /// As many as a turn may.
    pub(super) fn resume_some(&mut self, turn: &mut Turn) {
        let mut left = limits::TURN_MACHINES;
        while left > 0
            && let Some(id) = self.resuming.pop_front()
        {
            let machines = self.runs.get(id).map_or(0, |run| run.machines.len());
            left = left.saturating_sub(machines + limits::TURN_RUN_WEIGHT);
            self.resume(turn, id);
        }
    }

    /// Continues one run that was open when the daemon stopped.
    #[allow(clippy::too_many_lines, reason = "one step for each stage of a run")]
    pub(super) fn resume(&mut self, turn: &mut Turn, id: RunId) {
        let Some(run) = self.runs.get(id).filter(|run| run.is_stored) else {
            return;
        };
        let handover = self.handover(&run.record.spec);
        let Some(run) = self.runs.get_mut(id) else { return };
        turn.effects.push(Effect::Say {
            level: Level::Info,
            text: format!(
                "{} was under way when the daemon ended: it goes on",
                run.record.instance
            ),
        });
        run.asked_executor = turn.awake;
        run.kill = run.kill.map(|_| turn.awake);
        let mut again: BTreeMap<Wall, Vec<(MachineRunId, String)>> = BTreeMap::new();
        for (place, m) in run.machines.iter_mut().enumerate().filter(|(_, m)| m.is_open()) {
            let clocks = &mut m.clocks;
            clocks.dispatched = Some(turn.awake);
            clocks.ran_before_ms = m
                .record
                .started
                .map_or(0, |at| (turn.now.wall.0 - at.0).max(0) as u64 / 1_000);
            // the wrapper keeps the command's `timeout`; the daemon's own limit behind it starts over (promise 5)
            for clock in [
                &mut clocks.launched,
                &mut clocks.connected,
                &mut clocks.started,
                &mut clocks.beat,
                &mut clocks.output,
            ] {
                *clock = turn.awake;
            }
            if let Some(kill) = m.kill.as_mut() {
                kill.asked = turn.awake;
            }
            match (m.record.stage, m.record.env_delivery) {
                (MachineStage::Waiting, _) => run.waiting.push_back(place),
                // the permission decides which of two wrappers starts; without a wrapper the executor only looks for
                // what became of it
                (stage, env)
                    if matches!(stage, MachineStage::Dispatched | MachineStage::Launched)
                        && (m.handover == Handover::Plain || !env)
                        || stage == MachineStage::Started && m.handover == Handover::Plain =>
                {
                    m.record.stage = MachineStage::Dispatched;
                    let at = m.record.dispatched.unwrap_or(turn.now.wall);
                    again
                        .entry(at)
                        .or_default()
                        .push((m.record.id, m.record.machine.clone()));
                }
                // it was sent, and is never repeated: it may come yet
                (MachineStage::Dispatched, true) => m.record.stage = MachineStage::Launched,
                _ => {}
            }
        }
        for (at, machines) in again {
            let handover = Handover::stored(&run.record.spec, false);
            let dispatch = dispatch_effect(run, machines, handover, at, true);
            turn.execute(ExecutorOrder::Dispatch(Box::new(dispatch)));
        }
        if run.record.stage == RunStage::Pinging {
            run.handover = handover;
            let spec = run.record.spec.clone();
            turn.execute(ExecutorOrder::Resolve { run: id, spec });
        }
        if self
            .runs
            .get(id)
            .is_some_and(|run| run.record.kill_asked.is_some())
        {
            // what was to be killed and had not started yet never starts
            self.kill_run(turn, id, None, None);
        }
        self.dispatch_waiting(turn, id);
        self.end_run_if_done(turn, id);
    }
}
