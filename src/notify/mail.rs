//! A mail for each message, handed to a program that is called like sendmail and knows where mail goes.
//! Must not know: how programs are run.

use std::ffi::OsString;

use data_encoding::BASE64;

use super::program::{self, Program};
use super::text::Letter;
use crate::clock;
use crate::config::notifiers::Mail;
use crate::engine::notice::DeliveryError;
use crate::limits;

/// Characters of a subject: more are of no use in a list of mails.
const SUBJECT_CHARS: usize = 200;
/// Bytes of text in one encoded word: with its frame it has at most 75 characters (RFC 2047, section 2).
const WORD_BYTES: usize = 42;

/// Sends a message.
pub fn send(mail: &Mail, letter: &Letter<'_>) -> Result<(), DeliveryError> {
    let text = compose(mail, letter);
    let mut arguments: Vec<OsString> = [mail.sendmail.as_str(), "-i", "-t"].map(OsString::from).to_vec();
    if let Some(from) = &mail.from {
        // of the envelope: msmtp takes it from no header
        arguments.extend(["-f".into(), from.into()]);
    }
    program::run(&Program {
        arguments: &arguments,
        environment: Vec::new(),
        input: text.as_bytes(),
        user: None,
        timeout_ms: limits::SENDMAIL_MS,
    })
    .map_err(|why| DeliveryError {
        reason: format!("{} {why}", mail.sendmail),
        ..DeliveryError::default()
    })
}

/// The mail. Addresses were checked when the configuration was read; every other text is encoded.
fn compose(mail: &Mail, letter: &Letter<'_>) -> String {
    let host = ascii_word(&letter.host);
    let mut head = String::new();
    let mut add = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\n"));
    if let Some(from) = &mail.from {
        add("From", from);
    }
    add("To", &mail.to.join(",\n "));
    let subject: String = letter.subject().chars().take(SUBJECT_CHARS).collect();
    add("Subject", &encoded_word(&format!("[saltpeter {host}] {subject}")));
    add("Date", &clock::wall().utc().to_rfc2822());
    add("Message-ID", &format!("<{}@{host}>", letter.id));
    // no vacation notices, please
    add("Auto-Submitted", "auto-generated");
    add("MIME-Version", "1.0");
    add("Content-Type", "text/plain; charset=utf-8");
    let text = letter.text();
    let is_plain = text.is_ascii() && text.lines().all(|line| line.len() < 900);
    if is_plain {
        add("Content-Transfer-Encoding", "7bit");
        return format!("{head}\n{text}\n");
    }
    add("Content-Transfer-Encoding", "base64");
    let encoded = BASE64.encode(text.as_bytes());
    let lines: Vec<&str> = encoded
        .as_bytes()
        .chunks(76)
        .map(|line| std::str::from_utf8(line).unwrap_or_default())
        .collect();
    format!("{head}\n{}\n", lines.join("\n"))
}

/// A text as a header's value: as it is where that cannot be read as anything else, else encoded (RFC 2047).
pub fn encoded_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
    if text.chars().all(is_plain) && !text.contains("=?") && text.len() < 900 {
        return text.to_string();
    }
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if word.len() + c.len_utf8() > WORD_BYTES {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let words = words
        .iter()
        .map(|word| format!("=?UTF-8?B?{}?=", BASE64.encode(word.as_bytes())));
    words.collect::<Vec<_>>().join(" ")
}

fn ascii_word(text: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    text.chars().filter(is_plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_cannot_be_left() {
        assert_eq!(encoded_word("backup failed on web01"), "backup failed on web01");
        for evil in [
            "a\nBcc: x@y",
            "a\r\n\r\nbody",
            "ü",
            "a\u{85}b",
            "=?UTF-8?B?eA==?=",
        ] {
            let word = encoded_word(evil);
            assert!(word.starts_with("=?UTF-8?B?") && word.is_ascii(), "{word}");
            assert!(!word.contains(['\n', '\r']), "{word}");
        }
        let long = encoded_word(&"ü".repeat(200));
        assert!(long.split(' ').all(|word| word.len() <= 75), "{long}");
    }
}
