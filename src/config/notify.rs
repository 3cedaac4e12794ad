//! `notify`: what a job tells whom, and what a job's runs are expected to be like.
//! Must not know: how a notifier is reached, when anything happens.

use super::node::Node;
use super::quiet::Quiet;
use super::{value, yaml11};
use crate::limits;
use crate::time_text;

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// A run failed.
    Failure,
    /// A run succeeded after a failure that was told.
    Recovery,
    /// A due time was passed over.
    Missed,
    /// A run failed, and a machine's outcome is unknown (253).
    Lost,
    /// No run of a due time had ended `expect_within` after it.
    Late,
    /// A run has been running for longer than `warn_after`.
    Long,
    /// A run succeeded in less than `min_runtime`.
    Short,
    /// A run succeeded.
    Success,
    /// Failures and successes alternate: nothing is told until they stop.
    Flapping,
    /// A user tests a destination.
    Test,
}

/// The kinds that `on` takes, by their words.
pub const NOTICE_KINDS: [(&str, NoticeKind); 8] = [
    ("failure", NoticeKind::Failure),
    ("recovery", NoticeKind::Recovery),
    ("missed", NoticeKind::Missed),
    ("lost", NoticeKind::Lost),
    ("late", NoticeKind::Late),
    ("long", NoticeKind::Long),
    ("short", NoticeKind::Short),
    ("success", NoticeKind::Success),
];

/// `notify`, as far as it is given: a job's goes before the setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyRule {
    pub to: Option<Vec<String>>,
    pub on: Option<Vec<NoticeKind>>,
    pub after: Option<u32>,
    pub repeat_s: Option<u64>,
    pub quiet: Option<Vec<Quiet>>,
}

/// `notify` with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Names of destinations; empty: nobody is told.
    pub to: Vec<String>,
    pub on: Vec<NoticeKind>,
    /// Failed runs in a row until a failure is told.
    pub after: u32,
    /// Seconds after which a failure that lasts is told again; 0: never.
    pub repeat_s: u64,
    pub quiet: Vec<Quiet>,
}

/// What a job says of notices and of its runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobNotices {
    pub rule: NotifyRule,
    /// 0: not watched.
    pub expect_within_s: u64,
    /// 0: not watched.
    pub warn_after_s: u64,
    /// 0: not watched.
    pub min_runtime_ms: u64,
}

impl NoticeKind {
    /// The word for it in files and answers.
    pub fn word(self) -> &'static str {
        match self {
            NoticeKind::Flapping => "flapping",
            NoticeKind::Test => "test",
            kind => NOTICE_KINDS
                .iter()
                .find(|(_, known)| *known == kind)
                .map_or("", |(word, _)| word),
        }
    }
}

impl NotifyRule {
    /// This rule where it says something, else the default's, else ours.
    pub fn over(&self, default: &NotifyRule) -> Notify {
        let on = self.on.as_ref().or(default.on.as_ref());
        let ours = [
            NoticeKind::Failure,
            NoticeKind::Recovery,
            NoticeKind::Missed,
            NoticeKind::Lost,
        ];
        Notify {
            to: self.to.clone().or_else(|| default.to.clone()).unwrap_or_default(),
            on: on.map_or_else(|| ours.to_vec(), Vec::clone),
            after: self.after.or(default.after).unwrap_or(1).max(1),
            repeat_s: self.repeat_s.or(default.repeat_s).unwrap_or(0),
            quiet: self
                .quiet
                .clone()
                .or_else(|| default.quiet.clone())
                .unwrap_or_default(),
        }
    }
}

/// A job's or the setting's `notify`. The doubt is what is warned about.
pub fn rule(node: &Node) -> Result<NotifyRule, String> {
    let entries = match node {
        Node::Null => return Ok(NotifyRule::default()),
        Node::Bool(false) => return Ok(nobody()),
        Node::Text(text) if text == "none" || yaml11::boolean_word(text) == Some(false) => {
            return Ok(nobody());
        }
        Node::Text(_) | Node::List(_) => {
            return Ok(NotifyRule {
                to: value::texts(node)?,
                ..NotifyRule::default()
            });
        }
        Node::Map(entries) => entries,
        other => {
            return Err(format!(
                "must be a mapping such as {{to: [ops], on: [failure, recovery]}}, or the names of notifiers, not {}",
                other.kind()
            ));
        }
    };
    let mut rule = NotifyRule::default();
    for (key, node) in entries {
        // `on` is a boolean in YAML 1.1
        let key = match key {
            Node::Bool(true) => "on".to_string(),
            key => key.key_text().unwrap_or_default(),
        };
        let told = |why: String| format!("'{}' {why}", key.escape_debug());
        match key.as_str() {
            "to" => rule.to = value::texts(node).map_err(told)?,
            "on" => rule.on = kinds(node).map_err(told)?,
            "after" => rule.after = after(node).map_err(told)?,
            "repeat" => rule.repeat_s = duration_s(node).map_err(told)?,
            "quiet" => {
                let hours = value::texts(node).map_err(told)?;
                let hours = hours.map(|hours| hours.iter().map(|text| Quiet::of(text)).collect());
                rule.quiet = hours.transpose()?;
            }
            other => return Err(unknown(other, &["to", "on", "after", "repeat", "quiet"])),
        }
    }
    if rule
        .quiet
        .as_ref()
        .is_some_and(|hours| hours.len() > limits::QUIET_HOURS)
    {
        return Err(format!("'quiet' has more than {} entries", limits::QUIET_HOURS));
    }
    Ok(rule)
}

fn nobody() -> NotifyRule {
    NotifyRule {
        to: Some(Vec::new()),
        ..NotifyRule::default()
    }
}

fn kinds(node: &Node) -> Result<Option<Vec<NoticeKind>>, String> {
    let Some(words) = value::texts(node)? else {
        return Ok(None);
    };
    let kind = |word: &String| {
        let known = NOTICE_KINDS.iter().find(|(known, _)| known == word);
        known.map(|(_, kind)| *kind).ok_or_else(|| {
            let words: Vec<&str> = NOTICE_KINDS.iter().map(|(word, _)| *word).collect();
            format!(
                "has the unknown kind '{}'; the kinds are {}",
                word.escape_debug(),
                words.join(", ")
            )
        })
    };
    words.iter().map(kind).collect::<Result<_, _>>().map(Some)
}

fn after(node: &Node) -> Result<Option<u32>, String> {
    match value::whole(node)? {
        None => Ok(None),
        Some(count) if (1..=1_000).contains(&count) => Ok(Some(count as u32)),
        Some(_) => Err("must be a number of failed runs, 1 to 1000".to_string()),
    }
}

/// Seconds, or a duration as everywhere: `24h`.
fn duration_s(node: &Node) -> Result<Option<u64>, String> {
    let duration = match node {
        Node::Text(text) => time_text::duration_s(text.trim()),
        _ => None,
    };
    if let Some(seconds) = duration {
        return Ok(u64::try_from(seconds).ok());
    }
    let seconds = value::seconds(node).map_err(|why| format!("{why}, or such as 30m, 24h or 1d"))?;
    Ok(seconds.map(|seconds| seconds.ceil() as u64))
}

/// Why a field is refused that is none of `known`.
pub(super) fn unknown(key: &str, known: &[&str]) -> String {
    let key = key.escape_debug().to_string();
    match value::likeliest(&key, known.iter().copied()) {
        Some(name) => format!("unknown field '{key}', did you mean '{name}'?"),
        None => format!("unknown field '{key}'; the fields are {}", known.join(", ")),
    }
}
