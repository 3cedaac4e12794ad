//! The machines port: wrappers' frames become events, the engine's frames become text. Heartbeats of a bound session
//! are only stamped; the ticker collects the stamps.
//! Must not know: runs, outcomes, storage; it answers nothing by itself but messages that are not frames.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{SendTimeoutError, Sender};
use parking_lot::RwLock;
use rustls::ServerConfig;

use crate::address::is_loopback;
use crate::budget::Budget;
use crate::clock::{self, Mono};
use crate::engine::effect::ConnectionOrder;
use crate::engine::event::{Arrival, Arrived, Event, OutputFrame, Peer};
use crate::engine::id::ConnectionId;
use crate::net::accept::{self, Acceptor, Upgraded};
use crate::net::capacity::{Capacity, Slot};
use crate::net::connection::{Connection, Handler, Reaction};
use crate::net::outbox::Outbox;
use crate::protocol::{self, DaemonFrame, ErrorCode, SessionKey, WrapperBody};
use crate::url::percent_decode;
use crate::{limits, thread};

/// The ways into the engine.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Everything but output.
    pub control: Sender<Event>,
    /// Output.
    pub bulk: Sender<Event>,
}

/// Every connected wrapper; shared by all threads that send to one.
#[derive(Debug, Default)]
pub struct Connections {
    live: RwLock<HashMap<ConnectionId, Arc<ConnectionHandle>>>,
    next: AtomicU64,
}

/// The way to one connection, and its last heartbeat.
#[derive(Debug)]
struct ConnectionHandle {
    outbox: Arc<Outbox<ConnectionOrder>>,
    /// Monotonic ms of the latest beat that has not been collected yet; 0: none.
    beat_ms: AtomicU64,
}

impl Connections {
    /// Hands an order to a connection; never waits. One that is gone gets nothing.
    pub fn push(&self, connection: ConnectionId, order: ConnectionOrder) {
        if let Some(handle) = self.live.read().get(&connection) {
            handle.outbox.push(order);
        }
    }

    /// Hands frames to their connections, in order.
    pub fn deliver(&self, frames: impl IntoIterator<Item = (ConnectionId, DaemonFrame)>) {
        let live = self.live.read();
        for (connection, frame) in frames {
            if let Some(handle) = live.get(&connection) {
                handle.outbox.push(ConnectionOrder::Send(frame));
            }
        }
    }

    /// The beats since the last call.
    pub fn collect_beats(&self) -> Vec<(ConnectionId, Mono)> {
        let live = self.live.read();
        let beats = live
            .iter()
            .map(|(connection, handle)| (*connection, handle.beat_ms.swap(0, Ordering::AcqRel)));
        beats
            .filter(|(_, ms)| *ms != 0)
            .map(|(connection, ms)| (connection, Mono(ms)))
            .collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.live.read().len()
    }

    fn enter(&self) -> io::Result<(ConnectionId, Arc<ConnectionHandle>)> {
        let handle = Arc::new(ConnectionHandle {
            outbox: Arc::new(Outbox::new(limits::OUTBOX_FRAMES)?),
            beat_ms: AtomicU64::new(0),
        });
        let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        self.live.write().insert(id, handle.clone());
        Ok((id, handle))
    }

    fn leave(&self, connection: ConnectionId) {
        let gone = self.live.write().remove(&connection);
        drop(gone);
    }
}

/// Starts serving wrappers on `listener`, as many as `capacity` has room for, with TLS for those that begin with it. Dropping what
/// it returns ends accepting; connections live on.
pub fn start(
    listener: TcpListener,
    capacity: Capacity,
    tls: Arc<ServerConfig>,
    lanes: Lanes,
    budget: Arc<Budget>,
    connections: Arc<Connections>,
) -> io::Result<Acceptor> {
    let budget_bytes = budget.left();
    accept::start(
        listener,
        "machines",
        capacity,
        Some(tls),
        Arc::new(move |upgraded| {
            admit(upgraded, &lanes, &budget, budget_bytes, &connections);
        }),
    )
}

