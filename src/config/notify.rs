//! Who is told of what: `notifiers` (the destinations), `notify` (what a job tells whom), and what a job's runs are
//! expected to be like.
//! Must not know: how anything is delivered, when anything happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{Datelike, NaiveDateTime, TimeDelta, TimeZone, Timelike, Weekday};
use serde_json::{Map, Value};

use super::node::Node;
use super::{value, yaml11};
use crate::clock::Wall;
use crate::limits;
use crate::schedule::Tz;
use crate::url::HttpUrl;

/// A destination of `notifiers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notifier {
    pub name: String,
    pub channel: Channel,
}

/// How a destination is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    Webhook(Webhook),
    Mail(Mail),
    Command(NotifyCommand),
}

/// An HTTP request for each message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Webhook {
    /// None: `url_file` has it.
    pub url: Option<HttpUrl>,
    pub url_file: Option<PathBuf>,
    pub format: Format,
    /// The request's body, instead of that of `format`: `{{job}}` and the like are replaced, escaped for JSON.
    pub body: Option<String>,
    /// Key of the signature (Standard Webhooks).
    pub secret_file: Option<PathBuf>,
    /// Bearer token, or PagerDuty's routing key.
    pub token_file: Option<PathBuf>,
    /// Matrix: the room.
    pub room: Option<String>,
    /// Certificates to believe instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// What a webhook's receiver reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Saltpeter,
    Slack,
    Teams,
    PagerDuty,
    Ntfy,
    Matrix,
}

/// A mail for each message, through a program that is called like sendmail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub to: Vec<String>,
    pub from: Option<String>,
    pub sendmail: String,
}

/// A command for each message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyCommand {
    pub command: String,
    /// None: the daemon's.
    pub user: Option<String>,
    pub timeout_ms: u64,
}

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

