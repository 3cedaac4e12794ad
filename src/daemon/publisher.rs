//! Boards and answers on their way out, in order, and each only when storage has dealt with everything before it: what
//! people see is stored, its output too, and a client that has its answer sees it in its next read.
//! Must not know: what is on a board.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::api::{Feed, Requests};
use crate::engine::board::Board;
use crate::engine::effect::Answer;
use crate::engine::id::RequestId;
use crate::limits;
use crate::thread::{self, Actor};

/// What becomes visible together.
pub struct Publication {
    /// A message comes, or it closes, when storage has dealt with everything before.
    pub stored: Receiver<()>,
    /// None: unchanged.
    pub board: Option<Arc<Board>>,
    pub answers: Vec<(RequestId, Answer)>,
}

/// Its thread; dropped: what waits is published, then the thread is joined.
pub struct Publisher {
    // declared before the thread: the queue closes first, which ends the thread's loop
    queue: Sender<Publication>,
    _thread: Actor,
}

impl Publisher {
    /// Starts the thread.
    pub fn start(feed: Arc<Feed>, requests: Arc<Requests>) -> io::Result<Publisher> {
        let (queue, publications) = crossbeam_channel::bounded::<Publication>(limits::PUBLISH_QUEUE);
        let thread = thread::spawn("publisher", limits::STACK_BYTES, move || {
            for publication in publications {
                // a disk that hangs must not hide everything else for ever
                let patience = Duration::from_millis(limits::BOARD_STORED_MS);
                let _ = publication.stored.recv_timeout(patience);
                if let Some(board) = publication.board {
                    feed.publish(board);
                }
                for (request, answer) in publication.answers {
                    requests.answer(request, answer);
                }
            }
        })?;
        Ok(Publisher {
            queue,
            _thread: Actor::new(thread, || ()),
        })
    }

    /// Queues it. Hands it back when the queue is full.
    pub fn try_send(&self, publication: Publication) -> Result<(), Publication> {
        self.queue.try_send(publication).map_err(|refused| match refused {
            TrySendError::Full(publication) | TrySendError::Disconnected(publication) => publication,
        })
    }

    /// There is room for one more.
    pub fn has_room(&self) -> bool {
        !self.queue.is_full()
    }
}
