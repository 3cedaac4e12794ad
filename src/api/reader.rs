//! The reader of storage that API threads share. Must not know: what is read.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::Reader;

/// One reader for all API threads: it holds several descriptors, and connections are many. Locked for one short read
/// at a time, never while something is sent.
pub type SharedReader = Arc<Mutex<Reader>>;
