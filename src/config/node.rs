//! A value of a job file, whichever parser read it, and its texts: as a key, as JSON, as Python wrote it.
//! Must not know: YAML's syntax, what a key means.

/// One value of a YAML document. Tags are dropped, aliases resolved, merge keys (`<<`) applied; dates and
/// YAML 1.1's words stay texts.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the file's order, merged entries first; a key given twice stands twice.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// What this is, for a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Null => "empty",
            Node::Bool(_) => "a boolean",
            Node::Int(_) => "a number",
            Node::Float(_) => "a number with a fraction",
            Node::Text(_) => "a text",
            Node::List(_) => "a list",
            Node::Map(_) => "a mapping",
        }
    }

    /// The text that stands for a key: `123`, `on`, `1.5`, `true`; None for lists and mappings.
    pub fn key_text(&self) -> Option<String> {
        match self {
            Node::Null => Some("null".to_string()),
            Node::Bool(value) => Some(value.to_string()),
            Node::Int(value) => Some(value.to_string()),
            Node::Float(value) => Some(float_text(*value)),
            Node::Text(text) => Some(text.clone()),
            Node::List(_) | Node::Map(_) => None,
        }
    }

    /// As JSON: NaN, infinities and what no JSON number holds become texts; of a key given twice the later wins.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(small), _) => small.into(),
                (_, Ok(large)) => large.into(),
                _ => Value::String(value.to_string()),
            },
            Node::Float(value) => match serde_json::Number::from_f64(*value) {
                Some(number) => Value::Number(number),
                None => Value::String(float_text(*value)),
            },
            Node::Text(text) => Value::String(text.clone()),
            Node::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Node::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, value)| {
                        let name = key.key_text().unwrap_or_else(|| python_text(key));
                        (name, value.to_json())
                    })
                    .collect(),
            ),
        }
    }

    /// From JSON, as the files of last good content hold it.
    pub fn from_json(value: &serde_json::Value) -> Node {
        use serde_json::Value;
        match value {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(small), _, _) => Node::Int(small.into()),
                (_, Some(large), _) => Node::Int(large.into()),
                (_, _, float) => Node::Float(float.unwrap_or_default()),
            },
            Value::String(text) => Node::Text(text.clone()),
            Value::Array(items) => Node::List(items.iter().map(Node::from_json).collect()),
            Value::Object(entries) => Node::Map(
                entries
                    .iter()
                    .map(|(key, value)| (Node::Text(key.clone()), Node::from_json(value)))
                    .collect(),
            ),
        }
    }
}

/// A value as Python's `str` would write it.
pub fn python_text(node: &Node) -> String {
    match node {
        Node::Null => "None".to_string(),
        Node::Bool(value) => boolean_text(*value).to_string(),
        Node::Int(value) => value.to_string(),
        Node::Float(value) => float_text(*value),
        Node::Text(text) => text.clone(),
        Node::List(items) => {
            let items: Vec<String> = items.iter().map(python_repr).collect();
            format!("[{}]", items.join(", "))
        }
        Node::Map(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", python_repr(key), python_repr(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// A number with a fraction as Python writes it: `1.0`, `1e+16`, `nan`.
pub(super) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

fn python_repr(node: &Node) -> String {
    let Node::Text(text) = node else {
        return python_text(node);
    };
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut quoted = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            letter if letter == quote => quoted.extend(['\\', letter]),
            letter => quoted.push(letter),
        }
    }
    quoted.push(quote);
    quoted
}

/// A boolean as Python writes it.
pub(super) fn boolean_text(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        for (value, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
            (f64::NAN, "nan"),
            (1e100, "1e+100"),
        ] {
            assert_eq!(float_text(value), text);
        }
        let node = Node::List(vec![Node::Text("it's".into()), Node::Bool(true), Node::Null]);
        assert_eq!(python_text(&node), "[\"it's\", True, None]");
    }
}
