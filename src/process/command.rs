//! Starts the command: `/bin/sh -c` in a group of its own, as its user, in its directory, with its environment.
//! Only for a process with one thread (the guardian). Must not know: locks, orders, what becomes of it.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, geteuid};

use crate::process::detach::{check, exit_now, set_dispositions, unblock_signals};
use crate::process::order::Launch;
use crate::process::user::{self, Account};

/// The search path of a command whose launcher has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where starting can fail once the child exists; the byte that it reports.
#[derive(Clone, Copy)]
enum Stage {
    Streams = 1,
    User = 2,
    Directory = 3,
    Execute = 4,
}

/// All that the child needs, allocated before the fork.
struct Prepared {
    arguments: [CString; 3],
    environment: Vec<CString>,
    account: Option<Account>,
    cwd: CString,
    /// A home that does not exist is replaced by `/`; a directory that was asked for is not.
    cwd_required: bool,
}

/// Starts it; stdin is /dev/null, stdout and stderr are `output`. The error says who or what is at fault.
pub fn start(launch: &Launch, output: BorrowedFd<'_>) -> Result<Pid, String> {
    let prepared = prepare(launch)?;
    let context = |error: rustix::io::Errno| format!("cannot start the command: {}", io::Error::from(error));
    let null =
        rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(context)?;
    let (verdict, verdict_end) = pipe_with(PipeFlags::CLOEXEC).map_err(context)?;
    let arguments = pointers(&prepared.arguments);
    let environment = pointers(&prepared.environment);
    // SAFETY: this process has a single thread
    let pid = check(unsafe { libc::fork() }).map_err(|error| format!("cannot start the command: {error}"))?;
    if pid == 0 {
        let streams = [null.as_raw_fd(), output.as_raw_fd(), output.as_raw_fd()];
        let (stage, error) = become_command(&prepared, streams, &arguments, &environment);
        let code = error.raw_os_error().unwrap_or(0).to_ne_bytes();
        let _ = rustix::io::write(&verdict_end, &[stage as u8, code[0], code[1], code[2], code[3]]);
        exit_now(255);
    }
    drop(verdict_end);
    // both sides set the group: whoever comes first, it exists before anybody signals it.
    // SAFETY: plain numbers; fails harmlessly once the child has executed
    unsafe { libc::setpgid(pid, pid) };
    let mut report = Vec::new();
    let read = File::from(verdict).read_to_end(&mut report);
    // a fork's pid is positive
    let pid = Pid::from_raw(pid).ok_or("cannot start the command: no pid")?;
    match (read, report.as_slice()) {
        (Ok(_), []) => Ok(pid),
        (_, report) => {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Err(blame(launch, report))
        }
    }
}

