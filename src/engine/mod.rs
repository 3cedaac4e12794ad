//! The one owner of state: decides what happens. Pure: no file, socket, process, thread, channel, lock, random
//! source or clock inside. `event.rs` and `effect.rs` are its whole surface.
//!
//! In reading order: `job.rs` holds jobs, `due.rs` says what comes of their due times, `run.rs` starts runs and hands out dispatches, `batch.rs` draws
//! and orders machines, `session.rs` tells whose a frame is, `connect.rs` lets wrappers in, `report.rs` takes what they
//! report, `outcome.rs` ends machine runs and runs, `machine_run.rs` knows what is overdue and `watch.rs` looks once a
//! second, `kill.rs` ends what people want ended, `control.rs` keeps what
//! people set (pauses, maintenance) and did, `expiry.rs` ends what ends by itself, `recover.rs` goes on after a restart, `board.rs` shows it all.

pub mod batch;
pub mod board;
pub mod effect;
pub mod event;
pub mod id;
pub mod record;

mod connect;
mod control;
mod due;
mod expiry;
mod job;
mod kill;
mod look;
mod machine_run;
mod outcome;
mod output;
mod plain;
mod random;
mod recover;
mod report;
mod run;
mod session;
mod text;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use log::Level;

use board::Board;
use effect::{ConnectionOrder, Effect, ExecutorOrder, Fact, JobLogLine, StorageOrder, Write};
use event::{Arrival, Event, StoreOutcome};
use id::{ConnectionId, MachineRunId, RequestId, RunId, Ticket};
use machine_run::{MachineRun, Overdue};
use record::{Recovered, SwitchRecord, VerdictRecord};
use run::Run;

use crate::clock::{Mono, Now, Wall};
use crate::config::{Config, Maintenance};
use crate::limits;
use crate::protocol::DaemonFrame;

/// Milliseconds that the daemon has been awake: the monotonic clock less every stall. All deadlines are in it, so the
/// daemon's own trouble never fails somebody's job (rules.md 3).
pub type AwakeMs = u64;

/// What the engine is told at birth.
#[derive(Clone, Debug, Default)]
pub struct EngineSettings {
    /// Seed of draws, shuffles and tokens: fresh from the kernel in the daemon, fixed in tests.
    pub seed: [u8; 32],
    /// The link between wrapper and daemon is private even without TLS (loopback), so that jobs may travel over it.
    pub private_link: bool,
    /// Without a `wrapper_path` or `default_wrapper_path` the executor starts our own wrapper (local executor).
    pub own_wrapper_by_default: bool,
    /// All machines are this host (local executor): an explicit `lockfile` becomes one per machine (rules.md 28).
    pub machines_share_a_host: bool,
}

/// The state owner.
#[derive(Debug)]
pub struct Engine {
    settings: EngineSettings,
    config: Arc<Config>,
    random: random::Random,
    awake: Awake,
    is_listening: bool,
    is_shutting_down: bool,
    /// Why storage cannot write, if it cannot.
    storage_trouble: Option<String>,
    /// Why the executor cannot reach machines, if it cannot.
    executor_trouble: Option<String>,
    /// When the last dispatch was made.
    last_dispatch: Wall,
    jobs: BTreeMap<Arc<str>, job::JobState>,
    /// Next due second of each job that has one.
    due: BTreeSet<(i64, Arc<str>)>,
    /// What the wall clock has shown, and how far it is believed.
    look: look::Look,
    /// Misses that storage has not taken yet, one stretch per job.
    unstored_misses: BTreeMap<String, VerdictRecord>,
    /// What ends by itself.
    expiry: expiry::Expiry,
    /// What is in force: the files', with the switches on top.
    maintenance: Maintenance,
    /// By machine; None: global.
    switches: BTreeMap<Option<String>, SwitchRecord>,
    runs: HashMap<RunId, Run>,
    by_instance: HashMap<Arc<str>, RunId>,
    places: HashMap<MachineRunId, (RunId, usize)>,
    next_run: u64,
    next_machine_run: u64,
    connections: HashMap<ConnectionId, session::Connection>,
    loading: HashMap<String, Vec<Arrival>>,
    tickets: HashMap<Ticket, Waiting>,
    next_ticket: u64,
    next_retention_ms: AwakeMs,
    /// What a turn had no time for: runs to be resumed after a restart, runs to be stored once more, machine runs to be
    /// looked at.
    resuming: VecDeque<RunId>,
    rewriting: VecDeque<RunId>,
    /// Jobs whose next due time is to be found, and after which second.
    planning: BTreeMap<Arc<str>, i64>,
    /// Runs whose machine runs are to be looked through for what is due.
    scanning: VecDeque<RunId>,
    checks: VecDeque<MachineRunId>,
    /// Ended runs, by when they may leave memory at the earliest.
    resting: VecDeque<(AwakeMs, RunId)>,
    /// The time by which history ages, and when it was that time.
    history_clock: Option<(Wall, AwakeMs)>,
    /// Effects that wait for the first turn.
    early: Vec<Effect>,
    shown: board::Shown,
}

