//! The API port and `control.sock`: HTTP on threads of their own. Reads are served from the board and from storage,
//! never by the engine; what somebody wants done goes to the engine as an event and waits for its answer.
//! Must not know: how the engine decides, SQL.
//!
//! Reading order: `feed.rs` the board as it reaches API threads; `asks.rs` questions to the engine; `http.rs` the
//! codec; `auth.rs` who may what; `views.rs` JSON shapes; `outputs.rs` ends of outputs; `routes.rs` paths to views;
//! `server.rs` threads and sockets.

mod asks;
pub mod auth;
mod feed;
pub mod http;
mod outputs;
mod routes;
mod server;
mod views;

pub use asks::Asks;
pub use feed::Feed;
pub use server::{Api, Listeners, start};

use std::sync::Arc;

use crate::storage::Reader;

/// What every API thread works with.
pub struct Shared {
    pub feed: Arc<Feed>,
    pub asks: Arc<Asks>,
    pub reader: Reader,
    outputs: outputs::Outputs,
}

impl Shared {
    /// Puts it together.
    pub fn new(feed: Arc<Feed>, asks: Arc<Asks>, reader: Reader) -> Shared {
        let outputs = outputs::Outputs::new(reader.clone());
        Shared {
            feed,
            asks,
            reader,
            outputs,
        }
    }
}
