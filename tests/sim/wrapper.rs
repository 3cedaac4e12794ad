//! Simulated wrappers: ours over the socket, ours with the job in its environment. Each remembers what it printed,
//! what was acked and how its command ended: the truth that the checker compares with.
//! The deployed Python wrapper's own ways are in python.rs. Must not know: the engine.

use std::collections::BTreeSet;

use saltpeter::clock::Wall;
use saltpeter::ending::GivenBy;
use saltpeter::engine::id::MachineRunId;
use saltpeter::limits;
use saltpeter::protocol::{
    ConnectAck, DaemonFrame, ErrorCode, FEATURE_DATA_BASE64, FEATURE_JOB, FEATURE_RESUME, FEATURE_WINDOW,
    OutputBody, SessionKey, WrapperBody, WrapperFrame,
};

use crate::executor::Launch;
use crate::network::Owner;
use crate::setup::{Behaviour, End, Kind};
use crate::trace;
use crate::world::{Action, EPOCH_S, World};

/// What a wrapper waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    Dial,
    Beat {
        conn: u64,
    },
    Emit {
        number: u32,
    },
    CommandEnd,
    TimeUp,
    TermAnswered,
    Sigkill,
    /// No ack for too long on that connection; `step` tells the Python wrapper's question.
    Impatient {
        conn: u64,
        step: u64,
    },
    Leave,
}

/// The command that a wrapper runs.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub started_ms: u64,
    pub ended: bool,
    pub kill_heard: bool,
    pub time_up: bool,
    pub behaviour: Behaviour,
}

/// One wrapper process.
pub struct Wrapper {
    pub kind: Kind,
    pub machine_run: MachineRunId,
    pub machine: usize,
    pub key: SessionKey,
    pub token: String,
    pub wrapper_id: String,
    pub timeout_s: u64,
    pub alive: bool,
    /// Stopped (SIGSTOP) until then: says and hears nothing.
    pub stopped: bool,
    /// Arrived while it was stopped.
    unheard: Vec<(u64, DaemonFrame)>,
    /// The daemon said that it knows no such run, after the command was started.
    pub disowned: bool,
    pub conn: Option<u64>,
    /// The connect ack of this connection has come.
    pub ready: bool,
    pub connect_acked: bool,
    pub start_acked: bool,
    pub command: Option<Command>,
    pub frames: Vec<Vec<u8>>,
    /// Ours: everything below is acked.
    pub acked: u64,
    /// Highest seq that any ack covered.
    pub sent: u64,
    pub last_ack_ms: u64,
    pub complete: Option<i64>,
    pub complete_sent: bool,
    pub complete_acked: bool,
    /// Python: not acked yet; and lost for good.
    pub pending: BTreeSet<u64>,
    pub lost: BTreeSet<u64>,
    pub waits_for: crate::python::Wait,
    pub step: u64,
}

impl Wrapper {
    pub fn started(&self) -> bool {
        self.command.is_some()
    }

    /// Alive, its command running or its end not reported yet.
    pub fn has_business(&self) -> bool {
        self.alive && !self.disowned && !self.complete_acked
    }
}

impl World {
    pub fn launch_wrapper(&mut self, launch: Launch) {
        if launch.machine >= self.machines.len() {
            return;
        }
        let frozen_until = self.machines[launch.machine].frozen_until_ms;
        if frozen_until > self.now_ms {
            self.at(frozen_until + 10, Action::Launch(Box::new(launch)));
            return;
        }
        let index = self.wrappers.len();
        trace!(
            self,
            "WRAPPER w{index} {:?} of {} on {}", launch.kind, launch.instance, launch.machine
        );
        let key = SessionKey {
            job: launch.job,
            instance: launch.instance,
            machine: self.machines[launch.machine].name.clone(),
        };
        self.wrappers.push(Wrapper {
            kind: launch.kind,
            machine_run: launch.machine_run,
            machine: launch.machine,
            key,
            token: launch.token,
            wrapper_id: format!("id{index}"),
            timeout_s: launch.timeout_s,
            alive: true,
            stopped: false,
            unheard: Vec::new(),
            disowned: false,
            conn: None,
            ready: false,
            connect_acked: false,
            start_acked: false,
            command: None,
            frames: Vec::new(),
            acked: 0,
            sent: 0,
            last_ack_ms: 0,
            complete: None,
            complete_sent: false,
            complete_acked: false,
            pending: BTreeSet::new(),
            lost: BTreeSet::new(),
            waits_for: crate::python::Wait::Nothing,
            step: 0,
        });
        let wrapper = index;
        self.wrapper_after(wrapper, 0, Timer::Dial);
        self.wrapper_after(wrapper, limits::WRAPPER_PATIENCE_MS, Timer::Leave);
    }

