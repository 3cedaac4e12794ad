//! The daemon's API as the command line reaches it: through `control.sock` where it may, else over TCP.
//! Must not know: what is asked.

use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use serde_json::Value;

use super::Arguments;
use crate::config::{self, Loader, Settings};
use crate::limits;
use crate::tls::{self, Tunnel};

/// The authorities that Debian and its kin keep.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Exit codes of verbs that ask the daemon (sysexits.h has the larger ones).
pub const UNREACHABLE: u8 = 69;
pub const NOT_ALLOWED: u8 = 77;

/// Where the daemon is.
pub struct Client {
    ways: Vec<Way>,
    token: Option<String>,
    /// For `https://`: whom to believe.
    trust: Option<Arc<ClientConfig>>,
    /// What to do when it cannot be reached.
    hint: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Unix(PathBuf),
    Tcp { host: String, port: u16, is_tls: bool },
}

/// Why there is no answer that helps.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

/// An answer, its body still to be read.
pub struct Answer {
    pub status: u16,
    pub body: Box<dyn Read + Send>,
}

/// What is asked.
pub struct Question<'a> {
    pub method: &'a str,
    /// With its query, encoded.
    pub path: &'a str,
    pub body: Option<Value>,
    /// The answer may take as long as it likes.
    pub is_patient: bool,
    /// The first byte wanted of the answer's body.
    pub from: u64,
}

impl Client {
    /// `--url` or SALTPETER_URL; else the control socket of the configuration's `state_dir`, and where that cannot be
    /// used its API port on this host.
    pub fn new(arguments: &Arguments) -> Result<Client, Failure> {
        let token = std::env::var("SALTPETER_TOKEN")
            .ok()
            .filter(|token| !token.is_empty());
        let url = arguments.url.clone();
        let url = url.or_else(|| std::env::var("SALTPETER_URL").ok().filter(|url| !url.is_empty()));
        if let Some(url) = url {
            let way = way_of_url(&url)?;
            let trust = match way {
                Way::Tcp { is_tls: true, .. } => Some(trust(arguments)?),
                _ => None,
            };
            let ways = vec![way];
            let hint = "is it running there?".into();
            return Ok(Client {
                ways,
                token,
                trust,
                hint,
            });
        }
        Ok(Client {
            ways: ways_of(&settings(Loader::new(arguments.config_dir()))),
            token,
            trust: None,
            hint: hint(arguments.config_dir.as_deref()),
        })
    }

    /// Asks, and reads the answer as JSON. A refusal is a failure with the daemon's words.
    pub fn json(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let mut answer = self.ask(&Question {
            method,
            path,
            body,
            is_patient: false,
            from: 0,
        })?;
        let mut text = String::new();
        answer
            .body
            .read_to_string(&mut text)
            .map_err(|error| unreachable(format!("the daemon's answer broke off: {error}")))?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        match answer.status {
            200..300 => Ok(value),
            status => Err(refusal(status, &value)),
        }
    }

    /// The same for what is only looked at.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json("GET", path, None)
    }

    /// A stream of bytes, from the byte `from`.
    pub fn stream(&self, path: &str, from: u64) -> Result<Box<dyn Read + Send>, Failure> {
        let mut answer = self.ask(&Question {
            method: "GET",
            path,
            body: None,
            is_patient: true,
            from,
        })?;
        if answer.status < 300 {
            return Ok(answer.body);
        }
        let mut text = String::new();
        let _ = answer.body.read_to_string(&mut text);
        Err(refusal(
            answer.status,
            &serde_json::from_str(&text).unwrap_or_default(),
        ))
    }

    /// Asks on a connection of its own.
    pub fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        let mut failures = Vec::new();
        for way in &self.ways {
            match way.connect(question.is_patient, self.trust.as_ref()) {
                Ok(stream) => {
                    return self
                        .exchange(way, stream, question)
                        .map_err(|error| unreachable(format!("asking {way}: {error}")));
                }
                Err(error) => failures.push(format!("{way}: {error}")),
            }
        }
        Err(unreachable(format!(
            "cannot reach the daemon ({}); {}",
            failures.join("; "),
            self.hint
        )))
    }

    fn exchange(&self, way: &Way, mut stream: Box<dyn Stream>, question: &Question) -> io::Result<Answer> {
        let body = question.body.as_ref().map(Value::to_string).unwrap_or_default();
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            question.method,
            question.path,
            way.host()
        );
        if let Some(token) = self.token.as_ref().filter(|_| !matches!(way, Way::Unix(_))) {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if question.from > 0 {
            head.push_str(&format!("Range: bytes={}-\r\n", question.from));
        }
        if question.method != "GET" {
            head.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            ));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        read_answer(stream)
    }
}

