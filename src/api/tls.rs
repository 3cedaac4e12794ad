//! TLS on the API's port: certificate and key of the settings, read again when their files change, and the socket that
//! speaks TLS where its peer begins it.
//! Must not know: HTTP, routes.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::RecvFlags;
use rustls::{ServerConfig, ServerConnection};

use super::http::{Transport, has_hung_up};
use crate::address::is_loopback;
use crate::clock::{self, Mono};
use crate::limits;
use crate::net::identity;
use crate::tls::{HANDSHAKE, TlsStream, Tunnel};

/// The pair that `tls_cert` and `tls_key` name, as it is now.
#[derive(Debug)]
pub struct Keys {
    certificate: PathBuf,
    key: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    config: Arc<ServerConfig>,
    /// What the files looked like when they were last read, well or not.
    seen: Option<[Stamp; 2]>,
    look_at: Mono,
}

/// Tells one content of a file from the next. None: it cannot be looked at.
type Stamp = Option<(u64, u64, i64, i64)>;

impl Keys {
    /// `config` is the pair as it was read at the start.
    pub fn new(certificate: &Path, key: &Path, config: Arc<ServerConfig>) -> Keys {
        Keys {
            certificate: certificate.into(),
            key: key.into(),
            held: Mutex::new(Held {
                config,
                // they may have changed since: the first connection reads them again
                seen: None,
                look_at: clock::mono(),
            }),
        }
    }

    /// For a new connection. Looks at the files every now and then; a pair that cannot be used changes nothing.
    fn current(&self) -> Arc<ServerConfig> {
        let mut held = self.held.lock();
        let now = clock::mono();
        if now < held.look_at {
            return held.config.clone();
        }
        held.look_at = now.plus_ms(limits::KEYS_LOOK_MS);
        let stamps = Some([stamp(&self.certificate), stamp(&self.key)]);
        if held.seen == stamps {
            return held.config.clone();
        }
        let is_first = held.seen.is_none();
        held.seen = stamps;
        match identity::given(&self.certificate, &self.key) {
            Ok(identity) => {
                held.config = identity.config;
                if !is_first {
                    log::info!(
                        "the API's certificate '{}' was read again",
                        self.certificate.display()
                    );
                }
            }
            Err(why) => log::error!("{why}; the API goes on with the pair that it has"),
        }
        held.config.clone()
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

/// A connection of the API's port.
pub struct Socket {
    line: TlsStream<Timed>,
    keys: Option<Arc<Keys>>,
}

/// The socket with deadlines: a TLS record that comes byte by byte takes no longer than one that comes whole.
struct Timed {
    socket: TcpStream,
    read_until: Cell<Mono>,
    is_nonblocking: Cell<bool>,
}

impl Socket {
    /// Takes over a blocking socket. Without `keys` there is no TLS.
    pub fn new(socket: TcpStream, keys: Option<Arc<Keys>>) -> Socket {
        let wire = Timed {
            socket,
            read_until: Cell::new(clock::mono().plus_ms(limits::HTTP_IDLE_MS)),
            is_nonblocking: Cell::new(false),
        };
        Socket {
            line: TlsStream { wire, tunnel: None },
            keys,
        }
    }

    fn shake_hands(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let side = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut tunnel = Tunnel::new(side);
        self.set_read_timeout_ms(limits::HTTP_REQUEST_MS)?;
        self.set_write_timeout_ms(limits::HTTP_REQUEST_MS)?;
        if tunnel.shake_hands(&mut self.line.wire)? {
            self.line.tunnel = Some(tunnel)
        } else {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Transport for Socket {
    /// The first byte, left where it is, tells whether TLS is spoken.
    fn begin(&mut self) -> io::Result<()> {
        let Some(keys) = self.keys.clone() else {
            return Ok(());
        };
        self.set_read_timeout_ms(limits::HTTP_IDLE_MS)?;
        let mut first = [0];
        let count = self.line.wire.wait(|socket| socket.peek(&mut first))?;
        if first[..count] == [HANDSHAKE] {
            self.shake_hands(keys.current())
        } else {
            Ok(())
        }
    }

    fn has_greeted_tls(&self) -> bool {
        let mut first = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let read = rustix::net::recv(&self.line.wire.socket, &mut first, flags);
        self.keys.is_some() && read.is_ok() && first == [HANDSHAKE]
    }

    fn is_tls(&self) -> bool {
        self.line.is_tls()
    }

    fn is_exposed(&self) -> bool {
        let is_near = |socket: &TcpStream| socket.peer_addr().is_ok_and(|peer| is_loopback(peer.ip()));
        self.keys.is_some() && !self.is_tls() && !is_near(&self.line.wire.socket)
    }

    fn set_read_timeout_ms(&self, ms: u64) -> io::Result<()> {
        self.line.wire.read_until.set(clock::mono().plus_ms(ms));
        Ok(())
    }

    fn set_write_timeout_ms(&self, ms: u64) -> io::Result<()> {
        self.line
            .wire
            .socket
            .set_write_timeout(Some(Duration::from_millis(ms)))
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        self.line.wire.is_nonblocking.set(true);
        self.line.wire.socket.set_nonblocking(true)
    }

    fn finish(&mut self) {
        self.line.close_tls();
        let _ = self.line.wire.socket.shutdown(Shutdown::Write);
    }

    fn is_gone(&self) -> bool {
        has_hung_up(&self.line.wire.socket)
    }

    fn second_handle(&self) -> io::Result<OwnedFd> {
        self.line.wire.socket.as_fd().try_clone_to_owned()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.line.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.line.flush()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.wire.socket.as_fd()
    }
}

impl Timed {
    /// Something that reads, by the deadline where the socket blocks.
    fn wait(&self, mut look: impl FnMut(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            if !self.is_nonblocking.get() {
                let left_ms = self.read_until.get().since_ms(clock::mono());
                if left_ms == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                self.socket
                    .set_read_timeout(Some(Duration::from_millis(left_ms)))?;
            }
            match look(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return self.in_time(result),
            }
        }
    }

    /// Where the socket blocks, "would block" is a time-out: nobody comes back for what is left.
    fn in_time(&self, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_nonblocking.get() => {
                Err(io::ErrorKind::TimedOut.into())
            }
            result => result,
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(|mut socket| socket.read(buffer))
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = (&self.socket).write(bytes);
        self.in_time(result)
    }

    /// Several records leave in one call.
    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let result = (&self.socket).write_vectored(parts);
        self.in_time(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