    pub fn wrapper_after(&mut self, wrapper: usize, ms: u64, timer: Timer) {
        self.after(ms, Action::Wrapper { wrapper, timer });
    }

    /// Everything that a wrapper says carries its own clock, which may be hours off.
    pub fn wrapper_says(&mut self, wrapper: usize, body: WrapperBody) {
        let w = &self.wrappers[wrapper];
        let Some(conn) = w.conn else { return };
        // the daemon's clock lies, the machines' do not
        let stamp = Wall((EPOCH_S * 1_000 + self.now_ms as i64 + self.machines[w.machine].skew_ms) * 1_000);
        let frame = WrapperFrame {
            key: w.key.clone(),
            timestamp: Some(stamp.iso()),
            body,
        };
        self.send_up(conn, frame);
    }

    pub fn wrapper_timer(&mut self, wrapper: usize, timer: Timer) {
        let w = &self.wrappers[wrapper];
        if !w.alive {
            return;
        }
        if w.stopped {
            // a stopped process does nothing; it goes on with everything that has become due
            self.wrapper_after(wrapper, 1_000, timer);
            return;
        }
        match timer {
            Timer::Dial => self.wrapper_dials(wrapper),
            Timer::Beat { conn } => self.wrapper_beats(wrapper, conn),
            Timer::Emit { number } => self.command_prints(wrapper, number),
            Timer::CommandEnd => self.command_ends_by_itself(wrapper),
            Timer::TimeUp => self.time_is_up(wrapper),
            Timer::TermAnswered => self.command_is_dead(wrapper),
            Timer::Sigkill => self.command_is_dead(wrapper),
            Timer::Impatient { conn, step } => self.wrapper_impatient(wrapper, conn, step),
            Timer::Leave => {
                let w = &self.wrappers[wrapper];
                let waits = w.command.is_some_and(|c| !c.ended);
                if !waits {
                    trace!(self, "WRAPPER w{wrapper} gives up");
                    self.wrapper_exits(wrapper);
                }
            }
        }
    }

    fn wrapper_dials(&mut self, wrapper: usize) {
        let w = &self.wrappers[wrapper];
        if w.conn.is_some() || w.disowned {
            return;
        }
        let (token, machine) = (w.token.clone(), w.machine);
        match self.dial(Owner::Wrapper(wrapper), Some(token), machine) {
            Some(conn) => self.wrappers[wrapper].conn = Some(conn),
            None => self.wrapper_after(wrapper, limits::RECONNECT_MS, Timer::Dial),
        }
    }

    pub fn wrapper_opened(&mut self, wrapper: usize, conn: u64) {
        let w = &mut self.wrappers[wrapper];
        if !w.alive || w.conn != Some(conn) {
            return;
        }
        w.ready = false;
        w.complete_sent = false;
        w.last_ack_ms = self.now_ms;
        if w.kind == Kind::Python {
            self.python_opened(wrapper, conn);
            return;
        }
        let mut accepts = vec![FEATURE_DATA_BASE64, FEATURE_WINDOW, FEATURE_RESUME];
        if w.kind == Kind::OursJob {
            accepts.push(FEATURE_JOB);
        }
        let connect = WrapperBody::Connect {
            accepts: Some(accepts.into_iter().map(String::from).collect()),
            wrapper_id: Some(w.wrapper_id.clone()),
            version: Some("1.0.0".into()),
        };
        self.wrapper_says(wrapper, connect);
        self.wrapper_after(wrapper, limits::HEARTBEAT_INTERVAL_MS, Timer::Beat { conn });
        self.wrapper_after(
            wrapper,
            limits::ACK_TIMEOUT_MS,
            Timer::Impatient { conn, step: 0 },
        );
    }

