//! A run from its start to its dispatches: store, find machines, hand out as many as the batch has room for.
//! Must not know: frames, schedules, how anything ends.

use std::collections::{BTreeSet, HashMap, VecDeque};

use log::Level;

use crate::address::is_loopback_host;
use crate::clock::Wall;
use crate::config::{Delivery, ExecutorKind, JobSpec};
use crate::ending::{Ending, GivenBy, code};
use crate::engine::commits::Waiting;
use crate::engine::effect::{Dispatch, Effect, ExecutorOrder, Fact, JobLogEntry, JobLogLine, Write};
use crate::engine::id::RequestId;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::machine_run::MachineRun;
use crate::engine::record::{
    AuditRecord, Handover, MachineRecord, MachineStage, OutputPosition, RunRecord, RunStage,
};
use crate::engine::{AwakeMs, Engine, Turn, batch};

/// A run in the engine's memory.
#[derive(Debug)]
pub struct Run {
    pub record: RunRecord,
    pub machines: Vec<MachineRun>,
    pub by_machine: HashMap<String, usize>,
    /// Machine runs without an outcome: kept as a count, for a run may have ten thousand.
    pub open_machines: usize,
    /// Its start is stored: it may have effects, and is shown.
    pub is_stored: bool,
    /// Machines not handed to the executor yet, in order.
    pub waiting: VecDeque<usize>,
    /// How the command reaches machines that are added.
    pub handover: Handover,
    /// What the executor has found while everything is needed before anything starts.
    pub found: Found,
    /// When the executor was asked, in awake time.
    pub asked_executor: AwakeMs,
    /// When a kill of the whole run was asked for, in awake time.
    pub kill: Option<AwakeMs>,
    /// Kills asked for before its start was stored: they are answered after it, with how many machines they concern.
    pub held_kills: Vec<(RequestId, usize)>,
    /// An id under which a wrapper connected that is not a target (rules.md 27).
    pub unknown_machine: Option<String>,
    /// When it ended or was loaded, in awake time: it is forgotten some time later.
    pub rests_since: AwakeMs,
    /// Writes with its facts whose commit is not confirmed yet.
    pub unconfirmed: usize,
    /// Storage has refused one of them, and all of them have to be written again.
    pub is_refused: bool,
    /// How many name collisions its instance name has evaded.
    pub name_tries: u32,
    /// Who asked for it, to be stored with its start.
    pub audit: Option<AuditRecord>,
    /// [`super::job::JobState::facts`] when the job's record went to storage with the start.
    pub job_facts: u64,
}

/// Machines that the executor has named so far.
#[derive(Debug, Default)]
pub struct Found {
    pub up: Vec<String>,
    pub down: Vec<String>,
    pub is_finished: bool,
}

impl Run {
    /// A run at rest, as its record has it.
    pub fn new(mut record: RunRecord, machines: Vec<(MachineRecord, OutputPosition)>, awake: AwakeMs) -> Run {
        let spec = record.spec.clone();
        let machines: Vec<MachineRun> = machines
            .into_iter()
            .map(|(machine, position)| MachineRun::new(machine, &position, &spec, awake))
            .collect();
        if machines.iter().any(|m| m.is_open()) && record.stage == RunStage::Ended {
            // the end of a machine run did not make it to the disk, that of its run did
            record.stage = RunStage::Running;
            record.ended = None;
            record.success = None;
            record.counts = None;
            record.duration_ms = None;
        }
        let by_machine = machines
            .iter()
            .enumerate()
            .map(|(place, m)| (m.record.machine.clone(), place))
            .collect();
        Run {
            found: Found {
                is_finished: record.stage != RunStage::Pinging,
                ..Found::default()
            },
            handover: Handover::stored(&spec, machines.iter().all(|m| m.record.env_delivery)),
            kill: record.kill_asked.map(|_| awake),
            record,
            open_machines: machines.iter().filter(|m| m.is_open()).count(),
            machines,
            by_machine,
            is_stored: true,
            waiting: VecDeque::new(),
            asked_executor: awake,
            held_kills: Vec::new(),
            unknown_machine: None,
            rests_since: awake,
            unconfirmed: 0,
            is_refused: false,
            name_tries: 0,
            audit: None,
            job_facts: 0,
        }
    }

    /// It has not ended.
    pub fn is_open(&self) -> bool {
        self.record.stage != RunStage::Ended
    }

    /// How many of the machines that count have failed so far.
    fn failures(&self) -> usize {
        let records = self.machines.iter().map(|m| &m.record);
        let failed = records.filter(|m| !m.not_counted && m.retcode.is_some_and(|code| code != 0));
        failed.count()
    }

    /// Storage has confirmed all its facts.
    pub fn is_stored_whole(&self) -> bool {
        self.unconfirmed == 0 && !self.is_refused
    }

