//! Connections: ordered, delayed, cut at any moment with the frames in flight, half open, refused.
//! Must not know: what frames mean, but for the beats that a connection thread stamps by itself.

use std::collections::VecDeque;
use std::sync::Arc;

use saltpeter::budget::Chunk;
use saltpeter::clock::Mono;
use saltpeter::engine::effect::ConnectionOrder;
use saltpeter::engine::event::{Arrival, Arrived, Event, OutputFrame, Peer};
use saltpeter::engine::id::ConnectionId;
use saltpeter::protocol::{DaemonFrame, WrapperBody, WrapperFrame};

use crate::trace;
use crate::world::{Action, World};

/// Who opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Wrapper(usize),
    /// Somebody who was not let in; the number of the kind of mischief.
    Intruder(u64),
}

/// One connection, both ends.
#[derive(Debug)]
pub struct Conn {
    pub owner: Owner,
    /// The daemon's life it belongs to.
    pub life: u32,
    pub peer: Arc<Peer>,
    up_last_ms: u64,
    down_last_ms: u64,
    /// Nothing gets through any more.
    cut: bool,
    pub wrapper_open: bool,
    daemon_open: bool,
    close_seen: bool,
    pub bound: Option<(String, String)>,
    /// The latest heartbeat that was read; `fresh`: not collected yet.
    stamp: Option<Mono>,
    fresh: bool,
    outputs: u64,
    dropped: bool,
    /// Arrived while the whole daemon was frozen.
    backlog: VecDeque<WrapperFrame>,
    probes_waiting: u32,
    pub intruder_frames: Vec<WrapperFrame>,
}

impl Conn {
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.close_seen || self.probes_waiting > 0
    }
}

impl World {
    /// A wrapper or intruder dials; true if something answers.
    pub fn dial(&mut self, owner: Owner, token: Option<String>, machine: usize) -> Option<u64> {
        let reachable = self.daemon.as_ref().is_some_and(|d| d.listening && !d.frozen)
            && !self.machines.get(machine).is_some_and(|m| m.cut_off);
        if !reachable {
            return None;
        }
        let id = self.next_conn;
        self.next_conn += 1;
        let conn = Conn {
            owner,
            life: self.life,
            peer: Arc::new(Peer {
                token,
                address: format!("10.0.0.{machine}:1"),
                is_confidential: true,
            }),
            up_last_ms: self.now_ms,
            down_last_ms: self.now_ms,
            cut: false,
            wrapper_open: true,
            daemon_open: true,
            close_seen: false,
            bound: None,
            stamp: None,
            fresh: false,
            outputs: 0,
            dropped: false,
            backlog: VecDeque::new(),
            probes_waiting: 0,
            intruder_frames: Vec::new(),
        };
        self.conns.insert(id, conn);
        let wait = self.delay(1, 30);
        self.after(wait, Action::Opened { conn: id });
        Some(id)
    }

    fn frame_delay(&mut self) -> u64 {
        if self.jitter && self.rng.chance(10) {
            self.rng.range(200, 3_000)
        } else {
            self.delay(1, 15)
        }
    }

    pub fn send_up(&mut self, id: u64, frame: WrapperFrame) {
        let wait = self.frame_delay();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !conn.wrapper_open {
            return;
        }
        let at = conn.up_last_ms.max(self.now_ms + wait);
        conn.up_last_ms = at;
        trace!(self, "up   c{id} at {at}: {frame:?}");
        let frame = Box::new(frame);
        self.at(at, Action::UpFrame { conn: id, frame });
    }

    pub fn send_down(&mut self, id: u64, frame: DaemonFrame) {
        let wait = self.frame_delay();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !conn.daemon_open || conn.cut {
            return;
        }
        let at = conn.down_last_ms.max(self.now_ms + wait);
        conn.down_last_ms = at;
        let frame = Box::new(frame);
        self.at(at, Action::DownFrame { conn: id, frame });
    }