    fn wrapper_beats(&mut self, wrapper: usize, conn: u64) {
        let w = &self.wrappers[wrapper];
        if w.conn != Some(conn) {
            return;
        }
        // a Python wrapper does not beat while it delivers the rest
        let delivers = w.kind == Kind::Python && w.complete.is_some();
        if !delivers {
            if !self.beatless {
                self.wrapper_says(wrapper, WrapperBody::Heartbeat);
            }
            self.wrapper_after(wrapper, limits::HEARTBEAT_INTERVAL_MS, Timer::Beat { conn });
        }
    }

    pub fn wrapper_lost_connection(&mut self, wrapper: usize, conn: u64) {
        let w = &mut self.wrappers[wrapper];
        if w.conn == Some(conn) {
            w.conn = None;
            w.ready = false;
            if w.alive {
                let wait = self.delay(limits::RECONNECT_MS, limits::RECONNECT_MS + 200);
                self.wrapper_after(wrapper, wait, Timer::Dial);
            }
        }
    }

    /// Makes the connection anew.
    pub fn wrapper_hangs_up(&mut self, wrapper: usize) {
        if let Some(conn) = self.wrappers[wrapper].conn {
            self.wrapper_closes(conn);
            self.wrapper_lost_connection(wrapper, conn);
        }
    }

    pub fn wrapper_exits(&mut self, wrapper: usize) {
        self.wrappers[wrapper].alive = false;
        if let Some(conn) = self.wrappers[wrapper].conn.take() {
            self.wrapper_closes(conn);
        }
    }

    fn wrapper_impatient(&mut self, wrapper: usize, conn: u64, step: u64) {
        let w = &self.wrappers[wrapper];
        if w.conn != Some(conn) {
            return;
        }
        if w.kind == Kind::Python {
            self.python_impatient(wrapper, conn, step);
            return;
        }
        let unacked = !w.ready || w.acked < w.sent || w.complete_sent || (w.started() && !w.start_acked);
        let waited = self.now_ms - w.last_ack_ms;
        if unacked && waited >= limits::ACK_TIMEOUT_MS {
            trace!(self, "WRAPPER w{wrapper} has had no ack for {waited} ms");
            self.wrapper_hangs_up(wrapper);
        } else {
            self.wrapper_after(wrapper, 5_000, Timer::Impatient { conn, step });
        }
    }

    pub fn wrapper_hears(&mut self, wrapper: usize, conn: u64, frame: DaemonFrame) {
        let w = &mut self.wrappers[wrapper];
        if !w.alive || w.conn != Some(conn) {
            return;
        }
        if w.stopped {
            w.unheard.push((conn, frame));
            return;
        }
        w.last_ack_ms = self.now_ms;
        if w.kind == Kind::Python {
            self.python_hears(wrapper, frame);
            return;
        }
        match frame {
            DaemonFrame::ConnectAck(ack) => self.connect_acked(wrapper, *ack),
            DaemonFrame::StartAck => w.start_acked = true,
            DaemonFrame::OutputAck { seq } => {
                self.output_acked(wrapper, seq as i64);
                self.pump(wrapper);
            }
            DaemonFrame::CompleteAck { .. } => {
                w.complete_acked = true;
                trace!(self, "WRAPPER w{wrapper} has delivered everything");
                self.wrapper_exits(wrapper);
            }
            DaemonFrame::NackOutOfOrder { expected_seq, .. } => {
                if expected_seq < w.acked {
                    let (acked, key) = (w.acked, w.key.clone());
                    self.fail(
                        "P2",
                        format!(
                            "{key:?}: everything below seq {acked} was acked, now {expected_seq} is asked for"
                        ),
                    );
                    return;
                }
                w.sent = w.sent.min(expected_seq);
                w.complete_sent = false;
                self.pump(wrapper);
            }
            DaemonFrame::SyncResponse { .. } => {}
            DaemonFrame::Kill { key } => {
                if key == w.key {
                    self.kill_heard(wrapper);
                }
            }
            DaemonFrame::Error { code, .. } => self.refused(wrapper, code),
        }
    }

