//! What somebody asks of the engine, and the wait for its answer.
//! Must not know: who asks, what the answer means.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use crate::engine::effect::Answer;
use crate::engine::event::{Ask, Event};
use crate::engine::id::RequestId;
use crate::limits;

/// Open questions.
#[derive(Debug)]
pub struct Asks {
    control: Sender<Event>,
    next: AtomicU64,
    open: Mutex<HashMap<RequestId, Sender<Answer>>>,
}

impl Asks {
    /// Questions go into this lane.
    pub fn new(control: Sender<Event>) -> Asks {
        Asks {
            control,
            next: AtomicU64::new(1),
            open: Mutex::default(),
        }
    }

    /// Asks, and waits for the answer; at most [`limits::API_ANSWER_MS`].
    pub fn ask(&self, ask: Ask, who: String) -> Answer {
        let request = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, answer) = bounded(1);
        self.open.lock().insert(request, sender);
        if self
            .control
            .try_send(Event::Request { request, ask, who })
            .is_err()
        {
            self.open.lock().remove(&request);
            return Answer::Unavailable("the daemon is too busy or about to stop; try again".into());
        }
        match answer.recv_timeout(Duration::from_millis(limits::API_ANSWER_MS)) {
            Ok(answer) => answer,
            Err(_) => {
                self.open.lock().remove(&request);
                Answer::Unavailable("no answer in time; it may still be done: look at the status".into())
            }
        }
    }

    /// The engine's lane is full.
    pub fn is_busy(&self) -> bool {
        self.control.is_full()
    }

    /// The engine's answer; never waits.
    pub fn answer(&self, request: RequestId, answer: Answer) {
        if let Some(asker) = self.open.lock().remove(&request) {
            let _ = asker.try_send(answer);
        }
    }
}
