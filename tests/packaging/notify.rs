//! Notifications to systemd (ready, watchdog, status, stopping), and the format of the journal.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use saltpeter::clock;

const PATIENCE_MS: u64 = 120_000;

struct Service {
    dir: PathBuf,
    manager: UnixDatagram,
    heard: String,
    child: Child,
}

impl Service {
    /// Starts the daemon as systemd does, with its standard error in `dir/stderr`.
    fn start(name: &str, settings: &str, arguments: &[&str]) -> Service {
        Service::start_with_levels(name, settings, arguments, "")
    }

    /// The same with SALTPETER_LOG.
    fn start_with_levels(name: &str, settings: &str, arguments: &[&str], levels: &str) -> Service {
        let dir = std::env::temp_dir().join(format!("saltpeter-notify-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "saltpeter_config: {{{settings}, state_dir: state, logdir: log, api_ws_port: 0, machines_ws_port: 0,\n  \
             machines_ws_bind_addr: 127.0.0.1}}\n\
             often: {{sec: '*', min: '*', hour: '*', dom: '*', mon: '*', dow: '*', targets: '*', command: 'echo hello'}}\n"
        );
        fs::write(dir.join("jobs.yaml"), text).unwrap();
        let manager = UnixDatagram::bind(dir.join("notify")).unwrap();
        let wait = Duration::from_millis(PATIENCE_MS);
        manager.set_read_timeout(Some(wait)).unwrap();
        let stderr = fs::File::create(dir.join("stderr")).unwrap();
        let stat = rustix::fs::fstat(&stderr).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_saltpeter"))
            .args(["serve", "-c"])
            .arg(&dir)
            .args(arguments)
            .env("NOTIFY_SOCKET", dir.join("notify"))
            .env("WATCHDOG_USEC", "4000000")
            .env("SALTPETER_LOG", levels)
            .env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino))
            .stdin(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Service {
            dir,
            manager,
            heard: String::new(),
            child,
        }
    }

    /// Receives notifications until one contains `line`.
    fn hear(&mut self, line: &str) {
        let ends_at = clock::mono().plus_ms(PATIENCE_MS);
        let mut buffer = [0; 1024];
        while !self.heard.contains(line) {
            assert!(clock::mono() < ends_at, "{line:?} not among {:?}", self.heard);
            let length = self.manager.recv(&mut buffer).expect("a notification");
            self.heard
                .push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
    }

    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn log(&self) -> Vec<String> {
        let file = fs::File::open(self.dir.join("stderr")).unwrap();
        BufReader::new(file).lines().map(Result::unwrap).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn systemd_is_notified_of_readiness_then_of_status_and_life_then_of_stopping() {
    let mut service = Service::start("life", "executor: local, local_machines: [web01]", &[]);
    service.hear("READY=1\n");
    assert!(
        service.heard.starts_with("READY=1\n"),
        "nothing before: {}",
        service.heard
    );
    let log = service.log();
    assert!(
        log.iter().any(|line| line.starts_with("listening: ")),
        "ready means listening"
    );
    service.hear("STATUS=1 jobs, ");
    for _ in 0..3 {
        service.heard.clear();
        service.hear("WATCHDOG=1\n");
    }
    service.stop();
    service.hear("STOPPING=1\n");
}

#[test]
fn a_daemon_that_hangs_does_not_feed_the_watchdog() {
    let mut service = Service::start("hang", "executor: local, local_machines: [web01]", &[]);
    service.hear("WATCHDOG=1\n");
    let pid = rustix::process::Pid::from_child(&service.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let pause = Duration::from_millis(4_000);
    service.manager.set_read_timeout(Some(pause)).unwrap();
    let mut buffer = [0; 1024];
    // what was sent before it was stopped; then nothing for as long as the watchdog waits
    let mut messages = 0;
    while service.manager.recv(&mut buffer).is_ok() {
        messages += 1;
        assert!(messages < 100);
    }
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let wait = Duration::from_millis(PATIENCE_MS);
    service.manager.set_read_timeout(Some(wait)).unwrap();
    service.heard.clear();
    service.hear("WATCHDOG=1\n");
    service.stop();
}

#[test]
fn the_journal_format_has_priorities_and_no_timestamps_and_json_is_json() {
    let mut service = Service::start("journal", "executor: local, dbug: true", &[]);
    service.hear("READY=1\n");
    service.stop();
    let log = service.log();
    assert!(
        log.iter()
            .any(|line| line.starts_with("<4>saltpeter") && line.contains("dbug")),
        "{log:?}"
    );
    assert!(log.iter().any(|line| line.starts_with("<6>saltpeter")), "{log:?}");
    drop(service);
    let mut service = Service::start("json", "executor: local, dbug: true", &["--log-format", "json"]);
    service.hear("READY=1\n");
    service.stop();
    let entries: Vec<serde_json::Value> = service
        .log()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let has = |text: &str| {
        entries
            .iter()
            .any(|entry| entry["message"].as_str().unwrap().starts_with(text))
    };
    assert!(has("listening: ") && has("stopped"), "{entries:?}");
}

#[test]
fn a_level_for_one_module_logs_its_lines_only() {
    let mut service =
        Service::start_with_levels("levels", "executor: local, dbug: true", &[], "error,engine=info");
    let ends_at = clock::mono().plus_ms(PATIENCE_MS);
    let (_keep, never) = crossbeam_channel::bounded::<()>(0);
    let completed = |log: &[String]| {
        log.iter()
            .any(|line| line.starts_with("<6>saltpeter::engine: WebSocket: "))
    };
    while !completed(&service.log()) {
        assert!(
            clock::mono() < ends_at,
            "the engine logs nothing: {:?}",
            service.log()
        );
        let _ = never.recv_timeout(Duration::from_millis(20));
    }
    service.stop();
    let is_engines = |line: &String| line.starts_with("listening: ") || line.contains(">saltpeter::engine: ");
    assert!(service.log().iter().all(is_engines), "{:?}", service.log());
}

/// Also, the logs of two daemons can be compared.
#[test]
fn in_shadow_mode_due_times_are_recorded_and_nothing_is_started() {
    let mut service = Service::start("shadow", "executor: none", &[]);
    let log = service.dir.join("log/often.log");
    let ends_at = clock::mono().plus_ms(PATIENCE_MS);
    let (_keep, never) = crossbeam_channel::bounded::<()>(0);
    let starts = |text: &str| text.matches("###### Starting often_").count();
    while starts(&fs::read_to_string(&log).unwrap_or_default()) < 3 {
        assert!(clock::mono() < ends_at, "the job was never due");
        let _ = never.recv_timeout(Duration::from_millis(20));
    }
    service.stop();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("shadow mode") && !text.contains("hello"), "{text}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_saltpeter"));
    let compare = command
        .arg("compare")
        .arg(service.dir.join("log"))
        .arg("-c")
        .arg(&service.dir);
    let output = compare.output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && told.contains(" 0 only here, 0 only there"),
        "{told}"
    );
}
