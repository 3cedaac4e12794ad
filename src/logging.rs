//! The log: plain lines on stderr, `2026-11-21T10:00:00.123Z level target: message`.
//! Must not know: who logs what.

use std::io::Write;

use chrono::SecondsFormat;
use log::{LevelFilter, Log, Metadata, Record};

use crate::clock;

/// Sends what is logged to stderr, one line an entry, from level `info` on. A second call has no effect.
pub fn start() {
    if log::set_logger(&LOGGER).is_ok() {
        set_debug(false);
    }
}

/// Whether debug entries are written too; may be changed at any time.
pub fn set_debug(debug: bool) {
    log::set_max_level(if debug {
        LevelFilter::Debug
    } else {
        LevelFilter::Info
    });
}

static LOGGER: Stderr = Stderr;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // the crates we use have nothing to say below a warning that an operator needs
        metadata.target().starts_with("saltpeter") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line(&clock::wall().utc(), record);
            // nobody is left to tell if stderr is gone
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// One entry is one line: control characters in it are written as escapes.
fn line(time: &chrono::DateTime<chrono::Utc>, record: &Record<'_>) -> String {
    let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
    let level = record.level().as_str().to_lowercase();
    let message = record.args().to_string();
    let mut line = format!("{time} {level} {}: ", record.target());
    for letter in message.trim_end().chars() {
        if letter.is_control() && letter != '\t' {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_with_time_level_and_target() {
        let time = clock::Wall(1_795_255_200_123_456).utc();
        let record = Record::builder()
            .level(log::Level::Warn)
            .target("saltpeter::config")
            .args(format_args!("first\nsecond\n"))
            .build()
            .clone();
        assert_eq!(
            line(&time, &record),
            "2026-11-21T10:00:00.123Z warn saltpeter::config: first\\nsecond\n"
        );
    }
}
