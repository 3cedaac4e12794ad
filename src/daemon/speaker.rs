//! The engine's lines on their way to the daemon's log: a stderr that nobody reads must not hold the engine.
//! Must not know: what is said.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;

use crate::limits;
use crate::thread::{self, Actor};

/// Whose lines they are, for SALTPETER_LOG.
const TARGET: &str = "saltpeter::engine";

/// Dropped: what was said is written, then its thread is joined.
pub struct Speaker {
    // declared before the thread: the queue closes first, which ends the thread's loop
    lines: Sender<(log::Level, String)>,
    lost: Arc<AtomicU64>,
    _thread: Actor,
}

impl Speaker {
    /// Starts its thread.
    pub fn start() -> io::Result<Speaker> {
        let (lines, queue) = crossbeam_channel::bounded::<(log::Level, String)>(limits::SAY_QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let missing = lost.clone();
        let thread = thread::spawn("log", limits::STACK_BYTES, move || {
            for (level, text) in queue {
                log::log!(target: TARGET, level, "{text}");
                match missing.swap(0, Ordering::Relaxed) {
                    0 => {}
                    count => log::warn!("{count} lines were lost: the log was not written fast enough"),
                }
            }
        })?;
        Ok(Speaker {
            lines,
            lost,
            _thread: Actor::new(thread, || ()),
        })
    }

    /// Says it soon, or counts it as lost.
    pub fn say(&self, level: log::Level, text: String) {
        if log::log_enabled!(target: TARGET, level) && self.lines.try_send((level, text)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
