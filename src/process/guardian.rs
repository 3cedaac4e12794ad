//! The guardian: a process between wrapper and command that holds the command's group, its orphans and its lock,
//! and ends them all when the wrapper dies. Forked before any thread; it stays single-threaded.
//! Must not know: the daemon, output, outcomes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, setpgid, waitpid};

use crate::process::command::{Descriptors, Starting};
use crate::process::detach::{check, exit_now, set_dispositions};
use crate::process::lock::Held;
use crate::process::order::{CommandSpec, GuardianOrder, Report, receive_order, send_report};
use crate::process::{GUARDIAN_NAME, command, drain, family, lock};
use crate::wake::{Interest, poll_any};

/// Between two rounds of SIGKILL, unless a child ends before.
const END_ALL_PAUSE_MS: u64 = 10;

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
        drop(socket);
        let watch = Watch::new(far_socket, output, writer);
        let code = i32::from(watch.and_then(Watch::run).is_err());
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

/// The wrapper's part after `GuardianOrder::Finish`: what still lives belongs to init from now on.
pub fn release() {
    let _ = set_child_subreaper(None);
}

/// The guardian's own state.
struct Watch {
    wrapper: UnixStream,
    children: File,
    /// Not read as long as the wrapper does.
    output: OwnedFd,
    /// For the command; gone once it has it.
    output_end: Option<OwnedFd>,
    lock: Option<Held>,
    command: Option<Pid>,
    /// Until it is known whether it was executed.
    starting: Option<Starting>,
    is_exit_told: bool,
    is_empty_told: bool,
    /// False: it was to be ended, and something of it resists SIGKILL.
    is_clean: bool,
}

/// What a wait has seen.
#[derive(Default)]
struct Wakeup {
    /// An order waits, or the wrapper has ended.
    has_order: bool,
    has_verdict: bool,
    child_died: bool,
}

