//! The wrapper's side of the protocol: permission, start, sequence numbers, window, resending, beats, completion.
//! A state machine without I/O: frames and time come in, frames and actions come out.
//! Must not know: sockets, processes, clocks, where output comes from.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::Mono;
use crate::ending::GivenBy;
use crate::limits;
use crate::protocol::{
    ConnectAck, DaemonFrame, ErrorCode, FEATURE_DATA_BASE64, FEATURE_JOB, FEATURE_RESUME, FEATURE_WINDOW,
    JobOrder, WrapperBody,
};

/// The stream of the command's own output (stdout and stderr are one pipe).
pub const STDOUT: &str = "stdout";
/// The stream of the wrapper's notices.
pub const STDERR: &str = "stderr";

/// One wrapper's session with its daemon, across any number of connections.
#[derive(Debug)]
pub struct Session {
    wrapper_id: String,
    version: String,
    wants_job: bool,
    link: LinkState,
    /// What the daemon agreed to; None until its first ack.
    features: Option<Features>,
    permission_given: bool,
    pid: Option<i32>,
    start_acked: bool,
    /// Control frames for this connection.
    queue: VecDeque<WrapperBody>,
    /// Not acknowledged, oldest first.
    unacked: VecDeque<Chunk>,
    unacked_bytes: usize,
    /// How many of `unacked` were sent on this connection.
    sent: usize,
    next_seq: u64,
    /// The completion, but for its `seq`.
    complete: Option<WrapperBody>,
    complete_sent: bool,
    closed: bool,
    /// The peer may be told secrets: loopback, or verified.
    trusted: bool,
    next_beat_at: Mono,
    /// The last acknowledgement, or the first frame after a pause that wants one.
    progress_at: Mono,
    /// Gone back to this seq after a nack: more nacks of that seq speak of what was on its way then.
    rewound_to: Option<u64>,
}

/// What is to be sent next.
#[derive(Debug, PartialEq)]
pub enum Outgoing {
    Control(WrapperBody),
    Output {
        chunk: Chunk,
        /// The daemon has no `data_base64`: bytes that are no UTF-8 go as U+FFFD.
        only_text: bool,
    },
}

/// One frame's worth of output.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    pub seq: u64,
    pub stream: &'static str,
    pub data: Arc<Vec<u8>>,
}