/// `format`, by their words.
pub const FORMATS: [(&str, Format); 6] = [
    ("saltpeter", Format::Saltpeter),
    ("slack", Format::Slack),
    ("teams", Format::Teams),
    ("pagerduty", Format::PagerDuty),
    ("ntfy", Format::Ntfy),
    ("matrix", Format::Matrix),
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

/// Hours in which nothing is delivered, by the job's wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// On these days it begins, Monday first.
    days: [bool; 7],
    from_min: u16,
    /// Not after `from_min`: on the next day.
    to_min: u16,
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

impl Quiet {
    /// When the quiet hours that hold at `at` end; None: they do not hold.
    pub fn end_of(hours: &[Quiet], at: Wall, zone: Tz) -> Option<Wall> {
        let mut end = at;
        // one may begin where another ends, such as the days of a week
        for _ in 0..2 * limits::QUIET_HOURS {
            let local = end.utc().with_timezone(&zone).naive_local();
            let next = hours.iter().filter_map(|quiet| quiet.local_end(local)).max();
            let Some(next) = next else { break };
            let utc = zone
                .from_local_datetime(&next)
                .latest()
                // a moment that the clock skips is an hour later
                .or_else(|| zone.from_local_datetime(&(next + TimeDelta::hours(1))).latest());
            match utc {
                Some(utc) if Wall::from_utc(utc.to_utc()) > end => end = Wall::from_utc(utc.to_utc()),
                _ => break,
            }
        }
        (end > at).then_some(end)
    }

    fn local_end(&self, at: NaiveDateTime) -> Option<NaiveDateTime> {
        let minute = (at.hour() * 60 + at.minute()) as u16;
        let midnight = at.date().and_hms_opt(0, 0, 0)?;
        let today = at.weekday().num_days_from_monday() as usize;
        let begins = |day: usize| self.days[day % 7];
        let end = |days: i64| midnight + TimeDelta::days(days) + TimeDelta::minutes(self.to_min.into());
        if self.from_min < self.to_min {
            let is_in = begins(today) && (self.from_min..self.to_min).contains(&minute);
            return is_in.then(|| end(0));
        }
        if begins(today) && minute >= self.from_min {
            return Some(end(1));
        }
        (begins(today + 6) && minute < self.to_min).then(|| end(0))
    }

    /// `22:00-06:00`, `sat,sun 00:00-24:00`, `mon-fri 12:00-13:00`.
    pub fn of(text: &str) -> Result<Quiet, String> {
        let wrong = || {
            format!(
                "invalid quiet hours '{}'; write 22:00-06:00 or 'sat,sun 00:00-24:00'",
                text.escape_debug()
            )
        };
        let (days, hours) = match text.trim().split_once(' ') {
            Some((days, hours)) => (days_of(days).ok_or_else(wrong)?, hours),
            None => ([true; 7], text),
        };
        let (from, to) = hours.trim().split_once('-').ok_or_else(wrong)?;
        let from_min = minute_of(from)
            .filter(|minute| *minute < 1_440)
            .ok_or_else(wrong)?;
        let to_min = minute_of(to).ok_or_else(wrong)?;
        Ok(Quiet {
            days,
            from_min,
            to_min,
        })
    }
}

fn minute_of(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours.checked_mul(60)?.checked_add(minutes)?;
    (minutes < 60 && minute <= 1_440).then_some(minute)
}

fn days_of(text: &str) -> Option<[bool; 7]> {
    let mut days = [false; 7];
    let day = |word: &str| -> Option<usize> {
        let day: Weekday = word.trim().parse().ok()?;
        Some(day.num_days_from_monday() as usize)
    };
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        for offset in 0..=(last + 7 - first) % 7 {
            days[(first + offset) % 7] = true;
        }
    }
    Some(days)
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

/// Seconds, or a number with `s`, `m`, `h` or `d`.
fn duration_s(node: &Node) -> Result<Option<u64>, String> {
    if let Node::Text(text) = node {
        let text = text.trim();
        let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
        for (unit, seconds) in units {
            if let Some(count) = text
                .strip_suffix(unit)
                .and_then(|count| count.parse::<u64>().ok())
            {
                return Ok(Some(count.min(1_000_000) * seconds));
            }
        }
    }
    let seconds =
        value::seconds(node).map_err(|why| format!("{why} (24h, 30m and 1d are understood as well)"))?;
    Ok(seconds.map(|seconds| seconds.ceil() as u64))
}

/// `notifiers`. Paths are relative to `base`. The error names the notifier and the field; nothing secret is quoted.
pub fn notifiers(node: &Node, base: &Path) -> Result<BTreeMap<String, Arc<Notifier>>, String> {
    let Node::Map(entries) = node else {
        return Err(format!(
            "must be a mapping of names to destinations, such as {{ops: {{webhook: 'https://...'}}}}, not {}",
            node.kind()
        ));
    };
    let mut found = BTreeMap::new();
    for (key, node) in entries {
        let name = key.key_text().unwrap_or_default();
        let is_name = !name.is_empty()
            && name.len() <= limits::NOTIFIER_NAME_BYTES
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !is_name {
            return Err("has a name that is not made of letters, digits, '-', '_' and '.'".to_string());
        }
        let notifier = notifier(&name, node, base).map_err(|why| format!("'{name}': {why}"))?;
        found.insert(name, Arc::new(notifier));
    }
    if found.len() > limits::NOTIFIERS {
        return Err(format!("has more than {} entries", limits::NOTIFIERS));
    }
    Ok(found)
}

/// The fields of one notifier while it is read.
struct Fields<'a> {
    entries: &'a [(Node, Node)],
    base: &'a Path,
}

const WEBHOOK_FIELDS: &[&str] = &[
    "webhook",
    "url_file",
    "format",
    "body",
    "secret_file",
    "token_file",
    "room",
    "ca_file",
];
const MAIL_FIELDS: &[&str] = &["mail", "from", "sendmail"];
const COMMAND_FIELDS: &[&str] = &["command", "user", "timeout"];

impl Fields<'_> {
    fn node(&self, wanted: &str) -> Option<&Node> {
        let found = self
            .entries
            .iter()
            .rev()
            .find(|(key, _)| key.key_text().as_deref() == Some(wanted));
        found.map(|(_, node)| node).filter(|node| **node != Node::Null)
    }

    fn text(&self, wanted: &str) -> Result<Option<String>, String> {
        let Some(node) = self.node(wanted) else {
            return Ok(None);
        };
        match value::text(node).map_err(|why| format!("'{wanted}' {why}"))? {
            Some(text) if !text.is_empty() => Ok(Some(text)),
            _ => Err(format!("'{wanted}' must not be empty")),
        }
    }

    fn path(&self, wanted: &str) -> Result<Option<PathBuf>, String> {
        Ok(self.text(wanted)?.map(|path| self.base.join(path)))
    }

    fn refuse_others(&self, known: &[&str]) -> Result<(), String> {
        let keys = self.entries.iter().filter_map(|(key, _)| key.key_text());
        match keys.into_iter().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(unknown(&key, known)),
            None => Ok(()),
        }
    }
}

