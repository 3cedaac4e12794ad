//! One machine run's output as it is presented: everything, or, beyond its limit, the head, one line that says what
//! was left out, and the tail. Must not know: HTTP.
//!
//! Of a stream longer than its limit the head is its first half of the limit and the tail its last; neither border
//! cuts a UTF-8 sequence in two (the halves shrink by up to 3 bytes for that, and the line counts them).

use std::io::{self, Read, Write};
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, params};

use crate::engine::id::MachineRunId;
use crate::engine::record::OutputRef;
use crate::limits;

use super::output::bytes_before;
use super::reader::Reader;
use super::text;

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

/// The bytes of an output, read piece by piece; an [`io::Read`]. Holds up no commit between two reads. The shape is
/// that of the moment when it was made; if a running command's tail moves on meanwhile, the read ends with an error.
pub struct OutputStream<'r> {
    reader: &'r Reader,
    output: OutputRef,
    shape: OutputShape,
    /// What is still to come, as presented.
    range: Range<u64>,
    /// A piece that was read, and how much of it is handed on.
    piece: Vec<u8>,
    used: usize,
}

impl Reader {
    /// Lengths of an output as it is presented. An output that was never stored, or whose day file is gone, is empty.
    pub fn output_shape(&self, output: OutputRef) -> Result<OutputShape, String> {
        let shape = self.with_day(output.day, |file| {
            shape(file, output.machine_run, output.limit_bytes)
        })?;
        Ok(shape.unwrap_or_default())
    }

    /// UTF-16 code units of an output as a page shows it: of one longer than its limit, head, line and tail, or, while
    /// the command runs, the head.
    pub fn shown_utf16(&self, output: OutputRef, is_ended: bool) -> Result<u64, String> {
        let units = self.with_day(output.day, |file| shown_utf16(file, output, is_ended))?;
        Ok(units.unwrap_or_default())
    }

    /// Bytes of an output as it is presented: what ranges refer to.
    pub fn output_len(&self, output: OutputRef) -> Result<u64, String> {
        Ok(self.output_shape(output)?.presented_bytes())
    }

    /// An output as it is presented, or the part of it in `range`, to be read piece by piece.
    pub fn output(&self, output: OutputRef, range: Range<u64>) -> Result<OutputStream<'_>, String> {
        let shape = self.output_shape(output)?;
        Ok(OutputStream::new(self, output, shape, range))
    }

    /// Writes the part of an output in `range` to `into`, never holding the whole. Returns the bytes written.
    pub fn read_output(
        &self,
        output: OutputRef,
        range: Range<u64>,
        into: &mut impl Write,
    ) -> io::Result<u64> {
        let mut stream = self.output(output, range).map_err(io::Error::other)?;
        io::copy(&mut stream, into)
    }

    /// The last `bytes` of an output as it is presented (not starting within a UTF-8 sequence), and whether
    /// anything stands before them.
    pub fn output_tail(&self, output: OutputRef, bytes: usize) -> Result<(Vec<u8>, bool), String> {
        let length = self.output_len(output)?;
        let from = length.saturating_sub(bytes as u64);
        let mut tail = Vec::with_capacity((length - from) as usize);
        self.read_output(output, from..length, &mut tail)
            .map_err(|error| error.to_string())?;
        if from > 0 {
            tail.drain(..text::cut_at_start(&tail));
        }
        Ok((tail, from > 0))
    }

    /// Stored bytes of an output from offset `at` of the whole stream on, as many as are read in one go, `wanted` at
    /// least where so many follow without a gap; empty: that byte is not stored (yet, or any more).
    pub fn stored_output(&self, output: OutputRef, at: u64, wanted: usize) -> Result<Vec<u8>, String> {
        let read = self.with_day(output.day, |file| read_from(file, output.machine_run, at, wanted))?;
        Ok(read.unwrap_or_default())
    }
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
    pub(super) fn new(
        reader: &'r Reader,
        output: OutputRef,
        shape: OutputShape,
        range: Range<u64>,
    ) -> OutputStream<'r> {
        let end = range.end.min(shape.presented_bytes());
        OutputStream {
            reader,
            output,
            range: range.start.min(end)..end,
            shape,
            piece: Vec::new(),
            used: 0,
        }
    }

    /// The next piece, as presented; empty at the end.
    fn next_piece(&mut self) -> io::Result<Vec<u8>> {
        let at = self.range.start;
        if at >= self.range.end {
            return Ok(Vec::new());
        }
        let notice_ends = self.shape.head_bytes + self.shape.notice.len() as u64;
        let mut piece = if at < self.shape.head_bytes {
            self.stored(at, self.shape.head_bytes)?
        } else if at < notice_ends {
            self.shape.notice[(at - self.shape.head_bytes) as usize..].to_vec()
        } else {
            let tail_begins = self.shape.total_bytes - self.shape.tail_bytes;
            self.stored(tail_begins + (at - notice_ends), self.shape.total_bytes)?
        };
        piece.truncate((self.range.end - at).min(piece.len() as u64) as usize);
        self.range.start += piece.len() as u64;
        Ok(piece)
    }

    /// Bytes of the stream from `at`, as many as are read in one go, but none from `end` on.
    fn stored(&self, at: u64, end: u64) -> io::Result<Vec<u8>> {
        let wanted = (end - at).min(limits::OUTPUT_READ_BYTES as u64);
        let read = self
            .reader
            .with_day(self.output.day, |file| {
                read_from(file, self.output.machine_run, at, wanted as usize)
            })
            .map_err(io::Error::other)?;
        let mut bytes = read.unwrap_or_default();
        if bytes.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "this part of the output is not kept any more",
            ));
        }
        bytes.truncate((end - at).min(bytes.len() as u64) as usize);
        Ok(bytes)
    }
}

