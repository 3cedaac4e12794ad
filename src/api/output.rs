//! One machine's output as plain bytes: whole, in part (`Range`), or followed while it comes (`?follow=1`).
//! Must not know: JSON, how output is stored.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::auth::Admission;
use super::call::{Answered, Call};
use super::error::{Denied, missing, problem, unreadable};
use super::http::{Body, Outlet, Response};
use super::shared::Shared;
use crate::engine::board::{Board, MachineBoard};
use crate::engine::record::OutputRef;
use crate::limits;

/// Output is read in pieces of this size.
const PIECE_BYTES: u64 = 256 << 10;

/// `GET /api/v1/runs/{instance}/machines/{machine}/output`.
pub fn output(call: &Call) -> Answered {
    let (instance, machine) = (&call.parts[0], &call.parts[1]);
    let request = &call.visitor.request;
    let follow = call.query.flag("follow")?;
    let output_ref = find(call, instance, machine)?;
    let length = call
        .shared
        .reader
        .lock()
        .output_len(output_ref)
        .map_err(unreadable)?;
    let range = request
        .header("range")
        // the response has no validator that If-Range could name
        .filter(|_| request.method == "GET" && request.header("if-range").is_none())
        .and_then(|header| parse_range(header, length));
    if follow {
        let from = match range {
            Some(Ok(range)) => range.start,
            // what is to come may be waited for
            Some(Err(beyond)) => beyond,
            None => 0,
        };
        return Ok(followed(call, output_ref, from));
    }
    match range {
        None => Ok(plain(200, piecewise(call.shared, output_ref, 0..length))),
        Some(Ok(range)) => {
            let header = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            let response = plain(206, piecewise(call.shared, output_ref, range));
            Ok(response.with("Content-Range", header))
        }
        Some(Err(_)) => {
            let message = format!("the output has {length} bytes");
            let response = problem(416, &message);
            Ok(response.with("Content-Range", format!("bytes */{length}")))
        }
    }
}

fn followed(call: &Call, output_ref: OutputRef, from: u64) -> Response {
    let (shared, instance, machine) = (call.shared.clone(), call.parts[0].clone(), call.parts[1].clone());
    let settings = call.board.config.settings.clone();
    let mut admission = Admission::new(call.visitor.clone(), call.caller.clone(), settings);
    plain(
        200,
        Body::Follow(Box::new(move |into| {
            Follow {
                shared: &shared,
                admission: &mut admission,
                output_ref,
                sent: from,
            }
            .run(&instance, &machine, into)
        })),
    )
}

fn plain(status: u16, body: Body) -> Response {
    Response {
        status,
        content_type: "text/plain; charset=utf-8",
        headers: vec![
            ("Accept-Ranges", "bytes".into()),
            // a command's output must never become a page of ours
            ("Content-Security-Policy", "default-src 'none'; sandbox".into()),
        ],
        body,
    }
}

fn piecewise(shared: &Arc<Shared>, output_ref: OutputRef, range: Range<u64>) -> Body {
    let shared = shared.clone();
    let length = range.end - range.start;
    Body::Sized(
        length,
        Box::new(move |into| {
            let mut piece = Vec::new();
            let mut at = range.start;
            while at < range.end {
                piece.clear();
                let to = range.end.min(at + PIECE_BYTES);
                let reader = shared.reader.lock();
                let read = reader.read_output(output_ref, at..to, &mut piece);
                // a slow peer must not hold the others up
                drop(reader);
                read?;
                into.write_all(&piece)?;
                at = to;
            }
            Ok(())
        }),
    )
}

/// `bytes=A-B`, `bytes=A-`, `bytes=-N`. None: no range of bytes, or several, which is answered with everything.
/// `Err`: it begins behind the end, there.
fn parse_range(header: &str, length: u64) -> Option<Result<Range<u64>, u64>> {
    let (unit, ranges) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return None;
    }
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (first, last) = ranges.trim().split_once('-')?;
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if last >= first => first..last.saturating_add(1).min(length),
        (Some(first), None) if last.is_empty() => first..length,
        (None, Some(count)) if first.is_empty() => length - count.min(length)..length,
        _ => return None,
    };
    Some(if range.start < length && range.start < range.end {
        Ok(range)
    } else {
        Err(range.start)
    })
}

