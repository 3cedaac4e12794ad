//! The one thread that owns the socket to the daemon: connects, again and again, reads frames, writes what is in
//! its outbox. Must not know: what a frame means.

use std::collections::VecDeque;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use rustix::net::sockopt;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

use crate::address::is_loopback;
use crate::clock::{self, Mono};
use crate::limits;
use crate::protocol::{self, OutputBody, SessionKey, WrapperBody};
use crate::wake::{self, Waker};
use crate::wrapper::channel::{Address, Channel, Security};
use crate::wrapper::event::{Event, LinkEvent, spawn};
use crate::wrapper::session::Outgoing;

/// The owner's handle.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    outbox: Mutex<Outbox>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Outbox {
    /// Counts connections; frames for an older one are dropped.
    generation: u64,
    /// Beats and the like: never behind output.
    control: VecDeque<WrapperBody>,
    /// Output and the completion that comes after it.
    bulk: VecDeque<Outgoing>,
    leave: bool,
    stop: bool,
}

struct Caller {
    url: String,
    security: Security,
    key: SessionKey,
    shared: Arc<Shared>,
    events: Sender<Event>,
    /// The last failure told: the same one is not logged every two seconds.
    told: String,
}

struct Connection<'a> {
    socket: WebSocket<Channel>,
    generation: u64,
    caller: &'a Caller,
    /// The kernel takes no more at the moment.
    blocked: bool,
}

impl Link {
    /// Starts the thread; it tries to connect at once.
    pub fn start(
        url: String,
        security: Security,
        key: SessionKey,
        events: Sender<Event>,
    ) -> io::Result<Link> {
        let shared = Arc::new(Shared {
            outbox: Mutex::new(Outbox::default()),
            waker: Waker::new()?,
        });
        let caller = Caller {
            url,
            security,
            key,
            shared: shared.clone(),
            events: events.clone(),
            told: String::new(),
        };
        spawn("sp-link", events, move || caller.run())?;
        Ok(Link { shared })
    }

    /// Queues a frame for the connection of that generation.
    pub fn push(&self, generation: u64, frame: Outgoing) {
        let mut outbox = self.shared.outbox.lock();
        if outbox.generation != generation {
            return;
        }
        match frame {
            Outgoing::Control(body) if !matches!(body, WrapperBody::Complete { .. }) => {
                outbox.control.push_back(body)
            }
            frame => outbox.bulk.push_back(frame),
        }
        drop(outbox);
        self.shared.waker.wake();
    }

    /// Leaves the present connection; another one is made.
    pub fn reconnect(&self) {
        self.shared.outbox.lock().leave = true;
        self.shared.waker.wake();
    }

    /// Closes the connection and ends the thread, which answers with `Stopped`.
    pub fn stop(&self) {
        self.shared.outbox.lock().stop = true;
        self.shared.waker.wake();
    }
}

impl Shared {
    /// Clears what was meant for the last connection.
    fn open(&self) -> u64 {
        let mut outbox = self.outbox.lock();
        outbox.generation += 1;
        outbox.control.clear();
        outbox.bulk.clear();
        outbox.leave = false;
        outbox.generation
    }

    fn is_stopped(&self) -> bool {
        self.outbox.lock().stop
    }

    /// Waits; false: the thread is to end.
    fn pause(&self, ms: u64) -> bool {
        let until = clock::mono().plus_ms(ms);
        loop {
            let left = until.since_ms(clock::mono());
            if self.is_stopped() {
                return false;
            }
            if left == 0 || wake::wait(None, false, &self.waker, Some(left)).is_err() {
                return true;
            }
        }
    }
}

impl Caller {
    fn run(mut self) {
        loop {
            let pause_ms = match self.connect() {
                Ok((socket, trusted)) => {
                    let generation = self.shared.open();
                    self.told.clear();
                    log::info!("connected to the daemon");
                    self.tell(LinkEvent::Up { generation, trusted });
                    let mut connection = Connection {
                        socket,
                        generation,
                        caller: &self,
                        blocked: false,
                    };
                    let reason = connection.serve();
                    log::info!("connection closed: {reason}");
                    self.tell(LinkEvent::Down { generation });
                    first_pause_ms()
                }
                Err(reason) => {
                    if reason != self.told {
                        log::warn!(
                            "reaching the daemon: {reason}; trying every {} ms",
                            limits::RECONNECT_MS
                        );
                        self.told = reason;
                    }
                    limits::RECONNECT_MS
                }
            };
            if !self.shared.pause(pause_ms) {
                return self.tell(LinkEvent::Stopped);
            }
        }
    }

    fn tell(&self, event: LinkEvent) {
        // the owner lives as long as the process
        let _ = self.events.send(Event::Link(event));
    }

    /// A connection, and whether a job may be taken from it.
    fn connect(&self) -> Result<(WebSocket<Channel>, bool), String> {
        let Address { host, port } = Address::of(&self.url)?;
        let addresses = (host.as_str(), port)
            .to_socket_addrs()
            .map_err(|error| format!("looking up '{host}': {error}"))?;
        let mut reason = format!("'{host}' has no address");
        for address in addresses {
            let until = clock::mono().plus_ms(limits::LINK_CONNECT_MS);
            let limit = std::time::Duration::from_millis(limits::LINK_CONNECT_MS);
            let connected = TcpStream::connect_timeout(&address, limit).map_err(|error| error.to_string());
            let shaken = connected
                .and_then(|stream| self.secure(stream, &host, until))
                .and_then(|channel| self.shake_hands(channel, until));
            match shaken {
                Ok(socket) => {
                    let is_loopback = is_loopback(address.ip());
                    let trusted = is_loopback || socket.get_ref().is_verified();
                    return Ok((socket, trusted));
                }
                Err(error) => reason = format!("{address}: {error}"),
            }
        }
        Err(reason)
    }

