//! One machine run's output as it is presented: everything, or, beyond its limit, the head, one line that says what
//! was left out, and the tail. Must not know: who reads it.

use std::io::{self, Read};
use std::ops::Range;

use super::history::Reader;

/// Lengths of an output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputShape {
    /// Bytes that the command put out in all.
    pub total_bytes: u64,
    /// Bytes presented from its beginning; all of them where nothing is left out.
    pub head_bytes: u64,
    /// The line between head and tail, with its line ends; empty where nothing is left out.
    pub notice: Vec<u8>,
    /// Bytes presented from its end.
    pub tail_bytes: u64,
}

/// The bytes of an output, read piece by piece; an [`io::Read`].
pub struct OutputStream<'r> {
    _reader: &'r Reader,
}

impl OutputShape {
    /// Bytes as presented.
    pub fn presented_bytes(&self) -> u64 {
        self.head_bytes + self.notice.len() as u64 + self.tail_bytes
    }

    /// Bytes left out between head and tail: the number in the notice.
    pub fn left_out_bytes(&self) -> u64 {
        self.total_bytes - self.head_bytes - self.tail_bytes
    }
}

impl<'r> OutputStream<'r> {
    pub(super) fn new(reader: &'r Reader, _shape: OutputShape, _range: Range<u64>) -> OutputStream<'r> {
        OutputStream { _reader: reader }
    }
}

impl Read for OutputStream<'_> {
    fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}
