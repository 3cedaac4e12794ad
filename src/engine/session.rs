//! Wrappers' frames: whose they are, whether they may speak, what they change (wire-protocol.md section 1). A session
//! belongs to a machine run, never to a socket.
//! Must not know: sockets, JSON.

use std::collections::VecDeque;
use std::sync::Arc;

use log::Level;

use crate::clock::Mono;
use crate::engine::effect::{Effect, Fact, Write};
use crate::engine::event::{ConnectionId, OutputFrame, Peer};
use crate::engine::record::{MachineRunId, MachineStage, RunId, StoredRun};
use crate::engine::run::{Run, notice};
use crate::engine::{Engine, Turn};
use crate::limits;
use crate::protocol::{
    ConnectAck, DaemonFrame, ErrorCode, FEATURE_DATA_BASE64, FEATURE_JOB, FEATURE_RESUME, FEATURE_WINDOW,
    JobOrder, SessionKey, WrapperBody, WrapperFrame,
};

/// A wrapper's socket as the engine sees it.
#[derive(Debug, Default)]
pub struct Connection {
    /// The session that it speaks for.
    pub bound: Option<MachineRunId>,
    /// Output events taken from it.
    outputs_seen: u64,
    /// Frames that came before their connection's output was taken.
    held: VecDeque<(u64, Arrival)>,
    /// It has sent a connect with `accepts`: one of ours.
    is_ours: bool,
    /// It has been warned about in the log: once is enough.
    is_suspect: bool,
}

/// Something that came over a connection, in its order.
#[derive(Debug)]
pub enum Arrival {
    Frame {
        connection: ConnectionId,
        peer: Arc<Peer>,
        frame: Box<WrapperFrame>,
        read_at: Mono,
    },
    Output {
        connection: ConnectionId,
        peer: Arc<Peer>,
        frame: Box<OutputFrame>,
    },
    Closed {
        connection: ConnectionId,
    },
}

/// Where a frame's session stands.
enum Lookup {
    Known(MachineRunId),
    /// Storage is asked.
    Loading,
    /// No such run, no such target, or the wrong token; which of them is nobody's business but the log's.
    Unknown {
        stranger_of: Option<RunId>,
    },
}

impl Engine {
    /// Keeps a connection's order: control may have overtaken output.
    pub(super) fn arrived(
        &mut self,
        turn: &mut Turn,
        id: ConnectionId,
        outputs_before: Option<u64>,
        arrival: Arrival,
    ) {
        let is_beat =
            matches!(&arrival, Arrival::Frame { frame, .. } if frame.body == WrapperBody::Heartbeat);
        let connection = self.connections.entry(id).or_default();
        match outputs_before {
            None => {
                connection.outputs_seen += 1;
                self.take(turn, arrival);
            }
            Some(before) if !is_beat && (before > connection.outputs_seen || !connection.held.is_empty()) => {
                connection.held.push_back((before, arrival));
                return;
            }
            Some(_) => self.take(turn, arrival),
        }
        while let Some(connection) = self.connections.get_mut(&id)
            && connection
                .held
                .front()
                .is_some_and(|(before, _)| *before <= connection.outputs_seen)
        {
            let Some((_, arrival)) = connection.held.pop_front() else {
                break;
            };
            self.take(turn, arrival);
        }
    }

    fn take(&mut self, turn: &mut Turn, arrival: Arrival) {
        let (connection, peer, key) = match &arrival {
            Arrival::Closed { connection } => return self.closed(*connection),
            Arrival::Frame {
                connection,
                peer,
                frame,
                ..
            } => (*connection, peer.clone(), &frame.key),
            Arrival::Output {
                connection,
                peer,
                frame,
                ..
            } => (*connection, peer.clone(), &frame.key),
        };
        match self.find(turn, connection, &peer, key) {
            Lookup::Loading => {
                let instance = key.instance.clone();
                let waiting = self.loading.entry(instance).or_default();
                if waiting.len() < limits::LOADING_FRAMES {
                    waiting.push(arrival);
                } else {
                    turn.effects.push(Effect::Close { connection });
                }
            }
            Lookup::Known(id) => self.accept(turn, id, arrival),
            Lookup::Unknown { stranger_of } => {
                self.refuse_unknown(turn, connection, &peer, stranger_of, arrival);
            }
        }
    }

