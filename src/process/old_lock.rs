//! The Python wrapper's lock: a file that holds the pid of the wrapper whose command runs. While a fleet changes over,
//! what it says is honored, and our own pid is left there for a Python wrapper to find.
//! Must not know: the lock of our own, commands.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid};

use crate::clock;
use crate::limits;
use crate::process::GUARDIAN_NAME;

/// Longer content is not a pid.
const LONGEST_PID_BYTES: u64 = 16;

/// Our pid in such a file, until [`Record::remove`]. What is left by a guardian that was killed names a dead process.
#[derive(Debug)]
pub struct Record {
    file: File,
    path: PathBuf,
    /// An explicit lock file stays, empty: others may have it open.
    keeps_file: bool,
}

/// Which file, and whose run asks.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub path: &'a Path,
    pub job: &'a str,
    /// The job names this file: what cannot be opened is an error, and its flock counts too.
    pub is_explicit: bool,
}

/// What is at the path.
enum Found {
    Nothing,
    /// A regular file of ours, or root's.
    Lock(Opened),
    /// What nobody should have put there, and why it is not used.
    Foreign(String),
}

struct Opened {
    file: File,
    is_ours: bool,
    /// Nobody else can have it open.
    is_private: bool,
    /// It is empty or holds a number, and may be written: anything else is not overwritten.
    can_record: bool,
    pid: Option<Pid>,
    written_s: i64,
}

/// The path of a job that names none. None: a Python wrapper cannot have that file either.
pub fn default_path(job: &str) -> Option<PathBuf> {
    (!job.contains('/')).then(|| Path::new("/tmp").join(format!("sp_wrapper_{job}.lock")))
}

/// Refuses while a Python wrapper holds it, or another run whose own lock lies elsewhere; else leaves our pid there.
/// None: nothing could be left, which is an error only for an explicit file.
pub fn claim(claim: Claim<'_>) -> Result<Option<Record>, String> {
    let shown = claim.path.display();
    for _ in 0..limits::LOCK_ATTEMPTS {
        match look(claim.path) {
            Found::Nothing => match create(claim) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(_) if !claim.is_explicit => return Ok(None),
                Err(error) => return Err(format!("cannot create {shown}: {error}")),
                Ok(()) => {}
            },
            Found::Foreign(reason) => {
                if !may_replace(claim.path) || put_aside(claim.path).is_err() {
                    return if claim.is_explicit { Err(reason) } else { Ok(None) };
                }
            }
            Found::Lock(found) => {
                if let Some(taken) = take(claim, found)? {
                    return Ok(taken);
                }
            }
        }
    }
    if claim.is_explicit {
        return Err(format!("{shown} is replaced again and again by another process"));
    }
    Ok(None)
}

impl Record {
    /// Takes our pid away, if it is still there.
    pub fn remove(self) {
        let Some(true) = is_at(&self.file, &self.path) else {
            return;
        };
        if pid_in(&self.file) != Some(rustix::process::getpid()) {
            return;
        }
        let _ = if self.keeps_file {
            self.file.set_len(0)
        } else {
            std::fs::remove_file(&self.path)
        };
    }
}

fn look(path: &Path) -> Found {
    let shown = path.display();
    let (file, is_writable) = match open(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => {
            return Found::Foreign(match std::fs::symlink_metadata(path) {
                Ok(found) if found.is_symlink() => {
                    format!("{shown} is a link, which is not followed; remove it")
                }
                Ok(found) if found.uid() != geteuid().as_raw() => not_ours(path, found.uid()),
                _ => format!("cannot open {shown}: {error}"),
            });
        }
    };
    let found = match file.metadata() {
        Ok(found) => found,
        Err(error) => return Found::Foreign(format!("cannot look at {shown}: {error}")),
    };
    let is_ours = found.uid() == geteuid().as_raw();
    if !found.is_file() {
        return Found::Foreign(format!("{shown} is not a regular file; remove it"));
    }
    if !is_ours && found.uid() != 0 {
        return Found::Foreign(not_ours(path, found.uid()));
    }
    if found.nlink() != 1 {
        return Found::Foreign(format!("{shown} has other names (hard links); remove it"));
    }
    let pid = pid_in(&file);
    Found::Lock(Opened {
        is_ours,
        is_private: is_ours && found.mode() & 0o077 == 0,
        can_record: is_writable && (found.len() == 0 || pid.is_some()),
        pid,
        written_s: found.mtime(),
        file,
    })
}

/// Without following a link or waiting (a FIFO). True: it can be written.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut options = File::options();
    let options = options.read(true).custom_flags(flags);
    match options.clone().write(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(_) => Ok((options.open(path)?, false)),
    }
}

