//! The command line against a running daemon, as people and scripts use it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use super::token;
use crate::support::daemon::{Daemon, Plan, job, job_with};
use crate::support::{Scratch, until};

fn saltpeter(daemon: &Daemon, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saltpeter"))
        .args(arguments)
        .arg("-c")
        .arg(daemon.path("conf"))
        .env_remove("SALTPETER_URL")
        .env_remove("SALTPETER_TOKEN")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_script_runs_a_job_and_has_its_outcome_as_exit_code() {
    let jobs = json!({
        "good": job("echo fine"), "bad": job_with("exit 42", json!({"targets": "*"})),
        "odd": job_with("exit ${SP_MACHINE_ID#m}", json!({"targets": "*", "parameters": {"x": ""}})),
    });
    // the socket needs neither token nor api_open
    let daemon = Plan::new(jobs).setting("api_open", json!(false)).start();
    let good = saltpeter(&daemon, &["run", "good", "--wait"], &[]);
    assert_eq!(code(&good), 0, "{}", err(&good));
    assert!(
        out(&good).starts_with("good_") && out(&good).contains("m1"),
        "{}",
        out(&good)
    );
    assert!(
        !out(&good).contains('\x1b') && err(&good).is_empty(),
        "no colours, no progress but on a terminal"
    );
    assert_eq!(code(&saltpeter(&daemon, &["run", "bad", "--wait"], &[])), 42);
    assert_eq!(code(&saltpeter(&daemon, &["run", "odd", "--wait"], &[])), 1);
    let one = saltpeter(
        &daemon,
        &["run", "odd", "-m", "m2", "-p", "x=y", "--wait", "--json"],
        &[],
    );
    assert_eq!(code(&one), 2, "{}", err(&one));
    let run: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(
        (&run["parameters"]["x"], &run["outcome"]),
        (&json!("y"), &json!("failed"))
    );
    let again = saltpeter(
        &daemon,
        &["retry", run["instance"].as_str().unwrap(), "--wait"],
        &[],
    );
    assert_eq!(code(&again), 2, "{}", err(&again));
    let refused = saltpeter(&daemon, &["run", "odd", "-p", "nope=1"], &[]);
    assert_eq!(code(&refused), 1);
    assert!(
        err(&refused).contains("declares no parameter 'nope'"),
        "{}",
        err(&refused)
    );
    let unknown = saltpeter(&daemon, &["run", "goood"], &[]);
    assert_eq!(code(&unknown), 1);
    assert!(
        err(&unknown).contains("'goood'; did you mean 'good'?"),
        "{}",
        err(&unknown)
    );
    assert_eq!(code(&saltpeter(&daemon, &["run"], &[])), 2);
}

#[test]
fn who_waits_for_a_run_waits_also_while_the_daemon_is_restarted() {
    let daemon = Plan::new(json!({})).restarts().prepare();
    let flag = daemon.path("go");
    let go = "echo begun; while [ ! -e $GO ]; do sleep 0.05; done; exit 7";
    let fields = json!({"env": {"GO": flag}});
    daemon.write_jobs("jobs", &json!({"slow": job_with(go, fields)}));
    daemon.start();
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_saltpeter"))
        .args(["run", "slow", "--wait", "-c"])
        .arg(daemon.path("conf"))
        .env_remove("SALTPETER_URL")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(waiting.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    daemon.wait_output(line.trim(), "m1", "begun");
    daemon.stop();
    daemon.start();
    std::fs::write(&flag, "").unwrap();
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(code(&waited), 7, "{}", err(&waited));
}

/// `logs -f` of that run, when it has printed `begun`.
fn following(daemon: &Daemon, instance: &str, environment: &[(&str, &str)]) -> Child {
    let mut following = Command::new(env!("CARGO_BIN_EXE_saltpeter"))
        .args(["logs", "-f", instance, "-c"])
        .arg(daemon.path("conf"))
        .env_remove("SALTPETER_URL")
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 6];
    following.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"begun\n");
    following
}

#[test]
fn logs_are_followed_over_a_restart_of_the_daemon() {
    let daemon = Plan::new(json!({})).restarts().prepare();
    let talk = "echo begun; while [ ! -e $GO ]; do sleep 0.05; done; echo ended";
    let fields = json!({"env": {"GO": daemon.path("go")}});
    daemon.write_jobs("jobs", &json!({"slow": job_with(talk, fields)}));
    daemon.start();
    let instance = daemon.run("slow");
    daemon.wait_output(&instance, "m1", "begun");
    let following = following(&daemon, &instance, &[]);
    daemon.kill_hard();
    daemon.start();
    std::fs::write(daemon.path("go"), "").unwrap();
    let followed = following.wait_with_output().unwrap();
    assert_eq!(code(&followed), 0, "{}", err(&followed));
    assert_eq!(out(&followed), "ended\n");
}

