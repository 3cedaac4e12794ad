//! What others want to reach a connection: a bounded queue that wakes the connection's thread.
//! Must not know: what is in it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::wake::Waker;

/// Pushed to by anybody, emptied by one thread that waits on [`Outbox::waker`]. Costs nothing while empty.
#[derive(Debug)]
pub struct Outbox<T> {
    words: Mutex<VecDeque<T>>,
    waker: Waker,
    limit: usize,
    overflown: AtomicBool,
}

impl<T> Outbox<T> {
    /// Room for `limit` words. Fails when the process is out of descriptors.
    pub fn new(limit: usize) -> io::Result<Outbox<T>> {
        Ok(Outbox {
            words: Mutex::new(VecDeque::new()),
            waker: Waker::new()?,
            limit,
            overflown: AtomicBool::new(false),
        })
    }

    /// Appends and wakes; never waits. A full outbox takes nothing more: its connection is dropped.
    pub fn push(&self, word: T) {
        let mut words = self.words.lock();
        if words.len() >= self.limit {
            self.overflown.store(true, Ordering::Release);
        } else {
            words.push_back(word);
            if words.len() > 1 {
                // whoever pushed the first has rung
                return;
            }
        }
        drop(words);
        self.waker.wake();
    }

    /// Everything that waits; the memory goes with it.
    pub fn take(&self) -> VecDeque<T> {
        std::mem::take(&mut *self.words.lock())
    }

    /// It was full once: words are missing.
    pub fn is_overflown(&self) -> bool {
        self.overflown.load(Ordering::Acquire)
    }

    /// Rings when there is something to take.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_outbox_says_so_and_keeps_what_it_has() {
        let outbox = Outbox::new(2).unwrap();
        outbox.push(1);
        outbox.push(2);
        assert!(!outbox.is_overflown());
        outbox.push(3);
        assert!(outbox.is_overflown());
        assert_eq!(outbox.take(), [1, 2]);
    }
}
