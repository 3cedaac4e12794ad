//! A wrapper written by hand, as the Python one speaks: frames are JSON objects, nothing is done by itself.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::PATIENCE_MS;

/// Who a wrapper says it is, and where it was told to connect.
#[derive(Clone, Debug)]
pub struct Orders {
    pub url: String,
    pub job: String,
    pub instance: String,
    pub machine: String,
}

/// One connection of such a wrapper.
pub struct Peer {
    pub socket: WebSocket<TcpStream>,
    orders: Orders,
}

impl Orders {
    /// Another machine of the same run.
    pub fn of_machine(&self, machine: &str) -> Orders {
        Orders {
            machine: machine.into(),
            ..self.clone()
        }
    }

    /// The same with another token.
    pub fn with_token(&self, token: &str) -> Orders {
        let (url, _) = self.url.split_once("token=").unwrap();
        Orders {
            url: format!("{url}token={token}"),
            ..self.clone()
        }
    }

    pub fn port(&self) -> u16 {
        let rest = self.url.strip_prefix("ws://127.0.0.1:").unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    }

    pub fn connect(&self) -> Peer {
        let stream = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        let patience = Some(Duration::from_millis(PATIENCE_MS));
        stream.set_read_timeout(patience).unwrap();
        stream.set_write_timeout(patience).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer {
            socket: tungstenite::client(&self.url, stream).unwrap().0,
            orders: self.clone(),
        }
    }

    /// Connected, and started.
    pub fn start(&self) -> Peer {
        let mut peer = self.connect();
        peer.greet();
        peer
    }
}

impl Peer {
    /// Sends a frame of this type with these fields beside those that every frame has.
    pub fn say(&mut self, kind: &str, fields: Value) {
        let frame = self.frame(kind, fields);
        self.say_text(&frame.to_string());
    }

    pub fn frame(&self, kind: &str, fields: Value) -> Value {
        let mut frame = json!({
            "type": kind,
            "job_name": self.orders.job,
            "job_instance": self.orders.instance,
            "machine": self.orders.machine,
            "timestamp": "2026-11-21T10:00:00.123456+00:00",
        });
        for (name, value) in fields.as_object().into_iter().flatten() {
            frame[name] = value.clone();
        }
        frame
    }

    pub fn say_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Queued only; goes out with the next `say`.
    pub fn queue(&mut self, kind: &str, fields: Value) {
        let frame = self.frame(kind, fields);
        self.socket.write(Message::text(frame.to_string())).unwrap();
    }

    /// The daemon's next frame, its time stamp looked at and taken out.
    pub fn hear(&mut self) -> Value {
        match self.socket.read() {
            Ok(Message::Text(text)) => {
                let mut frame: Value = serde_json::from_str(&text).unwrap();
                let stamp = frame.as_object_mut().unwrap().remove("timestamp");
                let stamp = stamp.unwrap_or_else(|| panic!("no timestamp: {frame}"));
                assert!(chrono_like(stamp.as_str().unwrap()), "{stamp}");
                frame
            }
            other => panic!("no frame but {other:?}"),
        }
    }

    /// Reads to the end of the connection; the frames that came.
    pub fn until_closed(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => frames.push(serde_json::from_str(&text).unwrap()),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("the connection stays open; heard so far: {frames:?}")
                }
                Err(_) => return frames,
            }
        }
    }

    /// `connect` and `start`, each acknowledged.
    pub fn greet(&mut self) {
        self.say("connect", json!({}));
        assert_eq!(self.hear(), json!({"type": "ack", "ack_type": "connect"}));
        self.say("start", json!({"pid": 4_000_000, "version": "0.9.31"}));
        assert_eq!(self.hear(), json!({"type": "ack", "ack_type": "start"}));
    }

    pub fn output(&mut self, seq: u64, data: &str) {
        self.say("output", json!({"stream": "stdout", "data": data, "seq": seq}));
    }

    /// `complete`, acknowledged.
    pub fn complete(&mut self, retcode: i64, seq: u64) {
        self.say("complete", json!({"retcode": retcode, "seq": seq}));
        assert_eq!(
            self.hear(),
            json!({"type": "ack", "ack_type": "complete", "seq": seq})
        );
    }
}

pub fn output_ack(seq: u64) -> Value {
    json!({"type": "ack", "ack_type": "output", "seq": seq})
}

/// `2026-11-21T10:00:00.123456+00:00`
fn chrono_like(stamp: &str) -> bool {
    let shape: String = stamp
        .chars()
        .map(|letter| if letter.is_ascii_digit() { '0' } else { letter })
        .collect();
    shape == "0000-00-00T00:00:00.000000+00:00"
}
