//! What all API threads share. Must not know: routes, sockets.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::compat::state::State;
use super::feed::Feed;
use super::guard::Guard;
use super::reader::SharedReader;
use super::requests::Requests;
use super::sessions::Sessions;
use crate::clock::{self, Wall};
use crate::storage::Reader;

/// What every API thread works with.
pub struct Shared {
    /// Tells one start of the daemon from the next.
    pub started: Wall,
    pub feed: Arc<Feed>,
    pub requests: Arc<Requests>,
    pub reader: SharedReader,
    pub guard: Guard,
    pub sessions: Sessions,
    /// For the legacy React UI and the old paths.
    pub compat: State,
}

impl Shared {
    /// Puts everything together. Fails when the process is out of descriptors.
    pub fn new(
        feed: Arc<Feed>,
        requests: Arc<Requests>,
        reader: Reader,
        state_dir: &Path,
    ) -> io::Result<Shared> {
        let shared_reader = Arc::new(Mutex::new(reader.clone()));
        Ok(Shared {
            started: clock::wall(),
            compat: State::new(feed.clone(), reader, shared_reader.clone())?,
            feed,
            requests,
            reader: shared_reader,
            guard: Guard::default(),
            sessions: Sessions::load(state_dir),
        })
    }
}
