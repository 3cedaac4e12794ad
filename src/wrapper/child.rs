//! The wrapper's side of guardian and command: orders out, reports and signals in, and the reader of the pipe.
//! Must not know: the daemon, outcomes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;
use rustix::process::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::limits;
use crate::process::guardian::{self, Guardian};
use crate::process::order::{CommandSpec, GuardianOrder, receive_report, send_order};
use crate::wake::{self, Waker};
use crate::wake::{Interest, poll_any};
use crate::wrapper::event::{Event, spawn};
use crate::wrapper::spool::{Appended, Spool};

/// The owner's handle.
#[derive(Debug)]
pub struct Child {
    socket: UnixStream,
    command: Option<Pid>,
    reading: Arc<Reading>,
}

/// Tells the reader to stop.
#[derive(Debug)]
struct Reading {
    waker: Waker,
    stop: AtomicBool,
}

impl Child {
    /// Takes over the guardian: one thread listens to it and to signals, one reads the pipe.
    pub fn new(guardian: Guardian, spool: Arc<Spool>, events: &Sender<Event>) -> io::Result<Child> {
        let (signals, signals_end) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGTERM, signals_end.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, signals_end)?;
        let socket = guardian.socket.try_clone()?;
        let reading = Arc::new(Reading {
            waker: Waker::new()?,
            stop: AtomicBool::new(false),
        });
        rustix::io::ioctl_fionbio(&guardian.output, true)?;
        let (told, output, its_reading) = (events.clone(), guardian.output, reading.clone());
        spawn("sp-output", events.clone(), move || {
            read_output(&output, &its_reading, &spool, &told);
            // closed before it is told: from then on writers are on their own
            drop(output);
            let _ = told.send(Event::OutputEnded);
        })?;
        let told = events.clone();
        spawn("sp-watch", events.clone(), move || {
            listen(guardian.socket, &told, &signals, guardian.pid)
        })?;
        Ok(Child {
            socket,
            command: None,
            reading,
        })
    }

    /// Orders the start; the answer is a report.
    pub fn start(&mut self, launch: CommandSpec) -> io::Result<()> {
        send_order(&mut self.socket, &GuardianOrder::Start(Box::new(launch)))
    }

    /// The guardian has reported the command's pid.
    pub fn started(&mut self, pid: i32) {
        self.command = Pid::from_raw(pid);
    }

    /// Sends an order. A guardian that cannot be reached has died, which is an event of its own.
    pub fn order(&mut self, order: &GuardianOrder) {
        let _ = send_order(&mut self.socket, order);
    }

    /// Has the guardian free the lock and exit; what lives on belongs to init.
    pub fn finish(&mut self) {
        guardian::release();
        self.order(&GuardianOrder::Finish);
    }

    /// Makes the guardian believe that we are dead: it ends everything.
    pub fn abandon(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// The guardian has died: ends what it watched over.
    pub fn end_orphans(&mut self) {
        let Ok(never) = Waker::new() else {
            return;
        };
        let clean = guardian::end_orphans(self.command, || {
            let _ = wake::wait(None, false, &never, Some(10));
        });
        if !clean {
            log::error!("the guardian died and not all of the command's processes could be ended");
        }
    }

    /// Lets go of the pipe once what is in it has been taken.
    pub fn stop_reading(&self) {
        self.reading.stop.store(true, Ordering::Release);
        self.reading.waker.wake();
    }
}

fn listen(mut socket: UnixStream, events: &Sender<Event>, mut signals: &UnixStream, guardian: Pid) {
    loop {
        let (reports, signalled) = {
            let slots = [
                Interest::readable(socket.as_fd()),
                Interest::readable(signals.as_fd()),
            ];
            let Ok(seen) = poll_any(&slots, None) else {
                return;
            };
            (seen[0].readable, seen[1].readable)
        };
        if signalled {
            let _ = io::Read::read(&mut signals, &mut [0u8; 64]);
            let _ = events.send(Event::ToldToStop);
        }
        if !reports {
            continue;
        }
        match receive_report(&mut socket) {
            Ok(Some(report)) => {
                let _ = events.send(Event::Guardian(report));
            }
            Ok(None) | Err(_) => {
                let _ = events.send(Event::GuardianGone);
                guardian::reap(guardian);
                return listen_to_signals(signals, events);
            }
        }
    }
}

fn listen_to_signals(mut signals: &UnixStream, events: &Sender<Event>) {
    loop {
        match io::Read::read(&mut signals, &mut [0u8; 64]) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
            _ => {
                let _ = events.send(Event::ToldToStop);
            }
        }
    }
}

fn read_output(output: &OwnedFd, reading: &Reading, spool: &Spool, events: &Sender<Event>) {
    let mut buffer = vec![0u8; limits::OUTPUT_CHUNK_BYTES];
    loop {
        match rustix::io::read(output, &mut buffer) {
            Ok(0) => return,
            Ok(length) => append(&buffer[..length], spool, events),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                if reading.stop.load(Ordering::Acquire)
                    || wake::wait(Some(output.as_fd()), false, &reading.waker, None).is_err()
                {
                    return;
                }
            }
            Err(error) => return log::error!("reading the command's output: {error}"),
        }
        if reading.stop.load(Ordering::Acquire) {
            return read_rest(output, &mut buffer, spool, events);
        }
    }
}

/// What is in the pipe at this moment, and not what a writer adds for ever.
fn read_rest(output: &OwnedFd, buffer: &mut [u8], spool: &Spool, events: &Sender<Event>) {
    let mut left = limits::OUTPUT_PIPE_BYTES;
    while left > 0 {
        match rustix::io::read(output, &mut *buffer) {
            Ok(0) | Err(rustix::io::Errno::AGAIN) => return,
            Ok(length) => {
                append(&buffer[..length], spool, events);
                left = left.saturating_sub(length);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn append(mut bytes: &[u8], spool: &Spool, events: &Sender<Event>) {
    loop {
        match spool.append(bytes) {
            Appended::Taken { wake } => {
                if wake {
                    let _ = events.send(Event::OutputWaits);
                }
                return;
            }
            Appended::Full { taken } => {
                bytes = &bytes[taken..];
                let _ = wake::wait(None, false, spool.room(), Some(limits::DISK_RETRY_MS));
            }
        }
    }
}
