//! What keeps a daemon from starting is named; what befalls it at run time stops no cron.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use serde_json::json;

use crate::support::daemon::{Daemon, Plan, every_second, free_port, job, job_with};
use crate::support::{Scratch, until, until_within};

/// It ends with 1 and says each of these.
fn refuses(daemon: &Daemon, named: &[&str]) {
    let ended = daemon.start_in_vain();
    let said = daemon.said();
    assert_eq!(ended.code(), Some(1), "{said}");
    for name in named {
        assert!(said.contains(name), "'{name}' is not named: {said}");
    }
    assert!(said.lines().count() <= 3, "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_port_in_use_is_named_with_its_setting() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    for setting in ["api_ws_port", "machines_ws_port"] {
        let daemon = Plan::new(json!({})).setting(setting, json!(port)).prepare();
        refuses(&daemon, &[&port.to_string(), setting]);
    }
    let daemon = Plan::new(json!({}))
        .setting("machines_ws_port", json!(free_port()))
        .setting("machines_ws_bind_addr", json!("192.0.2.1"))
        .prepare();
    refuses(&daemon, &["192.0.2.1", "machines_ws_bind_addr"]);
}

#[test]
fn a_state_dir_that_cannot_be_used_is_named() {
    let scratch = Scratch::new();
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    let nowhere = scratch.path().join("no/such/directory");
    for path in [
        file.as_path(),
        &nowhere,
        Path::new("/proc/saltpeter"),
        Path::new("/tmp"),
    ] {
        let daemon = Plan::new(json!({})).state_dir(path).prepare();
        refuses(&daemon, &[path.to_str().unwrap(), "state_dir"]);
    }
}

#[test]
fn a_configuration_directory_that_cannot_be_read_is_named() {
    let daemon = Plan::new(json!({})).prepare();
    let conf = daemon.path("conf");
    std::fs::rename(&conf, daemon.path("away")).unwrap();
    refuses(&daemon, &[conf.to_str().unwrap()]);
    std::fs::write(&conf, "no directory").unwrap();
    refuses(&daemon, &[conf.to_str().unwrap()]);
}

#[test]
fn state_is_nobody_elses_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Plan::new(json!({"a": job("echo secret")})).start();
    daemon.run_to_end("a");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&daemon.state_dir()), 0o700);
    for entry in std::fs::read_dir(daemon.state_dir()).unwrap().flatten() {
        let wanted = if entry.path().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&entry.path()), wanted, "{:?}", entry.path());
    }
}

/// A small file system in memory; None, and a word about it, where that is not permitted.
struct SmallDisk(PathBuf, Scratch);

impl SmallDisk {
    fn mount(test: &str, size: &str) -> Option<SmallDisk> {
        let scratch = Scratch::new();
        let path = scratch.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"])
            .arg(&path)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(path, scratch));
        }
        eprintln!("SKIPPED {test}: a file system cannot be mounted here");
        None
    }

    /// Takes what is free, to the last page, but not what the daemon frees for its facts meanwhile.
    fn fill(&self) {
        let filler = std::fs::File::create(self.0.join("filler")).unwrap();
        let reserve = self.0.join("reserve");
        let had_reserve = reserve.exists();
        let mut filled = 0;
        loop {
            let space = statvfs(&self.0).unwrap();
            if space.f_bavail == 0 || had_reserve && !reserve.exists() {
                return;
            }
            let free = space.f_bavail * space.f_frsize;
            match fallocate(&filler, FallocateFlags::empty(), filled, free) {
                Ok(()) => filled += free,
                // the daemon has taken some of it since
                Err(error) => assert_eq!(error, Errno::NOSPC),
            }
        }
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = &self.1;
    }
}

#[test]
fn a_full_disk_at_the_start_is_named() {
    let Some(disk) = SmallDisk::mount("a_full_disk_at_the_start_is_named", "64k") else {
        return;
    };
    disk.fill();
    let daemon = Plan::new(json!({})).state_dir(&disk.0).prepare();
    refuses(&daemon, &[disk.0.to_str().unwrap()]);
}