impl Read for OutputStream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.used == self.piece.len() {
            self.piece = self.next_piece()?;
            self.used = 0;
        }
        let taken = into.len().min(self.piece.len() - self.used);
        into[..taken].copy_from_slice(&self.piece[self.used..self.used + taken]);
        self.used += taken;
        Ok(taken)
    }
}

/// How the output of a machine run is presented under that limit (0: none).
pub(super) fn shape(
    file: &Connection,
    machine_run: MachineRunId,
    limit_bytes: u64,
) -> rusqlite::Result<OutputShape> {
    let total_bytes: Option<i64> = file
        .prepare_cached(
            "SELECT byte_offset + length(data) FROM output WHERE machine_run = ?1
             ORDER BY byte_offset DESC, row DESC LIMIT 1",
        )?
        .query_row([machine_run.0 as i64], |row| row.get(0))
        .optional()?;
    let total_bytes = total_bytes.unwrap_or(0) as u64;
    if limit_bytes == 0 || total_bytes <= limit_bytes {
        return Ok(OutputShape {
            total_bytes,
            head_bytes: total_bytes,
            ..OutputShape::default()
        });
    }
    let half = limit_bytes / 2;
    let head_bytes = head_end(file, machine_run, half)?;
    let tail_from = tail_start(file, machine_run, total_bytes - half, total_bytes)?;
    let ends_line =
        head_bytes == 0 || read_from(file, machine_run, head_bytes - 1, 1)?.first() == Some(&b'\n');
    let line_end = if ends_line { "" } else { "\n" };
    Ok(OutputShape {
        total_bytes,
        head_bytes,
        notice: format!("{line_end}[{} bytes left out]\n", tail_from - head_bytes).into_bytes(),
        tail_bytes: total_bytes - tail_from,
    })
}

/// The same, in one day's file; faulty bytes count as U+FFFD.
fn shown_utf16(file: &Connection, output: OutputRef, is_ended: bool) -> rusqlite::Result<u64> {
    let OutputRef {
        machine_run,
        limit_bytes,
        ..
    } = output;
    let shape = shape(file, machine_run, limit_bytes)?;
    let before = |at| utf16_before(file, machine_run, at);
    if !is_ended && limit_bytes > 0 {
        let head_bytes = head_end(file, machine_run, shape.total_bytes.min(limit_bytes / 2))?;
        return before(head_bytes);
    }
    let tail_utf16 = before(shape.total_bytes)? - before(shape.total_bytes - shape.tail_bytes)?;
    Ok(before(shape.head_bytes)? + shape.notice.len() as u64 + tail_utf16)
}

