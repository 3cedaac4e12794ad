//! Connections that wait for a request, oldest first: when there are too many, the oldest make room. So nobody keeps
//! others out by connecting and saying nothing. Must not know: HTTP.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::net::Shutdown;

/// Everybody who waits.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<Mutex<Room>>);

#[derive(Debug, Default)]
struct Room {
    next: u64,
    waiting: BTreeMap<u64, OwnedFd>,
}

/// One connection; goes with it.
#[derive(Debug)]
pub struct Guest {
    room: Waiting,
    place: Option<u64>,
    /// A second handle on its socket, while it is busy.
    socket: Option<OwnedFd>,
}

impl Waiting {
    /// A connection; `socket` is a second handle on it.
    pub fn guest(&self, socket: OwnedFd) -> Guest {
        Guest {
            room: self.clone(),
            place: None,
            socket: Some(socket),
        }
    }

    /// Hangs up on the one that has waited longest. False: nobody waits.
    pub fn make_room(&self) -> bool {
        let Some((_, socket)) = self.0.lock().waiting.pop_first() else {
            return false;
        };
        // its thread finds the end of the stream and goes
        let _ = rustix::net::shutdown(&socket, Shutdown::Both);
        true
    }
}

impl Guest {
    /// From here on it may have to make room.
    pub fn waits(&mut self) {
        if let Some(socket) = self.socket.take() {
            let mut room = self.room.0.lock();
            let place = room.next;
            room.next += 1;
            room.waiting.insert(place, socket);
            self.place = Some(place);
        }
    }

    /// It has said what it wants.
    pub fn is_served(&mut self) {
        if let Some(place) = self.place.take() {
            self.socket = self.room.0.lock().waiting.remove(&place);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.is_served();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_one_that_waited_longest_goes_and_who_is_served_stays() {
        let waiting = Waiting::default();
        let mut guests = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..3 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut guest = waiting.guest(ours.into());
            guest.waits();
            guests.push(guest);
            ends.push(theirs);
        }
        guests[0].is_served();
        assert!(waiting.make_room());
        let mut byte = [0];
        assert_eq!(ends[1].read(&mut byte).unwrap(), 0, "the second waited longest");
        guests.remove(2);
        assert!(!waiting.make_room(), "nobody waits any more");
    }
}
