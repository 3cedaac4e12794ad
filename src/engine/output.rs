//! Where the next bytes of a machine run's output go: rows of the head, rows of the tail, tail rows that fell out
//! (rules.md 17). Must not know: sessions, frames, storage.

use std::collections::VecDeque;

use crate::budget::Chunk;
use crate::engine::effect::Trim;
use crate::engine::id::MachineRunId;
use crate::engine::record::{OutputPosition, OutputRow};
use crate::engine::text;
use crate::limits;

/// Tail rows are forgotten in blocks of this part of the tail: the list of them stays short.
const TAIL_BLOCKS: u64 = 64;

/// The write position in one machine run's output.
#[derive(Clone, Debug)]
pub struct Output {
    /// Next seq expected from the wrapper.
    pub next_seq: u64,
    pub bytes: u64,
    pub utf16: u64,
    next_row: u64,
    /// The seq that the rows so far cover.
    row_seq: Option<u64>,
    last_bytes: Vec<u8>,
    /// 0: no limit.
    limit_bytes: u64,
    /// Blocks of the tail, oldest first: (first row after the block, offset of its end).
    tail: VecDeque<(u64, u64)>,
    /// Start of the block that is being filled.
    block_start: u64,
    /// First row of the tail that is still stored.
    tail_from_row: Option<u64>,
}

/// What became of appended bytes.
#[derive(Debug, Default)]
pub struct Placed {
    pub rows: Vec<OutputRow>,
    pub trim: Option<Trim>,
}

impl Output {
    /// Goes on where storage stands.
    pub fn new(limit_bytes: u64, position: &OutputPosition) -> Output {
        let head = limit_bytes / 2;
        let mut tail = VecDeque::new();
        if position.bytes > head {
            // what the tail holds from before the restart counts as one block
            tail.push_back((position.next_row, position.bytes));
        }
        Output {
            next_seq: position.next_seq,
            bytes: position.bytes,
            utf16: position.utf16,
            next_row: position.next_row,
            row_seq: position.next_seq.checked_sub(1),
            last_bytes: position.last_bytes.clone(),
            limit_bytes,
            tail,
            block_start: position.bytes.max(head),
            tail_from_row: position.tail_from_row,
        }
    }

    /// The last seq that the stream covers.
    pub fn last_seq(&self) -> Option<u64> {
        self.next_seq.checked_sub(1)
    }

    /// Bytes that head and tail do not keep.
    pub fn left_out_bytes(&self) -> u64 {
        if self.limit_bytes == 0 {
            0
        } else {
            self.bytes.saturating_sub(self.limit_bytes)
        }
    }

    /// A notice of the daemon's own starts on a line of its own.
    pub fn notice(&self, text: &str) -> Vec<u8> {
        let fresh = matches!(self.last_bytes.last(), None | Some(b'\n'));
        format!("{}{text}\n", if fresh { "" } else { "\n" }).into_bytes()
    }

    /// Appends bytes; `next_seq` has been moved before by the caller if they came with a seq. An empty chunk still
    /// makes a row: its seq must be known after a restart.
    pub fn append(&mut self, machine_run: MachineRunId, day: i64, mut data: Chunk) -> Placed {
        let mut placed = Placed::default();
        let head = self.limit_bytes / 2;
        // cut from the end: each byte is moved once
        let mut pieces: Vec<Chunk> = self.cuts(data.len()).rev().map(|at| data.split_off(at)).collect();
        pieces.push(data);
        while let Some(piece) = pieces.pop() {
            if self.limit_bytes > 0 && self.bytes >= head {
                self.tail_from_row.get_or_insert(self.next_row);
            }
            // the seq counts as stored only with its last byte
            let seq = if pieces.is_empty() {
                self.last_seq()
            } else {
                self.row_seq
            };
            placed.rows.push(self.row(machine_run, day, piece, seq));
        }
        if self.limit_bytes > 0 && self.bytes > head {
            placed.trim = self.trim(machine_run, day);
        }
        placed
    }