/// What a frame or the time means for the rest of the wrapper.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// The permission came, with the job (None: the wrapper has its own). Given once.
    Start(Option<Box<JobOrder>>),
    /// There is no command and no permission: it has to complete without having started.
    NoJob(&'static str),
    Kill,
    /// The outcome is stored.
    Delivered,
    /// The daemon does not know this run, or has given the permission to another wrapper.
    Refused {
        code: ErrorCode,
        message: String,
    },
    /// The connection is to be made again.
    Reconnect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    Down,
    /// A daemon without `resume` has been asked what it holds.
    Asking,
    /// `connect` is on its way, its ack is not here.
    Greeting,
    Open,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Features {
    data_base64: bool,
    window: bool,
    resume: bool,
}

impl Session {
    /// `wants_job`: there is no command of our own, the daemon has to send one.
    pub fn new(wrapper_id: String, version: &str, wants_job: bool) -> Session {
        Session {
            wrapper_id,
            version: version.to_string(),
            wants_job,
            link: LinkState::Down,
            features: None,
            permission_given: false,
            pid: None,
            start_acked: false,
            queue: VecDeque::new(),
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            sent: 0,
            next_seq: 0,
            complete: None,
            complete_sent: false,
            closed: false,
            trusted: false,
            next_beat_at: Mono(0),
            progress_at: Mono(0),
            rewound_to: None,
        }
    }

    /// A connection stands. `trusted`: over it a job may be taken.
    pub fn connected(&mut self, now: Mono, trusted: bool) {
        self.disconnected();
        self.trusted = trusted;
        self.progress_at = now;
        self.next_beat_at = now.plus_ms(limits::HEARTBEAT_INTERVAL_MS);
        match self.features {
            Some(features) if !features.resume && !self.unacked.is_empty() => self.ask(),
            _ => self.greet(),
        }
    }

    /// The connection is gone; what was on its way counts as unsent.
    pub fn disconnected(&mut self) {
        self.link = LinkState::Down;
        self.queue.clear();
        self.sent = 0;
        self.complete_sent = false;
        self.rewound_to = None;
    }

    /// A frame of the daemon's. The caller has checked that a kill is meant for this run.
    pub fn receive(&mut self, now: Mono, frame: DaemonFrame) -> Option<Action> {
        if self.closed {
            return None;
        }
        match frame {
            DaemonFrame::ConnectAck(ack) => return self.greeted(now, *ack),
            DaemonFrame::StartAck => {
                self.start_acked = true;
                self.progress_at = now;
            }
            DaemonFrame::OutputAck { seq } => self.held(now, seq.saturating_add(1)),
            DaemonFrame::NackOutOfOrder { expected_seq, .. } => self.nacked(now, expected_seq),
            DaemonFrame::SyncResponse { last_seq } => {
                self.held(now, u64::try_from(last_seq.saturating_add(1)).unwrap_or(0));
                if self.link == LinkState::Asking {
                    self.greet();
                }
            }
            DaemonFrame::CompleteAck { .. } if self.complete_sent => {
                self.closed = true;
                return Some(Action::Delivered);
            }
            DaemonFrame::CompleteAck { .. } => {}
            DaemonFrame::Kill { .. } => {
                self.queue.push_back(WrapperBody::Killed);
                return Some(Action::Kill);
            }
            DaemonFrame::Error { code, message } if code != ErrorCode::BadFrame => {
                self.closed = true;
                return Some(Action::Refused { code, message });
            }
            DaemonFrame::Error { message, .. } => {
                log::warn!("the daemon did not understand a frame: {message}")
            }
        }
        None
    }

    /// The command runs.
    pub fn started(&mut self, pid: i32) {
        self.pid = Some(pid);
        if self.link == LinkState::Open {
            self.queue.push_back(self.start_frame(pid));
        }
    }

    /// True when another chunk may be handed over.
    pub fn has_room(&self) -> bool {
        self.features.is_some()
            && self.unacked.len() < limits::WINDOW_FRAMES
            && self.unacked_bytes + limits::OUTPUT_CHUNK_BYTES <= limits::WINDOW_BYTES
    }

    /// The next chunk of output; it is kept until it is acknowledged.
    pub fn offer(&mut self, stream: &'static str, data: Vec<u8>) {
        self.unacked_bytes += data.len();
        self.unacked.push_back(Chunk {
            seq: self.next_seq,
            stream,
            data: Arc::new(data),
        });
        self.next_seq += 1;
    }

    /// All output has been offered; this is how it ended, what ended it, and how long the command ran.
    pub fn complete(&mut self, retcode: i32, given_by: Option<GivenBy>, duration_ms: Option<u64>) {
        self.complete = Some(WrapperBody::Complete {
            retcode: Some(i64::from(retcode)),
            seq: None,
            given_by,
            duration_ms,
        });
    }

    /// Output that the daemon has not acknowledged, oldest first.
    pub fn unacked(&self) -> impl Iterator<Item = &Chunk> {
        self.unacked.iter()
    }

    /// True while the daemon answers on this connection.
    pub fn is_open(&self) -> bool {
        self.link == LinkState::Open && !self.closed
    }

    /// True when nothing more will be said, whether delivered or refused.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Looks at the time: a peer that acknowledges nothing any more is left.
    pub fn tick(&mut self, now: Mono) -> Option<Action> {
        let stuck = self.wants_ack() && now >= self.progress_at.plus_ms(limits::ACK_TIMEOUT_MS);
        if stuck && self.link != LinkState::Down && !self.closed {
            self.progress_at = now;
            return Some(Action::Reconnect);
        }
        None
    }

    /// When `tick` or `next` has to be asked again at the latest.
    pub fn deadline(&self) -> Option<Mono> {
        if self.link == LinkState::Down || self.closed {
            return None;
        }
        let stuck_at = self.progress_at.plus_ms(limits::ACK_TIMEOUT_MS);
        Some(if self.wants_ack() {
            self.next_beat_at.min(stuck_at)
        } else {
            self.next_beat_at
        })
    }

    /// The next frame to send, beats before output.
    pub fn next(&mut self, now: Mono) -> Option<Outgoing> {
        if self.link == LinkState::Down || self.closed {
            return None;
        }
        let waited = self.wants_ack();
        let frame = self.next_frame(now)?;
        if !waited {
            self.progress_at = now;
        }
        Some(frame)
    }

    fn next_frame(&mut self, now: Mono) -> Option<Outgoing> {
        if let Some(body) = self.queue.pop_front() {
            return Some(Outgoing::Control(body));
        }
        if now >= self.next_beat_at {
            self.next_beat_at = now.plus_ms(limits::HEARTBEAT_INTERVAL_MS);
            return Some(Outgoing::Control(WrapperBody::Heartbeat));
        }
        let features = self.features.filter(|_| self.link == LinkState::Open)?;
        // an old daemon's next answer after `start` is taken to be that of `start`
        if self.pid.is_some() && !self.start_acked && !features.window {
            return None;
        }
        if let Some(chunk) = self.unacked.get(self.sent) {
            if self.sent > 0 && !features.window {
                return None;
            }
            self.sent += 1;
            return Some(Outgoing::Output {
                chunk: chunk.clone(),
                only_text: !features.data_base64,
            });
        }
        let mut complete = self.complete.clone().filter(|_| !self.complete_sent)?;
        if !features.window && !self.unacked.is_empty() {
            return None;
        }
        self.complete_sent = true;
        if let WrapperBody::Complete { seq, .. } = &mut complete {
            *seq = Some(self.next_seq);
        }
        Some(Outgoing::Control(complete))
    }

    fn wants_ack(&self) -> bool {
        let start = self.pid.is_some() && !self.start_acked;
        matches!(self.link, LinkState::Asking | LinkState::Greeting)
            || start
            || self.sent > 0
            || self.complete_sent
    }

    fn connect_frame(&self) -> WrapperBody {
        let mut accepts = vec![
            FEATURE_DATA_BASE64.to_string(),
            FEATURE_WINDOW.into(),
            FEATURE_RESUME.into(),
        ];
        if self.wants_job && (self.trusted || self.permission_given) {
            accepts.push(FEATURE_JOB.to_string());
        }
        WrapperBody::Connect {
            accepts: Some(accepts),
            wrapper_id: Some(self.wrapper_id.clone()),
            version: Some(self.version.clone()),
        }
    }

    fn start_frame(&self, pid: i32) -> WrapperBody {
        WrapperBody::Start {
            pid: Some(i64::from(pid)),
            version: Some(self.version.clone()),
        }
    }

    fn greet(&mut self) {
        self.link = LinkState::Greeting;
        self.queue.push_back(self.connect_frame());
    }

    /// A daemon without `resume` forgets a session with its socket, but it may not have noticed yet that the last one is
    /// closed. Then it still says what it holds of the frame that was on its way; `connect` begins a new session.
    fn ask(&mut self) {
        self.link = LinkState::Asking;
        self.queue.push_back(WrapperBody::SyncRequest {
            last_acked_seq: Some(self.first_unacked() as i64 - 1),
            next_seq: Some(self.next_seq as i64),
        });
    }

    fn first_unacked(&self) -> u64 {
        self.next_seq - self.unacked.len() as u64
    }

    fn greeted(&mut self, now: Mono, ack: ConnectAck) -> Option<Action> {
        if self.link != LinkState::Greeting {
            return None;
        }
        self.link = LinkState::Open;
        self.progress_at = now;
        let agreed = ack.features.unwrap_or_default();
        let has = |feature: &str| agreed.iter().any(|agreed| agreed == feature);
        let features = Features {
            data_base64: has(FEATURE_DATA_BASE64),
            window: has(FEATURE_WINDOW),
            resume: has(FEATURE_RESUME),
        };
        self.features = Some(features);
        if !self.permission_given {
            return self.permitted(ack.job);
        }
        if !features.resume {
            // what it has acknowledged is in the run's output already: the rest is a session of its own
            self.renumber(0);
        } else if let Some(last_seq) = ack.last_seq {
            let expected = u64::try_from(last_seq.saturating_add(1)).unwrap_or(0);
            self.rebase(expected);
            self.held(now, expected);
        }
        if let Some(pid) = self.pid.filter(|_| !self.start_acked) {
            self.queue.push_back(self.start_frame(pid));
        }
        None
    }

    fn permitted(&mut self, job: Option<JobOrder>) -> Option<Action> {
        if self.complete.is_some() {
            // it was told to stop before it was let start: it only reports that
            return None;
        }
        self.permission_given = true;
        if !self.wants_job {
            return Some(Action::Start(None));
        }
        match job {
            Some(job) if self.trusted => Some(Action::Start(Some(Box::new(job)))),
            _ if !self.trusted => Some(Action::NoJob(
                "a command is accepted only over loopback or TLS; set wrapper_delivery to env or use wss",
            )),
            _ => Some(Action::NoJob("SP_COMMAND is not set and the daemon sent no job")),
        }
    }

    /// The daemon holds everything below `expected`.
    fn held(&mut self, now: Mono, expected: u64) {
        self.progress_at = now;
        while self.unacked.front().is_some_and(|chunk| chunk.seq < expected) {
            if let Some(chunk) = self.unacked.pop_front() {
                self.unacked_bytes -= chunk.data.len();
            }
            self.sent = self.sent.saturating_sub(1);
        }
        if self.rewound_to.is_some_and(|seq| seq < expected) {
            self.rewound_to = None;
        }
    }

    fn nacked(&mut self, now: Mono, expected: u64) {
        if self.rewound_to == Some(expected) {
            return;
        }
        self.rebase(expected);
        self.held(now, expected);
        self.sent = 0;
        self.complete_sent = false;
        self.rewound_to = Some(expected);
    }

    /// The daemon has lost what it had acknowledged (its state was taken away): what is left is numbered from where it
    /// stands, behind a line that says so. Waiting would never end.
    fn rebase(&mut self, expected: u64) {
        let first_unacked = self.first_unacked();
        if expected >= first_unacked {
            return;
        }
        let lost = format!(
            "[output messages {expected}..{} were lost by the daemon]\n",
            first_unacked - 1
        );
        self.unacked_bytes += lost.len();
        self.unacked.push_front(Chunk {
            seq: 0,
            stream: STDERR,
            data: Arc::new(lost.into_bytes()),
        });
        self.renumber(expected);
    }

    fn renumber(&mut self, first: u64) {
        for (chunk, seq) in self.unacked.iter_mut().zip(first..) {
            chunk.seq = seq;
        }
        self.next_seq = first + self.unacked.len() as u64;
        self.sent = 0;
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
