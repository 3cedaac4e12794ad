//! Counts UTF-16 code units of a byte stream that arrives in pieces (rules.md 17): the UI addresses output by
//! them. Invalid bytes count as the U+FFFD they are shown as.
//! Must not know: where the bytes come from.

/// Units of `bytes` continued after `carry` (what [`incomplete_tail`] left before), and the new carry.
pub fn utf16_units(carry: &[u8], bytes: &[u8]) -> (u64, Vec<u8>) {
    if carry.is_empty() && std::str::from_utf8(bytes).is_ok() {
        return (units_of_valid(bytes), Vec::new());
    }
    let mut whole = carry.to_vec();
    whole.extend_from_slice(bytes);
    let tail = incomplete_tail(&whole);
    let complete = &whole[..whole.len() - tail];
    let units = complete
        .utf8_chunks()
        .map(|chunk| units_of_valid(chunk.valid().as_bytes()) + u64::from(!chunk.invalid().is_empty()))
        .sum();
    (units, whole[whole.len() - tail..].to_vec())
}

/// Units of valid UTF-8: one per character, two beyond the basic plane.
pub fn units_of_valid(bytes: &[u8]) -> u64 {
    let mut units = 0u64;
    // a plain loop over bytes is what the compiler turns into vector code
    for chunk in bytes.chunks(128) {
        let mut here = 0u8;
        let mut pairs = 0u8;
        for byte in chunk {
            here += u8::from((*byte as i8) >= -64);
            pairs += u8::from(*byte >= 0xf0);
        }
        units += u64::from(here) + u64::from(pairs);
    }
    units
}

/// How many bytes at the end begin a character that is not complete yet (0 to 3).
pub fn incomplete_tail(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        if byte & 0xc0 == 0x80 {
            continue;
        }
        let needs = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        let tail = &bytes[bytes.len() - back..];
        // only a true beginning may wait: E0 80 is invalid at once
        let may_grow = std::str::from_utf8(tail)
            .err()
            .is_some_and(|error| error.error_len().is_none());
        return if needs > back && may_grow { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_count_as_much_as_the_whole_wherever_it_is_cut() {
        let samples: [&[u8]; 5] = [
            "plain".as_bytes(),
            "gr\u{fc}\u{df}e \u{1f600} \u{20ac}".as_bytes(),
            b"bad \xff\xfe end \xf0\x9f",
            b"\xe0\x80\x80 \xc3\xc3\xa4 \xed\xa0\x80",
            b"",
        ];
        for bytes in samples {
            // what is incomplete at the very end has not been counted yet
            let complete = &bytes[..bytes.len() - incomplete_tail(bytes)];
            let expected = String::from_utf8_lossy(complete).encode_utf16().count() as u64;
            for cut in 0..=bytes.len() {
                let (first, carry) = utf16_units(&[], &bytes[..cut]);
                let (second, _) = utf16_units(&carry, &bytes[cut..]);
                assert_eq!(first + second, expected, "{bytes:?} cut at {cut}");
            }
        }
    }
}