/// Gives a socket its thread.
fn admit(
    upgraded: Upgraded,
    lanes: &Lanes,
    budget: &Arc<Budget>,
    budget_bytes: usize,
    connections: &Arc<Connections>,
) {
    let (id, handle) = match connections.enter() {
        Ok(entered) => entered,
        Err(error) => return log::error!("cannot serve {}: {error}", upgraded.address),
    };
    let now = clock::mono();
    let session = Session {
        id,
        peer: Arc::new(peer(&upgraded)),
        handle: handle.clone(),
        connections: connections.clone(),
        lanes: lanes.clone(),
        budget: budget.clone(),
        budget_bytes,
        bound: None,
        last_beat: None,
        outputs: 0,
        has_dropped: false,
        is_probed: false,
        has_spoken: false,
        last_heard: now,
        _slot: upgraded.slot,
    };
    let connection = Connection::new(
        upgraded.stream,
        upgraded.already_read,
        limits::WRAPPER_FRAME_BYTES,
        handle.outbox.clone(),
        session,
    );
    let started = thread::spawn("wrapper", limits::CONNECTION_STACK_BYTES, move || {
        connection.run()
    });
    if let Err(error) = started {
        log::error!("cannot start a thread for {}: {error}", upgraded.address);
    }
}

/// One connection's side of the protocol.
struct Session {
    id: ConnectionId,
    peer: Arc<Peer>,
    handle: Arc<ConnectionHandle>,
    connections: Arc<Connections>,
    lanes: Lanes,
    budget: Arc<Budget>,
    /// What the budget was when full.
    budget_bytes: usize,
    /// Instance and machine whose beats are only stamped.
    bound: Option<(String, String)>,
    /// The latest beat stamped for it, collected or not.
    last_beat: Option<Mono>,
    /// Output events forwarded.
    outputs: u64,
    /// Output frames were dropped, and the engine has not been told.
    has_dropped: bool,
    /// The engine waits for [`Event::Dry`].
    is_probed: bool,
    /// A valid frame has come.
    has_spoken: bool,
    last_heard: Mono,
    _slot: Slot,
}

impl Session {
    fn is_bound_to(&self, key: &SessionKey) -> bool {
        self.bound
            .as_ref()
            .is_some_and(|(instance, machine)| *instance == key.instance && *machine == key.machine)
    }

    fn arrival(&self, what: Arrived) -> Event {
        Event::Wrapper(Arrival {
            connection: self.id,
            peer: self.peer.clone(),
            outputs_before: self.outputs,
            what,
        })
    }

    /// The engine takes control first and never waits, so this wait is short however full the lane is.
    fn forward(&self, event: Event) -> Reaction {
        match self.lanes.control.send(event) {
            Ok(()) => Reaction::Go,
            // the engine is gone: the daemon ends
            Err(_) => Reaction::Drop,
        }
    }

    /// Output goes on only within the byte budget; what is dropped stays unacked, so the wrapper still has it.
    fn forward_output(&mut self, key: SessionKey, body: protocol::OutputBody) -> Reaction {
        if self.has_dropped && !self.tell_of_dropped() {
            return Reaction::Go;
        }
        let Ok(data) = self.budget.take(body.data) else {
            self.has_dropped = true;
            return Reaction::Go;
        };
        let event = self.arrival(Arrived::Output(Box::new(OutputFrame {
            key,
            seq: body.seq,
            data,
        })));
        let wait = std::time::Duration::from_millis(limits::BULK_WAIT_MS);
        match self.lanes.bulk.send_timeout(event, wait) {
            Ok(()) => self.outputs += 1,
            Err(SendTimeoutError::Timeout(_)) => self.has_dropped = true,
            Err(SendTimeoutError::Disconnected(_)) => return Reaction::Drop,
        }
        Reaction::Go
    }

    /// Tells the engine of dropped output once there is room for it to be sent again. True: told.
    fn tell_of_dropped(&mut self) -> bool {
        if self.budget.left() < self.budget_bytes / 4 {
            return false;
        }
        self.has_dropped = false;
        self.forward(Event::OutputDropped { connection: self.id });
        true
    }

    fn refuse(&self, reason: &str) -> Reaction {
        log::warn!(
            "a wrapper at {} sent {reason}: its connection is closed",
            self.peer.address
        );
        let frame = DaemonFrame::Error {
            code: ErrorCode::BadFrame,
            message: format!("the daemon does not understand {reason}"),
        };
        Reaction::Close {
            closing_message: Some(protocol::encode_daemon_frame(&frame, clock::wall())),
        }
    }
}

