//! The byte stream of one connection: non-blocking, and without the read that only learns that nothing is left.
//! TLS comes in here, as a second kind of stream chosen by the first byte.
//! Must not know: WebSocket.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

/// A non-blocking socket.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    /// The last read got less than it asked for: until poll says otherwise the next one would only say "would block".
    /// At ten thousand beating wrappers that is a fifth of all system calls.
    drained: bool,
}

impl Stream {
    /// Takes over a socket that is non-blocking already.
    pub fn new(socket: TcpStream) -> Stream {
        Stream {
            socket,
            drained: false,
        }
    }

    /// Poll says that there is something (or somebody must know for certain): ask the kernel again.
    pub fn may_have_more(&mut self) {
        self.drained = false;
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.drained {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.socket.read(buffer)?;
        self.drained = 0 < count && count < buffer.len();
        Ok(count)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
