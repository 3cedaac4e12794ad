//! A small HTTP/1.1 codec: heads by httparse, bodies by length or in chunks, everything bounded in size and time.
//! Must not know: routes, authorization.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::clock::{self, Mono};
use crate::limits;
use crate::net::upgrade::MAX_HEADERS;
use crate::wake::{Interest, poll_any};

/// What the page may load and do: its own files and the API, nothing inline, nothing of anybody else's, and text
/// that comes from a job never becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Bytes gathered before they become a chunk of a streamed body.
const CHUNK_BYTES: usize = 16 << 10;

/// A socket with time-outs.
pub trait Transport: Read + Write + Send {
    /// What comes before the first request: the peer may begin TLS.
    fn begin(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// The peer has begun TLS, as far as can be told without waiting, and [`Transport::begin`] has not been called.
    fn has_greeted_tls(&self) -> bool {
        false
    }
    /// Nobody on the way can read or change what is sent.
    fn is_tls(&self) -> bool {
        false
    }
    /// The peer came in the clear and over a network, where it could have had TLS.
    fn is_exposed(&self) -> bool {
        false
    }
    /// How long one read may wait.
    fn set_read_timeout_ms(&self, ms: u64) -> io::Result<()>;
    /// How long one write may wait.
    fn set_write_timeout_ms(&self, ms: u64) -> io::Result<()>;
    /// From here on neither reads nor writes wait.
    fn set_nonblocking(&self) -> io::Result<()>;
    /// Says that nothing more will be written.
    fn finish(&mut self);
    /// The peer has hung up.
    fn is_gone(&self) -> bool;
    /// Another descriptor of the same socket.
    fn second_handle(&self) -> io::Result<OwnedFd>;
}

/// Where a body that follows something is written to.
pub trait Outlet: Write {
    /// The peer has closed the connection: following ends.
    fn is_gone(&self) -> bool;
}

/// One request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// As sent, without the query.
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection may be used again.
    pub keep_alive: bool,
    /// HTTP/1.0 knows no chunks.
    pub knows_chunks: bool,
    /// It is of HTTP/1.0, where `Host` may be missing.
    pub is_old_http: bool,
    /// It came encrypted.
    pub is_tls: bool,
}

/// An answer.
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

/// Writes a body piece by piece.
pub type Streamer = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The same for a body that may have to wait for what comes next.
pub type Follower = Box<dyn FnOnce(&mut dyn Outlet) -> io::Result<()> + Send>;

/// What an answer carries.
pub enum Body {
    Bytes(Vec<u8>),
    /// Written while it is made; its length is not known before.
    Stream(Streamer),
    /// So many bytes, written piece by piece.
    Sized(u64, Streamer),
    /// Written while it comes about, each piece at once.
    Follow(Follower),
}

/// Why there is no request.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRequest {
    /// The peer is gone, or said nothing for too long: no answer.
    Gone,
    /// It gets this status and message, then the connection ends.
    Bad(u16, String),
}

/// A connection's reading side: what was read too much waits for the next request.
pub struct Wire<T: Transport> {
    pub transport: T,
    buffer: Vec<u8>,
}

impl Request {
    /// A header's first value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Response {
    /// A JSON answer.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Response {
        // the shapes in views.rs have string keys only: they always serialize
        let mut bytes = serde_json::to_vec(value).unwrap_or_default();
        bytes.push(b'\n');
        Response {
            status,
            content_type: "application/json",
            headers: Vec::new(),
            body: Body::Bytes(bytes),
        }
    }

    /// The same with one more header.
    pub fn with(mut self, name: &'static str, value: String) -> Response {
        self.headers.push((name, value));
        self
    }
}

impl<T: Transport> Wire<T> {
    /// Takes over a fresh connection.
    pub fn new(transport: T) -> Wire<T> {
        Wire {
            transport,
            buffer: Vec::new(),
        }
    }

    /// The transport, and what was read beyond the request.
    pub fn into_parts(self) -> (T, Vec<u8>) {
        (self.transport, self.buffer)
    }

    /// The next request. Waits [`limits::HTTP_IDLE_MS`] for its first byte and [`limits::HTTP_REQUEST_MS`] from there
    /// for all of it.
    pub fn read_request(&mut self) -> Result<Request, NoRequest> {
        let idle_until = clock::mono().plus_ms(limits::HTTP_IDLE_MS);
        // again where a signal interrupts: that is no first byte
        while self.buffer.is_empty() {
            self.fill(idle_until).map_err(|_| NoRequest::Gone)?;
        }
        let deadline = clock::mono().plus_ms(limits::HTTP_REQUEST_MS);
        let (mut request, framing) = loop {
            if let Some((head_bytes, request, framing)) = parse_head(&self.buffer)? {
                self.buffer.drain(..head_bytes);
                break (request, framing);
            }
            self.fill(deadline)?;
        };
        if request.header("expect").is_some() && !matches!(framing, Framing::Length(0)) {
            self.transport
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .map_err(|_| NoRequest::Gone)?;
        }
        request.is_tls = self.transport.is_tls();
        request.body = match framing {
            Framing::Length(length) => self.read_exactly(length, deadline)?,
            Framing::Chunked => self.read_chunks(deadline)?,
        };
        Ok(request)
    }

