//! Notices: what there is to tell about a job, for whom, and what is remembered of it so that each change is told once.
//! Must not know: how a notice is delivered, when.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Wall;
use crate::config::notifiers::Notifier;
use crate::config::notify::{NoticeKind, Notify};
use crate::limits;

/// A notice for one destination, as stored. Written whole whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoticeRecord {
    /// Unique while it is stored.
    pub id: u64,
    /// Name of the destination.
    pub to: String,
    /// When it was judged.
    pub at: Wall,
    /// Quiet hours hold it until then.
    pub not_before: Option<Wall>,
    /// The message that it is part of, with which it is tried again: the same id each time. None: not grouped yet.
    pub message: Option<String>,
    pub stage: NoticeStage,
    pub tries: u32,
    /// Why the last try failed.
    pub error: Option<String>,
    /// When it was delivered or given up.
    pub done: Option<Wall>,
    pub facts: Arc<NoticeFacts>,
}

/// How far a notice has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoticeStage {
    #[default]
    Waiting,
    Sent,
    /// Given up.
    Failed,
}

impl NoticeStage {
    /// The opposite of [`NoticeStage::word`].
    pub fn of_word(word: &str) -> Option<NoticeStage> {
        let all = [NoticeStage::Waiting, NoticeStage::Sent, NoticeStage::Failed];
        all.into_iter().find(|stage| stage.word() == word)
    }

    /// The word for it in `state.db` and in answers.
    pub fn word(self) -> &'static str {
        match self {
            NoticeStage::Waiting => "waiting",
            NoticeStage::Sent => "sent",
            NoticeStage::Failed => "failed",
        }
    }
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeFacts {
    pub kind: NoticeKind,
    /// Empty: a test.
    pub job: String,
    #[serde(default)]
    pub group: String,
    #[serde(default)]
    pub description: String,
    pub instance: Option<String>,
    pub due: Option<Wall>,
    pub started: Option<Wall>,
    pub ended: Option<Wall>,
    /// When the first run of the failures in a row ended.
    pub failing_since: Option<Wall>,
    /// Failed runs in a row.
    #[serde(default)]
    pub failures: u32,
    /// Machines that count, and those of them that failed.
    #[serde(default)]
    pub total: u64,
    #[serde(default)]
    pub failed: u64,
    /// Machines that failed, up to [`limits::NOTICE_MACHINES`].
    #[serde(default)]
    pub machines: Vec<NoticeMachine>,
    /// Anything else: why no machine run came of it, why it was missed.
    pub note: Option<String>,
    /// Told before; the failure lasts.
    #[serde(default)]
    pub is_reminder: bool,
    /// A presumed outcome that was told was wrong.
    #[serde(default)]
    pub is_revised: bool,
}

/// A machine of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeMachine {
    pub machine: String,
    pub retcode: i32,
    /// In one word, as the API has it.
    pub outcome: String,
    pub machine_run: u64,
    /// Day file of its output.
    pub day: i64,
    pub limit_bytes: u64,
}

/// One message to a destination: notices that arrived together.
#[derive(Clone, Debug)]
pub struct Message {
    /// The same for each try: the header `webhook-id`.
    pub id: String,
    pub notifier: Arc<Notifier>,
    pub notices: Vec<NoticeRecord>,
}

/// Why a message was not delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryError {
    /// For people; nothing secret.
    pub reason: String,
    /// The receiver asks for this pause.
    pub retry_after_s: Option<u64>,
    /// The message itself was refused: those behind it need not wait for it.
    pub is_refusal: bool,
    /// The receiver wants no more of them (410).
    pub is_gone: bool,
}

/// What is remembered of a job, so that each change is told once; stored in the commit of what changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoticeState {
    /// Failed runs in a row, and when the first of them ended.
    pub failures: u32,
    pub failing_since: Option<Wall>,
    /// When the failure was told last; None: it was not.
    pub told: Option<Wall>,
    /// The latest runs that were judged, the newest last, and whether they succeeded.
    judged: Vec<(String, bool)>,
    /// Outcomes of the latest runs, a bit each, the newest lowest; and how many there are.
    history: u32,
    history_len: u32,
    pub is_flapping: bool,
    /// Told since a run ended last.
    pub missed_told: bool,
    pub late_told: bool,
    /// The latest run was short, and that was told.
    pub short_told: bool,
    /// The run of which it was told that it takes long.
    pub long_told: Option<String>,
    /// Up to this second, due times have a run that ended.
    pub covered_s: i64,
}

/// What a run's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Failure,
    Recovery { is_revised: bool },
    Success,
    Flapping,
}

