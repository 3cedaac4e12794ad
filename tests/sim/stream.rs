//! Compares what is stored of an output with what the wrapper's command printed, byte for byte.
//! Must not know: how it came to be stored.

use std::collections::BTreeSet;

use crate::storage::Row;

/// What a wrapper printed.
pub struct Truth<'a> {
    pub frames: &'a [Vec<u8>],
    /// Frames that the wrapper itself lost (Python, rules.md 21).
    pub lost: &'a BTreeSet<u64>,
    /// 0: none.
    pub limit_bytes: u64,
}

/// How many frames the stored rows hold (or had to leave out), or what is wrong with them.
pub fn compare(rows: &[Row], truth: &Truth) -> Result<u64, String> {
    let Some(last) = rows.last() else { return Ok(0) };
    let covered = last.seq.map_or(0, |s| s + 1);
    if covered > truth.frames.len() as u64 {
        return Err(format!("covers {covered} frames of {}", truth.frames.len()));
    }
    let mut gap_at = None;
    for (i, pair) in rows.windows(2).enumerate() {
        let (a, b) = (&pair[0], &pair[1]);
        if b.row <= a.row || b.seq < a.seq {
            return Err(format!(
                "row {} (seq {:?}) stands before row {} (seq {:?})",
                a.row, a.seq, b.row, b.seq
            ));
        }
        let end = a.byte_offset + a.data.len() as u64;
        if b.byte_offset < end {
            return Err(format!(
                "row {} begins at byte {}, the row before ends at {end}",
                b.row, b.byte_offset
            ));
        }
        if b.byte_offset > end {
            if truth.limit_bytes == 0 || gap_at.is_some() {
                return Err(format!("bytes {end} to {} are missing", b.byte_offset));
            }
            gap_at = Some(i + 1);
        }
    }
    if rows[0].byte_offset != 0 {
        return Err(format!("begins at byte {}", rows[0].byte_offset));
    }
    let bytes = |rows: &[Row]| {
        rows.iter()
            .flat_map(|r| r.data.iter().copied())
            .collect::<Vec<u8>>()
    };
    match gap_at {
        None => {
            let held = forward(&bytes(rows), truth, false)?;
            if held != covered {
                return Err(format!("holds {held} frames, but says {covered}"));
            }
        }
        Some(at) => {
            let (head, tail) = (bytes(&rows[..at]), bytes(&rows[at..]));
            sizes(head.len() as u64, tail.len() as u64, truth)?;
            forward(&head, truth, true)?;
            backward(&tail, truth, covered)?;
        }
    }
    Ok(covered)
}

fn sizes(head: u64, tail: u64, truth: &Truth) -> Result<(), String> {
    let limit = truth.limit_bytes;
    let frame = truth.frames.iter().map(Vec::len).max().unwrap_or(0) as u64 + 200;
    let short = head + frame < limit / 2 || tail + frame < limit / 2;
    // after a restart the tail that was there goes as one block
    if short || head + tail > limit + limit / 2 + 2 * frame {
        return Err(format!(
            "of {limit} bytes allowed, {head} and {tail} are kept as head and tail"
        ));
    }
    Ok(())
}

/// Frames one after the other, lines of the daemon's own between them.
fn forward(text: &[u8], truth: &Truth, may_be_cut: bool) -> Result<u64, String> {
    let mut at = 0;
    let mut next = 0usize;
    while at < text.len() {
        let rest = &text[at..];
        if let Some(frame) = truth.frames.get(next) {
            if rest.starts_with(frame) {
                at += frame.len();
                next += 1;
                continue;
            }
            if may_be_cut && rest.len() < frame.len() && frame.starts_with(rest) {
                return Ok(next as u64);
            }
        }
        if truth.frames.is_empty() {
            return Ok(0);
        }
        let line = match rest.iter().skip(1).position(|b| *b == b'\n') {
            Some(end) => &rest[..end + 2],
            None => rest,
        };
        let words = String::from_utf8_lossy(line).trim().to_string();
        if let Some((from, to)) = lost_messages(&words) {
            for seq in from..=to {
                if !truth.lost.contains(&seq) {
                    return Err(format!("'{words}', but the wrapper never lost {seq}"));
                }
            }
            if from != next as u64 {
                return Err(format!("'{words}', but {next} comes next"));
            }
            next = to as usize + 1;
        } else if !(is_daemons(&words) || may_be_cut && line.len() == rest.len()) {
            let shown: String = words.chars().take(80).collect();
            return Err(format!("byte {at}: expected frame {next}, found '{shown}'"));
        }
        at += line.len();
    }
    Ok(next as u64)
}

/// The same from the end; the beginning may be cut.
fn backward(text: &[u8], truth: &Truth, covered: u64) -> Result<(), String> {
    let mut end = text.len();
    let mut next = covered as usize;
    while end > 0 {
        let rest = &text[..end];
        let frame = next.checked_sub(1).and_then(|n| truth.frames.get(n));
        if let Some(frame) = frame {
            if rest.ends_with(frame) {
                end -= frame.len();
                next -= 1;
                continue;
            }
            if rest.len() < frame.len() && frame.ends_with(rest) {
                return Ok(());
            }
        }
        let begin = rest[..rest.len() - 1]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |p| p + 1);
        let line = String::from_utf8_lossy(&rest[begin..]).trim().to_string();
        if !is_daemons(&line) && begin > 0 {
            let shown: String = line.chars().take(80).collect();
            return Err(format!(
                "tail: expected frame {} before byte {end}, found '{shown}'",
                next as i64 - 1
            ));
        }
        end = begin;
    }
    Ok(())
}

/// A line of the daemon's own: no wrapper's frame has a space, but in a notice, and all begin with `w` and a number.
fn is_daemons(line: &str) -> bool {
    let frame = line.starts_with('w') && line[1..].starts_with(|c: char| c.is_ascii_digit());
    line.is_empty() || (line.contains(' ') && !frame)
}

fn lost_messages(words: &str) -> Option<(u64, u64)> {
    let rest = words.strip_prefix("[output messages ")?;
    let (range, _) = rest.split_once(" were lost")?;
    let (from, to) = range.split_once("..")?;
    Some((from.parse().ok()?, to.parse().ok()?))
}
