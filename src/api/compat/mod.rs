//! Everything that exists for the Python version's clients: its HTTP paths, and the WebSocket of its React UI. What they
//! read and write is frozen: old scripts and an old UI must go on working. With the last of them this folder goes,
//! together with its line in `mod.rs`, its state in `shared.rs` and its routes in `routes.rs`.
//! Must not know: the web UI.
//!
//! Reading order: `shapes.rs` JSON; `tails.rs` ends of outputs for `/status`; `state.rs` what connections share;
//! `paths.rs` the handlers; `socket/` the WebSocket.

mod paths;
mod shapes;
pub mod socket;
pub mod state;
mod tails;

use super::call::{Needs, Route, Shape, route};
use super::http::Response;
use crate::config::Role;

const READ: Needs = Needs::Role(Role::Read);
const OPERATE: Needs = Needs::Role(Role::Operate);

/// The paths of the Python version.
pub const ROUTES: &[Route] = &[
    old(route("GET", "/version", READ, paths::version)),
    old(route("GET", "/config", READ, paths::config)),
    old(route("GET", "/running", READ, paths::running)),
    old(route("GET", "/timeline", READ, paths::timeline)),
    old(route("GET", "/status", READ, paths::status)),
    old(route("POST", "/run", OPERATE, paths::run)),
    old(route("POST", "/kill", OPERATE, paths::kill)),
];

/// The response to a refused request.
pub fn refusal(status: u16, message: &str) -> Response {
    Response::json(status, &shapes::OldReply::error(message))
}

const fn old(route: Route) -> Route {
    Route {
        shape: Shape::Old,
        ..route
    }
}
