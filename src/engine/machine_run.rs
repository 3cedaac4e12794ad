//! One machine run: its record, its output position, its session and its clocks. Every deadline has a name; all are in
//! awake time (see [`super::AwakeMs`]), so that the daemon's own stalls move them.
//! Must not know: other machine runs, effects.

use std::sync::Arc;

use crate::clock::Wall;
use crate::config::JobSpec;
use crate::ending::Ending;
use crate::engine::AwakeMs;
use crate::engine::board::MachineBoard;
use crate::engine::id::ConnectionId;
use crate::engine::output::Output;
use crate::engine::record::{Handover, MachineRecord, MachineStage, OutputPosition};
use crate::limits;

/// A machine run in the engine's memory.
#[derive(Debug)]
pub struct MachineRun {
    pub record: MachineRecord,
    pub handover: Handover,
    pub output: Output,
    /// The connection that is bound to it.
    pub connection: Option<ConnectionId>,
    pub clocks: Clocks,
    pub kill: Option<Kill>,
    pub permission: Permission,
    /// The lowest seq that was refused as coming from the future, until something in order comes.
    pub nacked: Option<u64>,
    /// The board's copy; None when it is outdated.
    pub shown: Option<Arc<MachineBoard>>,
}

/// Whether a wrapper may have the permission to start, and with it the job where that goes over the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// No wrapper has it.
    Free,
    /// A connect waits for storage before it is acknowledged on that connection. `was_sent`: the permission may have left
    /// on an earlier one.
    Storing {
        connection: ConnectionId,
        was_sent: bool,
    },
    /// It may have left for a wrapper: from then on the command may have started.
    Sent,
}

impl Permission {
    /// A connect waits for storage.
    pub fn is_storing(self) -> bool {
        matches!(self, Permission::Storing { .. })
    }

    /// The permission may have left.
    pub fn was_sent(self) -> bool {
        matches!(
            self,
            Permission::Sent | Permission::Storing { was_sent: true, .. }
        )
    }

    /// A connect on that connection goes to storage.
    pub fn storing(self, connection: ConnectionId) -> Permission {
        Permission::Storing {
            connection,
            was_sent: self.was_sent(),
        }
    }

    /// Storage has answered a connect: `is_sent` says whether the job leaves with its acknowledgment.
    pub fn stored(self, is_sent: bool) -> Permission {
        if is_sent || self.was_sent() {
            Permission::Sent
        } else {
            Permission::Free
        }
    }
}

/// When what happened last, in awake time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    /// None: its dispatch waits for storage.
    pub dispatched: Option<AwakeMs>,
    pub launched: AwakeMs,
    pub connected: AwakeMs,
    pub started: AwakeMs,
    /// How long the command had run when this daemon began, by the wall clock.
    pub ran_before_ms: u64,
    /// Latest of what refreshes the heartbeat deadline.
    pub beat: AwakeMs,
    pub output: AwakeMs,
    /// When the connection was asked to read its socket dry.
    pub probed: Option<AwakeMs>,
    /// Up to when the socket is known to hold nothing.
    pub dry: Option<AwakeMs>,
}

/// A kill that has not been answered by an end.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    pub asked: AwakeMs,
    pub sent: Option<AwakeMs>,
}

/// What a look at the clocks finds due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    Nothing,
    /// When the executor did not say within [`limits::DISPATCH_TIMEOUT_MS`] that it launched the wrapper.
    Dispatch,
    /// When the wrapper did not connect within `start_timeout` of its launch.
    Connect,
    /// When `start` did not follow `connect` within [`limits::CONNECT_TO_START_MS`].
    Start,
    /// When the heartbeat deadline has passed, but the socket may hold a beat that has not been read yet.
    Probe,
    /// When the heartbeat deadline has passed for certain; whole seconds of silence.
    Heartbeat {
        silent_s: u64,
    },
    /// When the wrapper should have ended the command at its `timeout` and has not said so.
    Timeout,
    /// When a kill brought no end.
    Kill,
}

impl MachineRun {
    /// A machine run as its record has it, at rest.
    pub fn new(
        record: MachineRecord,
        position: &OutputPosition,
        spec: &JobSpec,
        awake: AwakeMs,
    ) -> MachineRun {
        let clocks = Clocks {
            dispatched: Some(awake),
            launched: awake,
            connected: awake,
            started: awake,
            ran_before_ms: 0,
            beat: awake,
            output: awake,
            probed: None,
            dry: None,
        };
        // before a restart it may have left
        let permission = if record.wrapper_id.is_some() {
            Permission::Sent
        } else {
            Permission::Free
        };
        let kill = record.kill_asked.map(|_| Kill {
            asked: awake,
            sent: None,
        });
        MachineRun {
            output: Output::new(spec.output_limit_bytes, position),
            handover: Handover::stored(spec, record.env_delivery),
            record,
            connection: None,
            clocks,
            kill,
            permission,
            nacked: None,
            shown: None,
        }
    }

