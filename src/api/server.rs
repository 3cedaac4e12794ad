//! Threads and sockets of the API: one that accepts on the port and on `control.sock`, one for each connection.
//! Must not know: routes.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{SocketFlags, sockopt};

use super::auth::{Via, Visitor};
use super::error::problem;
use super::http::{NoRequest, Request, Response, Transport, Wire};
use super::idle::{IdleConnections, IdleSlot};
use super::shared::Shared;
use super::tls::{Keys, Socket};
use super::{compat::socket, routes};
use crate::net::capacity::{Capacity, Slot};
use crate::net::upgrade::{self, Refusal};
use crate::thread::{self, Actor};
use crate::wake::{Interest, Waker, poll_any};
use crate::{limits, metrics};

/// Where the API listens; either may be missing.
#[derive(Default)]
pub struct Listeners {
    tcp: Option<TcpListener>,
    /// For TLS on the port.
    keys: Option<Arc<Keys>>,
    unix: Option<UnixListener>,
}

/// The accepting thread; dropping it stops and joins it. Connections end by themselves.
pub struct Api {
    _accept: Actor,
    _compat: Actor,
}

impl Listeners {
    /// `tcp` is non-blocking already. A `control.sock` that cannot be made is no reason not to start: it is logged.
    pub fn new(tcp: Option<TcpListener>, keys: Option<Keys>, state_dir: &Path) -> Listeners {
        let path = state_dir.join("control.sock");
        let unix = open_control(&path)
            .inspect_err(|error| {
                log::error!(
                    "cannot make '{}': {error}; the command line cannot act through it",
                    path.display()
                );
            })
            .ok();
        let keys = keys.map(Arc::new);
        Listeners { tcp, keys, unix }
    }
}

/// Starts serving, as many connections as `capacity` has room for.
pub fn start(listeners: Listeners, capacity: Capacity, shared: Arc<Shared>) -> io::Result<Api> {
    let compat = shared.compat.hub.start()?;
    let stop_waker = Arc::new(Waker::new()?);
    let stopped = Arc::new(AtomicBool::new(false));
    let accept_loop = AcceptLoop {
        listeners,
        soft_cap: capacity.cap() - capacity.cap() / 4,
        capacity,
        control: Capacity::new(limits::CONTROL_CONNECTIONS),
        idle: IdleConnections::default(),
        shared,
        own_uid: rustix::process::geteuid().as_raw(),
        stop_waker: stop_waker.clone(),
        stopped: stopped.clone(),
        is_out: false,
    };
    let handle = thread::spawn("api-accept", limits::STACK_BYTES, move || accept_loop.run())?;
    Ok(Api {
        _accept: Actor::new(handle, move || {
            stopped.store(true, Ordering::Release);
            stop_waker.wake();
        }),
        _compat: compat,
    })
}

