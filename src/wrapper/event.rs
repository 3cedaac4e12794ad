//! What the wrapper's owner loop is told, and the threads that tell it.
//! Must not know: what becomes of it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::Sender;

use crate::limits;
use crate::process::order::Report;
use crate::protocol::DaemonFrame;

/// Everything that can happen to a wrapper.
#[derive(Debug)]
pub enum Event {
    Link(LinkEvent),
    Guardian(Report),
    GuardianGone,
    /// More output than the owner has seen.
    OutputWaits,
    /// The pipe has ended, or has been let go of.
    OutputEnded,
    /// SIGTERM or SIGINT.
    ToldToStop,
    /// One of the wrapper's own threads broke.
    Panicked(String),
}

/// What the link's thread tells the owner.
#[derive(Debug)]
pub enum LinkEvent {
    /// A connection stands; frames are pushed under its generation. `trusted`: the peer is this very host,
    /// or has proved to be the daemon.
    Up {
        generation: u64,
        trusted: bool,
    },
    Down {
        generation: u64,
    },
    Frame {
        generation: u64,
        frame: DaemonFrame,
    },
    /// The thread has said goodbye and ends.
    Stopped,
}

/// Starts a thread whose panic the owner hears of.
pub fn spawn(
    name: &'static str,
    events: Sender<Event>,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let guarded = move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            let _ = events.send(Event::Panicked(name.to_string()));
        }
    };
    crate::thread::spawn(name, limits::WRAPPER_STACK_BYTES, guarded).map(drop)
}
