//! Outputs as the UI gets them: pieces of JSON text with their length in UTF-16 code units, read from storage once for
//! all who follow. A piece always begins and ends between two characters, so nothing has to be carried from one to
//! the next; what begins a character that is not complete yet stays where it is until more comes.
//! Must not know: sockets, subscriptions.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::id::MachineRunId;
use crate::engine::record::OutputRef;
use crate::limits;
use crate::storage::Reader;

/// A border between blocks may fall within a character: a shorter rest than this is read with the next block.
const SHORT_BYTES: u64 = 16;

/// One machine run's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextSource {
    pub output: OutputRef,
    /// Bytes of the whole stream, as the board has it. Storage may not have all of them yet.
    pub output_bytes: u64,
    /// Nothing more will come.
    pub is_ended: bool,
}

/// How far a text was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Offset in the whole stream.
    pub byte: u64,
    /// Length of the text so far, the line about what was left out included.
    pub utf16: u64,
    /// That line is behind it.
    pub is_tail: bool,
}

/// Some of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// With quotes and escapes.
    pub json: String,
    pub utf16: u64,
    /// Where the next begins.
    pub next_byte: u64,
    pub is_tail: bool,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Piece(Arc<Piece>),
    /// Nothing is stored of it yet.
    Nothing,
    /// There may be more, but others have their turn.
    Later,
    /// The text is complete.
    End,
}

/// Reads pieces, and keeps them for others.
pub struct TextCache {
    reader: Mutex<Reader>,
    kept: Mutex<Kept>,
}

/// Where a piece begins, where its block ends, and whether that is the end of all.
type Key = (MachineRunId, u64, u64, bool);

/// Two generations: when the younger is full, the older is forgotten.
#[derive(Default)]
struct Kept {
    young: HashMap<Key, Arc<Piece>>,
    old: HashMap<Key, Arc<Piece>>,
    young_bytes: usize,
}

/// Where the next read ends, and what follows it.
enum Stretch {
    To(u64),
    /// Head and tail have a line between them.
    Notice,
    Nothing,
    End,
}

impl Cursor {
    /// The place behind `piece`.
    pub fn after(self, piece: &Piece) -> Cursor {
        Cursor {
            byte: piece.next_byte,
            utf16: self.utf16 + piece.utf16,
            is_tail: piece.is_tail,
        }
    }
}

impl TextCache {
    /// Reads through `reader`.
    pub fn new(reader: Reader) -> TextCache {
        TextCache {
            reader: Mutex::new(reader),
            kept: Mutex::default(),
        }
    }

    /// The piece at `cursor`; with `stop`, none that reaches beyond that many UTF-16 code units of the text.
    pub fn next(&self, source: &TextSource, cursor: Cursor, stop: Option<u64>) -> Result<Next, String> {
        let to = match stretch(source, cursor) {
            Stretch::To(to) => to,
            Stretch::Notice => return self.notice(source),
            Stretch::Nothing => return Ok(Next::Nothing),
            Stretch::End => return Ok(Next::End),
        };
        let most_utf16 = stop.map_or(u64::MAX, |stop| stop.saturating_sub(cursor.utf16));
        let key = (source.output.machine_run, cursor.byte, to, source.is_ended);
        if let Some(piece) = self.kept.lock().find(&key, most_utf16) {
            return Ok(Next::Piece(piece));
        }
        let reader = self.reader.lock();
        // another thread may have read it meanwhile
        if let Some(piece) = self.kept.lock().find(&key, most_utf16) {
            return Ok(Next::Piece(piece));
        }
        let wanted = (to - cursor.byte) as usize;
        let mut bytes = reader.stored_output(source.output, cursor.byte, wanted)?;
        bytes.truncate(wanted);
        let is_whole = bytes.len() == wanted;
        let is_last = is_whole && source.is_ended && to == source.output_bytes;
        let piece = Arc::new(encode(&bytes, cursor, is_last, most_utf16));
        if piece.next_byte == cursor.byte {
            drop(reader);
            let is_head_done = is_whole && is_cut(source) && !cursor.is_tail;
            return if is_head_done {
                self.notice(source)
            } else {
                Ok(Next::Nothing)
            };
        }
        if is_whole && most_utf16 >= piece.utf16 && stop.is_none() {
            self.kept.lock().keep(key, &piece);
        }
        Ok(Next::Piece(piece))
    }

