//! From a request to its answer: one table of routes, each with what it takes to use it.
//! Must not know: sockets, what the handlers answer.

use std::sync::Arc;

use super::auth::{self, Caller, Denied, Via};
use super::http::{self, Body, Request, Response};
use super::query::Query;
use super::{Shared, acts, login, metrics, old, output, overview, page, socket, v1, views};
use crate::config::{Role, Settings};
use crate::engine::board::Board;
use crate::url::percent_decode;

/// A handler's answer.
pub type Answered = Result<Response, Denied>;

/// One path and method.
pub struct Route {
    pub method: &'static str,
    /// A part in braces stands for any text.
    pub path: &'static str,
    pub needs: Needs,
    pub handler: fn(&Call) -> Answered,
}

/// What it takes to use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Anybody may: it tells nothing.
    Nothing,
    /// A part of the page that tells nothing either; who may not read is sent to the login.
    Page,
    Role(Role),
}

/// A request on its way through a handler.
pub struct Call<'a> {
    pub shared: &'a Arc<Shared>,
    pub request: &'a Request,
    pub via: Via,
    /// The daemon's user.
    pub own_uid: u32,
    pub caller: &'a Caller,
    pub board: Arc<Board>,
    /// What stands in the path's braces, in order.
    pub parts: Vec<String>,
    pub query: Query,
}

const READ: Needs = Needs::Role(Role::Read);
const OPERATE: Needs = Needs::Role(Role::Operate);
const ADMIN: Needs = Needs::Role(Role::Admin);

/// Everything that is answered, but for `/ws` and the page.
pub const ROUTES: &[Route] = &[
    // the clean ones
    route("GET", "/api/v1/overview", READ, overview::overview),
    route("GET", "/api/v1/jobs", READ, v1::jobs),
    route("GET", "/api/v1/jobs/{job}", READ, v1::job),
    route("POST", "/api/v1/jobs/{job}/run", OPERATE, acts::run),
    route("POST", "/api/v1/jobs/{job}/kill", OPERATE, acts::kill_job),
    route("POST", "/api/v1/jobs/{job}/pause", OPERATE, acts::pause),
    route("POST", "/api/v1/jobs/{job}/resume", OPERATE, acts::resume),
    route("GET", "/api/v1/runs", READ, v1::runs),
    route("GET", "/api/v1/runs/{instance}", READ, v1::run),
    route("POST", "/api/v1/runs/{instance}/kill", OPERATE, acts::kill_run),
    route("POST", "/api/v1/runs/{instance}/retry", OPERATE, acts::retry),
    route(
        "POST",
        "/api/v1/runs/{instance}/machines/{machine}/kill",
        OPERATE,
        acts::kill_machine,
    ),
    route(
        "GET",
        "/api/v1/runs/{instance}/machines/{machine}/output",
        READ,
        output::output,
    ),
    route("GET", "/api/v1/machines", READ, v1::machines),
    route("GET", "/api/v1/maintenance", READ, v1::maintenance),
    route("PUT", "/api/v1/maintenance", ADMIN, acts::switch),
    route("DELETE", "/api/v1/maintenance", ADMIN, acts::switch_back),
    route("GET", "/api/v1/problems", READ, v1::problems),
    route("GET", "/api/v1/events", READ, v1::events),
    route("GET", "/api/v1/audit", READ, v1::audit),
    route("GET", "/api/v1/whoami", READ, v1::whoami),
    route("GET", "/api/v1/version", READ, old::version),
    route("GET", "/api/v1/openapi.json", Needs::Nothing, v1::openapi),
    // for machines
    route("GET", "/metrics", READ, metrics::metrics),
    route("GET", "/healthz", Needs::Nothing, metrics::healthz),
    route("GET", "/readyz", Needs::Nothing, metrics::readyz),
    // for browsers
    route("GET", "/login", Needs::Nothing, login::page),
    route("POST", "/login", Needs::Nothing, login::log_in),
    route("POST", "/logout", Needs::Nothing, login::log_out),
    // as they always were
    route("GET", "/version", READ, old::version),
    route("GET", "/config", READ, old::config),
    route("GET", "/running", READ, old::running),
    route("GET", "/timeline", READ, old::timeline),
    route("GET", "/status", READ, old::status),
    route("POST", "/run", OPERATE, acts::old_run),
    route("POST", "/kill", OPERATE, acts::old_kill),
];

