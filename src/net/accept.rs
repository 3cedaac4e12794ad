//! Accepting on one port: a thread of its own that only accepts, and a small pool that does the handshakes (TLS where
//! the client begins with it, then WebSocket), each thread many at once, so that slow clients delay nobody.
//! Must not know: what comes after the handshake.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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
    let mut desks = Vec::new();
    let mut handshakes = Vec::new();
    for number in 0..limits::HANDSHAKE_THREADS {
        let (sender, arrivals) = bounded(limits::HANDSHAKE_QUEUE / limits::HANDSHAKE_THREADS);
        let bell = Arc::new(Bell::new()?);
        let desk = Desk {
            arrivals,
            bell: bell.clone(),
            guests: Vec::new(),
            tls: tls.clone(),
            on_upgraded: on_upgraded.clone(),
        };
        let handle = thread::spawn(&format!("{name}-hs{number}"), limits::STACK_BYTES, move || {
            desk.run()
        })?;
        let stop = bell.clone();
        handshakes.push(Actor::new(handle, move || stop.stop()));
        desks.push((sender, bell));
    }
    let bell = Arc::new(Bell::new()?);
    let stop = bell.clone();
    let door = Door {
        listener,
        capacity,
        desks,
        bell,
        next_desk: 0,
        refused: Capacity::new(limits::REFUSED_AT_A_TIME),
        is_out: false,
    };
    let handle = thread::spawn(&format!("{name}-accept"), limits::STACK_BYTES, move || door.run())?;
    Ok(Acceptor {
        _accept: Actor::new(handle, move || stop.stop()),
        _handshakes: handshakes,
    })
}

/// Wakes a thread, also for its end.
struct Bell {
    waker: Waker,
    stopped: AtomicBool,
}

impl Bell {
    fn new() -> io::Result<Bell> {
        Ok(Bell {
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
struct Door {
    listener: TcpListener,
    capacity: Capacity,
    desks: Vec<(Sender<Guest>, Arc<Bell>)>,
    bell: Arc<Bell>,
    next_desk: usize,
    refused: Capacity,
    /// Out of descriptors: said once until it works again.
    is_out: bool,
}

impl Door {
    fn run(mut self) {
        use std::os::fd::AsFd;
        while !self.bell.is_stopped() {
            // out of descriptors the listener stays readable: do not spin on it
            let (fd, timeout_ms) = if self.is_out {
                (None, Some(limits::ACCEPT_RETRY_MS))
            } else {
                (Some(self.listener.as_fd()), None)
            };
            if let Err(error) = wake::wait(fd, false, &self.bell.waker, timeout_ms) {
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
        let (sender, bell) = &self.desks[self.next_desk];
        self.next_desk = (self.next_desk + 1) % self.desks.len();
        let guest = Guest {
            stream: Stream::new(socket),
            is_begun: false,
            address,
            head: Vec::new(),
            deadline: clock::mono().plus_ms(limits::HANDSHAKE_MS),
            slot,
            refusal,
        };
        if sender.try_send(guest).is_ok() {
            bell.waker.wake();
        }
    }
}

/// A socket whose handshake is not finished.
struct Guest {
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
struct Desk {
    arrivals: Receiver<Guest>,
    bell: Arc<Bell>,
    guests: Vec<Guest>,
    tls: Option<Arc<ServerConfig>>,
    on_upgraded: OnUpgraded,
}

impl Desk {
    fn run(mut self) {
        while !self.bell.is_stopped() {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    log::error!("waiting for handshakes: {error}");
                    return;
                }
            };
            let now = clock::mono();
            let guests = std::mem::take(&mut self.guests);
            for (guest, is_ready) in guests.into_iter().zip(ready) {
                match is_ready {
                    true => self.serve(guest),
                    false if guest.deadline > now => self.guests.push(guest),
                    false => {}
                }
            }
            while let Ok(guest) = self.arrivals.try_recv() {
                // most have sent their request by now
                self.serve(guest);
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut slots = Vec::with_capacity(self.guests.len() + 1);
        slots.push(PollFd::new(&self.bell.waker, PollFlags::IN));
        slots.extend(
            self.guests
                .iter()
                .map(|guest| PollFd::new(&guest.stream, PollFlags::IN)),
        );
        let now = clock::mono();
        let timeout = self.guests.iter().map(|guest| guest.deadline.since_ms(now)).min();
        let timeout = timeout.map(|ms| Timespec {
            tv_sec: (ms / 1_000) as i64,
            tv_nsec: (ms % 1_000 * 1_000_000) as i64 + 999_999,
        });
        match poll(&mut slots, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if slots[0].revents().contains(PollFlags::IN) {
            self.bell.waker.clear();
        }
        Ok(slots[1..].iter().map(|slot| !slot.revents().is_empty()).collect())
    }

    /// Reads what there is; keeps the guest if its request is not complete yet, and its time not over.
    fn serve(&mut self, mut guest: Guest) {
        let mut piece = [0; 2_048];
        guest.stream.may_have_more();
        loop {
            match self.read(&mut guest, &mut piece) {
                Ok(0) => return,
                Ok(count) => guest.head.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.keep(guest),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return log::debug!("the handshake of {} failed: {error}", guest.address);
                }
            }
            let wish = match (upgrade::read_wish(&guest.head), guest.refusal) {
                (Ok(None), _) => continue,
                (Ok(Some(_)), Some(refusal)) | (Err(refusal), _) => return refuse(guest, refusal),
                (Ok(Some(wish)), None) => wish,
            };
            // an answer of a hundred bytes always fits an empty send buffer
            if !matches!(guest.stream.write(wish.answer.as_bytes()), Ok(count) if count == wish.answer.len())
            {
                return;
            }
            return (self.on_upgraded)(Upgraded {
                already_read: guest.head.split_off(wish.head_bytes),
                stream: guest.stream,
                address: guest.address,
                target: wish.target,
                slot: guest.slot,
            });
        }
    }

    /// The first byte, left where it is, tells whether TLS is spoken.
    fn read(&self, guest: &mut Guest, piece: &mut [u8]) -> io::Result<usize> {
        if !guest.is_begun {
            let mut first = [0];
            let count = guest.stream.socket().peek(&mut first)?;
            if let Some(config) = &self.tls
                && first[..count] == [tls::HANDSHAKE]
            {
                let side = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                guest.stream.tunnel = Some(Tunnel::new(side));
            }
            guest.is_begun = true;
        }
        guest.stream.read(piece)
    }

    /// One that sends a byte now and then is no better than one that sends none.
    fn keep(&mut self, guest: Guest) {
        if guest.deadline > clock::mono() {
            self.guests.push(guest);
        }
    }
}

fn refuse(mut guest: Guest, refusal: Refusal) {
    log::debug!("refused {}: {}", guest.address, refusal.reason);
    let _ = guest.stream.write(refusal.response().as_bytes());
    guest.stream.end_writing();
}
