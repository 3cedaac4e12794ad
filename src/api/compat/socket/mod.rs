//! The UI's WebSocket (wire-protocol.md section 2): one thread for each connection. It writes a frame only when the
//! one before has left, so a client that is slow, or gone, costs one frame of memory and nobody's time.
//! Must not know: how the engine decides, SQL.
//!
//! Reading order: `message.rs` what the UI says; `frames.rs` what it is told; `text.rs` outputs in pieces; `source.rs`
//! where they come from; `follow.rs` one followed job, `view.rs` all that one connection sees (both pure); `hub.rs` what
//! connections share; here: the socket.

mod follow;
mod frames;
pub mod hub;
mod message;
mod source;
mod text;
mod view;

#[cfg(test)]
mod view_tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use serde_json::{Value, json};
use tungstenite::protocol::{Role as Side, WebSocket};
use tungstenite::{Error, Message, Utf8Bytes};

use crate::api::auth::{self, Admission, Visitor};
use crate::api::call::denied;
use crate::api::error::{Denied, bad};
use crate::api::http::{Request, Transport};
use crate::api::shared::Shared;
use crate::clock::{self, Mono, Wall};
use crate::config::Role;
use crate::engine::event::Ask;
use crate::limits;
use crate::net::upgrade;
use crate::time_text::{MOMENTS, moment};
use crate::url::percent_decode;
use crate::wake::{Interest, poll_any};

use message::ClientMessage;
use view::{Frame, View};

/// Where it is.
pub const PATH: &str = "/ws";
/// UI threads stand back behind the daemon's others.
const NICE: i32 = 10;
/// Messages read from a client in a row.
const PORTION: usize = 32;

/// The request asks for the UI's WebSocket.
pub fn is_wanted(request: &Request) -> bool {
    request.path == PATH && request.header("upgrade").is_some()
}

/// `/ws?token=` counts as a bearer's token: a browser cannot send a header of its own.
pub fn with_token(mut visitor: Visitor) -> Visitor {
    let request = &mut visitor.request;
    let token = request
        .query
        .split('&')
        .find_map(|field| field.strip_prefix("token="));
    if let (Some(token), None) = (token, request.header("authorization")) {
        let bearer = format!("Bearer {}", percent_decode(token));
        request.headers.push(("authorization".into(), bearer));
    }
    visitor
}

/// Admits the request; with the text that accepts it.
pub fn accept(shared: &Shared, visitor: &Visitor) -> Result<(Admission, String), Denied> {
    let settings = shared.feed.board().config.settings.clone();
    let caller = auth::admit(shared, visitor, &settings)?;
    auth::require(&caller, Role::Read)?;
    let request = &visitor.request;
    if request.method != "GET" || !request.knows_chunks {
        return Err(bad("a WebSocket begins with a GET of HTTP/1.1"));
    }
    let answer = upgrade::accept(|name| request.header(name))
        .map_err(|refusal| Denied::new(refusal.status, refusal.reason))?;
    Ok((Admission::new(visitor.clone(), caller, settings), answer))
}

/// One connection after its upgrade. `already_read` came behind the request.
pub struct Connection<T: Transport> {
    socket: WebSocket<T>,
    shared: Arc<Shared>,
    admission: Admission,
    view: View,
    /// Answers, made when the socket can take them.
    replies: VecDeque<Reply>,
    wakeups: u64,
    /// The last frame has not left entirely since then.
    blocked_since: Option<Mono>,
}

/// An answer to one message.
enum Reply {
    Refusal(String, Value),
    Timeline {
        from: Value,
        until: Value,
        id: Value,
        request: Value,
    },
}

/// Why it is over.
struct Over(String);

impl<T: Transport + AsFd> Connection<T> {
    /// Takes over the socket.
    pub fn new(
        transport: T,
        already_read: Vec<u8>,
        shared: &Arc<Shared>,
        admission: Admission,
    ) -> io::Result<Connection<T>> {
        transport.set_nonblocking()?;
        // one frame at a time is in the write buffer, however large a configuration is
        let config = upgrade::socket_config(limits::COMPAT_MESSAGE_BYTES).max_write_buffer_size(usize::MAX);
        let socket = if already_read.is_empty() {
            WebSocket::from_raw_socket(transport, Side::Server, Some(config))
        } else {
            WebSocket::from_partially_read(transport, already_read, Side::Server, Some(config))
        };
        let wakeups = shared.compat.hub.wakeups();
        let board = shared.compat.hub.board();
        Ok(Connection {
            socket,
            shared: shared.clone(),
            admission,
            view: View::new(board, clock::mono()),
            replies: VecDeque::new(),
            wakeups,
            blocked_since: None,
        })
    }

