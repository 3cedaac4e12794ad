//! How a machine run ends: the exit code, who gave it, and the line that says so. Both programs take them from here, so each
//! code and each line is written once (rules.md, "Exit codes").
//! Must not know: sessions, storage, what an end brings.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Exit codes that Saltpeter gives. A command may end with the same codes: [`GivenBy`] tells which it was.
pub mod code {
    /// The job's `timeout` was exceeded.
    pub const TIMED_OUT: i32 = 124;
    /// A user killed it.
    pub const KILLED: i32 = 143;
    /// No heartbeat came for `heartbeat_timeout`.
    pub const LOST: i32 = 253;
    /// The wrapper did not start, or another run holds its lock.
    pub const NOT_STARTED: i32 = 254;
    /// The machine did not respond, or any other error.
    pub const ERROR: i32 = 255;
    /// Added to the number of the signal that ended a command.
    pub const SIGNALED: i32 = 128;
}

/// Who gave a machine run its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GivenBy {
    /// The command itself, whatever the code.
    Command,
    /// The job's `timeout`.
    Timeout,
    /// A user's kill.
    Kill,
    /// The daemon, which no longer heard from the wrapper.
    Lost,
    /// Nothing: the command was not started.
    NotStarted,
    /// An error of the machine, the executor or the wrapper.
    Error,
    /// Nothing: the machine was in maintenance.
    Maintenance,
}

impl GivenBy {
    const ALL: [GivenBy; 7] = [
        GivenBy::Command,
        GivenBy::Timeout,
        GivenBy::Kill,
        GivenBy::Lost,
        GivenBy::NotStarted,
        GivenBy::Error,
        GivenBy::Maintenance,
    ];

    /// The word in frames and in storage.
    pub fn word(self) -> &'static str {
        match self {
            GivenBy::Command => "command",
            GivenBy::Timeout => "timeout",
            GivenBy::Kill => "kill",
            GivenBy::Lost => "lost",
            GivenBy::NotStarted => "not_started",
            GivenBy::Error => "error",
            GivenBy::Maintenance => "maintenance",
        }
    }

    /// The opposite of [`GivenBy::word`]; None: a word of a newer version.
    pub fn of_word(word: &str) -> Option<GivenBy> {
        GivenBy::ALL.into_iter().find(|given_by| given_by.word() == word)
    }

    /// What a code stands for where nobody says who gave it.
    pub fn of_code(code: i32) -> GivenBy {
        match code {
            code::TIMED_OUT => GivenBy::Timeout,
            code::KILLED => GivenBy::Kill,
            code::LOST => GivenBy::Lost,
            code::NOT_STARTED => GivenBy::NotStarted,
            code::ERROR => GivenBy::Error,
            _ => GivenBy::Command,
        }
    }

    /// The outcome in one word, as the API and the metrics have it.
    pub fn outcome(self, code: i32) -> &'static str {
        match self {
            GivenBy::Command if code == 0 => "success",
            GivenBy::Command => "failed",
            GivenBy::Timeout => "timeout",
            GivenBy::Kill => "killed",
            GivenBy::Lost => "lost",
            GivenBy::NotStarted => "not_started",
            GivenBy::Error => "error",
            GivenBy::Maintenance => "maintenance",
        }
    }
}

/// The end of a machine run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub code: i32,
    pub given_by: GivenBy,
    /// The daemon gave it by itself; a wrapper may still report the true one (rules.md 4).
    pub presumed: bool,
    /// Whether the machine counts for the run's success.
    pub counted: bool,
    /// Lines after the command's own output, without the last line's end.
    pub note: Option<Cow<'static, str>>,
}

impl Ending {
    /// An end without a note that is certain and counts.
    pub fn new(code: i32, given_by: GivenBy) -> Ending {
        Ending {
            code,
            given_by,
            presumed: false,
            counted: true,
            note: None,
        }
    }

    /// The same with a note.
    pub fn noted(self, note: impl Into<Cow<'static, str>>) -> Ending {
        Ending {
            note: Some(note.into()),
            ..self
        }
    }

    /// The same, presumed or not.
    pub fn presumed(self, presumed: bool) -> Ending {
        Ending { presumed, ..self }
    }

    /// The same, of a machine that says nothing about the run's success.
    pub fn not_counted(self) -> Ending {
        Ending {
            counted: false,
            ..self
        }
    }