/// What to do when the daemon of that configuration directory cannot be reached; None: none was named.
fn hint(config_dir: Option<&Path>) -> String {
    match config_dir {
        Some(dir) => format!("is a daemon running with '-c {}'?", dir.display()),
        None => "is it running? if it was started with '-c DIR', give the same '-c DIR' here; for a daemon on another host \
                 give --url"
            .into(),
    }
}

/// Where the daemon with these settings is, on this host.
fn ways_of(settings: &Settings) -> Vec<Way> {
    let near = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let bound = settings.api_ws_bind_addr;
    // without tokens it is on loopback all the same
    let elsewhere = Some(bound).filter(|bound| *bound != near && !bound.is_unspecified());
    let tcp = elsewhere.into_iter().chain([near]).map(|address| Way::Tcp {
        host: match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        },
        port: settings.api_ws_port,
        is_tls: false,
    });
    let control = Way::Unix(settings.state_dir.join("control.sock"));
    [control].into_iter().chain(tcp).collect()
}

/// As the daemon has them, whose files may have become bad.
fn settings(mut loader: Loader) -> Arc<Settings> {
    if loader.load().is_ok() {
        loader.set_last_good(Some(config::last_good_dir(&loader.state_dir())));
    }
    loader
        .load()
        .map(|config| config.settings.clone())
        .unwrap_or_default()
}

impl Failure {
    /// Says why, and with which code to end.
    pub fn tell(self) -> ExitCode {
        eprintln!("saltpeter: {}", super::table::plain(&self.message));
        ExitCode::from(self.code)
    }
}

/// An answer that says that there is no job of that name, told to somebody who may have meant a run.
pub fn neither(job: &Failure) -> Failure {
    Failure {
        code: 1,
        message: format!("{} (nor such a run)", job.message),
    }
}

/// One part of a path or query, encoded.
pub use crate::url::percent_encode as encoded;

trait Stream: Read + Write + Send {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}
impl Stream for Encrypted {}

/// A blocking socket and the TLS on it.
struct Encrypted {
    socket: TcpStream,
    tunnel: Tunnel,
}

impl Encrypted {
    /// The daemon is who it should be, or nothing is said to it.
    fn begin(mut socket: TcpStream, host: &str, trust: Arc<ClientConfig>) -> io::Result<Encrypted> {
        let name = ServerName::try_from(host.to_string())
            .map_err(|_| io::Error::other("no certificate can be valid for such a name"))?;
        let side = ClientConnection::new(trust, name).map_err(io::Error::other)?;
        let mut tunnel = Tunnel::new(side);
        let patience = Some(Duration::from_millis(limits::CLI_ANSWER_MS));
        socket.set_read_timeout(patience)?;
        if tunnel.shake_hands(&mut socket).map_err(plainly)? {
            Ok(Encrypted { socket, tunnel })
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

/// What `openssl req -x509` makes by itself is refused with a message that does not help.
fn plainly(error: io::Error) -> io::Error {
    match error.to_string().as_str() {
        "CaUsedAsEndEntity" => io::Error::new(
            error.kind(),
            "its certificate is an authority's (CA:TRUE); make it with '-addext basicConstraints=critical,CA:FALSE', or \
             have the authority sign another",
        ),
        text if text.contains("UnknownIssuer") => io::Error::new(
            error.kind(),
            "its certificate is signed by an unknown authority; name the one to trust with --cacert FILE",
        ),
        _ => error,
    }
}

impl Read for Encrypted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tunnel.read(&mut self.socket, buffer)
    }
}

impl Write for Encrypted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tunnel.write(&mut self.socket, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tunnel.flush(&mut self.socket)
    }
}

