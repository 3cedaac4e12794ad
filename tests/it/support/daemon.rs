//! A real daemon on a directory of its own, with the local executor; its processes and files go with it.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::http::{Client, Reply};
use super::peer::Orders;
use super::{Scratch, is_alive, until, until_within};

/// In the environment of every process of a daemon: locale settings reach wrappers and commands.
const MARK: &str = "LC_SALTPETER_IT";

/// Longer than anything takes that waits for deadlines of the product.
pub const LONG_MS: u64 = 120_000;

/// What a daemon begins with.
pub struct Plan {
    settings: Value,
    jobs: Value,
    state_dir: Option<PathBuf>,
    program: PathBuf,
}

pub struct Daemon {
    scratch: Scratch,
    settings: Mutex<Value>,
    process: Mutex<Option<Process>>,
    starts: Mutex<u32>,
    script: PathBuf,
    program: PathBuf,
}

#[derive(Clone, Copy)]
struct Ports {
    api: u16,
    machines: u16,
}

struct Process {
    child: Child,
    ports: Ports,
}

/// A job that runs when it is asked to.
pub fn job(command: &str) -> Value {
    // due in a year that no test lives to see
    json!({
        "command": command, "targets": "m1", "year": "2099",
        "min": "*", "hour": "*", "dom": "*", "mon": "*", "dow": "*",
    })
}

/// The same with more fields, or other values.
pub fn job_with(command: &str, fields: Value) -> Value {
    merged(job(command), fields)
}

/// A job that is due every second.
pub fn every_second(command: &str, fields: Value) -> Value {
    merged(job_with(command, json!({"sec": "*", "year": "*"})), fields)
}

fn merged(mut into: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        into[name] = value.clone();
    }
    into
}

impl Plan {
    /// These jobs, on the machines m1, m2 and m3.
    pub fn new(jobs: Value) -> Plan {
        Plan {
            settings: json!({}),
            jobs,
            state_dir: None,
            program: env!("CARGO_BIN_EXE_saltpeter").into(),
        }
    }

    pub fn setting(mut self, name: &str, value: Value) -> Plan {
        self.settings[name] = value;
        self
    }

    /// Its wrappers find it again after a restart.
    pub fn restarts(self) -> Plan {
        let port = free_port();
        self.setting("machines_ws_port", json!(port))
    }

    pub fn state_dir(mut self, path: &Path) -> Plan {
        self.state_dir = Some(path.to_path_buf());
        self
    }

    /// The daemon's file, if it is to be another.
    pub fn program(mut self, path: &Path) -> Plan {
        self.program = path.to_path_buf();
        self
    }

    pub fn start(self) -> Daemon {
        let daemon = self.prepare();
        daemon.start();
        daemon
    }

    /// Everything is there but the process.
    pub fn prepare(self) -> Daemon {
        let scratch = Scratch::new();
        let at = |name: &str| scratch.path().join(name);
        for directory in ["conf", "script"] {
            fs::create_dir(at(directory)).unwrap();
        }
        let settings = merged(
            json!({
                "executor": "local", "local_machines": ["m1", "m2", "m3"],
                "state_dir": self.state_dir.unwrap_or_else(|| at("state")), "logdir": at("log"),
                "default_wrapper_logdir": at("wrapper-log"),
                "api_ws_port": 0, "api_ws_bind_addr": "127.0.0.1", "api_open": true,
                "machines_ws_port": 0, "machines_ws_bind_addr": "127.0.0.1",
            }),
            self.settings,
        );
        let script = write_script(
            &at("script"),
            "python-wrapper",
            // moved into place whole
            r#"f="$SP_WRAPPER_LOGDIR/$SP_JOB_INSTANCE.$SP_MACHINE_ID"; mkdir -p "$SP_WRAPPER_LOGDIR"; env -0 >"$f.new"; mv "$f.new" "$f.env""#,
        );
        let daemon = Daemon {
            script,
            program: self.program,
            scratch,
            settings: Mutex::new(settings),
            process: Mutex::new(None),
            starts: Mutex::new(0),
        };
        daemon.write_settings();
        daemon.write_jobs("jobs", &self.jobs);
        daemon
    }
}

