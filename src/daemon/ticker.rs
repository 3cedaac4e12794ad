//! One tick a second, on the wall clock's second, and before it the heartbeats that connections have stamped.
//! Must not know: what is due.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::clock;
use crate::engine::event::Event;
use crate::limits;
use crate::machines::Connections;
use crate::thread::{self, Actor};

const SECOND_US: i64 = 1_000_000;

/// Starts it; dropping what it returns stops it.
pub fn start(control: Sender<Event>, connections: Arc<Connections>) -> io::Result<Actor> {
    let (stop, stopped) = bounded::<()>(0);
    let thread = thread::spawn("ticker", limits::STACK_BYTES, move || {
        while until_next_second(&stopped) {
            let beats = connections.collect_beats();
            if !beats.is_empty() && control.send(Event::Beats(beats)).is_err() {
                return;
            }
            if control.send(Event::Tick).is_err() {
                return;
            }
        }
    })?;
    Ok(Actor::new(thread, move || drop(stop)))
}

/// False: it is over.
fn until_next_second(stopped: &Receiver<()>) -> bool {
    let target = (clock::wall().secs() + 1) * SECOND_US;
    loop {
        let left_us = target - clock::wall().0;
        // also where the clock was set back meanwhile: a tick too many does no harm
        if !(1..=SECOND_US).contains(&left_us) {
            return true;
        }
        match stopped.recv_timeout(Duration::from_micros(left_us as u64)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return false,
        }
    }
}
