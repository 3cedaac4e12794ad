//! From what a file says of a job to a valid [`Job`], with all that is wrong told at once.
//! Must not know: directories, reloads, what was last good.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::crontab;
use super::lines::{Lines, Style};
use super::node::{Node, python_text};
use super::notify::{self, JobNotices, NoticeKind};
use super::{Delivery, Job, JobSpec, Problem, RawJob, Severity, Targets, value, yaml11};
use crate::clock;
use crate::limits;
use crate::schedule::{self, FieldError, Fields, Schedule, Tz};

/// What settings lend to jobs that say nothing themselves. Jobs are validated again when it changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    pub zone: Tz,
    pub output_limit_bytes: u64,
    pub heartbeat_timeout_ms: u64,
    pub start_timeout_ms: u64,
    pub delivery: Delivery,
}

/// The file that a job or a section stands in, for the places of problems.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub file: &'a str,
    pub lines: &'a Lines<'a>,
}

/// Schedules of jobs that are read together: equal ones share what they hold, which is most of a job's memory.
#[derive(Default)]
pub struct Schedules(HashMap<String, Schedule>);

impl Schedules {
    fn parse(&mut self, fields: &Fields, zone: Tz) -> Result<Schedule, Vec<FieldError>> {
        let Fields {
            sec,
            min,
            hour,
            dom,
            mon,
            dow,
            year,
        } = fields;
        let key = [sec.as_str(), min, hour, dom, mon, dow, year, zone.name()].join("\n");
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let schedule = Schedule::parse(fields, zone)?;
        self.0.insert(key, schedule.clone());
        Ok(schedule)
    }
}

/// `target_type`: Salt's names, as LocalClient takes them. Salt itself reads an unknown kind as one that matches nothing.
pub const TARGET_TYPES: [&str; 13] = [
    "glob",
    "pcre",
    "list",
    "grain",
    "grain_pcre",
    "pillar",
    "pillar_pcre",
    "pillar_exact",
    "nodegroup",
    "range",
    "compound",
    "compound_pillar_exact",
    "ipcidr",
];

/// The one text that lets a job's runs overlap.
pub const ALLOW_OVERLAP: &str = "i know what i am doing!";

const TIMEOUT_S: u64 = 3_600;

