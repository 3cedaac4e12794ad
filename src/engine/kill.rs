//! Ends what people want ended, at whatever stage it is (rules.md 6).
//! Must not know: how a wrapper kills.

use log::Level;

use crate::ending::Ending;
use crate::engine::commits::Waiting;
use crate::engine::control::audit;
use crate::engine::effect::{Done, Effect, Fact, Refusal, Write};
use crate::engine::id::RequestId;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::machine_run::Kill;
use crate::engine::record::{Handover, MachineStage};
use crate::engine::{Engine, Turn};
use crate::limits;
use crate::protocol::{DaemonFrame, SessionKey};

impl Engine {
    /// A kill of a job, one instance of it, or one machine. The frames go out first; the answer follows the commit.
    pub(super) fn kill_asked(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        job: &str,
        machine: Option<&str>,
        instance: Option<&str>,
        who: &str,
    ) {
        let detail = match (instance, machine) {
            (None, None) => String::new(),
            (Some(instance), None) => instance.into(),
            (None, Some(machine)) => format!("on {machine}"),
            (Some(instance), Some(machine)) => format!("{instance} on {machine}"),
        };
        let mut audit = audit(turn.now.wall, who, "kill", job, &detail);
        let Some(state) = self.jobs.get(job) else {
            return self.refuse(turn, request, audit, Refusal::UnknownJob { job: job.into() });
        };
        let is_known = state.job.is_some() || !state.open.is_empty();
        let runs: Vec<RunId> = state
            .open
            .iter()
            .copied()
            .filter(|id| {
                self.runs
                    .get(*id)
                    .is_some_and(|run| instance.is_none_or(|name| run.record.instance == name))
            })
            .collect();
        let before = turn.effects.len();
        let machines: usize = runs
            .iter()
            .map(|id| self.kill_run(turn, *id, machine, Some(who)))
            .sum();
        if machines == 0 {
            let refusal = if is_known {
                Refusal::Conflict(nothing_running(job, machine, instance))
            } else {
                Refusal::UnknownJob { job: job.into() }
            };
            return self.refuse(turn, request, audit, refusal);
        }
        // in the log what was asked for comes before what was done
        let received = Effect::Say {
            level: Level::Info,
            text: format!("WebSocket: Kill command received for job {job}"),
        };
        turn.effects.insert(before, received);
        turn.say(Level::Info, format!("kill of {job} asked for by {who}"));
        audit.outcome = format!("ok: {machines} machine runs");
        self.keep_audit(turn, audit);
        self.answer_kill(turn, request, &runs, machines);
    }

