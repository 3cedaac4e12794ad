//! The awake clock.
//! Must not know: deadlines.

use crate::clock::Mono;
use crate::limits;

/// Milliseconds that the daemon has been awake: the monotonic clock less every stall. All deadlines are in it, so the
/// daemon's own trouble never fails a job (rules.md 3).
pub type AwakeMs = u64;

/// The awake clock.
#[derive(Debug, Default)]
pub(super) struct Awake {
    last: Option<Mono>,
    stalled_ms: u64,
    /// Where the last stall began, and how long it was: a moment before it is not moved by it.
    last_stall: (Mono, u64),
}

impl Awake {
    /// The awake time at `mono`; a gap since the last turn that is a stall does not count.
    pub fn advance(&mut self, mono: Mono) -> AwakeMs {
        if let Some(last) = self.last {
            let gap = mono.since_ms(last);
            if gap > limits::STALL_MS {
                self.stalled_ms += gap;
                self.last_stall = (last, gap);
            }
        }
        self.last = Some(mono.max(self.last.unwrap_or(mono)));
        self.at(mono)
    }

    /// A moment of the monotonic clock in awake time.
    pub fn at(&self, mono: Mono) -> AwakeMs {
        let (began, gap) = self.last_stall;
        let stalled = if mono <= began {
            self.stalled_ms - gap
        } else {
            self.stalled_ms
        };
        // a moment within the stall counts as its begin
        mono.0.saturating_sub(stalled).max(if mono <= began {
            0
        } else {
            began.0 + gap - self.stalled_ms
        })
    }
}