    /// A stopped process goes on, with everything that has arrived meanwhile.
    pub fn wrapper_goes_on(&mut self, wrapper: usize) {
        self.wrappers[wrapper].stopped = false;
        for (conn, frame) in std::mem::take(&mut self.wrappers[wrapper].unheard) {
            let frame = Box::new(frame);
            self.after(0, Action::DownFrame { conn, frame });
        }
    }

    fn output_acked(&mut self, wrapper: usize, seq: i64) {
        let w = &mut self.wrappers[wrapper];
        if seq >= w.frames.len() as i64 {
            let (frames, key) = (w.frames.len(), w.key.clone());
            self.fail(
                "P2",
                format!("{key:?}: an ack for seq {seq}, but only {frames} frames exist"),
            );
            return;
        }
        w.acked = w.acked.max((seq + 1) as u64);
        w.sent = w.sent.max(w.acked);
    }

    fn connect_acked(&mut self, wrapper: usize, ack: ConnectAck) {
        self.place_wrapper(wrapper);
        let w = &mut self.wrappers[wrapper];
        w.ready = true;
        w.connect_acked = true;
        if let Some(last) = ack.last_seq {
            if last + 1 < w.acked as i64 {
                let (acked, key) = (w.acked, w.key.clone());
                self.fail(
                    "P2",
                    format!("{key:?}: everything below seq {acked} was acked, the daemon holds up to {last}"),
                );
                return;
            }
            self.output_acked(wrapper, last);
        }
        let w = &mut self.wrappers[wrapper];
        w.sent = w.acked;
        if w.command.is_none() && w.complete.is_none() {
            match (w.kind, ack.job) {
                (Kind::OursJob, Some(order)) => {
                    w.timeout_s = order.timeout;
                    let wanted = format!("run {}", w.key.job);
                    if order.command != wanted {
                        self.fail(
                            "P4",
                            format!("a job order with '{}' instead of '{wanted}'", order.command),
                        );
                        return;
                    }
                    self.start_command(wrapper);
                }
                (Kind::OursJob, None) => {
                    w.complete = Some(254);
                    w.frames.push(b"no job came with the permission\n".to_vec());
                }
                _ => self.start_command(wrapper),
            }
        }
        self.say_start(wrapper);
        self.pump(wrapper);
    }

    pub fn say_start(&mut self, wrapper: usize) {
        let w = &self.wrappers[wrapper];
        if w.started() && !w.start_acked {
            let start = WrapperBody::Start {
                pid: Some(1000 + wrapper as i64),
                version: Some("1.0.0".into()),
            };
            self.wrapper_says(wrapper, start);
        }
    }

    fn refused(&mut self, wrapper: usize, code: ErrorCode) {
        trace!(self, "WRAPPER w{wrapper} is refused: {code:?}");
        let w = match code {
            ErrorCode::BadFrame => return,
            _ => &mut self.wrappers[wrapper],
        };
        if w.started() {
            w.disowned = true;
            self.checker_disowned(wrapper, code);
        }
        self.wrapper_exits(wrapper);
    }

