//! Why a file is not YAML, in the words of who wrote it: the line, the column and the likely cause. The parser's own
//! message names what it expected, which seldom is what is wrong.
//! Must not know: jobs. Quotes nothing of the file but one character: a file may hold secrets.

/// Why a file cannot be read as one YAML document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// 1-based; None where the parser cannot tell.
    pub line: Option<usize>,
    /// Quotes nothing of the file: it may hold secrets.
    pub reason: String,
}

/// Where the parser stopped, 1-based; columns count characters.
#[derive(Clone, Copy)]
struct Place {
    line: usize,
    column: usize,
}

/// The first byte that is not UTF-8, if there is one. A file with a UTF-16 mark is left to the parser, which reads it.
pub(super) fn not_utf8(bytes: &[u8]) -> Option<Unreadable> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return None;
    }
    let at = std::str::from_utf8(bytes).err()?.valid_up_to();
    let before = String::from_utf8_lossy(&bytes[..at]);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let byte = bytes[at];
    Some(Unreadable {
        line: Some(line),
        reason: format!(
            "column {column}: byte 0x{byte:02X} is not UTF-8; save the file as UTF-8 (is it Latin-1?)"
        ),
    })
}

/// What the parser's error most likely means.
pub(super) fn explain(bytes: &[u8], error: &serde_yaml::Error) -> Unreadable {
    let text = String::from_utf8_lossy(bytes);
    let message = error.to_string();
    let place = error.location().map(|place| Place {
        line: place.line(),
        column: place.column(),
    });
    if message.contains("more than one document") {
        return second_document(&text);
    }
    let Some(place) = place else {
        return Unreadable {
            line: None,
            reason: message,
        };
    };
    likely(&text, &message, place).unwrap_or_else(|| Unreadable {
        line: Some(place.line),
        reason: without_places(&message, place),
    })
}

fn likely(text: &str, message: &str, place: Place) -> Option<Unreadable> {
    // at the end of the file there is none
    let line = text.lines().nth(place.line.checked_sub(1)?).unwrap_or_default();
    let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
    if let Some(tab) = line[..indent].find('\t') {
        let reason = "a tab; indent with spaces";
        return Some(at(place.line, tab + 1, reason));
    }
    let opened = opened_at(message);
    let is_alias = message.contains("scanning an alias") || message.contains("scanning an anchor");
    // an alias begins before the place where the parser gave it up
    let begun_at = opened.filter(|_| is_alias).unwrap_or(place);
    if let Some(close) = closed_before(line, begun_at.column) {
        let reason = format!("the value ended at its closing '{close}'; put the whole value in quotes");
        return Some(at(begun_at.line, begun_at.column, &reason));
    }
    let here = character(text, place);
    if is_alias {
        let begun = character(text, begun_at).unwrap_or('*');
        let reason = format!("an unquoted value cannot begin with '{begun}'; put it in quotes");
        return Some(at(begun_at.line, begun_at.column, &reason));
    }
    if message.contains("mapping values are not allowed") {
        let reason = "': ' in an unquoted value, or a line that is indented too far; put the value in quotes";
        return Some(at(place.line, place.column, reason));
    }
    if message.contains("cannot start any token") {
        let reason = match here {
            Some('\t') => "a tab; use spaces".to_string(),
            Some(begun) => format!("an unquoted value cannot begin with '{begun}'; put it in quotes"),
            None => return None,
        };
        return Some(at(place.line, place.column, &reason));
    }
    if let Some(opened) = opened {
        let begun = character(text, opened)?;
        let reason = match begun {
            '"' | '\'' => format!("the quote {begun} that opens here is not closed"),
            '[' | '{' => format!(
                "the '{begun}' that opens here is not closed, or lacks a ',' before line {}; a text that begins with \
                 '{begun}' needs quotes",
                place.line
            ),
            _ => return None,
        };
        return Some(at(opened.line, opened.column, &reason));
    }
    if message.contains("did not find expected key") || message.contains("did not find expected '-'") {
        let reason = "expected a key: align it with the keys above it";
        return Some(at(place.line, place.column, reason));
    }
    None
}

/// What closed the value of the line, where more text follows: `[ -f x ] && y`, `"a" b`.
fn closed_before(line: &str, column: usize) -> Option<char> {
    let (key, value) = line.split_once(": ")?;
    let close = match value.trim_start().chars().next()? {
        '[' => ']',
        '{' => '}',
        quote @ ('"' | '\'') => quote,
        _ => return None,
    };
    let value_column = key.chars().count() + ": ".len();
    let read = column.saturating_sub(1).checked_sub(value_column)?;
    let read: String = value.chars().take(read).collect();
    read.trim_end().ends_with(close).then_some(close)
}

