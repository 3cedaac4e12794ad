//! The HTTP request that turns a socket into a WebSocket: read its head, answer it.
//! Must not know: the client, what it connects for.

use data_encoding::BASE64;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::WebSocketConfig;

use crate::limits;

/// Most header lines of a request.
pub const MAX_HEADERS: usize = 64;

/// A request that may become a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub struct UpgradeRequest {
    /// Path and query as sent.
    pub target: String,
    /// The answer that accepts it.
    pub answer: String,
    /// Bytes of the request; what follows belongs to the WebSocket.
    pub head_bytes: usize,
}

/// An HTTP status and the reason that its body gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub phrase: &'static str,
    pub reason: &'static str,
}

/// The head is no HTTP at all.
const NO_HTTP: Refusal = bad_request("this port speaks WebSocket: the request is not HTTP/1.1");
const NO_UPGRADE: Refusal = Refusal {
    status: 426,
    phrase: "Upgrade Required",
    reason: "this port speaks WebSocket",
};
const TOO_LONG: Refusal = Refusal {
    status: 431,
    phrase: "Request Header Fields Too Large",
    reason: "the request's head is too long",
};

/// Above the connection cap.
pub const TOO_MANY: Refusal = Refusal {
    status: 503,
    phrase: "Service Unavailable",
    reason: "too many connections; raise the daemon's limits of descriptors and threads",
};

impl Refusal {
    /// The whole response.
    pub fn response(&self) -> String {
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}\n",
            self.status,
            self.phrase,
            self.reason.len() + 1,
            self.reason
        )
    }
}

/// Reads a head as far as it has come. None: there is more to come.
pub fn read_request(bytes: &[u8]) -> Result<Option<UpgradeRequest>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() >= limits::HTTP_HEAD_BYTES => return Err(TOO_LONG),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LONG),
        Err(_) => return Err(NO_HTTP),
    };
    let find = |name: &str| {
        request
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .and_then(|header| std::str::from_utf8(header.value).ok())
    };
    if request.method != Some("GET") || request.version != Some(1) {
        return Err(NO_UPGRADE);
    }
    Ok(Some(UpgradeRequest {
        target: request.path.unwrap_or("/").to_string(),
        answer: accept(find)?,
        head_bytes,
    }))
}

/// The answer that turns a request with these headers into a WebSocket.
pub fn accept<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Result<String, Refusal> {
    let has_word = |name: &str, word: &str| {
        find(name).is_some_and(|value| {
            value
                .split(',')
                .any(|part| part.trim().eq_ignore_ascii_case(word))
        })
    };
    if !has_word("upgrade", "websocket") || !has_word("connection", "upgrade") {
        return Err(NO_UPGRADE);
    }
    if find("sec-websocket-version").map(str::trim) != Some("13") {
        return Err(bad_request("only version 13 of WebSocket is spoken here"));
    }
    let key = find("sec-websocket-key").unwrap_or_default().trim();
    if BASE64
        .decode(key.as_bytes())
        .map(|bytes| bytes.len())
        .unwrap_or_default()
        != 16
    {
        return Err(bad_request("Sec-WebSocket-Key is missing or malformed"));
    }
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    ))
}

/// How our WebSockets are bounded: memory for each connection, and what a peer may make us hold.
pub fn socket_config(frame_bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(limits::SOCKET_READ_BUFFER_BYTES)
        .write_buffer_size(limits::SOCKET_READ_BUFFER_BYTES)
        .max_write_buffer_size(limits::SOCKET_WRITE_BUFFER_BYTES)
        .max_message_size(Some(frame_bytes))
        .max_frame_size(Some(frame_bytes))
}

const fn bad_request(reason: &'static str) -> Refusal {
    Refusal {
        status: 400,
        phrase: "Bad Request",
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /any?token=t HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[test]
    fn a_good_request_is_accepted_with_the_key_of_the_rfc() {
        let request = read_request(GOOD.as_bytes()).unwrap().unwrap();
        assert_eq!(request.target, "/any?token=t");
        assert!(request.answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(request.head_bytes, GOOD.len());
    }

    #[test]
    fn a_request_that_comes_in_pieces_is_waited_for() {
        for cut in 0..GOOD.len() {
            assert_eq!(read_request(&GOOD.as_bytes()[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn what_is_no_websocket_is_refused_with_a_fitting_status() {
        let plain = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(read_request(plain.as_bytes()).unwrap_err().status, 426);
        assert_eq!(read_request(b"\x16\x03\x01\x02\x00\x01").unwrap_err().status, 400);
        let old = GOOD.replace("Version: 13", "Version: 8");
        assert_eq!(read_request(old.as_bytes()).unwrap_err().status, 400);
        let no_key = GOOD.replace("dGhlIHNhbXBsZSBub25jZQ==", "short");
        assert_eq!(read_request(no_key.as_bytes()).unwrap_err().status, 400);
        let endless = format!("GET /{} HTTP/1.1\r\n", "a".repeat(limits::HTTP_HEAD_BYTES));
        assert_eq!(read_request(endless.as_bytes()).unwrap_err().status, 431);
    }
}