    /// With TLS nothing of ours, the token above all, is sent before the peer's identity is verified.
    fn secure(&self, stream: TcpStream, host: &str, until: Mono) -> Result<Channel, String> {
        tune(&stream).map_err(|error| error.to_string())?;
        let mut channel = Channel::new(stream, &self.security, host)?;
        while !channel.shake_hands().map_err(|error| error.to_string())? {
            self.wait_for(&channel, channel.wants_write(), until)?;
        }
        Ok(channel)
    }

    fn shake_hands(&self, channel: Channel, until: Mono) -> Result<WebSocket<Channel>, String> {
        let config = WebSocketConfig::default()
            .read_buffer_size(limits::SOCKET_READ_BUFFER_BYTES)
            .write_buffer_size(limits::OUTPUT_CHUNK_BYTES)
            .max_write_buffer_size(limits::SOCKET_WRITE_BUFFER_BYTES)
            .max_message_size(Some(limits::DAEMON_FRAME_BYTES))
            .max_frame_size(Some(limits::DAEMON_FRAME_BYTES));
        let mut shaking = tungstenite::client::client_with_config(self.url.as_str(), channel, Some(config));
        loop {
            let middle = match shaking {
                Ok((socket, _)) => return Ok(socket),
                Err(HandshakeError::Failure(error)) => return Err(error.to_string()),
                Err(HandshakeError::Interrupted(middle)) => middle,
            };
            self.wait_for(middle.get_ref().get_ref(), false, until)?;
            shaking = middle.handshake();
        }
    }

    fn wait_for(&self, channel: &Channel, for_writing: bool, until: Mono) -> Result<(), String> {
        let left = until.since_ms(clock::mono());
        if left == 0 || self.shared.is_stopped() {
            return Err("no answer to the handshake".to_string());
        }
        let fd = Some(channel.as_fd());
        let waited = wake::wait(fd, for_writing, &self.shared.waker, Some(left));
        waited.map(|_| ()).map_err(|error| error.to_string())
    }
}

impl Connection<'_> {
    /// Serves until the connection ends; the reason, for the log.
    fn serve(&mut self) -> String {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return "left".to_string(),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return "by the daemon".to_string(),
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Reads all there is, writes what fits, then waits. False: the connection is to be left.
    fn turn(&mut self) -> Result<bool, Error> {
        self.read_all()?;
        self.write_all()?;
        let (leave, stop, empty) = {
            let outbox = self.caller.shared.outbox.lock();
            let empty = outbox.control.is_empty() && outbox.bulk.is_empty();
            (outbox.leave, outbox.stop, empty)
        };
        if stop && !self.blocked {
            // whatever mattered has been acknowledged
            let _ = self.socket.close(None);
        }
        if leave || stop {
            return Ok(false);
        }
        if empty || self.blocked {
            let stream = self.socket.get_ref().as_fd();
            wake::wait(Some(stream), self.blocked, &self.caller.shared.waker, None)?;
        }
        Ok(true)
    }

    fn read_all(&mut self) -> Result<(), Error> {
        loop {
            let message = match self.socket.read() {
                Ok(message) => message,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let Message::Text(text) = message else {
                continue;
            };
            match protocol::decode_daemon_frame(&text) {
                Ok(Some(frame)) => self.caller.tell(LinkEvent::Frame {
                    generation: self.generation,
                    frame,
                }),
                Ok(None) => log::debug!("ignored a frame of an unknown type"),
                Err(error) => log::warn!("ignored a frame that cannot be read: {error}"),
            }
        }
    }

    /// One frame at a time into tungstenite's buffer: a beat overtakes all output but the frame on its way.
    fn write_all(&mut self) -> Result<(), Error> {
        loop {
            match self.socket.flush() {
                Ok(()) => self.blocked = false,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            let Some(frame) = self.next_frame() else {
                return Ok(());
            };
            match self.socket.write(Message::text(self.encode(frame))) {
                // would block: it is queued, and the flush finds that out
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => written?,
            }
        }
    }

    fn next_frame(&self) -> Option<Outgoing> {
        let mut outbox = self.caller.shared.outbox.lock();
        match outbox.control.pop_front() {
            Some(body) => Some(Outgoing::Control(body)),
            None => outbox.bulk.pop_front(),
        }
    }

    fn encode(&self, frame: Outgoing) -> String {
        let body = match frame {
            Outgoing::Control(body) => body,
            Outgoing::Output { chunk, only_text } => {
                let data = match String::from_utf8_lossy(&chunk.data) {
                    std::borrow::Cow::Owned(replaced) if only_text => replaced.into_bytes(),
                    _ => chunk.data.to_vec(),
                };
                WrapperBody::Output(OutputBody {
                    data,
                    is_text: false,
                    stream: Some(chunk.stream.to_string()),
                    seq: Some(chunk.seq),
                })
            }
        };
        protocol::encode_wrapper_frame(&self.caller.key, &body, clock::wall())
    }
}

/// Small buffers (a beat must not stand behind seconds of output), no delay, and a bound on silence: without it a
/// cut cable is noticed after a quarter of an hour.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let _ = sockopt::set_socket_send_buffer_size(stream, limits::LINK_SEND_BUFFER_BYTES);
    let _ = sockopt::set_tcp_user_timeout(stream, limits::LINK_DEAD_MS);
    Ok(())
}

/// A daemon that restarts loses all its wrappers at once: they do not all come back in the same millisecond.
fn first_pause_ms() -> u64 {
    let mut random = [0u8; 2];
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    let spread = u64::from(u16::from_ne_bytes(random)) * limits::RECONNECT_MS / u64::from(u16::MAX);
    spread.max(limits::RECONNECT_MS / 10)
}
