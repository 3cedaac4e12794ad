//! The daemon under load: the release binary on a directory of its own, ports chosen by the kernel.
//! Must not know: what it is loaded with.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::http::Client;
use crate::procfs::{self, Cpu};
use crate::timing;

/// The setup of a daemon.
pub struct Setup<'a> {
    pub program: &'a Path,
    /// Created for it; contains the configuration, the state and the logs.
    pub directory: PathBuf,
    pub machines: &'a [String],
    pub wrapper: &'a Path,
    /// The job files: name and text.
    pub files: Vec<(String, String)>,
    /// Settings that differ from the defaults.
    pub settings: Value,
}

/// A running daemon, which is killed on drop.
pub struct Daemon {
    child: Child,
    program: PathBuf,
    pub directory: PathBuf,
    pub api: Client,
    /// From the spawn to the line that reports readiness.
    pub ready_ms: f64,
}

/// A schedule that is never due.
pub const NEVER: &str = "0 0 0 1 1 * 2099";

/// A job that is never due, started by `POST /run`.
pub fn on_demand(name: &str, command: &str, more: &str) -> String {
    scheduled_on("*", name, NEVER, command, more)
}

/// A job on the only machine: schedule as `sec min hour dom mon dow year`, and further lines of YAML.
pub fn scheduled(name: &str, when: &str, command: &str, more: &str) -> String {
    scheduled_on("*", name, when, command, more)
}

/// The same on some of the machines.
pub fn scheduled_on(targets: &str, name: &str, when: &str, command: &str, more: &str) -> String {
    let fields = ["sec", "min", "hour", "dom", "mon", "dow", "year"];
    let mut text = format!("{name}:\n");
    for (field, value) in fields.iter().zip(when.split(' ')) {
        // a String takes every write
        let _ = writeln!(text, "  {field}: '{value}'");
    }
    let command = Value::from(command);
    let _ = write!(text, "  targets: '{targets}'\n  command: {command}\n{more}");
    text
}