fn create(claim: Claim<'_>) -> io::Result<()> {
    if claim.is_explicit
        && let Some(parent) = claim.path.parent()
    {
        // as the Python wrapper does: below /run it is gone after each boot
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)?;
    }
    let flags = OFlags::NOFOLLOW.bits() as i32;
    let mut options = File::options();
    let options = options.write(true).create_new(true).mode(0o600);
    options.custom_flags(flags).open(claim.path).map(drop)
}

/// None: the file was replaced meanwhile.
fn take(claim: Claim<'_>, found: Opened) -> Result<Option<Option<Record>>, String> {
    let shown = claim.path.display();
    if let Some(pid) = found.pid
        && is_old_wrapper(pid, claim, found.written_s)
    {
        return Err(format!(
            "{shown} names pid {}, a wrapper that is running",
            pid.as_raw_nonzero()
        ));
    }
    if claim.is_explicit {
        if !found.is_ours {
            return Err(not_ours(claim.path, 0));
        }
        match flock(found.file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            // where others can open the file, anybody can have locked it
            Err(Errno::WOULDBLOCK) if found.is_private => {
                return Err(format!("{shown} is held by another run"));
            }
            _ if is_at(&found.file, claim.path) != Some(true) => return Ok(None),
            _ => {}
        }
    } else if found.pid.is_some_and(is_guardian) {
        // the same job for another machine of this host: its lock is another one
        return Ok(Some(None));
    }
    if !found.is_ours || !found.can_record {
        return Ok(Some(None));
    }
    let recorded = write_pid(&found.file);
    if recorded.is_err() && !claim.is_explicit {
        return Ok(Some(None));
    }
    // an explicit file is held even where the disk is full: the descriptor has its flock
    Ok(Some(Some(Record {
        file: found.file,
        path: claim.path.to_path_buf(),
        keeps_file: claim.is_explicit,
    })))
}

fn write_pid(file: &File) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
}

fn not_ours(path: &Path, owner: u32) -> String {
    let shown = path.display();
    format!("{shown} belongs to uid {owner}, so it is not trusted; remove it")
}

/// In a directory where everybody may leave something, root puts what is in the way aside.
fn may_replace(path: &Path) -> bool {
    geteuid().is_root()
        && path
            .parent()
            .and_then(|parent| std::fs::metadata(parent).ok())
            .is_some_and(|parent| parent.uid() == 0 && parent.mode() & 0o1002 == 0o1002)
}

fn put_aside(path: &Path) -> io::Result<()> {
    let mut aside = path.as_os_str().to_os_string();
    aside.push(format!(".refused-{}", std::process::id()));
    std::fs::rename(path, aside)
}

/// True: the path still names that file.
fn is_at(file: &File, path: &Path) -> Option<bool> {
    let (open, named) = (file.metadata().ok()?, std::fs::symlink_metadata(path).ok()?);
    Some((open.dev(), open.ino()) == (named.dev(), named.ino()))
}

fn pid_in(file: &File) -> Option<Pid> {
    let mut text = [0u8; LONGEST_PID_BYTES as usize + 1];
    let length = file.read_at(&mut text, 0).ok()?;
    if length as u64 > LONGEST_PID_BYTES {
        return None;
    }
    let text = std::str::from_utf8(&text[..length]).ok()?;
    Pid::from_raw(text.trim().parse().ok().filter(|&pid: &i32| pid > 1)?)
}

/// Alive, root's or ours, and a Python wrapper of this job or this lock file: a pid that has been given to another
/// process since does not count.
fn is_old_wrapper(pid: Pid, claim: Claim<'_>, written_s: i64) -> bool {
    let Some(process) = Process::of(pid) else {
        return false;
    };
    if process.name == GUARDIAN_NAME.to_bytes() {
        return false;
    }
    let is_older = process.started_s <= written_s.saturating_add(limits::LOCK_CLOCK_SLACK_S);
    let looks_like_it = looks_like_old_wrapper(&process.arguments);
    match process.serves(claim) {
        Some(true) => looks_like_it || is_older,
        Some(false) => false,
        None => looks_like_it && is_older,
    }
}

fn is_guardian(pid: Pid) -> bool {
    Process::of(pid).is_some_and(|process| process.name == GUARDIAN_NAME.to_bytes())
}

