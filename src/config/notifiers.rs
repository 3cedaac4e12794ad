//! `notifiers`: the destinations of notices, by name, and how each is reached.
//! Must not know: what is told, when; how anything is delivered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::node::Node;
use super::notify::unknown;
use super::value;
use crate::limits;
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

/// `format`, by their words.
pub const FORMATS: [(&str, Format); 6] = [
    ("saltpeter", Format::Saltpeter),
    ("slack", Format::Slack),
    ("teams", Format::Teams),
    ("pagerduty", Format::PagerDuty),
    ("ntfy", Format::Ntfy),
    ("matrix", Format::Matrix),
];

/// `notifiers`. Paths are relative to `base`. The error names the notifier and the field; nothing secret is quoted.
pub fn read(node: &Node, base: &Path) -> Result<BTreeMap<String, Arc<Notifier>>, String> {
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