impl Daemon {
    /// Writes the configuration, starts the daemon and waits until it is ready.
    pub fn start(setup: Setup<'_>) -> io::Result<Daemon> {
        let directory = setup.directory;
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("conf"))?;
        let mut settings = json!({"saltpeter_config": {
            "executor": "local",
            "local_machines": setup.machines,
            "state_dir": directory.join("state"),
            "logdir": directory.join("log"),
            "default_wrapper_logdir": directory.join("wrapper-log"),
            "default_wrapper_path": setup.wrapper,
            "default_wrapper_loglevel": "off",
            "api_ws_port": 0, "machines_ws_port": 0,
            "api_ws_bind_addr": "127.0.0.1", "machines_ws_bind_addr": "127.0.0.1",
            "default_saltpeter_server_host": "127.0.0.1",
            "api_open": true,
            // the wrapper as it is measured knows no TLS
            "wrapper_tls": false,
        }});
        for (key, value) in setup.settings.as_object().into_iter().flatten() {
            settings["saltpeter_config"][key] = value.clone();
        }
        // JSON is YAML
        fs::write(directory.join("conf/settings.yaml"), settings.to_string())?;
        for (name, text) in setup.files {
            fs::write(directory.join("conf").join(name), text)?;
        }
        let begun = timing::mono_ns();
        let mut daemon = Daemon {
            child: spawn(setup.program, &directory)?,
            program: setup.program.to_path_buf(),
            api: Client::new(([127, 0, 0, 1], 0).into()),
            directory,
            ready_ms: 0.0,
        };
        daemon.api = Client::new(daemon.wait_until_ready()?);
        daemon.ready_ms = timing::ms_since(begun);
        Ok(daemon)
    }

    /// Ends it as a power failure would.
    pub fn halt(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts it again on what it has left behind, on the same ports; returns once it listens.
    pub fn restart(&mut self) -> io::Result<()> {
        let path = self.directory.join("conf/settings.yaml");
        let mut settings: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let log = fs::read_to_string(self.directory.join("daemon.log"))?;
        for (what, key) in [("api ", "api_ws_port"), ("machines ", "machines_ws_port")] {
            let line = log.lines().find_map(|line| line.strip_prefix("listening: "));
            let address = line.and_then(|line| line.split(", ").find_map(|part| part.strip_prefix(what)));
            let address: SocketAddr = address.unwrap_or_default().parse().map_err(io::Error::other)?;
            settings["saltpeter_config"][key] = address.port().into();
        }
        fs::write(&path, settings.to_string())?;
        let begun = timing::mono_ns();
        self.child = spawn(&self.program, &self.directory)?;
        self.api = Client::new(self.wait_until_ready()?);
        self.ready_ms = timing::ms_since(begun);
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU seconds so far.
    pub fn cpu(&self) -> Cpu {
        procfs::cpu(self.pid())
    }

    /// Starts a run with `POST /run`; returns its instance.
    pub fn run(&mut self, job: &str) -> io::Result<String> {
        let (status, answer) = self.api.post("/run", &json!({"job": job}))?;
        match answer["instance"].as_str() {
            Some(instance) if status == 200 => Ok(instance.to_string()),
            _ => Err(io::Error::other(format!("run {job}: {status} {answer}"))),
        }
    }

    /// The result of `GET /status`.
    pub fn status(&mut self) -> io::Result<Value> {
        let (status, answer) = self.api.get("/status")?;
        match status {
            200 => Ok(answer),
            _ => Err(io::Error::other(format!("status: {status} {answer}"))),
        }
    }

    /// The codes of a job's last run by machine, once it has ended.
    pub fn wait_for_end(&mut self, job: &str, limit_ms: u64, every_ms: u64) -> io::Result<Value> {
        let begun = timing::mono_ns();
        loop {
            let status = self.status()?;
            let running = status["running"].as_object();
            let runs = running.is_some_and(|runs| runs.values().any(|run| run["name"] == job));
            let results = &status["state"][job]["results"];
            if !runs && results.as_object().is_some_and(|results| !results.is_empty()) {
                return Ok(results.clone());
            }
            if timing::ms_since(begun) > limit_ms as f64 {
                return Err(io::Error::other(format!("{job} has not ended: {results}")));
            }
            timing::pass_ms(every_ms);
        }
    }

    /// Sends SIGTERM and waits for the exit; returns the milliseconds it took.
    pub fn stop(mut self) -> io::Result<f64> {
        let begun = timing::mono_ns();
        if let Some(pid) = Pid::from_raw(self.pid() as i32) {
            kill_process(pid, Signal::TERM)?;
        }
        let ended = timing::until(10_000, 2, || self.child.try_wait().ok().flatten());
        match ended {
            Some(_) => Ok(timing::ms_since(begun)),
            None => Err(io::Error::other("the daemon does not end after SIGTERM")),
        }
    }

    fn wait_until_ready(&mut self) -> io::Result<SocketAddr> {
        let path = self.directory.join("daemon.log");
        let found = timing::until(120_000, 2, || {
            let log = fs::read_to_string(&path).unwrap_or_default();
            if let Some((_, rest)) = log.split_once("listening: api ")
                && let Some((address, _)) = rest.split_once(',')
            {
                return Some(Ok(address.parse().map_err(io::Error::other)));
            }
            match self.child.try_wait() {
                Ok(None) => None,
                ended => Some(Err(io::Error::other(format!(
                    "the daemon ended: {ended:?}\n{log}"
                )))),
            }
        });
        found.unwrap_or_else(|| Err(io::Error::other("no ready line")))?
    }
}

fn spawn(program: &Path, directory: &Path) -> io::Result<Child> {
    let log = fs::File::create(directory.join("daemon.log"))?;
    Command::new(program)
        .arg("-c")
        .arg(directory.join("conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
