//! Output of commands on its way to a terminal: colors stay, whatever else a terminal would act on is shown.
//! Must not know: where the output comes from.

use super::table::is_obeyed;

/// A longer sequence is none that sets colors.
const SEQUENCE_CHARS: usize = 32;

/// One stream. Sequences and characters that are split between two pieces are kept together.
#[derive(Default)]
pub struct Filter {
    /// The beginning of a character or of a sequence.
    carry: Vec<u8>,
    has_colors: bool,
}

impl Filter {
    /// What of a piece may be shown.
    pub fn pass(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.carry);
        bytes.extend_from_slice(piece);
        let split = incomplete(&bytes);
        self.carry = bytes.split_off(split);
        self.show(&String::from_utf8_lossy(&bytes))
    }

    /// The end of the stream: what was kept back, and the terminal's own colors.
    pub fn end(&mut self) -> Vec<u8> {
        let rest = std::mem::take(&mut self.carry);
        let mut shown = self.show(&String::from_utf8_lossy(&rest));
        if self.has_colors {
            shown.extend_from_slice(b"\x1b[0m");
        }
        shown
    }

    fn show(&mut self, text: &str) -> Vec<u8> {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(length) = color(rest) {
                self.has_colors = true;
                shown.push_str(&rest[..length]);
                rest = &rest[length..];
                continue;
            }
            if is_obeyed(c) && !matches!(c, '\n' | '\r' | '\t') {
                shown.extend(c.escape_unicode());
            } else {
                shown.push(c);
            }
            rest = &rest[c.len_utf8()..];
        }
        shown.into_bytes()
    }
}

/// The length of the sequence that sets colors (ECMA-48, SGR) with which the text begins.
fn color(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':')?;
    (parameters[end..].starts_with('m') && end <= SEQUENCE_CHARS).then_some(end + 3)
}

/// Where the last character or sequence begins that may go on in the next piece; the length if none does.
fn incomplete(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(SEQUENCE_CHARS);
    if let Some(escape) = bytes[from..].iter().rposition(|byte| *byte == 0x1b) {
        let after = &bytes[from + escape + 1..];
        let is_parameter = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b';' | b':');
        if after.first().is_none_or(|first| *first == b'[') && after.iter().skip(1).all(is_parameter) {
            return from + escape;
        }
    }
    // a character has four bytes at most
    let from = bytes.len().saturating_sub(3);
    let begins = (from..bytes.len()).rev().find(|at| bytes[*at] >= 0xc0);
    match begins {
        Some(at) if std::str::from_utf8(&bytes[at..]).is_err_and(|error| error.error_len().is_none()) => at,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stream in pieces of that size.
    fn shown(bytes: &[u8], size: usize) -> String {
        let mut filter = Filter::default();
        let mut all: Vec<u8> = bytes.chunks(size).flat_map(|piece| filter.pass(piece)).collect();
        all.extend(filter.end());
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn nothing_but_colors_reaches_the_terminal_however_it_is_split() {
        for size in 1..=40 {
            assert_eq!(
                shown("\x1b[1;31mréd\x1b[0m 50 %\r\tok\n".as_bytes(), size),
                "\x1b[1;31mréd\x1b[0m 50 %\r\tok\n\x1b[0m"
            );
            assert_eq!(
                shown(
                    "\x1b]0;title\x07\x1b[2J\x1b[6n\u{9b}2J a\u{202e}b".as_bytes(),
                    size
                ),
                "\\u{1b}]0;title\\u{7}\\u{1b}[2J\\u{1b}[6n\\u{9b}2J a\\u{202e}b"
            );
            assert_eq!(shown(b"a\xffb\xe2\x82", size), "a\u{fffd}b\u{fffd}");
            assert_eq!(shown(b"end\x1b[3", size), "end\\u{1b}[3");
        }
    }
}
