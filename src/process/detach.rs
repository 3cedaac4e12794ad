//! Leaving the launcher: double fork, own session, standard streams to /dev/null, clean signals.
//! Must run before any thread. Must not know: what the process does afterwards.

use std::io;

use rustix::fs::{Mode, OFlags};

/// Signals have the numbers 1 to this.
const LAST_SIGNAL: i32 = 64;

/// Which of the two processes returns from [`detach`].
#[derive(Debug, PartialEq, Eq)]
pub enum Detached {
    /// The process that was started; the other one lives.
    Launcher,
    /// The detached one.
    Wrapper,
}

/// Splits off a process in its own session, without terminal, with `/dev/null` as standard streams, `/` as
/// directory and no inherited descriptor: nobody waits for it on a pipe. Only for a process with one thread.
pub fn detach() -> io::Result<Detached> {
    normalize_signals();
    // SAFETY: the process has a single thread, so the child may do whatever its parent could
    let middle = check(unsafe { libc::fork() })?;
    if middle > 0 {
        return wait_for_middle(middle).map(|()| Detached::Launcher);
    }
    let split = rustix::process::setsid().map_err(io::Error::from).and_then(|_| {
        // SAFETY: as above: a single thread
        check(unsafe { libc::fork() })
    });
    match split {
        Ok(0) => {}
        Ok(_) => exit_now(0),
        Err(_) => exit_now(1),
    }
    let _ = rustix::process::chdir("/");
    point_streams_at_null()?;
    close_inherited();
    Ok(Detached::Wrapper)
}

/// Ends this process without running destructors or flushing what was copied from its parent.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions
    unsafe { libc::_exit(code) }
}

/// A system call's -1 as an error.
pub(super) fn check(returned: i32) -> io::Result<i32> {
    match returned {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Gives every signal in `signals` the given disposition (SIG_DFL or SIG_IGN).
pub(super) fn set_dispositions(signals: &[i32], disposition: libc::sighandler_t) {
    for &signal in signals {
        // SAFETY: SIG_DFL and SIG_IGN install no handler; a signal that cannot be changed is refused
        unsafe { libc::signal(signal, disposition) };
    }
}

/// Gives every signal its default disposition. By the system call: the library refuses two of them.
pub(super) fn reset_dispositions() {
    // what the kernel calls sigaction: handler, flags, restorer, mask; all zero is the default
    let default = [0u64; 4];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: the structure outlives the call; a signal that cannot be changed is refused
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8usize,
            )
        };
    }
}

/// Unblocks every signal.
pub(super) fn unblock_signals() {
    // SAFETY: the set lives on this stack and is initialized by sigemptyset
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// A launcher may have left signals blocked or ignored: waiting for children and SIGTERM must work.
fn normalize_signals() {
    set_dispositions(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT], libc::SIG_DFL);
    // where files may grow only so large, writing more is to be an error like others
    set_dispositions(&[libc::SIGHUP, libc::SIGPIPE, libc::SIGXFSZ], libc::SIG_IGN);
    unblock_signals();
}

fn wait_for_middle(middle: i32) -> io::Result<()> {
    let mut status = 0;
    loop {
        // SAFETY: status outlives the call
        match check(unsafe { libc::waitpid(middle, &mut status, 0) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
            Ok(_) if status == 0 => return Ok(()),
            Ok(_) => return Err(io::Error::other("the second fork failed")),
        }
    }
}

fn point_streams_at_null() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Whatever else the launcher left open: somebody may wait for its end.
fn close_inherited() {
    // SAFETY: nothing of this process is open above the standard streams yet: it has just been started
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if closed == 0 {
        return;
    }
    // kernels before 5.9
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in open {
        // SAFETY: as above; the directory's own descriptor is closed already and merely refused
        unsafe { libc::close(fd) };
    }
}
