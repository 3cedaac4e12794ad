//! One HTTP request with a deadline over everything, TLS verified; redirects are not followed.
//! Must not know: what is sent.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::clock::{self, Mono};
use crate::limits;
use crate::tls::{self, Tunnel};
use crate::url::HttpUrl;

/// Where systems keep the authorities that they believe.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is asked.
pub struct Request<'a> {
    pub method: &'a str,
    pub url: &'a HttpUrl,
    /// Besides `Host`, `Connection`, `User-Agent` and `Content-Length`.
    pub headers: Vec<(&'a str, String)>,
    pub body: &'a [u8],
    /// Certificates to believe; None: the system's.
    pub ca_file: Option<&'a Path>,
}

/// What was answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub retry_after_s: Option<u64>,
    /// Of an answer that is no success, the beginning of its body.
    pub text: String,
}

/// A socket whose every step ends at the deadline.
struct Wire {
    socket: TcpStream,
    deadline: Mono,
}

impl Wire {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.since_ms(clock::mono()) {
            0 => Err(io::ErrorKind::TimedOut.into()),
            left_ms => Ok(Some(Duration::from_millis(left_ms))),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer).map_err(in_time)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes).map_err(in_time)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

/// A connection, with TLS or without.
struct Connection {
    wire: Wire,
    tunnel: Option<Tunnel>,
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.read(&mut self.wire, buffer),
            None => self.wire.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.write(&mut self.wire, bytes),
            None => self.wire.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.flush(&mut self.wire),
            None => Ok(()),
        }
    }
}

/// Asks on a connection of its own. The error names nothing of the URL but its host.
pub fn send(request: &Request<'_>) -> Result<Reply, String> {
    let url = request.url;
    exchange(request).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => {
            let seconds = limits::NOTIFY_HTTP_MS / 1_000;
            format!("{} did not answer within {seconds} seconds", url.origin())
        }
        _ => format!("{}: {error}", url.origin()),
    })
}

fn exchange(request: &Request<'_>) -> io::Result<Reply> {
    let deadline = clock::mono().plus_ms(limits::NOTIFY_HTTP_MS);
    let mut connection = connect(request, deadline)?;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nUser-Agent: saltpeter/{}\r\n",
        request.method,
        request.url.path,
        request.url.authority(),
        env!("CARGO_PKG_VERSION")
    );
    for (name, value) in &request.headers {
        // a value from a file or a template must not begin another header
        let value: String = value
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if request.method != "GET" {
        head.push_str(&format!("Content-Length: {}\r\n", request.body.len()));
    }
    head.push_str("\r\n");
    connection.write_all(head.as_bytes())?;
    connection.write_all(request.body)?;
    connection.flush()?;
    read_reply(&mut connection)
}

fn connect(request: &Request<'_>, deadline: Mono) -> io::Result<Connection> {
    let HttpUrl {
        host, port, is_tls, ..
    } = request.url;
    let mut failure = io::Error::other("the name has no address");
    let mut socket = None;
    for address in (host.as_str(), *port).to_socket_addrs()? {
        let left_ms = deadline
            .since_ms(clock::mono())
            .clamp(1, limits::NOTIFY_CONNECT_MS);
        match TcpStream::connect_timeout(&address, Duration::from_millis(left_ms)) {
            Ok(connected) => {
                socket = Some(connected);
                break;
            }
            Err(error) => failure = error,
        }
    }
    let socket = socket.ok_or(failure)?;
    let mut wire = Wire { socket, deadline };
    if !is_tls {
        return Ok(Connection { wire, tunnel: None });
    }
    let system = || AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let authority = request.ca_file.or_else(system).ok_or_else(|| {
        io::Error::other(
            "this host has no file of trusted certificates; install ca-certificates or set ca_file",
        )
    })?;
    let config = tls::believing(authority, rustls::ALL_VERSIONS)
        .map_err(|why| io::Error::other(format!("the certificates in '{}': {why}", authority.display())))?;
    let name = ServerName::try_from(host.clone())
        .map_err(|_| io::Error::other("no certificate can be valid for such a name"))?;
    let side = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut tunnel = Tunnel::new(side);
    // the wire reports its deadline as an error, so it never says "not yet"
    tunnel.shake_hands(&mut wire)?;
    Ok(Connection {
        wire,
        tunnel: Some(tunnel),
    })
}

fn read_reply(connection: &mut Connection) -> io::Result<Reply> {
    loop {
        let head = read_head(connection)?;
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(&head).map_err(io::Error::other)?;
        let status = parsed.code.unwrap_or(0);
        if (100..200).contains(&status) {
            continue;
        }
        let header = |name: &str| {
            let mut headers = parsed.headers.iter();
            let found = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok()?.trim().parse::<u64>().ok()
        };
        let text = if (200..300).contains(&status) {
            String::new()
        } else {
            let length = header("content-length").unwrap_or(u64::MAX);
            beginning(connection, length.min(limits::NOTIFY_REPLY_BYTES))
        };
        return Ok(Reply {
            status,
            retry_after_s: header("retry-after"),
            text,
        });
    }
}

fn read_head(connection: &mut Connection) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() > limits::HTTP_HEAD_BYTES || connection.read(&mut byte)? == 0 {
            let why = "the answer is not HTTP";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        head.push(byte[0]);
    }
    Ok(head)
}

/// As much as comes soon: it only says why the status is what it is.
fn beginning(connection: &mut Connection, most: u64) -> String {
    let soon = clock::mono().plus_ms(limits::NOTIFY_REPLY_MS);
    connection.wire.deadline = connection.wire.deadline.min(soon);
    let mut text = Vec::new();
    let _ = connection.take(most).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