fn unknown(key: &str, known: &[&str]) -> String {
    let key = key.escape_debug().to_string();
    match value::likeliest(&key, known.iter().copied()) {
        Some(name) => format!("unknown field '{key}', did you mean '{name}'?"),
        None => format!("unknown field '{key}'; the fields are {}", known.join(", ")),
    }
}

fn notifier(name: &str, node: &Node, base: &Path) -> Result<Notifier, String> {
    let Node::Map(entries) = node else {
        return Err(format!(
            "must be a mapping with webhook, mail or command, not {}",
            node.kind()
        ));
    };
    let fields = Fields { entries, base };
    let ways = [
        fields.node("webhook").or(fields.node("url_file")).is_some(),
        fields.node("mail").is_some(),
        fields.node("command").is_some(),
    ];
    let channel = match ways {
        [true, false, false] => Channel::Webhook(webhook(&fields)?),
        [false, true, false] => Channel::Mail(mail(&fields)?),
        [false, false, true] => Channel::Command(command(&fields)?),
        _ => return Err("needs exactly one of webhook (or url_file), mail and command".to_string()),
    };
    Ok(Notifier {
        name: name.to_string(),
        channel,
    })
}

fn webhook(fields: &Fields<'_>) -> Result<Webhook, String> {
    fields.refuse_others(WEBHOOK_FIELDS)?;
    let url = match fields.text("webhook")? {
        Some(url) => Some(HttpUrl::parse(&url).map_err(|why| format!("'webhook' {why}"))?),
        None => None,
    };
    let url_file = fields.path("url_file")?;
    if url.is_some() && url_file.is_some() {
        return Err("has both webhook and url_file; remove one".to_string());
    }
    let format = match fields.text("format")? {
        None => Format::default(),
        Some(word) => {
            let known = FORMATS.iter().find(|(known, _)| *known == word);
            known.map(|(_, format)| *format).ok_or_else(|| {
                let words: Vec<&str> = FORMATS.iter().map(|(word, _)| *word).collect();
                format!(
                    "'format' must be one of {}, not '{}'",
                    words.join(", "),
                    word.escape_debug()
                )
            })?
        }
    };
    let webhook = Webhook {
        url,
        url_file,
        format,
        body: fields.text("body")?,
        secret_file: fields.path("secret_file")?,
        token_file: fields.path("token_file")?,
        room: fields.text("room")?,
        ca_file: fields.path("ca_file")?,
    };
    if format == Format::Matrix && (webhook.room.is_none() || webhook.token_file.is_none()) {
        return Err("format matrix needs room and token_file".to_string());
    }
    if format == Format::PagerDuty && webhook.token_file.is_none() {
        return Err("format pagerduty needs token_file, with the integration's routing key".to_string());
    }
    if webhook.room.is_some() && format != Format::Matrix {
        return Err("'room' belongs to format matrix".to_string());
    }
    Ok(webhook)
}

fn mail(fields: &Fields<'_>) -> Result<Mail, String> {
    fields.refuse_others(MAIL_FIELDS)?;
    let to = match fields.node("mail") {
        Some(node) => value::texts(node).map_err(|why| format!("'mail' {why}"))?,
        None => None,
    };
    let to = to.unwrap_or_default();
    if to.is_empty() {
        return Err("'mail' must be an address or a list of addresses".to_string());
    }
    let from = fields.text("from")?;
    for address in to.iter().chain(&from) {
        if !is_address(address) {
            return Err(format!(
                "invalid mail address '{}'; write name@example.com",
                address.escape_debug()
            ));
        }
    }
    let sendmail = fields.text("sendmail")?;
    Ok(Mail {
        to,
        from,
        sendmail: sendmail.unwrap_or_else(|| "/usr/sbin/sendmail".to_string()),
    })
}

/// What can stand in a header, and cannot be read as an option or as several addresses.
fn is_address(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && !"<>()[]\\,;:\"".contains(c);
    let (name, host) = text.split_once('@').unwrap_or((text, "localhost"));
    text.len() <= 254
        && !text.starts_with('-')
        && !name.is_empty()
        && !host.is_empty()
        && !host.contains('@')
        && text.chars().all(is_plain)
}