/// The page and its files: for browsers alone, and nothing of the API.
const PAGE: &[Route] = &[
    route("GET", "/", Needs::Page, page::index),
    route("GET", "/jobs/{job}", Needs::Page, page::index),
    route("GET", "/runs/{instance}", Needs::Page, page::index),
    route("GET", "/ui/{file}", Needs::Nothing, page::file),
];

const fn route(
    method: &'static str,
    path: &'static str,
    needs: Needs,
    handler: fn(&Call) -> Answered,
) -> Route {
    Route {
        method,
        path,
        needs,
        handler,
    }
}

/// Answers a request, whatever it is.
pub fn respond(shared: &Arc<Shared>, request: &Request, via: Via, own_uid: u32) -> Response {
    let board = shared.feed.board();
    let settings = board.config.settings.clone();
    let response = dispatch(shared, request, via, own_uid, board)
        .unwrap_or_else(|denied| refuse(&request.path, &denied));
    with_origin(response, request, &settings)
}

/// The answer to a request that was refused, with what goes with its status.
pub fn refuse(path: &str, denied: &Denied) -> Response {
    let response = refusal(path, denied.status, &denied.message);
    match denied.status {
        401 => response.with("WWW-Authenticate", "Bearer".into()),
        426 => response.with("Upgrade", "websocket".into()),
        429 => response.with("Retry-After", "60".into()),
        _ => response,
    }
}

/// An answer that says no, in the shape that this path has always had.
fn refusal(path: &str, status: u16, message: &str) -> Response {
    if is_old(path) {
        Response::json(status, &views::Verdict::error(message))
    } else {
        error(status, message)
    }
}

/// An answer that says no: RFC 9457.
pub fn error(status: u16, message: &str) -> Response {
    let problem = serde_json::json!({
        "type": "about:blank", "title": http::phrase(status), "status": status, "detail": message,
    });
    let mut response = Response::json(status, &problem);
    response.content_type = "application/problem+json";
    response
}

/// Finds out who asks: by socket, header, cookie, or where that is allowed by nothing.
pub fn admit(
    shared: &Shared,
    request: &Request,
    via: Via,
    own_uid: u32,
    settings: &Settings,
) -> Result<Caller, Denied> {
    let Via::Tcp { peer } = via else {
        return auth::identify(request, via, settings, own_uid);
    };
    auth::check_place(request, settings)?;
    let session = shared.sessions.token_of(request);
    let by_session = session.filter(|_| auth::bearer(request).is_none());
    if let Some(caller) = by_session.and_then(|token| auth::by_digest(token, peer, settings)) {
        return Ok(auth::on_behalf(caller, request, peer));
    }
    let too_many = || Denied {
        status: 429,
        message: "too many wrong tokens from this address: try again in a minute".into(),
    };
    match auth::identify(request, via, settings, own_uid) {
        Ok(caller) => match caller.token {
            Some(token) if !shared.guard.is_welcome(peer.ip(), token) => Err(too_many()),
            _ => Ok(auth::on_behalf(caller, request, peer)),
        },
        Err(denied) if auth::bearer(request).is_some() && !shared.guard.may_fail(peer.ip()) => {
            log::debug!("{}: {}", peer.ip(), denied.message);
            Err(too_many())
        }
        denied => denied,
    }
}