/// Runs in the child: returns only when something failed. Allocates nothing.
fn become_command(
    prepared: &Prepared,
    streams: [RawFd; 3],
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> (Stage, io::Error) {
    // SAFETY: plain numbers
    unsafe { libc::setpgid(0, 0) };
    set_dispositions(
        &[
            libc::SIGPIPE,
            libc::SIGHUP,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGCHLD,
            libc::SIGXFSZ,
        ],
        libc::SIG_DFL,
    );
    unblock_signals();
    for (target, &source) in streams.iter().enumerate() {
        // SAFETY: both descriptors are open; source is above 2, so dup2 clears its close-on-exec
        if unsafe { libc::dup2(source, target as i32) } < 0 {
            return (Stage::Streams, io::Error::last_os_error());
        }
    }
    if let Some(account) = &prepared.account {
        // for `echo oops > /dev/stderr`, which opens it anew; who may not, goes without
        // SAFETY: plain numbers
        unsafe { libc::fchown(streams[1], account.uid, account.gid) };
        if let Err(error) = user::become_account(account) {
            return (Stage::User, error);
        }
    }
    // SAFETY: both paths end with NUL
    let entered = unsafe {
        libc::chdir(prepared.cwd.as_ptr()) == 0 || !prepared.cwd_required && libc::chdir(c"/".as_ptr()) == 0
    };
    if !entered {
        return (Stage::Directory, io::Error::last_os_error());
    }
    // SAFETY: both lists end with a null pointer, their strings outlive the call
    unsafe { libc::execve(c"/bin/sh".as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    (Stage::Execute, io::Error::last_os_error())
}

fn prepare(launch: &Launch) -> Result<Prepared, String> {
    let account = account_for(launch.user.as_deref())?;
    let me = geteuid();
    let switches = launch.user.is_some() && me.is_root();
    let home = account
        .as_ref()
        .map_or_else(|| OsString::from("/"), |account| account.home.clone());
    let cwd = launch.cwd.clone().unwrap_or(home);
    let text = |value: &OsStr, what: &str| {
        CString::new(value.as_bytes())
            .map_err(|_| format!("cannot start the command: {what} holds a NUL byte"))
    };
    let environment = environment(launch, account.as_ref())
        .into_iter()
        .map(|(name, value)| {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            text(&pair, "its environment")
        })
        .collect::<Result<_, _>>()?;
    Ok(Prepared {
        arguments: [c"/bin/sh".into(), c"-c".into(), text(&launch.command, "it")?],
        environment,
        account: account.filter(|_| switches),
        cwd: text(&cwd, "its directory")?,
        cwd_required: launch.cwd.is_some(),
    })
}

/// The account the command runs as: the one named, or whoever the wrapper is (which may be unknown).
fn account_for(name: Option<&OsStr>) -> Result<Option<Account>, String> {
    let me = geteuid();
    let Some(name) = name else {
        return Ok(user::account_of(me.as_raw()).ok().flatten());
    };
    let shown = name.to_string_lossy();
    let account = user::account_named(name)
        .map_err(|error| format!("cannot start the command: looking up user '{shown}': {error}"))?
        .ok_or_else(|| format!("cannot start the command: user '{shown}' does not exist"))?;
    if !me.is_root() && account.uid != me.as_raw() {
        return Err(format!(
            "cannot start the command: user '{shown}' needs a wrapper that runs as root"
        ));
    }
    Ok(Some(account))
}

/// What was inherited, then the user's own names, then the run's and the job's; the later wins.
fn environment(launch: &Launch, account: Option<&Account>) -> Vec<(OsString, OsString)> {
    let mut all: Vec<(OsString, OsString)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    all.extend(launch.inherited.iter().cloned());
    if let Some(account) = account {
        all.push(("HOME".into(), account.home.clone()));
        all.push(("USER".into(), account.name.clone()));
        all.push(("LOGNAME".into(), account.name.clone()));
        all.push(("SHELL".into(), account.shell.clone()));
    }
    all.extend(launch.own.iter().cloned());
    let mut unique: Vec<(OsString, OsString)> = Vec::with_capacity(all.len());
    for (name, value) in all {
        // such a name cannot be handed over at all
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            continue;
        }
        match unique.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => unique.push((name, value)),
        }
    }
    unique
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn blame(launch: &Launch, report: &[u8]) -> String {
    let (stage, code) = match report {
        [stage, a, b, c, d] => (*stage, i32::from_ne_bytes([*a, *b, *c, *d])),
        _ => (0, 0),
    };
    let reason = io::Error::from_raw_os_error(code);
    let show = |value: &Option<OsString>| value.clone().unwrap_or_default().to_string_lossy().into_owned();
    let what = match stage {
        stage if stage == Stage::Streams as u8 => format!("connecting its streams: {reason}"),
        stage if stage == Stage::User as u8 => format!("becoming user '{}': {reason}", show(&launch.user)),
        stage if stage == Stage::Directory as u8 => format!("directory '{}': {reason}", show(&launch.cwd)),
        stage if stage == Stage::Execute as u8 => format!("executing /bin/sh: {reason}"),
        _ => "its process died before it was started".to_string(),
    };
    format!("cannot start the command: {what}")
}

/// The pipe that carries a command's output: (reading end, writing end), as large as the kernel lets it be.
pub fn output_pipe(wanted_bytes: usize) -> io::Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // a user over his share of pipe memory keeps the usual 64 KiB
    let _ = rustix::pipe::fcntl_setpipe_size(writer.as_fd(), wanted_bytes);
    Ok((reader, writer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (OsString, OsString) {
        (name.into(), value.into())
    }

    #[test]
    fn the_environment_is_what_was_agreed_and_the_jobs_own_wins() {
        let nobody = Account {
            name: "nobody".into(),
            uid: 65534,
            gid: 65534,
            groups: vec![65534],
            home: "/nonexistent".into(),
            shell: "/usr/sbin/nologin".into(),
        };
        let launch = Launch {
            inherited: vec![pair("LANG", "C.UTF-8"), pair("HOME", "/root")],
            own: vec![
                pair("PYTHONUNBUFFERED", "1"),
                pair("A", "1"),
                pair("A", "2"),
                pair("a=b", "x"),
            ],
            ..Launch::default()
        };
        let environment = environment(&launch, Some(&nobody));
        let expected = [
            pair("PATH", DEFAULT_PATH),
            pair("LANG", "C.UTF-8"),
            pair("HOME", "/nonexistent"),
            pair("USER", "nobody"),
            pair("LOGNAME", "nobody"),
            pair("SHELL", "/usr/sbin/nologin"),
            pair("PYTHONUNBUFFERED", "1"),
            pair("A", "2"),
        ];
        assert_eq!(environment, expected);
    }

    #[test]
    fn a_user_that_does_not_exist_is_a_failure_that_names_him() {
        let launch = Launch {
            user: Some("no-such-user".into()),
            ..Launch::default()
        };
        assert!(
            prepare(&launch)
                .err()
                .unwrap()
                .contains("user 'no-such-user' does not exist")
        );
    }
}
