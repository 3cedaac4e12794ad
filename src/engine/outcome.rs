//! How machine runs and runs end, and how a presumed end is taken back (rules.md 4, 9).
//! Must not know: why they end.

use log::Level;

use crate::clock::Wall;
use crate::ending::{Ending, code};
use crate::engine::effect::{Fact, JobLogLine, Write};
use crate::engine::id::ConnectionId;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::machine_run::Kill;
use crate::engine::record::{MachineCounts, MachineStage, RunStage};
use crate::engine::run::Run;
use crate::engine::{Engine, Turn};
use crate::protocol::DaemonFrame;

impl Engine {
    /// Ends a machine run, and with the last one its run. `acks` leave with the commit.
    pub(super) fn end_machine(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        ending: Ending,
        acks: Vec<(ConnectionId, DaemonFrame)>,
    ) {
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let run_id = run.record.id;
        let job = run.record.job.clone();
        let started = run.record.started;
        let m = &mut run.machines[place];
        let was_revised = m.record.revised_from;
        run.open_machines -= usize::from(m.is_open());
        m.end(turn.now.wall, &ending);
        let retcode = ending.code;
        let machine = m.record.machine.clone();
        let mut write = Write {
            // a wrapper's own word covers all its output; the daemon's waits for nothing
            after_output_of: (!acks.is_empty()).then_some(id),
            acks,
            ..Write::default()
        };
        if let Some(note) = &ending.note {
            turn.notice(m, started, note);
        }
        write.facts.push(Fact::Machine(Box::new(m.record.clone())));
        let entry = match (was_revised, ending.presumed) {
            (None, _) => run.result_entry(turn.now.wall, place),
            (Some(from), false) => run.revised_entry(turn.now.wall, place, from),
            // its output is in the log already, as far as it went: however often this happens, it is there twice at most
            (Some(_), true) => {
                let text = format!(
                    "{machine} from {}: exit code {retcode} again",
                    run.record.instance
                );
                run.log_entry(turn.now.wall, JobLogLine::Note { text })
            }
        };
        write.ticket = Some(self.run_ticket(run_id, vec![entry]));
        turn.commit(write);
        if let Some(state) = self.jobs.get_mut(job.as_str()) {
            state.counts.ended(ending.given_by.outcome(retcode));
        }
        let ended = turn.now.wall.iso();
        turn.say(
            Level::Info,
            format!("WebSocket: Updated state for {job}[{machine}] with endtime={ended}, retcode={retcode}"),
        );
        turn.say(
            Level::Info,
            format!("WebSocket: Target {machine} completed, removing from pending (retcode: {retcode})"),
        );
        self.touch_run(run_id);
        self.dispatch_waiting(turn, run_id);
        self.end_run_if_done(turn, run_id);
    }

