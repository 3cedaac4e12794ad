//! Starts the command: `/bin/sh -c` in a session of its own, as its user, in its directory, with its environment, and
//! with what every command inherits (packaging/doc/operations.md has the table).
//! Only for a process with one thread (the guardian). Must not know: locks, orders, what becomes of it.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, setrlimit};

use crate::limits;
use crate::process::detach::{check, exit_now, reset_dispositions, unblock_signals};
use crate::process::order::CommandSpec;
use crate::process::user::{self, Account};

/// The search path of a command whose launcher has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel takes no longer argument (`MAX_ARG_STRLEN`, with its NUL).
const LONGEST_ARGUMENT_BYTES: usize = 128 << 10;
/// Kept of the reason why a command could not be started: a pipe takes that much at once.
const REASON_BYTES: usize = 4_000;

/// A command on its way. Its process exists; looking up its user or entering its directory may take any time.
#[derive(Debug)]
pub struct Starting {
    pub pid: Pid,
    verdict: File,
    reason: Vec<u8>,
}

/// What the guardian's descriptors mean to the command.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors<'a> {
    /// Its stdout and stderr.
    pub output: BorrowedFd<'a>,
    /// Inherited: the lock lives as long as anything of the command does.
    pub lock: Option<BorrowedFd<'a>>,
    /// Closed at once: its end is how the wrapper learns of the guardian's death.
    pub wrapper: BorrowedFd<'a>,
}

/// Forks its process, which goes on by itself: [`Starting::verdict`] tells whether the command was executed.
pub fn start(spec: &CommandSpec, descriptors: Descriptors<'_>) -> Result<Starting, String> {
    let context = |error: io::Error| format!("cannot start the command: {error}");
    let (verdict, verdict_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| context(error.into()))?;
    rustix::io::ioctl_fionbio(&verdict, true).map_err(|error| context(error.into()))?;
    let guardian = rustix::process::getpid();
    // SAFETY: this process has a single thread, so the child may do whatever its parent could
    let pid = check(unsafe { libc::fork() }).map_err(context)?;
    if pid == 0 {
        let become_it = || become_command(spec, descriptors, guardian, verdict_end.as_raw_fd());
        let reason = catch_unwind(AssertUnwindSafe(become_it)).unwrap_or_else(|_| "it panicked".to_string());
        let text = reason.as_bytes();
        let _ = File::from(verdict_end).write_all(&text[..text.len().min(REASON_BYTES)]);
        exit_now(255);
    }
    Ok(Starting {
        // a fork's pid is positive
        pid: Pid::from_raw(pid).ok_or("cannot start the command: no pid")?,
        verdict: File::from(verdict),
        reason: Vec::new(),
    })
}

impl Starting {
    /// None: not known yet, its descriptor becomes readable. `Ok`: it was executed, or killed before that (its exit
    /// says so). The error says what is at fault.
    pub fn verdict(&mut self) -> Option<Result<(), String>> {
        match self.verdict.read_to_end(&mut self.reason) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            _ if self.reason.is_empty() => Some(Ok(())),
            _ => {
                let reason = String::from_utf8_lossy(&self.reason);
                Some(Err(format!("cannot start the command: {reason}")))
            }
        }
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.verdict.as_fd()
    }
}

