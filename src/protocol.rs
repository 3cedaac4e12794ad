//! The frames between wrapper and daemon: one JSON object each (`wire-protocol.md` section 1).
//! Encode and decode only. Must not know: sockets, sessions, what a frame leads to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::clock::Wall;
use crate::ending::GivenBy;

/// Feature: the job travels in the connect ack, and starting is a permission.
pub const FEATURE_JOB: &str = "job";
/// Feature: output that is no UTF-8 travels in `data_base64`.
pub const FEATURE_DATA_BASE64: &str = "data_base64";
/// Feature: several output frames may be unacked; an ack covers all before it.
pub const FEATURE_WINDOW: &str = "window";
/// Feature: after a reconnect the wrapper sends `connect` again, and its ack carries `last_seq`.
pub const FEATURE_RESUME: &str = "resume";

/// What follows it must still fit where seqs are stored, in 63 bits and in answers that may be -1.
const HIGHEST_SEQ: u64 = i64::MAX as u64 - 1;

/// Whom a frame speaks of. A session belongs to (`instance`, `machine`), never to a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    pub job: String,
    pub instance: String,
    pub machine: String,
}

/// A frame from a wrapper.
#[derive(Clone, Debug, PartialEq)]
pub struct WrapperFrame {
    pub key: SessionKey,
    /// The wrapper's own clock, as it wrote it; kept, never trusted. Python wrappers may leave it out.
    pub timestamp: Option<String>,
    pub body: WrapperBody,
}

/// What a wrapper says. Optional fields are those that deployed wrappers may leave out (rules.md 23b).
#[derive(Clone, Debug, PartialEq)]
pub enum WrapperBody {
    Connect {
        /// Features it offers; None: a wrapper that has never heard of features (the Python wrapper).
        accepts: Option<Vec<String>>,
        /// Random, one per wrapper process; only with `accepts`.
        wrapper_id: Option<String>,
        version: Option<String>,
    },
    Start {
        pid: Option<i64>,
        version: Option<String>,
    },
    Output(OutputBody),
    Heartbeat,
    SyncRequest {
        last_acked_seq: Option<i64>,
        next_seq: Option<i64>,
    },
    Complete {
        retcode: Option<i64>,
        /// One past the last output.
        seq: Option<u64>,
        /// Who gave the code; None: a wrapper that does not say.
        given_by: Option<GivenBy>,
        /// How long the command ran, by the wrapper's monotonic clock; None: it was not started, or as above.
        duration_ms: Option<u64>,
    },
    Killed,
    Error {
        error: String,
    },
}

/// One chunk of output: `data` where it is UTF-8, else `data_base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputBody {
    pub data: Vec<u8>,
    /// The bytes came as text, so they are UTF-8 for certain.
    pub is_text: bool,
    /// `stdout`, or `stderr` for the notices of a kill or timeout; the command's own stderr is merged into stdout.
    pub stream: Option<String>,
    pub seq: Option<u64>,
}

/// A frame to a wrapper.
#[derive(Clone, Debug, PartialEq)]
pub enum DaemonFrame {
    ConnectAck(Box<ConnectAck>),
    StartAck,
    OutputAck {
        seq: u64,
    },
    CompleteAck {
        seq: Option<u64>,
    },
    NackOutOfOrder {
        expected_seq: u64,
        received_seq: u64,
    },
    /// The highest seq held, -1 if none.
    SyncResponse {
        last_seq: i64,
    },
    Kill {
        key: SessionKey,
    },
    Error {
        code: ErrorCode,
        message: String,
    },
}

/// The answer to `connect`. All fields but the ack itself are negotiated additions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectAck {
    /// The part of `accepts` that holds for this session; None towards a wrapper without `accepts`.
    pub features: Option<Vec<String>>,
    /// The permission to start, and what (feature `job`).
    pub job: Option<JobOrder>,
    /// The highest seq held (feature `resume`), -1 if none.
    pub last_seq: Option<i64>,
}

/// What the wrapper is to run, as it travels in the connect ack (feature `job`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobOrder {
    pub command: String,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Seconds; 0: none.
    #[serde(default)]
    pub timeout: u64,
    #[serde(default)]
    pub allow_overlap: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lockfile: Option<String>,
}

/// Why the daemon refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// No such run, or this machine is no target of it, or the token is not its own.
    JobNotFound,
    /// The permission to start was given to another wrapper, or the machine run has ended.
    NotStartedAgain,
    /// The frame cannot be understood; the connection is closed after this.
    BadFrame,
}

/// Why a text is no frame of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFrame(pub String);

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadFrame {}

impl ErrorCode {
    /// As it stands in `code`.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::JobNotFound => "JOB_NOT_FOUND",
            ErrorCode::NotStartedAgain => "NOT_STARTED_AGAIN",
            ErrorCode::BadFrame => "BAD_FRAME",
        }
    }
}

