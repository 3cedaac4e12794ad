//! Wrappers' frames: their order, their session, and whether they are accepted (wire-protocol.md section 1).
//! A session belongs to a machine run, never to a socket.
//! Must not know: sockets, JSON, what a frame changes.

use std::collections::VecDeque;
use std::sync::Arc;

use log::Level;

use crate::ending::GivenBy;
use crate::engine::connect::Greeting;
use crate::engine::effect::{ConnectionOrder, Effect, StorageOrder};
use crate::engine::event::{Arrival, Arrived, Peer};
use crate::engine::id::ConnectionId;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::record::StoredRun;
use crate::engine::run::Run;
use crate::engine::{Engine, Turn};
use crate::limits;
use crate::protocol::{DaemonFrame, ErrorCode, SessionKey, WrapperBody, WrapperFrame};
use crate::secret;

/// A wrapper's socket as the engine sees it.
#[derive(Debug, Default)]
pub struct Connection {
    /// The session that it belongs to.
    pub bound: Option<MachineRunId>,
    /// Output events taken from it.
    outputs_seen: u64,
    /// Frames that came before their connection's output was taken.
    held: VecDeque<Arrival>,
    /// It has sent a connect with `accepts`: one of ours.
    pub(super) is_ours: bool,
    /// It has been warned about in the log: once is enough.
    is_suspect: bool,
}

/// Where a frame's session stands.
enum Lookup {
    Known(MachineRunId),
    /// Storage is asked.
    Loading,
    /// No such run, no such target, or the wrong token; only the log says which of them.
    Unknown {
        unknown_in: Option<RunId>,
    },
}

/// What a frame without `connect` carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Output,
    Otherwise,
}

impl Engine {
    /// Keeps a connection's order: control may have overtaken output.
    pub(super) fn arrived(&mut self, turn: &mut Turn, arrival: Arrival) {
        let id = arrival.connection;
        let connection = self.connections.entry(id).or_default();
        match &arrival.what {
            Arrived::Output(_) => connection.outputs_seen += 1,
            // a beat counts from when it was read
            Arrived::Frame { frame, .. } if frame.body == WrapperBody::Heartbeat => {}
            Arrived::Frame { .. } | Arrived::Closed => {
                if arrival.outputs_before > connection.outputs_seen || !connection.held.is_empty() {
                    connection.held.push_back(arrival);
                    return;
                }
            }
        }
        self.take(turn, arrival);
        while let Some(connection) = self.connections.get_mut(&id) {
            let seen = connection.outputs_seen;
            let is_due = |next: &Arrival| next.outputs_before <= seen;
            if !connection.held.front().is_some_and(is_due) {
                break;
            }
            let next = connection.held.pop_front();
            next.into_iter().for_each(|next| self.take(turn, next));
        }
    }

    fn take(&mut self, turn: &mut Turn, arrival: Arrival) {
        let connection = arrival.connection;
        let key = match &arrival.what {
            Arrived::Closed => return self.closed(connection),
            Arrived::Frame { frame, .. } => &frame.key,
            Arrived::Output(frame) => &frame.key,
        };
        match self.look_up_or_load(turn, connection, &arrival.peer, key) {
            Lookup::Loading => {
                let instance = key.instance.clone();
                let waiting = self.loading.entry(instance).or_default();
                if waiting.len() < limits::LOADING_FRAMES {
                    waiting.push(arrival);
                } else {
                    turn.order(connection, ConnectionOrder::Close);
                }
            }
            Lookup::Known(id) => self.accept(turn, id, arrival),
            Lookup::Unknown { unknown_in } => {
                self.refuse_unknown(turn, unknown_in, arrival);
            }
        }
    }

    fn look_up_or_load(
        &mut self,
        turn: &mut Turn,
        connection: ConnectionId,
        peer: &Peer,
        key: &SessionKey,
    ) -> Lookup {
        let Some(run) = self.runs.named(&key.instance) else {
            if self.loading.contains_key(&key.instance) {
                return Lookup::Loading;
            }
            // a run's name begins with its job's: any other name is unknown without asking storage
            if self.loading.len() >= limits::LOADING_INSTANCES || !key.instance.starts_with(&key.job) {
                return Lookup::Unknown { unknown_in: None };
            }
            self.loading.insert(key.instance.clone(), Vec::new());
            turn.effects.push(Effect::Store(StorageOrder::LoadRun {
                instance: key.instance.clone(),
            }));
            return Lookup::Loading;
        };
        let is_let_in = run.is_stored
            && peer
                .token
                .as_deref()
                .is_some_and(|token| secret::same(token, &run.record.token));
        if !is_let_in || run.record.job != key.job {
            self.suspect(
                turn,
                connection,
                peer,
                &key.instance,
                "its token is not that run's",
            );
            return Lookup::Unknown { unknown_in: None };
        }
        match run.by_machine.get(key.machine.as_str()) {
            Some(&place) => Lookup::Known(run.machines[place].record.id),
            None => Lookup::Unknown {
                unknown_in: Some(run.record.id),
            },
        }
    }

