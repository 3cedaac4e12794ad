//! The log: lines on stderr, as `2026-11-21T10:00:00.123Z level target: message`, for journald (which adds the time)
//! as `<6>target: message`, or as JSON.
//! Must not know: who logs what.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chrono::SecondsFormat;
use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::RwLock;

use crate::clock::{self, Wall};
use crate::limits;
use crate::thread::{self, Actor};

/// How an entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Plain,
    /// With the syslog priority as a prefix, without a timestamp.
    Journal,
    /// `{"time", "level", "target", "message"}`
    Json,
}

/// The values of `--log-format`.
pub const FORMATS: [(&str, Format); 3] = [
    ("plain", Format::Plain),
    ("journal", Format::Journal),
    ("json", Format::Json),
];

/// Starts logging to stderr, one line per entry, from level `info` on. Without a `format`, stderr decides: the journal,
/// or plain. SALTPETER_LOG sets other levels: `warn,engine=debug,saltpeter::storage=trace`. A second call has no effect.
pub fn start(format: Option<Format>) {
    let asked = std::env::var("SALTPETER_LOG").unwrap_or_default();
    let (levels, bad) = Levels::parse(&asked);
    let format = format.unwrap_or_else(|| {
        if is_journal(std::env::var_os("JOURNAL_STREAM").as_deref()) {
            Format::Journal
        } else {
            Format::Plain
        }
    });
    if SETUP.set(Setup { format, levels }).is_ok() && log::set_logger(&LOGGER).is_ok() {
        set_debug(false);
        for word in bad {
            log::warn!("SALTPETER_LOG: ignoring unknown level '{}'", word.escape_debug());
        }
    }
}

/// Sets whether debug entries are written where SALTPETER_LOG sets no level. May be changed at any time.
pub fn set_debug(debug: bool) {
    IS_DEBUG.store(debug, Ordering::Relaxed);
    let levels = SETUP.get().map(|setup| &setup.levels);
    log::set_max_level(levels.map_or(LevelFilter::Info, |levels| levels.most(debug)));
}

/// Writes the line that reports readiness (rules.md 35): unchanged and at any level, but as JSON if the log is JSON.
pub fn say_ready(line: &str) {
    let is_json = SETUP.get().is_some_and(|setup| setup.format == Format::Json);
    let text = if is_json {
        self::line(
            Format::Json,
            &clock::wall().utc(),
            Level::Info,
            module_path!(),
            line,
        )
    } else {
        format!("{line}\n")
    };
    // a closed stderr is not a reason to stop
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The thread that writes to stderr. On drop it writes what is queued, however long that takes; after that, each thread
/// writes its own entries again.
pub struct Background(Option<Actor>);

/// Lets a thread of its own write to stderr, so that logging never blocks: if nobody reads stderr, entries are dropped.
pub fn to_background() -> io::Result<Background> {
    let (sender, queue) = bounded(limits::LOG_QUEUE);
    let thread = thread::spawn("log", limits::STACK_BYTES, move || write_queued(&queue))?;
    *QUEUE.write() = Some(sender.clone());
    let stop = move || drop(sender.send(Order::End));
    Ok(Background(Some(Actor::new(thread, stop))))
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.0.take());
        *QUEUE.write() = None;
    }
}

/// Waits until all previous entries are written, at most that long: for callers that exit at once.
pub fn flush_for(ms: u64) {
    let queue = QUEUE.read().clone();
    if let Some(queue) = queue {
        flush(&queue, ms);
    }
}

/// Whether all previous entries were written in time.
fn flush(queue: &Sender<Order>, ms: u64) -> bool {
    let deadline = clock::mono().plus_ms(ms);
    let left = || Duration::from_millis(deadline.since_ms(clock::mono()));
    let (written, all_before) = bounded(1);
    queue.send_timeout(Order::Tell(written), left()).is_ok() && all_before.recv_timeout(left()).is_ok()
}

