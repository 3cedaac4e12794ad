//! UTF-8 at the borders of byte ranges. Must not know: where the bytes are kept.

/// A UTF-8 sequence that is cut has at most this many bytes.
pub(super) const CUT_BYTES: usize = 3;

/// How many bytes at the end begin a UTF-8 sequence that is not complete.
pub(super) fn cut_at_end(bytes: &[u8]) -> usize {
    for length in 1..=CUT_BYTES.min(bytes.len()) {
        let end = &bytes[bytes.len() - length..];
        if is_continuation(end[0]) {
            continue;
        }
        let is_cut = std::str::from_utf8(end).is_err_and(|error| error.error_len().is_none());
        return if is_cut { length } else { 0 };
    }
    0
}

/// How many bytes at the start go on with a sequence that began before.
pub(super) fn cut_at_start(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .take(CUT_BYTES)
        .take_while(|byte| is_continuation(**byte))
        .count()
}

/// UTF-16 code units of `bytes`, where each faulty sequence counts as one (U+FFFD) and one that is not complete at
/// the end does not count yet.
pub(super) fn utf16_units(bytes: &[u8]) -> u64 {
    let complete = &bytes[..bytes.len() - cut_at_end(bytes)];
    complete
        .utf8_chunks()
        .map(|chunk| chunk.valid().encode_utf16().count() as u64 + u64::from(!chunk.invalid().is_empty()))
        .sum()
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_cut_at_a_border_is_measured() {
        let euro = "a€".as_bytes();
        assert_eq!(cut_at_end(euro), 0);
        assert_eq!(cut_at_end(&euro[..3]), 2);
        assert_eq!(cut_at_end(&euro[..2]), 1);
        assert_eq!(cut_at_end(b"a\xff"), 0);
        assert_eq!(cut_at_end("😀".as_bytes()), 0);
        assert_eq!(cut_at_end(&"😀".as_bytes()[..3]), 3);
        assert_eq!(cut_at_start(&euro[2..]), 2);
        assert_eq!(cut_at_start(euro), 0);
    }

    #[test]
    fn utf16_units_count_what_a_page_shows() {
        assert_eq!(utf16_units("a€😀".as_bytes()), 4);
        assert_eq!(utf16_units(b"a\xff\xfeb"), 4);
        assert_eq!(utf16_units(&"a😀".as_bytes()[..4]), 1);
    }
}