    /// One more line after the output.
    pub fn add_note(&mut self, line: &str) {
        self.note = Some(match self.note.take() {
            Some(note) => format!("{note}\n{line}").into(),
            None => line.to_string().into(),
        });
    }

    /// The command ended by itself.
    pub fn exited(code: i32) -> Ending {
        Ending::new(code, GivenBy::Command)
    }

    /// A signal that nobody sent for Saltpeter ended the command.
    pub fn signaled(signal: i32) -> Ending {
        Ending::exited(code::SIGNALED.saturating_add(signal))
    }

    /// A user's kill ended the command.
    pub fn killed() -> Ending {
        Ending::new(code::KILLED, GivenBy::Kill).noted("[Job terminated by user request]")
    }

    /// A user's kill came before the command was started.
    pub fn killed_before() -> Ending {
        Ending::new(code::KILLED, GivenBy::Kill).noted("[Job killed before execution]")
    }

    /// A user's kill brought no end that was reported.
    pub fn killed_unreported(waited_s: u64) -> Ending {
        Ending::new(code::KILLED, GivenBy::Kill).noted(format!(
            "[SALTPETER ERROR: Job was killed, and its wrapper did not report an end within {waited_s} seconds]"
        ))
    }

    /// The job's `timeout` ended the command.
    pub fn timed_out(timeout_s: u64) -> Ending {
        let note = format!("[SALTPETER ERROR: Job timed out after {timeout_s} seconds]");
        Ending::new(code::TIMED_OUT, GivenBy::Timeout).noted(note)
    }

    /// The job's `timeout` brought no end that was reported.
    pub fn timed_out_unreported(timeout_s: u64) -> Ending {
        Ending::new(code::TIMED_OUT, GivenBy::Timeout).noted(format!(
            "[SALTPETER ERROR: Job exceeded its timeout of {timeout_s} seconds, and its wrapper did not report an end]"
        ))
    }

    /// The wrapper is silent.
    pub fn lost(silent_s: u64) -> Ending {
        let note = format!("[SALTPETER ERROR: Job lost connection - no heartbeat for {silent_s} seconds]");
        Ending::new(code::LOST, GivenBy::Lost).noted(note).presumed(true)
    }

    /// The command was not started; `note` says why.
    pub fn not_started(note: impl Into<Cow<'static, str>>) -> Ending {
        Ending::new(code::NOT_STARTED, GivenBy::NotStarted).noted(note)
    }

    /// Too many other machines of the run have failed.
    pub fn too_many_failures(most: usize) -> Ending {
        let note = format!("[SALTPETER: not started: more than {most} machines failed (max_failures)]");
        Ending::not_started(note)
    }

    /// Another run holds the lock.
    pub fn locked(message: &str) -> Ending {
        Ending::not_started(format!("LOCKFILE ERROR: {message}"))
    }

    /// Something other than the command went wrong; `note` says what.
    pub fn error(note: impl Into<Cow<'static, str>>) -> Ending {
        Ending::new(code::ERROR, GivenBy::Error).noted(note)
    }

    /// The wrapper itself was told to stop.
    pub fn told_to_stop() -> Ending {
        Ending::error("[wrapper was told to stop]")
    }

    /// The machine did not respond to the ping.
    pub fn no_response() -> Ending {
        Ending::error("Target did not respond")
    }

    /// The machine is none of the job's.
    pub fn no_target() -> Ending {
        Ending::error("Not among the machines that the job's targets match")
    }

    /// The machine is in maintenance.
    pub fn maintenance() -> Ending {
        Ending::new(0, GivenBy::Maintenance)
            .noted("Target under maintenance")
            .not_counted()
    }
}

/// A line that tells an error of Saltpeter's own.
pub fn error_note(what: &str) -> String {
    format!("[SALTPETER ERROR: {what}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_own_code_is_its_own_whatever_it_is() {
        for code in [124, 143, 253, 254, 255, 3] {
            assert_eq!(GivenBy::Command.outcome(code), "failed");
        }
        assert_eq!(GivenBy::Command.outcome(0), "success");
        assert_eq!(GivenBy::of_code(143).outcome(143), "killed");
        for given_by in GivenBy::ALL {
            assert_eq!(GivenBy::of_word(given_by.word()), Some(given_by));
        }
        assert_eq!(GivenBy::of_word("a word of tomorrow"), None);
    }
}