    fn find(&mut self, turn: &mut Turn, connection: ConnectionId, peer: &Peer, key: &SessionKey) -> Lookup {
        let Some(&run_id) = self.by_instance.get(key.instance.as_str()) else {
            if self.loading.contains_key(&key.instance) {
                return Lookup::Loading;
            }
            // a run's name begins with its job's: what does not is nobody's, and storage need not be asked
            if self.loading.len() >= limits::LOADING_INSTANCES || !key.instance.starts_with(&key.job) {
                return Lookup::Unknown { stranger_of: None };
            }
            self.loading.insert(key.instance.clone(), Vec::new());
            turn.effects.push(Effect::LoadRun {
                instance: key.instance.clone(),
            });
            return Lookup::Loading;
        };
        let run = &self.runs[&run_id];
        let is_let_in = run.is_stored
            && peer
                .token
                .as_deref()
                .is_some_and(|token| same_secret(token, &run.record.token));
        if !is_let_in || run.record.job != key.job {
            self.suspect(
                turn,
                connection,
                peer,
                &key.instance,
                "its token is not that run's",
            );
            return Lookup::Unknown { stranger_of: None };
        }
        match run.by_machine.get(key.machine.as_str()) {
            Some(&place) => Lookup::Known(run.machines[place].record.id),
            None => Lookup::Unknown {
                stranger_of: Some(run_id),
            },
        }
    }

    fn suspect(&mut self, turn: &mut Turn, id: ConnectionId, peer: &Peer, instance: &str, why: &str) {
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
            && !self.by_instance.contains_key(instance)
            && !self.runs.contains_key(&stored.run.id)
        {
            let run = Run::new(stored.run, stored.machines, turn.awake);
            self.insert_run(run);
            for arrival in waiting {
                self.take(turn, arrival);
            }
            return;
        }
        let is_known = self.by_instance.contains_key(instance);
        for arrival in waiting {
            match (&arrival, is_known) {
                (Arrival::Closed { .. }, _) | (_, true) => self.take(turn, arrival),
                (
                    Arrival::Frame { connection, peer, .. } | Arrival::Output { connection, peer, .. },
                    false,
                ) => {
                    let (connection, peer) = (*connection, peer.clone());
                    self.refuse_unknown(turn, connection, &peer, None, arrival);
                }
            }
        }
    }

