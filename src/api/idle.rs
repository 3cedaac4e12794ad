//! Connections that wait for a request, oldest first: when there are too many, the oldest are closed. So nobody keeps
//! others out by connecting and sending nothing. Must not know: HTTP.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::net::Shutdown;

/// All connections that wait for a request.
#[derive(Clone, Debug, Default)]
pub struct IdleConnections(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    next: u64,
    waiting: BTreeMap<u64, OwnedFd>,
}

/// One connection; dropped with it.
#[derive(Debug)]
pub struct IdleSlot {
    all: IdleConnections,
    place: Option<u64>,
    /// A second handle on its socket, while it is busy.
    socket: Option<OwnedFd>,
}

impl IdleConnections {
    /// A connection; `socket` is a second handle on it.
    pub fn slot(&self, socket: OwnedFd) -> IdleSlot {
        IdleSlot {
            all: self.clone(),
            place: None,
            socket: Some(socket),
        }
    }

    /// Closes the connection that has waited longest. False: none waits.
    pub fn make_room(&self) -> bool {
        let Some((_, socket)) = self.0.lock().waiting.pop_first() else {
            return false;
        };
        // its thread finds the end of the stream and goes
        let _ = rustix::net::shutdown(&socket, Shutdown::Both);
        true
    }
}

impl IdleSlot {
    /// From here on the connection may be closed to make room.
    pub fn wait_from_here(&mut self) {
        if let Some(socket) = self.socket.take() {
            let mut places = self.all.0.lock();
            let place = places.next;
            places.next += 1;
            places.waiting.insert(place, socket);
            self.place = Some(place);
        }
    }

    /// A request has arrived.
    pub fn served(&mut self) {
        if let Some(place) = self.place.take() {
            self.socket = self.all.0.lock().waiting.remove(&place);
        }
    }
}

impl Drop for IdleSlot {
    fn drop(&mut self) {
        self.served();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_connection_that_waited_longest_is_closed_and_one_that_is_served_stays() {
        let waiting = IdleConnections::default();
        let mut slots = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..3 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut slot = waiting.slot(ours.into());
            slot.wait_from_here();
            slots.push(slot);
            ends.push(theirs);
        }
        slots[0].served();
        assert!(waiting.make_room());
        let mut byte = [0];
        assert_eq!(ends[1].read(&mut byte).unwrap(), 0, "the second waited longest");
        slots.remove(2);
        assert!(!waiting.make_room(), "none waits any more");
    }
}