    /// Writes an answer. An error means that the connection is of no use any more.
    pub fn write_response(&mut self, request: &Request, response: Response) -> io::Result<()> {
        self.transport.set_write_timeout_ms(limits::HTTP_REQUEST_MS)?;
        let is_endless = matches!(response.body, Body::Stream(_) | Body::Follow(_));
        let is_chunked = is_endless && request.knows_chunks;
        let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, phrase(response.status));
        let mut add = |name: &str, value: &str| {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        };
        if !response.content_type.is_empty() {
            add("Content-Type", response.content_type);
        }
        match &response.body {
            // these have no body, and must not speak of one
            Body::Bytes(_) if matches!(response.status, 204 | 304) => {}
            Body::Bytes(bytes) => add("Content-Length", &bytes.len().to_string()),
            Body::Sized(length, _) => add("Content-Length", &length.to_string()),
            Body::Stream(_) | Body::Follow(_) if is_chunked => add("Transfer-Encoding", "chunked"),
            Body::Stream(_) | Body::Follow(_) => {}
        }
        if !response.headers.iter().any(|(name, _)| *name == "Cache-Control") {
            add("Cache-Control", "no-store");
        }
        add("X-Content-Type-Options", "nosniff");
        for (name, value) in &response.headers {
            add(name, value);
        }
        if !request.keep_alive {
            add("Connection", "close");
        }
        head.push_str("\r\n");
        let is_head = request.method == "HEAD";
        match response.body {
            _ if is_head => self.transport.write_all(head.as_bytes()),
            Body::Bytes(bytes) => {
                // one packet where it fits
                let mut whole = head.into_bytes();
                whole.extend_from_slice(&bytes);
                self.transport.write_all(&whole)
            }
            Body::Stream(stream) | Body::Sized(_, stream) => {
                let mut pieces = self.pieces(&head, is_chunked)?;
                stream(&mut pieces)?;
                pieces.finish()
            }
            Body::Follow(follow) => {
                let mut pieces = self.pieces(&head, is_chunked)?;
                follow(&mut pieces)?;
                pieces.finish()
            }
        }
    }

    fn pieces(&mut self, head: &str, is_chunked: bool) -> io::Result<Pieces<'_, T>> {
        self.transport.write_all(head.as_bytes())?;
        Ok(Pieces {
            into: &mut self.transport,
            gathered: Vec::with_capacity(CHUNK_BYTES),
            is_chunked,
        })
    }

    fn read_exactly(&mut self, length: usize, deadline: Mono) -> Result<Vec<u8>, NoRequest> {
        while self.buffer.len() < length {
            self.fill(deadline)?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn read_chunks(&mut self, deadline: Mono) -> Result<Vec<u8>, NoRequest> {
        let mut body = Vec::new();
        loop {
            let (line_bytes, size) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(parsed)) => break parsed,
                    Ok(httparse::Status::Partial) if self.buffer.len() < limits::HTTP_HEAD_BYTES => {
                        self.fill(deadline)?;
                    }
                    _ => return Err(bad("the request's body is chunked wrongly")),
                }
            };
            self.buffer.drain(..line_bytes);
            if size == 0 {
                self.skip_trailers(deadline)?;
                return Ok(body);
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > limits::HTTP_BODY_BYTES - body.len() {
                return Err(too_large());
            }
            body.extend(self.read_exactly(size, deadline)?);
            if self.read_exactly(2, deadline)? != b"\r\n" {
                return Err(bad("the request's body is chunked wrongly"));
            }
        }
    }

    fn skip_trailers(&mut self, deadline: Mono) -> Result<(), NoRequest> {
        let mut left = limits::HTTP_HEAD_BYTES;
        loop {
            let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") else {
                if self.buffer.len() > left {
                    return Err(bad("the request's trailers are too long"));
                }
                self.fill(deadline)?;
                continue;
            };
            self.buffer.drain(..end + 2);
            if end == 0 {
                return Ok(());
            }
            left = left.saturating_sub(end + 2);
        }
    }

    /// Reads once, by `deadline`.
    fn fill(&mut self, deadline: Mono) -> Result<(), NoRequest> {
        let left_ms = deadline.since_ms(clock::mono());
        if left_ms == 0 {
            return Err(NoRequest::Bad(408, "the request did not come in time".into()));
        }
        self.transport
            .set_read_timeout_ms(left_ms)
            .map_err(|_| NoRequest::Gone)?;
        let mut piece = [0; 4_096];
        match self.transport.read(&mut piece) {
            Ok(0) => Err(NoRequest::Gone),
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(NoRequest::Bad(408, "the request did not come in time".into()))
            }
            Err(_) => Err(NoRequest::Gone),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

/// Reads a head as far as it has come.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Request, Framing)>, NoRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let too_long = || NoRequest::Bad(431, "the request's head is too long".into());
    let head_bytes = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) if head_bytes <= limits::HTTP_HEAD_BYTES => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < limits::HTTP_HEAD_BYTES => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(too_long()),
        Err(_) => return Err(bad("the request is not HTTP/1.1")),
    };
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_string(),
        ..Request::default()
    };
    let target = parsed.path.unwrap_or_default();
    let (authority, target) = absolute_form(target).map_or((None, target), |(host, rest)| (Some(host), rest));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if path.is_empty() { "/" } else { path };
    request.path = path.to_string();
    request.query = query.to_string();
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| bad("a header is no UTF-8"))?;
        request
            .headers
            .push((header.name.to_ascii_lowercase(), value.trim().to_string()));
    }
    if let Some(authority) = authority {
        match request.headers.iter_mut().find(|(name, _)| name == "host") {
            Some((_, host)) => *host = authority.to_string(),
            None => request.headers.push(("host".into(), authority.to_string())),
        }
    }
    let is_newest = parsed.version == Some(1);
    request.knows_chunks = is_newest;
    request.is_old_http = !is_newest;
    let connections = request.headers.iter().filter(|(name, _)| name == "connection");
    let mut words = connections.flat_map(|(_, value)| value.split(','));
    let is_last = words.any(|word| word.trim().eq_ignore_ascii_case("close"));
    request.keep_alive = is_newest && !is_last;
    let framing = framing(&request)?;
    Ok(Some((head_bytes, request, framing)))
}

