//! A scripted daemon for one run: speaks the machines endpoint, keeps what it was told, and misbehaves as asked.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use parking_lot::Mutex;
use saltpeter::protocol::*;
use saltpeter::wake::{self, Waker};
use saltpeter::{clock, thread};
use tungstenite::{Error, Message, WebSocket};

use super::until;

/// How it behaves; may be changed while it runs.
#[derive(Clone, Default)]
pub struct Script {
    /// None: an old daemon. It forgets a session with its socket, and without a session takes output, but neither
    /// acknowledges nor counts it.
    pub features: Option<Vec<&'static str>>,
    pub job: Option<JobOrder>,
    pub refuse: Option<ErrorCode>,
    /// New connections are closed at once, standing ones at their next frame.
    pub down: bool,
    /// Connections are cut after so many output frames, before the last of them is acknowledged.
    pub cut_every: Option<u64>,
    /// Output is taken, but never acknowledged.
    pub withhold_acks: bool,
    /// The start is not acknowledged; nor is anything else that this says.
    pub withhold_complete_acks: bool,
    /// Output beyond this is only counted.
    pub keep_bytes: Option<usize>,
}

/// What it has been told.
#[derive(Default)]
pub struct Told {
    pub output: Vec<u8>,
    pub output_bytes: u64,
    pub notices: String,
    pub next_seq: u64,
    /// An old daemon's session exists.
    pub has_session: bool,
    pub output_frames: u64,
    pub duplicates: u64,
    pub nacked: u64,
    pub connects: u64,
    pub connected_at: Option<clock::Wall>,
    pub starts: u64,
    pub pid: Option<i32>,
    pub wrapper_ids: Vec<String>,
    pub permitted: Option<String>,
    pub accepts: Vec<String>,
    pub beats: Vec<u64>,
    pub killed: u64,
    pub syncs: u64,
    pub base64_frames: u64,
    pub completes: u64,
    pub complete: Option<i64>,
    pub completed_at: u64,
}

pub struct FakeDaemon {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    told: Mutex<Told>,
    /// One per connection: rung to send a kill, or to look whether it is down.
    connections: Mutex<Vec<Standing>>,
}

type Standing = (Arc<Waker>, Arc<Mutex<Wish>>);

/// What a connection is to do next.
#[derive(Default)]
struct Wish {
    kill: bool,
    cut: bool,
}

/// All that ours offers.
pub fn all_features() -> Option<Vec<&'static str>> {
    Some(vec![
        FEATURE_JOB,
        FEATURE_DATA_BASE64,
        FEATURE_WINDOW,
        FEATURE_RESUME,
    ])
}

impl FakeDaemon {
    pub fn start(script: Script) -> FakeDaemon {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            ..Shared::default()
        });
        let accepting = shared.clone();
        thread::spawn("fake-accept", 1 << 20, move || {
            for stream in listener.incoming().flatten() {
                let shared = accepting.clone();
                thread::spawn("fake-connection", 1 << 20, move || shared.serve(stream)).unwrap();
            }
        })
        .unwrap();
        FakeDaemon { port, shared }
    }

    /// One that permits this command to the first asker, with all features.
    pub fn with_command(command: &str) -> FakeDaemon {
        FakeDaemon::with_job(order(command))
    }

    pub fn with_job(job: JobOrder) -> FakeDaemon {
        FakeDaemon::start(Script {
            features: all_features(),
            job: Some(job),
            ..Script::default()
        })
    }

    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.script.lock());
        for (waker, _) in self.shared.connections.lock().iter() {
            waker.wake();
        }
    }

    pub fn kill(&self) {
        self.wish(|wish| wish.kill = true);
    }

    /// Cuts every standing connection.
    pub fn cut(&self) {
        self.wish(|wish| wish.cut = true);
    }

    fn wish(&self, wish: impl Fn(&mut Wish)) {
        for (waker, wanted) in self.shared.connections.lock().iter() {
            wish(&mut wanted.lock());
            waker.wake();
        }
    }

    pub fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.shared.told.lock())
    }

    pub fn until<T>(&self, what: &str, mut look: impl FnMut(&Told) -> Option<T>) -> T {
        until(what, || self.told(&mut look))
    }

    /// Waits for the outcome and gives it.
    pub fn outcome(&self) -> i64 {
        self.until("the outcome", |told| told.complete)
    }

    pub fn pid(&self) -> i32 {
        self.until("the start", |told| told.pid)
    }

    pub fn text(&self) -> String {
        self.told(|told| String::from_utf8_lossy(&told.output).into_owned())
    }

    pub fn notices(&self) -> String {
        self.told(|told| told.notices.clone())
    }
}

