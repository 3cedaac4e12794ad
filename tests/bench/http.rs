//! A client of the API: one keep-alive connection, responses read as a whole or passed on in pieces.
//! Must not know: what the routes mean.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::timing;

/// A connection that was not used for this long is opened again.
const IDLE_MS: f64 = 10_000.0;

/// A connection to the API port.
pub struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
    /// When it was last used: servers close idle connections.
    used_ns: u64,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client {
            address,
            stream: None,
            used_ns: 0,
        }
    }

    /// The status and JSON of the response (null if it is not JSON).
    pub fn get(&mut self, path: &str) -> io::Result<(u16, Value)> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address))
    }

    /// Like [`Client::get`], with a JSON body.
    pub fn post(&mut self, path: &str, body: &Value) -> io::Result<(u16, Value)> {
        let body = body.to_string();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        ))
    }

    /// Passes the body on in pieces.
    pub fn download(&mut self, path: &str, mut piece: impl FnMut(&[u8])) -> io::Result<u16> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.exchange(&request, &mut piece)
    }

    fn ask(&mut self, request: &str) -> io::Result<(u16, Value)> {
        let mut body = Vec::new();
        let status = self.exchange(request, &mut |piece| body.extend_from_slice(piece))?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    fn exchange(&mut self, request: &str, piece: &mut dyn FnMut(&[u8])) -> io::Result<u16> {
        let is_fresh = timing::ms_since(self.used_ns) < IDLE_MS;
        let mut stream = match self.stream.take().filter(|_| is_fresh) {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(120)))?;
                BufReader::with_capacity(1 << 20, stream)
            }
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let head = read_head(&mut stream)?;
        match (head.is_chunked, head.length) {
            (true, _) => read_chunks(&mut stream, piece)?,
            (false, Some(length)) => read_exactly(&mut stream, length, piece)?,
            (false, None) => read_exactly(&mut stream, u64::MAX, piece)?,
        }
        self.used_ns = timing::mono_ns();
        if !head.closes {
            self.stream = Some(stream);
        }
        Ok(head.status)
    }
}

struct Head {
    status: u16,
    length: Option<u64>,
    is_chunked: bool,
    closes: bool,
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Head> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|text| text.parse().ok());
    let mut head = Head {
        status: status.ok_or_else(|| io::Error::other(format!("no HTTP answer: '{line}'")))?,
        length: None,
        is_chunked: false,
        closes: false,
    };
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            return Ok(head);
        };
        let value = value.trim().to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.parse().ok(),
            "transfer-encoding" => head.is_chunked = value == "chunked",
            "connection" => head.closes = value == "close",
            _ => {}
        }
    }
}

fn read_exactly(stream: &mut impl BufRead, length: u64, piece: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut body = stream.take(length);
    loop {
        let bytes = body.fill_buf()?;
        let count = bytes.len();
        if count == 0 {
            return Ok(());
        }
        piece(bytes);
        body.consume(count);
    }
}

fn read_chunks(stream: &mut impl BufRead, piece: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16)
            .map_err(|_| io::Error::other(format!("no chunk size: '{}'", line.trim())))?;
        read_exactly(stream, size, piece)?;
        line.clear();
        stream.read_line(&mut line)?;
        if size == 0 {
            return Ok(());
        }
    }
}
