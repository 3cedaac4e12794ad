//! From a request to its response: the table of routes, each with what it takes to use it. Only this file knows all
//! handlers.
//! Must not know: sockets, what the handlers answer.

use std::sync::Arc;

use super::auth::{self, Caller, Via, Visitor};
use super::call::{Answered, Call, Needs, Route, Shape, route};
use super::compress::compressed;
use super::error::{Denied, problem};
use super::http::{Body, Request, Response};
use super::query::Query;
use super::shared::Shared;
use super::{acts, compat, grid, login, metrics, origin, output, overview, stream, timeline, ui, v1};
use crate::config::{Role, Settings};
use crate::engine::board::Board;
use crate::url::percent_decode;

const READ: Needs = Needs::Role(Role::Read);
const OPERATE: Needs = Needs::Role(Role::Operate);
const ADMIN: Needs = Needs::Role(Role::Admin);

/// The API, beside the paths of the Python version (`compat/`).
pub const ROUTES: &[Route] = &[
    route("GET", "/api/v1/overview", READ, overview::overview),
    route("GET", "/api/v1/stream", READ, stream::stream),
    route("GET", "/api/v1/jobs", READ, v1::jobs),
    route("GET", "/api/v1/jobs/{job}", READ, v1::job),
    route("GET", "/api/v1/jobs/{job}/grid", READ, grid::grid),
    route("POST", "/api/v1/jobs/{job}/run", OPERATE, acts::run),
    route("POST", "/api/v1/jobs/{job}/kill", OPERATE, acts::kill_job),
    route("POST", "/api/v1/jobs/{job}/pause", OPERATE, acts::pause),
    route("POST", "/api/v1/jobs/{job}/resume", OPERATE, acts::resume),
    route("POST", "/api/v1/jobs/{job}/seen", OPERATE, acts::seen),
    route("GET", "/api/v1/runs", READ, v1::runs),
    route("GET", "/api/v1/timeline", READ, timeline::timeline),
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
    route("GET", "/api/v1/notifications", READ, v1::notifications),
    route(
        "POST",
        "/api/v1/notifications/{id}/retry",
        OPERATE,
        acts::retry_notification,
    ),
    route(
        "POST",
        "/api/v1/notifiers/{name}/test",
        OPERATE,
        acts::test_notifier,
    ),
    route("GET", "/api/v1/whoami", READ, v1::whoami),
    route("GET", "/api/v1/version", READ, v1::version),
    route("GET", "/api/v1/openapi.json", Needs::Nothing, v1::openapi),
    // for machines
    route("GET", "/metrics", READ, metrics::metrics),
    route("GET", "/healthz", Needs::Nothing, metrics::healthz),
    route("GET", "/readyz", Needs::Nothing, metrics::readyz),
    // for browsers
    route("GET", "/login", Needs::Nothing, login::page),
    route("POST", "/login", Needs::Nothing, login::log_in),
    route("POST", "/logout", Needs::Nothing, login::log_out),
];

/// The web UI and its files: for browsers, and no part of the API.
const UI: &[Route] = &[
    route("GET", "/", Needs::Page, ui::index),
    route("GET", "/jobs/{job}", Needs::Page, ui::index),
    route("GET", "/runs", Needs::Page, ui::index),
    route("GET", "/runs/{instance}", Needs::Page, ui::index),
    route("GET", "/machines", Needs::Page, ui::index),
    route("GET", "/problems", Needs::Page, ui::index),
    route("GET", "/audit", Needs::Page, ui::index),
    route("GET", "/ui/{file}", Needs::Nothing, ui::file),
];

fn all_routes() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().chain(compat::ROUTES).chain(UI)
}

/// Answers a request, whatever it is.
pub fn respond(shared: &Arc<Shared>, visitor: &Visitor) -> Response {
    let board = shared.feed.board();
    let settings = board.config.settings.clone();
    let path = &visitor.request.path;
    let response = dispatch(shared, visitor, board).unwrap_or_else(|denied| refuse(path, &denied));
    let response = compressed(response, &visitor.request);
    with_origin(response, &visitor.request, &settings)
}

/// The response to a request that was refused, with the headers that its status requires.
pub fn refuse(path: &str, denied: &Denied) -> Response {
    let response = refusal(path, denied.status, &denied.message);
    match denied.status {
        401 => response.with("WWW-Authenticate", "Bearer".into()),
        426 => response.with("Upgrade", "websocket".into()),
        429 => response.with("Retry-After", "60".into()),
        _ => response,
    }
}

fn refusal(path: &str, status: u16, message: &str) -> Response {
    let segments = segments(path);
    let route = all_routes().find(|route| matched(route.path, &segments).is_some());
    match route.map(|route| route.shape).unwrap_or_default() {
        Shape::Problem => problem(status, message),
        Shape::Old => compat::refusal(status, message),
    }
}

fn dispatch(shared: &Arc<Shared>, visitor: &Visitor, board: Arc<Board>) -> Answered {
    let request = &visitor.request;
    let settings = board.config.settings.clone();
    if let Via::Tcp { .. } = visitor.via {
        origin::check_place(request, &settings)?;
    }
    let segments = segments(&request.path);
    let of_path: Vec<(&Route, Vec<String>)> = all_routes()
        .filter_map(|route| Some((route, matched(route.path, &segments)?)))
        .collect();
    let methods: Vec<&str> = of_path.iter().map(|(route, _)| route.method).collect();
    if request.method == "OPTIONS" {
        return Ok(options(request, &settings).with("Allow", allow(&methods)));
    }
    if of_path.is_empty() {
        return Err(if request.path == compat::socket::PATH {
            Denied::new(426, "this path requires a WebSocket")
        } else {
            Denied::new(404, "not found")
        });
    }
    let method = match request.method.as_str() {
        "HEAD" => "GET",
        method => method,
    };
    let Some((route, parts)) = of_path.into_iter().find(|(route, _)| route.method == method) else {
        let message = format!("this path accepts {}", methods.join(", "));
        return Ok(refusal(&request.path, 405, &message).with("Allow", allow(&methods)));
    };
    let caller = match caller(shared, visitor, route.needs, &settings)? {
        Some(caller) => caller,
        None => return Ok(login::redirect(request)),
    };
    let call = Call {
        shared,
        visitor,
        caller: &caller,
        board,
        parts,
        query: Query::parse(&request.query),
    };
    (route.handler)(&call)
}

/// The caller, if it has what a route needs. None: a browser that has to log in first.
fn caller(
    shared: &Shared,
    visitor: &Visitor,
    needs: Needs,
    settings: &Settings,
) -> Result<Option<Caller>, Denied> {
    match needs {
        Needs::Nothing => Ok(Some(nobody())),
        Needs::Page => match auth::admit(shared, visitor, settings) {
            Err(denied) if denied.status == 401 => {
                let hides_cookie = login::hides_cookie(&visitor.request);
                Ok(hides_cookie.then(nobody))
            }
            caller => caller.map(Some),
        },
        Needs::Role(role) => {
            let caller = auth::admit(shared, visitor, settings)?;
            auth::require(&caller, role)?;
            Ok(Some(caller))
        }
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/').skip(1).collect()
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
    if origin::foreign_origin(request, settings).is_none() {
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
    let Some(origin) = origin::foreign_origin(request, settings) else {
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
        for route in all_routes().filter(|route| route.method != "GET") {
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
        let in_code = ROUTES.iter().chain(compat::ROUTES).map(|route| {
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