fn command(fields: &Fields<'_>) -> Result<NotifyCommand, String> {
    fields.refuse_others(COMMAND_FIELDS)?;
    let timeout = match fields.node("timeout") {
        Some(node) => value::milliseconds(node).map_err(|why| format!("'timeout' {why}"))?,
        None => None,
    };
    if timeout.is_some_and(|timeout| timeout > limits::NOTIFY_COMMAND_MAX_MS) {
        let most = limits::NOTIFY_COMMAND_MAX_MS / 1_000;
        return Err(format!("'timeout' must be at most {most} seconds"));
    }
    let command = fields.text("command")?.unwrap_or_default();
    if command.contains('\0') {
        return Err("'command' must not contain a NUL character".to_string());
    }
    Ok(NotifyCommand {
        command,
        user: fields.text("user")?,
        timeout_ms: timeout.unwrap_or(limits::NOTIFY_COMMAND_MS),
    })
}

/// `notifiers` as anybody may see them: of a URL its host, of other fields those that hold no secret.
pub fn masked(node: &Node) -> Value {
    const HIDDEN: &str = "***";
    let Node::Map(entries) = node else {
        return HIDDEN.into();
    };
    let shown = entries.iter().map(|(key, node)| {
        let name = key.key_text().unwrap_or_default();
        let Node::Map(fields) = node else {
            return (name, HIDDEN.into());
        };
        let fields: Map<String, Value> = fields
            .iter()
            .map(|(key, node)| {
                let key = key.key_text().unwrap_or_default();
                let shown = match (key.as_str(), node) {
                    ("webhook", Node::Text(url)) => match HttpUrl::parse(url) {
                        Ok(url) => format!("{}/***", url.origin()).into(),
                        Err(_) => HIDDEN.into(),
                    },
                    (
                        "format" | "mail" | "from" | "sendmail" | "user" | "timeout" | "room" | "ca_file",
                        node,
                    ) => node.to_json(),
                    (key, node) if key.ends_with("_file") => node.to_json(),
                    _ => HIDDEN.into(),
                };
                (key, shown)
            })
            .collect();
        (name, Value::Object(fields))
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Wall {
        Wall::from_utc(text.parse().unwrap())
    }

    fn quiet(texts: &[&str]) -> Vec<Quiet> {
        texts.iter().map(|text| Quiet::of(text).unwrap()).collect()
    }

    #[test]
    fn quiet_hours_end_by_the_wall_clock_of_the_jobs_zone() {
        let night = quiet(&["22:00-06:00"]);
        let end = |hours: &[Quiet], text: &str| {
            Quiet::end_of(hours, at(text), Tz::Europe__Berlin).map(|end| end.utc().to_rfc3339())
        };
        assert_eq!(end(&night, "2026-11-27T12:00:00Z"), None);
        assert_eq!(end(&night, "2026-11-27T05:00:00Z"), None);
        for inside in ["2026-11-26T21:00:00Z", "2026-11-27T04:59:59Z"] {
            assert_eq!(end(&night, inside).as_deref(), Some("2026-11-27T05:00:00+00:00"));
        }
        // the night in which the clock goes back, and that in which it goes forward
        let back = end(&night, "2026-10-24T21:00:00Z");
        assert_eq!(back.as_deref(), Some("2026-10-25T05:00:00+00:00"));
        let forward = end(&night, "2027-03-27T22:00:00Z");
        assert_eq!(forward.as_deref(), Some("2027-03-28T04:00:00+00:00"));
        let weekend = quiet(&["sat,sun 00:00-24:00", "22:00-06:00"]);
        // from Friday evening to Monday morning without a gap
        let monday = end(&weekend, "2026-11-27T22:00:00Z");
        assert_eq!(monday.as_deref(), Some("2026-11-30T05:00:00+00:00"));
    }

    #[test]
    fn quiet_hours_that_make_no_sense_are_refused() {
        for text in [
            "",
            "22-6",
            "22:00",
            "24:00-06:00",
            "22:60-06:00",
            "foo 22:00-06:00",
            "1:00-25:00",
        ] {
            assert!(Quiet::of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_cannot_be_an_option_or_several() {
        for good in ["ops@example.com", "root", "a+b@x-y.org"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "-oQ/tmp@x",
            "a@b,c@d",
            "a b@c",
            "a@b\nBcc: x@y",
            "@x",
            "a@",
            "<a@b>",
            "",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
