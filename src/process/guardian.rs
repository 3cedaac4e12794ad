//! The guardian: a process between wrapper and command that holds the command's group, its orphans and its lock,
//! and ends them all when the wrapper dies. Forked before any thread; it stays single-threaded.
//! Must not know: the daemon, output, outcomes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, setpgid, waitpid};

use crate::process::detach::{check, exit_now, set_dispositions};
use crate::process::order::{Launch, Order, Report, receive_order, send_report};
use crate::process::{command, family, lock};

/// The wrapper's end of it.
#[derive(Debug)]
pub struct Guardian {
    pub pid: Pid,
    /// Orders go in, reports come out; its end is the guardian's death.
    pub socket: UnixStream,
    /// The command's stdout and stderr.
    pub output: OwnedFd,
}

/// Forks the guardian. Only for a process with one thread. The wrapper becomes a child subreaper too: should the
/// guardian die, what it watched over falls to the wrapper.
pub fn fork_guardian(pipe_bytes: usize) -> io::Result<Guardian> {
    let (socket, far_socket) = UnixStream::pair()?;
    let (output, writer) = command::output_pipe(pipe_bytes)?;
    set_child_subreaper(Some(getpid()))?;
    // SAFETY: the process has a single thread, so the child may do whatever its parent could
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        drop((socket, output));
        let code = i32::from(Watch::new(far_socket, writer).and_then(Watch::run).is_err());
        exit_now(code);
    }
    Ok(Guardian {
        pid: Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork gave no pid"))?,
        socket,
        output,
    })
}

/// The wrapper's part once the guardian has gone unasked: ends all that it left behind. Safe with threads.
pub fn end_orphans(command: Option<Pid>, pause: impl FnMut()) -> bool {
    family::end_all(command, pause)
}

/// Waits for a guardian whose socket has ended, so that it is no zombie while the outcome is delivered.
pub fn reap(guardian: Pid) {
    let _ = waitpid(Some(guardian), WaitOptions::empty());
}

/// The wrapper's part after `Order::Finish`: what still lives belongs to init from now on.
pub fn release() {
    let _ = set_child_subreaper(None);
}

/// The guardian's own state.
struct Watch {
    wrapper: UnixStream,
    children: File,
    output: Option<OwnedFd>,
    lock: Option<OwnedFd>,
    command: Option<Pid>,
    exit_told: bool,
    empty_told: bool,
}

impl Watch {
    fn new(wrapper: UnixStream, output: OwnedFd) -> io::Result<Watch> {
        let _ = rustix::thread::set_name(c"sp-guardian");
        setpgid(None, None)?;
        set_child_subreaper(Some(getpid()))?;
        // who wants the run to end tells the wrapper; the guardian has to outlive it
        set_dispositions(
            &[
                libc::SIGTERM,
                libc::SIGINT,
                libc::SIGHUP,
                libc::SIGQUIT,
                libc::SIGPIPE,
            ],
            libc::SIG_IGN,
        );
        Ok(Watch {
            wrapper,
            children: child_signals()?,
            output: Some(output),
            lock: None,
            command: None,
            exit_told: false,
            empty_told: false,
        })
    }

    /// Serves until the wrapper says `Finish`, or dies: then everything dies, and last of all the lock goes.
    fn run(mut self) -> io::Result<()> {
        loop {
            let (order_waits, child_died) = self.wait(None)?;
            if child_died {
                self.look_at_children();
            }
            if !order_waits {
                continue;
            }
            match receive_order(&mut self.wrapper) {
                Ok(Some(Order::Finish)) => {
                    // before the socket's end tells the wrapper so
                    drop(self.lock.take());
                    return Ok(());
                }
                Ok(Some(order)) => self.obey(order),
                Ok(None) | Err(_) => {
                    self.end_all();
                    return Ok(());
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start(launch) => self.start(&launch),
            Order::Terminate => {
                if let Some(command) = self.command {
                    family::terminate(command);
                }
            }
            Order::EndAll => {
                let clean = self.end_all();
                self.look_at_children();
                self.report(&Report::AllEnded { clean });
            }
            Order::NameLeftovers => {
                let names = family::names(&family::living(self.command));
                self.report(&Report::Leftovers { names });
            }
            // handled by the caller
            Order::Finish => {}
        }
    }

    fn start(&mut self, launch: &Launch) {
        let Some(output) = self.output.take() else {
            let message = "cannot start the command: it was started before".to_string();
            return self.report(&Report::NotStarted { message });
        };
        if let Some(wish) = &launch.lock {
            match lock::take(wish) {
                Ok(held) => self.lock = Some(held),
                Err(message) => return self.report(&Report::Locked { message }),
            }
        }
        match command::start(launch, output.as_fd()) {
            Ok(pid) => {
                self.command = Some(pid);
                self.report(&Report::Started {
                    pid: pid.as_raw_nonzero().get(),
                });
                self.look_at_children();
            }
            Err(message) => self.report(&Report::NotStarted { message }),
        }
    }

    fn look_at_children(&mut self) {
        family::reap_others(self.command);
        let Some(command) = self.command else {
            return;
        };
        if !self.exit_told
            && let Some(exit) = family::exit_of(command)
        {
            self.exit_told = true;
            self.report(&Report::Exited(exit));
        }
        if self.exit_told && !self.empty_told && family::is_alone(command) {
            self.empty_told = true;
            self.report(&Report::Empty);
        }
    }

    fn end_all(&mut self) -> bool {
        let command = self.command;
        family::end_all(command, || {
            let _ = self.wait(Some(10));
        })
    }

    /// A wrapper that cannot be told has died, which the next turn sees.
    fn report(&mut self, report: &Report) {
        let _ = send_report(&mut self.wrapper, report);
    }

    /// Waits for the wrapper or a child: (an order or the wrapper's end, a child's end).
    fn wait(&mut self, only_children_ms: Option<i64>) -> io::Result<(bool, bool)> {
        let timeout = only_children_ms.map(|ms| Timespec {
            tv_sec: 0,
            tv_nsec: ms * 1_000_000,
        });
        let mut slots = [
            PollFd::new(&self.children, PollFlags::IN),
            PollFd::new(&self.wrapper, PollFlags::IN),
        ];
        let watched = if only_children_ms.is_some() { 1 } else { 2 };
        match poll(&mut slots[..watched], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let child_died = !slots[0].revents().is_empty();
        let order_waits = !slots[1].revents().is_empty();
        if child_died {
            // several deaths fold into one signal: only that it rang counts
            let _ = self.children.read(&mut [0u8; 8 * 128]);
        }
        Ok((order_waits, child_died))
    }
}

/// A descriptor that becomes readable when a child dies.
fn child_signals() -> io::Result<File> {
    // SAFETY: the set lives on this stack and is initialised by sigemptyset; signalfd copies it and its
    // descriptor is owned by nobody else
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        let descriptor = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        debug_assert!(descriptor.as_raw_fd() > 2);
        Ok(File::from_raw_fd(descriptor))
    }
}