impl Way {
    fn connect(&self, is_patient: bool, trust: Option<&Arc<ClientConfig>>) -> io::Result<Box<dyn Stream>> {
        let patience = (!is_patient).then_some(Duration::from_millis(limits::CLI_ANSWER_MS));
        match self {
            Way::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(patience)?;
                Ok(Box::new(stream))
            }
            Way::Tcp { host, port, .. } => {
                let host = host.trim_matches(['[', ']']);
                let stream = connect(host, *port)?;
                stream.set_write_timeout(Some(Duration::from_millis(limits::CLI_ANSWER_MS)))?;
                if let Some(trust) = trust {
                    let stream = Encrypted::begin(stream, host, trust.clone())?;
                    stream.socket.set_read_timeout(patience)?;
                    return Ok(Box::new(stream));
                }
                stream.set_read_timeout(patience)?;
                Ok(Box::new(stream))
            }
        }
    }

    fn host(&self) -> String {
        match self {
            Way::Unix(_) => "localhost".into(),
            Way::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Way::Unix(path) => write!(f, "{}", path.display()),
            Way::Tcp { is_tls: false, .. } => write!(f, "http://{}", self.host()),
            Way::Tcp { is_tls: true, .. } => write!(f, "https://{}", self.host()),
        }
    }
}

/// The first address of that name that answers.
fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let patience = Duration::from_millis(limits::CLI_CONNECT_MS);
    let mut failure = io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn way_of_url(url: &str) -> Result<Way, Failure> {
    let wrong = |why: &str| Failure {
        code: super::USAGE,
        message: format!(
            "'{url}' {why}; write http://HOST:PORT, https://HOST:PORT or unix:/PATH/control.sock"
        ),
    };
    if let Some(path) = url.strip_prefix("unix:") {
        return Ok(Way::Unix(path.into()));
    }
    let (is_tls, authority) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(authority), _) => (true, authority),
        (None, Some(authority)) => (false, authority),
        (None, None) => return Err(wrong("is no URL of the API")),
    };
    let authority = authority.trim_end_matches('/');
    if authority.is_empty() || authority.contains(['/', '@', ' ', '\r', '\n']) {
        return Err(wrong("is no URL of the API"));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| wrong("has a bad port"))?)
        }
        _ if is_tls => (authority, 443),
        _ => (authority, 80),
    };
    Ok(Way::Tcp {
        host: host.into(),
        port,
        is_tls,
    })
}

/// Whom `https://` believes: `--cacert`, SALTPETER_CACERT, or the authorities that this host knows.
fn trust(arguments: &Arguments) -> Result<Arc<ClientConfig>, Failure> {
    let named = arguments.cacert.clone().or_else(|| {
        let path = std::env::var_os("SALTPETER_CACERT");
        path.filter(|path| !path.is_empty()).map(PathBuf::from)
    });
    let usage = |message: String| Failure {
        code: super::USAGE,
        message,
    };
    let path = named
        .or_else(|| Some(PathBuf::from(SYSTEM_AUTHORITIES)).filter(|path| path.exists()))
        .ok_or_else(|| {
            let needed =
                "https:// needs a file of certificates to believe: --cacert FILE, or SALTPETER_CACERT";
            usage(format!("{needed} (there is no {SYSTEM_AUTHORITIES} here)"))
        })?;
    let config = tls::believing(&path, tls::VERSIONS);
    config
        .map(Arc::new)
        .map_err(|why| usage(format!("the certificates in '{}': {why}", path.display())))
}

