//! Single values of job files as texts, numbers, booleans: what is taken, and what is taken with a doubt.
//! Must not know: which field a value belongs to.

use super::node::{Node, python_text};
use super::yaml11::{self, Reading};

/// A whole number, 0 or more; the texts of such numbers count too, and what YAML 1.1 alone takes for one (`1_000`).
/// `Ok(None)`: nothing given.
pub fn whole(node: &Node) -> Result<Option<u64>, String> {
    let number = match node {
        Node::Null => return Ok(None),
        Node::Int(value) => u64::try_from(*value).ok(),
        Node::Float(value) if value.fract() == 0.0 && (0.0..9e15).contains(value) => Some(*value as u64),
        Node::Text(text) => text
            .trim()
            .parse()
            .ok()
            .or_else(|| match yaml11::reading(text.trim()) {
                Some(Reading::Int(value)) => u64::try_from(value).ok(),
                _ => None,
            }),
        _ => None,
    };
    number
        .map(Some)
        .ok_or_else(|| format!("must be a whole number, 0 or more, not {}", shown(node)))
}

/// A number of seconds, fractions allowed, 0 or more and finite.
pub fn seconds(node: &Node) -> Result<Option<f64>, String> {
    let number = match node {
        Node::Null => return Ok(None),
        Node::Int(value) => Some(*value as f64),
        Node::Float(value) => Some(*value),
        Node::Text(text) => text
            .trim()
            .parse()
            .ok()
            .or_else(|| match yaml11::reading(text.trim()) {
                Some(Reading::Int(value)) => Some(value as f64),
                Some(Reading::Float(value)) => Some(value),
                _ => None,
            }),
        _ => None,
    };
    number
        .filter(|value| (0.0..1e15).contains(value))
        .map(Some)
        .ok_or_else(|| format!("must be a number of seconds, 0 or more, not {}", shown(node)))
}

/// Seconds as milliseconds, above 0.
pub fn milliseconds(node: &Node) -> Result<Option<u64>, String> {
    match seconds(node)? {
        Some(0.0) => Err("must be more than 0 seconds".to_string()),
        Some(value) => Ok(Some((value * 1_000.0).ceil() as u64)),
        None => Ok(None),
    }
}

/// A boolean: also YAML 1.1's words, 0 and 1.
pub fn flag(node: &Node) -> Result<Option<bool>, String> {
    match node {
        Node::Null => Ok(None),
        Node::Bool(value) => Ok(Some(*value)),
        Node::Int(0) => Ok(Some(false)),
        Node::Int(1) => Ok(Some(true)),
        Node::Text(text) => match yaml11::boolean_word(text.trim()) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("must be true or false, not {}", shown(node))),
        },
        _ => Err(format!("must be true or false, not {}", shown(node))),
    }
}

/// A text; numbers and booleans count as what they look like.
pub fn text(node: &Node) -> Result<Option<String>, String> {
    match node {
        Node::Null => Ok(None),
        Node::Text(text) if text.contains('\0') => Err("must not contain a NUL character".to_string()),
        Node::Text(text) => Ok(Some(text.clone())),
        Node::Bool(value) => Ok(Some(value.to_string())),
        Node::Int(_) | Node::Float(_) => Ok(Some(python_text(node))),
        Node::List(_) | Node::Map(_) => Err(format!("must be a text, not {}", node.kind())),
    }
}

/// A list of texts; a single text is a list of one.
pub fn texts(node: &Node) -> Result<Option<Vec<String>>, String> {
    match node {
        Node::Null => Ok(None),
        Node::List(items) => items
            .iter()
            .map(|item| text(item)?.ok_or_else(|| "has an empty item; remove it".to_string()))
            .collect::<Result<Vec<_>, _>>()
            .map(Some),
        Node::Map(_) => Err("must be a list of texts, not a mapping".to_string()),
        single => Ok(text(single)?.map(|text| vec![text])),
    }
}

/// Why a value that is used as a text may not be the text that was meant. Quotes nothing of it: it may be secret.
pub fn text_doubt(node: &Node) -> Option<&'static str> {
    match node {
        Node::Bool(_) => Some("is a boolean, used as a text; put it in quotes"),
        Node::Float(_) => Some("is a number with a fraction, used as a text; put it in quotes"),
        Node::Text(text) if yaml11::differs(text) => {
            Some("was no text to the old daemon (YAML 1.1) unless quoted; put it in quotes")
        }
        Node::List(items) => items.iter().find_map(text_doubt),
        _ => None,
    }
}

/// Why a number that stands there as a text may not be the number that was meant: `010` was 8.
pub fn number_doubt(node: &Node) -> Option<String> {
    let Node::Text(text) = node else { return None };
    let text = text.trim();
    let old = match yaml11::reading(text)? {
        Reading::Int(value) => value as f64,
        Reading::Float(value) => value,
        _ => return None,
    };
    (seconds(node) != Ok(Some(old))).then(|| {
        let old = yaml11::plain_text(text);
        format!(
            "'{text}' was {old} to the old daemon (YAML 1.1) unless quoted; write it without leading zeros"
        )
    })
}

/// A short value for a message about a field that holds no secrets; long ones and collections by their kind.
pub fn shown(node: &Node) -> String {
    match node {
        Node::Text(text) if text.len() <= 40 => format!("'{}'", text.escape_debug()),
        Node::Bool(_) | Node::Int(_) | Node::Float(_) => {
            format!("{} ({})", node.key_text().unwrap_or_default(), node.kind())
        }
        other => other.kind().to_string(),
    }
}

/// The entry of `known` that `word` most likely meant.
pub fn likeliest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let (mut close, mut begun): (Option<(usize, &str)>, Option<&str>) = (None, None);
    for name in known {
        let lower = name.to_lowercase();
        let distance = strsim::damerau_levenshtein(&word, &lower);
        if distance <= (lower.len().max(word.len()) / 3).max(1)
            && close.is_none_or(|(least, _)| distance < least)
        {
            close = Some((distance, name));
        }
        // minute, month, environment
        let is_longer = begun.is_none_or(|known| known.len() < name.len());
        if lower.len() >= LEAST_BEGINNING && word.starts_with(&lower) && is_longer {
            begun = Some(name);
        }
    }
    close.map(|(_, name)| name).or(begun)
}

/// Characters that say which longer word was meant.
const LEAST_BEGINNING: usize = 3;

/// `unknown ..., did you mean 'x'?` for a name that is none of `known`.
pub fn unknown<'a>(what: &str, word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match likeliest(word, known) {
        Some(name) => format!("unknown {what}, ignored; did you mean '{name}'?"),
        None => format!("unknown {what}, ignored"),
    }
}
