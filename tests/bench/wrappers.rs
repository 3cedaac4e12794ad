//! Thousands of wrappers in two threads, in a process of its own so that its CPU time is separate: each takes a dispatch that
//! a fake wrapper passed on, connects, starts, sends a heartbeat every 5 s, and completes on request.
//! Must not know: the daemon's internals; it uses the wire protocol only.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::event::{Timespec, epoll};
use saltpeter::clock;
use saltpeter::limits::HEARTBEAT_INTERVAL_MS;
use saltpeter::protocol::{self, DaemonFrame, SessionKey, WrapperBody};
use serde::{Deserialize, Serialize};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

use crate::roles::{self, Handoff};
use crate::timing;

const THREADS: usize = 2;
const STACK_BYTES: usize = 1 << 20;
const SOCKET_BUFFER_BYTES: usize = 4 << 10;
/// The dispatches' socket among the tokens.
const INTAKE: u64 = u64::MAX;
/// The longest wait, so that requests are noticed.
const TURN_MS: u64 = 50;

/// The load generator, as the measuring process sees it.
pub struct Fleet {
    child: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// The program that the daemon is to start as its wrapper.
    pub wrapper: PathBuf,
}

/// The state of the wrappers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub connected: usize,
    pub started: usize,
    pub completed: usize,
    /// Sockets that the daemon closed or reset.
    pub lost: usize,
    /// Kills received, none of which is expected.
    pub kills: usize,
    pub errors: Vec<String>,
    /// From the TCP connect to the start's ack.
    pub to_start_ms: Vec<f64>,
}

