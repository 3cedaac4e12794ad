//! The helper process alone, spoken to as the daemon does.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crossbeam_channel::Receiver;
use saltpeter::clock;
use serde_json::{Value, json};

use super::Lab;

pub struct Bridge {
    pub child: Child,
    events: Receiver<Value>,
    next_id: u64,
}

impl Bridge {
    pub fn start(lab: &Lab) -> Bridge {
        let mut child = Command::new(&lab.python)
            .arg("-u")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/executor/salt/helper.py"))
            .arg("-c")
            .arg(lab.config())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, events) = crossbeam_channel::bounded(10_000);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        saltpeter::thread::spawn("bridge", 1 << 20, move || {
            for line in stdout.lines() {
                let Ok(line) = line else { return };
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        })
        .unwrap();
        let mut bridge = Bridge {
            child,
            events,
            next_id: 1,
        };
        let hello = bridge.wait_for(30, |event| event["ev"] == "hello");
        assert_eq!(hello["proto"], 1);
        bridge
    }

    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Sends a `run`; id and jid are added where they are missing.
    pub fn run(&mut self, mut request: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        request["op"] = json!("run");
        request["id"] = json!(id);
        if request["jid"].is_null() {
            request["jid"] = json!(new_jid());
        }
        self.say(&request.to_string());
        id
    }

    /// Hands on events for that long, or until `look` has seen enough.
    pub fn events_for(&mut self, limit_ms: u64, mut look: impl FnMut(&Value) -> bool) {
        let end = clock::mono().plus_ms(limit_ms);
        loop {
            let left = end.since_ms(clock::mono());
            match self.events.recv_timeout(Duration::from_millis(left)) {
                Ok(event) if look(&event) => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// The next event that is meant.
    pub fn wait_for(&mut self, limit_s: u64, is_meant: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        let mut seen = Vec::new();
        self.events_for(limit_s * 1_000, |event| {
            seen.push(event.clone());
            if is_meant(event) {
                found = Some(event.clone());
            }
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("the helper did not say what was expected, but {seen:?}"))
    }

    /// Everything about one request, its end included.
    pub fn all_of(&mut self, id: u64, limit_s: u64) -> Vec<Value> {
        let mut events = Vec::new();
        self.events_for(limit_s * 1_000, |event| {
            if event["id"] == id {
                events.push(event.clone());
            }
            event["id"] == id && matches!(event["ev"].as_str(), Some("done" | "error"))
        });
        let last = events.last().map(|event| event["ev"].clone());
        assert!(
            last == Some(json!("done")) || last == Some(json!("error")),
            "no end of {id}: {events:?}"
        );
        events
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Salt job id that no other has.
pub fn new_jid() -> String {
    use std::sync::atomic::{AtomicI64, Ordering};
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = clock::wall().0;
    let last = LAST
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(now.max(last + 1)))
        .unwrap();
    clock::Wall(now.max(last + 1))
        .utc()
        .format("%Y%m%d%H%M%S%6f")
        .to_string()
}
