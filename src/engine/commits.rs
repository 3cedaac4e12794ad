//! What waits for a commit, and what storage refused: it is offered again when storage can write.
//! Must not know: how storage commits.

use log::Level;

use crate::budget::Chunk;
use crate::clock::Wall;
use crate::engine::effect::{Answer, Dispatch, Effect, Fact, Refusal, Write};
use crate::engine::event::StoreOutcome;
use crate::engine::id::{ConnectionId, MachineRunId, RequestId, RunId, Ticket};
use crate::engine::job::JobState;
use crate::engine::machine_run::MachineRun;
use crate::engine::record::VerdictRecord;
use crate::engine::{Engine, Turn};
use crate::limits;
use crate::protocol::ConnectAck;

/// What happens when a write is committed (or refused).
#[derive(Debug)]
pub(super) enum Waiting {
    Start {
        run: RunId,
        request: Option<RequestId>,
    },
    /// A connect that is acked once it is stored.
    Connect {
        machine_run: MachineRunId,
        connection: ConnectionId,
        ack: Box<ConnectAck>,
    },
    /// A dispatch that is sent once and never repeated.
    Dispatch(Dispatch),
    /// Facts of a run, which stays in memory until they are committed, and what is done then.
    RunFacts {
        run: RunId,
        follow: Vec<Effect>,
    },
    Answer {
        request: RequestId,
        answer: Answer,
    },
    Misses(Vec<VerdictRecord>),
    /// A message of notices that is handed out.
    Message {
        to: String,
        id: String,
    },
    /// Proves that storage takes writes.
    Heartbeat,
}

impl Turn<'_> {
    /// Appends a line of the daemon's own to a machine run's output. It is a write of its own: an outcome must not wait where
    /// output waits for room on the disk.
    pub(super) fn notice(&mut self, m: &mut MachineRun, run_started: Wall, text: &str) {
        let day = run_started.utc_day();
        let bytes = m.output.notice(text);
        let placed = m.output.append(m.record.id, day, Chunk::free(bytes));
        self.commit(Write {
            output: placed.rows,
            trim: placed.trim.into_iter().collect(),
            after_output_of: Some(m.record.id),
            ..Write::default()
        });
        m.record.left_out_bytes = m.output.left_out_bytes();
        m.shown = None;
    }
}

impl Engine {
    /// The ticket of a write with facts of a run: the run stays in memory until it is committed. `follow` is done then, or
    /// when it is refused.
    pub(super) fn run_ticket(&mut self, run: RunId, follow: Vec<Effect>) -> Ticket {
        if let Some(run) = self.runs.get_mut(run) {
            run.unconfirmed += 1;
        }
        self.ticket(Waiting::RunFacts { run, follow })
    }

    pub(super) fn ticket(&mut self, waiting: Waiting) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.tickets.insert(ticket, waiting);
        ticket
    }

    /// A write was committed, or refused.
    pub(super) fn stored(&mut self, turn: &mut Turn, ticket: Ticket, outcome: StoreOutcome) {
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
            (Waiting::RunFacts { run, follow }, outcome) => {
                // a job log line tells what happened, stored or not
                turn.effects.extend(follow);
                if let Some(run) = self.runs.get_mut(run) {
                    run.unconfirmed -= 1;
                    run.is_refused |= outcome != StoreOutcome::Committed;
                }
            }
            (Waiting::Answer { request, answer }, StoreOutcome::Committed) => {
                turn.effects.push(Effect::Answer { request, answer });
            }
            (Waiting::Answer { request, .. }, outcome) => {
                let reason = format!("not stored: {}", why(&outcome));
                let answer = Err(Refusal::Unavailable(reason));
                turn.effects.push(Effect::Answer { request, answer });
            }
            (Waiting::Message { to, id }, outcome) => self.message_stored(turn, &to, &id, &outcome),
            (Waiting::Heartbeat, StoreOutcome::Committed) => self.heartbeat_stored(turn),
            (Waiting::Heartbeat, _) => {}
            (Waiting::Misses(_), StoreOutcome::Committed) => {}
            (Waiting::Misses(misses), _) => {
                for miss in misses {
                    self.remember_miss(turn.now.wall, miss);
                }
            }
        }
    }

    /// Storage cannot write, or can again: then what it refused is offered once more.
    pub(super) fn storage_troubled(&mut self, turn: &mut Turn, reason: Option<String>) {
        match &reason {
            Some(reason) => turn.say(Level::Error, format!("storage cannot write: {reason}")),
            None => turn.say(Level::Warn, "storage writes again".into()),
        }
        self.storage_trouble = reason;
        self.shown.is_changed = true;
        if self.storage_trouble.is_none() {
            self.store_misses(turn);
            self.rewriting = self.runs.to_be_rewritten().into();
            turn.store(self.jobs.values_mut().map(JobState::fact).collect());
            turn.store(self.notice_states());
            self.rewrite(turn);
        }
    }

    /// Stores runs once more that storage may have refused, as many as a turn may.
    pub(super) fn rewrite(&mut self, turn: &mut Turn) {
        let mut left = limits::TURN_MACHINES;
        while left > 0
            && let Some(id) = self.rewriting.pop_front()
        {
            let Some(run) = self.runs.get_mut(id).filter(|run| run.is_stored) else {
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
            run.is_refused = false;
            let ticket = self.run_ticket(id, Vec::new());
            turn.commit(Write {
                facts,
                ticket: Some(ticket),
                ..Write::default()
            });
            if is_open {
                self.dispatch_waiting(turn, id);
            }
        }
    }
}

/// Why a write did nothing, for a message.
pub(super) fn why(outcome: &StoreOutcome) -> &str {
    match outcome {
        StoreOutcome::Failed(reason) => reason,
        StoreOutcome::AlreadyStarted => "its due time has a verdict already",
        StoreOutcome::NameTaken => "its name is taken",
        StoreOutcome::Committed => "committed",
    }
}
