//! The shell around the engine, simulated: two lanes in, effects out, a ticker, stalls, crashes and restarts.
//! Must not know: what the engine should decide.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use saltpeter::engine::board::Board;
use saltpeter::engine::effect::{Answer, Effect, JobLogEntry, NotifyOrder};
use saltpeter::engine::event::{Arrival, Arrived, Ask, Event};
use saltpeter::engine::id::{ConnectionId, RequestId};
use saltpeter::engine::notice::Message;
use saltpeter::engine::{Engine, EngineSettings};

use crate::trace;
use crate::world::{Action, World};

/// One life of the daemon's process.
pub struct Daemon {
    pub engine: Engine,
    control: VecDeque<Event>,
    bulk: VecDeque<Event>,
    bulk_ready: usize,
    bulk_last_ms: u64,
    /// No turns until then.
    pub stalled: bool,
    /// Nothing at all moves: no reads, no ticks.
    pub frozen: bool,
    pub stall_began_ms: u64,
    missed_tick: bool,
    pub listening: bool,
    pub shutting_down: bool,
    /// Dies after so many more effects.
    pub dies_after_effects: Option<u32>,
    /// Connections whose end the engine was told.
    pub told_closed: BTreeSet<u64>,
    /// No room for output between socket and engine.
    pub squeezed: bool,
    in_turn: bool,
}

/// What users and log files got to see.
#[derive(Default)]
pub struct Seen {
    pub board: Arc<Board>,
    pub answers: BTreeMap<u64, Answer>,
    pub asked: BTreeMap<u64, (Ask, u64)>,
    pub next_request: u64,
    pub log: Vec<JobLogEntry>,
    pub said: Vec<String>,
    /// Messages that were handed out, and when, each time.
    pub messages: Vec<(u64, Message)>,
    pub heartbeats: u64,
}

impl Daemon {
    /// Output of that connection has been read and not been handled.
    pub fn has_output_of(&self, connection: ConnectionId) -> bool {
        self.bulk
            .iter()
            .any(|event| matches!(event, Event::Wrapper(arrival) if arrival.connection == connection))
    }
}

impl World {
    pub fn start_daemon(&mut self) {
        self.restart_pending = false;
        if self.daemon.is_some() {
            return;
        }
        self.life += 1;
        let life = self.life;
        let recovered = self.storage.recovered();
        trace!(
            self,
            "DAEMON starts, life {life}, last look {:?}, {} runs",
            recovered.last_look,
            recovered.runs.len()
        );
        let settings = EngineSettings {
            seed: self.rng.bytes32(),
            is_link_confidential: true,
            starts_sp_wrapper_by_default: false,
            machines_share_a_host: false,
        };
        let engine = Engine::new(settings, self.config.clone(), recovered, self.now());
        self.daemon = Some(Daemon {
            engine,
            control: VecDeque::new(),
            bulk: VecDeque::new(),
            bulk_ready: 0,
            bulk_last_ms: 0,
            stalled: false,
            frozen: false,
            stall_began_ms: 0,
            missed_tick: false,
            listening: false,
            shutting_down: false,
            dies_after_effects: None,
            told_closed: BTreeSet::new(),
            squeezed: false,
            in_turn: false,
        });
        self.checker_daemon_started();
        let wait = self.delay(0, 300);
        self.after(wait, Action::Listen { life });
        if self.rng.chance(500) {
            self.control(Event::Config(self.config.clone()));
        }
        if self.storage.reason().is_some() {
            let reason = self.storage.reason();
            self.control(Event::StorageTrouble { reason });
        }
        let wait = self.to_next_second_ms();
        self.after(wait, Action::Tick { life });
    }

    pub fn listen(&mut self, life: u32) {
        if life != self.life {
            return;
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.listening = true;
            trace!(self, "DAEMON listens");
            self.checker_listening();
            self.control(Event::Listening);
        }
    }