impl Watch {
    fn new(wrapper: UnixStream, output: OwnedFd, output_end: OwnedFd) -> io::Result<Watch> {
        let _ = rustix::thread::set_name(GUARDIAN_NAME);
        setpgid(None, None)?;
        set_child_subreaper(Some(getpid()))?;
        // to end the run is the wrapper's part; the guardian has to outlive it
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
            output,
            output_end: Some(output_end),
            lock: None,
            command: None,
            starting: None,
            is_exit_told: false,
            is_empty_told: false,
            is_clean: true,
        })
    }

    /// Serves until the wrapper says `Finish`, or dies: then everything dies, and last of all the lock goes.
    fn run(mut self) -> io::Result<()> {
        loop {
            let wakeup = self.wait(None)?;
            if wakeup.has_verdict {
                self.look_at_start();
            }
            if wakeup.child_died {
                self.look_at_children();
            }
            if !wakeup.has_order {
                continue;
            }
            match receive_order(&mut self.wrapper) {
                Ok(Some(GuardianOrder::Finish)) => {
                    self.finish();
                    return Ok(());
                }
                Ok(Some(order)) => self.obey(order),
                Ok(None) | Err(_) => {
                    self.is_clean = self.end_all();
                    self.free_lock();
                    return Ok(());
                }
            }
        }
    }

    fn obey(&mut self, order: GuardianOrder) {
        match order {
            GuardianOrder::Start(spec) => self.start(&spec),
            GuardianOrder::Terminate => {
                if let Some(command) = self.command {
                    family::terminate(command);
                }
            }
            GuardianOrder::EndAll => {
                self.is_clean = self.end_all();
                self.look_at_start();
                self.look_at_children();
                self.report(&Report::AllEnded { clean: self.is_clean });
            }
            GuardianOrder::NameLeftovers => {
                let names = family::names(&family::living(self.command));
                self.report(&Report::Leftovers { names });
            }
            // handled by the caller
            GuardianOrder::Finish => {}
        }
    }

    fn start(&mut self, spec: &CommandSpec) {
        let Some(output) = self.output_end.take() else {
            let message = "cannot start the command: it was started before".to_string();
            return self.report(&Report::NotStarted { message });
        };
        if let Some(request) = &spec.lock {
            match lock::take(request) {
                Ok(held) => self.lock = Some(held),
                Err(message) => return self.report(&Report::Locked { message }),
            }
        }
        // taking the lock may have taken long: what was decided meanwhile counts
        if self.wait(Some(0)).is_ok_and(|wakeup| wakeup.has_order) {
            let message = "the command was ended before it was started".to_string();
            return self.report(&Report::NotStarted { message });
        }
        let descriptors = Descriptors {
            output: output.as_fd(),
            lock: self.lock.as_ref().map(Held::descriptor),
            wrapper: self.wrapper.as_fd(),
        };
        match command::start(spec, descriptors) {
            Ok(starting) => {
                self.command = Some(starting.pid);
                self.starting = Some(starting);
            }
            Err(message) => self.report(&Report::NotStarted { message }),
        }
    }

    /// Whether the command was executed may be known by now.
    fn look_at_start(&mut self) {
        let Some(starting) = &mut self.starting else {
            return;
        };
        let pid = starting.pid;
        match starting.verdict() {
            None => {}
            Some(Ok(())) => {
                self.starting = None;
                self.report(&Report::Started {
                    pid: pid.as_raw_nonzero().get(),
                });
                self.look_at_children();
            }
            Some(Err(message)) => {
                self.starting = None;
                self.command = None;
                let _ = waitpid(Some(pid), WaitOptions::empty());
                self.report(&Report::NotStarted { message });
            }
        }
    }

    fn look_at_children(&mut self) {
        family::reap_others(self.command);
        let Some(command) = self.command.filter(|_| self.starting.is_none()) else {
            return;
        };
        if !self.is_exit_told
            && let Some(exit) = family::exit_of(command)
        {
            self.is_exit_told = true;
            self.report(&Report::Exited(exit));
        }
        if self.is_exit_told && !self.is_empty_told && family::is_alone(command) {
            self.is_empty_told = true;
            self.report(&Report::Empty);
        }
    }

    fn end_all(&mut self) -> bool {
        let command = self.command;
        family::end_all(command, || {
            let _ = self.wait_for_children(END_ALL_PAUSE_MS);
        })
    }

    /// What lives on may go on writing. All this before the socket's end tells the wrapper.
    fn finish(&mut self) {
        let _ = drain::leave_reader(self.output.as_fd());
        self.free_lock();
    }

    /// What could not be ended keeps the lock, by its descriptor.
    fn free_lock(&mut self) {
        if let Some(lock) = self.lock.take().filter(|_| self.is_clean) {
            lock.release();
        }
    }

    /// A wrapper that cannot be told has died, which the next turn sees.
    fn report(&mut self, report: &Report) {
        let _ = send_report(&mut self.wrapper, report);
    }

    fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<Wakeup> {
        let mut slots = vec![
            Interest::readable(self.children.as_fd()),
            Interest::readable(self.wrapper.as_fd()),
        ];
        slots.extend(
            self.starting
                .iter()
                .map(|starting| Interest::readable(starting.as_fd())),
        );
        let seen = poll_any(&slots, timeout_ms)?;
        let wakeup = Wakeup {
            child_died: seen[0].readable,
            has_order: seen[1].readable,
            has_verdict: seen.get(2).is_some_and(|seen| seen.readable),
        };
        self.clear_children(wakeup.child_died);
        Ok(wakeup)
    }

    fn wait_for_children(&mut self, timeout_ms: u64) -> io::Result<()> {
        let seen = poll_any(&[Interest::readable(self.children.as_fd())], Some(timeout_ms))?;
        self.clear_children(seen[0].readable);
        Ok(())
    }

    /// Several deaths fold into one signal: only that there was one counts.
    fn clear_children(&mut self, child_died: bool) {
        if child_died {
            let _ = self.children.read(&mut [0u8; 8 * 128]);
        }
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