/// What happens when a write is committed (or refused).
#[derive(Debug)]
enum Waiting {
    Start {
        run: RunId,
        request: Option<RequestId>,
    },
    /// A connect that is acked once it is stored.
    Connect {
        machine_run: MachineRunId,
        connection: ConnectionId,
        ack: Box<crate::protocol::ConnectAck>,
    },
    /// A dispatch that is sent once and never repeated.
    Dispatch(effect::Dispatch),
    Then(Vec<Effect>),
    Answer {
        request: RequestId,
        answer: effect::Answer,
    },
    Misses(Vec<VerdictRecord>),
}

/// The awake clock.
#[derive(Debug)]
struct Awake {
    last: Option<Mono>,
    stalled_ms: u64,
    /// Where the last stall began, and how long it was: a moment before it is not moved by it.
    last_stall: (Mono, u64),
}

/// One turn: the time, and where effects go.
struct Turn<'a> {
    now: Now,
    awake: AwakeMs,
    effects: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    fn say(&mut self, level: Level, text: String) {
        self.effects.push(Effect::Say { level, text });
    }

    /// Stores facts that nothing waits for.
    fn store(&mut self, facts: Vec<Fact>) {
        if !facts.is_empty() {
            self.commit(Write {
                facts,
                ..Write::default()
            });
        }
    }

    fn commit(&mut self, write: Write) {
        let order = StorageOrder::Commit(Box::new(write));
        self.effects.push(Effect::Store(order));
    }

    fn send(&mut self, connection: ConnectionId, frame: DaemonFrame) {
        self.order(connection, ConnectionOrder::Send(frame));
    }

    fn order(&mut self, connection: ConnectionId, order: ConnectionOrder) {
        self.effects.push(Effect::Connection(connection, order));
    }

    fn execute(&mut self, order: ExecutorOrder) {
        self.effects.push(Effect::Execute(order));
    }
}

impl Awake {
    /// The awake time at `mono`; a gap since the last turn that is a stall does not count.
    fn advance(&mut self, mono: Mono) -> AwakeMs {
        if let Some(last) = self.last {
            let gap = mono.since_ms(last);
            if gap > limits::STALL_MS {
                self.stalled_ms += gap;
                self.last_stall = (last, gap);
            }
        }
        self.last = Some(mono.max(self.last.unwrap_or(mono)));
        self.at(mono)
    }

    /// A moment of the monotonic clock in awake time.
    fn at(&self, mono: Mono) -> AwakeMs {
        let (began, gap) = self.last_stall;
        let stalled = if mono <= began {
            self.stalled_ms - gap
        } else {
            self.stalled_ms
        };
        // a moment within the stall counts as its begin
        mono.0.saturating_sub(stalled).max(if mono <= began {
            0
        } else {
            began.0 + gap - self.stalled_ms
        })
    }
}

