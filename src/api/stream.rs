//! `GET /api/v1/stream`: tells a browser that something has changed, so that it need not ask again and again.
//! Must not know: what has changed; the page asks `/api/v1/overview` for that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::auth::Admission;
use super::call::{Answered, Call};
use super::error::Denied;
use super::http::{Body, Outlet, Response};
use super::overview;
use super::shared::Shared;
use crate::clock;
use crate::limits;

/// Streams at the moment.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// One of [`limits::STREAMS`] places, given back when dropped.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let taken = OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < limits::STREAMS).then_some(open + 1)
        });
        taken.ok().map(|_| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `GET /api/v1/stream`.
pub fn stream(call: &Call) -> Answered {
    let Some(place) = Place::take() else {
        let message = format!(
            "{} streams are open already: ask /api/v1/overview",
            limits::STREAMS
        );
        return Err(Denied::new(503, message));
    };
    let shared = call.shared.clone();
    let settings = call.board.config.settings.clone();
    let mut admission = Admission::new(call.visitor.clone(), call.caller.clone(), settings);
    Ok(Response {
        status: 200,
        content_type: "text/event-stream",
        headers: vec![("X-Accel-Buffering", "no".into())],
        body: Body::Follow(Box::new(move |into| {
            let _place = place;
            run(&shared, &mut admission, into)
        })),
    })
}

/// Writes the version of each new board, and now and then a sign of life.
fn run(shared: &Arc<Shared>, admission: &mut Admission, into: &mut dyn Outlet) -> io::Result<()> {
    let (mut seen, mut told) = (0, None);
    let mut quiet_until = clock::mono();
    while !into.is_gone() {
        let board = shared.feed.board();
        if admission.renew(shared, &board.config.settings).is_err() {
            // the browser asks again, and is told why then
            return Ok(());
        }
        if told != Some(board.version) {
            told = Some(board.version);
            write!(into, "data: {}\n\n", overview::as_of(shared, &board))?;
            quiet_until = clock::mono().plus_ms(limits::STREAM_BEAT_MS);
            into.flush()?;
            // a burst of changes is told once: nothing ends this wait but its time
            shared.feed.wait_beyond(u64::MAX, limits::STREAM_GAP_MS);
        } else if clock::mono() >= quiet_until {
            write!(into, ":\n\n")?;
            quiet_until = clock::mono().plus_ms(limits::STREAM_BEAT_MS);
            into.flush()?;
        }
        seen = shared.feed.wait_beyond(seen, limits::FOLLOW_LOOK_MS);
    }
    Ok(())
}