/// Host, and path with query, of a request target in absolute form, as proxies send it: the host in it counts, not the
/// header's (RFC 9112, section 3.2.2).
fn absolute_form(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    Some((authority, target))
}

/// How the body is delimited. Whatever two readers could read differently is refused.
fn framing(request: &Request) -> Result<Framing, NoRequest> {
    let all = |name: &str| -> Vec<&str> {
        let of_name = request.headers.iter().filter(|(known, _)| known == name);
        of_name.map(|(_, value)| value.as_str()).collect()
    };
    match (
        all("transfer-encoding").as_slice(),
        all("content-length").as_slice(),
    ) {
        ([], []) => Ok(Framing::Length(0)),
        ([encoding], []) if encoding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        ([], [length]) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            match length.parse() {
                Ok(length) if length <= limits::HTTP_BODY_BYTES => Ok(Framing::Length(length)),
                _ => Err(too_large()),
            }
        }
        _ => Err(bad("the request does not say clearly how long it is")),
    }
}

/// Gathers what is written into chunks.
struct Pieces<'a, T: Transport> {
    into: &'a mut T,
    gathered: Vec<u8>,
    is_chunked: bool,
}

impl<T: Transport> Pieces<'_, T> {
    fn send(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        if self.is_chunked {
            write!(self.into, "{:x}\r\n", self.gathered.len())?;
            self.gathered.extend_from_slice(b"\r\n");
        }
        self.into.write_all(&self.gathered)?;
        self.gathered.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.send()?;
        if self.is_chunked {
            self.into.write_all(b"0\r\n\r\n")
        } else {
            Ok(())
        }
    }
}

impl<T: Transport> Write for Pieces<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

impl<T: Transport> Outlet for Pieces<'_, T> {
    fn is_gone(&self) -> bool {
        self.into.is_gone()
    }
}

/// The peer of a socket has closed it.
pub fn has_hung_up(socket: impl AsFd) -> bool {
    poll_any(&[Interest::hung_up(socket.as_fd())], Some(0))
        .is_ok_and(|seen| seen[0].readable || seen[0].has_hung_up)
}

impl Transport for UnixStream {
    fn set_read_timeout_ms(&self, ms: u64) -> io::Result<()> {
        self.set_read_timeout(Some(Duration::from_millis(ms)))
    }

    fn set_write_timeout_ms(&self, ms: u64) -> io::Result<()> {
        self.set_write_timeout(Some(Duration::from_millis(ms)))
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        self.set_nonblocking(true)
    }

    fn finish(&mut self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }

    fn is_gone(&self) -> bool {
        has_hung_up(self)
    }

