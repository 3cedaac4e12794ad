//! The API port and `control.sock`: HTTP on threads of their own. Reads are served from the board and from storage,
//! never by the engine; requests that change something go to the engine as an event and wait for its answer.
//! Must not know: how the engine decides, SQL.
//!
//! Reading order: `feed.rs` the board as it reaches API threads; `reader.rs` storage; `requests.rs` requests to the engine; `http.rs` the
//! codec; `error.rs` refusals; `origin.rs` web pages kept out; `guard.rs` wrong tokens; `sessions.rs` browsers that are
//! logged in; `auth.rs` callers and their roles; `shared.rs` what all threads share; `query.rs` names, values and times;
//! `views.rs` JSON shapes; `call.rs` a request in a handler; `v1.rs`, `overview.rs`, `grid.rs`, `timeline.rs`, `stream.rs`, `acts.rs`, `output.rs`,
//! `metrics.rs`, `login.rs` the handlers; `ui/` the web UI; `compat/` what exists for the Python version's UI and paths;
//! `routes.rs` the table of routes; `compress.rs` gzip; `idle.rs` connections that wait; `tls.rs` certificate and encrypted sockets;
//! `server.rs` threads and sockets.

mod acts;
pub mod auth;
mod call;
mod compat;
mod compress;
mod error;
mod feed;
mod grid;
mod guard;
pub mod http;
mod idle;
mod login;
mod metrics;
mod origin;
mod output;
mod overview;
mod query;
mod reader;
mod requests;
mod routes;
mod server;
mod sessions;
mod shared;
mod stream;
mod timeline;
mod tls;
mod ui;
mod v1;
mod views;

pub use feed::Feed;
pub use requests::Requests;
pub use server::{Api, Listeners, start};
pub use shared::Shared;
pub use tls::Keys;