#[test]
fn an_output_that_breaks_off_is_no_success() {
    let daemon = Plan::new(json!({"slow": job("echo begun; sleep 600")}))
        .setting("api_tokens", json!([token("see", "read", "r")]))
        .start();
    let instance = daemon.run("slow");
    daemon.wait_output(&instance, "m1", "begun");
    let url = format!("http://127.0.0.1:{}", daemon.api_port());
    let environment = [("SALTPETER_URL", url.as_str()), ("SALTPETER_TOKEN", "r")];
    let following = following(&daemon, &instance, &environment);
    daemon.set("api_tokens", json!([token("see", "read", "other")]));
    let followed = following.wait_with_output().unwrap();
    assert_eq!(code(&followed), 69);
    let said = err(&followed);
    assert!(
        said.contains("broke off") && said.contains("invalid token"),
        "{said}"
    );
}

#[test]
fn an_operator_looks_follows_and_kills() {
    let go = "echo one; while [ ! -e $GO ]; do sleep 0.05; done; echo two";
    let daemon = Plan::new(json!({})).prepare();
    let flag = daemon.path("go");
    let fields = json!({"targets": "*", "env": {"GO": flag}, "description": "d"});
    daemon.write_jobs(
        "jobs",
        &json!({"slow": job_with(go, fields), "idle": job("true")}),
    );
    daemon.start();
    let run = saltpeter(&daemon, &["run", "slow"], &[]);
    let instance = out(&run).trim().to_string();
    daemon.wait_output(&instance, "m2", "one");
    let status = saltpeter(&daemon, &["status"], &[]);
    assert_eq!(code(&status), 0, "{}", err(&status));
    let line = out(&status)
        .lines()
        .find(|line| line.starts_with("slow "))
        .unwrap()
        .to_string();
    assert!(line.contains("running"), "{line}");
    assert_eq!(
        out(&saltpeter(&daemon, &["status", "--names"], &[])),
        "idle\nslow\n"
    );
    assert_eq!(code(&saltpeter(&daemon, &["kill", "slow", "m2"], &[])), 0);
    until("the end of m2", || daemon.fact("retcode", &instance, "m2"));
    std::fs::write(&flag, "").unwrap();
    let logs = saltpeter(&daemon, &["logs", "-f", "slow", "m1"], &[]);
    assert_eq!(
        (code(&logs), out(&logs).as_str()),
        (0, "one\ntwo\n"),
        "{}",
        err(&logs)
    );
    let logs = out(&saltpeter(&daemon, &["logs", "-f", &instance], &[]));
    for line in [
        "m1: two",
        "m3: two",
        "m2: one",
        "m2: [Job terminated by user request]",
    ] {
        assert!(logs.lines().any(|found| found == line), "{line}: {logs}");
    }
    let logs = out(&saltpeter(&daemon, &["logs", "slow"], &[]));
    assert!(
        logs.contains("== m2 (143)\n") && logs.contains("== m1 (0)\none\ntwo\n"),
        "{logs}"
    );
    let shown = out(&saltpeter(&daemon, &["status", "slow"], &[]));
    assert!(shown.contains(&instance) && shown.contains("killed"), "{shown}");
    let runs = out(&saltpeter(&daemon, &["runs", "slow", "--outcome", "failed"], &[]));
    assert!(runs.contains(&instance) && runs.contains("killed by "), "{runs}");
    assert!(!out(&saltpeter(&daemon, &["runs", "idle"], &[])).contains("slow_"));
    let nothing = saltpeter(&daemon, &["kill", "slow"], &[]);
    assert_eq!(code(&nothing), 1);
    assert!(err(&nothing).contains("slow is not running"));
    let neither = saltpeter(&daemon, &["logs", "nope"], &[]);
    assert_eq!(code(&neither), 1);
    assert!(err(&neither).contains("'nope'") && err(&neither).contains("nor such a run"));
    assert_eq!(code(&saltpeter(&daemon, &["kill", "nope"], &[])), 1);
}

#[test]
fn what_cannot_be_written_to_its_output_is_a_failure() {
    let daemon = Plan::new(json!({"slow": job("echo one")})).start();
    assert_eq!(code(&saltpeter(&daemon, &["run", "slow", "--wait"], &[])), 0);
    for verb in ["logs", "status"] {
        let command = format!(
            "'{}' {verb} slow -c '{}' >/dev/full",
            env!("CARGO_BIN_EXE_saltpeter"),
            daemon.path("conf").display()
        );
        let full = Command::new("sh")
            .args(["-c", &command])
            .env_remove("SALTPETER_URL")
            .output()
            .unwrap();
        assert_eq!(code(&full), 1, "{verb}");
        assert!(err(&full).contains("cannot write"), "{verb}: {}", err(&full));
    }
}