    /// kill -9, between any two effects.
    pub fn crash(&mut self) {
        if self.daemon.take().is_none() {
            return;
        }
        trace!(self, "DAEMON dies");
        self.life += 1;
        let kept = self.rng.chance(500);
        self.storage_crash(kept);
        self.executor.forget();
        self.drop_all_connections();
        self.checker_daemon_gone();
    }

    /// The end of an ordered shutdown: what waits for storage is stored first.
    pub fn exit_in_order(&mut self) {
        if self.daemon.is_none() {
            return;
        }
        trace!(self, "DAEMON exits in order");
        self.storage_crash(true);
        self.daemon = None;
        self.life += 1;
        self.executor.forget();
        self.drop_all_connections();
        self.checker_daemon_gone();
    }

    pub fn restart_in(&mut self, ms: u64) {
        self.restart_pending = true;
        self.after(ms, Action::StartDaemon);
    }

    /// The engine (or the whole process, if `frozen`) does nothing for so long.
    pub fn stall(&mut self, ms: u64, frozen: bool) {
        let (life, now_ms) = (self.life, self.now_ms);
        if let Some(daemon) = &mut self.daemon
            && !daemon.stalled
        {
            daemon.stalled = true;
            daemon.frozen = frozen;
            daemon.stall_began_ms = now_ms;
            trace!(self, "DAEMON stalls for {ms} ms, frozen: {frozen}");
            self.after(ms, Action::StallEnd { life });
        }
    }

    pub fn stall_end(&mut self, life: u32) {
        if life != self.life {
            return;
        }
        let Some(daemon) = &mut self.daemon else { return };
        let was_frozen = daemon.frozen;
        daemon.stalled = false;
        daemon.frozen = false;
        let began = daemon.stall_began_ms;
        let missed_tick = std::mem::take(&mut daemon.missed_tick);
        trace!(self, "DAEMON goes on");
        self.checker_stall_over(self.now_ms - began);
        if was_frozen {
            let conns: Vec<u64> = self
                .conns
                .iter()
                .filter(|(_, c)| c.has_backlog())
                .map(|(id, _)| *id)
                .collect();
            for conn in conns {
                let wait = self.delay(0, 200);
                self.after(wait, Action::Backlog { conn });
            }
            if missed_tick {
                let wait = self.delay(0, 100);
                self.after(wait, Action::Tick { life });
            }
        }
        self.drain();
    }

    /// The ticker thread: collected beats, then the tick; once a second on the wall clock's second.
    pub fn ticker(&mut self, life: u32) {
        if life != self.life {
            return;
        }
        let Some(daemon) = &mut self.daemon else { return };
        if daemon.frozen {
            daemon.missed_tick = true;
            return;
        }
        let wait = self.to_next_second_ms();
        self.after(wait, Action::Tick { life });
        let beats = self.collect_beats();
        if !beats.is_empty() {
            self.control(Event::Beats(beats));
        }
        self.control(Event::Tick);
    }

    pub fn control(&mut self, event: Event) {
        if let Some(daemon) = &mut self.daemon {
            daemon.control.push_back(event);
            self.drain();
        }
    }

    pub fn control_after(&mut self, ms: u64, event: Event) {
        let life = self.life;
        self.after(
            ms,
            Action::Control {
                life,
                event: Box::new(event),
            },
        );
    }

    /// Output waits in a lane of its own, in order, behind everything else.
    pub fn bulk(&mut self, event: Event) {
        let slow = self.jitter && self.rng.chance(20);
        let wait = if slow {
            self.delay(100, 3_000)
        } else {
            self.delay(0, 20)
        };
        let life = self.life;
        if let Some(daemon) = &mut self.daemon {
            daemon.bulk.push_back(event);
            let at = daemon.bulk_last_ms.max(self.now_ms + wait);
            daemon.bulk_last_ms = at;
            self.at(at, Action::Bulk { life });
        }
    }

    pub fn bulk_ready(&mut self, life: u32) {
        if life == self.life
            && let Some(daemon) = &mut self.daemon
        {
            daemon.bulk_ready += 1;
            self.drain();
        }
    }