    /// Gives the record its end.
    pub fn end(&mut self, at: Wall, ending: &Ending) {
        self.record.stage = MachineStage::Ended;
        self.record.ended = Some(at);
        self.record.retcode = Some(ending.code);
        self.record.given_by = Some(ending.given_by);
        self.record.presumed = ending.presumed;
        self.record.not_counted |= !ending.counted;
        self.record.left_out_bytes = self.output.left_out_bytes();
        self.kill = None;
        self.shown = None;
    }

    /// It has no outcome yet.
    pub fn is_open(&self) -> bool {
        self.record.stage != MachineStage::Ended
    }

    /// It has been handed to the executor and has no outcome yet.
    pub fn is_unfinished(&self) -> bool {
        self.is_open() && self.record.stage != MachineStage::Waiting
    }

    /// The command may have been started: late truth may replace what is presumed (rules.md 4).
    pub fn may_have_started(&self) -> bool {
        self.record.wrapper_id.is_some() || (self.record.env_delivery && self.record.dispatched.is_some())
    }

    /// A beat (or what counts as one) was read at that moment.
    pub fn refresh(&mut self, at: AwakeMs) {
        if at >= self.clocks.beat {
            self.clocks.beat = at;
            self.clocks.probed = None;
        }
    }

    /// What is due now.
    pub fn overdue(&self, spec: &JobSpec, awake: AwakeMs) -> Overdue {
        let passed = |from: AwakeMs, window_ms: u64| awake >= from.saturating_add(window_ms);
        if self
            .kill
            .is_some_and(|kill| passed(self.drained(kill.asked), limits::KILL_GIVE_UP_MS))
        {
            return Overdue::Kill;
        }
        match self.record.stage {
            MachineStage::Dispatched => match self.clocks.dispatched {
                Some(sent) if passed(sent, limits::DISPATCH_TIMEOUT_MS) => Overdue::Dispatch,
                _ => Overdue::Nothing,
            },
            MachineStage::Launched
                if self.handover != Handover::Plain
                    && passed(self.clocks.launched, spec.start_timeout_ms) =>
            {
                Overdue::Connect
            }
            // a Python wrapper does not beat before its start
            MachineStage::Permitted if !self.record.ours => self.late_start(awake),
            MachineStage::Permitted => match self.silence(spec, awake) {
                Overdue::Nothing => self.late_start(awake),
                silence => silence,
            },
            // it has no wrapper that beats; the executor watches it
            MachineStage::Started if self.handover == Handover::Plain => Overdue::Nothing,
            MachineStage::Started => match self.silence(spec, awake) {
                Overdue::Nothing if self.timed_out(spec, awake) => Overdue::Timeout,
                silence => silence,
            },
            _ => Overdue::Nothing,
        }
    }

    fn late_start(&self, awake: AwakeMs) -> Overdue {
        // the permission that storage holds back is not the wrapper's delay
        let is_late = !self.permission.is_storing()
            && awake >= self.clocks.connected.saturating_add(limits::CONNECT_TO_START_MS);
        if is_late { Overdue::Start } else { Overdue::Nothing }
    }

    fn silence(&self, spec: &JobSpec, awake: AwakeMs) -> Overdue {
        let deadline = self.clocks.beat.saturating_add(spec.heartbeat_timeout_ms);
        if awake < deadline {
            return Overdue::Nothing;
        }
        let known_dry = self.connection.is_none() || self.clocks.dry.is_some_and(|dry| dry >= deadline);
        // a connection thread that does not answer a probe is as good as gone
        let unanswered = self
            .clocks
            .probed
            .is_some_and(|probed| awake >= probed.saturating_add(limits::PROBE_ANSWER_MS));
        if known_dry || unanswered {
            Overdue::Heartbeat {
                silent_s: (awake - self.clocks.beat) / 1_000,
            }
        } else {
            Overdue::Probe
        }
    }

    fn timed_out(&self, spec: &JobSpec, awake: AwakeMs) -> bool {
        if spec.timeout_s == 0 {
            return false;
        }
        let due = self
            .clocks
            .started
            .saturating_add(spec.timeout_s.saturating_mul(1_000));
        awake >= self.drained(due).saturating_add(limits::TIMEOUT_SECOND_LINE_MS)
    }

    /// The later of `due` and the last output, at most [`limits::DRAIN_EXTENSION_MS`] after `due`: a wrapper that
    /// drains a large spool is not lost (rules.md 5).
    fn drained(&self, due: AwakeMs) -> AwakeMs {
        due.max(
            self.clocks
                .output
                .min(due.saturating_add(limits::DRAIN_EXTENSION_MS)),
        )
    }
}
