//! Reads on for processes that a command has left running: without a reader they would die of SIGPIPE, or block.
//! Only for a process with one thread. Must not know: why nobody wants the output any more.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::process::setsid;

use crate::process::detach::{check, exit_now, set_dispositions};
use crate::wake::{Interest, poll_any};

/// Leaves a process behind that reads `output` until nobody writes to it any more. None is left where nobody does.
pub fn leave_reader(output: BorrowedFd<'_>) -> io::Result<()> {
    if has_ended(output)? {
        return Ok(());
    }
    // SAFETY: this process has a single thread, so the child may do whatever its parent could
    if check(unsafe { libc::fork() })? == 0 {
        read_on(output);
    }
    Ok(())
}

/// True: no writer is left.
fn has_ended(output: BorrowedFd<'_>) -> io::Result<bool> {
    let ready = poll_any(&[Interest::readable(output)], Some(0))?;
    Ok(ready[0].has_hung_up)
}

fn read_on(output: BorrowedFd<'_>) -> ! {
    let _ = rustix::thread::set_name(c"sp-drain");
    let _ = setsid();
    // a shutdown ends it like everything else
    set_dispositions(
        &[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT],
        libc::SIG_DFL,
    );
    // the other descriptors, the lock's among them, are the guardian's
    if output.as_raw_fd() != 0 {
        let _ = rustix::stdio::dup2_stdin(output);
    }
    // SAFETY: in this process nothing above the standard streams is used any more
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    let stdin = rustix::stdio::stdin();
    let mut buffer = [0u8; 16 << 10];
    loop {
        match rustix::io::read(stdin, &mut buffer) {
            Ok(0) => exit_now(0),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                if poll_any(&[Interest::readable(stdin.as_fd())], None).is_err() {
                    exit_now(1);
                }
            }
            Err(_) => exit_now(1),
        }
    }
}
