//! What all UI connections share: one thread that waits for boards and wakes all of them at most ten times a second,
//! and frames made once for all.
//! Must not know: what a connection was sent.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use serde_json::Value;
use tungstenite::Utf8Bytes;

use super::frames::{self, Overlays};
use super::source::Source;
use super::text::{Cursor, Next, TextCache, TextSource};
use crate::api::compat::shapes;
use crate::api::feed::Feed;
use crate::clock::{self, Mono, Wall};
use crate::config::{Config, Maintenance, Role};
use crate::engine::board::{Board, MachineBoard, RunBoard};
use crate::engine::id::{MachineRunId, RunId};
use crate::limits;
use crate::storage::{EventKinds, PageOf, Reader, RunFilter};
use crate::thread::{self, Actor};
use crate::wake::Waker;

/// Rings that follow each other use different wakers: one that was rung stays so until everybody must have heard it,
/// and is silenced two wakeups before it is used again. So one descriptor serves all who wait.
const WAKERS: u64 = 8;
/// The thread looks for its end this often.
const IDLE_MS: u64 = 60_000;

/// Shared by all UI connections.
pub struct Hub {
    feed: Arc<Feed>,
    wakers: Vec<Waker>,
    wakeups: AtomicU64,
    is_stopped: AtomicBool,
    texts: TextCache,
    /// For lists of runs: not the one that outputs are read with.
    history: Mutex<Reader>,
    made: Mutex<Made>,
    budget: Mutex<Budget>,
    timelines: AtomicU64,
    /// UTF-16 code units of texts that do not hold all of their output, by machine run and whether it has ended.
    lengths: Mutex<HashMap<(MachineRunId, bool), u64>>,
}

/// Frames that are the same for everybody.
#[derive(Default)]
struct Made {
    /// Of that board, and a number that changes with the text.
    status: Option<(Arc<Board>, Utf8Bytes, u64)>,
    /// Of that configuration: for readers, for those who may act.
    config: Option<(Arc<Config>, Maintenance, [Option<Utf8Bytes>; 2])>,
    details: HashMap<Arc<str>, (u64, Utf8Bytes)>,
}

/// Bytes of output that may be sent now; below nothing: that much was sent ahead.
struct Budget {
    bytes: i64,
    filled: Mono,
}

impl Hub {
    /// Fails when the process is out of descriptors.
    pub fn new(feed: Arc<Feed>, reader: Reader) -> io::Result<Hub> {
        let wakers: io::Result<Vec<Waker>> = (0..WAKERS).map(|_| Waker::new()).collect();
        Ok(Hub {
            feed,
            wakers: wakers?,
            wakeups: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            texts: TextCache::new(reader.clone()),
            history: Mutex::new(reader),
            made: Mutex::default(),
            budget: Mutex::new(Budget {
                bytes: 0,
                filled: clock::mono(),
            }),
            timelines: AtomicU64::new(0),
            lengths: Mutex::default(),
        })
    }

    /// Starts its thread; dropping what it returns ends it, and the connections.
    pub fn start(self: &Arc<Hub>) -> io::Result<Actor> {
        let (end, ended) = bounded::<()>(0);
        let hub = self.clone();
        let thread = thread::spawn("compat", limits::STACK_BYTES, move || hub.run(&ended))?;
        let hub = self.clone();
        Ok(Actor::new(thread, move || {
            hub.is_stopped.store(true, Ordering::Release);
            drop(end);
            // whoever waits for a board is woken
            hub.feed.publish(hub.feed.board());
        }))
    }

    /// The daemon ends.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// How often it has rung.
    pub fn wakeups(&self) -> u64 {
        self.wakeups.load(Ordering::Acquire)
    }

    /// Rings when it has rung more often than `seen` times. Must be asked for anew after each ring.
    pub fn waker(&self, seen: u64) -> &Waker {
        &self.wakers[((seen + 1) % WAKERS) as usize]
    }

    /// The latest board.
    pub fn board(&self) -> Arc<Board> {
        self.feed.board()
    }

    /// `status`.
    pub fn status(&self, board: &Arc<Board>, overlays: &Overlays) -> Utf8Bytes {
        if overlays.is_empty() {
            self.plain_status(board).0
        } else {
            frames::status(board, overlays).into()
        }
    }

    /// `config`, as it is shown to that role.
    pub fn config(&self, board: &Board, role: Role) -> Utf8Bytes {
        let mut made = self.made.lock();
        let is_same = |(config, maintenance, _): &(Arc<Config>, Maintenance, _)| {
            Arc::ptr_eq(config, &board.config) && *maintenance == board.maintenance
        };
        if !made.config.as_ref().is_some_and(is_same) {
            made.config = None;
        }
        let fresh = || (board.config.clone(), board.maintenance.clone(), [None, None]);
        let (_, _, texts) = made.config.get_or_insert_with(fresh);
        texts[usize::from(role >= Role::Operate)]
            .get_or_insert_with(|| frames::config(board, role).into())
            .clone()
    }

    /// `details`; empty: the job is gone.
    pub fn details(&self, board: &Board, name: &Arc<str>) -> Utf8Bytes {
        let Some(job) = board.jobs.get(name) else {
            return Utf8Bytes::default();
        };
        let mut made = self.made.lock();
        if let Some((version, text)) = made.details.get(name)
            && *version == board.version
        {
            return text.clone();
        }
        if made.details.len() > limits::COMPAT_SUBSCRIPTIONS {
            made.details.clear();
        }
        let text: Utf8Bytes =
            frames::details(name, job, &board.config, |run, machine| self.length(run, machine)).into();
        made.details.insert(name.clone(), (board.version, text.clone()));
        text
    }