#[test]
fn a_disk_that_fills_up_stops_no_cron_and_loses_no_output() {
    let test = "a_disk_that_fills_up_stops_no_cron_and_loses_no_output";
    let Some(disk) = SmallDisk::mount(test, "64m") else {
        return;
    };
    let daemon = Plan::new(json!({
        "tick": every_second("echo tick", json!({})),
        "lines": job("i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo line $i; sleep 0.05; done; exit 5"),
        "long": job_with("echo ready; exec sleep 60", json!({"timeout": 0})),
    }))
    .state_dir(&disk.0)
    .start();
    let long = daemon.run("long");
    daemon.wait_output(&long, "m1", "ready");
    let lines = daemon.run("lines");
    daemon.wait_output(&lines, "m1", "line 5\n");
    disk.fill();
    daemon.wait_status("the trouble", |status| {
        (!status["troubles"].as_array()?.is_empty()).then_some(())
    });
    daemon.wait_said("storage cannot write");
    // facts have their reserve: crons go on, and a kill is obeyed
    let started = "SELECT count(*) FROM runs WHERE job = 'tick'";
    let before = daemon.number(started, "");
    until("more starts", || {
        (daemon.number(started, "") >= before + 3).then_some(())
    });
    assert_eq!(daemon.kill("long").status, 200);
    let command = daemon.fact("pid", &long, "m1").unwrap() as i32;
    until("the killed command's end", || {
        (!crate::support::is_alive(command)).then_some(())
    });
    until("the command's end", || {
        let pid = daemon.fact("pid", &lines, "m1")? as i32;
        (!crate::support::is_alive(pid)).then_some(())
    });
    disk.clear();
    daemon.wait_status("no trouble", |status| {
        (status["troubles"].as_array()?.is_empty()).then_some(())
    });
    daemon.wait_ended(&lines);
    daemon.wait_ended(&long);
    assert_eq!(
        (daemon.retcode(&lines, "m1"), daemon.retcode(&long, "m1")),
        (5, 143)
    );
    let whole: String = (1..=100).map(|number| format!("line {number}\n")).collect();
    assert_eq!(daemon.output_text(&lines, "m1"), whole);
    // every run that started has ended well, with its output
    daemon.write_jobs("jobs", &json!({}));
    let open = "SELECT count(*) FROM runs WHERE stage <> 'ended'";
    until_within(60_000, "all ends", || {
        (daemon.number(open, "") == 0).then_some(())
    });
    let failed = "SELECT count(*) FROM runs WHERE job = 'tick' AND success <> 1";
    assert_eq!(daemon.number(failed, ""), 0);
    for row in daemon.rows("SELECT instance FROM runs WHERE job = 'tick'", "") {
        let rusqlite::types::Value::Text(instance) = &row[0] else {
            panic!()
        };
        assert_eq!(daemon.output_text(instance, "m1"), "tick\n", "{instance}");
    }
    let doubled = "SELECT count(*) - count(DISTINCT due) FROM runs WHERE due IS NOT NULL";
    assert_eq!(daemon.number(doubled, ""), 0);
}

#[test]
fn one_binary_alone_is_enough() {
    let scratch = Scratch::new();
    let alone = scratch.path().join("saltpeter");
    let program = env!("CARGO_BIN_EXE_saltpeter");
    // the same file where that is possible: a copy takes its time
    if std::fs::hard_link(program, &alone).is_err() {
        std::fs::copy(program, &alone).unwrap();
    }
    let daemon = Plan::new(json!({"a": job("echo alone; exit 3")}))
        .program(&alone)
        .start();
    assert_eq!(daemon.run_to_end("a"), (3, "alone\n".into()));
    // and it may be replaced while it runs
    std::fs::remove_file(&alone).unwrap();
    assert_eq!(daemon.run_to_end("a"), (3, "alone\n".into()));
}
