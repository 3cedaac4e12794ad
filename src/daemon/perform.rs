//! From effects to deeds: one match, each arm a `try_send`. What a full queue hands back waits here, in order, and is
//! offered again; nothing here ever blocks.
//! Must not know: why the engine wants it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::publisher::Publisher;
use crate::engine::effect::{Answer, Effect, ExecutorOrder, JobLogEntry};
use crate::engine::id::RequestId;
use crate::executor::Executor;
use crate::logfile::JobLog;
use crate::machines::Connections;
use crate::notify::Notifications;
use crate::storage::{Request, Storage};

/// Everything that effects reach.
pub struct Performer {
    pub connections: Arc<Connections>,
    pub publisher: Publisher,
    /// They leave with the next board.
    pub answers: Vec<(RequestId, Answer)>,
    pub executor: Executor,
    pub job_log: Arc<JobLog>,
    pub storage: Storage,
    pub notifications: Notifications,
    pub pending: Pending,
}

/// What full queues have handed back. Bounded by what the engine can want: while requests for storage wait, no more
/// output is taken in, and all else is a few effects for each machine run.
#[derive(Default)]
pub struct Pending {
    requests: VecDeque<Request>,
    orders: VecDeque<ExecutorOrder>,
    entries: VecDeque<JobLogEntry>,
}

impl Performer {
    /// Does it, or remembers it.
    pub fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Store(order) => self.request(Request::Order(order)),
            Effect::Connection(connection, order) => self.connections.push(connection, order),
            Effect::Execute(order) => {
                self.pending.orders.push_back(order);
                self.offer_orders();
            }
            Effect::Notify(order) => self.notifications.carry_out(order),
            Effect::JobLog(entry) => {
                self.pending.entries.push_back(entry);
                self.offer_entries();
            }
            Effect::Say { level, text } => log::log!(target: "saltpeter::engine", level, "{text}"),
            Effect::Answer { request, answer } => self.answers.push((request, answer)),
        }
    }

    /// Offers again what was handed back.
    pub fn retry(&mut self) {
        self.offer_requests();
        self.offer_orders();
        self.offer_entries();
    }

    /// Storage has no room: no more output should be taken in.
    pub fn is_storage_full(&self) -> bool {
        !self.pending.requests.is_empty()
    }

    /// Something waits to be offered again.
    pub fn has_pending(&self) -> bool {
        let Pending {
            requests,
            orders,
            entries,
        } = &self.pending;
        !(requests.is_empty() && orders.is_empty() && entries.is_empty())
    }

    /// Queues a request for storage, behind all before it.
    pub fn request(&mut self, request: Request) {
        self.pending.requests.push_back(request);
        self.offer_requests();
    }

    fn offer_requests(&mut self) {
        offer(&mut self.pending.requests, |request| {
            self.storage.try_send(request)
        });
    }

    fn offer_orders(&mut self) {
        offer(&mut self.pending.orders, |order| self.executor.try_send(order));
    }

    fn offer_entries(&mut self) {
        offer(&mut self.pending.entries, |entry| self.job_log.try_send(entry));
    }
}

/// Hands on from the front until one comes back.
fn offer<T>(waiting: &mut VecDeque<T>, try_send: impl Fn(T) -> Result<(), T>) {
    while let Some(next) = waiting.pop_front() {
        if let Err(next) = try_send(next) {
            waiting.push_front(next);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn what_comes_back_keeps_its_place() {
        let taken = RefCell::new(Vec::new());
        let room = |limit: usize| {
            let taken = &taken;
            move |next| {
                if taken.borrow().len() >= limit {
                    return Err(next);
                }
                taken.borrow_mut().push(next);
                Ok(())
            }
        };
        let mut waiting = VecDeque::from([1, 2, 3, 4]);
        offer(&mut waiting, room(2));
        assert_eq!(waiting, [3, 4]);
        offer(&mut waiting, room(10));
        assert_eq!(*taken.borrow(), [1, 2, 3, 4]);
    }
}