impl Engine {
    /// Takes up what storage has kept. Nothing is done before the first event.
    pub fn new(settings: EngineSettings, config: Arc<Config>, recovered: Recovered, now: Now) -> Engine {
        let mut engine = Engine {
            random: random::Random::new(settings.seed),
            settings,
            config: Arc::default(),
            awake: Awake {
                last: None,
                stalled_ms: 0,
                last_stall: (Mono(0), 0),
            },
            is_listening: false,
            is_shutting_down: false,
            storage_trouble: None,
            executor_trouble: None,
            last_dispatch: Wall(0),
            jobs: BTreeMap::new(),
            due: BTreeSet::new(),
            look: look::Look::default(),
            unstored_misses: BTreeMap::new(),
            expiry: expiry::Expiry::default(),
            maintenance: Maintenance::default(),
            switches: BTreeMap::new(),
            runs: HashMap::new(),
            by_instance: HashMap::new(),
            places: HashMap::new(),
            next_run: recovered.next_run.max(1),
            next_machine_run: recovered.next_machine_run.max(1),
            connections: HashMap::new(),
            loading: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 1,
            next_retention_ms: 0,
            resuming: VecDeque::new(),
            rewriting: VecDeque::new(),
            planning: BTreeMap::new(),
            scanning: VecDeque::new(),
            resting: VecDeque::new(),
            checks: VecDeque::new(),
            history_clock: recovered
                .history_clock
                .or(recovered.last_look)
                .map(|at| (at, now.mono.0)),
            early: Vec::new(),
            shown: board::Shown::default(),
        };
        engine.take_up(config, recovered, now);
        engine
    }

