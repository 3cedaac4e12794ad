//! The API port as scripts, people and enemies use it, on the real daemon.

mod access;
mod acts;
mod hostile;
mod proxy;
mod reads;
mod tls;
mod verbs;

use saltpeter::secret::sha256;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::http::{Client, Reply};

/// Asks through the control socket: as the daemon's own user, who may all.
pub fn control(daemon: &Daemon, method: &str, path: &str, body: &Value) -> Reply {
    let mut client = Client::unix(&daemon.state_dir().join("control.sock"));
    let headers = [("Content-Type", "application/json"), ("Connection", "close")];
    client.ask(method, path, &headers, body.to_string().as_bytes())
}

/// Asks with these headers besides the usual ones.
pub fn with_headers(daemon: &Daemon, method: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut headers = vec![("Connection", "close")];
    if !more.iter().any(|(name, _)| *name == "Host") {
        headers.push(("Host", "localhost"));
    }
    headers.extend_from_slice(more);
    daemon.http().ask(method, path, &headers, body)
}

/// An entry of `api_tokens`.
pub fn token(name: &str, role: &str, secret: &str) -> Value {
    let hash = sha256(secret);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"name": name, "role": role, "sha256": hash})
}

/// A JSON answer with that status.
#[track_caller]
pub fn expect(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    if status >= 400 {
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json"),
            "{reply:?}"
        );
        assert_eq!(reply.json()["status"], status);
        assert!(
            reply.json()["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty())
        );
    }
    reply.json()
}