/// Runs in the child: returns only when something failed, with the reason.
fn become_command(spec: &CommandSpec, descriptors: Descriptors<'_>, guardian: Pid, verdict: RawFd) -> String {
    match prepare_process(spec, descriptors, guardian) {
        Err(reason) => reason,
        Ok((arguments, environment)) => match hand_over_script(spec, verdict, arguments) {
            Err(error) => format!("handing over its text: {error}"),
            Ok(arguments) => {
                let (arguments, environment) = (pointers(&arguments), pointers(&environment));
                // SAFETY: both lists end with a null pointer, their strings outlive the call
                unsafe { libc::execve(c"/bin/sh".as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
                match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(libc::E2BIG) => {
                        format!("executing /bin/sh: its environment is too large ({error})")
                    }
                    error => format!("executing /bin/sh: {error}"),
                }
            }
        },
    }
}

/// Everything but the execution: session, signals, streams, limits, user, directory. What may take long comes after
/// what the guardian's signals need.
fn prepare_process(
    spec: &CommandSpec,
    descriptors: Descriptors<'_>,
    guardian: Pid,
) -> Result<(Vec<CString>, Vec<CString>), String> {
    rustix::process::setsid().map_err(|error| format!("giving it a session: {}", io::Error::from(error)))?;
    reset_dispositions();
    unblock_signals();
    die_with(guardian);
    connect_streams(descriptors).map_err(|error| format!("connecting its streams: {error}"))?;
    limit_descriptors(spec.descriptors);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let account = account_for(spec.user.as_deref())?;
    let environment = texts(environment(spec, account.as_ref()))?;
    let home = account
        .as_ref()
        .map_or_else(|| OsString::from("/"), |account| account.home.clone());
    if let Some(account) = account.filter(|_| spec.user.is_some() && geteuid().is_root()) {
        // for `echo oops > /dev/stderr`, which opens it again; a user who may not, goes without
        // SAFETY: plain numbers
        unsafe { libc::fchown(libc::STDOUT_FILENO, account.uid, account.gid) };
        user::become_account(&account)
            .map_err(|error| format!("becoming user '{}': {error}", account.name.to_string_lossy()))?;
        // a change of user clears it
        die_with(guardian);
    }
    let cwd = spec.cwd.as_ref().unwrap_or(&home);
    let entered = std::env::set_current_dir(cwd);
    // a home that does not exist is replaced by `/`; a directory that was asked for is not
    match entered.or_else(|error| {
        if spec.cwd.is_some() {
            Err(error)
        } else {
            std::env::set_current_dir("/")
        }
    }) {
        Ok(()) => Ok((
            vec![c"/bin/sh".into(), c"-c".into(), text(&spec.command, "it")?],
            environment,
        )),
        Err(error) => Err(format!("directory '{}': {error}", cwd.to_string_lossy())),
    }
}

/// The kernel ends this process should the guardian be killed: what it started before that, it cannot reach.
fn die_with(guardian: Pid) {
    // SAFETY: plain numbers
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if rustix::process::getppid() != Some(guardian) {
        // it was killed before the kernel was told
        exit_now(255);
    }
}

/// stdin is /dev/null; every other descriptor but the lock's is closed when the command is executed.
fn connect_streams(descriptors: Descriptors<'_>) -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(descriptors.output)?;
    rustix::stdio::dup2_stderr(descriptors.output)?;
    if let Some(lock) = descriptors.lock {
        let lowest = [limits::LOCK_DESCRIPTOR, 10];
        // SAFETY: the descriptor is open; the duplicate stays open for the command
        let inherited = lowest
            .iter()
            .any(|&least| unsafe { libc::fcntl(lock.as_raw_fd(), libc::F_DUPFD, least) } >= 0);
        if !inherited {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: this process's copy; nothing of the child uses it
    drop(unsafe { OwnedFd::from_raw_fd(descriptors.wrapper.as_raw_fd()) });
    Ok(())
}

fn limit_descriptors(limit: Option<u64>) {
    let Some(limit) = limit else { return };
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(limit, |maximum| limit.min(maximum)));
    // lowering it is always allowed
    let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
}

/// A text that is too long for an argument is read from memory by the same shell: `$0` stays what it is, and the
/// descriptor is closed by the text's first line.
fn hand_over_script(spec: &CommandSpec, verdict: RawFd, arguments: Vec<CString>) -> io::Result<Vec<CString>> {
    if spec.command.len() < LONGEST_ARGUMENT_BYTES {
        return Ok(arguments);
    }
    // a shell knows descriptors of one digit
    let number = if verdict == 9 { 8 } else { 9 };
    let mut file = unnamed_file()?;
    let memory = file.as_raw_fd();
    file.write_all(format!("exec {number}<&-\n").as_bytes())?;
    file.write_all(spec.command.as_bytes())?;
    // SAFETY: in this process nothing uses that descriptor any more; a number that is the file's own is freed below
    check(unsafe { libc::dup2(memory, number) })?;
    if memory == number {
        // SAFETY: plain numbers; what it keeps open is the descriptor that the command is to read
        check(unsafe { libc::fcntl(memory, libc::F_SETFD, 0) })?;
        std::mem::forget(file);
    }
    let read = CString::new(format!(". /dev/fd/{number}"))?;
    Ok(vec![c"/bin/sh".into(), c"-c".into(), read])
}

/// A file without a name, that the command's user can open again through `/dev/fd`: in memory, or, where the kernel
/// does not know that (before Linux 3.17), an unlinked one in `/tmp`.
fn unnamed_file() -> io::Result<File> {
    // SAFETY: the name ends with NUL. A system call, because the C library has no function for it before 2.27
    let memory = unsafe { libc::syscall(libc::SYS_memfd_create, c"command".as_ptr(), libc::MFD_CLOEXEC) };
    if memory >= 0 {
        // SAFETY: it has just been opened and belongs to nobody else
        return Ok(unsafe { File::from_raw_fd(memory as RawFd) });
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::ENOSYS) {
        return Err(error);
    }
    unlinked_file()
}

fn unlinked_file() -> io::Result<File> {
    let path = format!("/tmp/.sp-wrapper.{}", std::process::id());
    let mut options = File::options();
    // `create_new` follows no link and takes no existing file
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(&path)?;
    std::fs::remove_file(&path)?;
    // nobody can reach it any more who does not have it open
    file.set_permissions(Permissions::from_mode(0o444))?;
    Ok(file)
}

fn text(value: &OsStr, what: &str) -> Result<CString, String> {
    CString::new(value.as_bytes()).map_err(|_| format!("{what} contains a NUL byte"))
}

fn texts(pairs: Vec<(OsString, OsString)>) -> Result<Vec<CString>, String> {
    let joined = pairs.into_iter().map(|(mut pair, value)| {
        pair.push("=");
        pair.push(value);
        text(&pair, "its environment")
    });
    joined.collect()
}

/// The account the command runs as: the one named, or the wrapper's own (which may be unknown).
fn account_for(name: Option<&OsStr>) -> Result<Option<Account>, String> {
    let me = geteuid();
    let Some(name) = name else {
        return Ok(user::account_of(me.as_raw()).ok().flatten());
    };
    let shown = name.to_string_lossy();
    let account = user::account_named(name)
        .map_err(|error| format!("looking up user '{shown}': {error}"))?
        .ok_or_else(|| format!("user '{shown}' does not exist"))?;
    if !me.is_root() && account.uid != me.as_raw() {
        return Err(format!("user '{shown}' needs a wrapper that runs as root"));
    }
    Ok(Some(account))
}

/// What was inherited, then the user's own names, then the run's and the job's; the later wins.
fn environment(spec: &CommandSpec, account: Option<&Account>) -> Vec<(OsString, OsString)> {
    let mut all: Vec<(OsString, OsString)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    all.extend(spec.inherited.iter().cloned());
    if let Some(account) = account {
        all.push(("HOME".into(), account.home.clone()));
        all.push(("USER".into(), account.name.clone()));
        all.push(("LOGNAME".into(), account.name.clone()));
        all.push(("SHELL".into(), account.shell.clone()));
    }
    if spec.lock.is_some() {
        // LVM's tools complain about descriptors that they inherit, such as the lock's
        all.push(("LVM_SUPPRESS_FD_WARNINGS".into(), "1".into()));
    }
    all.extend(spec.own.iter().cloned());
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

/// The pipe that carries a command's output: (reading end, writing end), as large as the kernel lets it be.
pub fn output_pipe(wanted_bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // a user beyond the limit of pipe memory keeps the usual 64 KiB
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
        let spec = CommandSpec {
            inherited: vec![pair("LANG", "C.UTF-8"), pair("HOME", "/root")],
            own: vec![
                pair("PYTHONUNBUFFERED", "1"),
                pair("A", "1"),
                pair("A", "2"),
                pair("a=b", "x"),
            ],
            ..CommandSpec::default()
        };
        let environment = environment(&spec, Some(&nobody));
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
    fn a_file_for_a_long_command_has_no_name_and_can_be_opened_again() {
        for mut file in [unnamed_file().unwrap(), unlinked_file().unwrap()] {
            file.write_all(b"true").unwrap();
            let again = format!("/proc/self/fd/{}", file.as_raw_fd());
            assert_eq!(std::fs::read(&again).unwrap(), b"true");
            assert_eq!(
                std::os::unix::fs::MetadataExt::nlink(&file.metadata().unwrap()),
                0
            );
        }
    }

    #[test]
    fn a_user_that_does_not_exist_is_a_failure_that_names_it() {
        let reason = account_for(Some(OsStr::new("no-such-user"))).unwrap_err();
        assert!(reason.contains("user 'no-such-user' does not exist"), "{reason}");
    }
}