/// Reads a frame from a wrapper. Unknown fields are ignored: a newer wrapper may send more.
pub fn decode_wrapper_frame(text: &str) -> Result<WrapperFrame, BadFrame> {
    let raw: RawWrapperFrame = serde_json::from_str(text).map_err(bad)?;
    if raw.seq.is_some_and(|seq| seq > HIGHEST_SEQ) {
        return Err(BadFrame("a seq that nobody can have counted to".into()));
    }
    let key = SessionKey {
        job: raw.job_name,
        instance: raw.job_instance,
        machine: raw.machine,
    };
    let body = match &*raw.kind {
        "connect" => WrapperBody::Connect {
            accepts: raw.accepts,
            wrapper_id: raw.wrapper_id,
            version: raw.version,
        },
        "start" => WrapperBody::Start {
            pid: raw.pid,
            version: raw.version,
        },
        "output" => WrapperBody::Output(output_body(raw.data, raw.data_base64, raw.stream, raw.seq)?),
        "heartbeat" => WrapperBody::Heartbeat,
        "sync_request" => WrapperBody::SyncRequest {
            last_acked_seq: raw.last_acked_seq,
            next_seq: raw.next_seq,
        },
        "complete" => WrapperBody::Complete {
            retcode: raw.retcode,
            seq: raw.seq,
            given_by: raw.given_by.as_deref().and_then(GivenBy::of_word),
            duration_ms: raw.duration_ms,
        },
        "killed" => WrapperBody::Killed,
        "error" => WrapperBody::Error {
            error: raw.error.unwrap_or_default(),
        },
        other => return Err(BadFrame(format!("unknown frame type '{}'", clip(other)))),
    };
    Ok(WrapperFrame {
        key,
        timestamp: raw.timestamp,
        body,
    })
}

/// Writes a frame from a wrapper; `at` is the wrapper's own clock. Output that is no UTF-8 goes out in
/// `data_base64`: without that feature the caller has made it text before.
pub fn encode_wrapper_frame(key: &SessionKey, body: &WrapperBody, at: Wall) -> String {
    let mut out = RawWrapperOut {
        kind: "",
        job_name: &key.job,
        job_instance: &key.instance,
        machine: &key.machine,
        timestamp: at.iso(),
        ..RawWrapperOut::default()
    };
    match body {
        WrapperBody::Connect {
            accepts,
            wrapper_id,
            version,
        } => {
            out.kind = "connect";
            out.accepts = accepts.as_deref();
            out.wrapper_id = wrapper_id.as_deref();
            out.version = version.as_deref();
        }
        WrapperBody::Start { pid, version } => {
            out.kind = "start";
            out.pid = *pid;
            out.version = version.as_deref();
        }
        WrapperBody::Output(output) => {
            out.kind = "output";
            out.stream = Some(output.stream.as_deref().unwrap_or("stdout"));
            out.seq = output.seq;
            match std::str::from_utf8(&output.data) {
                Ok(text) => out.data = Some(text),
                Err(_) => out.data_base64 = Some(BASE64.encode(&output.data)),
            }
        }
        WrapperBody::Heartbeat => out.kind = "heartbeat",
        WrapperBody::SyncRequest {
            last_acked_seq,
            next_seq,
        } => {
            out.kind = "sync_request";
            out.last_acked_seq = *last_acked_seq;
            out.next_seq = *next_seq;
        }
        WrapperBody::Complete {
            retcode,
            seq,
            given_by,
            duration_ms,
        } => {
            out.kind = "complete";
            out.retcode = *retcode;
            out.seq = *seq;
            out.given_by = given_by.map(GivenBy::word);
            out.duration_ms = *duration_ms;
        }
        WrapperBody::Killed => out.kind = "killed",
        WrapperBody::Error { error } => {
            out.kind = "error";
            out.error = Some(error);
        }
    }
    to_json(&out)
}