    /// Sends what the window allows, and the end when everything before it is out.
    pub fn pump(&mut self, wrapper: usize) {
        loop {
            let w = &mut self.wrappers[wrapper];
            if !w.alive || !w.ready || w.conn.is_none() {
                return;
            }
            if w.sent < w.frames.len() as u64 {
                if w.sent >= w.acked + limits::WINDOW_FRAMES as u64 {
                    return;
                }
                let seq = w.sent;
                w.sent += 1;
                self.say_output(wrapper, seq);
            } else {
                if let Some(retcode) = w.complete
                    && !w.complete_sent
                {
                    w.complete_sent = true;
                    let seq = Some(w.frames.len() as u64);
                    let given_by = self.given_by(wrapper, retcode);
                    let complete = WrapperBody::Complete {
                        retcode: Some(retcode),
                        seq,
                        given_by: Some(given_by),
                        duration_ms: None,
                    };
                    self.wrapper_says(wrapper, complete);
                }
                return;
            }
        }
    }

    fn given_by(&self, wrapper: usize, retcode: i64) -> GivenBy {
        match self.wrappers[wrapper].command {
            None => GivenBy::NotStarted,
            Some(command) if command.kill_heard && retcode == 143 => GivenBy::Kill,
            Some(command) if command.time_up && retcode == 124 => GivenBy::Timeout,
            Some(_) => GivenBy::Command,
        }
    }

    pub fn say_output(&mut self, wrapper: usize, seq: u64) {
        let data = self.wrappers[wrapper].frames[seq as usize].clone();
        let is_text = std::str::from_utf8(&data).is_ok();
        let output = OutputBody {
            data,
            is_text,
            stream: Some("stdout".into()),
            seq: Some(seq),
        };
        self.wrapper_says(wrapper, WrapperBody::Output(output));
    }

    // -- the command

    pub fn start_command(&mut self, wrapper: usize) {
        let job = self.wrappers[wrapper].key.job.clone();
        let machine = self.machines[self.wrappers[wrapper].machine].name.clone();
        let behaviour = match self
            .behaviours
            .get(&format!("{job}@{machine}"))
            .or_else(|| self.behaviours.get(&job))
        {
            Some(behaviour) => *behaviour,
            None => Behaviour::draw(&mut self.rng),
        };
        let w = &mut self.wrappers[wrapper];
        w.command = Some(Command {
            started_ms: self.now_ms,
            ended: false,
            kill_heard: false,
            time_up: false,
            behaviour,
        });
        let timeout_s = w.timeout_s;
        trace!(self, "WRAPPER w{wrapper} starts its command: {behaviour:?}");
        self.checker_command_started(wrapper);
        if behaviour.chunks > 0 {
            self.wrapper_after(wrapper, behaviour.chunk_every_ms, Timer::Emit { number: 0 });
        }
        self.wrapper_after(wrapper, behaviour.duration_ms, Timer::CommandEnd);
        if timeout_s > 0 {
            self.wrapper_after(wrapper, timeout_s * 1_000, Timer::TimeUp);
        }
    }

    /// A frame of output: numbered, so that nothing can be lost, doubled or reordered unseen.
    pub fn push_frame(&mut self, wrapper: usize, text: &str, filler: usize) {
        let python = self.wrappers[wrapper].kind == Kind::Python;
        let w = &mut self.wrappers[wrapper];
        let seq = w.frames.len() as u64;
        let mut data = format!("w{wrapper}:{seq}:{text}").into_bytes();
        data.extend((0..filler).map(|i| b'a' + ((i as u64 + seq) % 26) as u8));
        match seq % 5 {
            1 => data.extend("\u{1f600}\u{fc}".bytes()),
            2 if !python => data.extend([0xff, 0xfe, 0x80]),
            _ => {}
        }
        data.push(b'\n');
        w.frames.push(data);
        w.pending.insert(seq);
        if python {
            self.python_pump(wrapper, Some(seq));
        } else {
            self.pump(wrapper);
        }
    }

    fn command_prints(&mut self, wrapper: usize, number: u32) {
        let Some(command) = self.wrappers[wrapper].command else {
            return;
        };
        if command.ended {
            return;
        }
        self.push_frame(wrapper, "line", command.behaviour.chunk_bytes);
        if number + 1 < command.behaviour.chunks {
            let number = number + 1;
            self.wrapper_after(wrapper, command.behaviour.chunk_every_ms, Timer::Emit { number });
        }
    }

