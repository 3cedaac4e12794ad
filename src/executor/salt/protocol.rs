//! What daemon and Salt helper say to each other: JSON lines, protocol 1. Pure.
//! Must not know: processes, runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Wall;

/// The helper's protocol that this daemon speaks.
pub const PROTO: u32 = 1;

/// Publishes a function on minions and follows the returns.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    pub id: u64,
    pub op: &'static str,
    pub jid: String,
    /// A text, or a list of ids.
    pub tgt: Value,
    pub tgt_type: String,
    pub fun: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arg: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kwarg: BTreeMap<&'static str, Value>,
    /// Seconds from the publish until a minion counts as silent.
    pub timeout: f64,
    /// Seconds from the publish until a minion that answers other things meanwhile is given up; 0: no longer.
    pub patience: f64,
    /// It may have been published before: the master's job cache is asked first.
    pub again: bool,
    /// It is never published again, only followed.
    pub follow: bool,
    /// Characters kept of one text in a return.
    pub ret_limit: usize,
}

/// What the helper says.
#[derive(Debug, Deserialize)]
#[serde(tag = "ev", rename_all = "lowercase")]
pub enum Said {
    Hello {
        proto: u32,
        #[serde(default)]
        salt: String,
        #[serde(default)]
        python: String,
        #[serde(default)]
        exe: String,
    },
    /// It cannot work with this Python, and ends.
    Fatal { kind: String, msg: String },
    /// The master's event bus is there, or not.
    Bus {
        up: bool,
        #[serde(default)]
        msg: String,
    },
    /// It is published; which listed ids Salt does not know, and how long the master took for it.
    Pub {
        id: u64,
        #[serde(default)]
        unknown: Vec<String>,
        #[serde(default)]
        took_ms: u64,
    },
    /// A minion's return.
    Ret {
        id: u64,
        minion: String,
        #[serde(default)]
        ret: Value,
    },
    /// Those are silent and were given up; others of the same request are still waited for.
    Gone {
        id: u64,
        #[serde(default)]
        minions: Vec<String>,
    },
    /// No more will come for this request; the minions that have not answered, those given up before included.
    Done {
        id: u64,
        #[serde(default)]
        missing: Vec<String>,
    },
    Error {
        id: Option<u64>,
        kind: String,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        unknown: Vec<String>,
    },
    /// A return after the end.
    Late {
        minion: String,
        #[serde(default)]
        ret: Value,
    },
    /// What a later helper may say.
    #[serde(other)]
    Other,
}

/// How a minion's `cmd.run_all` of the wrapper ended.
#[derive(Debug, PartialEq, Eq)]
pub enum LaunchReturn {
    Started,
    /// The minion's own words.
    Failed(String),
}

/// Makes Salt job ids: 20 digits, the UTC time in microseconds, none twice.
#[derive(Debug, Default)]
pub struct Jids {
    last: i64,
}

impl Jids {
    /// The next id. Odd microseconds: the even ones are for dispatches, whose ids are stored with their run.
    pub fn next(&mut self, now: Wall) -> String {
        self.last = (now.0 | 1).max(self.last + 2);
        jid(Wall(self.last))
    }
}

/// The job id of what is published at that moment.
pub fn jid(at: Wall) -> String {
    at.utc().format("%Y%m%d%H%M%S%6f").to_string()
}

/// The line that asks for a sign of life.
pub fn status(id: u64) -> Vec<u8> {
    let mut line = json!({"op": "status", "id": id}).to_string().into_bytes();
    line.push(b'\n');
    line
}

impl Request {
    /// Its line.
    pub fn line(&self) -> Vec<u8> {
        // maps with text keys, numbers that are finite: it cannot fail
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The line that has the helper look for returns in the master's job cache.
pub fn fill() -> &'static [u8] {
    b"{\"op\":\"fill\"}\n"
}

/// Whether waiting may help: the master is away, or comes back with another key.
pub fn may_pass(kind: &str) -> bool {
    matches!(
        kind,
        "master_down" | "master_timeout" | "PublishError" | "AuthenticationError" | "SaltClientError"
    )
}

/// A refusal in words for people.
pub fn words(kind: &str, msg: &str) -> String {
    match kind {
        "master_down" => "the Salt master is not running on this host".to_string(),
        "no_range" => format!(
            "target_type 'range' cannot be asked for: {msg}; install it beside the master's Salt, and set range_server \
             in the master's configuration"
        ),
        "master_timeout" => "the Salt master does not answer".to_string(),
        "auth" => format!(
            "Salt refuses: {msg}; the daemon has to run as root, as the master's user, or be allowed by publisher_acl"
        ),
        "AuthenticationError" | "AuthorizationError" => format!("Salt refuses: {msg}"),
        kind => format!("Salt: {kind}: {msg}"),
    }
}

/// Reads a return of `cmd.run_all`: 0 is a start, all else is said in the minion's words.
pub fn launch(ret: &Value) -> LaunchReturn {
    let text = |key: &str| ret.get(key).and_then(Value::as_str).unwrap_or_default().trim();
    match ret {
        Value::Object(_) => match ret.get("retcode").and_then(Value::as_i64) {
            Some(0) => LaunchReturn::Started,
            retcode => {
                let said: Vec<&str> = [text("stdout"), text("stderr")]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .collect();
                let how = match retcode {
                    Some(signal @ ..0) => format!("was killed by signal {}", -signal),
                    Some(code) => format!("exited with {code}"),
                    None => "did not start".to_string(),
                };
                LaunchReturn::Failed(match said.as_slice() {
                    [] => format!("the wrapper {how}"),
                    said => format!("the wrapper {how}: {}", said.join("\n")),
                })
            }
        },
        Value::String(text) => LaunchReturn::Failed(text.trim().to_string()),
        other => LaunchReturn::Failed(format!("the minion returned {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_have_20_digits_and_grow_even_when_the_clock_does_not() {
        let mut jids = Jids::default();
        let now = Wall(1_763_719_200_000_123);
        let ids: Vec<String> = [now, now, Wall(0)].map(|at| jids.next(at)).to_vec();
        assert_eq!(
            ids,
            [
                "20251121100000000123",
                "20251121100000000125",
                "20251121100000000127"
            ]
        );
    }

    #[test]
    fn a_return_is_a_start_or_the_minions_words() {
        let failed = |ret: Value| match launch(&ret) {
            LaunchReturn::Failed(text) => text,
            LaunchReturn::Started => panic!("{ret} is no start"),
        };
        assert_eq!(
            launch(&json!({"retcode": 0, "stdout": "", "pid": 1})),
            LaunchReturn::Started
        );
        assert_eq!(
            failed(json!({"retcode": 127, "stdout": "a", "stderr": "not found\n"})),
            "the wrapper exited with 127: a\nnot found"
        );
        assert_eq!(
            failed(json!({"retcode": -9})),
            "the wrapper was killed by signal 9"
        );
        assert_eq!(failed(json!({})), "the wrapper did not start");
        assert_eq!(failed(json!("ERROR: no user\n")), "ERROR: no user");
        assert_eq!(failed(Value::Null), "the minion returned null");
    }

    #[test]
    fn what_a_later_helper_says_is_passed_over() {
        let said: Said = serde_json::from_str(r#"{"ev": "weather", "id": 1}"#).unwrap();
        assert!(matches!(said, Said::Other));
        let said: Said =
            serde_json::from_str(r#"{"ev":"error","id":null,"kind":"bad_request","msg":"x"}"#).unwrap();
        assert!(matches!(said, Said::Error { id: None, .. }));
    }
}
