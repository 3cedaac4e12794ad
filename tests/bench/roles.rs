//! Roles of this program when the software under test starts it: a wrapper that passes its dispatch to the load generator,
//! one that records when it was started, a command that prints, a command that records the time.
//! Must not know: what is measured.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use crate::output_lines::Lines;
use crate::{sink, timing, wrappers};

/// In the directory of a fake wrapper: the load generator's socket.
const HANDOFF: &str = "handoff.sock";
/// In the directory of a wrapper that records the time: where it does so, and the wrapper that it then executes.
const STAMPS: &str = "stamps";
const REAL: &str = "real-wrapper";

/// The environment that a daemon passes to a wrapper.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handoff {
    pub url: String,
    pub job: String,
    pub instance: String,
    pub machine: String,
    pub has_command: bool,
}

/// Plays a role, if this process was started for one.
pub fn play() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let own = PathBuf::from(arguments.next().unwrap_or_default());
    let directory = own.parent().unwrap_or(Path::new("/"));
    if std::env::var_os("SP_WEBSOCKET_URL").is_some() && directory.join(HANDOFF).exists() {
        return Some(told(hand_off(&directory.join(HANDOFF))));
    }
    if directory.join(REAL).exists() {
        return Some(told(stamp(&directory.join(STAMPS)).and_then(|()| {
            Err(Command::new(directory.join(REAL)).arg0("sp-wrapper").exec())
        })));
    }
    let role = arguments.next()?;
    let words: Vec<String> = arguments
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
    let path = || PathBuf::from(words.first().map_or("", String::as_str));
    match role.to_str()? {
        "emit" => Some(told(emit(number(0)))),
        "stamp" => Some(told(stamp(&path()))),
        "wrappers" => Some(told(wrappers::serve(&path(), number(1) != 0))),
        "sink" => Some(told(sink::serve())),
        _ => None,
    }
}

/// Creates a wrapper `name` in a directory that passes on its dispatch; returns its path.
pub fn handing_wrapper(directory: &Path, name: &str) -> io::Result<(PathBuf, UnixDatagram)> {
    fs::create_dir_all(directory)?;
    let wrapper = link_to_self(directory, name)?;
    let socket = directory.join(HANDOFF);
    let _ = fs::remove_file(&socket);
    Ok((wrapper, UnixDatagram::bind(socket)?))
}

/// Creates an `sp-wrapper` in a directory that records when it was started and then executes `real`; returns its path, and
/// that of the records.
pub fn stamping_wrapper(directory: &Path, real: &Path) -> io::Result<(PathBuf, PathBuf)> {
    fs::create_dir_all(directory)?;
    let wrapper = link_to_self(directory, "sp-wrapper")?;
    let _ = fs::remove_file(directory.join(REAL));
    std::os::unix::fs::symlink(real, directory.join(REAL))?;
    Ok((wrapper, directory.join(STAMPS)))
}

/// The times recorded in a file, in nanoseconds since the epoch.
pub fn stamps(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// This program as a command line of a job.
pub fn command(role: &str) -> io::Result<String> {
    Ok(format!("exec '{}' {role}", std::env::current_exe()?.display()))
}

fn link_to_self(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let wrapper = directory.join(name);
    let _ = fs::remove_file(&wrapper);
    std::os::unix::fs::symlink(std::env::current_exe()?, &wrapper)?;
    Ok(wrapper)
}

fn hand_off(socket: &Path) -> io::Result<()> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let handoff = Handoff {
        url: variable("SP_WEBSOCKET_URL"),
        job: variable("SP_JOB_NAME"),
        instance: variable("SP_JOB_INSTANCE"),
        machine: variable("SP_MACHINE_ID"),
        has_command: std::env::var_os("SP_COMMAND").is_some(),
    };
    UnixDatagram::unbound()?.send_to(&serde_json::to_vec(&handoff)?, socket)?;
    Ok(())
}

fn stamp(path: &Path) -> io::Result<()> {
    let now = timing::wall_ns();
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(format!("{now}\n").as_bytes())
}

fn emit(bytes: u64) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut lines = Lines::new();
    let mut left = bytes;
    while left > 0 {
        let piece = lines.next_block();
        let count = left.min(piece.len() as u64);
        stdout.write_all(&piece[..count as usize])?;
        left -= count;
    }
    stdout.flush()
}

fn told(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
