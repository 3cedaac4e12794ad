//! The engine's loop: control first, output in bounded portions, effects at once, the board now and then.
//! Must not know: what events mean.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, select};

use super::perform::Performer;
use super::publisher::Publication;
use super::systemd::Systemd;
use crate::clock::{self, Mono};
use crate::engine::Engine;
use crate::engine::board::Board;
use crate::engine::effect::Effect;
use crate::engine::event::{Arrived, Event};
use crate::storage::Request;
use crate::{limits, metrics};

/// With nothing to do, the loop looks around this often.
const IDLE_MS: u64 = 60_000;

/// The receiving ends of [`crate::machines::Lanes`].
pub struct Inbox {
    pub control: Receiver<Event>,
    pub bulk: Receiver<Event>,
}

/// The engine and what its loop works with.
pub struct Turns {
    pub engine: Engine,
    pub inbox: Inbox,
    pub performer: Performer,
    /// Hears of every turn, however long the work behind it: an engine that hangs is noticed, and so is a clock that no
    /// longer ticks.
    pub systemd: Systemd,
    effects: Vec<Effect>,
    /// When the board may be published next.
    board_due: Mono,
    /// Something happened since it was published.
    is_board_stale: bool,
    /// As published last.
    board: Arc<Board>,
    is_ending: bool,
    /// When the last tick was handled.
    last_tick: Mono,
}

impl Turns {
    /// Ready to run.
    pub fn new(engine: Engine, inbox: Inbox, performer: Performer) -> Turns {
        Turns {
            engine,
            inbox,
            performer,
            systemd: Systemd::default(),
            effects: Vec::new(),
            board_due: Mono(0),
            is_board_stale: false,
            board: Arc::default(),
            is_ending: false,
            last_tick: clock::mono(),
        }
    }

    /// Runs until [`Event::Shutdown`] has been handled; gives back what holds queues that are to be emptied,
    /// and the way to the service manager.
    pub fn run(mut self) -> (Performer, Systemd) {
        while !self.is_ending {
            let is_busy = self.take_portion();
            self.performer.retry();
            self.publish();
            if !is_busy && !self.is_ending {
                self.wait();
            }
        }
        (self.performer, self.systemd)
    }

    /// True: there may be more.
    fn take_portion(&mut self) -> bool {
        let mut is_busy = false;
        for _ in 0..limits::CONTROL_PORTION {
            let Ok(event) = self.inbox.control.try_recv() else {
                break;
            };
            is_busy = true;
            self.turn(event);
            if self.is_ending {
                return false;
            }
        }
        for _ in 0..limits::BULK_PORTION {
            if self.performer.is_storage_full() || !self.inbox.control.is_empty() && is_busy {
                break;
            }
            let Ok(event) = self.inbox.bulk.try_recv() else {
                break;
            };
            is_busy = true;
            self.turn(event);
        }
        if self.engine.has_more() && !self.performer.is_storage_full() {
            is_busy = true;
            self.turn(Event::More);
        }
        is_busy
    }

    fn turn(&mut self, event: Event) {
        let name = name(&event);
        let is_tick = matches!(event, Event::Tick);
        self.is_ending |= matches!(event, Event::Shutdown);
        let begun = clock::now();
        self.engine.handle(begun, event, &mut self.effects);
        let effects = self.effects.len();
        self.is_board_stale = true;
        for effect in self.effects.drain(..) {
            self.performer.perform(effect);
        }
        if is_tick {
            self.last_tick = begun.mono;
            self.systemd.beat(begun.mono, || status(&self.board));
        } else if begun.mono.since_ms(self.last_tick) < limits::TICK_OVERDUE_MS {
            self.systemd.alive(begun.mono);
        }
        // the wall clock has microseconds; a step of it costs one wrong figure
        metrics::ENGINE_TURNS.took_us(clock::wall().0.saturating_sub(begun.wall.0).max(0) as u64);
        let took_ms = clock::mono().since_ms(begun.mono);
        if took_ms > limits::SLOW_TURN_MS {
            log::warn!(
                target: "saltpeter::engine",
                "a turn of the engine took {took_ms} ms: {name}, {effects} effects"
            );
        }
    }

