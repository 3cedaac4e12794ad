//! Wait for a socket (or any descriptor) and a queue together: an eventfd stands for the queue.
//! Must not know: what is queued.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Wakes a thread that waits in [`wait`]. Cheap to call often: wakes that nobody has consumed yet fold into one.
#[derive(Debug)]
pub struct Waker(OwnedFd);

/// What [`wait`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The descriptor can be read, or has ended.
    pub readable: bool,
    /// The descriptor can be written.
    pub writable: bool,
    /// The waker was rung (and is silent again).
    pub woken: bool,
}

impl Waker {
    /// A silent waker. Fails when the process is out of descriptors.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Rings. A full counter means that it rings already.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Silences it.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until `fd` is readable (or writable, where `for_writing`), or `waker` rings, or `timeout_ms` passed
/// (None: without end). An interrupting signal counts as nothing seen.
pub fn wait(
    fd: Option<BorrowedFd<'_>>,
    for_writing: bool,
    waker: &Waker,
    timeout_ms: Option<u64>,
) -> io::Result<Ready> {
    let mut interest = PollFlags::IN;
    if for_writing {
        interest |= PollFlags::OUT;
    }
    let timeout = timeout_ms.map(|ms| Timespec {
        tv_sec: (ms / 1_000) as i64,
        tv_nsec: (ms % 1_000 * 1_000_000) as i64,
    });
    let wake_slot = PollFd::new(waker, PollFlags::IN);
    let (wake_events, fd_events) = match fd {
        Some(fd) => {
            let mut slots = [wake_slot, PollFd::from_borrowed_fd(fd, interest)];
            ignore_interrupt(poll(&mut slots, timeout.as_ref()))?;
            (slots[0].revents(), slots[1].revents())
        }
        None => {
            let mut slots = [wake_slot];
            ignore_interrupt(poll(&mut slots, timeout.as_ref()))?;
            (slots[0].revents(), PollFlags::empty())
        }
    };
    let woken = wake_events.contains(PollFlags::IN);
    if woken {
        waker.clear();
    }
    Ok(Ready {
        readable: fd_events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
        writable: fd_events.contains(PollFlags::OUT),
        woken,
    })
}

fn ignore_interrupt(polled: rustix::io::Result<usize>) -> io::Result<()> {
    match polled {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