    /// Does what the engine wants of a connection.
    pub fn connection_order(&mut self, connection: ConnectionId, order: ConnectionOrder) {
        match order {
            ConnectionOrder::Send(frame) => {
                self.checker_frame_out(connection, &frame, false);
                self.send_down(connection.0, frame);
            }
            ConnectionOrder::Bind { instance, machine } => {
                self.checker_addressed(connection, "Bind");
                if let Some(conn) = self.conns.get_mut(&connection.0) {
                    conn.bound = Some((instance, machine));
                }
            }
            ConnectionOrder::Close => {
                self.checker_addressed(connection, "Close");
                self.daemon_closes(connection.0);
            }
            ConnectionOrder::Probe => {
                self.checker_addressed(connection, "Probe");
                self.probe(connection.0);
            }
        }
    }

    /// A frame reaches the daemon's socket.
    pub fn frame_arrives(&mut self, id: u64, frame: WrapperFrame) {
        let life = self.life;
        let frozen = self.daemon.as_ref().is_some_and(|d| d.frozen);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.cut || !conn.daemon_open || conn.life != life || conn.close_seen {
            return;
        }
        if frozen || !conn.backlog.is_empty() {
            conn.backlog.push_back(frame);
        } else {
            self.read_frame(id, frame);
        }
    }

    pub fn read_backlog(&mut self, id: u64) {
        if self.daemon.as_ref().is_none_or(|d| d.frozen) {
            return;
        }
        while let Some(conn) = self.conns.get_mut(&id) {
            match conn.backlog.pop_front() {
                Some(frame) => self.read_frame(id, frame),
                None => break,
            }
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let probes = std::mem::take(&mut conn.probes_waiting);
        let close = std::mem::take(&mut conn.close_seen);
        for _ in 0..probes {
            self.probe(id);
        }
        if close {
            self.daemon_sees_close(id);
        }
    }

    /// A connection thread reads one frame and forwards it.
    fn read_frame(&mut self, id: u64, frame: WrapperFrame) {
        let read_at = self.mono();
        let squeezed = self.daemon.as_ref().is_some_and(|d| d.squeezed);
        self.checker_frame_read(id, &frame);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let (peer, conn_outputs) = (conn.peer.clone(), conn.outputs);
        let arrival = |outputs_before, what| {
            Event::Wrapper(Arrival {
                connection: ConnectionId(id),
                peer,
                outputs_before,
                what,
            })
        };
        match frame.body {
            WrapperBody::Heartbeat
                if conn
                    .bound
                    .as_ref()
                    .is_some_and(|(i, m)| *i == frame.key.instance && *m == frame.key.machine) =>
            {
                conn.stamp = Some(read_at);
                conn.fresh = true;
            }
            WrapperBody::Output(output) => {
                if squeezed {
                    conn.dropped = true;
                    trace!(self, "no room: output {:?} of c{id} dropped", output.seq);
                    return;
                }
                conn.outputs += 1;
                let what = Arrived::Output(Box::new(OutputFrame {
                    key: frame.key,
                    seq: output.seq,
                    data: Chunk::free(output.data),
                }));
                self.bulk(arrival(conn_outputs, what));
            }
            body => {
                let frame = Box::new(WrapperFrame { body, ..frame });
                self.control(arrival(conn_outputs, Arrived::Frame { frame, read_at }));
            }
        }
    }

    /// There is room for output again.
    pub fn squeeze_over(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.squeezed = false;
        }
        let mut dropped = Vec::new();
        for (id, conn) in &mut self.conns {
            if std::mem::take(&mut conn.dropped) && conn.daemon_open && conn.life == self.life {
                dropped.push(*id);
            }
        }
        for id in dropped {
            let connection = ConnectionId(id);
            self.control(Event::OutputDropped { connection });
        }
    }

    /// Beats stamped since they were collected last.
    pub fn collect_beats(&mut self) -> Vec<(ConnectionId, Mono)> {
        let life = self.life;
        let mut beats = Vec::new();
        for (id, conn) in &mut self.conns {
            if conn.life == life
                && std::mem::take(&mut conn.fresh)
                && let Some(at) = conn.stamp
            {
                beats.push((ConnectionId(*id), at));
            }
        }
        beats
    }

    pub fn probe(&mut self, id: u64) {
        let frozen = self.daemon.as_ref().is_some_and(|d| d.frozen);
        let wait = self.delay(0, 40);
        let at = self.mono();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !conn.daemon_open {
            return;
        }
        if frozen || !conn.backlog.is_empty() {
            conn.probes_waiting += 1;
            return;
        }
        let dry = Event::Dry {
            connection: ConnectionId(id),
            at,
            last_beat: conn.stamp,
        };
        self.control_after(wait, dry);
    }