#[test]
fn jobs_are_paused_and_machines_taken_out_from_the_command_line() {
    let daemon = Plan::new(json!({"j": job("true")})).start();
    assert_eq!(
        code(&saltpeter(
            &daemon,
            &["pause", "j", "--reason", "why", "--until", "now+1h"],
            &[]
        )),
        0
    );
    assert!(out(&saltpeter(&daemon, &["status", "j"], &[])).contains("why"));
    assert_eq!(code(&saltpeter(&daemon, &["resume", "j"], &[])), 0);
    assert_eq!(code(&saltpeter(&daemon, &["seen", "j"], &[])), 0);
    assert_eq!(code(&saltpeter(&daemon, &["seen", "nope"], &[])), 1);
    assert_eq!(code(&saltpeter(&daemon, &["maintenance", "on"], &[])), 2);
    let on = saltpeter(
        &daemon,
        &["maintenance", "on", "-m", "m1", "--reason", "disk", "--for", "2h"],
        &[],
    );
    assert_eq!(code(&on), 0, "{}", err(&on));
    let shown = out(&saltpeter(&daemon, &["maintenance"], &[]));
    assert!(
        shown.contains("left out: m1") && shown.contains("disk"),
        "{shown}"
    );
    assert_eq!(
        code(&saltpeter(&daemon, &["maintenance", "clear", "-m", "m1"], &[])),
        0
    );
    assert_eq!(
        code(&saltpeter(&daemon, &["maintenance", "clear", "-m", "m1"], &[])),
        1
    );
}

#[test]
fn over_the_network_a_token_is_needed_and_its_role_counts() {
    let daemon = Plan::new(json!({"j": job("true")})).prepare();
    let made = |role: &str| -> Value {
        let output = saltpeter(&daemon, &["token", "me", role, "--json"], &[]);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (reader, operator) = (made("read"), made("operate"));
    let entry = |made: &Value| json!({"name": made["role"], "role": made["role"], "sha256": made["sha256"]});
    daemon.set("api_open", json!(false));
    daemon.set(
        "api_tokens",
        json!([entry(&reader), entry(&operator), token("x", "admin", "y")]),
    );
    daemon.start();
    let url = format!("http://127.0.0.1:{}", daemon.api_port());
    let with = |made: &Value, arguments: &[&str]| {
        let token = made["token"].as_str().unwrap();
        saltpeter(
            &daemon,
            arguments,
            &[("SALTPETER_URL", &url), ("SALTPETER_TOKEN", token)],
        )
    };
    assert_eq!(code(&with(&reader, &["status"])), 0);
    assert_eq!(code(&with(&reader, &["run", "j"])), 77);
    assert_eq!(code(&with(&operator, &["run", "j", "--wait"])), 0);
    assert_eq!(code(&with(&json!({"token": "wrong"}), &["status"])), 77);
    assert_eq!(
        code(&saltpeter(
            &daemon,
            &["status", "--url", "http://127.0.0.1:1"],
            &[]
        )),
        69
    );
    assert_eq!(code(&saltpeter(&daemon, &["status", "--url", "ftp://x"], &[])), 2);
    // without --json the token is apart from what is configured
    let output = saltpeter(&daemon, &["token", "me", "admin"], &[]);
    let token = err(&output).trim().rsplit(' ').next().unwrap().to_string();
    assert!(token.starts_with("sp_") && !out(&output).contains(&token));
    assert!(out(&output).starts_with("saltpeter_config:\n  api_tokens:\n"));
    assert_eq!(code(&saltpeter(&daemon, &["token", "me", "king"], &[])), 2);
}

#[test]
fn shells_accept_the_completions() {
    let daemon = Plan::new(json!({})).prepare();
    for shell in ["bash", "zsh", "fish"] {
        let output = saltpeter(&daemon, &["completions", shell], &[]);
        assert_eq!(code(&output), 0);
        let text = out(&output);
        assert!(text.contains("maintenance") && text.contains("retry"), "{text}");
        let checked = Command::new(shell).args(["-n", "-c", &text]).output();
        match checked {
            Ok(checked) if shell != "fish" => assert!(checked.status.success(), "{}", err(&checked)),
            Ok(_) => {}
            Err(_) => eprintln!("SKIPPED the check of {shell}: it is not installed"),
        }
    }
}

#[test]
fn a_jobs_name_is_completed_as_it_is_and_runs_nothing() {
    let scratch = Scratch::new();
    let trap = scratch.path().join("trap");
    let evil = format!("$(touch {})", trap.display());
    let daemon =
        Plan::new(json!({"backup": job("true"), "back up": job("true"), &*evil: job("true")})).start();
    let script = out(&saltpeter(&daemon, &["completions", "bash"], &[]));
    let url = format!("unix:{}", daemon.state_dir().join("control.sock").display());
    let complete = |word: &str| {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_saltpeter"))
            .parent()
            .unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let ask = "\nCOMP_WORDS=(saltpeter run \"$WORD\"); COMP_CWORD=2; _saltpeter; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let output = Command::new("bash")
            .args(["--norc", "-c", &format!("{script}{ask}")])
            .env("WORD", word)
            .env("SALTPETER_URL", &url)
            .env("PATH", path)
            .output()
            .unwrap();
        out(&output)
    };
    assert_eq!(complete("backu"), "backup\n");
    assert_eq!(complete("back"), "back\\ up\nbackup\n");
    assert_eq!(complete("").lines().count(), 3);
    assert!(!trap.exists(), "a job's name was run as a command");
}