impl NoticeState {
    /// A run has ended, for the first time or again. What is to be told, if anything; `wants_failure`: a failure may be told at
    /// all.
    pub fn ended(
        &mut self,
        instance: &str,
        is_ok: bool,
        at: Wall,
        notify: &Notify,
        wants_failure: bool,
    ) -> Option<Change> {
        let newest = self.judged.len().saturating_sub(1);
        if let Some(place) = self.judged.iter().position(|(name, _)| name == instance) {
            let was_ok = std::mem::replace(&mut self.judged[place].1, is_ok);
            if was_ok == is_ok {
                return None;
            }
            return self.revised(place == newest, is_ok, at);
        }
        self.judged.push((instance.to_string(), is_ok));
        if self.judged.len() > limits::NOTICE_JUDGED {
            self.judged.remove(0);
        }
        self.history = self.history << 1 | u32::from(is_ok);
        self.history_len = (self.history_len + 1).min(limits::FLAPPING_RUNS);
        let was_told = self.told;
        self.count(is_ok, at);
        if self.is_flapping {
            if self.equal() < limits::FLAPPING_END {
                return None;
            }
            self.is_flapping = false;
            // what was before is over
            self.history_len = 1;
            return self.settled(is_ok, at, wants_failure);
        }
        if self.changes() >= limits::FLAPPING_CHANGES {
            self.is_flapping = true;
            return Some(Change::Flapping);
        }
        if is_ok {
            self.told = None;
            return Some(match was_told {
                Some(_) => Change::Recovery { is_revised: false },
                None => Change::Success,
            });
        }
        let is_new = was_told.is_none() && self.failures >= notify.after && wants_failure;
        is_new.then(|| {
            self.told = Some(at);
            Change::Failure
        })
    }

    /// The outcome of a run that was judged has changed.
    fn revised(&mut self, is_newest: bool, is_ok: bool, at: Wall) -> Option<Change> {
        if !is_newest {
            // what came after it says how the job is
            if is_ok {
                self.failures = self.failures.saturating_sub(1);
            }
            return None;
        }
        self.history = self.history & !1 | u32::from(is_ok);
        self.count(is_ok, at);
        let was_told = is_ok && self.told.take().is_some();
        (was_told && !self.is_flapping).then_some(Change::Recovery { is_revised: true })
    }

    fn count(&mut self, is_ok: bool, at: Wall) {
        if is_ok {
            self.failures = 0;
            self.failing_since = None;
        } else {
            self.failures += 1;
            self.failing_since.get_or_insert(at);
        }
    }

    /// Flapping is over: the state that it came to is told.
    fn settled(&mut self, is_ok: bool, at: Wall, wants_failure: bool) -> Option<Change> {
        if is_ok {
            self.told = None;
            return Some(Change::Recovery { is_revised: false });
        }
        self.told = wants_failure.then_some(at);
        wants_failure.then_some(Change::Failure)
    }

    /// How often the outcome changed within the latest runs.
    fn changes(&self) -> u32 {
        let pairs = self.history_len.saturating_sub(1);
        ((self.history ^ self.history >> 1) & ((1 << pairs) - 1)).count_ones()
    }

    /// How many of the latest runs had the same outcome.
    fn equal(&self) -> u32 {
        let same = if self.history & 1 == 1 {
            self.history.trailing_ones()
        } else {
            self.history.trailing_zeros()
        };
        same.min(self.history_len)
    }
}

impl NoticeFacts {
    /// With nothing but what it is about.
    pub fn about(kind: NoticeKind, job: &str) -> NoticeFacts {
        NoticeFacts {
            kind,
            job: job.to_string(),
            group: String::new(),
            description: String::new(),
            instance: None,
            due: None,
            started: None,
            ended: None,
            failing_since: None,
            failures: 0,
            total: 0,
            failed: 0,
            machines: Vec::new(),
            note: None,
            is_reminder: false,
            is_revised: false,
        }
    }