    fn notice(&self, source: &TextSource) -> Result<Next, String> {
        let shape = self.reader.lock().output_shape(source.output)?;
        if shape.total_bytes < source.output_bytes {
            return Ok(Next::Nothing);
        }
        let at_tail = Cursor {
            byte: 0,
            utf16: 0,
            is_tail: true,
        };
        let line = encode(&shape.notice, at_tail, true, u64::MAX);
        Ok(Next::Piece(Arc::new(Piece {
            next_byte: shape.total_bytes - shape.tail_bytes,
            ..line
        })))
    }
}

impl Kept {
    fn find(&self, key: &Key, most_utf16: u64) -> Option<Arc<Piece>> {
        let found = self.young.get(key).or_else(|| self.old.get(key));
        found.filter(|piece| piece.utf16 <= most_utf16).cloned()
    }

    fn keep(&mut self, key: Key, piece: &Arc<Piece>) {
        if self.young_bytes >= limits::COMPAT_CACHE_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += piece.json.len();
        self.young.insert(key, piece.clone());
    }
}

/// It has ended, and its middle is left out.
fn is_cut(source: &TextSource) -> bool {
    source.is_ended && source.output.limit_bytes > 0 && source.output_bytes > source.output.limit_bytes
}

fn stretch(source: &TextSource, cursor: Cursor) -> Stretch {
    // while it runs, what lies behind the head may yet be left out
    let is_head = source.output.limit_bytes > 0 && !cursor.is_tail && (!source.is_ended || is_cut(source));
    let end = if is_head {
        source.output_bytes.min(source.output.limit_bytes / 2)
    } else {
        source.output_bytes
    };
    if cursor.byte >= end {
        return match (is_head && is_cut(source), source.is_ended) {
            (true, _) => Stretch::Notice,
            (false, true) => Stretch::End,
            (false, false) => Stretch::Nothing,
        };
    }
    let mut border = (cursor.byte / limits::COMPAT_BLOCK_BYTES + 1) * limits::COMPAT_BLOCK_BYTES;
    if border - cursor.byte < SHORT_BYTES {
        border += limits::COMPAT_BLOCK_BYTES;
    }
    Stretch::To(border.min(end))
}

/// As much of `bytes` as fits into a frame and into `most_utf16`, faulty sequences as U+FFFD. `is_last`: nothing
/// follows, so that a sequence that is not complete is faulty as well.
fn encode(bytes: &[u8], at: Cursor, is_last: bool, most_utf16: u64) -> Piece {
    let mut into = Encoder {
        json: String::with_capacity(bytes.len() + bytes.len() / 16 + 2),
        utf16: 0,
        most_utf16,
    };
    into.json.push('"');
    let mut used = 0;
    for chunk in bytes.utf8_chunks() {
        let taken = into.text(chunk.valid());
        used += taken;
        if taken < chunk.valid().len() {
            break;
        }
        let faulty = chunk.invalid();
        let ends_here = used + faulty.len() == bytes.len();
        let may_go_on = std::str::from_utf8(faulty).is_err_and(|error| error.error_len().is_none());
        if faulty.is_empty() || (ends_here && may_go_on && !is_last) || !into.character('\u{fffd}') {
            break;
        }
        used += faulty.len();
    }
    into.json.push('"');
    Piece {
        json: into.json,
        utf16: into.utf16,
        next_byte: at.byte + used as u64,
        is_tail: at.is_tail,
    }
}

struct Encoder {
    json: String,
    utf16: u64,
    most_utf16: u64,
}

impl Encoder {
    /// How many bytes of it were taken.
    fn text(&mut self, text: &str) -> usize {
        for (at, character) in text.char_indices() {
            if !self.character(character) {
                return at;
            }
        }
        text.len()
    }