/// A job that may overlap (no lock), without time-out.
pub fn order(command: &str) -> JobOrder {
    JobOrder {
        command: command.to_string(),
        allow_overlap: true,
        ..JobOrder::default()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        if self.script.lock().down {
            return;
        }
        stream.set_nodelay(true).unwrap();
        let Ok(mut socket) = tungstenite::accept(stream) else {
            return;
        };
        socket.get_ref().set_nonblocking(true).unwrap();
        let waker = Arc::new(Waker::new().unwrap());
        let wish = Arc::new(Mutex::new(Wish::default()));
        self.connections.lock().push((waker.clone(), wish.clone()));
        self.serve_frames(&mut socket, &waker, &wish);
        self.told.lock().has_session = false;
    }

    fn serve_frames(&self, socket: &mut WebSocket<TcpStream>, waker: &Waker, wish: &Mutex<Wish>) {
        let mut key = None;
        let mut frames = 0;
        while self.turn(socket, &mut key, &mut frames).is_some() {
            let wish = std::mem::take(&mut *wish.lock());
            if wish.cut {
                return;
            }
            if wish.kill
                && let Some(key) = key.clone()
            {
                say(socket, &DaemonFrame::Kill { key });
            }
            wake::wait(Some(socket.get_ref().as_fd()), false, waker, None).unwrap();
        }
    }

    /// Reads all there is. None: the connection ends.
    fn turn(
        &self,
        socket: &mut WebSocket<TcpStream>,
        key: &mut Option<SessionKey>,
        frames: &mut u64,
    ) -> Option<()> {
        loop {
            let script = self.script.lock().clone();
            if script.down {
                return None;
            }
            let text = match socket.read() {
                Ok(Message::Text(text)) => text,
                Ok(_) => continue,
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return Some(()),
                Err(_) => return None,
            };
            let frame = decode_wrapper_frame(&text).unwrap();
            *key = Some(frame.key);
            let mut told = self.told.lock();
            if let WrapperBody::Output(_) = frame.body {
                *frames += 1;
                told.output_frames += 1;
            }
            let cut = script.cut_every == Some(*frames);
            if let Some(answer) = told.take(frame.body, &script).filter(|_| !cut) {
                drop(told);
                say(socket, &answer);
            }
            if cut {
                return None;
            }
        }
    }
}

impl Told {
    fn take(&mut self, body: WrapperBody, script: &Script) -> Option<DaemonFrame> {
        match body {
            WrapperBody::Connect {
                accepts, wrapper_id, ..
            } => return Some(self.greet(accepts, wrapper_id, script)),
            WrapperBody::Start { pid, .. } => {
                self.starts += 1;
                self.pid = pid.map(|pid| pid as i32);
                if script.features.is_none() {
                    self.output.clear();
                }
                return Some(DaemonFrame::StartAck);
            }
            WrapperBody::Output(output) => return self.take_output(output, script),
            WrapperBody::Heartbeat => self.beats.push(clock::mono().0),
            WrapperBody::SyncRequest { .. } => {
                self.syncs += 1;
                return Some(DaemonFrame::SyncResponse {
                    last_seq: if self.forgot(script) {
                        -1
                    } else {
                        self.next_seq as i64 - 1
                    },
                });
            }
            WrapperBody::Complete { retcode, seq, .. } => {
                self.completes += 1;
                assert_eq!(seq, Some(self.next_seq), "the completion overtook output");
                if script.withhold_complete_acks {
                    return None;
                }
                self.completed_at = clock::mono().0;
                self.complete = retcode;
                return Some(DaemonFrame::CompleteAck { seq });
            }
            WrapperBody::Killed => self.killed += 1,
            WrapperBody::Error { error } => panic!("{error}"),
        }
        None
    }

    fn greet(&mut self, accepts: Option<Vec<String>>, id: Option<String>, script: &Script) -> DaemonFrame {
        self.connects += 1;
        self.connected_at.get_or_insert(clock::wall());
        self.accepts = accepts.unwrap_or_default();
        let id = id.unwrap_or_default();
        self.wrapper_ids.push(id.clone());
        if let Some(code) = script.refuse {
            return refusal(code);
        }
        if *self.permitted.get_or_insert_with(|| id.clone()) != id {
            return refusal(ErrorCode::NotStartedAgain);
        }
        let features = script.features.as_ref();
        if features.is_none() {
            self.next_seq = 0;
            self.has_session = true;
        }
        DaemonFrame::ConnectAck(Box::new(ConnectAck {
            job: script.job.clone().filter(|_| self.starts == 0),
            last_seq: features.map(|_| self.next_seq as i64 - 1),
            features: features.map(|features| features.iter().map(|feature| feature.to_string()).collect()),
        }))
    }

    fn forgot(&self, script: &Script) -> bool {
        script.features.is_none() && !self.has_session
    }

    fn take_output(&mut self, output: OutputBody, script: &Script) -> Option<DaemonFrame> {
        let seq = output.seq.unwrap();
        if self.forgot(script) {
            self.output.extend_from_slice(&output.data);
            return None;
        }
        if seq > self.next_seq {
            self.nacked += 1;
            return Some(DaemonFrame::NackOutOfOrder {
                expected_seq: self.next_seq,
                received_seq: seq,
            });
        }
        if seq < self.next_seq {
            self.duplicates += 1;
        } else {
            self.next_seq += 1;
            self.base64_frames += u64::from(!output.is_text);
            self.output_bytes += output.data.len() as u64;
            if output.stream.as_deref() == Some("stderr") {
                self.notices.push_str(&String::from_utf8_lossy(&output.data));
            } else if script.keep_bytes.is_none_or(|keep| self.output.len() < keep) {
                self.output.extend_from_slice(&output.data);
            }
        }
        (!script.withhold_acks).then_some(DaemonFrame::OutputAck { seq })
    }
}

fn refusal(code: ErrorCode) -> DaemonFrame {
    DaemonFrame::Error {
        code,
        message: "no".to_string(),
    }
}

/// Frames to a wrapper are small: the kernel takes them at once.
fn say(socket: &mut WebSocket<TcpStream>, frame: &DaemonFrame) {
    let _ = socket.send(Message::text(encode_daemon_frame(frame, clock::wall())));
}
