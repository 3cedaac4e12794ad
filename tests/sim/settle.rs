//! The end of a simulation: everything has come to its end, and what is stored is the truth.
//! Must not know: the engine's insides.

use saltpeter::config::Success;
use saltpeter::engine::record::{MachineRecord, MachineStage, RunRecord, RunStage};

use crate::plan::Plan;
use crate::stream::{Truth, compare};
use crate::world::{Action, World};

impl World {
    /// Lets time run until everything has ended, or the bound is over.
    pub fn settle(&mut self, plan: &Plan) {
        self.run_until(plan.faults_end_ms + 1_000);
        while self.failure.is_none() && self.now_ms < plan.bound_ms {
            self.run_for(5_000);
            if self.is_quiet() {
                break;
            }
        }
        if self.failure.is_some() {
            return;
        }
        // a wrapper that obeys nothing was given up, and would come back for ever
        for wrapper in 0..self.wrappers.len() {
            if self.wrappers[wrapper].command.is_some_and(|c| c.behaviour.stuck) {
                self.wrapper_killed(wrapper, false);
            }
        }
        // a little more: nothing may come to life again
        self.run_for(20_000);
        if !self.is_quiet() && self.failure.is_none() {
            let text = self.what_runs();
            self.fail("P1", format!("not everything has ended: {text}"));
        }
        self.judge_end();
    }

    fn is_quiet(&self) -> bool {
        let open = self.storage.runs.values().any(|r| r.stage != RunStage::Ended);
        let board = !self.checker.seen.board.running.is_empty();
        let coming = self.queue.values().any(|a| matches!(a, Action::Launch(_)));
        let busy = self.wrappers.iter().enumerate().any(|(i, _)| self.is_busy(i));
        self.healed
            && self.daemon.as_ref().is_some_and(|d| d.listening && !d.stalled)
            && !open
            && !board
            && !coming
            && !busy
    }

    /// It still has something to tell, and somebody to tell it to.
    fn is_busy(&self, wrapper: usize) -> bool {
        let w = &self.wrappers[wrapper];
        let stuck = w.command.is_some_and(|c| c.behaviour.stuck);
        let given_up = self
            .storage
            .machines
            .get(&w.machine_run)
            .is_none_or(|m| m.stage == MachineStage::Ended);
        w.has_business() && !(stuck && given_up)
    }

    fn what_runs(&self) -> String {
        let mut text = String::new();
        for run in self.storage.runs.values().filter(|r| r.stage != RunStage::Ended) {
            text.push_str(&format!("{} {:?}; ", run.instance, run.stage));
            for m in self.storage.machines_of(run.id) {
                text.push_str(&format!("{} {:?} {:?}; ", m.machine, m.stage, m.retcode));
            }
        }
        for i in (0..self.wrappers.len()).filter(|i| self.is_busy(*i)) {
            let w = &self.wrappers[i];
            text.push_str(&format!(
                "w{i} {:?} {:?} conn {:?} {:?} complete {:?} acked {} of {}, pending {:?}; ",
                w.kind,
                w.key.instance,
                w.conn,
                w.command,
                w.complete,
                w.acked,
                w.frames.len(),
                w.pending.first()
            ));
        }
        let board: Vec<_> = self.checker.seen.board.running.keys().collect();
        text.push_str(&format!("board {board:?}"));
        text
    }

    fn judge_end(&mut self) {
        if self.failure.is_some() {
            return;
        }
        self.dues_settled();
        let mut failure = None;
        for (id, machine) in &self.storage.machines {
            if let Err(text) = self.judge_machine(machine) {
                failure = Some(format!(
                    "{:?} {}: {text}",
                    self.storage.runs.get(&machine.run).map(|r| &r.instance),
                    machine.machine
                ));
                break;
            }
            let _ = id;
        }
        if let Some(text) = failure {
            self.fail("P2", text);
        }
        let mut failure = None;
        for run in self.storage.runs.values() {
            if let Err(text) = self.judge_run(run) {
                failure = Some(format!("{}: {text}", run.instance));
                break;
            }
        }
        if let Some(text) = failure {
            self.fail("P1", text);
        }
        self.judge_answers();
    }

