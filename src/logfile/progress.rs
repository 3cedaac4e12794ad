//! Output as a terminal would have left it: of a line that was overwritten (`\r`), only the last state.
//! Must not know: log files, storage.

use std::io::{self, Read, Write};
use std::ops::Range;

use crate::limits;

/// What kept a copy from being finished.
#[derive(Debug)]
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// The last state of the current line so far.
#[derive(Default)]
struct LastState {
    /// Its bytes, unless they are too many.
    held: Vec<u8>,
    /// Where it stands in the output.
    range: Range<u64>,
    /// No `\r` since: bytes that follow belong to it.
    is_open: bool,
}

/// Copies `length` bytes that `open` gives for any range of them. Memory stays bounded whatever a line's length: a
/// long state is not held but read again. Ends with a line end, unless nothing is written at all.
pub(super) fn copy<R: Read>(
    open: impl Fn(Range<u64>) -> io::Result<R>,
    length: u64,
    into: &mut impl Write,
) -> Result<(), CopyError> {
    let mut source = open(0..length).map_err(CopyError::Read)?;
    let mut piece = vec![0; limits::JOB_LOG_SEGMENT_BYTES];
    let mut state = LastState::default();
    let mut at = 0;
    loop {
        let read = match source.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                // what is known of the line is not lost with the rest
                state.finish(&open, into)?;
                return Err(CopyError::Read(error));
            }
        };
        let mut rest = &piece[..read];
        while !rest.is_empty() {
            let part = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let plain = part.unwrap_or(rest.len());
            state.add(&rest[..plain], at);
            match part.map(|part| rest[part]) {
                Some(b'\n') => state.end_line(&open, into)?,
                Some(_) => state.is_open = false,
                None => {}
            }
            let used = plain + usize::from(part.is_some());
            at += used as u64;
            rest = &rest[used..];
        }
    }
    state.finish(&open, into)
}

impl LastState {
    fn add(&mut self, bytes: &[u8], at: u64) {
        if bytes.is_empty() {
            return;
        }
        if !self.is_open {
            self.held.clear();
            self.range = at..at;
            self.is_open = true;
        }
        self.range.end += bytes.len() as u64;
        if self.is_held() {
            self.held.extend_from_slice(bytes);
        } else {
            self.held = Vec::new();
        }
    }

    fn is_held(&self) -> bool {
        self.range.end - self.range.start <= limits::JOB_LOG_SEGMENT_BYTES as u64
    }

    fn end_line<R: Read>(
        &mut self,
        open: &impl Fn(Range<u64>) -> io::Result<R>,
        into: &mut impl Write,
    ) -> Result<(), CopyError> {
        if self.is_held() {
            into.write_all(&self.held).map_err(CopyError::Write)?;
        } else {
            copy_plain(open(self.range.clone()).map_err(CopyError::Read)?, into)?;
        }
        into.write_all(b"\n").map_err(CopyError::Write)?;
        self.held.clear();
        self.range = 0..0;
        self.is_open = false;
        Ok(())
    }

    /// The end of the output ends its line.
    fn finish<R: Read>(
        &mut self,
        open: &impl Fn(Range<u64>) -> io::Result<R>,
        into: &mut impl Write,
    ) -> Result<(), CopyError> {
        if self.range.is_empty() {
            return Ok(());
        }
        self.end_line(open, into)
    }
}

fn copy_plain(mut source: impl Read, into: &mut impl Write) -> Result<(), CopyError> {
    let mut piece = vec![0; limits::JOB_LOG_SEGMENT_BYTES];
    loop {
        match source.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => into.write_all(&piece[..read]).map_err(CopyError::Write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(output: &[u8]) -> Vec<u8> {
        let mut written = Vec::new();
        let open = |range: Range<u64>| Ok(&output[range.start as usize..range.end as usize]);
        copy(open, output.len() as u64, &mut written).unwrap();
        written
    }

    #[test]
    fn a_progress_line_is_reduced_to_its_last_state() {
        assert_eq!(reduced(b"10%\r20%\r100%\nend"), b"100%\nend\n");
        assert_eq!(reduced(b"10%\r100%\r"), b"100%\n");
        assert_eq!(reduced(b"a\r\nb\r\r\n\n"), b"a\nb\n\n");
        assert_eq!(reduced(b""), b"");
        assert_eq!(reduced(b"\r"), b"");
    }

    #[test]
    fn a_line_longer_than_memory_keeps_its_last_state() {
        let long = vec![b'x'; 5 * limits::JOB_LOG_SEGMENT_BYTES];
        let mut expected = [b"a\n", long.as_slice(), b"\nb\n"].concat();
        assert_eq!(
            reduced(&[b"a\n1\r", long.as_slice(), b"\r\nb"].concat()),
            expected
        );
        expected = b"short\nb\n".to_vec();
        assert_eq!(reduced(&[long.as_slice(), b"\rshort\nb\n"].concat()), expected);
    }
}
