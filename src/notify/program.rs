//! Runs a program with a text on its standard input and a deadline; what is left of its process group is killed.
//! Must not know: which program, what for.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::clock;
use crate::limits;
use crate::process::user::{self, Account};
use crate::wake::{Interest, poll_any};

/// What to run.
pub struct Program<'a> {
    pub arguments: &'a [OsString],
    pub environment: Vec<(String, String)>,
    pub input: &'a [u8],
    /// None: the daemon's.
    pub user: Option<&'a str>,
    pub timeout_ms: u64,
}

/// Runs it to its end. The error says how it ended, with the last that it wrote to its standard error.
pub fn run(program: &Program<'_>) -> Result<(), String> {
    let account = account(program.user)?;
    let mut child = start(program, account.as_ref()).map_err(|error| {
        let name = program.arguments.first().map(|name| name.to_string_lossy());
        format!("cannot start '{}': {error}", name.unwrap_or_default())
    })?;
    let ended = attend(&mut child, program);
    // what it has left behind, too
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    let (status, words) = ended.map_err(|error| format!("attending the program: {error}"))?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{}{words}", how(status))),
        None => {
            let seconds = program.timeout_ms.div_ceil(1_000);
            Err(format!("did not end within {seconds} seconds{words}"))
        }
    }
}

fn account(name: Option<&str>) -> Result<Option<Account>, String> {
    let Some(name) = name else { return Ok(None) };
    let found =
        user::account_named(name.as_ref()).map_err(|error| format!("looking up user '{name}': {error}"))?;
    let account = found.ok_or_else(|| format!("user '{name}' does not exist"))?;
    Ok(Some(account))
}

fn start(program: &Program<'_>, account: Option<&Account>) -> io::Result<Child> {
    let Some((name, rest)) = program.arguments.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut command = Command::new(name);
    command
        .args(rest)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(account) = account {
        command
            .env("HOME", &account.home)
            .env("USER", &account.name)
            .env("LOGNAME", &account.name);
        if rustix::process::geteuid().as_raw() != account.uid {
            // with the user's main group alone
            command.uid(account.uid).gid(account.gid);
        }
    }
    for (name, value) in &program.environment {
        command.env(name, value.replace('\0', " "));
    }
    command.spawn()
}

/// Writes the input and reads what is said until the program itself ends, or its time is up (None).
fn attend(child: &mut Child, program: &Program<'_>) -> io::Result<(Option<ExitStatus>, String)> {
    let deadline = clock::mono().plus_ms(program.timeout_ms);
    let mut stdin = child.stdin.take();
    let mut stderr = child.stderr.take();
    for fd in stdin
        .iter()
        .map(AsFd::as_fd)
        .chain(stderr.iter().map(AsFd::as_fd))
    {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    let mut input = program.input;
    let mut said = Vec::new();
    loop {
        if let Some(pipe) = &mut stdin
            && !feed(pipe, &mut input)
        {
            stdin = None;
        }
        if let Some(pipe) = &mut stderr
            && !listen(pipe, &mut said)
        {
            stderr = None;
        }
        let status = child.try_wait()?;
        let left_ms = deadline.since_ms(clock::mono());
        if status.is_some() || left_ms == 0 {
            if let Some(pipe) = &mut stderr {
                listen(pipe, &mut said);
            }
            return Ok((status, words(&said)));
        }
        let mut slots = Vec::new();
        slots.extend(stdin.as_ref().map(|pipe| Interest::either(pipe.as_fd(), true)));
        slots.extend(stderr.as_ref().map(|pipe| Interest::readable(pipe.as_fd())));
        poll_any(&slots, Some(left_ms.min(limits::NOTIFY_LOOK_MS)))?;
    }
}

/// False: nothing more is to be written.
fn feed(pipe: &mut impl Write, input: &mut &[u8]) -> bool {
    while !input.is_empty() {
        match pipe.write(input) {
            Ok(count) => *input = &input[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // a program may do without the rest
            Err(_) => return false,
        }
    }
    false
}

/// False: nothing more will be said.
fn listen(pipe: &mut impl Read, said: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4_096];
    loop {
        match pipe.read(&mut piece) {
            Ok(0) => return false,
            Ok(count) => {
                said.extend_from_slice(&piece[..count]);
                let extra = said.len().saturating_sub(limits::NOTIFY_SAID_BYTES);
                said.drain(..extra);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_string(),
    }
}

/// The last line that is not empty, behind a colon.
fn words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(String::new, |line| format!(": {line}"))
}
