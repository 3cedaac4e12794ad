//! Every poll(2) there is: waiting for descriptors, and for a queue, which an eventfd stands for.
//! Must not know: what is queued, who writes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Wakes a thread that waits in [`wait`] or [`poll_any`]. Cheap to call often: wakes that nobody has consumed yet fold
/// into one.
#[derive(Debug)]
pub struct Waker(OwnedFd);

/// A descriptor, and what it is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Interest<'a> {
    fd: BorrowedFd<'a>,
    interest: PollFlags,
}

/// What [`poll_any`] saw of one descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It can be read, or has ended, or is broken.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// The other side has closed it.
    pub has_hung_up: bool,
}

/// What [`wait`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The descriptor can be read, or has ended.
    pub readable: bool,
    /// The descriptor can be written.
    pub writable: bool,
    /// The waker was woken (and is silent again).
    pub woken: bool,
}

impl Waker {
    /// A silent waker. Fails when the process is out of descriptors.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes. A full counter means that it is awake already.
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

impl<'a> Interest<'a> {
    /// Waited for until it can be read.
    pub fn readable(fd: impl Into<BorrowedFd<'a>>) -> Interest<'a> {
        Interest {
            fd: fd.into(),
            interest: PollFlags::IN,
        }
    }

    /// Waited for until it can be read, or written where `for_writing`.
    pub fn either(fd: BorrowedFd<'a>, for_writing: bool) -> Interest<'a> {
        let mut interest = PollFlags::IN;
        interest.set(PollFlags::OUT, for_writing);
        Interest { fd, interest }
    }

    /// Waited for until it can be written.
    pub fn writable(fd: BorrowedFd<'a>) -> Interest<'a> {
        let interest = PollFlags::OUT;
        Interest { fd, interest }
    }

    /// Waited for until the other side has closed it, whatever is still to be read.
    pub fn hung_up(fd: BorrowedFd<'a>) -> Interest<'a> {
        let interest = PollFlags::RDHUP;
        Interest { fd, interest }
    }

    /// The same, and not waited for until it can be read.
    pub fn without_reading(self) -> Interest<'a> {
        let interest = self.interest - PollFlags::IN;
        Interest { interest, ..self }
    }
}

/// Waits until one of `slots` is ready or `timeout_ms` have passed (None: without end); what it saw of each, in their
/// order. An interrupting signal counts as nothing seen.
pub fn poll_any(slots: &[Interest<'_>], timeout_ms: Option<u64>) -> io::Result<Vec<Seen>> {
    let mut polled: Vec<PollFd<'_>> = slots.iter().map(as_polled).collect();
    poll_all(&mut polled, timeout_ms)?;
    Ok(polled.iter().map(|slot| seen(slot.revents())).collect())
}

/// Waits until `fd` is readable (or writable, where `for_writing`), or `waker` is woken, or `timeout_ms` passed
/// (None: without end). An interrupting signal counts as nothing seen. Allocates nothing: each connection waits here.
pub fn wait(
    fd: Option<BorrowedFd<'_>>,
    for_writing: bool,
    waker: &Waker,
    timeout_ms: Option<u64>,
) -> io::Result<Ready> {
    let waker_slot = Interest::readable(waker.as_fd());
    let fd_slot = fd.map_or(waker_slot, |fd| Interest::either(fd, for_writing));
    let mut polled = [as_polled(&waker_slot), as_polled(&fd_slot)];
    let count = if fd.is_some() { 2 } else { 1 };
    poll_all(&mut polled[..count], timeout_ms)?;
    let woken = polled[0].revents().contains(PollFlags::IN);
    if woken {
        waker.clear();
    }
    let seen = if fd.is_some() {
        seen(polled[1].revents())
    } else {
        Seen::default()
    };
    Ok(Ready {
        readable: seen.readable,
        writable: seen.writable,
        woken,
    })
}

fn as_polled<'a>(slot: &Interest<'a>) -> PollFd<'a> {
    PollFd::from_borrowed_fd(slot.fd, slot.interest)
}

fn seen(events: PollFlags) -> Seen {
    Seen {
        readable: events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL),
        writable: events.contains(PollFlags::OUT),
        has_hung_up: events.intersects(PollFlags::HUP | PollFlags::RDHUP),
    }
}

fn poll_all(slots: &mut [PollFd<'_>], timeout_ms: Option<u64>) -> io::Result<()> {
    let timeout = timeout_ms.map(|ms| Timespec {
        tv_sec: (ms / 1_000) as i64,
        tv_nsec: (ms % 1_000 * 1_000_000) as i64,
    });
    match poll(slots, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