    /// Nothing changes. A Python wrapper must not be cut off, or its command blocks on a full pipe (fine-print.md 23b).
    fn refuse_unknown(
        &mut self,
        turn: &mut Turn,
        connection: ConnectionId,
        peer: &Peer,
        stranger_of: Option<RunId>,
        arrival: Arrival,
    ) {
        let not_found = |what: &str| DaemonFrame::Error {
            code: ErrorCode::JobNotFound,
            message: format!("no such run, or {what} is no target of it"),
        };
        // output of an unknown run is discarded: it is not acked, for it is not stored
        let Arrival::Frame { frame, .. } = arrival else {
            return;
        };
        if let Some(run) = stranger_of.and_then(|id| self.runs.get_mut(&id)) {
            run.stranger
                .get_or_insert_with(|| frame.key.machine.chars().take(256).collect());
            let instance = run.record.instance.clone();
            let why = format!("'{}' is no target of it", frame.key.machine.escape_default());
            self.suspect(turn, connection, peer, &instance, &why);
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
                turn.effects.push(Effect::Send {
                    connection,
                    frame: not_found(&frame.key.machine),
                });
                return turn.effects.push(Effect::Close { connection });
            }
            WrapperBody::Output(_) => None,
        };
        if let Some(frame) = answer {
            turn.effects.push(Effect::Send { connection, frame });
        }
    }

    fn closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if let Some(m) = connection.bound.and_then(|bound| self.machine_mut(bound))
            && m.connection == Some(id)
        {
            m.connection = None;
            m.clocks.dry = None;
        }
    }

    /// A frame of a known machine run with the run's token.
    fn accept(&mut self, turn: &mut Turn, id: MachineRunId, arrival: Arrival) {
        match arrival {
            Arrival::Closed { connection } => self.closed(connection),
            Arrival::Frame {
                connection,
                peer,
                frame,
                read_at,
            } => {
                let WrapperFrame { timestamp, body, .. } = *frame;
                if let WrapperBody::Connect {
                    accepts,
                    wrapper_id,
                    version,
                } = body
                {
                    match accepts.zip(wrapper_id) {
                        Some((accepts, wrapper_id)) => {
                            self.connect_ours(turn, id, connection, &peer, accepts, wrapper_id, version);
                        }
                        None => self.connect_python(turn, id, connection),
                    }
                } else if self.joins(turn, id, connection, &peer) {
                    self.said(turn, id, connection, body, timestamp, read_at);
                }
            }
            Arrival::Output {
                connection,
                peer,
                frame,
                ..
            } => {
                if self.joins(turn, id, connection, &peer) {
                    self.output(turn, id, connection, *frame);
                }
            }
        }
    }

    /// Whether a frame without `connect` may speak for that session: bound already, or a Python wrapper that is back.
    fn joins(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId, peer: &Peer) -> bool {
        let is_bound = self
            .connections
            .get(&connection)
            .is_some_and(|c| c.bound == Some(id));
        let Some(m) = self.machine_mut(id) else {
            return false;
        };
        if is_bound {
            if !m.is_open() && m.record.presumed {
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
        if !m.is_open() && m.record.presumed {
            self.reopen(turn, id);
        }
        self.bind(turn, id, connection);
        true
    }

    fn instance_of(&self, id: MachineRunId) -> String {
        let run = self.places.get(&id).and_then(|(run, _)| self.runs.get(run));
        run.map(|run| run.record.instance.clone()).unwrap_or_default()
    }

    fn refuse_again(&mut self, turn: &mut Turn, connection: ConnectionId) {
        let frame = DaemonFrame::Error {
            code: ErrorCode::NotStartedAgain,
            message: "the permission to start was given to another wrapper, or the machine run has ended"
                .into(),
        };
        turn.effects.push(Effect::Send { connection, frame });
        turn.effects.push(Effect::Close { connection });
    }

    fn bind(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId) {
        // a socket that is gone already (its frames waited for storage) speaks for nobody any more
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        entry.bound = Some(id);
        let Some(&(run, place)) = self.places.get(&id) else {
            return;
        };
        let Some(run) = self.runs.get_mut(&run) else {
            return;
        };
        let m = &mut run.machines[place];
        m.connection = Some(connection);
        m.clocks.dry = None;
        m.clocks.probed = None;
        m.nacked = None;
        if let Some(kill) = m.kill.as_mut() {
            // it is told as soon as it can hear
            kill.sent = None;
        }
        let (instance, machine) = (run.record.instance.clone(), m.record.machine.clone());
        turn.effects.push(Effect::Bind {
            connection,
            instance,
            machine,
        });
    }

    fn connect_python(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId) {
        let Some(m) = self.machine_mut(id) else { return };
        let is_refused = m.record.wrapper_id.is_some() || !m.may_have_started();
        if is_refused {
            return self.refuse_again(turn, connection);
        }
        if !m.is_open() && m.record.presumed {
            self.reopen(turn, id);
        }
        self.bind(turn, id, connection);
        turn.effects.push(Effect::Send {
            connection,
            frame: DaemonFrame::ConnectAck(Box::default()),
        });
        let awake = turn.awake;
        let Some(m) = self.machine_mut(id) else { return };
        if matches!(m.record.stage, MachineStage::Dispatched | MachineStage::Launched) {
            m.record.stage = MachineStage::Permitted;
            m.clocks.connected = awake;
            m.clocks.beat = awake;
            turn.store(vec![Fact::Machine(Box::new(m.record.clone()))]);
        }
        self.touch_machine(id);
    }

    #[allow(clippy::too_many_arguments)] // the parts of one frame
    fn connect_ours(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        peer: &Peer,
        accepts: Vec<String>,
        wrapper_id: String,
        version: Option<String>,
    ) {
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.is_ours = true;
        }
        let wall = turn.now.wall;
        let awake = turn.awake;
        let Some(m) = self.machine_mut(id) else { return };
        let is_holder = m.record.wrapper_id.as_deref() == Some(wrapper_id.as_str());
        let is_free = m.record.wrapper_id.is_none()
            && (matches!(m.record.stage, MachineStage::Dispatched | MachineStage::Launched)
                || (m.record.env_delivery && m.may_have_started() && (m.is_open() || m.record.presumed)));
        if !is_holder && !is_free {
            let instance = self.instance_of(id);
            self.suspect(
                turn,
                connection,
                peer,
                &instance,
                "it does not hold the permission to start",
            );
            return self.refuse_again(turn, connection);
        }
        if !m.is_open() && m.record.presumed {
            self.reopen(turn, id);
        }
        self.bind(turn, id, connection);
        let Some(m) = self.machine_mut(id) else { return };
        m.record.ours = true;
        m.record.wrapper_version = version.or(m.record.wrapper_version.take());
        if !is_holder {
            m.record.wrapper_id = Some(wrapper_id);
            if matches!(m.record.stage, MachineStage::Dispatched | MachineStage::Launched) {
                m.record.stage = MachineStage::Permitted;
            }
            m.clocks.connected = awake;
        }
        m.record.last_heartbeat = m.record.last_heartbeat.max(Some(wall));
        m.refresh(awake);
        self.ack_connect(turn, id, connection, peer, &accepts);
        self.send_kill(turn, id);
        self.touch_machine(id);
    }

    /// The ack with the job leaves only after it is stored that the permission was given (fine-print.md 12).
    fn ack_connect(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        peer: &Peer,
        accepts: &[String],
    ) {
        let Some(&(run, place)) = self.places.get(&id) else {
            return;
        };
        let Some(run) = self.runs.get_mut(&run) else {
            return;
        };
        let m = &mut run.machines[place];
        let by_socket = !m.record.env_delivery && peer.is_private;
        let offered = |feature: &str| accepts.iter().any(|accepted| accepted == feature);
        let known = [FEATURE_JOB, FEATURE_DATA_BASE64, FEATURE_WINDOW, FEATURE_RESUME];
        let features: Vec<String> = known
            .into_iter()
            .filter(|feature| offered(feature) && (*feature != FEATURE_JOB || by_socket))
            .map(String::from)
            .collect();
        let may_start = m.record.stage == MachineStage::Permitted && m.record.revised_from.is_none();
        let job = (may_start && by_socket && offered(FEATURE_JOB)).then(|| {
            let spec = &run.record.spec;
            JobOrder {
                command: spec.command.clone(),
                env: spec.env.clone(),
                cwd: spec.cwd.clone(),
                user: spec.user.clone(),
                timeout: spec.timeout_s,
                allow_overlap: spec.allow_overlap,
                lockfile: spec.lockfile.clone(),
            }
        });
        let last_seq = offered(FEATURE_RESUME).then(|| {
            m.output
                .last_seq()
                .and_then(|seq| i64::try_from(seq).ok())
                .unwrap_or(-1)
        });
        m.features = features.clone();
        let ack = ConnectAck {
            features: Some(features),
            job,
            last_seq,
        };
        turn.effects.push(Effect::Store(Write {
            facts: vec![Fact::Machine(Box::new(m.record.clone()))],
            acks: vec![(connection, DaemonFrame::ConnectAck(Box::new(ack)))],
            // last_seq is an ack too: the wrapper forgets what it covers
            after_output_of: Some(id),
            ..Write::default()
        }));
    }

    /// Any frame but connect and output.
    fn said(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        body: WrapperBody,
        timestamp: Option<String>,
        read_at: Mono,
    ) {
        match body {
            WrapperBody::Start { pid, version } => {
                self.started(turn, id, connection, pid, version, timestamp)
            }
            WrapperBody::Heartbeat => {
                self.implies_start(turn, id);
                self.beat(turn, id, read_at);
            }
            WrapperBody::SyncRequest { .. } => self.sync(turn, id, connection),
            WrapperBody::Complete { retcode, seq } => {
                self.complete(turn, id, connection, retcode, seq, timestamp);
            }
            WrapperBody::Killed => {}
            WrapperBody::Error { error } => self.wrapper_error(turn, id, &error),
            WrapperBody::Connect { .. } | WrapperBody::Output(_) => {}
        }
    }

    /// A Python wrapper whose `start` was acked but not stored does not send it again; that it beats or sends output
    /// says as much.
    fn implies_start(&mut self, turn: &mut Turn, id: MachineRunId) {
        let Some(m) = self.machine_mut(id) else { return };
        let is_before = matches!(
            m.record.stage,
            MachineStage::Dispatched | MachineStage::Launched | MachineStage::Permitted
        );
        if is_before && !m.record.ours {
            self.mark_started(turn, id, None);
        }
    }

    fn started(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        pid: Option<i64>,
        version: Option<String>,
        timestamp: Option<String>,
    ) {
        let Some(m) = self.machine_mut(id) else { return };
        let is_ours = m.record.ours;
        if !is_ours {
            turn.effects.push(Effect::Send {
                connection,
                frame: DaemonFrame::StartAck,
            });
        }
        let ack = is_ours.then_some((connection, DaemonFrame::StartAck));
        let is_open = m.is_open();
        if m.record.started.is_some() || !is_open {
            if let Some(ack) = ack {
                turn.effects.push(Effect::Store(Write {
                    acks: vec![ack],
                    ..Write::default()
                }));
            }
            return;
        }
        m.record.pid = pid;
        m.record.wrapper_version = version.or(m.record.wrapper_version.take());
        m.record.wrapper_started = timestamp;
        self.mark_started(turn, id, ack);
    }

    fn mark_started(&mut self, turn: &mut Turn, id: MachineRunId, ack: Option<(ConnectionId, DaemonFrame)>) {
        let Some(&(run_id, place)) = self.places.get(&id) else {
            return;
        };
        let Some(run) = self.runs.get_mut(&run_id) else {
            return;
        };
        let m = &mut run.machines[place];
        m.record.stage = MachineStage::Started;
        m.record.started = Some(turn.now.wall);
        m.record.last_heartbeat = m.record.last_heartbeat.max(Some(turn.now.wall));
        m.clocks.started = turn.awake;
        m.refresh(turn.awake);
        let machine = m.record.machine.clone();
        let write = Write {
            facts: vec![Fact::Machine(Box::new(m.record.clone()))],
            acks: ack.into_iter().collect(),
            ..Write::default()
        };
        turn.effects.push(Effect::Store(write));
        let entry = run.log_entry(
            turn.now.wall,
            crate::engine::effect::JobLogLine::StartingOn { machine },
        );
        turn.effects.push(entry);
        self.send_kill(turn, id);
        self.touch_machine(id);
    }

    /// Answered after everything before it is committed. A live session that holds nothing does not answer -1, for
    /// a Python wrapper then drops its output (fine-print.md 20).
    fn sync(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId) {
        self.implies_start(turn, id);
        let Some(m) = self.machine_mut(id) else { return };
        let last_seq = match m.output.last_seq() {
            Some(seq) => i64::try_from(seq).unwrap_or(i64::MAX),
            None if m.is_open() => return,
            None => -1,
        };
        turn.effects.push(Effect::Store(Write {
            acks: vec![(connection, DaemonFrame::SyncResponse { last_seq })],
            after_output_of: Some(id),
            ..Write::default()
        }));
    }

    fn output(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId, frame: OutputFrame) {
        self.implies_start(turn, id);
        let Some(&(run_id, place)) = self.places.get(&id) else {
            return;
        };
        let Some(run) = self.runs.get_mut(&run_id) else {
            return;
        };
        let day = run.day();
        let m = &mut run.machines[place];
        let mut write = Write {
            after_output_of: Some(id),
            ..Write::default()
        };
        let seq = frame.seq.unwrap_or(m.output.next_seq);
        if seq > m.output.next_seq && !lost_the_rest(m, seq) {
            return self.nack(turn, id, connection, seq);
        }
        if seq > m.output.next_seq {
            let (from, to) = (m.output.next_seq, seq - 1);
            m.output.next_seq = seq;
            let text = format!("[output messages {from}..{to} were lost by the wrapper]");
            notice(m, run.record.started, &text, &mut write);
        }
        if seq == m.output.next_seq {
            m.nacked = None;
            m.output.next_seq = seq + 1;
            m.clocks.output = turn.awake;
            let placed = m.output.append(id, day, frame.data);
            write.output.extend(placed.rows);
            write.trim.extend(placed.trim);
            m.record.left_out_bytes = m.output.left_out_bytes();
        }
        write.acks.push((connection, DaemonFrame::OutputAck { seq }));
        turn.effects.push(Effect::Store(write));
        m.shown = None;
        self.touch_run(run_id);
    }

    fn nack(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId, received_seq: u64) {
        let Some(m) = self.machine_mut(id) else { return };
        let expected_seq = m.output.next_seq;
        // one nack a gap: with a window, everything behind it comes from the future as well
        let is_told = m.record.ours && m.nacked.is_some();
        m.nacked = Some(received_seq);
        if !is_told {
            let frame = DaemonFrame::NackOutOfOrder {
                expected_seq,
                received_seq,
            };
            turn.effects.push(Effect::Send { connection, frame });
        }
    }

    /// Output of that connection was dropped for want of memory, and there is room again.
    pub(super) fn output_dropped(&mut self, turn: &mut Turn, connection: ConnectionId) {
        let Some(id) = self
            .connections
            .get(&connection)
            .and_then(|connection| connection.bound)
        else {
            return turn.effects.push(Effect::Close { connection });
        };
        let Some(m) = self.machine_mut(id) else { return };
        if m.record.ours {
            m.nacked = None;
            let next = m.output.next_seq;
            self.nack(turn, id, connection, next);
        } else {
            // it does not resend on a nack, but after a reconnect it does
            turn.effects.push(Effect::Close { connection });
        }
    }

    fn complete(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        retcode: Option<i64>,
        seq: Option<u64>,
        timestamp: Option<String>,
    ) {
        let Some(&(run_id, place)) = self.places.get(&id) else {
            return;
        };
        let Some(run) = self.runs.get_mut(&run_id) else {
            return;
        };
        let m = &mut run.machines[place];
        let ack = (connection, DaemonFrame::CompleteAck { seq });
        if !m.is_open() {
            // said before, or its ack was lost, or storage had no room for it: the ack stands for what is stored
            return turn.effects.push(Effect::Store(Write {
                facts: vec![Fact::Machine(Box::new(m.record.clone()))],
                acks: vec![ack],
                after_output_of: Some(id),
                ..Write::default()
            }));
        }
        if let Some(seq) = seq.filter(|seq| *seq > m.output.next_seq) {
            if !lost_the_rest(m, seq) {
                return self.nack(turn, id, connection, seq);
            }
            let text = format!(
                "[output messages {}..{} were lost by the wrapper]",
                m.output.next_seq,
                seq - 1
            );
            m.output.next_seq = seq;
            let mut write = Write {
                after_output_of: Some(id),
                ..Write::default()
            };
            notice(m, run.record.started, &text, &mut write);
            turn.effects.push(Effect::Store(write));
        }
        let timeout_s = run.record.spec.timeout_s;
        let ran_s = (turn.now.wall.0 - m.record.started.unwrap_or(turn.now.wall).0) / 1_000_000;
        let time_is_up = timeout_s > 0
            && (u64::try_from(ran_s).unwrap_or(0) >= timeout_s
                || (turn.awake - m.clocks.started.min(turn.awake)) / 1_000 >= timeout_s);
        let retcode = true_code(retcode, m.record.kill_asked.is_some(), time_is_up);
        m.record.wrapper_ended = timestamp;
        let text = format!(
            "WebSocket: Received complete message from {}:{}, retcode={retcode}",
            run.record.instance, m.record.machine
        );
        turn.say(Level::Info, text);
        self.end_machine(turn, id, retcode, false, None, vec![ack]);
    }

    fn wrapper_error(&mut self, turn: &mut Turn, id: MachineRunId, error: &str) {
        let Some(m) = self.machine_mut(id) else { return };
        if m.is_open() {
            let text = format!("[SALTPETER ERROR: the wrapper reported: {error}]");
            self.end_machine(turn, id, 255, false, Some(&text), Vec::new());
        }
    }
}

/// A wrapper that does not resend on a nack and offers the same future seq again has lost what lies between
/// (fine-print.md 21).
fn lost_the_rest(m: &crate::engine::machine_run::MachineRun, seq: u64) -> bool {
    !m.record.ours && m.nacked == Some(seq)
}

/// The outcome that a reported code stands for: a Python wrapper's negative codes are signals (fine-print.md 7).
fn true_code(reported: Option<i64>, kill_asked: bool, time_is_up: bool) -> i32 {
    match reported.and_then(|code| i32::try_from(code).ok()) {
        Some(code) if code >= 0 => code,
        Some(_) if kill_asked => 143,
        Some(_) if time_is_up => 124,
        Some(signal) => 128_i32.saturating_sub(signal),
        None => 255,
    }
}

/// Compares without telling by the time it takes how much was right.
fn same_secret(one: &str, two: &str) -> bool {
    let (one, two) = (one.as_bytes(), two.as_bytes());
    one.len() == two.len() && one.iter().zip(two).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