fn dispatch(shared: &Arc<Shared>, request: &Request, via: Via, own_uid: u32, board: Arc<Board>) -> Answered {
    let settings = board.config.settings.clone();
    if let Via::Tcp { .. } = via {
        auth::check_place(request, &settings)?;
    }
    let segments: Vec<&str> = request.path.split('/').skip(1).collect();
    let of_path: Vec<(&Route, Vec<String>)> = ROUTES
        .iter()
        .chain(PAGE)
        .filter_map(|route| Some((route, matched(route.path, &segments)?)))
        .collect();
    let methods: Vec<&str> = of_path.iter().map(|(route, _)| route.method).collect();
    if request.method == "OPTIONS" {
        return Ok(options(request, &settings).with("Allow", allow(&methods)));
    }
    if of_path.is_empty() {
        let (status, message) = if request.path == socket::PATH {
            (426, "this path speaks WebSocket")
        } else {
            (404, "there is nothing at this path")
        };
        let message = message.into();
        return Err(Denied { status, message });
    }
    let method = match request.method.as_str() {
        "HEAD" => "GET",
        method => method,
    };
    let Some((route, parts)) = of_path.into_iter().find(|(route, _)| route.method == method) else {
        let message = format!("this path takes {}", methods.join(", "));
        return Ok(refusal(&request.path, 405, &message).with("Allow", allow(&methods)));
    };
    let caller = match route.needs {
        Needs::Nothing => nobody(),
        Needs::Page => match admit(shared, request, via, own_uid, &settings) {
            Ok(caller) => caller,
            Err(denied) if denied.status == 401 && !login::hides_cookie(request) => {
                return Ok(login::redirect(request));
            }
            Err(denied) if denied.status == 401 => nobody(),
            Err(denied) => return Err(denied),
        },
        Needs::Role(role) => {
            let caller = admit(shared, request, via, own_uid, &settings)?;
            auth::require(&caller, role)?;
            caller
        }
    };
    let call = Call {
        shared,
        request,
        via,
        own_uid,
        caller: &caller,
        board,
        parts,
        query: Query::parse(&request.query),
    };
    (route.handler)(&call)
}

/// What stands in the braces, if the path is that one.
fn matched(pattern: &str, segments: &[&str]) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut wanted = pattern.split('/').skip(1);
    for segment in segments {
        match wanted.next()? {
            // an empty name is none
            part if part.starts_with('{') && segment.is_empty() => return None,
            part if part.starts_with('{') => parts.push(percent_decode(segment)),
            part if part == *segment => {}
            _ => return None,
        }
    }
    wanted.next().is_none().then_some(parts)
}

/// What may be asked of a path that has routes for these methods.
fn allow(methods: &[&str]) -> String {
    let mut allowed = methods.to_vec();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.push("OPTIONS");
    allowed.join(", ")
}

fn options(request: &Request, settings: &Settings) -> Response {
    let response = Response {
        status: 204,
        content_type: "",
        headers: Vec::new(),
        body: Body::Bytes(Vec::new()),
    };
    if auth::foreign_origin(request, settings).is_none() {
        return response;
    }
    response
        .with(
            "Access-Control-Allow-Methods",
            "GET, HEAD, POST, PUT, DELETE".into(),
        )
        .with(
            "Access-Control-Allow-Headers",
            "Authorization, Content-Type, Range".into(),
        )
        .with("Access-Control-Max-Age", "600".into())
}

/// Pages of configured origins may read the answer; never with a cookie.
fn with_origin(response: Response, request: &Request, settings: &Settings) -> Response {
    let Some(origin) = auth::foreign_origin(request, settings) else {
        return response;
    };
    response
        .with("Access-Control-Allow-Origin", origin.to_string())
        .with(
            "Access-Control-Expose-Headers",
            "Content-Range, Accept-Ranges, Retry-After".into(),
        )
        .with("Vary", "Origin".into())
}

fn is_old(path: &str) -> bool {
    [
        "/version",
        "/config",
        "/running",
        "/timeline",
        "/status",
        "/run",
        "/kill",
    ]
    .contains(&path)
}

