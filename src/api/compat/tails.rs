//! The ends of outputs for `ret`, kept so that polling `/status` does not read the disk again and again.
//! Must not know: JSON, HTTP.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::reader::SharedReader;
use crate::clock::{self, Mono};
use crate::engine::board::MachineBoard;
use crate::engine::id::MachineRunId;
use crate::engine::record::OutputRef;
use crate::limits;

/// An end that may not be all yet (its commit is under way) is read again for this long.
const SETTLE_MS: u64 = 10_000;

/// The last part of an output, as text.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    pub text: Arc<str>,
    pub is_truncated: bool,
}

/// Reads and keeps ends of outputs.
pub struct Tails {
    reader: SharedReader,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    tails: HashMap<MachineRunId, Entry>,
    bytes: usize,
}

struct Entry {
    output_bytes: u64,
    first_seen: Mono,
    is_settled: bool,
    tail: Tail,
}

impl Tails {
    /// Reads from there.
    pub fn new(reader: SharedReader) -> Tails {
        Tails {
            reader,
            kept: Mutex::default(),
        }
    }

    /// The last [`limits::STATUS_RET_BYTES`] of a machine run's output. What cannot be read is said in its place.
    pub fn tail(&self, machine: &MachineBoard, output: OutputRef) -> Tail {
        if machine.output_bytes == 0 {
            return Tail::default();
        }
        let id = output.machine_run;
        let now = clock::mono();
        let mut first_seen = now;
        if let Some(entry) = self.kept.lock().tails.get(&id)
            && entry.output_bytes == machine.output_bytes
        {
            if entry.is_settled {
                return entry.tail.clone();
            }
            first_seen = entry.first_seen;
        }
        let read = self.reader.lock().output_tail(output, limits::STATUS_RET_BYTES);
        let (bytes, is_truncated) = match read {
            Ok(read) => read,
            Err(error) => {
                log::warn!(
                    "reading the output of {} for the API: {error}",
                    machine.record.machine
                );
                return Tail {
                    text: format!("[the output cannot be read: {error}]").into(),
                    is_truncated: true,
                };
            }
        };
        let is_whole = !is_truncated && bytes.len() as u64 == machine.output_bytes;
        let tail = Tail {
            text: String::from_utf8_lossy(&bytes).into(),
            is_truncated,
        };
        self.keep(
            id,
            Entry {
                output_bytes: machine.output_bytes,
                first_seen,
                is_settled: is_whole || now.since_ms(first_seen) >= SETTLE_MS,
                tail: tail.clone(),
            },
        );
        tail
    }

    fn keep(&self, id: MachineRunId, entry: Entry) {
        let mut kept = self.kept.lock();
        let bytes = entry.tail.text.len();
        if kept.bytes + bytes > limits::STATUS_CACHE_BYTES {
            *kept = Kept::default();
        }
        kept.bytes += bytes;
        if let Some(old) = kept.tails.insert(id, entry) {
            kept.bytes -= old.tail.text.len();
        }
    }
}
