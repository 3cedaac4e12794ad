//! What the UI says (wire-protocol.md section 2). Whatever is not understood is ignored: the connection stays.
//! Must not know: what comes of it.

use serde_json::Value;

use crate::limits;

/// One wish of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Ack {
        job: String,
        machine: String,
        position: u64,
    },
    Run {
        job: String,
    },
    Kill {
        job: String,
        machine: Option<String>,
        instance: Option<String>,
    },
    Timeline {
        from: Value,
        until: Value,
        id: Value,
    },
}

/// What a message asks for, with the part of it that says so, in the order of this list.
pub fn read(text: &str) -> Vec<(ClientMessage, Value)> {
    let Ok(Value::Object(message)) = serde_json::from_str(text) else {
        return Vec::new();
    };
    let mut wishes = Vec::new();
    for (key, value) in &message {
        if let Some(wish) = wish(key, value) {
            let mut request = serde_json::Map::new();
            // it may have to be held for long
            if value.to_string().len() <= limits::COMPAT_ECHO_BYTES {
                request.insert(key.clone(), value.clone());
            }
            wishes.push((wish, Value::Object(request)));
        }
    }
    wishes
}

fn wish(key: &str, value: &Value) -> Option<ClientMessage> {
    match key {
        "subscribe" => Some(ClientMessage::Subscribe(names(value)?)),
        "unsubscribe" => Some(ClientMessage::Unsubscribe(names(value)?)),
        "run" => Some(ClientMessage::Run { job: text(value)? }),
        "killCron" => Some(ClientMessage::Kill {
            job: text(value)?,
            machine: None,
            instance: None,
        }),
        "killMachine" => Some(ClientMessage::Kill {
            job: text(value.get("cron")?)?,
            machine: Some(text(value.get("machine")?)?),
            instance: match value.get("job_instance") {
                None | Some(Value::Null) => None,
                Some(instance) => Some(text(instance)?).filter(|instance| !instance.is_empty()),
            },
        }),
        "ack" => Some(ClientMessage::Ack {
            job: text(value.get("cron")?)?,
            machine: text(value.get("machine")?)?,
            position: value.get("position")?.as_u64()?,
        }),
        "getTimeline" if value.is_object() && value.to_string().len() <= limits::COMPAT_ECHO_BYTES => {
            let field = |name| value.get(name).cloned().unwrap_or(Value::Null);
            Some(ClientMessage::Timeline {
                from: field("start_date"),
                until: field("end_date"),
                id: field("id"),
            })
        }
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

/// A list, or one bare string. What is no text in a list, or too long to be remembered, is passed over.
fn names(value: &Value) -> Option<Vec<String>> {
    let items = match value {
        Value::String(_) => std::slice::from_ref(value),
        Value::Array(items) => items,
        _ => return None,
    };
    let names = items.iter().filter_map(text);
    Some(
        names
            .filter(|name| name.len() <= limits::COMPAT_ECHO_BYTES)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(text: &str) -> Vec<ClientMessage> {
        read(text).into_iter().map(|(wish, _)| wish).collect()
    }

    #[test]
    fn everything_that_the_old_ui_says_is_understood() {
        let kill = |machine: Option<&str>, instance: Option<&str>| ClientMessage::Kill {
            job: "j".into(),
            machine: machine.map(str::to_string),
            instance: instance.map(str::to_string),
        };
        for (text, expected) in [
            (
                r#"{"subscribe":["a","b"]}"#,
                ClientMessage::Subscribe(vec!["a".into(), "b".into()]),
            ),
            (r#"{"subscribe":"a"}"#, ClientMessage::Subscribe(vec!["a".into()])),
            (
                r#"{"unsubscribe":["a",5]}"#,
                ClientMessage::Unsubscribe(vec!["a".into()]),
            ),
            (r#"{"run":"j"}"#, ClientMessage::Run { job: "j".into() }),
            (r#"{"killCron":"j"}"#, kill(None, None)),
            (
                r#"{"killMachine":{"cron":"j","machine":"m"}}"#,
                kill(Some("m"), None),
            ),
            (
                r#"{"killMachine":{"cron":"j","machine":"m","job_instance":"j_1"}}"#,
                kill(Some("m"), Some("j_1")),
            ),
        ] {
            assert_eq!(wishes(text), [expected], "{text}");
        }
        assert!(matches!(
            wishes(r#"{"getTimeline":{"start_date":"now-5m","end_date":null,"id":"x"}}"#)[..],
            [ClientMessage::Timeline { .. }]
        ));
        let ack = r#"{"ack":{"cron":"j","machine":"m","position":7}}"#;
        assert!(matches!(
            wishes(ack)[..],
            [ClientMessage::Ack { position: 7, .. }]
        ));
    }

    #[test]
    fn rubbish_is_ignored() {
        for text in [
            "",
            "{",
            "[]",
            "5",
            "null",
            r#"{"dance":1}"#,
            r#"{"run":5}"#,
            r#"{"run":null}"#,
            r#"{"subscribe":{}}"#,
            r#"{"killMachine":"m"}"#,
            r#"{"killMachine":{"cron":"j"}}"#,
            r#"{"ack":{"cron":"j","machine":"m","position":-1}}"#,
            r#"{"getTimeline":"now"}"#,
            "\u{0}\u{1}",
        ] {
            assert_eq!(wishes(text), [], "{text}");
        }
        let long = "x".repeat(limits::COMPAT_ECHO_BYTES + 1);
        assert_eq!(wishes(&format!(r#"{{"getTimeline":{{"id":"{long}"}}}}"#)), []);
        assert_eq!(
            wishes(&format!(r#"{{"subscribe":["{long}","a"]}}"#)),
            [ClientMessage::Subscribe(vec!["a".into()])]
        );
        // what is refused is told, but not what it was in all its length
        assert_eq!(
            read(&format!(r#"{{"run":"{long}"}}"#))[0].1,
            serde_json::json!({})
        );
        let deep = "[".repeat(100_000);
        assert_eq!(wishes(&deep), []);
    }
}