    fn judge_machine(&self, machine: &MachineRecord) -> Result<(), String> {
        let nothing = Vec::new();
        let rows = self.storage.rows.get(&machine.id).unwrap_or(&nothing);
        let limit_bytes = self.checker.limit_of(machine.id);
        let none = std::collections::BTreeSet::new();
        let wrapper = self
            .wrappers
            .iter()
            .find(|w| w.machine_run == machine.id && w.started());
        let Some(w) = wrapper else {
            return Ok(());
        };
        let truth = Truth {
            frames: &w.frames,
            lost: if w.lost.is_empty() { &none } else { &w.lost },
            limit_bytes,
        };
        let covered = compare(rows, &truth)?;
        if covered < w.acked {
            return Err(format!("{} frames were acked, {covered} are stored", w.acked));
        }
        if machine.stage != MachineStage::Ended {
            return Err(format!("stage {:?}", machine.stage));
        }
        if w.complete_acked {
            let told = self.reported(machine.id);
            if !machine.retcode.is_some_and(|c| told.contains(&i64::from(c))) || machine.presumed {
                return Err(format!(
                    "its end was acked as {told:?}, stored is {:?}, presumed {}",
                    machine.retcode, machine.presumed
                ));
            }
            let unlost = w.frames.len() as u64 - w.lost.range(covered..).count() as u64;
            if covered < unlost {
                return Err(format!(
                    "its end was acked with {covered} of {} frames stored",
                    w.frames.len()
                ));
            }
        }
        Ok(())
    }

    fn judge_run(&self, run: &RunRecord) -> Result<(), String> {
        if run.ended.is_none() {
            return Err("without an end".into());
        }
        let machines: Vec<_> = self.storage.machines_of(run.id).collect();
        let ran: Vec<_> = machines.iter().filter(|m| m.dispatched.is_some()).collect();
        let counted: Vec<_> = machines.iter().filter(|m| !m.not_counted).collect();
        let well = counted.iter().filter(|m| m.retcode == Some(0)).count();
        let wanted = match run.spec.success {
            Success::All => counted.len(),
            Success::Any => 1,
            Success::Machines(count) => count,
            Success::Percent(percent) => (counted.len() * percent as usize).div_ceil(100),
        };
        let is_enough = well > 0 && well >= wanted;
        if !counted.is_empty() && run.success != Some(is_enough) {
            let (all, success) = (counted.len(), run.success);
            return Err(format!(
                "{well} of {all} ended with 0, {wanted} are wanted, success is {success:?}"
            ));
        }
        let all_well = !ran.is_empty() && machines.iter().all(|m| m.retcode == Some(0));
        if all_well && run.success != Some(true) && run.spec.success.is_all() {
            return Err(format!(
                "every machine ended with 0, success is {:?}",
                run.success
            ));
        }
        let wanted = run.spec.number_of_targets;
        if let Some((up, _)) = self.checker.resolved.get(&run.id)
            && wanted > 0
            && up.len() >= wanted
            && ran.len() < wanted
            && run.spec.max_failures.is_none()
            && machines
                .iter()
                .all(|m| m.retcode != Some(143) && m.retcode != Some(0))
        {
            return Err(format!(
                "{} machines ran, {wanted} are wanted and {} are up",
                ran.len(),
                up.len()
            ));
        }
        Ok(())
    }

    fn judge_answers(&mut self) {
        let life = u64::from(self.life);
        let late = self
            .checker
            .seen
            .asked
            .iter()
            .find(|(id, (_, asked_in))| *asked_in == life && !self.checker.seen.answers.contains_key(id))
            .map(|(id, (ask, _))| format!("request {id} ({ask:?}) was never answered"));
        if let Some(text) = late {
            self.fail("answers", text);
        }
    }
}
