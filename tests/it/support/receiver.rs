//! A receiver of webhooks, which takes them or treats them as badly as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::{pause, until};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What it answers: head and body as they go over the line. None: nothing, ever.
type Answers = Arc<Mutex<Option<String>>>;

/// A byte now and then, without end.
pub const DRIP: &str = "drip";

/// It listens until the test's end.
pub struct Receiver {
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    answers: Answers,
}

pub const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

impl Receiver {
    pub fn new() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Receiver {
            port: listener.local_addr().unwrap().port(),
            received: Arc::default(),
            answers: Arc::new(Mutex::new(Some(OK.into()))),
        };
        let (received, answers) = (receiver.received.clone(), receiver.answers.clone());
        saltpeter::thread::spawn("receiver", 1 << 20, move || {
            for stream in listener.incoming().flatten() {
                let (received, answers) = (received.clone(), answers.clone());
                let serve = move || drop(serve(stream, &received, &answers));
                saltpeter::thread::spawn("receiver", 1 << 20, serve).unwrap();
            }
        })
        .unwrap();
        receiver
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// From now on; None: it hangs.
    pub fn answer(&self, answer: Option<&str>) {
        *self.answers.lock() = answer.map(str::to_string);
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    /// Waits until there are so many; all of them.
    pub fn wait(&self, count: usize) -> Vec<Received> {
        until(&format!("{count} requests"), || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
    }
}

fn serve(stream: TcpStream, received: &Mutex<Vec<Received>>, answers: &Answers) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Received {
        method: method.into(),
        path: path.into(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        request
            .headers
            .push((name.to_ascii_lowercase(), value.to_string()));
    }
    let length = request.header("content-length").parse().unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    received.lock().push(request);
    let answer = answers.lock().clone();
    match answer {
        Some(answer) if answer == DRIP => loop {
            (&stream).write_all(b"H")?;
            pause(500);
        },
        Some(answer) => (&stream).write_all(answer.as_bytes()),
        // until the other side gives up
        None => reader.read(&mut [0]).map(drop),
    }
}
