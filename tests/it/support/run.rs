//! Starts real wrappers against a fake daemon.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::fake_daemon::FakeDaemon;
use super::{Scratch, is_alive, parent_of, until};

/// One wrapper, as a launcher starts it.
pub struct Run {
    pub command: Command,
    pub scratch: Scratch,
    pub job: String,
}

impl Run {
    /// Prepares a wrapper of the job `job` (and run `<job>_1`) for that daemon; nothing is started yet.
    pub fn new(daemon: &FakeDaemon, job: &str) -> Run {
        let scratch = Scratch::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sp-wrapper"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env(
                "SP_WEBSOCKET_URL",
                format!("ws://127.0.0.1:{}/?token=sesame", daemon.port),
            )
            .env("SP_JOB_NAME", job)
            .env("SP_JOB_INSTANCE", format!("{job}_1"))
            .env("SP_MACHINE_ID", "m")
            .env("SP_WRAPPER_LOGDIR", scratch.path())
            .stdin(Stdio::null());
        Run {
            command,
            scratch,
            job: job.to_string(),
        }
    }

    pub fn env(mut self, name: &str, value: &str) -> Run {
        self.command.env(name, value);
        self
    }

    /// Launches it; returns when the launcher has exited.
    pub fn launch(&mut self) -> Output {
        self.command.output().unwrap()
    }

    pub fn launched(mut self) -> Run {
        let output = self.launch();
        assert!(output.status.success(), "{output:?}");
        self
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn log_path(&self) -> PathBuf {
        self.scratch.path().join(format!("{}.log", self.job))
    }
}

/// The three processes of a run, by its command's pid.
pub struct Family {
    pub command: i32,
    pub guardian: i32,
    pub wrapper: i32,
}

impl Family {
    pub fn of(daemon: &FakeDaemon) -> Family {
        let command = daemon.pid();
        let guardian = parent_of(command);
        Family {
            command,
            guardian,
            wrapper: parent_of(guardian),
        }
    }

    pub fn until_gone(&self) {
        until("the wrapper's exit", || (!is_alive(self.wrapper)).then_some(()));
        until("the guardian's exit", || (!is_alive(self.guardian)).then_some(()));
    }
}

/// Starts a wrapper whose job comes from the daemon.
pub fn launch(daemon: &FakeDaemon, job: &str) -> Run {
    Run::new(daemon, job).launched()
}

/// Pids that a command has written to a file, once there are `count`.
pub fn pids_in(path: &std::path::Path, count: usize) -> Vec<i32> {
    until("pids in a file", || {
        let text = std::fs::read_to_string(path).ok()?;
        let pids: Vec<i32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        (pids.len() >= count && text.ends_with('\n')).then_some(pids)
    })
}