    /// Stores a kill; its answer follows the commit. A start that is not stored yet comes first.
    pub(super) fn answer_kill(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        runs: &[RunId],
        machines: usize,
    ) {
        let facts: Vec<Fact> = runs.iter().flat_map(|id| self.kill_facts(*id)).collect();
        let unstored = runs
            .iter()
            .find(|id| self.runs.get(**id).is_some_and(|run| !run.is_stored));
        if let Some(run) = unstored.and_then(|id| self.runs.get_mut(*id)) {
            run.held_kills.push((request, machines));
            return turn.store(facts);
        }
        let ticket = self.ticket(Waiting::Answer {
            request,
            answer: Ok(Done::KillSent { machines }),
        });
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        });
    }

    /// Kills one run, or one machine of it. Returns how many machine runs it concerns. `who` None: asked for before a
    /// restart.
    pub(super) fn kill_run(
        &mut self,
        turn: &mut Turn,
        id: RunId,
        machine: Option<&str>,
        who: Option<&str>,
    ) -> usize {
        let Some(run) = self.runs.get_mut(id) else {
            return 0;
        };
        let mut concerned = 0;
        if !run.found.is_finished {
            concerned += 1;
            match machine {
                None => {
                    run.kill.get_or_insert(turn.awake);
                }
                Some(machine) if !run.by_machine.contains_key(machine) => {
                    run.record.kill_when_known.insert(machine.into());
                }
                Some(_) => concerned = 0,
            }
        }
        if machine.is_none() && run.record.kill_asked.is_none() {
            run.record.kill_asked = Some(turn.now.wall);
        }
        let places: Vec<usize> = match machine {
            Some(machine) => run.by_machine.get(machine).copied().into_iter().collect(),
            None => (0..run.machines.len()).collect(),
        };
        let ids: Vec<MachineRunId> = places
            .into_iter()
            .filter(|place| run.machines[*place].is_open())
            .map(|place| run.machines[place].record.id)
            .collect();
        concerned += ids.len();
        if run.record.killed_by.is_none() && concerned > 0 {
            run.record.killed_by = who.map(String::from);
        }
        // signals before everything else; then what ends at once
        for id in &ids {
            self.mark_killed(turn, *id, who);
        }
        // all of them at once: no machine is to be launched in the place of one that ends
        if let Some(run) = self.runs.get_mut(id) {
            let machines = &run.machines;
            run.waiting.retain(|place| machines[*place].kill.is_none());
        }
        for id in &ids {
            self.end_if_not_started(turn, *id);
        }
        self.touch_run(id);
        concerned
    }

    /// What has to be stored of a kill, as it stands after everything that ended at once: an older copy must not
    /// overwrite an outcome.
    fn kill_facts(&self, id: RunId) -> Vec<Fact> {
        let Some(run) = self.runs.get(id).filter(|run| run.is_stored) else {
            return Vec::new();
        };
        let mut facts = vec![Fact::Run(Box::new(run.record.clone()))];
        let killed = run
            .machines
            .iter()
            .filter(|m| m.is_unfinished() && m.record.kill_asked.is_some());
        facts.extend(killed.map(|m| Fact::Machine(Box::new(m.record.clone()))));
        facts
    }

    fn mark_killed(&mut self, turn: &mut Turn, id: MachineRunId, who: Option<&str>) {
        let wall = turn.now.wall;
        let awake = turn.awake;
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        m.record.kill_asked.get_or_insert(wall);
        if m.record.killed_by.is_none() {
            m.record.killed_by = who.map(String::from);
        }
        m.kill.get_or_insert(Kill {
            asked: awake,
            sent: None,
        });
        self.send_kill(turn, id);
    }

    /// Without the permission to start nothing has started, and nothing will.
    fn end_if_not_started(&mut self, turn: &mut Turn, id: MachineRunId) {
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let m = &run.machines[place];
        let is_certain = match m.record.stage {
            MachineStage::Waiting => true,
            MachineStage::Dispatched | MachineStage::Launched => !m.may_have_started(),
            // the permission is on its way to the disk, and has not left
            MachineStage::Permitted => {
                m.permission.is_storing() && !m.permission.was_sent() && !m.record.env_delivery
            }
            _ => false,
        };
        if is_certain {
            self.end_machine(turn, id, Ending::killed_before(), Vec::new());
        }
    }

    /// Sends a pending kill, at most once a [`limits::KILL_REPEAT_MS`].
    pub(super) fn send_kill(&mut self, turn: &mut Turn, id: MachineRunId) {
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let m = &mut run.machines[place];
        if m.handover == Handover::Plain {
            return super::plain::terminate(turn, m);
        }
        let Some(connection) = m.connection else { return };
        let can_hear = match m.record.stage {
            MachineStage::Started => true,
            // a Python wrapper takes the next frame after its connect and start for their acks (rules.md 19)
            MachineStage::Permitted => m.record.ours && !m.permission.is_storing(),
            _ => false,
        };
        let Some(kill) = m.kill.as_mut() else { return };
        let is_due = kill
            .sent
            .is_none_or(|sent| turn.awake >= sent + limits::KILL_REPEAT_MS);
        if !can_hear || !is_due {
            return;
        }
        let is_first = kill.sent.is_none();
        kill.sent = Some(turn.awake);
        let key = SessionKey {
            job: run.record.job.clone(),
            instance: run.record.instance.clone(),
            machine: m.record.machine.clone(),
        };
        let text = format!("WebSocket: Sent kill signal to {}:{}", key.instance, key.machine);
        turn.send(connection, DaemonFrame::Kill { key });
        if is_first {
            turn.say(Level::Info, text);
        }
    }
}

fn nothing_running(job: &str, machine: Option<&str>, instance: Option<&str>) -> String {
    let what = instance.unwrap_or(job);
    match machine {
        Some(machine) => format!("{what} is not running on {machine}"),
        None => format!("{what} is not running"),
    }
}
