//! Requests to the engine, and the wait for its answers.
//! Must not know: callers, what the answer means.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use crate::engine::effect::{Answer, Refusal};
use crate::engine::event::{Ask, Event};
use crate::engine::id::RequestId;
use crate::limits;

/// Requests that wait for an answer.
#[derive(Debug)]
pub struct Requests {
    control: Sender<Event>,
    next: AtomicU64,
    open: Mutex<HashMap<RequestId, Sender<Answer>>>,
}

impl Requests {
    /// Requests go into this lane.
    pub fn new(control: Sender<Event>) -> Requests {
        Requests {
            control,
            next: AtomicU64::new(1),
            open: Mutex::default(),
        }
    }

    /// Requests, and waits for the answer; at most [`limits::API_ANSWER_MS`].
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
            let busy = "the daemon is busy or shutting down; try again";
            return Err(Refusal::Unavailable(busy.into()));
        }
        match answer.recv_timeout(Duration::from_millis(limits::API_ANSWER_MS)) {
            Ok(answer) => answer,
            Err(_) => {
                self.open.lock().remove(&request);
                let late = "no answer in time; the request may still be carried out: check the status";
                Err(Refusal::Unavailable(late.into()))
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