impl Daemon {
    // -- its files

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.settings.lock()["state_dir"].as_str().unwrap().into()
    }

    /// Writes a job file as editors do: a new file in the old one's place.
    pub fn write_file(&self, name: &str, text: &str) {
        let new = self.path("conf").join(format!(".{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path("conf").join(name)).unwrap();
    }

    /// Writes the job file of that group; JSON is YAML. The default lock is one per job and machine of the host:
    /// other tests' daemons play machines of the same names.
    pub fn write_jobs(&self, group: &str, jobs: &Value) {
        let mut jobs = jobs.clone();
        for (name, job) in jobs.as_object_mut().unwrap() {
            if job.get("command").is_some() && job.get("lockfile").is_none() {
                let name = data_encoding::HEXLOWER.encode(name.as_bytes());
                job["lockfile"] = json!(self.path(&format!("lock-{name}")));
            }
        }
        let jobs = &jobs;
        self.write_file(
            &format!("{group}.yaml"),
            &serde_json::to_string_pretty(jobs).unwrap(),
        );
    }

    /// What `0-settings.yaml` says.
    pub fn settings_text(&self) -> String {
        json!({"saltpeter_config": *self.settings.lock()}).to_string()
    }

    fn write_settings(&self) {
        let settings = json!({"saltpeter_config": *self.settings.lock()});
        self.write_jobs("0-settings", &settings);
    }

    pub fn set(&self, name: &str, value: Value) {
        self.settings.lock()[name] = value;
        self.write_settings();
    }

    pub fn job_log(&self, file: &str) -> String {
        fs::read_to_string(self.path("log").join(file)).unwrap_or_default()
    }

    /// What it said on stderr since its latest start.
    pub fn said(&self) -> String {
        let starts = *self.starts.lock();
        fs::read_to_string(self.path(&format!("stderr-{starts}"))).unwrap_or_default()
    }

    pub fn wait_said(&self, text: &str) {
        until(&format!("'{text}' in its log"), || {
            self.said().contains(text).then_some(())
        });
    }

    /// Makes a script that the daemon can start as a wrapper.
    pub fn script(&self, name: &str, body: &str) -> PathBuf {
        write_script(&self.path("script"), name, body)
    }

    /// A wrapper for `wrapper_path` that only tells what it was given: see [`Daemon::orders`].
    pub fn told_wrapper(&self) -> &Path {
        &self.script
    }

    /// What the wrapper that only tells was given.
    pub fn environment(&self, instance: &str, machine: &str) -> Vec<(String, String)> {
        let path = self.path("wrapper-log").join(format!("{instance}.{machine}.env"));
        let text = until(&format!("the launch of {instance} on {machine}"), || {
            fs::read_to_string(&path).ok()
        });
        text.split_terminator('\0')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    /// Where that wrapper was told to connect.
    pub fn orders(&self, instance: &str, machine: &str) -> Orders {
        let environment = self.environment(instance, machine);
        let get = |wanted: &str| {
            let found = environment.iter().find(|(name, _)| name == wanted);
            found.unwrap_or_else(|| panic!("no {wanted}")).1.clone()
        };
        Orders {
            // the port serves both, and a wrapper that is written by hand has no TLS
            url: get("SP_WEBSOCKET_URL").replacen("wss://", "ws://", 1),
            job: get("SP_JOB_NAME"),
            instance: get("SP_JOB_INSTANCE"),
            machine: get("SP_MACHINE_ID"),
        }
    }

    /// Another program in its place, from the next start on.
    pub fn with_program(mut self, path: &Path) -> Daemon {
        self.program = path.to_path_buf();
        self
    }

    // -- its process

    /// Starts it; back when it listens.
    pub fn start(&self) {
        let mut child = self.spawn();
        let line = until("the line that says that it listens", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.said());
            }
            let said = self.said();
            let line = said.lines().find(|line| line.starts_with("listening: "));
            line.filter(|_| said.ends_with('\n')).map(str::to_string)
        });
        *self.process.lock() = Some(Process {
            child,
            ports: ports_of(&line),
        });
    }

    /// Starts it where it cannot run; how it ended.
    pub fn start_in_vain(&self) -> ExitStatus {
        let mut child = self.spawn();
        let ended = until_ended(&mut child);
        assert!(!self.said().contains("listening: "), "{}", self.said());
        ended
    }

    fn spawn(&self) -> Child {
        *self.starts.lock() += 1;
        let log = File::create(self.path(&format!("stderr-{}", self.starts.lock()))).unwrap();
        Command::new(&self.program)
            .arg("-c")
            .arg(self.path("conf"))
            .env(MARK, self.scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub fn pid(&self) -> i32 {
        self.process.lock().as_ref().unwrap().child.id() as i32
    }

    pub fn api_port(&self) -> u16 {
        self.process.lock().as_ref().unwrap().ports.api
    }

    pub fn machines_port(&self) -> u16 {
        self.process.lock().as_ref().unwrap().ports.machines
    }

    pub fn signal(&self, signal: Signal) {
        super::signal(self.pid(), signal);
    }

    /// Ends it without a word.
    pub fn kill_hard(&self) {
        self.signal(Signal::KILL);
        let ended = self.wait();
        assert_eq!(ended.signal(), Some(9));
    }

    /// Ends it as an operator does.
    pub fn stop(&self) {
        self.signal(Signal::TERM);
        self.wait_gone();
    }

    /// Waits for an end that was asked for already.
    pub fn wait_gone(&self) {
        let ended = self.wait();
        assert!(ended.success(), "{ended}: {}", self.said());
    }

    fn wait(&self) -> ExitStatus {
        let mut process = self.process.lock().take().unwrap();
        until_ended(&mut process.child)
    }

    /// All processes of this daemon: itself, wrappers, guardians, commands and what they left.
    pub fn family(&self) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.scratch.path().display());
        let is_ours = |pid: &i32| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment
                    .split(|byte| *byte == 0)
                    // a test may have marked what it started itself by `path("")`
                    .any(|pair| pair.strip_suffix(b"/").unwrap_or(pair) == mark.as_bytes())
            })
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(is_ours)
            .filter(|pid| is_alive(*pid))
            .collect()
    }

    // -- its HTTP

    pub fn http(&self) -> Client<std::net::TcpStream> {
        Client::tcp(self.api_port())
    }

    pub fn get(&self, path: &str) -> Reply {
        self.http().ask(
            "GET",
            path,
            &[("Host", "localhost"), ("Connection", "close")],
            b"",
        )
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        let headers = [
            ("Host", "localhost"),
            ("Content-Type", "application/json"),
            ("Connection", "close"),
        ];
        self.http()
            .ask("POST", path, &headers, body.to_string().as_bytes())
    }

    /// Starts a run; its instance.
    pub fn run(&self, job: &str) -> String {
        let reply = self.post("/run", &json!({"job": job}));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["instance"].as_str().unwrap().to_string()
    }

    pub fn kill(&self, job: &str) -> Reply {
        self.post("/kill", &json!({"job": job}))
    }

    pub fn status(&self) -> Value {
        let reply = self.get("/status");
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// A job's part of `/status`.
    pub fn state(&self, job: &str) -> Value {
        self.status()["state"][job].clone()
    }

    /// The result of a machine in the job's last run.
    pub fn result(&self, job: &str, machine: &str) -> Value {
        self.state(job)["results"][machine].clone()
    }

    /// The bytes of an output.
    pub fn output(&self, instance: &str, machine: &str) -> Vec<u8> {
        let path = format!("/api/v1/runs/{}/machines/{machine}/output", escaped(instance));
        let reply = self.get(&path);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.body
    }

    pub fn output_text(&self, instance: &str, machine: &str) -> String {
        String::from_utf8(self.output(instance, machine)).unwrap()
    }

    /// Waits until that output contains `text`.
    pub fn wait_output(&self, instance: &str, machine: &str, text: &str) -> String {
        until(&format!("'{text}' in {instance}'s output"), || {
            let path = format!("/api/v1/runs/{}/machines/{machine}/output", escaped(instance));
            let reply = self.get(&path);
            let found = reply.status == 200 && reply.text().contains(text);
            found.then(|| reply.text())
        })
    }

    /// Waits until `/status` pleases.
    pub fn wait_status<T>(&self, what: &str, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        let mut last = Value::Null;
        let mut find = || {
            last = self.status();
            look(&last)
        };
        until_within(LONG_MS, what, &mut find)
    }

    /// Waits until so many jobs are in force.
    pub fn wait_jobs(&self, count: usize) {
        self.wait_status(&format!("{count} jobs"), |status| {
            (status["state"].as_object()?.len() == count).then_some(())
        });
    }

    /// Waits for the end of a run.
    pub fn wait_ended(&self, instance: &str) {
        let ended = "SELECT count(*) FROM runs WHERE instance = ?1 AND stage = 'ended'";
        until_within(LONG_MS, &format!("the end of {instance}"), || {
            (self.number(ended, instance) == 1).then_some(())
        });
        // what is stored is shown at once
        let shown = |status: &Value| status["running"].get(instance).is_none().then_some(());
        self.wait_status("the end to be shown", shown);
    }

    /// Starts a run on m1 and waits for its end: code and output.
    pub fn run_to_end(&self, job: &str) -> (i64, String) {
        let instance = self.run(job);
        self.wait_ended(&instance);
        let output = String::from_utf8_lossy(&self.output(&instance, "m1")).into_owned();
        (self.retcode(&instance, "m1"), output)
    }

    pub fn is_running(&self, instance: &str) -> bool {
        self.status()["running"].get(instance).is_some()
    }

    // -- its facts

    /// Rows of a question to `state.db`.
    pub fn rows(&self, sql: &str, parameter: &str) -> Vec<Vec<rusqlite::types::Value>> {
        let path = self.state_dir().join("state.db");
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = rusqlite::Connection::open_with_flags(path, flags).unwrap();
        connection
            .busy_timeout(std::time::Duration::from_secs(10))
            .unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let parameters: Vec<&str> = match statement.parameter_count() {
            0 => Vec::new(),
            _ => vec![parameter],
        };
        let rows = statement.query_map(rusqlite::params_from_iter(parameters), |row| {
            (0..columns).map(|column| row.get(column)).collect()
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The one number that a question to `state.db` gives.
    pub fn number(&self, sql: &str, parameter: &str) -> i64 {
        match self.rows(sql, parameter).first().map(|row| row[0].clone()) {
            Some(rusqlite::types::Value::Integer(number)) => number,
            other => panic!("{sql}: {other:?}"),
        }
    }

    /// A column of a machine run; None while it is NULL.
    pub fn fact(&self, column: &str, instance: &str, machine: &str) -> Option<i64> {
        let sql = format!(
            "SELECT m.{column} FROM machine_runs m JOIN runs r ON m.run = r.id WHERE r.instance = ?1 AND m.machine = '{machine}'"
        );
        match self.rows(&sql, instance).first().map(|row| row[0].clone()) {
            Some(rusqlite::types::Value::Integer(number)) => Some(number),
            // what is not known yet
            Some(rusqlite::types::Value::Null) | None => None,
            other => panic!("{column} of {instance} on {machine}: {other:?}"),
        }
    }

    pub fn retcode(&self, instance: &str, machine: &str) -> i64 {
        self.fact("retcode", instance, machine)
            .unwrap_or_else(|| panic!("{instance} on {machine} has no retcode"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(30)..];
            eprintln!("-- the end of the daemon's log:\n{}", last.join("\n"));
        }
        let started = self.process.lock().take();
        if let Some(mut process) = started {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        // what is starting right now is found the next time
        for _ in 0..100 {
            let family = self.family();
            for pid in &family {
                let pid = rustix::process::Pid::from_raw(*pid).unwrap();
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            if family.is_empty() {
                return;
            }
        }
    }
}

/// The script is written by another process: a descriptor of ours that is open for writing could be inherited by
/// what another test starts right now, and the script would be "text file busy".
fn write_script(directory: &Path, name: &str, body: &str) -> PathBuf {
    let path = directory.join(name);
    let written = Command::new("/bin/sh")
        .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#])
        .arg(&path)
        .arg(body)
        .status();
    assert!(written.unwrap().success());
    path
}

fn ports_of(line: &str) -> Ports {
    let port = |word: &str| -> u16 {
        let (_, rest) = line.split_once(word).unwrap();
        let address = rest.split(',').next().unwrap();
        address.rsplit(':').next().unwrap().trim().parse().unwrap_or(0)
    };
    Ports {
        api: port("api "),
        machines: port("machines "),
    }
}

fn until_ended(child: &mut Child) -> ExitStatus {
    until("the daemon's exit", || child.try_wait().unwrap())
}

/// A port that nobody uses, below those that the kernel gives to whoever asks for any: it can be had again after a
/// restart.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(61) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (number % 20_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A path's part as it stands in a request.
pub fn escaped(part: &str) -> String {
    let mut out = String::new();
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"_-.".contains(&byte) {
            out.push(byte as char)
        } else {
            out += &format!("%{byte:02X}")
        }
    }
    out
}
