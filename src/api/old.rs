//! The paths as they always were. Must not know: what came later.

use super::http::{Body, Response};
use super::query::bad;
use super::routes::{Answered, Call};
use super::v1::internal;
use super::views::{self, Status, Version};
use crate::clock;
use crate::limits;

/// The timeline without a start begins so long before its end.
const TIMELINE_MS: i64 = 3_600_000;

/// `GET /version`.
pub fn version(_call: &Call) -> Answered {
    Ok(Response::json(
        200,
        &Version {
            version: env!("CARGO_PKG_VERSION"),
            last_build: option_env!("SALTPETER_BUILD").unwrap_or("unknown"),
        },
    ))
}

/// `GET /config`.
pub fn config(call: &Call) -> Answered {
    Ok(Response::json(200, &views::config(&call.board, call.caller.role)))
}

/// `GET /running`.
pub fn running(call: &Call) -> Answered {
    Ok(Response::json(200, &views::Running(&call.board)))
}

/// `GET /timeline`.
pub fn timeline(call: &Call) -> Answered {
    let now = clock::wall();
    let until = call.query.moment("end_date", now)?.unwrap_or(now);
    let from = call.query.moment("start_date", now)?;
    let from = from.unwrap_or(until.plus_ms(-TIMELINE_MS));
    if from > until {
        return Err(bad("'start_date' must not be after 'end_date'".into()));
    }
    let library = call.shared.library.lock();
    let found = library.happenings(from, until, None, limits::HISTORY_PAGE);
    drop(library);
    let content = views::timeline(&found.map_err(internal)?);
    Ok(Response::json(
        200,
        &serde_json::json!({
            "content": content, "id": call.query.get("id"), "serial": call.board.version,
        }),
    ))
}

/// `GET /status`.
pub fn status(call: &Call) -> Answered {
    let shared = call.shared.clone();
    let board = call.board.clone();
    Ok(Response {
        status: 200,
        content_type: "application/json",
        headers: Vec::new(),
        body: Body::Stream(Box::new(move |into| {
            let view = Status {
                board: &board,
                outputs: &shared.outputs,
            };
            serde_json::to_writer(&mut *into, &view).map_err(std::io::Error::from)?;
            into.write_all(b"\n")
        })),
    })
}