fn write_queued(queue: &Receiver<Order>) {
    for order in queue {
        match order {
            Order::Write(entry) => entry.write(),
            Order::Tell(written) => drop(written.send(())),
            Order::End => return,
        }
        match LOST.swap(0, Ordering::Relaxed) {
            0 => {}
            count => Entry::new(
                Level::Warn,
                module_path!(),
                format!("{count} log lines were dropped: stderr was not read fast enough"),
            )
            .write(),
        }
    }
}

static LOGGER: Stderr = Stderr;
/// To the writing thread, if there is one.
static QUEUE: RwLock<Option<Sender<Order>>> = RwLock::new(None);
/// Entries dropped because the queue was full.
static LOST: AtomicU64 = AtomicU64::new(0);
static SETUP: OnceLock<Setup> = OnceLock::new();
static IS_DEBUG: AtomicBool = AtomicBool::new(false);

struct Setup {
    format: Format,
    levels: Levels,
}

/// The levels of SALTPETER_LOG.
#[derive(Debug, Default, PartialEq, Eq)]
struct Levels {
    /// For all other targets.
    other: Option<LevelFilter>,
    /// By module path, longest first.
    named: Vec<(String, LevelFilter)>,
}

impl Levels {
    /// Also returns the words that are not valid.
    fn parse(text: &str) -> (Levels, Vec<String>) {
        let mut levels = Levels::default();
        let mut bad = Vec::new();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (target, level) = match word.split_once('=') {
                Some((target, level)) => (Some(target.trim()), level.trim()),
                None => (None, word),
            };
            match (target, level.parse()) {
                (None, Ok(level)) => levels.other = Some(level),
                (Some(target), Ok(level)) => levels.named.push((target.to_string(), level)),
                (_, Err(_)) => bad.push(word.to_string()),
            }
        }
        levels
            .named
            .sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        (levels, bad)
    }

    /// The level of a target. `saltpeter::` may be omitted in SALTPETER_LOG.
    fn of(&self, target: &str, debug: bool) -> LevelFilter {
        let short = target.strip_prefix("saltpeter::").unwrap_or(target);
        let is_within = |name: &str| {
            [target, short].iter().any(|path| {
                path.strip_prefix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            })
        };
        if let Some((_, level)) = self.named.iter().find(|(name, _)| is_within(name)) {
            return *level;
        }
        match self.other.unwrap_or(usual(debug)) {
            // below warnings, entries of other crates are of no use to an operator
            level if !target.starts_with("saltpeter") => level.min(LevelFilter::Warn),
            level => level,
        }
    }

    fn most(&self, debug: bool) -> LevelFilter {
        let named = self.named.iter().map(|(_, level)| *level).max();
        self.other
            .unwrap_or(usual(debug))
            .max(named.unwrap_or(LevelFilter::Off))
    }
}

fn usual(debug: bool) -> LevelFilter {
    if debug {
        LevelFilter::Debug
    } else {
        LevelFilter::Info
    }
}

/// Whether stderr is the journal's socket, which systemd identifies by device and inode.
fn is_journal(stream: Option<&OsStr>) -> bool {
    let Some((device, inode)) = stream
        .and_then(OsStr::to_str)
        .and_then(|text| text.split_once(':'))
    else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| stat.st_dev.to_string() == device && stat.st_ino.to_string() == inode)
}

/// What the writing thread does next.
enum Order {
    Write(Entry),
    /// Report that everything before it is written.
    Tell(Sender<()>),
    End,
}

/// One entry of the log.
struct Entry {
    time: Wall,
    level: Level,
    target: String,
    message: String,
}

impl Entry {
    fn new(level: Level, target: &str, message: String) -> Entry {
        Entry {
            time: clock::wall(),
            level,
            target: target.to_string(),
            message,
        }
    }