const SCHEDULE_FIELDS: [&str; 7] = ["sec", "min", "hour", "dom", "mon", "dow", "year"];
const REQUIRED_FIELDS: [&str; 5] = ["min", "hour", "dom", "mon", "dow"];
const OTHER_FIELDS: [&str; 36] = [
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
/// The schedule as one text.
const SCHEDULE: &str = "schedule";
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

/// Validates one job of the group. Adds everything found to `problems`; None if an error is among it.
pub fn job(
    source: Source<'_>,
    group: &str,
    name: &str,
    node: &Node,
    defaults: &Defaults,
    schedules: &mut Schedules,
    problems: &mut Vec<Problem>,
) -> Option<Job> {
    let mut fields = JobFields {
        source,
        name,
        values: BTreeMap::new(),
        problems,
        failed: false,
        expanded: None,
    };
    if name.is_empty() {
        fields.error("", "a job needs a name");
    }
    if name.contains('\0') {
        fields.error("", "a job's name must not contain a NUL character");
    }
    let Node::Map(entries) = node else {
        fields.error("", format!("a job is a mapping of fields, not {}", node.kind()));
        return None;
    };
    fields.take(entries);
    let schedule = fields.schedule(defaults, schedules);
    let spec = fields.spec(group, defaults);
    let enabled = fields.flag("enabled", true);
    let notices = fields.notices();
    let description = fields.text("description").unwrap_or_default();
    if fields.failed {
        return None;
    }
    let expanded = fields.expanded;
    Some(Job {
        name: name.to_string(),
        group: group.to_string(),
        enabled,
        description,
        schedule: schedule?,
        notices,
        raw: RawJob::new(&raw(node, &spec, expanded)),
        spec: Arc::new(spec),
    })
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
struct JobFields<'s, 'a> {
    source: Source<'s>,
    name: &'a str,
    values: BTreeMap<String, &'a Node>,
    problems: &'a mut Vec<Problem>,
    failed: bool,
    /// The seven fields that a `schedule` stands for.
    expanded: Option<Fields>,
}

impl<'a> JobFields<'_, 'a> {
    fn error(&mut self, field: &str, reason: impl Into<String>) {
        self.failed = true;
        self.add(field, reason, Severity::Error);
    }

    fn warning(&mut self, field: &str, reason: impl Into<String>) {
        self.add(field, reason, Severity::Warning);
    }

    fn add(&mut self, field: &str, reason: impl Into<String>, severity: Severity) {
        let path = if field.is_empty() {
            vec![self.name]
        } else {
            vec![self.name, field]
        };
        self.problems.push(self.source.problem(&path, reason, severity));
    }

    /// Sorts the entries by name; tells of unknown, ignored and doubled ones.
    fn take(&mut self, entries: &'a [(Node, Node)]) {
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
    fn number<T>(&mut self, field: &str, read: impl Fn(&Node) -> Result<Option<T>, String>) -> Option<T> {
        if let Some(doubt) = self.values.get(field).and_then(|node| value::number_doubt(node))
            && self.source.lines.style(&[self.name, field]) != Style::Quoted
        {
            self.warning(field, doubt);
        }
        self.get(field, read)
    }

    fn get<T>(&mut self, field: &str, read: impl Fn(&Node) -> Result<Option<T>, String>) -> Option<T> {
        let node = *self.values.get(field)?;
        read(node).unwrap_or_else(|reason| {
            self.error(field, reason);
            None
        })
    }

    fn flag(&mut self, field: &str, default: bool) -> bool {
        self.get(field, value::flag).unwrap_or(default)
    }

    /// A text, or None if it is missing or empty. Tells if YAML 1.1 read it otherwise.
    fn text(&mut self, field: &str) -> Option<String> {
        self.doubt(field);
        self.get(field, value::text).filter(|text| !text.is_empty())
    }

    fn doubt(&mut self, field: &str) {
        if let Some(doubt) = self.values.get(field).and_then(|node| value::text_doubt(node))
            && self.source.lines.style(&[self.name, field]) != Style::Quoted
        {
            self.warning(field, doubt);
        }
    }

    fn choice<T: Copy>(&mut self, field: &str, choices: &[(&str, T)]) -> Option<T> {
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

    fn schedule(&mut self, defaults: &Defaults, schedules: &mut Schedules) -> Option<Schedule> {
        let zone = self.zone(defaults);
        let is_text = self.values.contains_key(SCHEDULE);
        let parsed = if is_text {
            self.schedule_text()?
        } else {
            self.schedule_fields()?
        };
        // a problem of the one text names the part of it, and stands at its line
        let place = |field: &'static str, reason: String| {
            if is_text {
                (SCHEDULE, format!("{field}: {reason}"))
            } else {
                (field, reason)
            }
        };
        match schedules.parse(&parsed, zone?) {
            Ok(schedule) => {
                let mut warnings = schedule.warnings();
                if warnings.is_empty() && schedule.next_after(clock::wall().utc()).is_none() {
                    warnings.push(("year", "is over: the schedule has no due time from now on".into()));
                }
                for (field, warning) in warnings {
                    let (field, warning) = place(field, warning);
                    self.warning(field, warning);
                }
                self.expanded = is_text.then_some(parsed);
                Some(schedule)
            }
            Err(errors) => {
                for error in errors {
                    let (field, reason) = place(error.field, error.reason);
                    self.error(field, reason);
                }
                None
            }
        }
    }

    /// `schedule: '*/5 * * * *'`, which stands instead of the seven fields.
    fn schedule_text(&mut self) -> Option<Fields> {
        let beside = SCHEDULE_FIELDS
            .into_iter()
            .find(|field| self.values.contains_key(*field));
        if let Some(field) = beside {
            self.error(
                SCHEDULE,
                format!("cannot stand beside '{field}'; remove one of them"),
            );
            return None;
        }
        let text = self.get(SCHEDULE, value::text).unwrap_or_default();
        match crontab::fields(&text) {
            Ok(fields) => {
                let is_restricted = |field: &str| !matches!(field, "*" | "?");
                if is_restricted(&fields.dom) && is_restricted(&fields.dow) {
                    let reason = "is due when day of month and day of week both match; cron takes either: write two jobs \
                                  for that";
                    self.warning(SCHEDULE, reason);
                }
                Some(fields)
            }
            Err(reason) => {
                self.error(SCHEDULE, reason);
                None
            }
        }
    }

    /// The seven fields.
    fn schedule_fields(&mut self) -> Option<Fields> {
        if !REQUIRED_FIELDS
            .iter()
            .any(|field| self.values.contains_key(*field))
        {
            self.error(
                "",
                "has no schedule: give min, hour, dom, mon and dow (each may be '*'), or 'schedule'",
            );
            return None;
        }
        let [sec, min, hour, dom, mon, dow, year] = SCHEDULE_FIELDS.map(|field| self.schedule_field(field));
        // each bad field is told by itself: those that are there are parsed even if others are missing
        let every = |field: Option<String>| field.unwrap_or_else(|| "*".to_string());
        Some(Fields {
            sec: sec.unwrap_or_else(|| "0".to_string()),
            min: every(min),
            hour: every(hour),
            dom: every(dom),
            mon: every(mon),
            dow: every(dow),
            year: every(year),
        })
    }

    /// One of the seven fields (schedule.md R1, R10); None: missing or no text.
    fn schedule_field(&mut self, field: &str) -> Option<String> {
        let Some(node) = self.values.get(field).copied() else {
            if REQUIRED_FIELDS.contains(&field) {
                self.error(field, "is missing; it may be '*'");
            }
            return None;
        };
        match node {
            Node::Int(value) => Some(value.to_string()),
            Node::Text(text) => {
                if yaml11::differs(text.trim())
                    && self.source.lines.style(&[self.name, field]) != Style::Quoted
                {
                    let old = yaml11::plain_text(text.trim());
                    self.warning(
                        field,
                        format!(
                            "'{text}' was {old} to the old daemon (YAML 1.1) unless quoted; put it in quotes"
                        ),
                    );
                }
                Some(text.clone())
            }
            other => {
                let kind = other.kind();
                self.error(
                    field,
                    format!("must be a text or a whole number, not {kind}; put it in quotes"),
                );
                None
            }
        }
    }

    /// schedule.md R6. None: an unknown zone, told.
    fn zone(&mut self, defaults: &Defaults) -> Option<Tz> {
        let utc = self.flag("utc", false);
        let named = self.text("timezone");
        if utc {
            if named.is_some() {
                self.warning("timezone", "has no effect beside 'utc: true'; remove one");
            }
            return Some(Tz::UTC);
        }
        let Some(name) = named else {
            return Some(defaults.zone);
        };
        match schedule::zone(&name) {
            Ok(zone) => Some(zone),
            Err(reason) => {
                self.error("timezone", reason);
                None
            }
        }
    }

    fn spec(&mut self, group: &str, defaults: &Defaults) -> JobSpec {
        let heartbeat_timeout_ms = self
            .number("heartbeat_timeout", value::milliseconds)
            .unwrap_or(defaults.heartbeat_timeout_ms);
        if heartbeat_timeout_ms <= limits::HEARTBEAT_INTERVAL_MS
            && self.values.contains_key("heartbeat_timeout")
        {
            self.warning(
                "heartbeat_timeout",
                "wrappers beat every 5 seconds: every run will be given up as lost",
            );
        }
        let mut spec = JobSpec {
            group: group.to_string(),
            command: self.command(),
            targets: self.targets(),
            target_type: self.target_type(),
            cwd: self.text("cwd"),
            user: self.text("user"),
            env: self.env(),
            timeout_s: self
                .number("timeout", value::seconds)
                .map_or(TIMEOUT_S, |seconds| seconds.ceil() as u64),
            number_of_targets: self.count("number_of_targets"),
            batch_size: self.count("batch_size"),
            allow_overlap: self.allow_overlap(),
            lockfile: self.text("lockfile"),
            use_wrapper: self.flag("use_wrapper", true),
            wrapper_path: self.text("wrapper_path"),
            wrapper_loglevel: self.loglevel(),
            wrapper_logdir: self.text("wrapper_logdir"),
            saltpeter_server_host: self.text("saltpeter_server_host"),
            output_limit_bytes: self
                .number("output_limit", value::whole)
                .unwrap_or(defaults.output_limit_bytes),
            heartbeat_timeout_ms,
            start_timeout_ms: self
                .number("start_timeout", value::milliseconds)
                .unwrap_or(defaults.start_timeout_ms),
            start_deadline_s: self.start_deadline(),
            delivery: self
                .choice("wrapper_delivery", &DELIVERIES)
                .unwrap_or(defaults.delivery),
            parameters: self.parameters(),
            only: Vec::new(),
        };
        spec.export_parameters();
        spec
    }

    /// `notify`, and what its runs are expected to be like.
    fn notices(&mut self) -> JobNotices {
        let seconds = |ms: Option<u64>| ms.map_or(0, |ms| ms.div_ceil(1_000));
        let notices = JobNotices {
            rule: self
                .get("notify", |node| notify::rule(node).map(Some))
                .unwrap_or_default(),
            expect_within_s: seconds(self.number("expect_within", value::milliseconds)),
            warn_after_s: seconds(self.number("warn_after", value::milliseconds)),
            min_runtime_ms: self.number("min_runtime", value::milliseconds).unwrap_or(0),
        };
        let needs = [
            (NoticeKind::Late, "expect_within", notices.expect_within_s),
            (NoticeKind::Long, "warn_after", notices.warn_after_s),
            (NoticeKind::Short, "min_runtime", notices.min_runtime_ms),
        ];
        let on = notices.rule.on.clone().unwrap_or_default();
        for (kind, field, value) in needs {
            if on.contains(&kind) && value == 0 {
                self.warning("notify", format!("'{}' needs the field '{field}'", kind.word()));
            }
        }
        notices
    }

    /// Names that a run may be given values for, with their defaults.
    fn parameters(&mut self) -> BTreeMap<String, String> {
        let entries = match self.values.get("parameters").copied() {
            None | Some(Node::Null) => return BTreeMap::new(),
            Some(Node::Map(entries)) => entries,
            Some(other) => {
                let reason = format!("must be a mapping of names to defaults, not {}", other.kind());
                self.error("parameters", reason);
                return BTreeMap::new();
            }
        };
        let mut parameters = BTreeMap::new();
        let mut variables = BTreeSet::new();
        for (key, node) in entries {
            let name = key.key_text().unwrap_or_default();
            let is_name = name.len() <= limits::PARAMETER_NAME_BYTES
                && name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_name {
                self.error(
                    "parameters",
                    "has a name that is not made of letters, digits and '_'",
                );
                continue;
            }
            if !variables.insert(name.to_ascii_uppercase()) {
                self.error(
                    "parameters",
                    format!(
                        "'{name}' is there twice: case makes no difference to SP_PARAM_{}",
                        name.to_ascii_uppercase()
                    ),
                );
            }
            let value = match node {
                Node::Null => String::new(),
                Node::List(_) | Node::Map(_) => {
                    self.error(
                        "parameters",
                        format!("the default of '{name}' must be a single value"),
                    );
                    continue;
                }
                single => python_text(single),
            };
            if value.contains('\0') || value.len() > limits::PARAMETER_BYTES {
                self.error(
                    "parameters",
                    format!("the default of '{name}' is too long, or has a NUL character"),
                );
            }
            parameters.insert(name, value);
        }
        parameters
    }

    fn command(&mut self) -> String {
        match self.values.get("command") {
            None => self.error("command", "is missing"),
            Some(Node::Text(text)) if !text.trim().is_empty() => {}
            Some(Node::Null | Node::Text(_)) => self.warning("command", "is empty: the job does nothing"),
            Some(_) => {}
        }
        self.text("command").unwrap_or_default()
    }

    fn targets(&mut self) -> Targets {
        self.doubt("targets");
        let targets = match self.values.get("targets").copied() {
            None => {
                self.error("targets", "is missing; '*' is every machine");
                return Targets::default();
            }
            Some(list @ Node::List(_)) => self
                .get("targets", |_| value::texts(list))
                .map_or_else(Targets::default, Targets::List),
            Some(_) => self
                .get("targets", value::text)
                .map_or_else(Targets::default, Targets::Text),
        };
        let empty = match &targets {
            Targets::Text(text) => text.is_empty(),
            Targets::List(list) => list.is_empty(),
        };
        if empty && !self.failed {
            self.warning("targets", "is empty: no machine will match");
        }
        targets
    }

    fn target_type(&mut self) -> String {
        let kind = self
            .text("target_type")
            .unwrap_or_else(|| TARGET_TYPES[0].to_string());
        if !TARGET_TYPES.contains(&kind.as_str()) {
            let (shown, known) = (kind.escape_debug(), TARGET_TYPES.join(", "));
            self.error(
                "target_type",
                format!("unknown type '{shown}'; Salt knows {known}"),
            );
        }
        kind
    }

    fn count(&mut self, field: &str) -> usize {
        self.number(field, value::whole)
            .map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn allow_overlap(&mut self) -> bool {
        match self.values.get("allow_overlap").copied() {
            Some(Node::Text(text)) if text == ALLOW_OVERLAP => true,
            None | Some(Node::Null | Node::Bool(false)) => false,
            Some(Node::Text(text)) if yaml11::boolean_word(text) == Some(false) || text.is_empty() => false,
            Some(_) => {
                self.warning(
                    "allow_overlap",
                    format!("only the exact text '{ALLOW_OVERLAP}' allows overlap"),
                );
                false
            }
        }
    }

    fn loglevel(&mut self) -> Option<String> {
        if self.values.get("wrapper_loglevel") == Some(&&Node::Bool(false)) {
            return Some("off".to_string());
        }
        let level = self
            .get("wrapper_loglevel", value::text)
            .filter(|text| !text.is_empty())?;
        if let Some(doubt) = loglevel_doubt(&level) {
            self.warning("wrapper_loglevel", doubt);
        }
        Some(level)
    }

    /// rules.md 13: `catch_up: none` never starts late.
    fn start_deadline(&mut self) -> Option<i64> {
        let seconds = self.number("start_deadline", value::seconds);
        let catch_up = self.choice("catch_up", &[("latest", true), ("none", false)]);
        let deadline_s = seconds.map_or(limits::START_DEADLINE_S, |seconds| seconds.ceil() as i64);
        catch_up.unwrap_or(true).then_some(deadline_s)
    }

    /// The texts that the command gets, as the old daemon handed them on (rules.md 31).
    fn env(&mut self) -> BTreeMap<String, String> {
        let entries = match self.values.get("env").copied() {
            None | Some(Node::Null) => return BTreeMap::new(),
            Some(Node::Map(entries)) => entries,
            Some(other) => {
                self.error(
                    "env",
                    format!("must be a mapping of names to values, not {}", other.kind()),
                );
                return BTreeMap::new();
            }
        };
        let mut env = BTreeMap::new();
        for (key, node) in entries {
            let Some(key) = key
                .key_text()
                .filter(|key| !key.is_empty() && !key.contains(['=', '\0']))
            else {
                self.error(
                    "env",
                    "has a name that no environment can hold: empty, or with '=' or NUL in it",
                );
                continue;
            };
            let text = self.env_value(&key, node);
            if text.contains('\0') {
                self.env_problem(&key, "must not contain a NUL character", Severity::Error);
            }
            if env.insert(key.clone(), text).is_some() {
                self.env_problem(
                    &key,
                    "given twice: the later one counts; remove one",
                    Severity::Warning,
                );
            }
        }
        env
    }

    fn env_value(&mut self, key: &str, node: &Node) -> String {
        let doubtful = match node {
            Node::Text(text) => yaml11::differs(text),
            Node::Int(_) | Node::Float(_) => true,
            Node::List(_) | Node::Map(_) => {
                self.env_problem(key, "must be a scalar; quote it", Severity::Warning);
                false
            }
            Node::Null | Node::Bool(_) => false,
        };
        if doubtful {
            match self.source.lines.style(&[self.name, "env", key]) {
                // the word itself is at hand: no doubt what the old daemon made of it, but for dates
                Style::Plain(word)
                    if !matches!(node, Node::Text(text) if text != word)
                        && yaml11::reading(word) != Some(yaml11::Reading::Date) =>
                {
                    return yaml11::plain_text(word);
                }
                Style::Quoted => {}
                Style::Plain(_) | Style::Unknown => {
                    if matches!(node, Node::Text(_) | Node::Float(_)) {
                        let doubt =
                            "was no text to the old daemon (YAML 1.1) unless quoted; put it in quotes";
                        self.env_problem(key, doubt, Severity::Warning);
                    }
                }
            }
        }
        python_text(node)
    }

    fn env_problem(&mut self, key: &str, reason: &str, severity: Severity) {
        self.failed |= severity == Severity::Error;
        self.problems
            .push(self.source.problem(&[self.name, "env", key], reason, severity));
    }
}

/// `wrapper_delivery`.
pub const DELIVERIES: [(&str, Delivery); 3] = [
    ("auto", Delivery::Auto),
    ("env", Delivery::Env),
    ("socket", Delivery::Socket),
];

fn unknown_field(field: &str) -> String {
    match FOREIGN_FIELDS.iter().find(|(foreign, _)| *foreign == field) {
        Some((_, advice)) => format!("unknown field, ignored; {advice}"),
        None => value::unknown("field", field, known_fields()),
    }
}

/// What is odd about a wrapper's log level.
pub fn loglevel_doubt(level: &str) -> Option<&'static str> {
    (!["normal", "debug", "off"].contains(&level)).then_some("should be normal, debug or off")
}

/// The job as the API's `config` shows it (wire-protocol.md section 2).
fn raw(node: &Node, spec: &JobSpec, expanded: Option<Fields>) -> serde_json::Map<String, Value> {
    let Value::Object(mut raw) = node.to_json() else {
        return serde_json::Map::new();
    };
    raw.insert("group".to_string(), spec.group.clone().into());
    raw.insert("command".to_string(), spec.command.clone().into());
    if let Some(fields) = expanded {
        // the legacy React UI knows the seven fields alone
        let Fields {
            sec,
            min,
            hour,
            dom,
            mon,
            dow,
            year,
        } = fields;
        let values = [sec, min, hour, dom, mon, dow, year];
        raw.extend(
            SCHEDULE_FIELDS
                .map(String::from)
                .into_iter()
                .zip(values.map(Value::from)),
        );
    }
    let defaults = [
        ("sec", Value::from(0)),
        ("year", "*".into()),
        ("utc", false.into()),
        ("timeout", TIMEOUT_S.into()),
    ];
    for (field, default) in defaults {
        raw.entry(field).or_insert(default);
    }
    raw
}

/// Adds a warning for each key that a mapping has twice.
pub fn doubled_keys(
    source: Source<'_>,
    section: &str,
    entries: &[(Node, Node)],
    problems: &mut Vec<Problem>,
) {
    let mut seen = BTreeSet::new();
    for key in entries.iter().filter_map(|(key, _)| key.key_text()) {
        if !seen.insert(key.clone()) {
            let reason = "given twice: the later one counts; remove one";
            problems.push(source.problem(&[section, &key], reason, Severity::Warning));
        }
    }
}