impl Handler for Session {
    type Order = ConnectionOrder;

    fn on_text(&mut self, text: &str, read_at: Mono) -> Reaction {
        let frame = match protocol::decode_wrapper_frame(text) {
            Ok(frame) => frame,
            Err(bad) => return self.refuse(&format!("a bad frame ({bad})")),
        };
        self.has_spoken = true;
        self.last_heard = read_at;
        match frame.body {
            WrapperBody::Heartbeat if self.is_bound_to(&frame.key) => {
                // the engine says so when it counts
                self.last_beat = Some(read_at);
                self.handle.beat_ms.store(read_at.0.max(1), Ordering::Release);
                Reaction::Go
            }
            WrapperBody::Output(body) => self.forward_output(frame.key, body),
            _ => self.forward(self.arrival(Arrived::Frame {
                frame: Box::new(frame),
                read_at,
            })),
        }
    }

    fn on_other(&mut self, what: &str) -> Reaction {
        self.refuse(what)
    }

    fn on_order(&mut self, order: ConnectionOrder) -> Reaction {
        match order {
            ConnectionOrder::Send(frame) => {
                Reaction::Send(protocol::encode_daemon_frame(&frame, clock::wall()))
            }
            ConnectionOrder::Bind { instance, machine } => {
                let bound = Some((instance, machine));
                if self.bound != bound {
                    self.bound = bound;
                    self.last_beat = None;
                }
                Reaction::Go
            }
            ConnectionOrder::Probe => {
                self.is_probed = true;
                Reaction::ReadDry
            }
            ConnectionOrder::Close => Reaction::Close {
                closing_message: None,
            },
        }
    }

    fn on_dry(&mut self, at: Mono) {
        if self.is_probed {
            self.is_probed = false;
            self.forward(Event::Dry {
                connection: self.id,
                at,
                last_beat: self.last_beat,
            });
        }
    }

    fn next_time(&self) -> Mono {
        let silent = if self.has_spoken {
            limits::SILENT_CONNECTION_MS
        } else {
            limits::FIRST_FRAME_MS
        };
        let deadline = self.last_heard.plus_ms(silent);
        if self.has_dropped {
            deadline.min(clock::mono().plus_ms(limits::BUDGET_RETRY_MS))
        } else {
            deadline
        }
    }

    fn on_time(&mut self, now: Mono) -> Reaction {
        if self.has_dropped {
            self.tell_of_dropped();
        }
        let silent_ms = now.since_ms(self.last_heard);
        match self.has_spoken {
            false if silent_ms >= limits::FIRST_FRAME_MS => Reaction::Drop,
            true if silent_ms >= limits::SILENT_CONNECTION_MS => Reaction::Drop,
            _ => Reaction::Go,
        }
    }

    fn on_closed(&mut self, why: &str) {
        log::debug!("the connection of {} has ended: {why}", self.peer.address);
    }
}

impl Drop for Session {
    /// Also where the thread panics or could not be started: the engine must not count on a connection that is gone.
    fn drop(&mut self) {
        self.connections.leave(self.id);
        // it is not collected from here on
        let beat_ms = self.handle.beat_ms.swap(0, Ordering::AcqRel);
        if beat_ms != 0 {
            self.forward(Event::Beats(vec![(self.id, Mono(beat_ms))]));
        }
        self.forward(self.arrival(Arrived::Closed));
    }
}

/// A wrapper sends its token over TLS only to a daemon that it has verified: from here that way is private.
fn peer(upgraded: &Upgraded) -> Peer {
    Peer {
        token: token(&upgraded.target),
        address: upgraded.address.to_string(),
        is_confidential: is_loopback(upgraded.address.ip()) || upgraded.stream.is_tls(),
    }
}

/// The value of `token` in a request target's query, percent-decoded.
fn token(target: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))
        .filter(|value| !value.is_empty())?;
    Some(percent_decode(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_in_any_path_and_query() {
        assert_eq!(token("/?token=abc"), Some("abc".into()));
        assert_eq!(token("/any/where?x=1&token=a%2Bb&y"), Some("a+b".into()));
        assert_eq!(token("/"), None);
        assert_eq!(token("/?token="), None);
        assert_eq!(token("/?xtoken=a"), None);
    }
}