    fn write(&self) {
        let format = SETUP.get().map_or(Format::Plain, |setup| setup.format);
        let line = line(format, &self.time.utc(), self.level, &self.target, &self.message);
        // if stderr is closed, there is nowhere to report it
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let debug = IS_DEBUG.load(Ordering::Relaxed);
        SETUP
            .get()
            .is_some_and(|setup| metadata.level() <= setup.levels.of(metadata.target(), debug))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let entry = Entry::new(record.level(), record.target(), record.args().to_string());
            let queue = QUEUE.read();
            let Some(queue) = &*queue else {
                return entry.write();
            };
            if queue.try_send(Order::Write(entry)).is_err() {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn flush(&self) {}
}

/// Formats one entry as one line: control characters are escaped.
fn line(
    format: Format,
    time: &chrono::DateTime<chrono::Utc>,
    level: Level,
    target: &str,
    message: &str,
) -> String {
    let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
    let name = level.as_str().to_lowercase();
    let message = message.trim_end();
    let mut line = match format {
        Format::Plain => format!("{time} {name} {target}: "),
        Format::Journal => format!("<{}>{target}: ", priority(level)),
        Format::Json => {
            let entry =
                serde_json::json!({"time": time, "level": name, "target": target, "message": message});
            return format!("{entry}\n");
        }
    };
    for letter in message.chars() {
        if letter.is_control() && letter != '\t' {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line.push('\n');
    line
}

/// The syslog priority.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_in_every_format() {
        let time = clock::Wall(1_795_255_200_123_456).utc();
        let written = |format| line(format, &time, Level::Warn, "saltpeter::config", "first\nsecond\n");
        assert_eq!(
            written(Format::Plain),
            "2026-11-21T10:00:00.123Z warn saltpeter::config: first\\nsecond\n"
        );
        assert_eq!(written(Format::Journal), "<4>saltpeter::config: first\\nsecond\n");
        let json: serde_json::Value = serde_json::from_str(&written(Format::Json)).unwrap();
        assert_eq!(json["message"], "first\nsecond");
        assert_eq!(json["level"], "warn");
        assert_eq!(written(Format::Json).matches('\n').count(), 1);
    }

    #[test]
    fn a_flush_waits_for_the_thread_that_writes_and_no_longer_than_told() {
        let (sender, queue) = bounded(1);
        assert!(!flush(&sender, 1), "no thread takes it");
        assert!(!flush(&sender, 1), "the queue is full");
        std::thread::scope(|scope| {
            scope.spawn(|| write_queued(&queue));
            let entry = Entry::new(Level::Info, "test", "flushed".to_string());
            sender.send(Order::Write(entry)).unwrap();
            assert!(flush(&sender, 120_000));
            assert!(queue.is_empty());
            sender.send(Order::End).unwrap();
        });
        drop(queue);
        assert!(!flush(&sender, 120_000), "no thread will");
    }

    #[test]
    fn levels_hold_for_a_module_and_what_is_below_it() {
        let (levels, bad) =
            Levels::parse("warn, storage=debug,saltpeter::storage::worker=trace,nonsense,a=b");
        assert_eq!(bad, ["nonsense", "a=b"]);
        let of = |target| levels.of(target, false);
        assert_eq!(of("saltpeter::engine"), LevelFilter::Warn);
        assert_eq!(of("saltpeter::storage"), LevelFilter::Debug);
        assert_eq!(of("saltpeter::storage::history"), LevelFilter::Debug);
        assert_eq!(of("saltpeter::storage::worker"), LevelFilter::Trace);
        assert_eq!(of("saltpeter::storage_other"), LevelFilter::Warn);
        assert_eq!(levels.most(false), LevelFilter::Trace);
    }

    #[test]
    fn without_saltpeter_log_the_setting_debug_decides_and_other_crates_stay_quiet() {
        let (levels, _) = Levels::parse("");
        assert_eq!(levels.of("saltpeter::engine", false), LevelFilter::Info);
        assert_eq!(levels.of("saltpeter::engine", true), LevelFilter::Debug);
        assert_eq!(levels.of("tungstenite::protocol", true), LevelFilter::Warn);
        assert_eq!(levels.most(true), LevelFilter::Debug);
    }

    #[test]
    fn only_the_journals_own_socket_is_the_journal() {
        let stat = rustix::fs::fstat(std::io::stderr()).unwrap();
        let own = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_journal(Some(OsStr::new(&own))));
        assert!(!is_journal(Some(OsStr::new("0:0"))));
        assert!(!is_journal(None));
    }
}