/// The state directory is locked by us, so a socket found there is a leftover.
fn open_control(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct AcceptLoop {
    listeners: Listeners,
    capacity: Capacity,
    /// Places of `control.sock` alone: it stays usable when the others are all taken.
    control: Capacity,
    /// Places beyond which those that wait for a request make room.
    soft_cap: usize,
    idle: IdleConnections,
    shared: Arc<Shared>,
    own_uid: u32,
    stop_waker: Arc<Waker>,
    stopped: Arc<AtomicBool>,
    /// Out of descriptors: said once until it works again.
    is_out: bool,
}

impl AcceptLoop {
    fn run(mut self) {
        while !self.stopped.load(Ordering::Acquire) {
            if let Err(error) = self.wait() {
                log::error!("waiting for API connections: {error}");
                return;
            }
            if let Some(tcp) = &self.listeners.tcp {
                let accepted = accept(tcp.as_fd());
                self.admit_tcp(accepted);
            }
            if let Some(unix) = &self.listeners.unix {
                let accepted = accept(unix.as_fd());
                self.admit_unix(accepted);
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut slots = vec![Interest::readable(self.stop_waker.as_fd())];
        // out of descriptors the listeners stay readable: do not spin on them
        if !self.is_out {
            slots.extend(
                self.listeners
                    .tcp
                    .iter()
                    .map(|tcp| Interest::readable(tcp.as_fd())),
            );
            slots.extend(
                self.listeners
                    .unix
                    .iter()
                    .map(|unix| Interest::readable(unix.as_fd())),
            );
        }
        poll_any(&slots, self.is_out.then_some(limits::ACCEPT_RETRY_MS)).map(drop)
    }

    fn admit_tcp(&mut self, accepted: rustix::io::Result<OwnedFd>) {
        let Some(socket) = self.note(accepted).map(std::net::TcpStream::from) else {
            return;
        };
        if let Ok(peer) = socket.peer_addr() {
            let _ = socket.set_nodelay(true);
            let keys = self.listeners.keys.clone();
            self.admit(Socket::new(socket, keys), Via::Tcp { peer });
        }
    }

    fn admit_unix(&mut self, accepted: rustix::io::Result<OwnedFd>) {
        let Some(socket) = self.note(accepted) else { return };
        if let Ok(peer) = sockopt::socket_peercred(&socket) {
            let via = Via::Unix {
                uid: peer.uid.as_raw(),
            };
            self.admit(std::os::unix::net::UnixStream::from(socket), via);
        }
    }

    fn note(&mut self, accepted: rustix::io::Result<OwnedFd>) -> Option<OwnedFd> {
        use rustix::io::Errno;
        match accepted {
            Ok(socket) => {
                self.is_out = false;
                Some(socket)
            }
            Err(Errno::WOULDBLOCK | Errno::CONNABORTED | Errno::INTR) => None,
            Err(error) => {
                if !self.is_out {
                    log::error!("cannot accept an API connection: {error}; trying again until it works");
                }
                self.is_out = true;
                None
            }
        }
    }

    fn admit<T: Transport + AsFd + 'static>(&self, socket: T, via: Via) {
        if self.capacity.live() >= self.soft_cap {
            self.idle.make_room();
        }
        let idle = socket.second_handle().map(|handle| self.idle.slot(handle));
        let slot = self.capacity.take().or_else(|| match via {
            Via::Unix { .. } => self.control.take(),
            Via::Tcp { .. } => None,
        });
        if slot.is_none() {
            // the next one finds a place
            self.idle.make_room();
        }
        let (Some(slot), Ok(idle)) = (slot, idle) else {
            // a client that has begun TLS could not read it
            if !socket.has_greeted_tls() {
                let Refusal { status, reason, .. } = upgrade::TOO_MANY;
                let response = problem(status, reason);
                // nothing waits in a fresh socket: this fits, and does not wait either
                let _ = Wire::new(socket).write_response(&Request::default(), response);
            }
            return;
        };
        let shared = self.shared.clone();
        let own_uid = self.own_uid;
        let started = thread::spawn("api", limits::STACK_BYTES, move || {
            metrics::API_CONNECTIONS.rise();
            serve(socket, via, own_uid, &shared, slot, idle);
            metrics::API_CONNECTIONS.fall();
        });
        if let Err(error) = started {
            log::error!("cannot start a thread for an API connection: {error}");
        }
    }
}

fn accept(listener: std::os::fd::BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC)
}

/// One connection, request after request.
fn serve<T: Transport + AsFd>(
    transport: T,
    via: Via,
    own_uid: u32,
    shared: &Arc<Shared>,
    _slot: Slot,
    mut idle: IdleSlot,
) {
    let visitor = |request| Visitor {
        request,
        via,
        own_uid,
    };
    let mut wire = Wire::new(transport);
    idle.wait_from_here();
    if let Err(error) = wire.transport.begin() {
        return log::debug!("an API connection never began: {error}");
    }
    loop {
        idle.wait_from_here();
        let read = wire.read_request();
        idle.served();
        let (request, response) = match read {
            Ok(_) if wire.transport.is_exposed() => {
                let response = problem(400, "this port requires TLS: use https://");
                (Request::default(), response)
            }
            Ok(request) if socket::is_wanted(&request) => {
                match accept_socket(wire, visitor(request), shared) {
                    // it waits for nothing any more
                    Upgraded::Socket(connection) => {
                        drop(idle);
                        return connection.run();
                    }
                    Upgraded::Gone => return,
                    Upgraded::Refused(refused) => {
                        wire = refused.0;
                        (refused.1, refused.2)
                    }
                }
            }
            Ok(request) => {
                let visitor = visitor(request);
                let response = routes::respond(shared, &visitor);
                let request = visitor.request;
                log::debug!("{} {}: {}", request.method, request.path, response.status);
                (request, response)
            }
            Err(NoRequest::Gone) => return,
            Err(NoRequest::Bad(status, message)) => (Request::default(), problem(status, &message)),
        };
        if wire.write_response(&request, response).is_err() {
            return;
        }
        if !request.keep_alive {
            return hang_up(wire.transport);
        }
    }
}

/// What became of a request for a WebSocket.
enum Upgraded<T: Transport> {
    Socket(Box<socket::Connection<T>>),
    /// An ordinary connection still, and what it is answered.
    Refused(Box<(Wire<T>, Request, Response)>),
    Gone,
}

/// Accepts a WebSocket. The request is logged without its query: a token may be part of it.
fn accept_socket<T: Transport + AsFd>(
    mut wire: Wire<T>,
    visitor: Visitor,
    shared: &Arc<Shared>,
) -> Upgraded<T> {
    let visitor = socket::with_token(visitor);
    let (admission, answer) = match socket::accept(shared, &visitor) {
        Ok(accepted) => accepted,
        Err(denied) => {
            let request = visitor.request;
            log::debug!("{} {}: {}", request.method, request.path, denied.status);
            let response = routes::refuse(&request.path, &denied);
            return Upgraded::Refused(Box::new((wire, request, response)));
        }
    };
    log::debug!("{}: the WebSocket of {}", socket::PATH, admission.caller.who);
    if wire.transport.write_all(answer.as_bytes()).is_err() {
        return Upgraded::Gone;
    }
    let (transport, already_read) = wire.into_parts();
    match socket::Connection::new(transport, already_read, shared, admission) {
        Ok(connection) => Upgraded::Socket(Box::new(connection)),
        Err(error) => {
            log::warn!("cannot serve a WebSocket: {error}");
            Upgraded::Gone
        }
    }
}

/// Reads what the peer may still send: a socket closed with unread bytes is reset, and the answer with it.
fn hang_up<T: Transport>(mut transport: T) {
    transport.finish();
    let mut rest = [0; 4_096];
    for _ in 0..(2 * limits::HTTP_BODY_BYTES / rest.len()) {
        let _ = transport.set_read_timeout_ms(limits::CLOSE_LINGER_MS);
        match transport.read(&mut rest) {
            Ok(count) if count > 0 => {}
            _ => return,
        }
    }
}
