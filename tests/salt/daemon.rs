//! A daemon of ours in front of the lab, with jobs of one test.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::lab::{Hold, Lab};
use crate::wait;

pub struct Daemon {
    pub directory: PathBuf,
    child: Option<Child>,
    api: String,
    // last: others may disturb Salt when this test is over
    _hold: Hold,
}

/// A job that is never due.
pub fn job(targets: Value, command: &str) -> Value {
    json!({
        "min": 0, "hour": 0, "dom": 1, "mon": 1, "dow": "*", "year": 2099,
        "command": command, "targets": targets,
        // tests that run side by side name their jobs alike: no wrapper's lock may come between them
        "allow_overlap": "i know what i am doing!",
    })
}

/// `base` with the fields of `more`.
pub fn with(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

impl Daemon {
    /// `files`: jobs, maintenance, and settings that differ from the lab's.
    pub fn start((lab, hold): (&'static Lab, Hold), mut files: Value) -> Daemon {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let directory = lab
            .root
            .join(format!("daemon-{}", COUNT.fetch_add(1, Ordering::SeqCst)));
        fs::create_dir_all(directory.join("conf")).unwrap();
        let settings = json!({
            "executor": "salt", "salt_config": lab.config(), "salt_python": lab.python,
            "state_dir": directory.join("state"), "logdir": directory.join("logs"),
            "default_wrapper_path": env!("CARGO_BIN_EXE_sp-wrapper"),
            "default_wrapper_logdir": lab.root.join("wrapper-logs"),
            "default_saltpeter_server_host": "127.0.0.1", "machines_ws_bind_addr": "127.0.0.1",
            "api_ws_port": 0, "machines_ws_port": 0, "api_open": true, "debug": true,
        });
        let more = files["saltpeter_config"].take();
        files["saltpeter_config"] = with(settings, if more.is_null() { json!({}) } else { more });
        // JSON is YAML
        fs::write(directory.join("conf/jobs.yaml"), files.to_string()).unwrap();
        let mut daemon = Daemon {
            directory,
            child: None,
            api: String::new(),
            _hold: hold,
        };
        daemon.restart();
        daemon
    }

    /// Starts it (again, after [`Daemon::kill`]).
    pub fn restart(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .unwrap();
        let before =
            self.log().matches("\nlistening: ").count() + self.log().starts_with("listening: ") as usize;
        let child = Command::new(env!("CARGO_BIN_EXE_saltpeter"))
            .arg("-c")
            .arg(self.directory.join("conf"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.api = wait::until("the daemon's ready line", 20, || {
            let log = self.log();
            let line = log
                .lines()
                .filter(|line| line.starts_with("listening: "))
                .nth(before)?;
            let address = line.strip_prefix("listening: api ")?.split(',').next()?;
            Some(address.to_string())
        });
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id() as i32
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn http(&self, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
        let mut socket = TcpStream::connect(&self.api).unwrap();
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = answer[end + 4..].to_vec();
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    pub fn status(&self) -> Value {
        let (code, body) = self.http("GET", "/status", None);
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Starts a run; its instance.
    pub fn run(&self, job: &str) -> String {
        let (code, body) = self.http("POST", "/run", Some(json!({"job": job})));
        assert_eq!(code, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        body["instance"].as_str().unwrap().to_string()
    }

    pub fn kill_job(&self, job: &str) {
        let (code, body) = self.http("POST", "/kill", Some(json!({"job": job})));
        assert_eq!(code, 200, "{body}");
    }

    /// The results of a run that has ended.
    pub fn results(&self, job: &str, instance: &str, limit_s: u64) -> Value {
        wait::until(&format!("the end of {instance}"), limit_s, || {
            let status = self.status();
            let state = &status["state"][job];
            let is_over = status["running"][instance].is_null() && state["last_instance"] == instance;
            is_over.then(|| state["results"].clone())
        })
    }

    /// Starts a run and waits for its results.
    pub fn outcome(&self, job: &str, limit_s: u64) -> Value {
        let instance = self.run(job);
        self.results(job, &instance, limit_s)
    }

    /// Waits until that machine's output has the text.
    pub fn wait_for_output(&self, job: &str, machine: &str, text: &str, limit_s: u64) {
        wait::until(&format!("'{text}' from {machine}"), limit_s, || {
            let status = self.status();
            let ret = &status["state"][job]["results"][machine]["ret"];
            ret.as_str().is_some_and(|ret| ret.contains(text)).then_some(())
        });
    }

    pub fn output(&self, instance: &str, machine: &str) -> String {
        let path = format!("/api/v1/runs/{instance}/machines/{machine}/output");
        self.http("GET", &path, None).1
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let log: Vec<&str> = log.lines().filter(|line| !line.contains("GET /status")).collect();
            eprintln!("---- the daemon's log:\n{}", log.join("\n"));
        }
        self.kill();
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|part| part == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
    whole
}

/// The machines of some results, and their codes.
pub fn codes(results: &Value) -> Vec<(&str, i64)> {
    let mut codes: Vec<(&str, i64)> = results
        .as_object()
        .unwrap()
        .iter()
        .map(|(machine, result)| (machine.as_str(), result["retcode"].as_i64().unwrap_or(-1)))
        .collect();
    codes.sort_unstable();
    codes
}

/// How long a machine had been silent when it was given up.
pub fn silence_s(result: &Value) -> f64 {
    let ret = result["ret"].as_str().unwrap();
    let marker = "no heartbeat for ";
    let place = ret.find(marker).unwrap_or_else(|| panic!("{ret}")) + marker.len();
    ret[place..].split(' ').next().unwrap().parse().unwrap()
}