    /// Where the next `length` bytes are cut into rows: none is longer than [`limits::OUTPUT_ROW_BYTES`], and none
    /// begins in the head and ends in the tail.
    fn cuts(&self, length: usize) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let head_left = (self.limit_bytes / 2).saturating_sub(self.bytes) as usize;
        let mut cuts = Vec::new();
        let mut at = 0;
        while length - at > 0 {
            at += if at < head_left {
                limits::OUTPUT_ROW_BYTES.min(head_left - at)
            } else {
                limits::OUTPUT_ROW_BYTES
            };
            if at >= length {
                break;
            }
            cuts.push(at);
        }
        cuts.into_iter()
    }

    fn row(&mut self, machine_run: MachineRunId, day: i64, data: Chunk, seq: Option<u64>) -> OutputRow {
        let row = OutputRow {
            machine_run,
            day,
            row: self.next_row,
            seq,
            byte_offset: self.bytes,
            utf16_offset: self.utf16,
            data,
        };
        self.row_seq = seq;
        let waiting = text::incomplete_tail(&self.last_bytes);
        let carry = &self.last_bytes[self.last_bytes.len() - waiting..];
        let (units, _) = text::utf16_units(carry, row.data.bytes());
        self.utf16 += units;
        self.bytes += row.data.len() as u64;
        self.next_row += 1;
        let bytes = row.data.bytes();
        self.last_bytes
            .extend_from_slice(&bytes[bytes.len().saturating_sub(4)..]);
        self.last_bytes.drain(..self.last_bytes.len().saturating_sub(4));
        row
    }

    fn trim(&mut self, machine_run: MachineRunId, day: i64) -> Option<Trim> {
        let keep = self.limit_bytes - self.limit_bytes / 2;
        if self.bytes - self.block_start >= (keep / TAIL_BLOCKS).max(1) {
            self.tail.push_back((self.next_row, self.bytes));
            self.block_start = self.bytes;
        }
        let mut below = None;
        while let Some((row, end)) = self.tail.front()
            && self.bytes > self.limit_bytes
            && *end <= self.bytes - keep
        {
            below = Some(*row);
            self.tail.pop_front();
        }
        let below_row = below?;
        let from_row = self.tail_from_row.replace(below_row)?;
        (from_row < below_row).then_some(Trim {
            machine_run,
            day,
            from_row,
            below_row,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_are_kept_and_the_middle_goes() {
        let mut output = Output::new(1_000, &OutputPosition::default());
        let mut kept: Vec<(u64, u64, usize)> = Vec::new();
        for _ in 0..1_000 {
            output.next_seq += 1;
            let placed = output.append(MachineRunId(1), 0, Chunk::free(vec![b'x'; 7]));
            kept.extend(
                placed
                    .rows
                    .iter()
                    .map(|row| (row.row, row.byte_offset, row.data.len())),
            );
            if let Some(trim) = placed.trim {
                kept.retain(|(row, _, _)| !(trim.from_row..trim.below_row).contains(row));
            }
        }
        let head: usize = kept
            .iter()
            .filter(|(_, offset, _)| *offset < 500)
            .map(|(_, _, len)| len)
            .sum();
        assert_eq!(head, 500);
        let tail: usize = kept
            .iter()
            .filter(|(_, offset, _)| *offset >= 500)
            .map(|(_, _, len)| len)
            .sum();
        assert!((500..530).contains(&tail), "{tail}");
        assert_eq!(output.left_out_bytes(), 6_000);
        let last = kept.last().unwrap();
        assert_eq!(last.1 + last.2 as u64, 7_000);
    }

    #[test]
    fn what_comes_at_once_becomes_rows_that_can_be_read_one_by_one() {
        const ROW: usize = limits::OUTPUT_ROW_BYTES;
        let bytes: Vec<u8> = (0..3 * ROW + 5).map(|at| at as u8).collect();
        // without a limit; and with one whose head ends within the second row
        for (limit_bytes, lengths) in [
            (0, vec![ROW, ROW, ROW, 5]),
            (3 * ROW as u64, vec![ROW, ROW / 2, ROW, ROW / 2 + 5]),
        ] {
            let mut output = Output::new(limit_bytes, &OutputPosition::default());
            output.next_seq = 7;
            let rows = output.append(MachineRunId(1), 0, Chunk::free(bytes.clone())).rows;
            let found: Vec<usize> = rows.iter().map(|row| row.data.len()).collect();
            assert_eq!(found, lengths);
            let joined: Vec<u8> = rows.iter().flat_map(|row| row.data.bytes().to_vec()).collect();
            assert!(joined == bytes);
            let seqs: Vec<Option<u64>> = rows.iter().map(|row| row.seq).collect();
            assert_eq!(seqs, [None, None, None, Some(6)]);
            let tail = (limit_bytes > 0).then_some(2);
            assert_eq!(output.tail_from_row, tail);
        }
    }
}