fn at(line: usize, column: usize, reason: &str) -> Unreadable {
    Unreadable {
        line: Some(line),
        reason: format!("column {column}: {reason}"),
    }
}

fn character(text: &str, place: Place) -> Option<char> {
    let line = text.lines().nth(place.line.checked_sub(1)?)?;
    line.chars().nth(place.column.checked_sub(1)?)
}

/// Where what the parser was reading begins: `while scanning a quoted scalar at line 2 column 12`.
fn opened_at(message: &str) -> Option<Place> {
    let (_, context) = message.split_once(", while ")?;
    let (_, place) = context.split_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    Some(Place {
        line: line.parse().ok()?,
        column: column.parse().ok()?,
    })
}

/// The parser's message with the column first, as all messages here have it; the line is told apart.
fn without_places(message: &str, place: Place) -> String {
    let said = format!(" at line {} column {}", place.line, place.column);
    format!("column {}: {}", place.column, message.replacen(&said, "", 1))
}

fn second_document(text: &str) -> Unreadable {
    let mut has_content = false;
    let second = text.lines().position(|line| {
        let is_marker = line.starts_with("---");
        let begins = is_marker && has_content;
        has_content |= !is_marker && !line.trim().is_empty() && !line.starts_with(['#', '%']);
        begins
    });
    Unreadable {
        line: second.map(|line| line + 1),
        reason: "a second YAML document begins here; a job file is one document: remove the '---', or use two files"
            .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::file;

    #[test]
    fn what_is_no_yaml_is_told_with_its_line_its_column_and_the_likely_cause() {
        for (text, line, reason) in [
            ("j:\n\tmin: 5\n", 2, "column 1: a tab; indent with spaces"),
            ("j:\n  env:\n  \tA: 5\n", 3, "column 3: a tab; indent with spaces"),
            (
                "j:\n  min: */5\n  hour: 1\n",
                2,
                "column 8: an unquoted value cannot begin with '*'; put it in quotes",
            ),
            (
                "j:\n  min: *\n",
                2,
                "column 8: an unquoted value cannot begin with '*'; put it in quotes",
            ),
            (
                "j:\n  command: & true\n",
                2,
                "column 12: an unquoted value cannot begin with '&'; put it in quotes",
            ),
            (
                "j:\n  command: echo a: b\n",
                2,
                "column 18: ': ' in an unquoted value, or a line that is indented too far; put the value in quotes",
            ),
            (
                "j:\n  command: \"echo a\n  min: 1\nk:\n  min: 1\n",
                2,
                "column 12: the quote \" that opens here is not closed",
            ),
            (
                "j:\n  command: @reboot\n",
                2,
                "column 12: an unquoted value cannot begin with '@'; put it in quotes",
            ),
            (
                "j:\n  command: %x\n",
                2,
                "column 12: an unquoted value cannot begin with '%'; put it in quotes",
            ),
            (
                "j:\n  command: [ -f x ] && y\n  min: 3\n",
                2,
                "column 21: the value ended at its closing ']'; put the whole value in quotes",
            ),
            (
                "j:\n  command: \"a\" b\n  min: 3\n",
                2,
                "column 16: the value ended at its closing '\"'; put the whole value in quotes",
            ),
            (
                "j:\n  targets: [a, b\n  min: 3\n",
                2,
                "column 12: the '[' that opens here is not closed, or lacks a ',' before line 3; a text that begins with \
                 '[' needs quotes",
            ),
            (
                "j:\n  command: echo\n min: 1\n",
                3,
                "column 2: expected a key: align it with the keys above it",
            ),
            (
                "j:\n  min: 1\n---\nk:\n  min: 1\n",
                3,
                "a second YAML document begins here; a job file is one document: remove the '---', or use two files",
            ),
        ] {
            let why = file::read(text.as_bytes()).unwrap_err();
            assert_eq!((why.line, why.reason.as_str()), (Some(line), reason), "{text}");
        }
    }

    #[test]
    fn a_byte_that_is_not_utf8_is_told_with_its_line() {
        let why = file::read(b"j:\n  min: 1\n  command: caf\xe9\n").unwrap_err();
        assert_eq!(why.line, Some(3));
        assert_eq!(
            why.reason,
            "column 15: byte 0xE9 is not UTF-8; save the file as UTF-8 (is it Latin-1?)"
        );
    }
}
