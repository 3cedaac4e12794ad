//! The HTTP paths of the Python version. Must not know: what came later.

use super::shapes::{self, KillBody, OldReply, OldRunBody, Status, Version};
use crate::api::call::{Answered, Call};
use crate::api::error::{bad, unreadable};
use crate::api::http::{Body, Response};
use crate::api::views;
use crate::clock;
use crate::engine::effect::Done;
use crate::engine::event::Ask;
use crate::limits;
use crate::storage::EventKinds;

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
    Ok(Response::json(
        200,
        &shapes::config(&call.board, call.caller.role),
    ))
}

/// `GET /running`.
pub fn running(call: &Call) -> Answered {
    Ok(Response::json(200, &shapes::Running(&call.board)))
}

/// `GET /timeline`.
pub fn timeline(call: &Call) -> Answered {
    let now = clock::wall();
    let until = call.query.moment("end_date", now)?.unwrap_or(now);
    let from = call.query.moment("start_date", now)?;
    let from = from.unwrap_or(until.plus_ms(-TIMELINE_MS));
    if from > until {
        return Err(bad("'start_date' must not be after 'end_date'"));
    }
    let reader = call.shared.reader.lock();
    let found = reader.history_events(from, until, None, EventKinds::All, limits::HISTORY_PAGE);
    drop(reader);
    let content = shapes::timeline(&found.map_err(unreadable)?);
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
                tails: &shared.compat.tails,
            };
            serde_json::to_writer(&mut *into, &view).map_err(std::io::Error::from)?;
            into.write_all(b"\n")
        })),
    })
}

/// `POST /run`.
pub fn run(call: &Call) -> Answered {
    let OldRunBody { job } = call.body()?;
    tell(call.ask(Ask::Run { job })?)
}

/// `POST /kill`.
pub fn kill(call: &Call) -> Answered {
    let body: KillBody = call.body()?;
    let kill = Ask::Kill {
        job: body.job,
        machine: body.machine,
        instance: body.instance,
    };
    tell(call.ask(kill)?)
}

fn tell(done: Done) -> Answered {
    let reply = match &done {
        Done::Started { instance } => {
            let message = format!("started {instance}");
            let reply = OldReply {
                instance: Some(instance),
                ..OldReply::ok(&message)
            };
            return Ok(Response::json(200, &reply));
        }
        Done::KillSent { machines } => views::kill_sent(*machines),
        Done::Set(message) => message.clone(),
        // nothing here asks for it
        Done::Noticed { id } => format!("notification {id} is on its way"),
    };
    Ok(Response::json(200, &OldReply::ok(&reply)))
}