/// Writes a frame to a wrapper; `at` is the daemon's clock.
pub fn encode_daemon_frame(frame: &DaemonFrame, at: Wall) -> String {
    let mut out = RawDaemonOut {
        timestamp: at.iso(),
        ..RawDaemonOut::default()
    };
    match frame {
        DaemonFrame::ConnectAck(ack) => {
            out.kind = "ack";
            out.ack_type = Some("connect");
            out.features = ack.features.as_deref();
            out.job = ack.job.as_ref();
            out.last_seq = ack.last_seq;
        }
        DaemonFrame::StartAck => {
            out.kind = "ack";
            out.ack_type = Some("start");
        }
        DaemonFrame::OutputAck { seq } => {
            out.kind = "ack";
            out.ack_type = Some("output");
            out.seq = Some(*seq);
        }
        DaemonFrame::CompleteAck { seq } => {
            out.kind = "ack";
            out.ack_type = Some("complete");
            out.seq = *seq;
        }
        DaemonFrame::NackOutOfOrder {
            expected_seq,
            received_seq,
        } => {
            out.kind = "nack";
            out.nack_type = Some("out_of_order");
            out.expected_seq = Some(*expected_seq);
            out.received_seq = Some(*received_seq);
        }
        DaemonFrame::SyncResponse { last_seq } => {
            out.kind = "sync_response";
            out.last_seq = Some(*last_seq);
        }
        DaemonFrame::Kill { key } => {
            out.kind = "kill";
            out.job_name = Some(&key.job);
            out.job_instance = Some(&key.instance);
            out.machine = Some(&key.machine);
        }
        DaemonFrame::Error { code, message } => {
            out.kind = "error";
            out.code = Some(code.as_str());
            out.message = Some(message);
        }
    }
    to_json(&out)
}

/// Reads a frame from the daemon. None: a frame that this wrapper does not know, to be ignored.
pub fn decode_daemon_frame(text: &str) -> Result<Option<DaemonFrame>, BadFrame> {
    let raw: RawDaemonFrame = serde_json::from_str(text).map_err(bad)?;
    Ok(Some(match (&*raw.kind, raw.ack_type.as_deref()) {
        ("ack", Some("connect")) => DaemonFrame::ConnectAck(Box::new(ConnectAck {
            features: raw.features,
            job: raw.job,
            last_seq: raw.last_seq,
        })),
        ("ack", Some("start")) => DaemonFrame::StartAck,
        ("ack", Some("output")) => match raw.seq {
            Some(seq) => DaemonFrame::OutputAck { seq },
            None => return Err(BadFrame("an output ack without seq".into())),
        },
        ("ack", Some("complete")) => DaemonFrame::CompleteAck { seq: raw.seq },
        ("nack", _) => match (raw.expected_seq, raw.received_seq) {
            (Some(expected_seq), received) => DaemonFrame::NackOutOfOrder {
                expected_seq,
                received_seq: received.unwrap_or(expected_seq),
            },
            _ => return Err(BadFrame("a nack without expected_seq".into())),
        },
        ("sync_response", _) => DaemonFrame::SyncResponse {
            last_seq: raw.last_seq.unwrap_or(-1),
        },
        ("kill", _) => DaemonFrame::Kill {
            key: SessionKey {
                job: raw.job_name.unwrap_or_default(),
                instance: raw.job_instance.unwrap_or_default(),
                machine: raw.machine.unwrap_or_default(),
            },
        },
        ("error", _) => DaemonFrame::Error {
            code: match raw.code.as_deref() {
                Some("JOB_NOT_FOUND") => ErrorCode::JobNotFound,
                Some("NOT_STARTED_AGAIN") => ErrorCode::NotStartedAgain,
                _ => ErrorCode::BadFrame,
            },
            message: raw.message.unwrap_or_default(),
        },
        _ => return Ok(None),
    }))
}

#[derive(Deserialize)]
struct RawWrapperFrame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    job_name: String,
    job_instance: String,
    machine: String,
    timestamp: Option<String>,
    accepts: Option<Vec<String>>,
    wrapper_id: Option<String>,
    version: Option<String>,
    pid: Option<i64>,
    stream: Option<String>,
    data: Option<String>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
    seq: Option<u64>,
    last_acked_seq: Option<i64>,
    next_seq: Option<i64>,
    retcode: Option<i64>,
    #[serde(borrow)]
    given_by: Option<Cow<'a, str>>,
    duration_ms: Option<u64>,
    error: Option<String>,
}

#[derive(Serialize, Default)]
struct RawWrapperOut<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    job_name: &'a str,
    job_instance: &'a str,
    machine: &'a str,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepts: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrapper_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_acked_seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retcode: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    given_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Deserialize)]
struct RawDaemonFrame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    ack_type: Option<String>,
    features: Option<Vec<String>>,
    job: Option<JobOrder>,
    last_seq: Option<i64>,
    seq: Option<u64>,
    expected_seq: Option<u64>,
    received_seq: Option<u64>,
    job_name: Option<String>,
    job_instance: Option<String>,
    machine: Option<String>,
    code: Option<String>,
    message: Option<String>,
}

#[derive(Serialize, Default)]
struct RawDaemonOut<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nack_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a JobOrder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_instance: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    timestamp: String,
}