    /// The job log's block about the end of one machine run.
    pub fn result_entry(&self, at: Wall, place: usize) -> Effect {
        let m = &self.machines[place].record;
        let what = JobLogLine::Result {
            machine: m.machine.clone(),
            retcode: m.retcode.unwrap_or(code::ERROR),
            output: self.record.output_of(m.id),
        };
        self.log_entry(at, what)
    }

    /// The same where it replaces the outcome `from`.
    pub fn revised_entry(&self, at: Wall, place: usize, from: i32) -> Effect {
        let m = &self.machines[place].record;
        let what = JobLogLine::Revised {
            machine: m.machine.clone(),
            from,
            retcode: m.retcode.unwrap_or(code::ERROR),
            output: self.record.output_of(m.id),
        };
        self.log_entry(at, what)
    }

    /// An entry for the job's log.
    pub fn log_entry(&self, at: Wall, what: JobLogLine) -> Effect {
        JobLogEntry::effect(&self.record.job, &self.record.instance, at, what)
    }
}

impl Engine {
    /// The executor has found machines, all or some.
    pub(super) fn resolved(
        &mut self,
        turn: &mut Turn,
        id: RunId,
        up: Vec<String>,
        down: Vec<String>,
        finished: bool,
        error: Option<String>,
    ) {
        let Some(run) = self.runs.get_mut(id) else { return };
        if !run.is_open() || run.found.is_finished {
            return;
        }
        run.found.is_finished = finished || error.is_some();
        if let Some(error) = error {
            let text = format!("machines of {} not found: {error}", run.record.instance);
            turn.effects
                .push(run.log_entry(turn.now.wall, JobLogLine::Note { text: error.clone() }));
            turn.say(Level::Error, text);
            run.record.note = Some(error);
        }
        let fresh = |known: &HashMap<String, usize>, machines: Vec<String>| -> Vec<String> {
            let mut seen = BTreeSet::new();
            machines
                .into_iter()
                .filter(|machine| !known.contains_key(machine) && seen.insert(machine.clone()))
                .collect()
        };
        let spec = run.record.spec.clone();
        let only: BTreeSet<&str> = spec.only.iter().map(String::as_str).collect();
        let is_wanted = |machine: &String| only.is_empty() || only.contains(machine.as_str());
        run.found
            .up
            .extend(fresh(&run.by_machine, up).into_iter().filter(is_wanted));
        run.found
            .down
            .extend(fresh(&run.by_machine, down).into_iter().filter(is_wanted));
        let needs_all = spec.number_of_targets > 0 || spec.batch_size > 0;
        if !run.found.is_finished && (needs_all || (run.found.up.is_empty() && run.found.down.is_empty())) {
            return;
        }
        let (up, down) = (
            std::mem::take(&mut run.found.up),
            std::mem::take(&mut run.found.down),
        );
        if run.found.is_finished {
            run.record.stage = RunStage::Running;
        }
        self.add_machines(turn, id, up, down, &spec);
    }

    /// Makes machine runs of what was found, and goes on with the run.
    #[allow(clippy::too_many_lines, reason = "one arm for each fate of a machine")]
    pub(super) fn add_machines(
        &mut self,
        turn: &mut Turn,
        id: RunId,
        up: Vec<String>,
        down: Vec<String>,
        spec: &JobSpec,
    ) {
        let unknown_machines = self.unknown_machines(id, &up, &down, spec);
        let parts = batch::divide(
            up,
            down,
            &self.maintenance.machines,
            // a user who names machines wants all of them
            if spec.only.is_empty() {
                spec.number_of_targets
            } else {
                0
            },
            spec.batch_size,
            &mut self.random,
        );
        let mut write = Write::default();
        let mut waiting = Vec::new();
        let mut log = Vec::new();
        let groups = fates(parts, unknown_machines);
        let found = groups.iter().map(|(machines, _)| machines.len()).sum();
        let mut next_id = self.runs.next_machine_ids(found);
        let Some(run) = self.runs.get_mut(id) else { return };
        let is_killed = run.kill.is_some();
        let known = run.machines.len();
        for (machines, fate) in groups {
            for machine in machines {
                if run.by_machine.contains_key(machine.as_str()) {
                    continue;
                }
                let place = run.machines.len();
                let record = MachineRecord {
                    id: MachineRunId(next_id),
                    run: id,
                    machine: machine.clone(),
                    position: place as u32,
                    env_delivery: run.handover != Handover::OverSocket,
                    ..MachineRecord::default()
                };
                next_id += 1;
                run.by_machine.insert(machine.clone(), place);
                let mut m = MachineRun::new(record, &OutputPosition::default(), spec, turn.awake);
                let kill_this = is_killed || run.record.kill_when_known.remove(&machine);
                let fate = match &fate {
                    None if kill_this => Some(Ending::killed_before()),
                    fate => Option::clone(fate),
                };
                match fate {
                    None => waiting.push(place),
                    Some(ending) => {
                        if kill_this {
                            m.record.kill_asked = run.record.kill_asked.or(Some(turn.now.wall));
                            m.record.killed_by.clone_from(&run.record.killed_by);
                        }
                        m.end(turn.now.wall, &ending);
                        let note = ending.note.as_deref().unwrap_or_default();
                        turn.notice(&mut m, run.record.started, note);
                        log.push((place, ending));
                    }
                }
                write.facts.push(Fact::Machine(Box::new(m.record.clone())));
                run.open_machines += usize::from(m.is_open());
                run.machines.push(m);
            }
        }
        run.waiting.extend(waiting);
        if let Some(state) = self.jobs.get_mut(run.record.job.as_str()) {
            for (_, ending) in &log {
                state.counts.ended(ending.given_by.outcome(ending.code));
            }
        }
        write.facts.push(Fact::Run(Box::new(run.record.clone())));
        let follow = log
            .into_iter()
            .map(|(place, _)| run.result_entry(turn.now.wall, place));
        let follow: Vec<Effect> = follow.collect();
        if !follow.is_empty() {
            write.ticket = Some(self.run_ticket(id, follow));
        }
        self.runs.note_machines(id, known);
        turn.commit(write);
        self.dispatch_waiting(turn, id);
        self.end_run_if_done(turn, id);
    }

