//! A message in the forms that receivers of webhooks read.
//! Must not know: how requests are sent.

use serde_json::{Value, json};

use super::text::Letter;
use crate::config::notify::NoticeKind;
use crate::limits;

/// Slack's, and those that read the same (Mattermost, Discord below `/slack`).
pub fn slack(letter: &Letter<'_>) -> Value {
    let escape = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    json!({"text": cut(&escape(&letter.text()))})
}

/// A workflow of Microsoft Teams that posts a card.
pub fn teams(letter: &Letter<'_>) -> Value {
    let block = |text: String, weight: &str| json!({"type": "TextBlock", "text": text, "wrap": true, "weight": weight});
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": [block(letter.subject(), "bolder"), block(cut(&letter.text()).replace('\n', "\n\n"), "default")],
            },
        }],
    })
}

/// PagerDuty's Events API v2: an incident for each job and kind, resolved by the recovery.
pub fn pagerduty(letter: &Letter<'_>, routing_key: &str) -> Value {
    let facts = letter.latest();
    let is_over = matches!(facts.kind, NoticeKind::Recovery | NoticeKind::Success);
    let severity = match facts.kind {
        NoticeKind::Failure | NoticeKind::Lost | NoticeKind::Missed => "error",
        NoticeKind::Test => "info",
        _ => "warning",
    };
    json!({
        "routing_key": routing_key,
        "event_action": if is_over { "resolve" } else { "trigger" },
        "dedup_key": format!("saltpeter/{}/{}", letter.host, facts.job),
        "payload": {
            "summary": letter.subject().chars().take(1_024).collect::<String>(),
            "source": letter.host, "severity": severity, "component": facts.job, "group": facts.group,
            "class": facts.kind.word(), "custom_details": letter.json()["data"]["notices"],
        },
    })
}

/// A message of a Matrix room.
pub fn matrix(letter: &Letter<'_>) -> Value {
    json!({"msgtype": "m.text", "body": cut(&letter.text())})
}

/// The user's own body: each `{{name}}` is replaced, escaped for a JSON string.
pub fn template(template: &str, letter: &Letter<'_>) -> String {
    let facts = letter.latest();
    let value = |name: &str| -> Option<String> {
        Some(match name {
            "id" => letter.id.to_string(),
            "host" => letter.host.clone(),
            "subject" => letter.subject(),
            "text" => cut(&letter.text()),
            "count" => letter.notices.len().to_string(),
            "job" => facts.job.clone(),
            "group" => facts.group.clone(),
            "kind" => facts.kind.word().to_string(),
            "instance" => facts.instance.clone().unwrap_or_default(),
            _ => return None,
        })
    };
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        filled.push_str(before);
        let found = behind.split_once("}}");
        let replaced = found.and_then(|(name, behind)| Some((value(name.trim())?, behind)));
        match replaced {
            Some((value, behind)) => {
                let quoted = Value::from(value).to_string();
                filled.push_str(&quoted[1..quoted.len() - 1]);
                rest = behind;
            }
            None => {
                filled.push_str("{{");
                rest = behind;
            }
        }
    }
    filled + rest
}

/// What receivers take at the most.
pub fn cut(text: &str) -> String {
    if text.len() <= limits::NOTICE_TEXT_BYTES {
        return text.to_string();
    }
    let mut end = limits::NOTICE_TEXT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}\n...", &text[..end])
}