    pub(super) fn suspect(
        &mut self,
        turn: &mut Turn,
        id: ConnectionId,
        peer: &Peer,
        instance: &str,
        why: &str,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if !connection.is_suspect {
            connection.is_suspect = true;
            turn.say(
                Level::Warn,
                format!(
                    "refused a wrapper at {} that speaks for {instance}: {why}",
                    peer.address
                ),
            );
        }
    }

    /// Storage has looked for a run.
    pub(super) fn run_loaded(&mut self, turn: &mut Turn, instance: &str, stored: Option<Box<StoredRun>>) {
        let waiting = self.loading.remove(instance).unwrap_or_default();
        if let Some(stored) = stored
            && !self.runs.is_named(instance)
            && self.runs.get(stored.run.id).is_none()
        {
            let run = Run::new(stored.run, stored.machines, turn.awake);
            let (id, is_open) = (run.record.id, run.is_open());
            let job: Arc<str> = run.record.job.as_str().into();
            self.runs.insert(run);
            if is_open {
                // not ended after all: it is watched, shown and killed like any other open run of its job
                let state = self.jobs.entry(job.clone()).or_default();
                state.record.job = job.to_string();
                state.open.push(id);
                self.touch_run(id);
                self.resume(turn, id);
            }
            for arrival in waiting {
                self.take(turn, arrival);
            }
            return;
        }
        let is_known = self.runs.is_named(instance);
        for arrival in waiting {
            if is_known || matches!(arrival.what, Arrived::Closed) {
                self.take(turn, arrival);
            } else {
                self.refuse_unknown(turn, None, arrival);
            }
        }
    }

    /// Nothing changes. A Python wrapper must not be cut off, or its command blocks on a full pipe (rules.md 23b).
    fn refuse_unknown(&mut self, turn: &mut Turn, unknown_in: Option<RunId>, arrival: Arrival) {
        let Arrival {
            connection,
            peer,
            what,
            ..
        } = arrival;
        let not_found = |what: &str| DaemonFrame::Error {
            code: ErrorCode::JobNotFound,
            message: format!("no such run, or {what} is no target of it"),
        };
        // output of an unknown run is discarded: it is not acked, for it is not stored
        let Arrived::Frame { frame, .. } = what else {
            return;
        };
        if let Some(run) = unknown_in.and_then(|id| self.runs.get_mut(id)) {
            run.unknown_machine
                .get_or_insert_with(|| frame.key.machine.chars().take(256).collect());
            let instance = run.record.instance.clone();
            let why = format!("'{}' is no target of it", frame.key.machine.escape_default());
            self.suspect(turn, connection, &peer, &instance, &why);
        }
        let is_ours = self
            .connections
            .get(&connection)
            .is_some_and(|connection| connection.is_ours);
        let answer = match frame.body {
            WrapperBody::Connect { accepts: None, .. } => Some(DaemonFrame::ConnectAck(Box::default())),
            WrapperBody::Start { .. } if !is_ours => Some(DaemonFrame::StartAck),
            WrapperBody::SyncRequest { .. } => Some(DaemonFrame::SyncResponse { last_seq: -1 }),
            WrapperBody::Heartbeat | WrapperBody::Killed | WrapperBody::Error { .. } => None,
            WrapperBody::Connect { .. } | WrapperBody::Complete { .. } | WrapperBody::Start { .. } => {
                turn.send(connection, not_found(&frame.key.machine));
                return turn.order(connection, ConnectionOrder::Close);
            }
            WrapperBody::Output(_) => None,
        };
        if let Some(frame) = answer {
            turn.send(connection, frame);
        }
    }