    /// Machines that a user named for this run and that the job's targets do not match: known once all are found.
    fn unknown_machines(&self, id: RunId, up: &[String], down: &[String], spec: &JobSpec) -> Vec<String> {
        let Some(run) = self
            .runs
            .get(id)
            .filter(|run| run.found.is_finished && run.record.note.is_none())
        else {
            return Vec::new();
        };
        let found: BTreeSet<&String> = up.iter().chain(down).collect();
        let is_unknown =
            |machine: &&String| !found.contains(machine) && !run.by_machine.contains_key(*machine);
        spec.only.iter().filter(is_unknown).cloned().collect()
    }

    /// Hands over as many waiting machines as the batch has room for.
    pub(super) fn dispatch_waiting(&mut self, turn: &mut Turn, id: RunId) {
        let Some(run) = self.runs.get_mut(id) else { return };
        if run.waiting.is_empty() {
            return;
        }
        if let Some(most) = run.record.spec.max_failures.filter(|most| run.failures() > *most) {
            let given_up: Vec<MachineRunId> = run
                .waiting
                .drain(..)
                .map(|place| run.machines[place].record.id)
                .collect();
            for id in given_up {
                self.end_machine(turn, id, Ending::too_many_failures(most), Vec::new());
            }
            return;
        }
        let unfinished = run.machines.iter().filter(|m| m.is_unfinished()).count();
        let room = batch::room(run.record.spec.batch_size, unfinished).min(run.waiting.len());
        if room == 0 {
            return;
        }
        let places: Vec<usize> = run.waiting.drain(..room).collect();
        let at = next_dispatch(&mut self.last_dispatch, turn.now.wall);
        let mut machines = Vec::with_capacity(room);
        let mut facts = Vec::with_capacity(room);
        let mut handover = run.handover;
        for place in places {
            let m = &mut run.machines[place];
            m.record.stage = MachineStage::Dispatched;
            m.record.dispatched = Some(at);
            m.clocks.dispatched = (!m.record.env_delivery).then_some(turn.awake);
            m.shown = None;
            handover = m.handover;
            facts.push(Fact::Machine(Box::new(m.record.clone())));
            machines.push((m.record.id, m.record.machine.clone()));
        }
        let dispatch = dispatch_effect(run, machines, handover, at, false);
        self.touch_run(id);
        if handover != Handover::OverSocket {
            // it is sent once and never repeated: only after it is stored that it was
            let ticket = self.ticket(Waiting::Dispatch(dispatch));
            turn.commit(Write {
                facts,
                ticket: Some(ticket),
                ..Write::default()
            });
        } else {
            // nothing starts without the permission, which follows this write
            turn.store(facts);
            turn.execute(ExecutorOrder::Dispatch(Box::new(dispatch)));
        }
    }

    /// It is stored that a dispatch goes out; what was killed meanwhile is not dispatched.
    pub(super) fn dispatch_stored(&mut self, turn: &mut Turn, mut dispatch: Dispatch) {
        let awake = turn.awake;
        let mut killed = Vec::new();
        dispatch.machines.retain(|(id, _)| {
            let Some(m) = self
                .runs
                .machine_mut(*id)
                .filter(|m| m.record.stage == MachineStage::Dispatched)
            else {
                return false;
            };
            if m.kill.is_some() {
                killed.push(*id);
                return false;
            }
            m.clocks.dispatched = Some(awake);
            true
        });
        for id in killed {
            self.end_machine(turn, id, Ending::killed_before(), Vec::new());
        }
        if !dispatch.machines.is_empty() {
            turn.execute(ExecutorOrder::Dispatch(Box::new(dispatch)));
        }
    }

