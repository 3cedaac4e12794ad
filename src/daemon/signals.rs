//! SIGTERM and SIGINT end the daemon, SIGHUP has files opened and read again.
//! Must not know: how either is done.

use std::io;
use std::time::Duration;

use crossbeam_channel::bounded;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::thread::{self, Actor};
use crate::{limits, logging};

/// Signals are caught from here on, and handled once [`SignalHandler::start`] is called.
pub struct SignalHandler(Signals);

impl SignalHandler {
    /// Catches them.
    pub fn new() -> io::Result<SignalHandler> {
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map(SignalHandler)
    }

    /// Handles them on a thread of their own. After `on_end` the process has [`limits::SHUTDOWN_MS`] to end by itself;
    /// then it is ended: what was acknowledged is stored, so nothing is lost.
    pub fn start(
        self,
        on_end: impl Fn() + Send + 'static,
        on_reload: impl Fn() + Send + 'static,
    ) -> io::Result<Actor> {
        let SignalHandler(mut signals) = self;
        let handle = signals.handle();
        let thread = thread::spawn("signals", limits::STACK_BYTES, move || {
            let mut is_ending = false;
            for signal in signals.forever() {
                match signal {
                    SIGHUP => on_reload(),
                    _ if is_ending => {}
                    _ => {
                        is_ending = true;
                        log::info!("told to stop: runs go on, and are taken up by the next start");
                        guard_the_end();
                        on_end();
                    }
                }
            }
        })?;
        Ok(Actor::new(thread, move || handle.close()))
    }
}

/// Ends the process if it has not ended by itself in time.
fn guard_the_end() {
    let guard = thread::spawn("shutdown", limits::STACK_BYTES, || {
        let (_never, silence) = bounded::<()>(0);
        // a little less than promised: exiting takes its time too
        let _ = silence.recv_timeout(Duration::from_millis(limits::SHUTDOWN_MS * 9 / 10));
        log::warn!("not everything came to its end in time; what was acknowledged is stored");
        exit();
    });
    if let Err(error) = guard {
        log::error!("cannot start a thread: {error}; ending at once");
        exit();
    }
}

fn exit() -> ! {
    logging::flush_for(limits::LOG_FLUSH_MS);
    std::process::exit(0)
}