    fn command_ends_by_itself(&mut self, wrapper: usize) {
        let Some(command) = self.wrappers[wrapper].command else {
            return;
        };
        if command.ended {
            return;
        }
        let python = self.wrappers[wrapper].kind == Kind::Python;
        let code = match command.behaviour.end {
            End::Code(code) => i64::from(code),
            End::Signal(signal) if python => -i64::from(signal),
            End::Signal(signal) => 128 + i64::from(signal),
        };
        // a signal that we sent has its own reason
        let code = match (command.kill_heard, command.time_up) {
            (true, _) if !python => 143,
            (false, true) if !python => 124,
            _ => code,
        };
        self.command_over(wrapper, code);
    }

    pub fn kill_heard(&mut self, wrapper: usize) {
        let Some(command) = &mut self.wrappers[wrapper].command else {
            return;
        };
        if command.ended || command.kill_heard {
            return;
        }
        command.kill_heard = true;
        let command = *command;
        trace!(self, "WRAPPER w{wrapper} hears the kill");
        self.wrapper_says(wrapper, WrapperBody::Killed);
        if !command.behaviour.stuck {
            self.sigterm(wrapper, command);
        }
    }

    fn sigterm(&mut self, wrapper: usize, command: Command) {
        if command.behaviour.ignores_term {
            self.wrapper_after(wrapper, limits::TERM_TO_KILL_MS, Timer::Sigkill);
        } else {
            let wait = self.delay(1, 300);
            self.wrapper_after(wrapper, wait, Timer::TermAnswered);
        }
    }

    fn time_is_up(&mut self, wrapper: usize) {
        let Some(command) = &mut self.wrappers[wrapper].command else {
            return;
        };
        if command.ended || command.kill_heard {
            return;
        }
        command.time_up = true;
        let command = *command;
        if !command.behaviour.stuck {
            self.sigterm(wrapper, command);
        }
    }

    fn command_is_dead(&mut self, wrapper: usize) {
        let w = &self.wrappers[wrapper];
        let Some(command) = w.command else { return };
        if command.ended {
            return;
        }
        let python = w.kind == Kind::Python;
        let signal = if command.behaviour.ignores_term { -9 } else { -15 };
        let (code, notice) = if command.kill_heard {
            (143, "[Job terminated by user request]")
        } else {
            (124, "[Job exceeded timeout]")
        };
        self.push_frame(wrapper, notice, 0);
        self.command_over(wrapper, if python { signal } else { code });
    }

    fn command_over(&mut self, wrapper: usize, code: i64) {
        let w = &mut self.wrappers[wrapper];
        if let Some(command) = &mut w.command {
            command.ended = true;
        }
        w.complete = Some(code);
        trace!(self, "WRAPPER w{wrapper}: the command ended with {code}");
        self.wrapper_after(wrapper, limits::WRAPPER_PATIENCE_MS, Timer::Leave);
        if self.wrappers[wrapper].kind == Kind::Python {
            self.python_finishes(wrapper);
        } else {
            self.pump(wrapper);
        }
    }

    /// kill -9: the wrapper and its command are gone; with the whole machine, nobody says so.
    pub fn wrapper_killed(&mut self, wrapper: usize, machine_too: bool) {
        if !self.wrappers[wrapper].alive {
            return;
        }
        trace!(self, "WRAPPER w{wrapper} is killed, machine too: {machine_too}");
        if let Some(command) = &mut self.wrappers[wrapper].command {
            command.ended = true;
        }
        let conn = self.wrappers[wrapper].conn;
        if machine_too && let Some(conn) = conn {
            self.wrappers[wrapper].alive = false;
            self.wrappers[wrapper].conn = None;
            self.cut(conn, 1, 900_000);
        } else {
            self.wrapper_exits(wrapper);
        }
    }
}
