//! Letting wrappers in: the permission to start is stored before it is given, and given to one wrapper
//! (wire-protocol.md, feature `job`; rules.md 12).
//! Must not know: what wrappers report once they are in.

use std::sync::Arc;

use crate::config::JobSpec;
use crate::engine::commits::Waiting;
use crate::engine::effect::{ConnectionOrder, Fact, Write};
use crate::engine::event::Peer;
use crate::engine::id::ConnectionId;
use crate::engine::id::MachineRunId;
use crate::engine::machine_run::Permission;
use crate::engine::record::MachineStage;
use crate::engine::{Engine, Turn};
use crate::protocol::{
    ConnectAck, DaemonFrame, FEATURE_DATA_BASE64, FEATURE_JOB, FEATURE_RESUME, FEATURE_WINDOW, JobOrder,
};

/// The `connect` frame of an sp-wrapper, and where it came from.
pub(super) struct Greeting {
    pub connection: ConnectionId,
    pub peer: Arc<Peer>,
    pub accepts: Vec<String>,
    pub wrapper_id: String,
    pub version: Option<String>,
}

impl Engine {
    pub(super) fn connect_python(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId) {
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        let is_refused = m.record.wrapper_id.is_some() || !m.may_have_started();
        if is_refused {
            return self.refuse_again(turn, connection);
        }
        if !m.is_open() && m.record.presumed {
            self.reopen(turn, id);
        }
        self.bind(turn, id, connection);
        turn.send(connection, DaemonFrame::ConnectAck(Box::default()));
        let awake = turn.awake;
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        if matches!(m.record.stage, MachineStage::Dispatched | MachineStage::Launched) {
            m.record.stage = MachineStage::Permitted;
            m.clocks.connected = awake;
            m.clocks.beat = awake;
            turn.store(vec![Fact::Machine(Box::new(m.record.clone()))]);
        }
        self.touch_machine(id);
    }

    pub(super) fn connect_ours(&mut self, turn: &mut Turn, id: MachineRunId, greeting: Greeting) {
        let Greeting {
            connection,
            peer,
            accepts,
            wrapper_id,
            version,
        } = greeting;
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.is_ours = true;
        }
        let wall = turn.now.wall;
        let awake = turn.awake;
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        let is_holder = m.record.wrapper_id.as_deref() == Some(wrapper_id.as_str());
        let is_free = m.record.wrapper_id.is_none()
            && (matches!(m.record.stage, MachineStage::Dispatched | MachineStage::Launched)
                || (m.record.env_delivery && m.may_have_started() && (m.is_open() || m.record.presumed)));
        if !is_holder && !is_free {
            let instance = self.instance_of(id);
            self.suspect(
                turn,
                connection,
                &peer,
                &instance,
                "it does not hold the permission to start",
            );
            return self.refuse_again(turn, connection);
        }
        if !m.is_open() && m.record.presumed {
            self.reopen(turn, id);
        }
        self.bind(turn, id, connection);
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
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
        self.ack_connect(turn, id, connection, &peer, &accepts);
        self.send_kill(turn, id);
        self.touch_machine(id);
    }

    /// The ack with the job leaves only after it is stored that the permission was given (rules.md 12), and
    /// only if nothing has ended the machine run until then.
    fn ack_connect(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        peer: &Peer,
        accepts: &[String],
    ) {
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        let by_socket = !m.record.env_delivery && peer.is_confidential;
        let offered = |feature: &str| accepts.iter().any(|accepted| accepted == feature);
        let known = [FEATURE_JOB, FEATURE_DATA_BASE64, FEATURE_WINDOW, FEATURE_RESUME];
        let features: Vec<String> = known
            .into_iter()
            .filter(|feature| offered(feature) && (*feature != FEATURE_JOB || by_socket))
            .map(String::from)
            .collect();
        let last_seq = m
            .output
            .last_seq()
            .and_then(|seq| i64::try_from(seq).ok())
            .unwrap_or(-1);
        let ack = ConnectAck {
            last_seq: offered(FEATURE_RESUME).then_some(last_seq),
            job: None,
            features: Some(features),
        };
        m.permission = m.permission.storing(connection);
        let facts = vec![Fact::Machine(Box::new(m.record.clone()))];
        let ticket = self.ticket(Waiting::Connect {
            machine_run: id,
            connection,
            ack: Box::new(ack),
        });
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            // last_seq is an ack too: the wrapper forgets what it covers
            after_output_of: Some(id),
            ..Write::default()
        });
    }

    /// A connect is stored: now it is acked. Not acked where it could not be stored: the wrapper tries again.
    pub(super) fn connect_stored(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        mut ack: Box<ConnectAck>,
        is_committed: bool,
    ) {
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let m = &mut run.machines[place];
        if matches!(m.permission, Permission::Storing { connection: of, .. } if of == connection) {
            m.permission = m.permission.stored(false);
            // what storage took to answer is no delay of the wrapper's
            m.clocks.connected = turn.awake;
        }
        if m.connection != Some(connection) {
            return;
        }
        if !is_committed {
            return turn.order(connection, ConnectionOrder::Close);
        }
        if !m.is_open() && !m.permission.was_sent() && !m.record.presumed {
            // killed while the permission was on its way to the disk
            return self.refuse_again(turn, connection);
        }
        let offered = ack
            .features
            .iter()
            .flatten()
            .any(|feature| feature == FEATURE_JOB);
        let may_start = m.record.stage == MachineStage::Permitted && m.record.revised_from.is_none();
        let share_a_host = self.settings.machines_share_a_host;
        ack.job = (may_start && offered).then(|| {
            let spec = &run.record.spec;
            JobOrder {
                command: spec.command.clone(),
                env: spec.env.clone(),
                cwd: spec.cwd.clone(),
                user: spec.user.clone(),
                timeout: spec.timeout_s,
                allow_overlap: spec.allow_overlap,
                lockfile: lockfile(spec, &m.record.machine, share_a_host),
            }
        });
        if ack.job.is_some() {
            m.permission = m.permission.stored(true);
        }
        turn.send(connection, DaemonFrame::ConnectAck(ack));
        self.send_kill(turn, id);
    }
}

/// The lock's path as the machine's wrapper gets it: machines that share a host must not exclude each other.
fn lockfile(spec: &JobSpec, machine: &str, share_a_host: bool) -> Option<String> {
    spec.lockfile.as_ref().map(|path| {
        if share_a_host {
            format!("{path}.{machine}")
        } else {
            path.clone()
        }
    })
}