    /// Serves until the end.
    pub fn run(mut self) {
        // on Linux this is about the calling thread alone
        let _ = rustix::process::setpriority_process(None, NICE);
        let Over(why) = loop {
            if let Err(over) = self.turn() {
                break over;
            }
        };
        log::debug!("UI of {} is gone: {why}", self.admission.caller.who);
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
        self.socket.get_mut().finish();
    }

    fn turn(&mut self) -> Result<(), Over> {
        if self.shared.compat.hub.is_stopped() {
            return Err(Over("the daemon ends".into()));
        }
        let has_more = self.read()?;
        self.write()?;
        if !has_more {
            self.wait()?;
        }
        Ok(())
    }

    /// Reads a portion of what there is. True: there may be more.
    fn read(&mut self) -> Result<bool, Over> {
        for _ in 0..PORTION {
            if self.replies.len() >= limits::COMPAT_REPLIES {
                return Ok(false);
            }
            match self.socket.read() {
                Ok(Message::Text(text)) => self.hear(&text),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(Error::Utf8(_)) => {}
                Err(error) => return Err(Over(error.to_string())),
            }
        }
        Ok(true)
    }

    /// Writes frames until the socket is full or there is nothing to say.
    fn write(&mut self) -> Result<(), Over> {
        // also what tungstenite has to say by itself: pongs
        self.flush()?;
        for _ in 0..PORTION {
            if self.blocked_since.is_some() {
                return Ok(());
            }
            let Some(frame) = self.next_frame()? else {
                return Ok(());
            };
            match self.socket.write(Message::Text(frame)) {
                Ok(()) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Over(error.to_string())),
            }
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Over> {
        match self.socket.flush() {
            Ok(()) => self.blocked_since = None,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                let since = *self.blocked_since.get_or_insert(clock::mono());
                if clock::mono().since_ms(since) > limits::COMPAT_STUCK_MS {
                    return Err(Over("it does not read what it is sent".into()));
                }
            }
            Err(error) => return Err(Over(error.to_string())),
        }
        Ok(())
    }

    fn next_frame(&mut self) -> Result<Option<Utf8Bytes>, Over> {
        let now = clock::mono();
        let frame = loop {
            if self.view.is_at_rest() {
                if let Some(reply) = self.replies.pop_front() {
                    return Ok(Some(self.reply(reply)));
                }
                self.look(now)?;
            }
            match self.view.next(now, &*self.shared.compat.hub) {
                Some(frame) => break frame,
                None if self.replies.is_empty() => return Ok(None),
                // the round is over: now they have their turn
                None => {}
            }
        };
        let hub = &self.shared.compat.hub;
        let board = self.view.board();
        Ok(Some(match frame {
            Frame::Config => hub.config(board, self.admission.caller.role),
            Frame::Status(overlays) => hub.status(board, &overlays),
            Frame::EmptyTimeline => frames::empty_timeline().into(),
            Frame::Details { job } => hub.details(board, &job),
            Frame::Chunk { job, portion } => {
                let text = frames::chunk(
                    &job,
                    &portion.machine,
                    portion.at,
                    portion.piece.as_deref(),
                    portion.total_utf16,
                    portion.is_complete,
                );
                hub.spend(text.len() as u64);
                text.into()
            }
        }))
    }

    /// Begins a round if one is due.
    fn look(&mut self, now: Mono) -> Result<(), Over> {
        let hub = self.shared.compat.hub.clone();
        let wakeups = hub.wakeups();
        if wakeups == self.wakeups && self.view.next_round(now) > now {
            return Ok(());
        }
        // going on with a round takes no new board: those come ten times a second at most
        let board = (wakeups != self.wakeups).then(|| hub.board());
        self.wakeups = wakeups;
        let settings = board
            .as_ref()
            .unwrap_or(self.view.board())
            .config
            .settings
            .clone();
        self.admission
            .renew(&self.shared, &settings)
            .map_err(|denied| Over(denied.message))?;
        self.view.look(board, now, &*hub);
        Ok(())
    }