    /// Ends a run whose machines are all known and have all ended.
    pub(super) fn end_run_if_done(&mut self, turn: &mut Turn, id: RunId) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let is_done = run.is_open() && run.found.is_finished && run.open_machines == 0;
        if !is_done {
            return;
        }
        run.record.stage = RunStage::Ended;
        run.record.ended = Some(turn.now.wall);
        run.rests_since = turn.awake;
        run.record.success = success(run);
        let counts = MachineCounts::of(run.machines.iter().map(|m| &m.record));
        run.record.counts = Some(counts);
        run.record.duration_ms = Some(duration_ms(run, turn.now.wall));
        let mut log = Vec::new();
        if run.machines.is_empty() && run.record.note.is_none() {
            run.record.note = Some("No targets matched".into());
            log.push(run.log_entry(turn.now.wall, JobLogLine::NoTargets));
        }
        log.push(run.log_entry(turn.now.wall, JobLogLine::Finished));
        let mut facts = vec![Fact::Run(Box::new(run.record.clone()))];
        let job = run.record.job.clone();
        let at = turn.now.wall;
        if let Some(state) = self.jobs.get_mut(job.as_str()) {
            state.open.retain(|open| *open != id);
            match run.record.success {
                Some(true) => state.counts.succeeded += 1,
                Some(false) => state.counts.failed += 1,
                None => state.counts.skipped += 1,
            }
            if state.record.last_instance.as_deref() == Some(run.record.instance.as_str()) {
                state.record.last_ended = Some(at);
                state.record.result_ok = run.record.success.or(state.record.result_ok);
                state.record.last_total_count = counts.total;
                state.record.last_failed_count = counts.failed;
                if run.record.success == Some(true) {
                    state.record.last_success = Some(at);
                }
                facts.push(state.fact());
            }
        }
        self.runs.rest(id, turn.awake);
        facts.extend(self.judge_end(turn, id));
        let ticket = self.run_ticket(id, log);
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        });
        turn.say(
            Level::Info,
            format!("WebSocket: All targets completed for {job}, exiting monitor loop"),
        );
        self.touch_run(id);
    }

    /// A presumed outcome is withdrawn: its wrapper is back (rules.md 4).
    pub(super) fn reopen(&mut self, turn: &mut Turn, id: MachineRunId) {
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let run_id = run.record.id;
        let started = run.record.started;
        let m = &mut run.machines[place];
        let from = m.record.retcode.unwrap_or(code::ERROR);
        run.open_machines += 1;
        m.record.stage = if m.record.started.is_some() {
            MachineStage::Started
        } else {
            MachineStage::Permitted
        };
        m.record.ended = None;
        m.record.retcode = None;
        m.record.given_by = None;
        m.record.duration_ms = None;
        m.record.presumed = false;
        m.record.revised_from = Some(from);
        m.clocks.connected = turn.awake;
        m.clocks.started = m.clocks.started.max(turn.awake);
        m.refresh(turn.awake);
        m.kill = m.record.kill_asked.map(|_| Kill {
            asked: turn.awake,
            sent: None,
        });
        let machine = m.record.machine.clone();
        let mut write = Write::default();
        let text = format!("[SALTPETER: the wrapper is back, outcome {from} withdrawn]");
        turn.notice(m, started, &text);
        write.facts.push(Fact::Machine(Box::new(m.record.clone())));
        let was_ended = !run.is_open();
        if was_ended {
            run.record.stage = RunStage::Running;
            run.record.ended = None;
            run.record.success = None;
            run.record.counts = None;
            run.record.duration_ms = None;
            write.facts.push(Fact::Run(Box::new(run.record.clone())));
        }
        let (job, instance) = (run.record.job.clone(), run.record.instance.clone());
        turn.commit(write);
        turn.say(
            Level::Warn,
            format!(
                "wrapper of {instance} on {machine} is back: its outcome {from} is withdrawn until it reports"
            ),
        );
        if was_ended && let Some(state) = self.jobs.get_mut(job.as_str()) {
            state.open.push(run_id);
            if state.record.last_instance.as_deref() == Some(instance.as_str()) {
                state.record.result_ok = Some(true);
                turn.store(vec![state.fact()]);
            }
        }
        self.touch_run(run_id);
    }
}

fn success(run: &Run) -> Option<bool> {
    let counted = run.machines.iter().filter(|m| !m.record.not_counted);
    let (mut total, mut succeeded) = (0, 0);
    for m in counted {
        total += 1;
        succeeded += usize::from(m.record.retcode == Some(0));
    }
    if total == 0 && !run.machines.is_empty() {
        // all in maintenance: skipped, not failed (rules.md 9)
        return None;
    }
    Some(run.record.spec.success.is_reached(succeeded, total))
}

/// Milliseconds from a run's start to the end of its last command.
fn duration_ms(run: &Run, now: Wall) -> u64 {
    let since_start = |at: Wall| u64::try_from((at.0 - run.record.started.0) / 1_000).unwrap_or(0);
    let ends = run.machines.iter().map(|m| {
        let ended = since_start(m.record.ended.unwrap_or(now));
        match (m.record.started, m.record.duration_ms) {
            (Some(started), Some(ran_ms)) => since_start(started).saturating_add(ran_ms).min(ended),
            _ => ended,
        }
    });
    ends.max().unwrap_or_else(|| since_start(now))
}