    fn second_handle(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

fn bad(message: &str) -> NoRequest {
    NoRequest::Bad(400, message.into())
}

fn too_large() -> NoRequest {
    let message = format!(
        "the request's body is larger than {} bytes",
        limits::HTTP_BODY_BYTES
    );
    NoRequest::Bad(413, message)
}

/// Adds the headers of every page of ours that a browser shows.
pub fn with_policy(response: Response) -> Response {
    response
        .with("Content-Security-Policy", POLICY.into())
        .with("Referrer-Policy", "same-origin".into())
}

/// What a status is called.
pub fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        303 => "See Other",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A peer that sends prepared pieces.
    #[derive(Default)]
    struct Script {
        pieces: VecDeque<Vec<u8>>,
        written: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Some(mut piece) = self.pieces.pop_front() else {
                return Ok(0);
            };
            let count = piece.len().min(into.len());
            into[..count].copy_from_slice(&piece[..count]);
            if count < piece.len() {
                self.pieces.push_front(piece.split_off(count));
            }
            Ok(count)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Transport for Script {
        fn set_read_timeout_ms(&self, _ms: u64) -> io::Result<()> {
            Ok(())
        }

        fn set_write_timeout_ms(&self, _ms: u64) -> io::Result<()> {
            Ok(())
        }

        fn set_nonblocking(&self) -> io::Result<()> {
            Ok(())
        }

        fn finish(&mut self) {}

        fn is_gone(&self) -> bool {
            false
        }

        fn second_handle(&self) -> io::Result<OwnedFd> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn wire(text: &str, piece_bytes: usize) -> Wire<Script> {
        let pieces = text.as_bytes().chunks(piece_bytes).map(<[u8]>::to_vec).collect();
        Wire::new(Script {
            pieces,
            ..Script::default()
        })
    }

    fn status_of(text: &str) -> u16 {
        match wire(text, usize::MAX).read_request() {
            Err(NoRequest::Bad(status, _)) => status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_follow_each_other_on_one_connection_however_they_are_cut() {
        let text = "POST /run?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nabcd\
                    POST /kill HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nT: v\r\n\r\n\
                    GET /status HTTP/1.0\r\nConnection: close\r\n\r\n";
        for piece_bytes in [1, 2, 3, 7, 50, 1_000] {
            let mut wire = wire(text, piece_bytes);
            let first = wire.read_request().unwrap();
            assert_eq!(
                (&*first.method, &*first.path, &*first.query),
                ("POST", "/run", "a=b")
            );
            assert_eq!(first.body, b"abcd");
            assert!(first.keep_alive);
            assert_eq!(wire.read_request().unwrap().body, b"abcd");
            let last = wire.read_request().unwrap();
            assert!(!last.keep_alive && !last.knows_chunks);
            assert_eq!(wire.read_request(), Err(NoRequest::Gone));
        }
    }

    #[test]
    fn a_connection_ends_when_any_of_its_headers_says_so() {
        let mut wire = wire(
            "GET / HTTP/1.1\r\nConnection: x\r\nConnection: y, Close\r\n\r\n",
            usize::MAX,
        );
        assert!(!wire.read_request().unwrap().keep_alive);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let post = |headers: &str| format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n");
        for headers in [
            "Content-Length: 4\r\nContent-Length: 4",
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Content-Length: +4",
            "Content-Length: ",
            "Content-Length: 4, 4",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
        ] {
            assert_eq!(status_of(&post(headers)), 400, "{headers}");
        }
        assert_eq!(status_of("\x16\x03\x01rubbish\r\n\r\n"), 400);
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_read() {
        let body = format!(
            "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
            limits::HTTP_BODY_BYTES + 1
        );
        assert_eq!(status_of(&body), 413);
        assert_eq!(
            status_of("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"),
            413
        );
        let chunk = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n";
        assert_eq!(status_of(chunk), 413);
        let head = format!(
            "GET / HTTP/1.1\r\nX: {}\r\n\r\n",
            "a".repeat(limits::HTTP_HEAD_BYTES)
        );
        assert_eq!(status_of(&head), 431);
    }

    #[test]
    fn a_streamed_body_is_chunked_or_ends_with_the_connection() {
        for (version, expected) in [(true, "\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), (false, "\r\n\r\nabc")] {
            let mut wire = wire("", 1);
            let request = Request {
                knows_chunks: version,
                ..Request::default()
            };
            let response = Response {
                status: 200,
                content_type: "text/plain",
                headers: Vec::new(),
                body: Body::Stream(Box::new(|into| into.write_all(b"abc"))),
            };
            wire.write_response(&request, response).unwrap();
            let text = String::from_utf8(wire.transport.written).unwrap();
            assert!(text.ends_with(expected), "{text:?}");
        }
    }
}
