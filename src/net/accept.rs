//! Accepting on one port: a thread of its own that only accepts, and a small pool that does the handshakes (TLS where
//! the client begins with it, then WebSocket), each thread many at once, so that slow clients delay nobody.
//! Must not know: what comes after the handshake.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::net::SocketFlags;
use rustls::{ServerConfig, ServerConnection};

use super::capacity::{Capacity, Slot};
use super::stream::Stream;
use super::upgrade::{self, Refusal};
use crate::clock::{self, Mono};
use crate::limits;
use crate::thread::{self, Actor};
use crate::tls::{self, Tunnel};
use crate::wake::{self, Waker};
use crate::wake::{Interest, poll_any};

/// A socket that has become a WebSocket; nothing of it has been read beyond `already_read`.
pub struct Upgraded {
    pub stream: Stream,
    pub address: SocketAddr,
    /// Path and query of the request.
    pub target: String,
    /// Bytes that came behind the request's head.
    pub already_read: Vec<u8>,
    pub slot: Slot,
}

/// What is done with each; called on a handshake thread, must not wait.
pub type OnUpgraded = Arc<dyn Fn(Upgraded) + Send + Sync>;

/// The threads of one port; dropping it stops and joins them.
pub struct Acceptor {
    _accept: Actor,
    _handshakes: Vec<Actor>,
}

/// Starts accepting on `listener` (non-blocking). `name` is at most 8 bytes: it begins the threads' names. With `tls`
/// clients may speak it, on the same port.
pub fn start(
    listener: TcpListener,
    name: &str,
    capacity: Capacity,
    tls: Option<Arc<ServerConfig>>,
    on_upgraded: OnUpgraded,
) -> io::Result<Acceptor> {
    let mut workers = Vec::new();
    let mut handshakes = Vec::new();
    for number in 0..limits::HANDSHAKE_THREADS {
        let (sender, arrivals) = bounded(limits::HANDSHAKE_QUEUE / limits::HANDSHAKE_THREADS);
        let stop = Arc::new(StopWaker::new()?);
        let worker = HandshakeWorker {
            arrivals,
            stop: stop.clone(),
            handshakes: Vec::new(),
            tls: tls.clone(),
            on_upgraded: on_upgraded.clone(),
        };
        let handle = thread::spawn(&format!("{name}-hs{number}"), limits::STACK_BYTES, move || {
            worker.run()
        })?;
        let at_end = stop.clone();
        handshakes.push(Actor::new(handle, move || at_end.stop()));
        workers.push((sender, stop));
    }
    let stop = Arc::new(StopWaker::new()?);
    let at_end = stop.clone();
    let accept_loop = AcceptLoop {
        listener,
        capacity,
        workers,
        stop,
        next_worker: 0,
        refused: Capacity::new(limits::REFUSED_AT_A_TIME),
        is_out: false,
    };
    let handle = thread::spawn(&format!("{name}-accept"), limits::STACK_BYTES, move || {
        accept_loop.run()
    })?;
    Ok(Acceptor {
        _accept: Actor::new(handle, move || at_end.stop()),
        _handshakes: handshakes,
    })
}

/// Wakes a thread, also for its end.
struct StopWaker {
    waker: Waker,
    stopped: AtomicBool,
}

