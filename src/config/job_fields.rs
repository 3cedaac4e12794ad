//! The fields of a job as its file has them: which there are, their values with what is doubtful about them, and the problems
//! found, each with its place.
//! Must not know: what a field means.

use std::collections::BTreeMap;

use super::lines::{Lines, Style};
use super::node::Node;
use super::{Problem, Severity, value};
use crate::schedule::Fields;

/// The file that a job or a section stands in, for the places of problems.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub file: &'a str,
    pub lines: &'a Lines<'a>,
}

/// The schedule as one text.
pub(super) const SCHEDULE: &str = "schedule";

/// The seven fields.
pub(super) const SCHEDULE_FIELDS: [&str; 7] = ["sec", "min", "hour", "dom", "mon", "dow", "year"];
/// Those of them that have no default.
pub(super) const REQUIRED_FIELDS: [&str; 5] = ["min", "hour", "dom", "mon", "dow"];

const OTHER_FIELDS: [&str; 38] = [
    SCHEDULE,
    "utc",
    "command",
    "targets",
    "target_type",
    "cwd",
    "user",
    "env",
    "timeout",
    "number_of_targets",
    "batch_size",
    "success",
    "max_failures",
    "allow_overlap",
    "lockfile",
    "use_wrapper",
    "wrapper_path",
    "wrapper_loglevel",
    "wrapper_logdir",
    "saltpeter_server_host",
    "timezone",
    "enabled",
    "description",
    "output_limit",
    "heartbeat_timeout",
    "start_timeout",
    "catch_up",
    "start_deadline",
    "wrapper_delivery",
    "parameters",
    "notify",
    "expect_within",
    "warn_after",
    "min_runtime",
    "hard_timeout",
    "soft_timeout",
    "group",
    "name",
];
/// Fields that say nothing here, and why.
const IGNORED_FIELDS: [(&str, &str); 4] = [
    (
        "hard_timeout",
        "is ignored, as it always was; rename it to 'timeout'",
    ),
    (
        "soft_timeout",
        "is ignored, as it always was; rename it to 'timeout'",
    ),
    ("group", "is ignored: a job's group is its file's name"),
    ("name", "is ignored: a job's name is its key in the file"),
];

/// What other schedulers call a field, and what to write here.
const FOREIGN_FIELDS: [(&str, &str); 11] = [
    (
        "cron",
        "write 'schedule', or 'min', 'hour', 'dom', 'mon' and 'dow'",
    ),
    ("tz", "did you mean 'timezone'?"),
    ("day", "did you mean 'dom' (day of month) or 'dow' (day of week)?"),
    ("weekday", "did you mean 'dow' (day of week)?"),
    ("cmd", "did you mean 'command'?"),
    ("script", "did you mean 'command'?"),
    ("hosts", "did you mean 'targets'?"),
    ("machines", "did you mean 'targets'?"),
    ("workdir", "did you mean 'cwd'?"),
    ("run_as", "did you mean 'user'?"),
    ("disabled", "write 'enabled: false'"),
];

/// Every field that a job may have, those that are ignored too.
pub fn known_fields() -> impl Iterator<Item = &'static str> {
    SCHEDULE_FIELDS.into_iter().chain(OTHER_FIELDS)
}

impl Source<'_> {
    /// A problem with the field at the path (job or section first).
    pub fn problem(&self, path: &[&str], reason: impl Into<String>, severity: Severity) -> Problem {
        Problem {
            file: self.file.to_string(),
            line: self.lines.line_of(path),
            field: path.join("."),
            reason: reason.into(),
            severity,
        }
    }
}

/// The fields of one job while it is validated.
pub(super) struct JobFields<'s, 'a> {
    pub(super) source: Source<'s>,
    pub(super) name: &'a str,
    pub(super) values: BTreeMap<String, &'a Node>,
    pub(super) problems: &'a mut Vec<Problem>,
    pub(super) failed: bool,
    /// The seven fields that a `schedule` stands for.
    pub(super) expanded: Option<Fields>,
}

impl<'a> JobFields<'_, 'a> {
    pub(super) fn error(&mut self, field: &str, reason: impl Into<String>) {
        self.failed = true;
        self.add(field, reason, Severity::Error);
    }

    pub(super) fn warning(&mut self, field: &str, reason: impl Into<String>) {
        self.add(field, reason, Severity::Warning);
    }

    pub(super) fn add(&mut self, field: &str, reason: impl Into<String>, severity: Severity) {
        let path = if field.is_empty() {
            vec![self.name]
        } else {
            vec![self.name, field]
        };
        self.problems.push(self.source.problem(&path, reason, severity));
    }

    /// Sorts the entries by name; tells of unknown, ignored and doubled ones.
    pub(super) fn take(&mut self, entries: &'a [(Node, Node)]) {
        for (key, value) in entries {
            let Some(field) = key.key_text() else {
                self.warning("", format!("a field's name is {}, ignored", key.kind()));
                continue;
            };
            if let Some((_, reason)) = IGNORED_FIELDS.iter().find(|(ignored, _)| *ignored == field) {
                self.warning(&field, *reason);
            } else if !SCHEDULE_FIELDS.contains(&field.as_str()) && !OTHER_FIELDS.contains(&field.as_str()) {
                self.warning(&field, unknown_field(&field));
            }
            if self.values.insert(field.clone(), value).is_some() {
                self.warning(&field, "given twice: the later one counts; remove one");
            }
        }
    }

    /// As [`JobFields::get`]. Tells if YAML 1.1 read another number.
    pub(super) fn number<T>(
        &mut self,
        field: &str,
        read: impl Fn(&Node) -> Result<Option<T>, String>,
    ) -> Option<T> {
        if let Some(doubt) = self.values.get(field).and_then(|node| value::number_doubt(node))
            && self.source.lines.style(&[self.name, field]) != Style::Quoted
        {
            self.warning(field, doubt);
        }
        self.get(field, read)
    }

    pub(super) fn get<T>(
        &mut self,
        field: &str,
        read: impl Fn(&Node) -> Result<Option<T>, String>,
    ) -> Option<T> {
        let node = *self.values.get(field)?;
        read(node).unwrap_or_else(|reason| {
            self.error(field, reason);
            None
        })
    }

    pub(super) fn flag(&mut self, field: &str, default: bool) -> bool {
        self.get(field, value::flag).unwrap_or(default)
    }

    /// A text, or None if it is missing or empty. Tells if YAML 1.1 read it otherwise.
    pub(super) fn text(&mut self, field: &str) -> Option<String> {
        self.doubt(field);
        self.get(field, value::text).filter(|text| !text.is_empty())
    }

    pub(super) fn doubt(&mut self, field: &str) {
        if let Some(doubt) = self.values.get(field).and_then(|node| value::text_doubt(node))
            && self.source.lines.style(&[self.name, field]) != Style::Quoted
        {
            self.warning(field, doubt);
        }
    }

    pub(super) fn choice<T: Copy>(&mut self, field: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.get(field, value::text)?;
        let found = choices
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, choice)| *choice);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.error(
                field,
                format!(
                    "must be one of {}, not '{}'",
                    words.join(", "),
                    text.escape_debug()
                ),
            );
        }
        found
    }
}

fn unknown_field(field: &str) -> String {
    match FOREIGN_FIELDS.iter().find(|(foreign, _)| *foreign == field) {
        Some((_, advice)) => format!("unknown field, ignored; {advice}"),
        None => value::unknown("field", field, known_fields()),
    }
}