/// A script or a program called `sp_wrapper...`, or Python that runs a `wrapper.py`.
fn looks_like_old_wrapper(arguments: &[u8]) -> bool {
    let names = || {
        let arguments = arguments.split(|&byte| byte == 0).take(6);
        arguments.map(|argument| argument.rsplit(|&byte| byte == b'/').next().unwrap_or(argument))
    };
    let is_python = names().next().is_some_and(|name| name.starts_with(b"python"));
    names().any(|name| name.starts_with(b"sp_wrapper") || is_python && name == b"wrapper.py")
}

/// A living process of root's or ours.
struct Process {
    name: Vec<u8>,
    started_s: i64,
    arguments: Vec<u8>,
    environment: Option<Vec<u8>>,
}

impl Process {
    fn of(pid: Pid) -> Option<Process> {
        let directory = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
        let owner = std::fs::metadata(&directory).ok()?.uid();
        if owner != 0 && owner != geteuid().as_raw() {
            return None;
        }
        let stat = std::fs::read(directory.join("stat")).ok()?;
        let (name, started_ticks) = parse_stat(&stat)?;
        Some(Process {
            name: name.to_vec(),
            started_s: started_at(started_ticks),
            arguments: read_some(&directory.join("cmdline")).unwrap_or_default(),
            environment: read_some(&directory.join("environ")),
        })
    }

    /// Whether it was launched for that job or lock file. None: its environment does not say.
    fn serves(&self, claim: Claim<'_>) -> Option<bool> {
        let variables = || {
            self.environment
                .iter()
                .flat_map(|all| all.split(|&byte| byte == 0))
        };
        let value = |name: &[u8]| variables().find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="));
        let job = value(b"SP_JOB_NAME")?;
        let is_lock = |path: &[u8]| claim.is_explicit && OsStr::from_bytes(path) == claim.path.as_os_str();
        Some(job == claim.job.as_bytes() || value(b"SP_LOCKFILE").is_some_and(is_lock))
    }
}

/// Name and start of a process that is not dead: `pid (name) state ppid ...`, the start is field 22.
fn parse_stat(stat: &[u8]) -> Option<(&[u8], u64)> {
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    Some((stat.get(open + 1..close)?, fields.nth(18)?.parse().ok()?))
}

/// Wall-clock seconds of a start given in clock ticks after boot.
fn started_at(ticks: u64) -> i64 {
    // SAFETY: sysconf has no preconditions
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    clock::wall().secs() - (since_boot - (ticks / per_second) as i64)
}

fn read_some(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(limits::PROCESS_TEXT_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_gives_name_and_start_unless_the_process_is_dead() {
        let line = |state: &str| {
            format!("7 (a) b) {state} 3 5 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 88213 1 2").into_bytes()
        };
        assert_eq!(parse_stat(&line("S")), Some((&b"a) b"[..], 88_213)));
        assert_eq!(parse_stat(&line("Z")), None);
        assert_eq!(parse_stat(b"rubbish"), None);
    }

    #[test]
    fn this_process_started_before_now_and_after_the_boot() {
        let me = Process::of(rustix::process::getpid()).unwrap();
        let age_s = clock::wall().secs() - me.started_s;
        assert!((0..86_400).contains(&age_s), "{age_s}");
    }

    #[test]
    fn a_wrapper_is_known_by_how_it_was_started() {
        for yes in [
            &b"/usr/bin/python3\0/usr/local/bin/sp_wrapper.py\0"[..],
            b"/usr/local/bin/sp_wrapper\0",
            b"python3.11\0-u\0/opt/saltpeter/wrapper.py\0",
            b"/bin/sh\0/x/sp_wrapper.py\0",
        ] {
            assert!(looks_like_old_wrapper(yes), "{}", yes.escape_ascii());
        }
        for no in [
            &b"/usr/bin/sp-wrapper\0"[..],
            b"/usr/bin/python3\0backup.py\0",
            b"node\0wrapper.py\0",
            b"",
        ] {
            assert!(!looks_like_old_wrapper(no), "{}", no.escape_ascii());
        }
    }

    #[test]
    fn only_a_number_is_a_pid_and_only_a_lock_file_is_written_to() {
        let path = std::env::temp_dir().join(format!("sp-old-lock-{}", std::process::id()));
        for (content, pid, can_record) in [
            ("", None, true),
            ("4711\n", Some(4711), true),
            ("1\n", None, false),
            ("-5", None, false),
            ("root:x:0:0:root:/root:/bin/sh\n", None, false),
        ] {
            std::fs::write(&path, content).unwrap();
            let Found::Lock(found) = look(&path) else {
                panic!("{content}");
            };
            assert_eq!(found.pid.map(|pid| pid.as_raw_nonzero().get()), pid, "{content}");
            assert_eq!(found.can_record, can_record, "{content}");
        }
        std::fs::remove_file(path).unwrap();
    }
}