    /// The engine is told that a connection is gone.
    fn tell_closed(&mut self, id: u64, wait: u64) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let connection = ConnectionId(id);
        let closed = Event::Wrapper(Arrival {
            connection,
            peer: conn.peer.clone(),
            outputs_before: conn.outputs,
            what: Arrived::Closed,
        });
        if std::mem::take(&mut conn.fresh)
            && let Some(at) = conn.stamp
        {
            self.control_after(wait, Event::Beats(vec![(connection, at)]));
        }
        self.control_after(wait, closed);
    }

    /// The path between both ends is gone; each notices when it does. `half_open_ms`: how late the daemon does.
    pub fn cut(&mut self, id: u64, wrapper_after_ms: u64, daemon_after_ms: u64) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.cut {
            return;
        }
        conn.cut = true;
        trace!(
            self,
            "NET c{id} is cut; wrapper sees it in {wrapper_after_ms}, daemon in {daemon_after_ms}"
        );
        self.after(wrapper_after_ms, Action::WrapperSeesClose { conn: id });
        self.after(daemon_after_ms, Action::DaemonSeesClose { conn: id });
    }

    /// The wrapper closes its end (or its process is gone): what it sent still arrives.
    pub fn wrapper_closes(&mut self, id: u64) {
        let wait = self.frame_delay();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !conn.wrapper_open {
            return;
        }
        conn.wrapper_open = false;
        if !conn.cut {
            let at = conn.up_last_ms.max(self.now_ms + wait);
            self.at(at, Action::DaemonSeesClose { conn: id });
        }
    }

    pub fn daemon_closes(&mut self, id: u64) {
        let wait = self.frame_delay();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !conn.daemon_open {
            return;
        }
        conn.daemon_open = false;
        conn.backlog.clear();
        let at = conn.down_last_ms.max(self.now_ms + wait);
        if !conn.cut {
            self.at(at, Action::WrapperSeesClose { conn: id });
        }
        self.tell_closed(id, 0);
    }

    pub fn daemon_sees_close(&mut self, id: u64) {
        let life = self.life;
        let frozen = self.daemon.as_ref().is_none_or(|d| d.frozen);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !conn.daemon_open || conn.life != life {
            return;
        }
        if frozen || !conn.backlog.is_empty() {
            conn.close_seen = true;
            return;
        }
        conn.daemon_open = false;
        self.tell_closed(id, 0);
    }

    /// The daemon is gone: the kernel closes its sockets.
    pub fn drop_all_connections(&mut self) {
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for id in ids {
            let wait = self.delay(1, 100);
            let Some(conn) = self.conns.get_mut(&id) else {
                continue;
            };
            conn.daemon_open = false;
            // what nobody has read is gone with the process
            conn.backlog.clear();
            conn.close_seen = false;
            conn.probes_waiting = 0;
            let at = conn.down_last_ms.max(self.now_ms) + wait;
            if !conn.cut && conn.wrapper_open {
                self.at(at, Action::WrapperSeesClose { conn: id });
            }
        }
        self.conns.retain(|_, c| c.wrapper_open);
    }

    pub fn frame_arrives_down(&mut self, id: u64, frame: DaemonFrame) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.cut || !conn.wrapper_open {
            return;
        }
        match conn.owner {
            Owner::Wrapper(wrapper) => {
                trace!(self, "down c{id} w{wrapper}: {frame:?}");
                self.wrapper_hears(wrapper, id, frame);
            }
            Owner::Intruder(_) => {}
        }
    }

    pub fn wrapper_sees_close(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !conn.wrapper_open {
            return;
        }
        conn.wrapper_open = false;
        if let Owner::Wrapper(wrapper) = conn.owner {
            self.wrapper_lost_connection(wrapper, id);
        }
    }

    pub fn intruder_opened(&mut self, id: u64) {
        let frames = match self.conns.get_mut(&id) {
            Some(conn) => std::mem::take(&mut conn.intruder_frames),
            None => return,
        };
        for frame in frames {
            self.send_up(id, frame);
        }
        if self.rng.chance(700) {
            self.wrapper_closes(id);
        }
    }
}