    /// The board at most every so often; answers at once, with the board that shows what they say.
    fn publish(&mut self) {
        metrics::CONTROL_QUEUE.set(self.inbox.control.len());
        metrics::BULK_QUEUE.set(self.inbox.bulk.len());
        metrics::STORAGE_QUEUE.set(self.performer.storage.queued());
        metrics::MACHINE_CONNECTIONS.set(self.performer.connections.count());
        let now = clock::now();
        let has_answers = !self.performer.answers.is_empty();
        let is_due = has_answers || (self.is_board_stale && now.mono >= self.board_due);
        if !is_due || !self.performer.publisher.has_room() {
            return;
        }
        self.is_board_stale = false;
        let board = self.engine.take_board();
        if board.is_none() && !has_answers {
            return;
        }
        if let Some(board) = &board {
            self.board = board.clone();
        }
        self.board_due = now.mono.plus_ms(limits::BOARD_INTERVAL_MS);
        let (synced, stored) = bounded(1);
        self.performer.request(Request::Sync(synced));
        let publication = Publication {
            stored,
            board,
            answers: std::mem::take(&mut self.performer.answers),
        };
        // there is room, and this is the only sender: it does not come back
        let _ = self.performer.publisher.try_send(publication);
    }

    fn wait(&mut self) {
        let mut timeout_ms = IDLE_MS;
        if !self.performer.answers.is_empty() {
            // the publisher had no room
            timeout_ms = 1;
        } else if self.is_board_stale {
            timeout_ms = self.board_due.since_ms(clock::mono()).max(1);
        }
        if self.performer.has_pending() {
            timeout_ms = timeout_ms.min(limits::PENDING_RETRY_MS);
        }
        let timeout = Duration::from_millis(timeout_ms);
        let event = if self.performer.is_storage_full() {
            self.inbox.control.recv_timeout(timeout).ok()
        } else {
            select! {
                recv(self.inbox.control) -> event => event.ok(),
                recv(self.inbox.bulk) -> event => event.ok(),
                default(timeout) => None,
            }
        };
        if let Some(event) = event {
            self.turn(event);
        }
    }
}

/// For `systemctl status`.
fn status(board: &Board) -> String {
    let config = &board.config;
    let mut text = format!(
        "{} jobs, {} runs under way",
        config.jobs.len(),
        board.running.len()
    );
    if config.maintenance.global {
        text.push_str(", in maintenance: no run starts");
    }
    let problems = config.problems.len();
    if problems > 0 {
        text.push_str(&format!(", {problems} problems with the configuration"));
    }
    for trouble in &board.troubles {
        // one line is all that systemd takes
        text.push_str(&format!("; {}", trouble.replace(char::is_control, " ")));
    }
    text
}

/// For the log.
fn name(event: &Event) -> &'static str {
    match event {
        Event::Tick => "tick",
        Event::More => "more",
        Event::Beats(_) => "beats",
        Event::Dry { .. } => "dry",
        Event::Wrapper(arrival) => match arrival.what {
            Arrived::Frame { .. } => "frame",
            Arrived::Output(_) => "output",
            Arrived::Closed => "closed",
        },
        Event::OutputDropped { .. } => "output dropped",
        Event::Stored { .. } => "stored",
        Event::RunLoaded { .. } => "run loaded",
        Event::StorageTrouble { .. } => "storage trouble",
        Event::Resolved { .. } => "resolved",
        Event::Launched { .. } => "launched",
        Event::LaunchFailed { .. } => "launch failed",
        Event::Config(_) => "config",
        Event::Request { .. } => "request",
        Event::Listening => "listening",
        Event::ExecutorTrouble { .. } => "executor trouble",
        Event::Returned { .. } => "returned",
        Event::LaunchPending { .. } => "launch pending",
        Event::PlainStarted { .. } => "plain started",
        Event::Delivered { .. } => "delivered",
        Event::Shutdown => "shutdown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_one_line_that_names_what_is_wrong() {
        assert_eq!(status(&Board::default()), "0 jobs, 0 runs under way");
        let mut board = Board::default();
        board.troubles.push("no\nspace".to_string());
        assert_eq!(status(&board), "0 jobs, 0 runs under way; no space");
    }
}
