//! The Salt helper as a process: which Python, its pipes, its lines, its end.
//! Must not know: what the lines mean.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use crate::limits;
use crate::wake::{Interest, Waker, poll_any};

/// The helper's source. It travels over its standard input: no file, and nothing long in `ps`.
const SOURCE: &str = include_str!("helper.py");
/// Reads as many bytes of source as its first argument says, and runs them. The working directory is not where modules
/// are looked for: a user who may write there could otherwise run code as the daemon's user.
const BOOTSTRAP: &str = "import sys; sys.path[:] = [p for p in sys.path if p not in ('', '.')]; sys.argv.pop(0); \
    exec(compile(sys.stdin.buffer.read(int(sys.argv.pop(0))), 'helper.py', 'exec'))";

/// A running helper. Dropping it kills it: it holds nothing that matters.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    /// Not written yet.
    outgoing: Vec<u8>,
    /// The beginning of a line.
    partial: Vec<u8>,
    partial_log: Vec<u8>,
    /// The last that it wrote to its log.
    pub last_words: String,
}

impl Process {
    /// Starts it with that Python and the master's configuration.
    pub fn start(python: &Path, salt_config: &Path) -> io::Result<Process> {
        let mut child = Command::new(python)
            .args(["-u", "-c", BOOTSTRAP])
            .arg(SOURCE.len().to_string())
            .args(["saltpeter-salt-helper", "-c"])
            .arg(salt_config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // a Ctrl-C at the daemon's terminal is not meant for it: it ends when its input ends
            .process_group(0)
            .spawn()?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("the helper has no pipes"));
        };
        for pipe in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Process {
            child,
            stdin,
            stdout,
            stderr: Some(stderr),
            outgoing: SOURCE.as_bytes().to_vec(),
            partial: Vec::new(),
            partial_log: Vec::new(),
            last_words: String::new(),
        })
    }

    /// Queues a line.
    pub fn say(&mut self, line: &[u8]) {
        self.outgoing.extend_from_slice(line);
    }

    /// As much waits as may wait: nothing more should be queued.
    pub fn is_full(&self) -> bool {
        self.outgoing.len() >= limits::HELPER_OUTGOING_BYTES
    }

    /// Writes what the pipe takes. The error means that it is gone.
    pub fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        let end = loop {
            match self.stdin.write(&self.outgoing[written..]) {
                Ok(0) => break Ok(()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.outgoing.drain(..written);
        end
    }

    /// Adds the whole lines that it has said. The error means that it is gone, or talks nonsense.
    pub fn read(&mut self, lines: &mut Vec<Vec<u8>>) -> io::Result<()> {
        self.log();
        let mut piece = vec![0; limits::HELPER_READ_BYTES];
        // one piece a turn: others want their turn, too
        match self.stdout.read(&mut piece) {
            Ok(0) => return Err(io::Error::other("it ended")),
            Ok(count) => split(&mut self.partial, &piece[..count], |line| {
                lines.push(line.to_vec());
            }),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        if self.partial.len() > limits::HELPER_LINE_BYTES {
            return Err(io::Error::other("it sends a line without end"));
        }
        Ok(())
    }

    /// Ends it, if it has not ended. True: a signal that was not ours ended it (out of memory, an operator).
    pub fn was_killed(&mut self) -> bool {
        // one that is past its own exit keeps the code of that
        let is_running = matches!(self.child.try_wait(), Ok(None)) && self.stdout_is_open();
        let _ = self.child.kill();
        let status = self.child.wait();
        !is_running && status.is_ok_and(|status| status.signal().is_some())
    }

    fn stdout_is_open(&mut self) -> bool {
        !matches!(self.stdout.read(&mut [0; 1]), Ok(0))
    }

    /// Hands its standard error to our log.
    fn log(&mut self) {
        let Some(stderr) = &mut self.stderr else { return };
        let mut piece = [0; 4_096];
        loop {
            match stderr.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    let last_words = &mut self.last_words;
                    split(&mut self.partial_log, &piece[..count], |line| {
                        let line = String::from_utf8_lossy(line);
                        log::info!("salt helper: {}", line.escape_debug());
                        if !line.trim().is_empty() {
                            *last_words = line.trim().to_string();
                        }
                    });
                    self.partial_log.truncate(limits::HELPER_LOG_LINE_BYTES);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.stderr = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.log();
        // its own pid, not reaped yet, so not reused
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `waker` is woken, the helper has something to say, takes something, or time is over.
pub fn wait(waker: &Waker, process: Option<&Process>, timeout_ms: u64) -> io::Result<()> {
    let mut slots = vec![Interest::readable(waker.as_fd())];
    if let Some(process) = process {
        slots.push(Interest::readable(process.stdout.as_fd()));
        let stderr = process.stderr.iter();
        slots.extend(stderr.map(|stderr| Interest::readable(stderr.as_fd())));
        if !process.outgoing.is_empty() {
            slots.push(Interest::writable(process.stdin.as_fd()));
        }
    }
    if poll_any(&slots, Some(timeout_ms))?[0].readable {
        waker.clear();
    }
    Ok(())
}

/// The Pythons that may have Salt, best first.
pub fn pythons(setting: Option<&str>) -> Vec<PathBuf> {
    if let Some(python) = setting {
        return vec![python.into()];
    }
    let mut found = Vec::new();
    if let Some(salt) = in_path("salt") {
        found.extend(of_first_line(&salt));
        if let Some(directory) = salt.parent() {
            found.push(directory.join("bin/python3"));
            found.push(directory.join("python3"));
        }
    }
    found.push("/opt/saltstack/salt/bin/python3".into());
    found.extend(in_path("python3"));
    found.retain(|python| python.is_file());
    let mut unique: Vec<PathBuf> = Vec::new();
    for python in found {
        if !unique.contains(&python) {
            unique.push(python);
        }
    }
    unique
}

/// The command, links resolved.
fn in_path(command: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let file = std::env::split_paths(&path)
        .map(|directory| directory.join(command))
        .find(|file| file.is_file())?;
    // Python finds its packages by the name under which it was called
    match command {
        "python3" => Some(file),
        _ => file.canonicalize().ok(),
    }
}

/// The interpreter in a script's first line, if that names a Python: onedir installations begin with a shell.
fn of_first_line(script: &Path) -> Option<PathBuf> {
    let mut start = vec![0; 512];
    let mut file = std::fs::File::open(script).ok()?;
    let count = file.read(&mut start).ok()?;
    interpreter(&start[..count])
}

fn interpreter(start: &[u8]) -> Option<PathBuf> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let program = std::str::from_utf8(line).ok()?.split_whitespace().next()?;
    let name = program.rsplit('/').next()?;
    (program.starts_with('/') && name.contains("python")).then(|| program.into())
}

/// Calls `each` for every whole line; the rest stays in `partial`.
fn split(partial: &mut Vec<u8>, piece: &[u8], mut each: impl FnMut(&[u8])) {
    let mut rest = piece;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        if partial.is_empty() {
            each(&rest[..end]);
        } else {
            partial.extend_from_slice(&rest[..end]);
            each(partial);
            partial.clear();
        }
        rest = &rest[end + 1..];
    }
    partial.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_python_in_the_first_line_is_taken() {
        let python = |line: &str| interpreter(line.as_bytes()).map(|path| path.display().to_string());
        assert_eq!(
            python("#!/usr/bin/python3\nimport"),
            Some("/usr/bin/python3".into())
        );
        assert_eq!(
            python("#! /opt/v/bin/python3.11 -s\n"),
            Some("/opt/v/bin/python3.11".into())
        );
        assert_eq!(python("#!/bin/sh\n\"exec\" python"), None);
        assert_eq!(python("#!/usr/bin/env python3\n"), None);
        assert_eq!(python("\x7fELF"), None);
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let mut partial = Vec::new();
        let mut lines: Vec<String> = Vec::new();
        for piece in ["a", "b\nc\n", "\nd", ""] {
            split(&mut partial, piece.as_bytes(), |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
            });
        }
        assert_eq!(lines, ["ab", "c", ""]);
        assert_eq!(partial, b"d");
    }

    #[test]
    fn the_working_directory_lends_the_helper_no_module() {
        let dir = std::env::temp_dir().join(format!("sp-helper-path-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("json.py"), "raise SystemExit(7)").unwrap();
        let source = "import json; print(json.dumps(sys.argv))";
        let mut child = Command::new("python3")
            .args([
                "-u",
                "-c",
                BOOTSTRAP,
                &source.len().to_string(),
                "helper",
                "-c",
                "/etc/salt",
            ])
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(printed.trim(), r#"["helper", "-c", "/etc/salt"]"#);
    }
}
