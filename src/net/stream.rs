//! The byte stream of one connection, plain or TLS: non-blocking, and without the read that only learns that nothing is
//! left.
//! Must not know: WebSocket.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use crate::tls::TlsStream;

/// A non-blocking socket, and the TLS on it if there is any.
pub type Stream = TlsStream<Wire>;

/// The socket as it is.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    /// The last read got less than it asked for: until poll says otherwise the next one would only say "would block".
    /// At ten thousand beating wrappers that is a fifth of all system calls.
    drained: bool,
    /// The kernel itself must say "would block" next, however short a read was.
    must_be_certain: bool,
}

impl Stream {
    /// Takes over a socket that is non-blocking already.
    pub fn new(socket: TcpStream) -> Stream {
        Stream {
            wire: Wire {
                socket,
                drained: false,
                must_be_certain: false,
            },
            tunnel: None,
        }
    }

    /// Poll says that there is something: ask the kernel again.
    pub fn may_have_more(&mut self) {
        self.wire.drained = false;
    }

    /// The next "would block" must be the kernel's own word.
    pub fn be_certain(&mut self) {
        self.wire.must_be_certain = true;
    }

    /// The socket itself: what is read from it is not decrypted.
    pub fn socket(&self) -> &TcpStream {
        &self.wire.socket
    }

    /// Tells the peer that nothing more comes.
    pub fn end_writing(&mut self) {
        self.close_tls();
        // a peer that is gone needs no telling
        let _ = self.wire.socket.shutdown(Shutdown::Write);
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Stream {
        Stream::new(socket)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.socket.as_fd()
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.drained && !self.must_be_certain {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.socket.read(buffer) {
            Ok(count) => {
                self.drained = 0 < count && count < buffer.len();
                Ok(count)
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.drained = true;
                    self.must_be_certain = false;
                }
                Err(error)
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    /// Several records leave in one call.
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