    /// One turn. Effects are appended in the order in which they are to be done.
    #[allow(clippy::too_many_lines, reason = "a table: one arm for each event")]
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        effects.append(&mut self.early);
        let awake = self.awake.advance(now.mono);
        let turn = &mut Turn { now, awake, effects };
        match event {
            Event::Tick => self.tick(turn),
            Event::More => self.go_on(turn),
            Event::Beats(beats) => self.beats(turn, &beats),
            Event::Dry {
                connection,
                at,
                last_beat,
            } => self.dry(turn, connection, at, last_beat),
            Event::Wrapper(arrival) => self.arrived(turn, arrival),
            Event::OutputDropped { connection } => self.output_dropped(turn, connection),
            Event::Stored { ticket, outcome } => self.stored(turn, ticket, outcome),
            Event::RunLoaded { instance, run } => self.run_loaded(turn, &instance, run),
            Event::StorageTrouble { reason } => self.storage_troubled(turn, reason),
            Event::Resolved {
                run,
                up,
                down,
                finished,
                error,
            } => {
                self.resolved(turn, run, up, down, finished, error);
            }
            Event::ExecutorTrouble { reason } => self.executor_troubled(turn, reason),
            Event::LaunchPending { machine_runs } => self.launch_pending(turn, &machine_runs),
            Event::PlainStarted { machine_runs } => self.plain_started(turn, &machine_runs),
            Event::Returned {
                machine_run,
                output,
                ending,
            } => self.returned(turn, machine_run, output, ending),
            Event::Launched { machine_run } => self.launched(turn, machine_run),
            Event::LaunchFailed {
                machine_run,
                retcode,
                text,
            } => {
                self.launch_failed(turn, machine_run, retcode, text);
            }
            Event::Config(config) => self.configure(turn, config),
            Event::Request { request, ask, who } => self.asked(turn, request, ask, who),
            Event::Listening => self.listening(turn),
            Event::Shutdown => self.shut_down(turn),
        }
    }

    /// A turn has left work for the next one: hand in [`Event::More`] as soon as nothing else waits.
    pub fn has_more(&self) -> bool {
        self.is_listening
            && (!self.rewriting.is_empty()
                || !self.resuming.is_empty()
                || !self.checks.is_empty()
                || !self.scanning.is_empty()
                || self.expiry.is_behind()
                || !self.is_shutting_down && self.look.at_s().is_some_and(|look| self.is_behind(look)))
    }

    /// The board, if anything on it has changed since the last call.
    pub fn take_board(&mut self) -> Option<Arc<Board>> {
        self.make_board()
    }

    fn ticket(&mut self, waiting: Waiting) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.tickets.insert(ticket, waiting);
        ticket
    }

    fn stored(&mut self, turn: &mut Turn, ticket: Ticket, outcome: StoreOutcome) {
        let Some(waiting) = self.tickets.remove(&ticket) else {
            return;
        };
        match (waiting, outcome) {
            (Waiting::Start { run, request }, StoreOutcome::Committed) => {
                self.start_stored(turn, run, request);
            }
            (Waiting::Start { run, request }, StoreOutcome::NameTaken) => {
                self.start_renamed(turn, run, request);
            }
            (Waiting::Start { run, request }, outcome) => self.start_refused(turn, run, request, &outcome),
            (
                Waiting::Connect {
                    machine_run,
                    connection,
                    ack,
                },
                outcome,
            ) => {
                let is_committed = outcome == StoreOutcome::Committed;
                self.connect_stored(turn, machine_run, connection, ack, is_committed);
            }
            (Waiting::Dispatch(dispatch), StoreOutcome::Committed) => self.dispatch_stored(turn, dispatch),
            (Waiting::Dispatch(dispatch), _) => self.dispatch_refused(turn, &dispatch),
            // a job log line tells what happened, stored or not
            (Waiting::Then(effects), _) => turn.effects.extend(effects),
            (Waiting::Answer { request, answer }, StoreOutcome::Committed) => {
                turn.effects.push(Effect::Answer { request, answer });
            }
            (Waiting::Answer { request, .. }, outcome) => {
                let reason = format!("not stored: {}", why(&outcome));
                let answer = Err(effect::Refusal::Unavailable(reason));
                turn.effects.push(Effect::Answer { request, answer });
            }
            (Waiting::Misses(_), StoreOutcome::Committed) => {}
            (Waiting::Misses(misses), _) => {
                for miss in misses {
                    self.remember_miss(turn.now.wall, miss);
                }
            }
        }
    }

    fn storage_troubled(&mut self, turn: &mut Turn, reason: Option<String>) {
        match &reason {
            Some(reason) => turn.say(Level::Error, format!("storage cannot write: {reason}")),
            None => turn.say(Level::Warn, "storage writes again".into()),
        }
        self.storage_trouble = reason;
        self.shown.is_changed = true;
        if self.storage_trouble.is_none() {
            self.store_misses(turn);
            // everything in memory is written once more. These writes may be refused too: no run is forgotten before storage
            // has had time to say so
            for run in self.runs.values_mut() {
                run.rests_since = run.rests_since.max(turn.awake);
            }
            let mut runs: Vec<RunId> = self.runs.keys().copied().collect();
            runs.sort_unstable();
            self.rewriting = runs.into();
            turn.store(self.jobs.values_mut().map(job::JobState::fact).collect());
            self.rewrite(turn);
        }
    }

    fn executor_troubled(&mut self, turn: &mut Turn, reason: Option<String>) {
        match &reason {
            Some(reason) => turn.say(Level::Error, format!("no machine can be reached: {reason}")),
            None => turn.say(Level::Info, "machines can be reached again".into()),
        }
        self.executor_trouble = reason;
        self.shown.is_changed = true;
    }

    /// Stores runs once more that storage may have refused, as many as a turn may.
    fn rewrite(&mut self, turn: &mut Turn) {
        let mut left = limits::TURN_MACHINES;
        while left > 0
            && let Some(id) = self.rewriting.pop_front()
        {
            let Some(run) = self.runs.get(&id).filter(|run| run.is_stored) else {
                continue;
            };
            left = left.saturating_sub(run.machines.len() + limits::TURN_RUN_WEIGHT);
            let mut facts = vec![Fact::Run(Box::new(run.record.clone()))];
            facts.extend(
                run.machines
                    .iter()
                    .map(|m| Fact::Machine(Box::new(m.record.clone()))),
            );
            let is_open = run.is_open();
            turn.store(facts);
            if is_open {
                self.dispatch_waiting(turn, id);
            }
        }
    }

    fn start_refused(
        &mut self,
        turn: &mut Turn,
        id: RunId,
        request: Option<RequestId>,
        outcome: &StoreOutcome,
    ) {
        let Some(mut run) = self.forget_run(id) else {
            return;
        };
        for (request, _) in run.held_kills.drain(..) {
            let answer = Err(effect::Refusal::Conflict(format!(
                "{} did not start",
                run.record.instance
            )));
            turn.effects.push(Effect::Answer { request, answer });
        }
        let (job, instance) = (run.record.job, run.record.instance);
        if let Some(state) = self.jobs.get_mut(job.as_str()) {
            state.open.retain(|open| *open != id);
        }
        if *outcome == StoreOutcome::AlreadyStarted {
            turn.say(
                Level::Debug,
                format!("{instance} not started: its due time has a verdict already"),
            );
            return;
        }
        let reason = why(outcome);
        turn.say(
            Level::Error,
            format!("{instance} not started: its start could not be stored: {reason}"),
        );
        if let Some(request) = request {
            let answer = Err(effect::Refusal::Unavailable(format!("not started: {reason}")));
            turn.effects.push(Effect::Answer { request, answer });
        }
        if let Some(due) = run.record.due {
            self.missed(
                turn,
                &job,
                due.secs(),
                due.secs(),
                1,
                &format!("not stored: {reason}"),
            );
        }
    }

    fn shut_down(&mut self, turn: &mut Turn) {
        self.is_shutting_down = true;
        if let Some(look) = self.look.at_s()
            && self.all_verdicts_are_stored(look)
        {
            turn.store(vec![Fact::LastLook(Wall::from_secs(look))]);
        }
    }

    fn insert_run(&mut self, run: Run) {
        self.by_instance
            .insert(run.record.instance.as_str().into(), run.record.id);
        for (place, m) in run.machines.iter().enumerate() {
            self.places.insert(m.record.id, (run.record.id, place));
        }
        if !run.is_open() {
            self.rest(run.record.id, run.rests_since);
        }
        self.runs.insert(run.record.id, run);
    }

    /// A run has ended: it may leave memory some time after `since`.
    fn rest(&mut self, id: RunId, since: AwakeMs) {
        let until = since.saturating_add(limits::ENDED_RUN_KEPT_MS);
        self.resting.push_back((until, id));
    }

    fn forget_run(&mut self, id: RunId) -> Option<Run> {
        let run = self.runs.remove(&id)?;
        self.by_instance.remove(run.record.instance.as_str());
        for m in &run.machines {
            self.places.remove(&m.record.id);
        }
        self.shown.runs.insert(id);
        Some(run)
    }

    fn machine_mut(&mut self, id: MachineRunId) -> Option<&mut MachineRun> {
        let (run, place) = self.places.get(&id)?;
        self.runs.get_mut(run)?.machines.get_mut(*place)
    }

    /// The board has to show that run anew.
    fn touch_run(&mut self, id: RunId) {
        self.shown.runs.insert(id);
    }

    /// The board has to show that machine run anew.
    fn touch_machine(&mut self, id: MachineRunId) {
        if let Some(&(run, place)) = self.places.get(&id) {
            if let Some(run) = self.runs.get_mut(&run) {
                run.machines[place].shown = None;
            }
            self.shown.runs.insert(run);
        }
    }

    /// Every run that has not ended, in the order of their numbers: hash order would make a replay differ.
    fn open_runs(&self) -> Vec<RunId> {
        let mut open: Vec<RunId> = self
            .jobs
            .values()
            .flat_map(|state| state.open.iter().copied())
            .collect();
        open.sort_unstable();
        open
    }

    /// Looks through the machine runs that have been handed to the executor for those for which something is due: few of ten
    /// thousand, and what falls due for a job in the same second waits behind this look.
    fn scan_some(&mut self, awake: AwakeMs) {
        let mut left = limits::TURN_SCANNED;
        while left > 0
            && let Some(id) = self.scanning.pop_front()
        {
            let Some(run) = self.runs.get(&id) else { continue };
            left = left.saturating_sub(run.machines.len() + 1);
            let spec = &run.record.spec;
            let is_due = |m: &&MachineRun| m.kill.is_some() || m.overdue(spec, awake) != Overdue::Nothing;
            let unfinished = run.machines.iter().filter(|m| m.is_unfinished());
            self.checks.extend(unfinished.filter(is_due).map(|m| m.record.id));
        }
    }
}

fn why(outcome: &StoreOutcome) -> &str {
    match outcome {
        StoreOutcome::Failed(reason) => reason,
        StoreOutcome::AlreadyStarted => "its due time has a verdict already",
        StoreOutcome::NameTaken => "its name is taken",
        StoreOutcome::Committed => "committed",
    }
}

/// A run's log entry that needs no output.
fn log_line(job: &str, instance: &str, at: Wall, what: JobLogLine) -> Effect {
    Effect::JobLog(effect::JobLogEntry {
        job: job.into(),
        instance: instance.into(),
        at,
        what,
    })
}

#[cfg(test)]
mod turn_tests;