impl StopWaker {
    fn new() -> io::Result<StopWaker> {
        Ok(StopWaker {
            waker: Waker::new()?,
            stopped: AtomicBool::new(false),
        })
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// The thread that accepts.
struct AcceptLoop {
    listener: TcpListener,
    capacity: Capacity,
    workers: Vec<(Sender<Handshake>, Arc<StopWaker>)>,
    stop: Arc<StopWaker>,
    next_worker: usize,
    refused: Capacity,
    /// Out of descriptors: said once until it works again.
    is_out: bool,
}

impl AcceptLoop {
    fn run(mut self) {
        while !self.stop.is_stopped() {
            // out of descriptors the listener stays readable: do not spin on it
            let (fd, timeout_ms) = if self.is_out {
                (None, Some(limits::ACCEPT_RETRY_MS))
            } else {
                (Some(self.listener.as_fd()), None)
            };
            if let Err(error) = wake::wait(fd, false, &self.stop.waker, timeout_ms) {
                log::error!("waiting for connections: {error}");
                return;
            }
            self.accept_all();
        }
    }

    fn accept_all(&mut self) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::acceptfrom_with(&self.listener, flags) {
                Ok((socket, address)) => {
                    self.is_out = false;
                    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                    if let Some(address) = address {
                        self.admit(TcpStream::from(socket), address);
                    }
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return,
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(error) => {
                    if !self.is_out {
                        log::error!("cannot accept a connection: {error}; trying again until it works");
                    }
                    self.is_out = true;
                    return;
                }
            }
        }
    }

    /// Above the cap a few at a time are told so; beyond those the socket is just dropped.
    fn admit(&mut self, socket: TcpStream, address: SocketAddr) {
        let (slot, refusal) = match self.capacity.take() {
            Some(slot) => (slot, None),
            None => match self.refused.take() {
                Some(slot) => (slot, Some(upgrade::TOO_MANY)),
                None => return,
            },
        };
        // acks are small and must not wait for more
        let _ = socket.set_nodelay(true);
        let (sender, stop) = &self.workers[self.next_worker];
        self.next_worker = (self.next_worker + 1) % self.workers.len();
        let handshake = Handshake {
            stream: Stream::new(socket),
            is_begun: false,
            address,
            head: Vec::new(),
            deadline: clock::mono().plus_ms(limits::HANDSHAKE_MS),
            slot,
            refusal,
        };
        if sender.try_send(handshake).is_ok() {
            stop.waker.wake();
        }
    }
}

/// A socket whose handshake is not finished.
struct Handshake {
    stream: Stream,
    /// Whether it speaks TLS is known.
    is_begun: bool,
    address: SocketAddr,
    head: Vec<u8>,
    deadline: Mono,
    slot: Slot,
    /// It will be told this, whatever it asks for.
    refusal: Option<Refusal>,
}

/// A thread that does handshakes, many at once.
struct HandshakeWorker {
    arrivals: Receiver<Handshake>,
    stop: Arc<StopWaker>,
    handshakes: Vec<Handshake>,
    tls: Option<Arc<ServerConfig>>,
    on_upgraded: OnUpgraded,
}

impl HandshakeWorker {
    fn run(mut self) {
        while !self.stop.is_stopped() {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    log::error!("waiting for handshakes: {error}");
                    return;
                }
            };
            let now = clock::mono();
            let handshakes = std::mem::take(&mut self.handshakes);
            for (handshake, is_ready) in handshakes.into_iter().zip(ready) {
                match is_ready {
                    true => self.serve(handshake),
                    false if handshake.deadline > now => self.handshakes.push(handshake),
                    false => {}
                }
            }
            while let Ok(handshake) = self.arrivals.try_recv() {
                // most have sent their request by now
                self.serve(handshake);
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut slots = Vec::with_capacity(self.handshakes.len() + 1);
        slots.push(Interest::readable(self.stop.waker.as_fd()));
        slots.extend(
            self.handshakes
                .iter()
                .map(|handshake| Interest::readable(handshake.stream.as_fd())),
        );
        let now = clock::mono();
        let timeout = self
            .handshakes
            .iter()
            .map(|handshake| handshake.deadline.since_ms(now))
            .min();
        // rounded up: a millisecond that has begun would be polled for again and again
        let seen = poll_any(&slots, timeout.map(|ms| ms + 1))?;
        if seen[0].readable {
            self.stop.waker.clear();
        }
        Ok(seen[1..].iter().map(|seen| seen.readable).collect())
    }

    /// Reads what there is; keeps the handshake if its request is not complete yet, and its time not over.
    fn serve(&mut self, mut handshake: Handshake) {
        let mut piece = [0; 2_048];
        handshake.stream.may_have_more();
        loop {
            match self.read(&mut handshake, &mut piece) {
                Ok(0) => return,
                Ok(count) => handshake.head.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.keep(handshake),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return log::debug!("the handshake of {} failed: {error}", handshake.address);
                }
            }
            let request = match (upgrade::read_request(&handshake.head), handshake.refusal) {
                (Ok(None), _) => continue,
                (Ok(Some(_)), Some(refusal)) | (Err(refusal), _) => return refuse(handshake, refusal),
                (Ok(Some(wish)), None) => wish,
            };
            // an answer of a hundred bytes always fits an empty send buffer
            if !matches!(handshake.stream.write(request.answer.as_bytes()), Ok(count) if count == request.answer.len())
            {
                return;
            }
            return (self.on_upgraded)(Upgraded {
                already_read: handshake.head.split_off(request.head_bytes),
                stream: handshake.stream,
                address: handshake.address,
                target: request.target,
                slot: handshake.slot,
            });
        }
    }

    /// The first byte, left where it is, tells whether TLS is spoken.
    fn read(&self, handshake: &mut Handshake, piece: &mut [u8]) -> io::Result<usize> {
        if !handshake.is_begun {
            let mut first = [0];
            let count = handshake.stream.socket().peek(&mut first)?;
            if let Some(config) = &self.tls
                && first[..count] == [tls::HANDSHAKE]
            {
                let side = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                handshake.stream.tunnel = Some(Tunnel::new(side));
            }
            handshake.is_begun = true;
        }
        handshake.stream.read(piece)
    }

    /// One that sends a byte now and then is no better than one that sends none.
    fn keep(&mut self, handshake: Handshake) {
        if handshake.deadline > clock::mono() {
            self.handshakes.push(handshake);
        }
    }
}

fn refuse(mut handshake: Handshake, refusal: Refusal) {
    log::debug!("refused {}: {}", handshake.address, refusal.reason);
    let _ = handshake.stream.write(refusal.response().as_bytes());
    handshake.stream.end_writing();
}
