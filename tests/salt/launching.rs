//! How a wrapper is started, and what becomes of one that cannot be.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use saltpeter::clock;
use serde_json::{Value, json};

use crate::daemon::{Daemon, codes, job, with};
use crate::lab;

#[test]
fn a_wrapper_that_cannot_be_started_is_254_within_seconds_in_the_minions_words() {
    let Some(lab) = lab::shared() else { return };
    let directory = lab.0.root.join("wrappers");
    fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, content: &[u8], mode: u32| {
        let path = directory.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_string()
    };
    // a 64-bit ELF header for a machine that nobody has
    let mut foreign = b"\x7fELF\x02\x01\x01".to_vec();
    foreign.resize(64, 0);
    foreign[16] = 2;
    foreign[18] = 0xee;
    let cases = [
        ("missing", "/nowhere/sp-wrapper".to_string(), "No such file"),
        (
            "not_executable",
            file("plain", b"#!/bin/sh\n", 0o644),
            "Permission denied",
        ),
        (
            "wrong_architecture",
            file("foreign", &foreign, 0o755),
            "/wrappers/foreign",
        ),
        (
            "fails",
            file("fails", b"#!/bin/sh\necho out of luck >&2; exit 7\n", 0o755),
            "exited with 7: out of luck",
        ),
    ];
    let mut files = json!({});
    for (name, path, _) in &cases {
        files[name] = with(job(json!("web-a"), "true"), json!({"wrapper_path": path}));
    }
    let daemon = Daemon::start(lab, files);
    for (name, _, words) in &cases {
        let begun = clock::mono();
        let results = daemon.outcome(name, 60);
        let took_ms = clock::mono().since_ms(begun);
        assert_eq!(codes(&results), [("web-a", 254)], "{name}");
        let ret = results["web-a"]["ret"].as_str().unwrap();
        assert!(ret.contains(words), "{name}: {ret}");
        assert!(took_ms < 20_000, "{name} took {took_ms} ms");
    }
}

#[test]
fn user_cwd_and_env_arrive_byte_for_byte_in_a_dispatch() {
    let Some(lab) = lab::shared() else { return };
    let values = [
        "a 'single' and \"double\"",
        "line 1\nline 2\ttab\r",
        "$HOME $(id) `id` %s %% {{ x }} {% y %} {}",
        "back\\slash \\n \u{1b}[0m",
        "Grüße, 東京, 🧂",
        "",
        " 007 true null ",
    ];
    let mut env = json!({});
    let mut command = String::from("pwd; id -un; ");
    for (number, value) in values.iter().enumerate() {
        env[format!("VALUE_{number}")] = json!(value);
        command += &format!("printf '%s|#|' \"$VALUE_{number}\"; ");
    }
    let more = json!({"env": env, "cwd": "/usr/lib", "user": "daemon", "wrapper_delivery": "env"});
    let socket = json!({"wrapper_delivery": "socket"});
    let daemon = Daemon::start(
        lab,
        json!({
            "in_env": with(job(json!("web-a"), &command), more.clone()),
            "over_socket": with(with(job(json!("web-a"), &command), more), socket),
        }),
    );
    let expected = format!("/usr/lib\ndaemon\n{}|#|", values.join("|#|"));
    for job in ["in_env", "over_socket"] {
        let instance = daemon.run(job);
        let results = daemon.results(job, &instance, 60);
        assert_eq!(codes(&results), [("web-a", 0)], "{job}: {results}");
        assert_eq!(daemon.output(&instance, "web-a"), expected, "{job}");
    }
}

#[test]
fn a_kill_ends_the_run_on_three_minions() {
    let Some(lab) = lab::shared() else { return };
    let daemon = Daemon::start(
        lab,
        json!({"long": job(json!("*"), "echo begun; exec sleep 300")}),
    );
    let instance = daemon.run("long");
    for machine in lab::MINIONS {
        daemon.wait_for_output("long", machine, "begun", 60);
    }
    daemon.kill_job("long");
    let results = daemon.results("long", &instance, 30);
    assert_eq!(codes(&results), [("db1", 143), ("web-a", 143), ("web-b", 143)]);
    let ret = results["db1"]["ret"].as_str().unwrap();
    assert!(ret.contains("[Job terminated by user request]"), "{ret}");
}

#[test]
fn without_salt_the_daemon_runs_and_every_run_says_why_it_did_not_start() {
    let Some(lab) = lab::shared() else { return };
    let daemon = Daemon::start(
        lab,
        json!({
            "j": job(json!("*"), "true"),
            "saltpeter_config": {"salt_python": "/nowhere/python3"},
        }),
    );
    assert_eq!(daemon.outcome("j", 30), json!({}));
    let status = daemon.status();
    let note = status["state"]["j"]["note"].to_string();
    assert!(note.contains("no Python with a working Salt was found"), "{note}");
    assert!(note.contains("/nowhere/python3"), "{note}");
    let troubles = status["troubles"].to_string();
    assert!(troubles.contains("no machine can be reached"), "{troubles}");
    assert!(daemon.log().contains("no Python with a working Salt"));
}

#[test]
fn a_python_without_salt_says_so() {
    let Some(lab) = lab::shared() else { return };
    let python = Value::from("/usr/bin/python3");
    if !std::path::Path::new("/usr/bin/python3").exists() {
        return;
    }
    let daemon = Daemon::start(
        lab,
        json!({"j": job(json!("*"), "true"), "saltpeter_config": {"salt_python": python}}),
    );
    assert_eq!(daemon.outcome("j", 40), json!({}));
    let note = daemon.status()["state"]["j"]["note"].to_string();
    assert!(note.contains("No module named 'salt'"), "{note}");
}