    /// One line: what happened to which job.
    pub fn summary(&self) -> String {
        let job = &self.job;
        let run = self.instance.as_deref().unwrap_or(job);
        let note = self
            .note
            .as_ref()
            .map_or_else(String::new, |note| format!(": {note}"));
        let text = match self.kind {
            NoticeKind::Failure | NoticeKind::Lost if self.is_reminder => {
                let since = self.failing_since.map_or_else(String::new, minute);
                format!("{job} is still failing since {since} ({} runs)", self.failures)
            }
            NoticeKind::Failure | NoticeKind::Lost => {
                let times = match self.failures {
                    0 | 1 => String::new(),
                    count => format!(", {count} times in a row"),
                };
                format!("{job} failed{}{times}{note}", self.where_it_failed())
            }
            NoticeKind::Recovery if self.is_revised => {
                format!("{job} recovered: the outcome of {run} was revised, it succeeded")
            }
            NoticeKind::Recovery => format!("{job} recovered: {run} succeeded"),
            NoticeKind::Success => format!("{job} succeeded: {run}"),
            NoticeKind::Missed => {
                let due = self.due.map_or_else(String::new, minute);
                format!("{job} missed its due time {due}{note}")
            }
            NoticeKind::Late => {
                let due = self.due.map_or_else(String::new, minute);
                format!("{job} is late: no run for its due time {due} has ended yet")
            }
            NoticeKind::Long => {
                let started = self.started.map_or_else(String::new, minute);
                format!("{job} takes long: {run} has been running since {started}")
            }
            NoticeKind::Short => {
                let ms = self
                    .started
                    .zip(self.ended)
                    .map_or(0, |(from, to)| (to.0 - from.0) / 1_000);
                format!(
                    "{job} took only {:.1} s: {run} succeeded suspiciously soon",
                    ms as f64 / 1e3
                )
            }
            NoticeKind::Flapping => {
                format!(
                    "{job} is flapping: its runs fail and succeed by turns; nothing more is told until they agree"
                )
            }
            NoticeKind::Test => "test of this destination, requested by a user".to_string(),
        };
        // what machines and notes are called may be anything
        text.replace(char::is_control, " ")
    }

    /// ` on 2 of 5 machines (web01: exit code 3, web02: lost)`.
    fn where_it_failed(&self) -> String {
        if self.machines.is_empty() {
            return String::new();
        }
        let shown = self.machines.iter().take(limits::NOTICE_MACHINES_IN_LINE);
        let mut shown: Vec<String> = shown
            .map(|machine| match machine.outcome.as_str() {
                "failed" | "error" => format!("{}: exit code {}", machine.machine, machine.retcode),
                word => format!(
                    "{}: {} ({})",
                    machine.machine,
                    word.replace('_', " "),
                    machine.retcode
                ),
            })
            .collect();
        let more = self.failed.saturating_sub(shown.len() as u64);
        if more > 0 {
            shown.push(format!("+{more} more"));
        }
        let machines = match self.total {
            1 => String::new(),
            total => format!("{} of {total} machines ", self.failed),
        };
        match self.total {
            1 => format!(" on {}", shown.join(", ")),
            _ => format!(" on {machines}({})", shown.join(", ")),
        }
    }
}

/// `2026-11-27 02:00 UTC`.
fn minute(at: Wall) -> String {
    at.utc().format("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::notify::NotifyRule;

    fn told(outcomes: &str, after: u32) -> String {
        let rule = NotifyRule {
            after: Some(after),
            ..NotifyRule::default()
        };
        let notify = rule.over(&NotifyRule::default());
        let mut state = NoticeState::default();
        let letters = outcomes.chars().enumerate().map(|(number, letter)| {
            let change = state.ended(&number.to_string(), letter == '+', Wall(1), &notify, true);
            match change {
                None => '.',
                Some(Change::Failure) => 'F',
                Some(Change::Recovery { .. }) => 'R',
                Some(Change::Success) => '.',
                Some(Change::Flapping) => 'X',
            }
        });
        letters.collect()
    }

    #[test]
    fn a_failure_is_told_once_and_so_is_its_end() {
        assert_eq!(told("++---+--+", 1), "..F..RF.R");
        assert_eq!(told("++-+--+", 2), ".....FR");
    }

    #[test]
    fn flapping_is_told_once_and_then_the_state_that_it_comes_to() {
        assert_eq!(told("-+-+-+-+-+++++++", 1), "FRFRFRX......R..");
        assert_eq!(told("-+-+-+-+-+------", 1), "FRFRFRX.......F.");
        // long ago is forgotten
        let calm = format!("-+-+{}-+-+", "+".repeat(20));
        assert_eq!(told(&calm, 1), format!("FRFR{}FRFR", ".".repeat(20)));
    }

    #[test]
    fn a_revised_outcome_recalls_what_was_told_and_counts_once() {
        let notify = NotifyRule::default().over(&NotifyRule::default());
        let mut state = NoticeState::default();
        let mut end = |run: &str, ok| state.ended(run, ok, Wall(1), &notify, true);
        assert_eq!(end("a", false), Some(Change::Failure));
        assert_eq!(end("a", false), None);
        assert_eq!(end("a", true), Some(Change::Recovery { is_revised: true }));
        assert_eq!(end("b", false), Some(Change::Failure));
        assert_eq!(end("c", false), None);
        // the job still fails: an older run says nothing
        assert_eq!(end("b", true), None);
        assert_eq!(end("d", true), Some(Change::Recovery { is_revised: false }));
    }
}