fn read_answer(stream: Box<dyn Stream>) -> io::Result<Answer> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() > limits::HTTP_HEAD_BYTES || reader.read(&mut byte)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is not HTTP",
            ));
        }
        head.push(byte[0]);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    parsed.parse(&head).map_err(io::Error::other)?;
    let header = |name: &str| {
        let found = parsed
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let status = parsed.code.unwrap_or(500);
    let length = header("content-length").and_then(|length| length.trim().parse().ok());
    let is_chunked = header("transfer-encoding").is_some_and(|encoding| encoding.contains("chunked"));
    let body: Box<dyn Read + Send> = match (is_chunked, length) {
        (true, _) => Box::new(Chunks {
            from: reader,
            left: 0,
        }),
        (false, Some(left)) => Box::new(Exactly { from: reader, left }),
        (false, None) => Box::new(reader),
    };
    Ok(Answer { status, body })
}

/// Reads a body of that length: less is an error.
struct Exactly {
    from: BufReader<Box<dyn Stream>>,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.by_ref().take(self.left).read(into)?;
        if count == 0 && self.left > 0 && !into.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Reads a chunked body.
struct Chunks {
    from: BufReader<Box<dyn Stream>>,
    left: u64,
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.left = self.next_size()?;
        }
        if self.left == 0 || into.is_empty() {
            return Ok(0);
        }
        let wanted = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.from.read(&mut into[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        if self.left == 0 {
            self.from.read_exact(&mut [0; 2])?;
        }
        Ok(count)
    }
}

impl Chunks {
    fn next_size(&mut self) -> io::Result<u64> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            if line.len() > 32 || self.from.read(&mut byte)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&line);
        u64::from_str_radix(text.trim(), 16).map_err(io::Error::other)
    }
}

/// The daemon did not answer, or not to the end.
pub fn unreachable(message: String) -> Failure {
    Failure {
        code: UNREACHABLE,
        message,
    }
}

fn refusal(status: u16, value: &Value) -> Failure {
    let words = value["detail"].as_str().or(value["message"].as_str());
    let code = match status {
        401 | 403 | 429 => NOT_ALLOWED,
        502..=504 => UNREACHABLE,
        _ => 1,
    };
    let mut message = words.map_or_else(|| format!("the daemon answered {status}"), str::to_string);
    if status == 401 {
        message.push_str("; the command line takes it from SALTPETER_TOKEN");
    }
    Failure { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_looked_for_where_it_is_bound_and_on_loopback() {
        let at = |address: &str| {
            let settings = Settings {
                api_ws_bind_addr: address.parse().unwrap(),
                ..Settings::default()
            };
            let ways = ways_of(&settings);
            let tcp = ways[1..].iter().map(Way::to_string);
            tcp.collect::<Vec<_>>()
        };
        let near = "http://127.0.0.1:8888";
        for bound in ["127.0.0.1", "0.0.0.0", "::"] {
            assert_eq!(at(bound), [near], "{bound}");
        }
        assert_eq!(at("::1"), ["http://[::1]:8888", near]);
        assert_eq!(at("10.0.0.5"), ["http://10.0.0.5:8888", near]);
    }

    #[test]
    fn without_a_directory_the_user_is_told_how_to_reach_a_daemon_that_was_started_with_one() {
        assert!(hint(None).contains("give the same '-c DIR'"));
        assert_eq!(
            hint(Some(Path::new("conf"))),
            "is a daemon running with '-c conf'?"
        );
    }

    #[test]
    fn urls_are_read_and_bad_ones_refused() {
        let way = |host: &str, port, is_tls| {
            let host = host.into();
            Some(Way::Tcp { host, port, is_tls })
        };
        let tcp = |host, port| way(host, port, false);
        for (url, wanted) in [
            ("http://cron:8888", tcp("cron", 8888)),
            ("http://cron:8888/", tcp("cron", 8888)),
            ("http://cron", tcp("cron", 80)),
            ("http://[::1]:1", tcp("[::1]", 1)),
            ("http://[::1]", tcp("[::1]", 80)),
            ("unix:/run/s.sock", Some(Way::Unix("/run/s.sock".into()))),
            ("https://cron", way("cron", 443, true)),
            ("https://[::1]:8888/", way("[::1]", 8888, true)),
            ("https://", None),
            ("cron:8888", None),
            ("http://", None),
            ("http://a/b", None),
            ("http://a:b", None),
            ("http://a\r\nX: y", None),
        ] {
            assert_eq!(way_of_url(url).ok(), wanted, "{url}");
        }
    }
}