    fn closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if let Some(m) = connection.bound.and_then(|bound| self.runs.machine_mut(bound))
            && m.connection == Some(id)
        {
            m.connection = None;
            m.clocks.dry = None;
        }
    }

    /// A frame of a known machine run with the run's token.
    fn accept(&mut self, turn: &mut Turn, id: MachineRunId, arrival: Arrival) {
        let Arrival {
            connection,
            peer,
            what,
            ..
        } = arrival;
        match what {
            Arrived::Closed => self.closed(connection),
            Arrived::Frame { frame, read_at } => {
                let WrapperFrame { timestamp, body, .. } = *frame;
                if let WrapperBody::Connect {
                    accepts,
                    wrapper_id,
                    version,
                } = body
                {
                    match accepts.zip(wrapper_id) {
                        Some((accepts, wrapper_id)) => {
                            let greeting = Greeting {
                                connection,
                                peer,
                                accepts,
                                wrapper_id,
                                version,
                            };
                            self.connect_ours(turn, id, greeting);
                        }
                        None => self.connect_python(turn, id, connection),
                    }
                } else if self.join(turn, id, connection, &peer, Speaks::Otherwise) {
                    self.said(turn, id, connection, body, timestamp, read_at);
                }
            }
            Arrived::Output(frame) => {
                if self.join(turn, id, connection, &peer, Speaks::Output) {
                    self.output(turn, id, connection, *frame);
                }
            }
        }
    }

    /// Whether a frame without `connect` is accepted for that session: its connection is bound to it already, or is bound now,
    /// because a Python wrapper is back.
    fn join(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        peer: &Peer,
        speaks: Speaks,
    ) -> bool {
        let is_bound = self
            .connections
            .get(&connection)
            .is_some_and(|c| c.bound == Some(id));
        let Some(m) = self.runs.machine_mut(id) else {
            return false;
        };
        let is_back = !m.is_open() && m.record.presumed;
        if is_bound {
            // output on the same connection does not count as a heartbeat: a machine run that was lost without heartbeats
            // would be reopened and lost over and over
            let is_silent = m.record.given_by == Some(GivenBy::Lost) && speaks == Speaks::Output;
            if is_back && !is_silent {
                self.reopen(turn, id);
            }
            return true;
        }
        let is_refused = m.record.wrapper_id.is_some() || !m.may_have_started();
        if is_refused {
            let instance = self.instance_of(id);
            self.suspect(
                turn,
                connection,
                peer,
                &instance,
                "it did not connect with that session's wrapper_id",
            );
            self.refuse_again(turn, connection);
            return false;
        }
        if is_back {
            self.reopen(turn, id);
        }
        self.bind(turn, id, connection);
        true
    }

    pub(super) fn instance_of(&self, id: MachineRunId) -> String {
        let run = self.runs.find(id);
        run.map(|(run, _)| run.record.instance.clone())
            .unwrap_or_default()
    }

    pub(super) fn refuse_again(&mut self, turn: &mut Turn, connection: ConnectionId) {
        let frame = DaemonFrame::Error {
            code: ErrorCode::NotStartedAgain,
            message: "the permission to start was given to another wrapper, or the machine run has ended"
                .into(),
        };
        turn.send(connection, frame);
        turn.order(connection, ConnectionOrder::Close);
    }

    pub(super) fn bind(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId) {
        // a socket that is gone already (its frames waited for storage) belongs to no session
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        entry.bound = Some(id);
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let m = &mut run.machines[place];
        m.connection = Some(connection);
        m.clocks.dry = None;
        m.clocks.probed = None;
        if m.record.ours {
            m.nacked = None;
        }
        if let Some(kill) = m.kill.as_mut() {
            // it is told as soon as it can hear
            kill.sent = None;
        }
        let (instance, machine) = (run.record.instance.clone(), m.record.machine.clone());
        turn.order(connection, ConnectionOrder::Bind { instance, machine });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Mono, Now, Wall};
    use crate::engine::EngineSettings;
    use crate::engine::event::{Ask, Event};
    use crate::engine::id::RequestId;
    use crate::engine::record::Recovered;

    #[test]
    fn an_open_run_that_storage_still_has_is_shown_and_killed_even_if_its_job_is_gone() {
        let now = Now {
            mono: Mono(0),
            wall: Wall::from_secs(1_795_000_000),
        };
        let mut engine = Engine::new(
            EngineSettings::default(),
            Arc::default(),
            Recovered::default(),
            now,
        );
        let mut effects = Vec::new();
        engine.handle(now, Event::Listening, &mut effects);
        let stored = StoredRun::under_way();
        let loaded = Event::RunLoaded {
            instance: "backup_1".into(),
            run: Some(Box::new(stored)),
        };
        engine.handle(now, loaded, &mut effects);
        let board = engine.take_board().unwrap();
        assert!(board.running.contains_key("backup_1"));
        let kill = Event::Request {
            request: RequestId(1),
            ask: Ask::Kill {
                job: "backup".into(),
                machine: None,
                instance: None,
            },
            who: "test".into(),
        };
        effects.clear();
        engine.handle(now, kill, &mut effects);
        let refused = |effect: &Effect| matches!(effect, Effect::Answer { answer: Err(_), .. });
        assert!(!effects.iter().any(refused), "{effects:?}");
    }
}
