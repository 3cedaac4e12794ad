//! The daemon as its operator meets it: the real binary, its ports, its signals, its socket.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crossbeam_channel::bounded;
use saltpeter::clock;
use serde_json::Value;

const PATIENCE_MS: u64 = 120_000;

/// A configuration directory of its own, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str, settings: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("saltpeter-daemon-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "saltpeter_config: {{executor: local, local_machines: [web01], state_dir: state, logdir: log,\n  \
             default_wrapper_logdir: wlog, api_ws_port: 0, machines_ws_port: 0, machines_ws_bind_addr: 127.0.0.1{settings}}}\n\
             hello: {{sec: 0, min: 0, hour: 0, dom: 1, mon: 1, dow: '*', year: 2099, targets: '*', command: 'echo hello'}}\n"
        );
        fs::write(dir.join("jobs.yaml"), text).unwrap();
        Place(dir)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Daemon {
    child: Child,
    api: String,
}

impl Daemon {
    fn start(place: &Place) -> Daemon {
        let mut child = spawn(&place.0);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.starts_with("listening: "))
            .expect("it says that it listens");
        let api = ready.split(['\u{20}', ',']).nth(2).unwrap().to_string();
        // it must never block on a full pipe
        saltpeter::thread::spawn("stderr", 1 << 20, move || lines.for_each(drop)).unwrap();
        Daemon { child, api }
    }

    /// SIGTERM; how long it took to end, and how.
    fn stop(mut self) -> (u64, Option<i32>) {
        let begun = clock::mono();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        (clock::mono().since_ms(begun), status.code())
    }

    fn http(&self, request: &str) -> (u16, String) {
        exchange(TcpStream::connect(&self.api).unwrap(), request)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(config_dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_saltpeter"))
        .arg("-c")
        .arg(config_dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn exchange(mut socket: impl Read + Write, request: &str) -> (u16, String) {
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
}

/// HTTP/1.0: no chunks, and the answer ends with the connection.
fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")
}

fn post(path: &str, content_type: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn who_was_told_that_it_runs_sees_it_in_what_he_reads_next() {
    let place = Place::new("read-next", ", api_open: true");
    let daemon = Daemon::start(&place);
    for _ in 0..20 {
        let (_, body) = daemon.http(&post("/run", "application/json", r#"{"job":"hello"}"#));
        let answer: Value = serde_json::from_str(&body).unwrap();
        let (_, body) = daemon.http(&get("/status"));
        let state: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            state["state"]["hello"]["last_instance"], answer["instance"],
            "{answer}"
        );
        outcome(&daemon);
        let deadline = clock::mono().plus_ms(PATIENCE_MS);
        while daemon.http(&get("/status")).1.contains("\"running\":{\"") {
            assert!(clock::mono() < deadline);
        }
    }
}

/// Waits for the outcome of the one machine of `hello`.
fn outcome(daemon: &Daemon) -> Value {
    let deadline = clock::mono().plus_ms(PATIENCE_MS);
    let (_never, pause) = bounded::<()>(0);
    loop {
        let (status, body) = daemon.http(&get("/status"));
        assert_eq!(status, 200, "{body}");
        let state: Value = serde_json::from_str(&body).unwrap();
        let result = &state["state"]["hello"]["results"]["web01"];
        if result["retcode"].is_number() {
            return result.clone();
        }
        assert!(clock::mono() < deadline, "no outcome: {state}");
        let _ = pause.recv_timeout(Duration::from_millis(10));
    }
}

#[test]
fn a_run_is_asked_for_ends_and_is_still_known_after_a_restart() {
    let place = Place::new("run", ", api_open: true");
    let daemon = Daemon::start(&place);
    let (status, body) = daemon.http(&post("/run", "application/json", r#"{"job":"hello"}"#));
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let instance = answer["instance"].as_str().unwrap().to_string();
    let result = outcome(&daemon);
    assert_eq!(
        (&result["retcode"], &result["ret"]),
        (&0.into(), &"hello\n".into())
    );
    let path = format!("/api/v1/runs/{instance}/machines/web01/output");
    assert_eq!(daemon.http(&get(&path)), (200, "hello\n".into()));
    let (took_ms, code) = daemon.stop();
    assert_eq!(code, Some(0));
    assert!(took_ms < 2_000, "{took_ms} ms");
    let daemon = Daemon::start(&place);
    assert_eq!(outcome(&daemon)["ret"], "hello\n");
    assert_eq!(daemon.http(&get(&path)), (200, "hello\n".into()));
}

#[test]
fn requests_that_cannot_be_served_get_a_fitting_status() {
    let place = Place::new("refusals", ", api_open: true");
    let daemon = Daemon::start(&place);
    let json = "application/json";
    for (request, expected) in [
        (post("/run", json, r#"{"job":"nope"}"#), 404),
        (post("/kill", json, r#"{"job":"hello"}"#), 409),
        (post("/kill", json, "not json"), 400),
        (post("/run", json, "{}"), 400),
        // an array is no object, though serde would take its items for fields
        (post("/run", json, r#"["hello"]"#), 400),
        (post("/api/v1/jobs/hello/run", json, "[null, null]"), 400),
        (post("/run", "text/plain", r#"{"job":"hello"}"#), 415),
        (get("/run"), 405),
        (get("/nowhere"), 404),
        (get("/api/v1/runs/x/machines/y/output"), 404),
        (get("/version"), 200),
        (get("/status").replace("localhost", "evil.example"), 403),
    ] {
        let (status, body) = daemon.http(&request);
        assert_eq!(status, expected, "{request}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let is_new = request.contains(" /api/v1/") || request.contains(" /nowhere");
        let is_refusal = if is_new {
            answer["status"] == expected && answer["detail"].is_string()
        } else {
            answer["status"] == "error" && answer["message"].is_string()
        };
        assert!(expected == 200 || is_refusal, "{body}");
    }
}

#[test]
fn without_a_token_only_the_unix_socket_may_act() {
    let place = Place::new("socket", "");
    let daemon = Daemon::start(&place);
    let run = post("/run", "application/json", r#"{"job":"hello"}"#);
    assert_eq!(daemon.http(&get("/status")).0, 200);
    assert_eq!(daemon.http(&run).0, 401);
    let socket = UnixStream::connect(place.0.join("state/control.sock")).unwrap();
    let (status, body) = exchange(socket, &run);
    assert_eq!(status, 200, "{body}");
    outcome(&daemon);
}

#[test]
fn a_port_in_use_is_said_once_with_its_address() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let place = Place::new("port", "");
    let file = place.0.join("jobs.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("machines_ws_port: 0", &format!("machines_ws_port: {port}")),
    )
    .unwrap();
    let output = spawn(&place.0).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches(&format!("127.0.0.1:{port}")).count(), 1, "{said}");
    assert!(said.contains("machines_ws_port"), "{said}");
}
