//! What all connections of the Python version's clients share. Must not know: what they are sent.

use std::io;
use std::sync::Arc;

use super::socket::hub::Hub;
use super::tails::Tails;
use crate::api::feed::Feed;
use crate::api::reader::SharedReader;
use crate::storage::Reader;

/// What all connections of such clients share.
pub struct State {
    pub tails: Tails,
    pub hub: Arc<Hub>,
}

impl State {
    /// Fails when the process is out of descriptors.
    pub fn new(feed: Arc<Feed>, reader: Reader, shared_reader: SharedReader) -> io::Result<State> {
        Ok(State {
            tails: Tails::new(shared_reader),
            hub: Arc::new(Hub::new(feed, reader)?),
        })
    }
}
