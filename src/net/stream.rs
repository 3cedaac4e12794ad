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
    /// The kernel itself must say "would block" next, however short a read was.
    must_be_certain: bool,
}

impl Stream {
    /// Takes over a socket that is non-blocking already.
    pub fn new(socket: TcpStream) -> Stream {
        Stream {
            socket,
            drained: false,
            must_be_certain: false,
        }
    }

    /// Poll says that there is something: ask the kernel again.
    pub fn may_have_more(&mut self) {
        self.drained = false;
    }

    /// The next "would block" must be the kernel's own word.
    pub fn be_certain(&mut self) {
        self.must_be_certain = true;
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Read for Stream {
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
