//! With delivery over the socket, a job's command and environment leave no trace in Salt, in `ps` or in logs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::daemon::{Daemon, codes, job, with};
use crate::{lab, processes, wait};

/// Prints every event of the master's bus.
const LISTENER: &str = "
import sys, salt.config, salt.utils.event
opts = salt.config.client_config(sys.argv[1] + '/master')
bus = salt.utils.event.get_master_event(opts, opts['sock_dir'], listen=True)
bus.connect_pub(timeout=10)
print('LISTENING', flush=True)
while True:
    event = bus.get_event(wait=5, full=True)
    if event:
        print(event, flush=True)
";

#[test]
fn a_jobs_secrets_are_nowhere_but_in_its_own_process() {
    let Some((lab, hold)) = lab::shared() else { return };
    let (in_env, in_command) = ("marker-in-env-7f3a91", "marker-in-command-c04d55");
    let bus_file = lab.root.join("bus-events");
    let mut listener = Command::new(&lab.python)
        .args(["-u", "-c", LISTENER])
        .arg(lab.config())
        .stdin(Stdio::null())
        .stdout(fs::File::create(&bus_file).unwrap())
        .spawn()
        .unwrap();
    let bus = || fs::read_to_string(&bus_file).unwrap_or_default();
    wait::until("the listener", 30, || bus().contains("LISTENING").then_some(()));
    let command = format!("echo begun; test -n \"$SECRET\" && sleep 2; true {in_command}");
    let daemon = Daemon::start(
        (lab, hold),
        json!({"j": with(job(json!("*"), &command), json!({"env": {"SECRET": in_env}}))}),
    );
    let instance = daemon.run("j");
    let mut seen_in_ps = Vec::new();
    wait::until("the end", 60, || {
        for pid in processes::all() {
            let arguments = String::from_utf8_lossy(&processes::arguments(pid)).into_owned();
            // the command's own shell is given the command: /bin/sh -c COMMAND
            let is_its_shell = arguments.contains(&command) && arguments.starts_with("/bin/sh\0-c\0");
            if arguments.contains(in_env) || arguments.contains(in_command) && !is_its_shell {
                seen_in_ps.push(arguments);
            }
        }
        daemon.status()["running"][&instance].is_null().then_some(())
    });
    let results = daemon.results("j", &instance, 60);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
    assert_eq!(seen_in_ps, [""; 0]);
    wait::until("the returns on the bus", 10, || {
        bus().contains("cmd.run_all").then_some(())
    });
    let _ = listener.kill();
    let _ = listener.wait();
    // the job cache, master and minion logs at debug, the bus: all below the lab's directory
    let ours = ["conf", "state"].map(|part| daemon.directory.join(part));
    let mut files = Vec::new();
    collect(&lab.root, &ours, &mut files);
    let mut looked_at = [false; 4];
    for file in files {
        let content = fs::read(&file).unwrap_or_default();
        for marker in [in_env, in_command] {
            let is_there = content
                .windows(marker.len())
                .any(|part| part == marker.as_bytes());
            assert!(!is_there, "'{marker}' is in {}", file.display());
        }
        let name = file.to_string_lossy();
        let places = ["/jobs/", "/log/salt/minion", "/log/salt/master", "/bus-events"];
        for (place, was_seen) in places.iter().zip(&mut looked_at) {
            *was_seen |= name.contains(place) && !content.is_empty();
        }
    }
    assert_eq!(looked_at, [true; 4], "job cache, minion log, master log, bus");
}

/// All files below a directory, without what is ours by right (configuration, history).
fn collect(directory: &Path, without: &[PathBuf], files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && !without.contains(&path) {
            collect(&path, without, files);
        } else if kind.is_file() {
            files.push(path);
        }
    }
}