    /// False: it does not fit.
    fn character(&mut self, character: char) -> bool {
        let utf16 = character.len_utf16() as u64;
        if self.utf16 + utf16 > self.most_utf16 || self.json.len() >= limits::COMPAT_CHUNK_JSON_BYTES {
            return false;
        }
        self.utf16 += utf16;
        match character {
            '"' => self.json.push_str("\\\""),
            '\\' => self.json.push_str("\\\\"),
            '\n' => self.json.push_str("\\n"),
            '\r' => self.json.push_str("\\r"),
            '\t' => self.json.push_str("\\t"),
            '\0'..='\u{1f}' => {
                use std::fmt::Write;
                // writing into a String cannot fail
                let _ = write!(self.json, "\\u{:04x}", character as u32);
            }
            other => self.json.push(other),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Cursor {
        Cursor::default()
    }

    fn decoded(piece: &Piece) -> String {
        serde_json::from_str(&piece.json).unwrap()
    }

    #[test]
    fn pieces_cut_anywhere_read_as_the_whole_and_count_utf16() {
        let whole = "a\u{1f600}\u{20ac}\"\\\n\t\u{1} \u{e4}".as_bytes();
        let faulty = b"x\xff\xfe\xe0\x80y\xf0\x9f\x98".as_slice();
        for bytes in [whole, faulty] {
            let expected = String::from_utf8_lossy(bytes);
            for cut in 0..=bytes.len() {
                let first = encode(&bytes[..cut], start(), cut == bytes.len(), u64::MAX);
                let rest = &bytes[first.next_byte as usize..];
                let second = encode(rest, start().after(&first), true, u64::MAX);
                assert_eq!(decoded(&first) + &decoded(&second), expected, "cut at {cut}");
                let units = expected.encode_utf16().count() as u64;
                assert_eq!(first.utf16 + second.utf16, units, "cut at {cut}");
                assert_eq!(second.next_byte, bytes.len() as u64);
            }
        }
    }

    #[test]
    fn a_piece_stops_where_it_is_told_and_never_within_a_surrogate_pair() {
        let bytes = "ab\u{1f600}c".as_bytes();
        for (most, text) in [
            (1, "a"),
            (2, "ab"),
            (3, "ab"),
            (4, "ab\u{1f600}"),
            (9, "ab\u{1f600}c"),
        ] {
            assert_eq!(decoded(&encode(bytes, start(), true, most)), text, "{most}");
        }
    }

    #[test]
    fn no_piece_is_too_large_for_a_frame_whatever_it_holds() {
        for byte in [1, b'"', 0xff, b'x'] {
            let bytes = vec![byte; 4 * limits::COMPAT_BLOCK_BYTES as usize];
            let piece = encode(&bytes, start(), true, u64::MAX);
            assert!(piece.json.len() < (250 << 10), "{byte}: {}", piece.json.len());
            assert!(piece.next_byte > 30_000);
        }
    }

    #[test]
    fn while_it_runs_only_the_head_is_shown_and_blocks_have_common_borders() {
        let place = |output_bytes, is_ended| TextSource {
            output: OutputRef {
                limit_bytes: 100_000,
                ..OutputRef::default()
            },
            output_bytes,
            is_ended,
        };
        let to = |source: &TextSource, byte| match stretch(source, Cursor { byte, ..start() }) {
            Stretch::To(to) => to,
            Stretch::Notice => u64::MAX,
            Stretch::Nothing => 0,
            Stretch::End => 1,
        };
        assert_eq!(to(&place(40_000, false), 0), 40_000);
        assert_eq!(to(&place(80_000, false), 40_000), 50_000);
        assert_eq!(to(&place(80_000, false), 50_000), 0);
        assert_eq!(to(&place(80_000, true), 50_000), 65_536);
        assert_eq!(to(&place(80_000, true), 65_533), 80_000);
        assert_eq!(to(&place(80_000, true), 80_000), 1);
        assert_eq!(to(&place(120_000, true), 10), 50_000);
        assert_eq!(to(&place(120_000, true), 50_000), u64::MAX);
    }
}
