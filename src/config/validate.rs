//! From what a file says of a job to a valid [`Job`], with all that is wrong told at once.
//! Must not know: directories, reloads, what was last good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::job_fields::{JobFields, Source};
use super::lines::Style;
use super::node::{Node, python_text};
use super::notify::{self, JobNotices, NoticeKind};
use super::success::{self, Success};
use super::timing::Schedules;
use super::{Delivery, Job, JobSpec, Problem, RawJob, Severity, Targets, value, yaml11};
use crate::limits;
use crate::schedule::{Fields, Tz};

/// What settings lend to jobs that say nothing themselves. Jobs are validated again when it changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    pub zone: Tz,
    pub output_limit_bytes: u64,
    pub heartbeat_timeout_ms: u64,
    pub start_timeout_ms: u64,
    pub delivery: Delivery,
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
    let schedule = fields.schedule(defaults.zone, schedules);
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

impl JobFields<'_, '_> {
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
            success: self.success(),
            max_failures: self.max_failures(),
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

    fn success(&mut self) -> Success {
        let success = self.get("success", success::read).unwrap_or_default();
        let targets = self.count("number_of_targets");
        if let Success::Machines(wanted) = success
            && targets > 0
            && wanted > targets
        {
            let reason =
                format!("wants {wanted} machines, 'number_of_targets' draws {targets}: every run will fail");
            self.warning("success", reason);
        }
        success
    }

    fn max_failures(&mut self) -> Option<usize> {
        let most = self.number("max_failures", value::whole)?;
        if self.count("batch_size") == 0 {
            let reason = "has no effect without 'batch_size': all machines start at once";
            self.warning("max_failures", reason);
        }
        Some(usize::try_from(most).unwrap_or(usize::MAX))
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
        let catch_up = self.choice("catch_up", &[("latest", true), ("none", false), ("skip", false)]);
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
        for (name, text) in fields.named() {
            raw.insert(name.to_string(), text.into());
        }
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
