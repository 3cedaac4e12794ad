//! The deployed UI as it was measured: it clears a machine's text when a `status` names the machine that the one before
//! did not, drops a chunk that begins below its own count whole, appends everything else, and acks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::time::Duration;

use saltpeter::clock::{self, Mono};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Error, Message, WebSocket};

use crate::support::PATIENCE_MS;
use crate::support::daemon::{Daemon, LONG_MS};

/// Largest frame of output that the UI is promised.
const CHUNK_FRAME_BYTES: usize = 256 << 10;

#[derive(Default, Clone, Debug)]
pub struct Text {
    pub text: String,
    pub count: u64,
    pub is_complete: bool,
    /// Chunks that were dropped.
    pub dropped: usize,
}

pub struct Ui {
    pub socket: WebSocket<TcpStream>,
    pub acks: bool,
    /// Types of all frames so far, with the time.
    pub seen: Vec<(String, Mono)>,
    pub config: Value,
    pub status: Value,
    pub details: BTreeMap<String, Value>,
    pub timelines: Vec<Value>,
    pub errors: Vec<Value>,
    texts: BTreeMap<(String, String), Text>,
    named: BTreeSet<(String, String)>,
}

/// Connects with these headers; the refusal's status.
pub fn try_connect(daemon: &Daemon, path: &str, headers: &[(&str, &str)]) -> Result<Ui, u16> {
    let stream = TcpStream::connect(("127.0.0.1", daemon.api_port())).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(PATIENCE_MS)))
        .unwrap();
    stream.set_nodelay(true).unwrap();
    let url = format!("ws://127.0.0.1:{}{path}", daemon.api_port());
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        let name = tungstenite::http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(Ui::over(socket)),
        Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

impl Ui {
    pub fn connect(daemon: &Daemon) -> Ui {
        try_connect(daemon, "/ws", &[]).unwrap_or_else(|status| panic!("refused with {status}"))
    }

    /// Connected, and subscribed to that job.
    pub fn following(daemon: &Daemon, job: &str) -> Ui {
        let mut ui = Ui::connect(daemon);
        ui.say(json!({"subscribe": [job]}));
        ui.until("details", |ui| ui.details.contains_key(job));
        ui
    }

    fn over(socket: WebSocket<TcpStream>) -> Ui {
        Ui {
            socket,
            acks: true,
            seen: Vec::new(),
            config: Value::Null,
            status: Value::Null,
            details: BTreeMap::new(),
            timelines: Vec::new(),
            errors: Vec::new(),
            texts: BTreeMap::new(),
            named: BTreeSet::new(),
        }
    }

    pub fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).unwrap();
    }

    pub fn text(&self, job: &str, machine: &str) -> Text {
        let key = (job.to_string(), machine.to_string());
        self.texts.get(&key).cloned().unwrap_or_default()
    }

    pub fn is_running(&self, job: &str) -> bool {
        let mut runs = self.status["running"]
            .as_object()
            .into_iter()
            .flat_map(|runs| runs.values());
        runs.any(|run| run["name"] == job)
    }

    /// Reads frames until it is true.
    pub fn until(&mut self, what: &str, mut is_true: impl FnMut(&Ui) -> bool) {
        let ends_at = clock::mono().plus_ms(LONG_MS);
        while !is_true(self) {
            assert!(clock::mono() < ends_at, "waited in vain for {what}");
            self.hear();
        }
    }

    /// Reads frames until that run has ended, and its text is whole.
    pub fn until_shown(&mut self, daemon: &Daemon, instance: &str, machine: &str) -> Text {
        let job = instance.split_once('_').unwrap().0;
        let whole = String::from_utf8_lossy(&daemon.output(instance, machine)).into_owned();
        self.until(&format!("the whole output of {instance}"), |ui| {
            let text = ui.text(job, machine);
            text.text == whole && text.is_complete && !ui.is_running(job)
        });
        self.text(job, machine)
    }

    /// Reads one frame.
    pub fn hear(&mut self) {
        let text = match self.socket.read() {
            Ok(Message::Text(text)) => text,
            Ok(_) => return,
            Err(error) => panic!("{error}; so far {:?}", self.seen.last()),
        };
        let frame: Value = serde_json::from_str(&text).unwrap();
        let kind = frame["type"].as_str().unwrap().to_string();
        assert!(
            kind == "config" || !self.config.is_null(),
            "{kind} before config: the UI reloads for ever"
        );
        assert!(
            kind == "timeline" || kind == "error" || !has_null(&frame),
            "the UI goes blank on null: {frame}"
        );
        self.seen.push((kind.clone(), clock::mono()));
        match kind.as_str() {
            "config" => self.config = frame["config"].clone(),
            "status" => self.hear_status(frame),
            "output_chunk" => {
                assert!(text.len() <= CHUNK_FRAME_BYTES, "a frame of {} bytes", text.len());
                self.hear_chunk(&frame);
            }
            "details" => {
                let job = frame["cron"].as_str().unwrap().to_string();
                self.details.insert(job, frame["data"].clone());
            }
            "timeline" => self.timelines.push(frame["timeline"].clone()),
            "error" => self.errors.push(frame),
            other => panic!("{other}"),
        }
    }

    fn hear_status(&mut self, frame: Value) {
        let mut named = BTreeSet::new();
        for run in frame["running"].as_object().unwrap().values() {
            assert!(run["started"].as_str().unwrap().contains('T'));
            assert!(run["stop_signal"].is_boolean());
            for machine in run["machines"].as_array().unwrap() {
                let job = run["name"].as_str().unwrap().to_string();
                named.insert((job, machine.as_str().unwrap().to_string()));
            }
        }
        for key in named.difference(&self.named) {
            self.texts.insert(key.clone(), Text::default());
        }
        self.named = named;
        self.status = frame;
    }

    fn hear_chunk(&mut self, frame: &Value) {
        let field = |name: &str| frame[name].as_str().unwrap().to_string();
        let (job, machine, chunk) = (field("cron"), field("machine"), field("chunk"));
        let position = frame["position"].as_u64().unwrap();
        let units = chunk.encode_utf16().count() as u64;
        assert!(frame["total_length"].as_u64().unwrap() >= position + units);
        let text = self.texts.entry((job.clone(), machine.clone())).or_default();
        assert!(position <= text.count, "a gap: {position} after {}", text.count);
        if position < text.count {
            text.dropped += 1;
        } else {
            text.text.push_str(&chunk);
            text.count += units;
            text.is_complete = frame["is_complete"].as_bool().unwrap();
        }
        let ack = json!({"ack": {"cron": job, "machine": machine, "position": text.count}});
        if self.acks {
            self.say(ack);
        }
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(map) => map.values().any(has_null),
        _ => false,
    }
}