fn nobody() -> Caller {
    Caller {
        role: Role::Read,
        who: "somebody".into(),
        is_known: false,
        token: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_matched_part_by_part_and_decoded_after_that() {
        let parts = |pattern, path: &str| matched(pattern, &path.split('/').skip(1).collect::<Vec<_>>());
        let output = "/api/v1/runs/{instance}/machines/{machine}/output";
        assert_eq!(
            parts(output, "/api/v1/runs/a%2Fb/machines/web%3001/output"),
            Some(vec!["a/b".into(), "web001".into()])
        );
        for path in [
            "/api/v1/runs/a/machines//output",
            "/api/v1/runs/a/../output",
            "//api/v1/runs",
            "/api/v1/runs/",
            "/api/v1/runs/a/machines/b/output/c",
            "/api%2Fv1/runs",
            "",
        ] {
            assert_eq!(parts(output, path), None, "{path}");
            assert_eq!(parts("/api/v1/runs", path), None, "{path}");
        }
        assert_eq!(
            parts("/api/v1/runs/{instance}", "/api/v1/runs/.."),
            Some(vec!["..".into()])
        );
    }

    #[test]
    fn every_route_that_changes_something_needs_a_role_above_reading() {
        for route in ROUTES.iter().chain(PAGE).filter(|route| route.method != "GET") {
            let is_login = matches!(route.path, "/login" | "/logout");
            assert!(
                is_login || matches!(route.needs, Needs::Role(role) if role > Role::Read),
                "{} {}",
                route.method,
                route.path
            );
        }
    }

    #[test]
    fn the_document_names_exactly_the_routes_with_their_roles() {
        let document: serde_json::Value = serde_json::from_str(v1::OPENAPI).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut documented = std::collections::BTreeMap::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let role = operation["x-role"].as_str().unwrap_or("none").to_string();
                documented.insert((path.clone(), method.to_ascii_uppercase()), role);
            }
        }
        let in_code = ROUTES.iter().map(|route| {
            let role = match route.needs {
                Needs::Nothing | Needs::Page => "none",
                Needs::Role(Role::Read) => "read",
                Needs::Role(Role::Operate) => "operate",
                Needs::Role(Role::Admin) => "admin",
            };
            (
                (route.path.to_string(), route.method.to_string()),
                role.to_string(),
            )
        });
        assert_eq!(documented, in_code.collect());
    }

    #[test]
    fn the_manual_tells_of_each_request_what_the_document_does() {
        use std::collections::{BTreeMap, BTreeSet};

        use serde_json::Value;

        let document: Value = serde_json::from_str(v1::OPENAPI).unwrap();
        let words = |text: &str| -> BTreeSet<String> {
            let words = text.split(", ").filter(|word| !word.is_empty());
            words.map(str::to_string).collect()
        };
        let mut documented = BTreeMap::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let mut takes = BTreeSet::new();
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                for parameter in parameters.filter(|parameter| parameter["in"] == "query") {
                    takes.insert(parameter["name"].as_str().unwrap().to_string());
                }
                let bodies = operation["requestBody"]["content"].as_object();
                for body in bodies.into_iter().flat_map(|bodies| bodies.values()) {
                    let fields = body["schema"]["properties"].as_object();
                    takes.extend(fields.into_iter().flat_map(|fields| fields.keys().cloned()));
                }
                let summary = operation["summary"].as_str().unwrap().to_string();
                documented.insert(format!("`{} {path}`", method.to_uppercase()), (takes, summary));
            }
        }
        let manual = include_str!("../../packaging/doc/http-and-cli.md");
        let rows = manual.lines().filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            match cells.as_slice() {
                ["", request, takes, summary, ""] if request.contains(" /") => {
                    Some((request.to_string(), (words(takes), summary.to_string())))
                }
                _ => None,
            }
        });
        assert_eq!(rows.collect::<BTreeMap<_, _>>(), documented);
    }
}