    /// What happened in that time, and a number that no other timeline has.
    pub fn timeline(&self, from: Option<Wall>, until: Option<Wall>) -> Result<(Vec<Value>, u64), String> {
        let (from, until) = (from.unwrap_or(Wall(i64::MIN)), until.unwrap_or(Wall(i64::MAX)));
        let history = self.history.lock();
        let found = history.history_events(from, until, None, EventKinds::All, limits::HISTORY_PAGE)?;
        drop(history);
        let serial = self.timelines.fetch_add(1, Ordering::Relaxed) + 1;
        Ok((shapes::timeline(&found), serial))
    }

    /// That much output is sent.
    pub fn spend(&self, bytes: u64) {
        let mut budget = self.budget.lock();
        budget.bytes = budget.bytes.saturating_sub_unsigned(bytes);
    }

    fn run(&self, ended: &Receiver<()>) {
        let mut published = 0;
        while !self.is_stopped() {
            let seen = published;
            published = self.feed.wait_beyond(published, IDLE_MS);
            if published > seen {
                self.wake_all();
                // what comes meanwhile is seen together
                let _ = ended.recv_timeout(Duration::from_millis(limits::COMPAT_LOOK_MS));
            }
        }
        self.wake_all();
    }

    fn wake_all(&self) {
        let number = self.wakeups.load(Ordering::Acquire) + 1;
        self.wakers[((number + 2) % WAKERS) as usize].clear();
        self.wakeups.store(number, Ordering::Release);
        self.wakers[(number % WAKERS) as usize].wake();
    }

    /// How long the text is that the UI gets of an output, in UTF-16 code units.
    fn length(&self, run: &RunBoard, machine: &MachineBoard) -> u64 {
        let is_ended = machine.record.ended.is_some();
        let limit_bytes = run.run.spec.output_limit_bytes;
        let shown_bytes = if is_ended { limit_bytes } else { limit_bytes / 2 };
        if limit_bytes == 0 || machine.output_bytes <= shown_bytes {
            return machine.output_utf16;
        }
        let key = (machine.record.id, is_ended);
        if let Some(length) = self.lengths.lock().get(&key) {
            return *length;
        }
        let output = run.run.output_of(machine.record.id);
        let history = self.history.lock();
        let stored = history.output_shape(output);
        let length = history.shown_utf16(output, is_ended);
        drop(history);
        let (Ok(stored), Ok(length)) = (stored, length) else {
            return machine.output_utf16;
        };
        // what is shown may still be on its way to the disk
        if stored.total_bytes == machine.output_bytes || (!is_ended && stored.total_bytes >= shown_bytes) {
            let mut lengths = self.lengths.lock();
            if lengths.len() >= limits::COMPAT_LENGTHS {
                lengths.clear();
            }
            lengths.insert(key, length);
        }
        length
    }

    fn plain_status(&self, board: &Arc<Board>) -> (Utf8Bytes, u64) {
        let mut made = self.made.lock();
        if let Some((known, text, stamp)) = &made.status
            && known.version == board.version
        {
            return (text.clone(), *stamp);
        }
        let text: Utf8Bytes = frames::status(board, &Overlays::new()).into();
        let (known, stamp) = match &made.status {
            Some((known, same, stamp)) if *same == text => (known.version, *stamp),
            Some((known, _, stamp)) => (known.version, stamp + 1),
            None => (0, 1),
        };
        // a slow connection still works on an older board: it must not replace the newer
        if board.version >= known {
            made.status = Some((board.clone(), text.clone(), stamp));
        }
        (text, stamp)
    }

    fn refill_budget(&self) -> bool {
        let mut budget = self.budget.lock();
        let now = clock::mono();
        let more = now.since_ms(budget.filled) * limits::COMPAT_OUTPUT_BYTES_PER_S / 1_000;
        let most = (limits::COMPAT_OUTPUT_BYTES_PER_S / 8) as i64;
        budget.bytes = budget.bytes.saturating_add_unsigned(more).min(most);
        budget.filled = now;
        budget.bytes > 0
    }
}

impl Source for Hub {
    fn status_stamp(&self, board: &Arc<Board>) -> u64 {
        self.plain_status(board).1
    }

    fn next(&self, source: &TextSource, cursor: Cursor, stop: Option<u64>) -> Next {
        if !self.refill_budget() {
            return Next::Later;
        }
        self.texts.next(source, cursor, stop).unwrap_or_else(|error| {
            log::warn!("reading an output for the UI: {error}");
            Next::Nothing
        })
    }

    fn past_runs(&self, job: &str, from: RunId, before: RunId) -> Vec<Arc<RunBoard>> {
        let filter = RunFilter {
            job: Some(job.to_string()),
            ..RunFilter::default()
        };
        let page = PageOf {
            before: Some(before),
            limit: limits::COMPAT_PAST_RUNS,
        };
        let history = self.history.lock();
        let load = || -> Result<Vec<Arc<RunBoard>>, String> {
            let mut found = Vec::new();
            for run in history.runs(&filter, page)?.iter().rev() {
                if run.id >= from && run.ended.is_some() {
                    found.extend(
                        history
                            .run(&run.instance)?
                            .map(|stored| Arc::new(RunBoard::from(stored))),
                    );
                }
            }
            Ok(found)
        };
        load().unwrap_or_else(|error| {
            log::warn!("reading earlier runs of {job} for the UI: {error}");
            Vec::new()
        })
    }
}