    /// Turns, as long as there is something to do: control first.
    fn drain(&mut self) {
        loop {
            let Some(daemon) = &mut self.daemon else { return };
            if daemon.stalled || daemon.in_turn || self.failure.is_some() {
                return;
            }
            let event = match daemon.control.pop_front() {
                Some(event) => event,
                None if daemon.bulk_ready > 0 => {
                    daemon.bulk_ready -= 1;
                    match daemon.bulk.pop_front() {
                        Some(event) => event,
                        None => return,
                    }
                }
                None if daemon.engine.has_more() => Event::More,
                None => return,
            };
            self.turn(event);
        }
    }

    fn turn(&mut self, event: Event) {
        let now = self.now();
        trace!(self, "EVENT {event:?}");
        self.checker_before_turn(&event);
        if let Event::Wrapper(Arrival {
            connection,
            what: Arrived::Closed,
            ..
        }) = event
            && let Some(daemon) = &mut self.daemon
        {
            daemon.told_closed.insert(connection.0);
        }
        let is_tick = matches!(event, Event::Tick);
        let mut effects = Vec::new();
        let Some(daemon) = &mut self.daemon else { return };
        daemon.in_turn = true;
        daemon.engine.handle(now, event, &mut effects);
        self.turns += 1;
        let board = daemon.engine.take_board();
        if let Some(board) = board {
            self.checker.seen.board = board;
        }
        self.checker_after_turn(is_tick, &effects);
        for effect in effects {
            if self.dies_now() {
                self.crash();
                let wait = self.rng.range(200, 40_000);
                self.restart_in(wait);
                return;
            }
            self.perform(effect);
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.in_turn = false;
        }
    }

    fn dies_now(&mut self) -> bool {
        let Some(left) = self.daemon.as_mut().and_then(|d| d.dies_after_effects.as_mut()) else {
            return false;
        };
        *left = left.saturating_sub(1);
        *left == 0
    }

    fn perform(&mut self, effect: Effect) {
        trace!(self, "  EFFECT {effect:?}");
        match effect {
            Effect::Store(order) => self.storage_order(order),
            Effect::Connection(connection, order) => self.connection_order(connection, order),
            Effect::Execute(order) => self.executor_order(order),
            Effect::JobLog(entry) => self.checker.seen.log.push(entry),
            Effect::Say { text, .. } => {
                if self.checker.keep_all {
                    self.checker.seen.said.push(text);
                }
            }
            Effect::Answer { request, answer } => self.checker_answer(request, answer),
            Effect::Notify(NotifyOrder::Deliver(message)) => self.deliver(*message),
            Effect::Notify(NotifyOrder::Heartbeat { .. }) => self.checker.seen.heartbeats += 1,
        }
    }

    /// A destination: takes a message after a moment, or does what the scenario wants.
    fn deliver(&mut self, message: Message) {
        let result = self
            .receiver
            .map_or(Ok(()), |receiver| receiver(self.now_ms, &message));
        let event = Event::Delivered {
            to: message.notifier.name.clone(),
            message: message.id.clone(),
            result,
        };
        self.checker.seen.messages.push((self.now_ms, message));
        let wait = self.delay(1, 900);
        self.control_after(wait, event);
    }

    /// Somebody asks; None while no daemon runs.
    pub fn ask(&mut self, ask: Ask) -> Option<u64> {
        let ready = self.daemon.as_ref().is_some_and(|d| d.listening);
        if !ready {
            return None;
        }
        let request = self.checker.seen.next_request;
        self.checker.seen.next_request += 1;
        self.checker_asked(request, &ask);
        self.control(Event::Request {
            request: RequestId(request),
            ask,
            who: "sim".into(),
        });
        Some(request)
    }

    /// The daemon takes the configuration as it is now.
    pub fn reload(&mut self) {
        self.control(Event::Config(self.config.clone()));
    }

    pub fn is_live(&self, connection: ConnectionId) -> bool {
        let told = self
            .daemon
            .as_ref()
            .is_none_or(|d| d.told_closed.contains(&connection.0));
        !told && self.conns.get(&connection.0).is_some_and(|c| c.life == self.life)
    }
}
