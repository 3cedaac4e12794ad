//! The board on its way from the engine's thread to API threads: the latest one, and a way to wait for the next.
//! Must not know: what is on it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::engine::board::Board;

/// Holds the latest board.
#[derive(Debug)]
pub struct Feed {
    board: RwLock<Arc<Board>>,
    /// How many boards were published. Guards the waiting only.
    published: Mutex<u64>,
    changed: Condvar,
}

impl Feed {
    /// Begins with `board`: settings must be in force before the first request.
    pub fn new(board: Arc<Board>) -> Feed {
        Feed {
            board: RwLock::new(board),
            published: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// The latest board.
    pub fn board(&self) -> Arc<Board> {
        self.board.read().clone()
    }

    /// Replaces the board and wakes the threads that wait for one.
    pub fn publish(&self, board: Arc<Board>) {
        *self.board.write() = board;
        *self.published.lock() += 1;
        self.changed.notify_all();
    }

    /// Waits until more than `seen` boards were published, `timeout_ms` at most. The new count; begin with 0.
    pub fn wait_beyond(&self, seen: u64, timeout_ms: u64) -> u64 {
        let mut published = self.published.lock();
        let timeout = Duration::from_millis(timeout_ms);
        self.changed
            .wait_while_for(&mut published, |published| *published <= seen, timeout);
        *published
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_gets_the_next_board_or_returns_after_its_time() {
        let feed = Arc::new(Feed::new(Arc::default()));
        assert_eq!(feed.wait_beyond(0, 1), 0);
        let publisher = feed.clone();
        let thread = crate::thread::spawn("test", 1 << 20, move || {
            publisher.publish(Arc::new(Board {
                version: 7,
                ..Board::default()
            }));
        });
        assert_eq!(feed.wait_beyond(0, 10_000), 1);
        assert_eq!(feed.board().version, 7);
        thread.unwrap().join().unwrap();
    }
}
