//! Output that looks like a log, is generated as fast as memory is written, and can be checked byte by byte.
//! Must not know: how it is transported.

use std::io::Write;

const LINE: &[u8] =
    b"2026-11-22T02:30:00.123456Z INFO  worker-07 request 000001234 handled in 17 ms, 200 OK, 5123 bytes\n";
const LINES_PER_BLOCK: usize = 10_000;

/// An infinite sequence of lines, in blocks; the first line of a block contains its number.
pub struct Lines {
    block: Vec<u8>,
    number: u64,
}

/// Compares returned output with what was printed.
pub struct Check {
    lines: Lines,
    at: usize,
    pub bytes: u64,
    pub is_same: bool,
}

impl Lines {
    pub fn new() -> Lines {
        Lines {
            block: LINE.repeat(LINES_PER_BLOCK),
            number: 0,
        }
    }

    pub fn next_block(&mut self) -> &[u8] {
        // the first line is long enough for any number
        let _ = write!(&mut self.block[..20], "{:020}", self.number);
        self.number += 1;
        &self.block
    }
}

impl Check {
    pub fn new() -> Check {
        let mut lines = Lines::new();
        lines.next_block();
        Check {
            lines,
            at: 0,
            bytes: 0,
            is_same: true,
        }
    }

    pub fn take(&mut self, mut piece: &[u8]) {
        self.bytes += piece.len() as u64;
        while !piece.is_empty() {
            if self.at == self.lines.block.len() {
                self.lines.next_block();
                self.at = 0;
            }
            let count = piece.len().min(self.lines.block.len() - self.at);
            self.is_same &= piece[..count] == self.lines.block[self.at..self.at + count];
            self.at += count;
            piece = &piece[count..];
        }
    }
}
