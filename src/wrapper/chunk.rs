//! Where a stream of bytes may be cut into frames, and when a frame is due. Pure.
//! Must not know: where the bytes come from, how they travel.

use crate::clock::Mono;
use crate::limits;

/// How many of the first bytes of `waiting` make the next frame: all valid UTF-8 or not worth separating, never
/// ending inside a sequence that is still whole. 0: wait for more. `is_last`: no more will come.
pub fn cut(waiting: &[u8], is_last: bool) -> usize {
    let offered = &waiting[..waiting.len().min(limits::OUTPUT_CHUNK_BYTES)];
    // with more behind the border, what is torn at it is torn by us
    let may_tear = is_last && offered.len() == waiting.len();
    let error = match std::str::from_utf8(offered) {
        Ok(_) => return offered.len(),
        Err(error) => error,
    };
    let valid = error.valid_up_to();
    if error.error_len().is_none() {
        return if may_tear && valid == 0 {
            offered.len()
        } else {
            valid
        };
    }
    if valid >= limits::TEXT_STRETCH_BYTES {
        return valid;
    }
    binary_stretch(offered, may_tear)
}

/// Up to where text begins again for good; what is torn at the end stays for the next frame.
fn binary_stretch(offered: &[u8], may_tear: bool) -> usize {
    let mut end = 0;
    let mut seen_invalid = false;
    for piece in offered.utf8_chunks() {
        if seen_invalid && piece.valid().len() >= limits::TEXT_STRETCH_BYTES {
            return end;
        }
        end += piece.valid().len();
        let torn = end + piece.invalid().len() == offered.len() && is_torn(piece.invalid());
        if torn && !may_tear {
            return end;
        }
        end += piece.invalid().len();
        seen_invalid |= !piece.invalid().is_empty();
    }
    end
}

/// True for the beginning of a sequence whose rest may still come.
fn is_torn(invalid: &[u8]) -> bool {
    !invalid.is_empty() && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}

/// Says when output that waits is sent: a full frame at once, a little after silence almost at once, and what
/// trickles once an interval.
#[derive(Debug)]
pub struct Batching {
    interval_ms: u64,
    last_sent: Option<Mono>,
    due_at: Option<Mono>,
}

impl Batching {
    pub fn new(interval_ms: u64) -> Batching {
        Batching {
            interval_ms,
            last_sent: None,
            due_at: None,
        }
    }

    /// A job's environment may change it.
    pub fn set_interval_ms(&mut self, interval_ms: u64) {
        self.interval_ms = interval_ms;
    }

    /// Output waits that had not been seen before.
    pub fn arrived(&mut self, now: Mono) {
        let gathered = now.plus_ms(limits::OUTPUT_GATHER_MS.min(self.interval_ms));
        let due = match self.last_sent {
            Some(sent) => gathered.max(sent.plus_ms(self.interval_ms)),
            None => gathered,
        };
        self.due_at.get_or_insert(due);
    }

    /// All that could be sent has been.
    pub fn sent(&mut self, now: Mono) {
        self.last_sent = Some(now);
        self.due_at = None;
    }

    /// When what waits is to be sent. None: nothing waits.
    pub fn due_at(&self) -> Option<Mono> {
        self.due_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let length = cut(bytes, true);
            assert!(length > 0, "no progress");
            frames.push(bytes[..length].to_vec());
            bytes = &bytes[length..];
        }
        frames
    }

    #[test]
    fn text_is_never_torn() {
        for shift in 0..4 {
            let text = "x".repeat(shift) + &"\u{1f600}".repeat(limits::OUTPUT_CHUNK_BYTES / 2);
            let frames = frames(text.as_bytes());
            assert!(frames.iter().all(|frame| std::str::from_utf8(frame).is_ok()));
            assert_eq!(frames.concat(), text.as_bytes());
        }
    }

    #[test]
    fn a_torn_end_waits_for_its_rest_until_there_is_none() {
        let torn = &"aé".as_bytes()[..2];
        assert_eq!(cut(torn, false), 1);
        assert_eq!(cut(&torn[1..], false), 0);
        assert_eq!(cut(&torn[1..], true), 1);
        assert_eq!(cut(&[0xff, b'a', 0xf0, 0x9f], false), 2);
        assert_eq!(cut(&[0xff, b'a', 0xf0, 0x9f], true), 4);
    }

    #[test]
    fn one_bad_byte_does_not_make_its_neighbourhood_binary() {
        let good = "a".repeat(limits::TEXT_STRETCH_BYTES);
        let bytes = [good.as_bytes(), &[0xff], good.as_bytes()].concat();
        let frames = frames(&bytes);
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[1], [0xff]);
        assert_eq!(frames.concat(), bytes);
    }

    #[test]
    fn random_bytes_come_back_whole_in_full_frames() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let bytes: Vec<u8> = (0..500_000).map(|_| next()).collect();
        let frames = frames(&bytes);
        assert_eq!(frames.concat(), bytes);
        assert!(frames.len() <= 5, "{}", frames.len());
    }

    #[test]
    fn the_first_output_goes_almost_at_once_and_a_trickle_once_an_interval() {
        let mut batching = Batching::new(1_000);
        assert_eq!(batching.due_at(), None);
        batching.arrived(Mono(100));
        batching.arrived(Mono(110));
        assert_eq!(batching.due_at(), Some(Mono(120)));
        batching.sent(Mono(120));
        batching.arrived(Mono(130));
        assert_eq!(batching.due_at(), Some(Mono(1_120)));
        batching.sent(Mono(1_120));
        batching.arrived(Mono(9_000));
        assert_eq!(batching.due_at(), Some(Mono(9_020)));
    }
}