/// Sends an output as it comes about: what the command put out, in order; where a part is no longer kept when its
/// turn comes, one line says so.
struct Follow<'a> {
    shared: &'a Shared,
    admission: &'a mut Admission,
    output_ref: OutputRef,
    /// Bytes of the whole stream that are sent, or left out.
    sent: u64,
}

impl Follow<'_> {
    fn run(mut self, instance: &str, machine: &str, into: &mut dyn Outlet) -> io::Result<()> {
        let mut seen = 0;
        loop {
            let board = self.shared.feed.board();
            // what was sent is not all of it, and the connection's end says so
            self.admission
                .renew(self.shared, &board.config.settings)
                .map_err(|denied| io::Error::other(denied.message))?;
            let (bytes, is_ended) = match on_board(&board, instance, machine) {
                Some(found) => (found.output_bytes, found.record.ended.is_some()),
                None => (u64::MAX, true),
            };
            let stored = if self.sent < bytes {
                self.send_stored(into)?
            } else {
                self.sent
            };
            into.flush()?;
            // what is shown may still be on its way to the disk
            let is_behind = bytes != u64::MAX && stored < bytes;
            if (is_ended && !is_behind) || into.is_gone() {
                return Ok(());
            }
            let patience_ms = if is_behind {
                limits::FOLLOW_COMMIT_MS
            } else {
                limits::FOLLOW_LOOK_MS
            };
            seen = self.shared.feed.wait_beyond(seen, patience_ms);
        }
    }

    /// Sends what is stored and not sent yet; how much is stored.
    fn send_stored(&mut self, into: &mut dyn Outlet) -> io::Result<u64> {
        let whole = self
            .shared
            .reader
            .lock()
            .output_len(self.output_ref.unlimited())
            .map_err(io::Error::other)?;
        let mut piece = Vec::new();
        while self.sent < whole {
            piece.clear();
            let to = whole.min(self.sent + PIECE_BYTES);
            let reader = self.shared.reader.lock();
            let read = reader.read_output(self.output_ref.unlimited(), self.sent..to, &mut piece);
            let shape = match &read {
                Err(_) if piece.is_empty() => Some(reader.output_shape(self.output_ref)),
                _ => None,
            };
            drop(reader);
            into.write_all(&piece)?;
            self.sent += piece.len() as u64;
            let Some(shape) = shape else { continue };
            // trimmed before it was sent: on with what is kept
            let shape = shape.map_err(io::Error::other)?;
            let kept_from = shape.total_bytes - shape.tail_bytes;
            if kept_from <= self.sent {
                return read.map(|_| whole);
            }
            let left_out = kept_from - self.sent;
            write!(into, "\n[{left_out} bytes left out]\n")?;
            self.sent = kept_from;
        }
        Ok(whole)
    }
}

/// A machine run as the board shows it: its run is not ended, or the latest of its job.
fn on_board(board: &Board, instance: &str, machine: &str) -> Option<Arc<MachineBoard>> {
    let run = board.run(instance)?;
    run.machines
        .iter()
        .find(|entry| entry.record.machine == machine)
        .cloned()
}

/// Where a machine run's output is, by the board or history.
fn find(call: &Call, instance: &str, machine: &str) -> Result<OutputRef, Denied> {
    let run = call.run(instance)?;
    let found = run.machines.iter().find(|entry| entry.record.machine == machine);
    let found = found.ok_or_else(|| missing("that machine is not in this run"))?;
    Ok(run.run.output_of(found.record.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        for (header, wanted) in [
            ("bytes=0-3", Some(Ok(0..4))),
            ("bytes=2-", Some(Ok(2..10))),
            ("bytes=-3", Some(Ok(7..10))),
            ("bytes=-99", Some(Ok(0..10))),
            ("bytes=8-99", Some(Ok(8..10))),
            ("bytes=10-", Some(Err(10))),
            ("bytes=-0", Some(Err(10))),
            ("bytes=99999999999999999999-", Some(Err(u64::MAX))),
            ("bytes=3-2", None),
            ("bytes=0-1,4-5", None),
            ("lines=1-2", None),
            ("bytes=+1-2", None),
            ("bytes", None),
        ] {
            assert_eq!(parse_range(header, 10), wanted, "{header}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Some(Err(0)));
    }
}
