//! One WebSocket connection on its own thread: reads until there is nothing left, writes what its outbox brings,
//! waits for either. What frames and orders mean is its handler's business.
//! Must not know: wrappers, users, the engine.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use tungstenite::protocol::{Role, WebSocket};
use tungstenite::{Error, Message, Utf8Bytes};

use super::outbox::Outbox;
use super::stream::Stream;
use super::upgrade;
use crate::clock::{self, Mono};
use crate::limits;
use crate::wake;

/// Larger messages are let go only after the next read: the socket's buffer would otherwise keep their memory.
const LARGE_MESSAGE_BYTES: usize = 32 << 10;

/// What a handler wants of its connection.
#[derive(Debug)]
pub enum Reaction {
    /// Nothing.
    Go,
    /// Send this text.
    Send(String),
    /// Make certain that nothing is left to be read; [`Handler::on_dry`] tells.
    ReadDry,
    /// Send what waits and this closing message, then close.
    Close { closing_message: Option<String> },
    /// Be gone at once.
    Drop,
}

/// What a connection is for.
pub trait Handler {
    /// What its outbox brings.
    type Order;
    /// A text message, read at `read_at`.
    fn on_text(&mut self, text: &str, read_at: Mono) -> Reaction;
    /// A message that is not text: binary, not UTF-8, or too large to be read at all.
    fn on_other(&mut self, what: &str) -> Reaction;
    /// An order from the outbox.
    fn on_order(&mut self, order: Self::Order) -> Reaction;
    /// Nothing was left to be read at `at`.
    fn on_dry(&mut self, at: Mono);
    /// When [`Handler::on_time`] wants to be called at the latest.
    fn next_time(&self) -> Mono;
    /// It is `now`, and may be that time.
    fn on_time(&mut self, now: Mono) -> Reaction;
    /// It is over; everything read has been handed over.
    fn on_closed(&mut self, why: &str);
}

/// A connection, ready to run.
pub struct Connection<H: Handler> {
    socket: WebSocket<Stream>,
    outbox: Arc<Outbox<H::Order>>,
    handler: H,
    /// The send buffer was full: wait until it is not.
    is_blocked: bool,
    last_large: Option<Utf8Bytes>,
}

/// Why a connection ends.
enum End {
    /// Nothing more can be said to the peer.
    Gone(String),
    /// A closing message is to be sent.
    Closing(Option<String>),
}

impl<H: Handler> Connection<H> {
    /// Wraps a non-blocking stream; `already_read` are its first bytes. Frames above `frame_bytes` are refused from
    /// their header.
    pub fn new(
        stream: impl Into<Stream>,
        already_read: Vec<u8>,
        frame_bytes: usize,
        outbox: Arc<Outbox<H::Order>>,
        handler: H,
    ) -> Connection<H> {
        let config = Some(upgrade::socket_config(frame_bytes));
        let stream = stream.into();
        let socket = if already_read.is_empty() {
            WebSocket::from_raw_socket(stream, Role::Server, config)
        } else {
            WebSocket::from_partially_read(stream, already_read, Role::Server, config)
        };
        Connection {
            socket,
            outbox,
            handler,
            is_blocked: false,
            last_large: None,
        }
    }

    /// Serves until the end.
    pub fn run(mut self) {
        let why = loop {
            match self.turn() {
                Ok(()) => {}
                Err(End::Gone(why)) => break why,
                Err(End::Closing(closing_message)) => {
                    self.close(closing_message);
                    break "closed by the daemon".to_string();
                }
            }
        };
        self.handler.on_closed(&why);
    }

    fn turn(&mut self) -> Result<(), End> {
        self.on_outgoing()?;
        let is_dry = self.on_readable()?;
        self.on_writable()?;
        if !is_dry {
            return Ok(());
        }
        let now = clock::mono();
        let reaction = self.handler.on_time(now);
        self.react(reaction)?;
        let timeout_ms = self.handler.next_time().since_ms(now);
        let fd = self.socket.get_ref().as_fd();
        let ready = wake::wait(Some(fd), self.is_blocked, self.outbox.waker(), Some(timeout_ms))
            .map_err(|error| End::Gone(error.to_string()))?;
        if ready.readable {
            self.socket.get_mut().may_have_more();
        }
        Ok(())
    }

