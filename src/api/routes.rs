//! From a request to its answer: one match over method and path.
//! Must not know: sockets.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::Shared;
use super::auth::{self, Caller, Denied, Via};
use super::http::{Body, Request, Response};
use super::views::{self, KillBody, RunBody, Status, Verdict, Version};
use crate::config::Role;
use crate::engine::effect::Answer;
use crate::engine::event::Ask;
use crate::engine::record::{MachineRunId, RunRecord};
use crate::machines::percent_decode;

/// Output is read in pieces of this size.
const OUTPUT_PIECE_BYTES: usize = 256 << 10;

/// Answers a request, whatever it is.
pub fn respond(shared: &Arc<Shared>, request: &Request, via: Via, own_uid: u32) -> Response {
    let settings = shared.feed.board().config.settings.clone();
    let caller = match auth::identify(request, via, &settings, own_uid) {
        Ok(caller) => caller,
        Err(denied) => return refuse(denied),
    };
    let parts: Vec<String> = request.path.split('/').skip(1).map(percent_decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let method = match request.method.as_str() {
        "HEAD" => "GET",
        method => method,
    };
    match (method, parts.as_slice()) {
        ("OPTIONS", _) => empty(204),
        ("GET", ["status"]) => reading(&caller, || status(shared)),
        ("GET", ["version"]) => reading(&caller, version),
        ("GET", ["api", "v1", "runs", instance, "machines", machine, "output"]) => {
            reading(&caller, || output(shared, instance, machine))
        }
        ("POST", ["run"]) => acting(&caller, request, |body: RunBody| {
            (Ask::Run { job: body.job }, shared.clone())
        }),
        ("POST", ["kill"]) => acting(&caller, request, |body: KillBody| {
            let ask = Ask::Kill {
                job: body.job,
                machine: body.machine,
                instance: body.instance,
            };
            (ask, shared.clone())
        }),
        (_, ["status" | "version"] | ["api", "v1", "runs", _, "machines", _, "output"]) => not_allowed("GET"),
        (_, ["run" | "kill"]) => not_allowed("POST"),
        _ => error(404, "there is nothing at this path"),
    }
}

/// An answer that says no.
pub fn error(status: u16, message: &str) -> Response {
    Response::json(status, &Verdict::error(message))
}

fn reading(caller: &Caller, view: impl FnOnce() -> Response) -> Response {
    match auth::require(caller, Role::Read) {
        Ok(()) => view(),
        Err(denied) => refuse(denied),
    }
}

/// What changes something: only for those who may operate, only as JSON (a form on a web page cannot send that).
fn acting<T: DeserializeOwned>(
    caller: &Caller,
    request: &Request,
    what: impl FnOnce(T) -> (Ask, Arc<Shared>),
) -> Response {
    if let Err(denied) = auth::require(caller, Role::Operate) {
        return refuse(denied);
    }
    let content_type = request.header("content-type").unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return error(415, "the request needs 'Content-Type: application/json'");
    }
    let body = match serde_json::from_slice(&request.body) {
        Ok(body) => body,
        Err(problem) => {
            return error(
                400,
                &format!("the request's body is not what is expected: {problem}"),
            );
        }
    };
    let (ask, shared) = what(body);
    tell(shared.asks.ask(ask, caller.who.clone()))
}

fn tell(answer: Answer) -> Response {
    match answer {
        Answer::Started { instance } => Response::json(
            200,
            &Verdict {
                instance: Some(&instance),
                ..Verdict::ok(&format!("started {instance}"))
            },
        ),
        Answer::KillSent { machines } => {
            let plural = if machines == 1 { "" } else { "s" };
            let message = format!("the kill is on its way to {machines} machine{plural}");
            Response::json(200, &Verdict::ok(&message))
        }
        Answer::UnknownJob => error(404, "there is no such job"),
        Answer::Conflict(reason) => error(409, &reason),
        Answer::Unavailable(reason) => error(503, &reason),
    }
}

fn status(shared: &Arc<Shared>) -> Response {
    let shared = shared.clone();
    let board = shared.feed.board();
    Response {
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
    }
}

fn version() -> Response {
    Response::json(
        200,
        &Version {
            version: env!("CARGO_PKG_VERSION"),
            last_build: option_env!("SALTPETER_BUILD").unwrap_or("unknown"),
        },
    )
}

/// The plain bytes of an output, from storage.
fn output(shared: &Arc<Shared>, instance: &str, machine: &str) -> Response {
    let (id, day, limit_bytes) = match find(shared, instance, machine) {
        Ok(Some(found)) => found,
        Ok(None) => return error(404, "there is no such run, or that machine is not in it"),
        Err(problem) => return error(500, &problem),
    };
    let length = match shared.library.lock().output_len(id, day, limit_bytes) {
        Ok(length) => length,
        Err(problem) => return error(500, &problem),
    };
    let shared = shared.clone();
    Response {
        status: 200,
        content_type: "text/plain; charset=utf-8",
        headers: Vec::new(),
        body: Body::Stream(Box::new(move |into| {
            let mut piece = Vec::new();
            for from in (0..length).step_by(OUTPUT_PIECE_BYTES) {
                let range = from..length.min(from + OUTPUT_PIECE_BYTES as u64);
                piece.clear();
                let library = shared.library.lock();
                library.read_output(id, day, limit_bytes, range, &mut piece)?;
                // a slow peer must not hold the others up
                drop(library);
                into.write_all(&piece)?;
            }
            Ok(())
        })),
    }
}

/// A machine run's number, day and limit: from the board, or from history.
fn find(shared: &Shared, instance: &str, machine: &str) -> Result<Option<(MachineRunId, i64, u64)>, String> {
    let place = |run: &RunRecord, id| (id, views::day_of(run.started), run.spec.output_limit_bytes);
    let board = shared.feed.board();
    if let Some(run) = board.running.get(instance) {
        let found = run.machines.iter().find(|entry| entry.record.machine == machine);
        return Ok(found.map(|entry| place(&run.run, entry.record.id)));
    }
    let Some(stored) = shared.library.lock().run(instance)? else {
        return Ok(None);
    };
    let found = stored
        .machines
        .iter()
        .find(|(record, _)| record.machine == machine);
    Ok(found.map(|(record, _)| place(&stored.run, record.id)))
}

fn refuse(denied: Denied) -> Response {
    let response = error(denied.status, &denied.message);
    match denied.status {
        401 => response.with("WWW-Authenticate", "Bearer".into()),
        _ => response,
    }
}

fn not_allowed(method: &str) -> Response {
    error(405, &format!("this path takes {method}")).with("Allow", method.into())
}

fn empty(status: u16) -> Response {
    Response {
        status,
        content_type: "",
        headers: Vec::new(),
        body: Body::Bytes(Vec::new()),
    }
}
