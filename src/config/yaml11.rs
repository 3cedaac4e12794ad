//! How the old daemon read what job files say: as YAML 1.1 (`yes` a boolean, `010` eight, `1:30` ninety), and as
//! Python wrote such values down as text.
//! Must not know: files, jobs.

use std::sync::LazyLock;

use regex_lite::Regex;

use super::node::{boolean_text, float_text};

/// What a bare word was to the old daemon, if it was no text.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    /// A date or a time of day; its text is not worked out.
    Date,
}

/// What the old daemon made of a bare word; None: a text.
pub fn reading(plain: &str) -> Option<Reading> {
    match plain {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Reading::Null),
        ".nan" | ".NaN" | ".NAN" => return Some(Reading::Float(f64::NAN)),
        _ => {}
    }
    if let Some(value) = boolean_word(plain) {
        return Some(Reading::Bool(value));
    }
    let first = plain.as_bytes()[0];
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return None;
    }
    if DATE.is_match(plain) {
        return Some(Reading::Date);
    }
    integer(plain)
        .map(Reading::Int)
        .or_else(|| float(plain).map(Reading::Float))
}

/// YAML 1.1's words for true and false, in its three spellings each.
pub fn boolean_word(text: &str) -> Option<bool> {
    if !(2..=5).contains(&text.len()) || !text.is_ascii() {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    if text != lower && text != text.to_ascii_uppercase() && text[1..] != lower[1..] {
        return None;
    }
    match lower.as_str() {
        "yes" | "on" | "true" => Some(true),
        "no" | "off" | "false" => Some(false),
        _ => None,
    }
}

/// Whether a text read from a file was something else to the old daemon unless it stood in quotes. Dates that
/// Python wrote as they stand do not count, nor what would be no text to our own reader: that did stand in quotes.
pub fn differs(text: &str) -> bool {
    if is_surely_quoted(text) {
        return false;
    }
    match reading(text) {
        None | Some(Reading::Null) => false,
        Some(Reading::Date) => !CANONICAL_DATE.is_match(text),
        Some(_) => true,
    }
}

/// The text that the old daemon handed on for a bare word: `True` for `yes`, `8` for `010`. Dates stay as they stand.
pub fn plain_text(plain: &str) -> String {
    match reading(plain) {
        Some(Reading::Null) => "None".to_string(),
        Some(Reading::Bool(value)) => boolean_text(value).to_string(),
        Some(Reading::Int(value)) => value.to_string(),
        Some(Reading::Float(value)) => float_text(value),
        Some(Reading::Date) | None => plain.to_string(),
    }
}

static DATE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(\d{4}-\d\d-\d\d|\d{4}-\d\d?-\d\d?([Tt]|[ \t]+)\d\d?:\d\d:\d\d(\.\d*)?([ \t]*(Z|[-+]\d\d?(:\d\d)?))?)$",
    )
});
static CANONICAL_DATE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d{6})?([-+]\d\d:\d\d)?)?$"));
static SEXAGESIMAL_FLOAT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*$"));
static FLOAT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?)$")
});

#[allow(clippy::expect_used)] // the patterns above are constants, and a test compiles each
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("constant pattern")
}

/// What our reader (YAML 1.2) takes for a boolean or a number if it is bare.
fn is_surely_quoted(text: &str) -> bool {
    if matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE") {
        return true;
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return false;
    }
    let radix = |prefix, radix| {
        digits
            .strip_prefix(prefix)
            .is_some_and(|rest| i128::from_str_radix(rest, radix).is_ok())
    };
    if radix("0x", 16) || radix("0o", 8) || radix("0b", 2) || digits.parse::<u128>().is_ok() {
        return !(digits.len() > 1
            && digits.starts_with('0')
            && digits.bytes().all(|digit| digit.is_ascii_digit()));
    }
    digits.parse::<f64>().is_ok_and(f64::is_finite)
}

fn integer(plain: &str) -> Option<i128> {
    let (sign, digits) = match plain.as_bytes()[0] {
        b'-' => (-1, &plain[1..]),
        b'+' => (1, &plain[1..]),
        _ => (1, plain),
    };
    if !digits.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    if digits.contains(':') {
        return sexagesimal(digits).map(|value| sign * value);
    }
    let clean = digits.replace('_', "");
    let value = if let Some(hex) = clean.strip_prefix("0x") {
        i128::from_str_radix(hex, 16)
    } else if let Some(binary) = clean.strip_prefix("0b") {
        i128::from_str_radix(binary, 2)
    } else if clean.len() > 1 && clean.starts_with('0') {
        i128::from_str_radix(&clean, 8)
    } else {
        clean.parse()
    };
    value.ok().map(|value| sign * value)
}

/// `1:30` is 90: no leading zero, each further part below 60.
fn sexagesimal(digits: &str) -> Option<i128> {
    let mut parts = digits.split(':');
    let first = parts.next()?.replace('_', "");
    if first.starts_with('0') {
        return None;
    }
    let mut value: i128 = first.parse().ok()?;
    for part in parts {
        if part.is_empty() || part.len() > 2 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let part: i128 = part.parse().ok()?;
        if part > 59 {
            return None;
        }
        value = value.checked_mul(60)?.checked_add(part)?;
    }
    Some(value)
}

fn float(plain: &str) -> Option<f64> {
    match plain.trim_start_matches(['+', '-']) {
        ".inf" | ".Inf" | ".INF" => {
            return Some(if plain.starts_with('-') {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            });
        }
        _ => {}
    }
    if FLOAT.is_match(plain) {
        return plain.replace('_', "").parse().ok();
    }
    if !SEXAGESIMAL_FLOAT.is_match(plain) {
        return None;
    }
    let clean = plain.replace('_', "");
    let sign = if clean.starts_with('-') { -1.0 } else { 1.0 };
    let (mut value, mut base) = (0.0, 1.0);
    for part in clean.trim_start_matches(['+', '-']).rsplit(':') {
        value += part.parse::<f64>().ok()? * base;
        base *= 60.0;
    }
    Some(sign * value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_as_the_old_daemon_read_them() {
        for (plain, text) in [
            ("yes", "True"),
            ("Off", "False"),
            ("oN", "oN"),
            ("010", "8"),
            ("08", "08"),
            ("1:30", "90"),
            ("01:30", "01:30"),
            ("1_000", "1000"),
            ("1e3", "1e3"),
            ("1.5e+3", "1500.0"),
            ("0o17", "0o17"),
            ("0x1F", "31"),
            ("~", "None"),
            ("+5", "5"),
            ("-0x10", "-16"),
            (".5", "0.5"),
            ("1.", "1.0"),
            (".", "."),
            ("-", "-"),
            ("2026-11-21", "2026-11-21"),
            ("web01", "web01"),
            ("é", "é"),
            ("1:60", "1:60"),
            ("-.inf", "-inf"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(plain_text(plain), text, "{plain}");
        }
        assert!(!differs("2026-11-21") && !differs("2026-11-21 10:00:00"));
        assert!(!differs("1") && !differs("-1.5") && !differs("0x10") && !differs("true") && !differs("0"));
        assert!(differs("2026-11-21T10:00:00Z") && differs("010") && differs("on") && !differs("5 minutes"));
    }
}