    /// Hands on what can be read, a portion at most. True: nothing is left.
    fn on_readable(&mut self) -> Result<bool, End> {
        for _ in 0..limits::READ_PORTION_FRAMES {
            let message = self.socket.read();
            self.last_large = None;
            let reaction = match message {
                Ok(Message::Text(text)) => {
                    let reaction = self.handler.on_text(&text, clock::mono());
                    self.last_large = (text.len() > LARGE_MESSAGE_BYTES).then_some(text);
                    reaction
                }
                Ok(Message::Binary(_)) => self.handler.on_other("a binary message"),
                // pongs and closes are tungstenite's own answers
                Ok(_) => Reaction::Go,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.handler.on_dry(clock::mono());
                    return Ok(true);
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => Reaction::Go,
                Err(Error::Capacity(_)) => self.handler.on_other("a message that is too large"),
                Err(Error::Utf8(_)) => self.handler.on_other("a message that is no UTF-8"),
                Err(error) => return Err(End::Gone(error.to_string())),
            };
            self.react(reaction)?;
        }
        Ok(false)
    }

    /// Does what the outbox brings.
    fn on_outgoing(&mut self) -> Result<(), End> {
        if self.outbox.is_overflown() {
            return Err(End::Gone("it does not read what it is sent".into()));
        }
        let orders: VecDeque<H::Order> = self.outbox.take();
        for order in orders {
            let reaction = self.handler.on_order(order);
            self.react(reaction)?;
        }
        Ok(())
    }

    /// Sends what is buffered, as far as the socket takes it.
    fn on_writable(&mut self) -> Result<(), End> {
        let flushed = self.socket.flush();
        self.note_write(flushed)
    }

    fn react(&mut self, reaction: Reaction) -> Result<(), End> {
        match reaction {
            Reaction::Go => Ok(()),
            Reaction::Send(text) => {
                let written = self.socket.write(Message::text(text));
                self.note_write(written)
            }
            Reaction::ReadDry => {
                self.socket.get_mut().be_certain();
                Ok(())
            }
            Reaction::Close { closing_message } => Err(End::Closing(closing_message)),
            Reaction::Drop => Err(End::Gone("dropped by the daemon".into())),
        }
    }

    fn note_write(&mut self, written: Result<(), Error>) -> Result<(), End> {
        match written {
            Ok(()) => {
                self.is_blocked = false;
                Ok(())
            }
            // it is queued in the write buffer
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_blocked = true;
                Ok(())
            }
            Err(Error::WriteBufferFull(_)) => Err(End::Gone("it does not read what it is sent".into())),
            Err(error) => Err(End::Gone(error.to_string())),
        }
    }

    /// Sends the closing message, and reads on for a while without looking: a socket closed with unread bytes would be
    /// reset, and the peer might never see them.
    // inlined, its buffer would lie in the frame of `run`, and every connection would touch a page of stack more
    #[inline(never)]
    fn close(&mut self, closing_message: Option<String>) {
        let deadline = clock::mono().plus_ms(limits::CLOSE_LINGER_MS);
        if let Some(text) = closing_message {
            let _ = self.socket.write(Message::text(text));
        }
        let mut sent = self.socket.close(None);
        while matches!(&sent, Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock) {
            if self.skim() || !self.wait_until(deadline, true) {
                return;
            }
            sent = self.socket.flush();
        }
        self.socket.get_mut().end_writing();
        while !self.skim() && self.wait_until(deadline, false) {}
    }

    /// Reads a portion of what there is, and forgets it. True: the peer has closed.
    fn skim(&self) -> bool {
        let mut rest = [0; 4_096];
        for _ in 0..limits::READ_PORTION_FRAMES {
            match self.socket.get_ref().socket().read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        false
    }

    /// False: the deadline has passed.
    fn wait_until(&self, deadline: Mono, for_writing: bool) -> bool {
        let left_ms = deadline.since_ms(clock::mono());
        let fd = self.socket.get_ref().as_fd();
        left_ms > 0 && wake::wait(Some(fd), for_writing, self.outbox.waker(), Some(left_ms)).is_ok()
    }
}