/// UTF-16 code units of the stream before the byte `at`, where a sequence that is not complete there does not count.
fn utf16_before(file: &Connection, machine_run: MachineRunId, at: u64) -> rusqlite::Result<u64> {
    let found = file
        .prepare_cached(
            "SELECT row, byte_offset, utf16_offset, data FROM output WHERE machine_run = ?1 AND byte_offset <= ?2
             ORDER BY byte_offset DESC, row DESC LIMIT 1",
        )?
        .query_row(params![machine_run.0 as i64, at as i64], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, Vec<u8>>(3)?,
            ))
        })
        .optional()?;
    let Some((row, byte_offset, utf16_offset, mut data)) = found else {
        return Ok(0);
    };
    data.truncate((at - byte_offset as u64) as usize);
    let before = match byte_offset {
        0 => Vec::new(),
        _ => bytes_before(file, machine_run, row, byte_offset)?,
    };
    // a sequence that the rows before left open counts where it is completed
    let carried = &before[before.len() - text::cut_at_end(&before)..];
    Ok(utf16_offset as u64 + text::utf16_units(&[carried, &data].concat()))
}

/// Where the head ends: at `half`, or before a sequence that begins there and does not end.
fn head_end(file: &Connection, machine_run: MachineRunId, half: u64) -> rusqlite::Result<u64> {
    let from = half.saturating_sub(text::CUT_BYTES as u64);
    let mut before = read_from(file, machine_run, from, (half - from) as usize)?;
    before.truncate((half - from) as usize);
    Ok(from + (before.len() - text::cut_at_end(&before)) as u64)
}

/// Where the tail starts: at `wanted`, or after a sequence that began before it.
fn tail_start(
    file: &Connection,
    machine_run: MachineRunId,
    wanted: u64,
    total_bytes: u64,
) -> rusqlite::Result<u64> {
    let mut after = read_from(file, machine_run, wanted, text::CUT_BYTES)?;
    after.truncate(text::CUT_BYTES);
    if !after.is_empty() || wanted >= total_bytes {
        return Ok(wanted + text::cut_at_start(&after) as u64);
    }
    // less is stored than could be: from the first row there is
    let next: Option<i64> = file
        .prepare_cached("SELECT min(byte_offset) FROM output WHERE machine_run = ?1 AND byte_offset > ?2")?
        .query_row(params![machine_run.0 as i64, wanted as i64], |row| row.get(0))?;
    Ok(next.map_or(total_bytes, |offset| offset as u64))
}

/// Bytes of the stream from `at` on: at least one if that byte is kept, at least `wanted` if so many follow it
/// without a gap; whole rows, so that none is read twice.
pub(super) fn read_from(
    file: &Connection,
    machine_run: MachineRunId,
    at: u64,
    wanted: usize,
) -> rusqlite::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let containing: Option<i64> = file
        .prepare_cached(
            "SELECT byte_offset FROM output WHERE machine_run = ?1 AND byte_offset <= ?2
             ORDER BY byte_offset DESC LIMIT 1",
        )?
        .query_row(params![machine_run.0 as i64, at as i64], |row| row.get(0))
        .optional()?;
    let Some(containing) = containing else {
        return Ok(bytes);
    };
    let mut statement = file.prepare_cached(
        "SELECT byte_offset, data FROM output WHERE machine_run = ?1 AND byte_offset >= ?2
         ORDER BY byte_offset, row",
    )?;
    let mut rows = statement.query(params![machine_run.0 as i64, containing])?;
    let mut expected = containing as u64;
    while bytes.len() < wanted
        && let Some(row) = rows.next()?
    {
        let offset = row.get::<_, i64>(0)? as u64;
        let data = row.get_ref(1)?.as_blob()?;
        if offset != expected {
            break;
        }
        expected += data.len() as u64;
        // only of the first row a part is skipped: `at` lies within it, or behind it in a gap
        let skipped = at.saturating_sub(offset).min(data.len() as u64) as usize;
        bytes.extend_from_slice(&data[skipped..]);
    }
    Ok(bytes)
}