impl Fleet {
    /// Starts the load generator. With `ours`, its wrappers offer the features of sp-wrapper, otherwise those of the Python
    /// wrapper.
    pub fn start(directory: &Path, ours: bool) -> io::Result<Fleet> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("wrappers")
            .arg(directory)
            .arg(if ours { "1" } else { "0" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(words), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        let mut fleet = Fleet {
            child,
            words,
            answers: BufReader::new(stdout),
            wrapper: PathBuf::new(),
        };
        let mut line = String::new();
        fleet.answers.read_line(&mut line)?;
        fleet.wrapper = line.trim().into();
        Ok(fleet)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn counts(&mut self) -> io::Result<Counts> {
        self.words.write_all(b"count\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Every wrapper reports success.
    pub fn complete(&mut self) -> io::Result<()> {
        self.words.write_all(b"complete\n")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The load generator's process: prints the wrapper's path, then answers requests until its standard input ends.
pub fn serve(directory: &Path, ours: bool) -> io::Result<()> {
    let name = if ours { "sp-wrapper" } else { "sp_wrapper.py" };
    let (wrapper, intake) = roles::handing_wrapper(directory, name)?;
    intake.set_nonblocking(true)?;
    let shared = Arc::new(Shared::default());
    for _ in 0..THREADS {
        let mut worker = Worker::new(intake.try_clone()?, shared.clone(), ours)?;
        saltpeter::thread::spawn("wrappers", STACK_BYTES, move || worker.run())?;
    }
    println!("{}", wrapper.display());
    for word in io::stdin().lock().lines() {
        match word?.as_str() {
            "complete" => shared.is_completing.store(true, Ordering::Release),
            _ => println!("{}", serde_json::to_string(&*shared.counts.lock())?),
        }
    }
    Ok(())
}

#[derive(Default)]
struct Shared {
    counts: Mutex<Counts>,
    is_completing: AtomicBool,
}

struct Session {
    socket: WebSocket<TcpStream>,
    key: SessionKey,
    begun_ns: u64,
    is_started: bool,
}

struct Worker {
    poller: OwnedFd,
    intake: UnixDatagram,
    shared: Arc<Shared>,
    ours: bool,
    sessions: Vec<Option<Session>>,
    /// Time and wrapper: all have the same interval, so they stay in order.
    beats: VecDeque<(u64, usize)>,
    has_completed: bool,
}

impl Worker {
    fn new(intake: UnixDatagram, shared: Arc<Shared>, ours: bool) -> io::Result<Worker> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let token = epoll::EventData::new_u64(INTAKE);
        epoll::add(&poller, &intake, token, epoll::EventFlags::IN)?;
        Ok(Worker {
            poller,
            intake,
            shared,
            ours,
            sessions: Vec::new(),
            beats: VecDeque::new(),
            has_completed: false,
        })
    }

    fn run(&mut self) {
        let mut events = [MaybeUninit::uninit(); 256];
        loop {
            let until_beat = self
                .beats
                .front()
                .map_or(TURN_MS, |(at, _)| at.saturating_sub(clock::mono().0));
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: until_beat.min(TURN_MS) as i64 * 1_000_000,
            };
            let ready: Vec<u64> = match epoll::wait(&self.poller, &mut events, Some(&timeout)) {
                Ok((ready, _)) => ready.iter().map(|event| event.data.u64()).collect(),
                Err(_) => Vec::new(),
            };
            for token in ready {
                match token {
                    INTAKE => self.take_in(),
                    at => self.on_readable(at as usize),
                }
            }
            self.beat();
            if !self.has_completed && self.shared.is_completing.load(Ordering::Acquire) {
                self.has_completed = true;
                for at in 0..self.sessions.len() {
                    self.send(at, &complete(0));
                }
            }
        }
    }

    fn take_in(&mut self) {
        let mut text = [0; 8_192];
        // the other thread may have been quicker
        let Ok(length) = self.intake.recv(&mut text) else {
            return;
        };
        let begun = serde_json::from_slice(&text[..length])
            .map_err(io::Error::from)
            .and_then(|handoff| self.connect(handoff));
        if let Err(error) = begun {
            self.shared.counts.lock().errors.push(error.to_string());
        }
    }

    fn connect(&mut self, handoff: Handoff) -> io::Result<()> {
        if handoff.has_command == self.ours {
            return Err(io::Error::other("the dispatch does not fit the wrapper's name"));
        }
        let begun_ns = timing::mono_ns();
        let host = handoff.url.strip_prefix("ws://").unwrap_or(&handoff.url);
        let stream = TcpStream::connect(host.split('/').next().unwrap_or_default())?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(SOCKET_BUFFER_BYTES)
            .write_buffer_size(0);
        let (socket, _) = tungstenite::client::client_with_config(&handoff.url, stream, Some(config))
            .map_err(|error| io::Error::other(format!("handshake: {error}")))?;
        socket.get_ref().set_nonblocking(true)?;
        let at = self.sessions.len();
        let token = epoll::EventData::new_u64(at as u64);
        epoll::add(&self.poller, socket.get_ref(), token, epoll::EventFlags::IN)?;
        let features = ["job", "data_base64", "window", "resume"];
        let connect = WrapperBody::Connect {
            accepts: self.ours.then(|| features.map(String::from).to_vec()),
            wrapper_id: self.ours.then(|| format!("{:016x}", timing::mono_ns())),
            version: self.ours.then(|| "1.0.0".to_string()),
        };
        self.sessions.push(Some(Session {
            socket,
            key: SessionKey {
                job: handoff.job,
                instance: handoff.instance,
                machine: handoff.machine,
            },
            begun_ns,
            is_started: false,
        }));
        self.shared.counts.lock().connected += 1;
        self.send(at, &connect);
        Ok(())
    }

    fn on_readable(&mut self, at: usize) {
        loop {
            let Some(session) = &mut self.sessions[at] else {
                return;
            };
            match session.socket.read() {
                Ok(Message::Text(text)) => match protocol::decode_daemon_frame(&text) {
                    Ok(Some(frame)) => self.on_frame(at, frame),
                    Ok(None) => {}
                    Err(bad) => self.shared.counts.lock().errors.push(bad.0),
                },
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.lose(at, &error),
            }
        }
    }

    fn on_frame(&mut self, at: usize, frame: DaemonFrame) {
        match frame {
            DaemonFrame::ConnectAck(_) => self.send(
                at,
                &WrapperBody::Start {
                    pid: Some(1),
                    version: Some("1.0.0".into()),
                },
            ),
            DaemonFrame::StartAck => {
                let Some(session) = &mut self.sessions[at] else {
                    return;
                };
                if std::mem::replace(&mut session.is_started, true) {
                    return;
                }
                let mut counts = self.shared.counts.lock();
                counts.started += 1;
                counts.to_start_ms.push(timing::ms_since(session.begun_ns));
                self.beats
                    .push_back((clock::mono().0 + HEARTBEAT_INTERVAL_MS, at));
            }
            DaemonFrame::CompleteAck { .. } => {
                self.sessions[at] = None;
                self.shared.counts.lock().completed += 1;
            }
            DaemonFrame::Kill { .. } => {
                self.shared.counts.lock().kills += 1;
                self.send(at, &complete(143));
            }
            DaemonFrame::Error { code, message } => {
                let text = format!("{}: {message}", code.as_str());
                self.shared.counts.lock().errors.push(text);
            }
            _ => {}
        }
    }

    fn beat(&mut self) {
        let now = clock::mono().0;
        while let Some((at, index)) = self.beats.front().copied() {
            if at > now {
                return;
            }
            self.beats.pop_front();
            if self.sessions[index].is_some() {
                self.send(index, &WrapperBody::Heartbeat);
                self.beats.push_back((now + HEARTBEAT_INTERVAL_MS, index));
            }
        }
    }

    fn send(&mut self, at: usize, body: &WrapperBody) {
        let Some(session) = &mut self.sessions[at] else {
            return;
        };
        let text = protocol::encode_wrapper_frame(&session.key, body, clock::wall());
        if let Err(error) = session.socket.send(Message::text(text)) {
            self.lose(at, &error);
        }
    }

    fn lose(&mut self, at: usize, error: &Error) {
        let mut counts = self.shared.counts.lock();
        counts.lost += 1;
        if counts.errors.len() < 20 {
            counts.errors.push(error.to_string());
        }
        self.sessions[at] = None;
    }
}

fn complete(retcode: i64) -> WrapperBody {
    WrapperBody::Complete {
        retcode: Some(retcode),
        seq: Some(0),
        given_by: None,
        duration_ms: None,
    }
}
