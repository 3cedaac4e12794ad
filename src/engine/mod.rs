//! The one owner of state: decides what happens. Pure: no file, socket, process, thread, channel, lock, random
//! source or clock inside. `event.rs` and `effect.rs` are its whole surface.
//!
//! In reading order: `job.rs` holds jobs, `due.rs` decides on their due times (`hold.rs` knows what held them back), `runs.rs` holds runs, `start.rs` starts
//! them, `run.rs` hands out dispatches, `batch.rs` draws and orders machines, `session.rs` finds the session of a frame,
//! `connect.rs` gives permissions to start, `report.rs` takes what wrappers report, `outcome.rs` ends machine runs and
//! runs, `machine_run.rs` knows what is overdue and `watch.rs` looks once a second, `kill.rs` ends what users want
//! ended, `control.rs` keeps what users set (pauses, maintenance) and did, `judge.rs` decides what is told and
//! `outbox.rs` sees notices (`notice.rs`) on their way, `commits.rs` goes on after a commit, `recover.rs` after a restart,
//! `show.rs` makes the board of it all.

pub mod batch;
pub mod board;
pub mod effect;
pub mod event;
pub mod id;
pub mod notice;
pub mod record;

mod awake;
mod commits;
mod connect;
mod control;
mod due;
mod expiry;
mod hold;
mod job;
mod judge;
mod kill;
mod look;
mod machine_run;
mod outbox;
mod outcome;
mod output;
mod plain;
mod random;
mod recover;
mod report;
mod run;
mod runs;
mod session;
mod show;
mod start;
mod text;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use log::Level;

use awake::Awake;
pub use awake::AwakeMs;
use board::Board;
use effect::{ConnectionOrder, Effect, ExecutorOrder, Fact, StorageOrder, Write};
use event::{Arrival, Event};
use id::{ConnectionId, MachineRunId, RunId, Ticket};
use record::{Recovered, SwitchRecord, VerdictRecord};

use crate::clock::{Now, Wall};
use crate::config::{Config, Maintenance};
use crate::protocol::DaemonFrame;

/// What the engine is created with.
#[derive(Clone, Debug, Default)]
pub struct EngineSettings {
    /// Seed of draws, shuffles and tokens: fresh from the kernel in the daemon, fixed in tests.
    pub seed: [u8; 32],
    /// Wrappers connect over loopback: jobs may travel over the connection even without TLS.
    pub is_link_confidential: bool,
    /// Without a `wrapper_path` or `default_wrapper_path` the executor starts sp-wrapper (local executor).
    pub starts_sp_wrapper_by_default: bool,
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
    /// Misses that storage has not taken yet, few stretches per job.
    unstored_misses: BTreeMap<String, Vec<VerdictRecord>>,
    /// Pauses and switches, by when they expire.
    expiry: expiry::Expiry,
    /// What is in force: the files', with the switches on top.
    maintenance: Maintenance,
    /// By machine; None: global.
    switches: BTreeMap<Option<String>, SwitchRecord>,
    /// From when to when the last switch to global maintenance was in force.
    maintenance_over: Option<(Wall, Wall)>,
    runs: runs::Runs,
    connections: HashMap<ConnectionId, session::Connection>,
    loading: HashMap<String, Vec<Arrival>>,
    tickets: HashMap<Ticket, commits::Waiting>,
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
    /// The time by which history ages, and when it was that time.
    history_clock: Option<(Wall, AwakeMs)>,
    /// Effects that wait for the first turn.
    startup_effects: Vec<Effect>,
    /// What may become late, and notices on their way.
    watches: judge::Watches,
    outbox: outbox::Outbox,
    shown: show::Shown,
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

impl Engine {
    /// Takes up what storage has kept. Nothing is done before the first event.
    pub fn new(settings: EngineSettings, config: Arc<Config>, recovered: Recovered, now: Now) -> Engine {
        let mut engine = Engine {
            random: random::Random::new(settings.seed),
            settings,
            config: Arc::default(),
            awake: Awake::default(),
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
            maintenance_over: None,
            runs: runs::Runs::new(recovered.next_run, recovered.next_machine_run),
            connections: HashMap::new(),
            loading: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 1,
            next_retention_ms: 0,
            resuming: VecDeque::new(),
            rewriting: VecDeque::new(),
            planning: BTreeMap::new(),
            scanning: VecDeque::new(),
            checks: VecDeque::new(),
            history_clock: recovered
                .history_clock
                .or(recovered.last_look)
                .map(|at| (at, now.mono.0)),
            startup_effects: Vec::new(),
            watches: judge::Watches::default(),
            outbox: outbox::Outbox::default(),
            shown: show::Shown::default(),
        };
        engine.recover(config, recovered, now);
        engine
    }

    /// One turn. Effects are appended in the order in which they are to be done.
    #[allow(clippy::too_many_lines, reason = "a table: one arm for each event")]
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        effects.append(&mut self.startup_effects);
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
            Event::Delivered { to, message, result } => self.delivered(turn, &to, &message, result),
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

    fn executor_troubled(&mut self, turn: &mut Turn, reason: Option<String>) {
        match &reason {
            Some(reason) => turn.say(Level::Error, format!("no machine can be reached: {reason}")),
            None => turn.say(Level::Info, "machines can be reached again".into()),
        }
        self.executor_trouble = reason;
        self.shown.is_changed = true;
    }

    fn shut_down(&mut self, turn: &mut Turn) {
        self.is_shutting_down = true;
        if let Some(look) = self.look.at_s()
            && self.all_verdicts_are_stored(look)
        {
            turn.store(vec![Fact::LastLook(Wall::from_secs(look))]);
        }
    }

    /// That run has changed: the next board shows it again.
    fn touch_run(&mut self, id: RunId) {
        self.shown.runs.insert(id);
    }

    /// That machine run has changed: the next board shows it again.
    fn touch_machine(&mut self, id: MachineRunId) {
        if let Some((run, place)) = self.runs.find_mut(id) {
            run.machines[place].shown = None;
            self.shown.runs.insert(run.record.id);
        }
    }
}

#[cfg(test)]
mod turn_tests;