    /// A dispatch that must not be repeated could not be stored: its machines wait until there is room again.
    pub(super) fn dispatch_refused(&mut self, turn: &mut Turn, dispatch: &Dispatch) {
        let Some(run) = self.runs.get_mut(dispatch.run) else {
            return;
        };
        for (_, machine) in dispatch.machines.iter().rev() {
            let Some(&place) = run.by_machine.get(machine) else {
                continue;
            };
            let m = &mut run.machines[place];
            if m.record.stage == MachineStage::Dispatched {
                m.record.stage = MachineStage::Waiting;
                m.record.dispatched = None;
                run.waiting.push_front(place);
            }
        }
        let text = format!("{} waits: its dispatch could not be stored", run.record.instance);
        turn.say(Level::Error, text);
        if self.storage_trouble.is_none() {
            self.dispatch_waiting(turn, dispatch.run);
        }
    }

    /// How a job that starts now reaches its machines (rules.md 23).
    pub(super) fn handover(&self, spec: &JobSpec) -> Handover {
        if !spec.use_wrapper {
            return Handover::Plain;
        }
        let settings = &self.config.settings;
        let by_default = self.settings.starts_sp_wrapper_by_default;
        let is_confidential = self.settings.is_link_confidential
            || settings.is_wrapper_tls(spec, by_default)
            || settings.executor == ExecutorKind::Salt
                && settings.server_host(spec).is_some_and(is_loopback_host);
        let is_over_socket = match spec.delivery {
            Delivery::Env => false,
            Delivery::Auto => is_confidential && settings.is_wrapper_ours(spec, by_default),
            Delivery::Socket => is_confidential,
        };
        if is_over_socket {
            Handover::OverSocket
        } else {
            Handover::InDispatch
        }
    }

    /// The executor still works on these launches: the time allowed for them starts over (rules.md 10).
    pub(super) fn launch_pending(&mut self, turn: &mut Turn, machine_runs: &[MachineRunId]) {
        for id in machine_runs {
            if let Some(m) = self.runs.machine_mut(*id)
                && m.record.stage == MachineStage::Dispatched
            {
                m.clocks.dispatched = Some(turn.awake);
            }
        }
    }

    /// The executor launched the wrapper.
    pub(super) fn launched(&mut self, turn: &mut Turn, id: MachineRunId) {
        if let Some(m) = self.runs.machine_mut(id)
            && m.record.stage == MachineStage::Dispatched
        {
            m.record.stage = MachineStage::Launched;
            m.clocks.launched = turn.awake;
            self.touch_machine(id);
        }
    }

    /// The executor could not launch the wrapper. A wrapper that has connected knows better.
    pub(super) fn launch_failed(&mut self, turn: &mut Turn, id: MachineRunId, retcode: i32, text: String) {
        let stage = self.runs.machine_mut(id).map(|m| m.record.stage);
        if matches!(stage, Some(MachineStage::Dispatched | MachineStage::Launched)) {
            let ending = Ending::new(retcode, GivenBy::of_code(retcode)).noted(text);
            self.end_machine(turn, id, ending, Vec::new());
        }
    }
}

/// What becomes of each group of machines; None: it is started.
fn fates(parts: batch::Parts, unknown_machines: Vec<String>) -> [(Vec<String>, Option<Ending>); 5] {
    [
        (parts.start, None),
        (parts.down, Some(Ending::no_response())),
        (parts.down_not_needed, Some(Ending::no_response().not_counted())),
        (parts.in_maintenance, Some(Ending::maintenance())),
        (unknown_machines, Some(Ending::no_target())),
    ]
}

/// The effect that starts wrappers of a run.
pub(super) fn dispatch_effect(
    run: &Run,
    machines: Vec<(MachineRunId, String)>,
    handover: Handover,
    at: Wall,
    again: bool,
) -> Dispatch {
    Dispatch {
        run: run.record.id,
        job: run.record.job.clone(),
        instance: run.record.instance.clone(),
        token: run.record.token.clone(),
        spec: run.record.spec.clone(),
        machines,
        handover,
        at,
        again,
    }
}

/// The moment of a dispatch that is made now: even, and no other has it.
fn next_dispatch(last: &mut Wall, now: Wall) -> Wall {
    let mut at = Wall(now.0 & !1);
    // several of one turn, or of a clock that was set back a little
    if at <= *last && last.0 - at.0 < 1_000_000 {
        at = Wall(last.0 + 2);
    }
    *last = at;
    at
}
