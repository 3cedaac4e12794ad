//! The API port and `control.sock`: HTTP on threads of their own. Reads are served from the board and from storage,
//! never by the engine; what somebody wants done goes to the engine as an event and waits for its answer.
//! Must not know: how the engine decides, SQL.
//!
//! Reading order: `feed.rs` the board as it reaches API threads; `asks.rs` questions to the engine; `http.rs` the
//! codec; `auth.rs` who may what; `guard.rs` wrong tokens; `views.rs` JSON shapes; `outputs.rs` ends of outputs;
//! `query.rs` names, values and times; `routes.rs` the table of routes; `v1.rs`, `overview.rs`, `acts.rs`, `output.rs`,
//! `old.rs`, `metrics.rs`, `login.rs`, `page.rs` what is behind them; `ui/` the page; `waiting.rs` connections that wait; `socket/` the UI's
//! WebSocket; `tls.rs` certificate and encrypted sockets; `server.rs` threads and sockets.

mod acts;
mod asks;
pub mod auth;
mod feed;
mod guard;
pub mod http;
mod login;
mod metrics;
mod old;
mod output;
mod outputs;
mod overview;
mod page;
mod query;
mod routes;
mod server;
mod socket;
mod tls;
mod v1;
mod views;
mod waiting;

pub use asks::Asks;
pub use feed::Feed;
pub use server::{Api, Listeners, start};
pub use tls::Keys;

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::{self, Wall};
use crate::storage::Reader;

/// One reader for all API threads: it holds several descriptors, and connections are many. Locked for one short read
/// at a time, never while something is sent.
pub type Library = Arc<Mutex<Reader>>;

/// What every API thread works with.
pub struct Shared {
    /// Tells one start of the daemon from the next.
    started: Wall,
    pub feed: Arc<Feed>,
    pub asks: Arc<Asks>,
    pub library: Library,
    outputs: outputs::Outputs,
    guard: guard::Guard,
    sessions: login::Sessions,
    hub: Arc<socket::Hub>,
}

impl Shared {
    /// Puts it together. Fails when the process is out of descriptors.
    pub fn new(feed: Arc<Feed>, asks: Arc<Asks>, reader: Reader) -> io::Result<Shared> {
        let hub = Arc::new(socket::Hub::new(feed.clone(), reader.clone())?);
        let library = Arc::new(Mutex::new(reader));
        let outputs = outputs::Outputs::new(library.clone());
        Ok(Shared {
            started: clock::wall(),
            feed,
            asks,
            library,
            outputs,
            guard: guard::Guard::default(),
            sessions: login::Sessions::default(),
            hub,
        })
    }
}