    fn hear(&mut self, text: &str) {
        let now = clock::mono();
        for (wish, request) in message::read(text) {
            match wish {
                ClientMessage::Ack {
                    job,
                    machine,
                    position,
                } => self.view.ack(&job, &machine, position, now),
                ClientMessage::Unsubscribe(jobs) => self.view.unsubscribe(&jobs),
                ClientMessage::Subscribe(jobs) => self.subscribe(&jobs),
                ClientMessage::Timeline { from, until, id } => self.replies.push_back(Reply::Timeline {
                    from,
                    until,
                    id,
                    request,
                }),
                ClientMessage::Run { job } => self.act(Ask::Run { job }, request),
                ClientMessage::Kill {
                    job,
                    machine,
                    instance,
                } => {
                    let ask = Ask::Kill {
                        job,
                        machine,
                        instance,
                    };
                    self.act(ask, request);
                }
            }
        }
    }

    /// Each refusal names one job: a list may be long, and is not echoed for every name in it.
    fn subscribe(&mut self, jobs: &[String]) {
        let too_many = self.view.subscribe(jobs);
        let board = self.view.board().clone();
        let too_many = too_many
            .iter()
            .map(|job| (job, format!("'{job}' is not followed: too many jobs are")));
        let unknown = jobs.iter().filter(|job| !board.jobs.contains_key(job.as_str()));
        let unknown = unknown.map(|job| (job, format!("there is no job '{job}' yet")));
        let room = limits::COMPAT_REPLIES.saturating_sub(self.replies.len());
        for (job, reason) in too_many.chain(unknown).take(room) {
            let request = json!({"subscribe": [job]});
            self.replies.push_back(Reply::Refusal(reason, request));
        }
    }

    /// Sends a request to the engine, and tells only refusals: what is done shows in `status`.
    fn act(&mut self, ask: Ask, request: Value) {
        let caller = &self.admission.caller;
        let done = auth::require(caller, Role::Operate).and_then(|()| {
            let answer = self.shared.requests.ask(ask, caller.who.clone());
            answer.map_err(|refusal| denied(refusal, self.view.board()))
        });
        if let Err(refused) = done {
            self.replies.push_back(Reply::Refusal(refused.message, request));
        }
    }

    fn reply(&self, reply: Reply) -> Utf8Bytes {
        let (from, until, id, request) = match reply {
            Reply::Refusal(reason, request) => return frames::error(&reason, &request).into(),
            Reply::Timeline {
                from,
                until,
                id,
                request,
            } => (from, until, id, request),
        };
        let now = clock::wall();
        let answer = moment_of(&from, now)
            .and_then(|from| Ok((from, moment_of(&until, now)?)))
            .and_then(|(from, until)| self.shared.compat.hub.timeline(from, until));
        match answer {
            Ok((entries, serial)) => frames::timeline(&entries, &id, serial).into(),
            Err(reason) => frames::error(&reason, &request).into(),
        }
    }

    /// Waits for the client, for news, or for the time of the next round.
    fn wait(&self) -> Result<(), Over> {
        let now = clock::mono();
        let hub = &self.shared.compat.hub;
        let has_news = hub.wakeups() != self.wakeups || !self.replies.is_empty();
        if has_news && self.blocked_since.is_none() {
            return Ok(());
        }
        let timeout_ms = match self.blocked_since {
            Some(since) => since.plus_ms(limits::COMPAT_STUCK_MS + 1).since_ms(now),
            None => self.view.next_round(now).since_ms(now),
        };
        let is_blocked = self.blocked_since.is_some();
        let socket = Interest::either(self.socket.get_ref().as_fd(), is_blocked);
        let is_full = self.replies.len() >= limits::COMPAT_REPLIES;
        let socket = if is_full { socket.without_reading() } else { socket };
        // a blocked one has no use for news
        let slots = [socket, Interest::readable(hub.waker(self.wakeups).as_fd())];
        let count = if is_blocked { 1 } else { 2 };
        let seen = poll_any(&slots[..count], Some(timeout_ms));
        seen.map(drop).map_err(|error| Over(error.to_string()))
    }
}

/// A date as the UI gives it: ISO, date math (`now-5m`), or null for none.
fn moment_of(value: &Value, now: Wall) -> Result<Option<Wall>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => match moment(text, now) {
            Some(at) => Ok(Some(at)),
            None => Err(format!("invalid time '{text}': expected {MOMENTS}")),
        },
        other => Err(format!("invalid time '{other}'")),
    }
}