fn output_body(
    data: Option<String>,
    data_base64: Option<Cow<'_, str>>,
    stream: Option<String>,
    seq: Option<u64>,
) -> Result<OutputBody, BadFrame> {
    match (data, data_base64) {
        (_, Some(encoded)) => {
            let data = BASE64
                .decode(encoded.as_bytes())
                .map_err(|_| BadFrame("data_base64 is not valid base64".into()))?;
            Ok(OutputBody {
                data,
                is_text: false,
                stream,
                seq,
            })
        }
        (Some(text), None) => Ok(OutputBody {
            data: text.into_bytes(),
            is_text: true,
            stream,
            seq,
        }),
        (None, None) => Err(BadFrame("an output frame without data".into())),
    }
}

fn bad(error: serde_json::Error) -> BadFrame {
    BadFrame(clip(&error.to_string()).to_string())
}

/// Keeps a peer's own words short in messages about it.
fn clip(text: &str) -> &str {
    let mut end = text.len().min(120);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn to_json(value: &impl Serialize) -> String {
    // strings, numbers and maps with string keys always serialize
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SessionKey {
        SessionKey {
            job: "j".into(),
            instance: "j_1".into(),
            machine: "web01".into(),
        }
    }

    #[test]
    fn every_wrapper_frame_comes_back_as_it_was_sent() {
        let bodies = [
            WrapperBody::Connect {
                accepts: Some(vec!["job".into()]),
                wrapper_id: Some("ab".into()),
                version: Some("1".into()),
            },
            WrapperBody::Start {
                pid: Some(7),
                version: Some("1".into()),
            },
            WrapperBody::Output(OutputBody {
                data: "grüße\n\u{1f600}".into(),
                is_text: true,
                stream: Some("stdout".into()),
                seq: Some(3),
            }),
            WrapperBody::Output(OutputBody {
                data: vec![0, 255, 10],
                is_text: false,
                stream: Some("stdout".into()),
                seq: Some(4),
            }),
            WrapperBody::Heartbeat,
            WrapperBody::SyncRequest {
                last_acked_seq: Some(-1),
                next_seq: Some(4),
            },
            WrapperBody::Complete {
                retcode: Some(-9),
                seq: Some(5),
                given_by: Some(GivenBy::Kill),
                duration_ms: Some(7),
            },
            WrapperBody::Killed,
            WrapperBody::Error { error: "no".into() },
        ];
        for body in bodies {
            let text = encode_wrapper_frame(&key(), &body, Wall(0));
            let frame = decode_wrapper_frame(&text).unwrap();
            assert_eq!(frame.body, body, "{text}");
            assert_eq!(frame.key, key());
        }
    }

    #[test]
    fn every_daemon_frame_comes_back_as_it_was_sent() {
        let frames = [
            DaemonFrame::ConnectAck(Box::default()),
            DaemonFrame::ConnectAck(Box::new(ConnectAck {
                features: Some(vec!["job".into()]),
                job: Some(JobOrder {
                    command: "echo".into(),
                    timeout: 5,
                    ..JobOrder::default()
                }),
                last_seq: Some(-1),
            })),
            DaemonFrame::StartAck,
            DaemonFrame::OutputAck { seq: 0 },
            DaemonFrame::CompleteAck { seq: Some(1) },
            DaemonFrame::NackOutOfOrder {
                expected_seq: 1,
                received_seq: 2,
            },
            DaemonFrame::SyncResponse { last_seq: -1 },
            DaemonFrame::Kill { key: key() },
            DaemonFrame::Error {
                code: ErrorCode::NotStartedAgain,
                message: "m".into(),
            },
        ];
        for frame in frames {
            let text = encode_daemon_frame(&frame, Wall(0));
            assert_eq!(decode_daemon_frame(&text).unwrap(), Some(frame), "{text}");
        }
    }

    #[test]
    fn a_bare_python_frame_is_read_and_rubbish_is_refused_by_name() {
        let bare = r#"{"type":"complete","job_name":"j","job_instance":"j_1","machine":"m"}"#;
        assert_eq!(
            decode_wrapper_frame(bare).unwrap().body,
            WrapperBody::Complete {
                retcode: None,
                seq: None,
                given_by: None,
                duration_ms: None,
            }
        );
        for rubbish in ["", "[]", "{}", "nul", r#"{"type":"connect"}"#] {
            assert!(decode_wrapper_frame(rubbish).is_err(), "{rubbish}");
        }
        for (seq, is_read) in [(HIGHEST_SEQ, true), (HIGHEST_SEQ + 1, false), (u64::MAX, false)] {
            let bare = bare.replace('}', &format!(r#","seq":{seq}}}"#));
            assert_eq!(decode_wrapper_frame(&bare).is_ok(), is_read, "{bare}");
        }
        let unknown = r#"{"type":"dance","job_name":"j","job_instance":"j_1","machine":"m"}"#;
        assert_eq!(
            decode_wrapper_frame(unknown).unwrap_err().0,
            "unknown frame type 'dance'"
        );
    }
}
