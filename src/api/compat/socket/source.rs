//! Where a view takes what it shows from. Must not know: what is shown to whom.

use std::sync::Arc;

use super::text::{Cursor, Next, TextSource};
use crate::engine::board::{Board, RunBoard};
use crate::engine::id::RunId;

/// What a view asks of the world.
pub trait Source {
    /// Differs from the last one whenever `status` says something else.
    fn status_stamp(&self, board: &Arc<Board>) -> u64;
    /// The next piece of an output.
    fn next(&self, source: &TextSource, cursor: Cursor, stop: Option<u64>) -> Next;
    /// Stored runs of a job that have ended, from `from` up to, not including, `before`, ascending.
    fn past_runs(&self, job: &str, from: RunId, before: RunId) -> Vec<Arc<RunBoard>>;
}
