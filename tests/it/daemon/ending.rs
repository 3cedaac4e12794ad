//! How runs end when somebody or something ends them: kills, time-outs, signals, children that stay.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::support::daemon::{Daemon, Plan, job, job_with};
use crate::support::{is_alive, never_within, run::pids_in, signal, until};

/// Writes its own pid, those of a child in the group and of one in a session of its own, then waits.
fn family_of_three(pids: &Path) -> String {
    let pids = pids.display();
    format!(
        "echo $$ >>{pids}; sleep 61 & echo $! >>{pids}; setsid sh -c 'echo $$ >>{pids}; exec sleep 62' & echo ready; wait"
    )
}

fn all_gone(pids: &[i32]) {
    for pid in pids {
        until(&format!("the end of process {pid}"), || {
            (!is_alive(*pid)).then_some(())
        });
    }
}

fn daemon(jobs: serde_json::Value) -> Daemon {
    Plan::new(jobs).start()
}

#[test]
fn a_kill_ends_group_and_setsid_child_with_143_and_says_so() {
    let scratch = crate::support::Scratch::new();
    let file = scratch.path().join("pids");
    let daemon = daemon(json!({"family": job_with(&family_of_three(&file), json!({"timeout": 0}))}));
    let instance = daemon.run("family");
    daemon.wait_output(&instance, "m1", "ready");
    let pids = pids_in(&file, 3);
    let reply = daemon.post("/kill", &json!({"job": "family", "machine": "m1"}));
    assert_eq!(
        (reply.status, &reply.json()["status"]),
        (200, &json!("ok")),
        "{}",
        reply.text()
    );
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
    assert_eq!(
        daemon.output_text(&instance, "m1").trim_end(),
        "ready\n[Job terminated by user request]"
    );
    all_gone(&pids);
    // what operators grep for
    let said = daemon.said();
    let mut rest = said.as_str();
    for line in [
        "WebSocket: Kill command received for job family".to_string(),
        format!("WebSocket: Sent kill signal to {instance}:m1"),
        format!("WebSocket: Received complete message from {instance}:m1, retcode=143"),
        "WebSocket: Updated state for family[m1] with endtime=".to_string(),
        "WebSocket: Target m1 completed, removing from pending (retcode: 143)".to_string(),
        "WebSocket: All targets completed for family, exiting monitor loop".to_string(),
    ] {
        let (_, behind) = rest
            .split_once(&line)
            .unwrap_or_else(|| panic!("in this order: {line}\n{said}"));
        rest = behind;
    }
}

#[test]
fn a_command_that_ignores_sigterm_is_gone_5_s_after_the_kill() {
    let daemon = daemon(json!({"deaf": job("trap '' TERM; echo ready; while :; do sleep 1; done")}));
    let instance = daemon.run("deaf");
    daemon.wait_output(&instance, "m1", "ready");
    assert_eq!(daemon.kill("deaf").status, 200);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
    let took_ms = (daemon.fact("ended", &instance, "m1").unwrap()
        - daemon.fact("kill_asked", &instance, "m1").unwrap())
        / 1_000;
    assert!(took_ms >= 5_000, "{took_ms}");
}

#[test]
fn a_timeout_ends_the_whole_family_with_124() {
    let scratch = crate::support::Scratch::new();
    let file = scratch.path().join("pids");
    let daemon = daemon(
        json!({"family": job_with(&family_of_three(&file), json!({"timeout": 1, "hard_timeout": 9}))}),
    );
    let instance = daemon.run("family");
    let pids = pids_in(&file, 3);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 124);
    all_gone(&pids);
}

#[test]
fn a_commands_own_124_143_253_254_or_255_is_its_failure_and_not_ours() {
    let codes = [124, 143, 253, 254, 255];
    let jobs: serde_json::Map<String, serde_json::Value> = codes
        .iter()
        .map(|code| (format!("own{code}"), job(&format!("exit {code}"))))
        .collect();
    let daemon = daemon(jobs.into());
    for code in codes {
        let instance = daemon.run(&format!("own{code}"));
        daemon.wait_ended(&instance);
        let run = daemon.get(&format!("/api/v1/runs/{instance}")).json();
        let machine = &run["machines"][0];
        assert_eq!(
            (&machine["retcode"], &machine["outcome"], &machine["given_by"]),
            (&json!(code), &json!("failed"), &json!("command")),
            "{run:#}"
        );
        assert_eq!(run["outcome"], "failed");
        let metric = format!("machine_runs_total{{job=\"own{code}\",group=\"jobs\",outcome=\"failed\"}} 1");
        let metrics = daemon.get("/metrics").text();
        assert!(metrics.contains(&metric), "{metric}\n{metrics}");
    }
}

#[test]
fn a_killed_run_reads_killed_with_who_asked_for_it() {
    let daemon = daemon(json!({"long": job("echo ready; exec sleep 60")}));
    let instance = daemon.run("long");
    daemon.wait_output(&instance, "m1", "ready");
    assert_eq!(daemon.kill("long").status, 200);
    daemon.wait_ended(&instance);
    let audit = daemon.get("/api/v1/audit?action=kill").json();
    let who = &audit["audit"][0]["by"];
    assert!(who.is_string(), "{audit}");
    let run = daemon.get(&format!("/api/v1/runs/{instance}")).json();
    let job = daemon.get("/api/v1/jobs/long").json();
    let killed = daemon.get("/api/v1/runs?outcome=killed").json();
    for shown in [&run, &run["machines"][0], &job["recent"][0], &killed["runs"][0]] {
        assert_eq!(
            (&shown["outcome"], &shown["killed_by"]),
            (&json!("killed"), who),
            "{shown:#}"
        );
    }
    assert_eq!(
        (&job["last_outcome"], &job["last_killed_by"]),
        (&json!("killed"), who)
    );
    let failed = daemon.get("/api/v1/runs?outcome=failed").json();
    assert_eq!(failed["runs"], killed["runs"], "it did not succeed either");
}

#[test]
fn a_command_that_ended_while_the_daemon_was_away_is_shown_with_its_own_duration() {
    let daemon = Plan::new(json!({"short": job("echo ready; exec sleep 1")}))
        .restarts()
        .start();
    let instance = daemon.run("short");
    daemon.wait_output(&instance, "m1", "ready");
    let command = daemon.fact("pid", &instance, "m1").unwrap() as i32;
    daemon.kill_hard();
    until("the command's end", || (!is_alive(command)).then_some(()));
    // the outage goes on for longer than the command took
    crate::support::pause(2_500);
    daemon.start();
    daemon.wait_ended(&instance);
    let run = daemon.get(&format!("/api/v1/runs/{instance}")).json();
    let machine_ms = run["machines"][0]["duration_ms"].as_u64().unwrap();
    assert!((900..2_400).contains(&machine_ms), "{run:#}");
    let run_ms = run["duration_ms"].as_u64().unwrap();
    assert!((machine_ms..3_400).contains(&run_ms), "{run:#}");
    // and the end as the daemon heard of it
    let at = |column| daemon.fact(column, &instance, "m1").unwrap();
    assert!(at("ended") - at("started") >= 3_400_000, "{run:#}");
}

#[test]
fn after_a_normal_end_children_are_named_and_left_alone() {
    let scratch = crate::support::Scratch::new();
    let file = scratch.path().join("pids");
    let pids = file.display();
    let daemon = daemon(json!({
        "holding": job(&format!("setsid sh -c 'echo $$ >>{pids}; exec sleep 61' & echo done; exit 5")),
        "silent": job(&format!("setsid sh -c 'echo $$ >>{pids}; exec sleep 62' >/dev/null 2>&1 & echo done")),
    }));
    let (code, output) = daemon.run_to_end("holding");
    let held = pids_in(&file, 1);
    assert_eq!(code, 5, "{output}");
    assert!(output.starts_with("done\n"), "{output}");
    assert!(output.contains(&held[0].to_string()), "{output}");
    assert!(is_alive(held[0]));
    // it does not delay the next run, whose child holds nothing
    assert_eq!(daemon.run_to_end("silent"), (0, "done\n".into()));
    assert!(pids_in(&file, 2).into_iter().all(is_alive));
}

#[test]
fn a_kill_before_the_wrapper_connects_ends_the_run_at_once_and_a_late_wrapper_starts_nothing() {
    let daemon = daemon(json!({}));
    // a wrapper of ours that is launched, but comes only when it is let go
    let gate = daemon.path("gate");
    let marker = daemon.path("started");
    let body = format!(
        "( while [ ! -e {} ]; do sleep 0.1; done; exec {} ) >/dev/null 2>&1 & exit 0",
        gate.display(),
        env!("CARGO_BIN_EXE_sp-wrapper")
    );
    let wrapper = daemon.script("sp-wrapper", &body);
    let fields = json!({"wrapper_path": wrapper});
    daemon.write_jobs(
        "jobs",
        &json!({"late": job_with(&format!("touch {}", marker.display()), fields)}),
    );
    daemon.wait_jobs(1);
    let instance = daemon.run("late");
    until("the launch", || daemon.fact("dispatched", &instance, "m1"));
    assert_eq!(daemon.kill("late").status, 200);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
    assert_eq!(
        daemon.output_text(&instance, "m1"),
        "[Job killed before execution]\n"
    );
    std::fs::write(gate, "").unwrap();
    until("the late wrapper's refusal", || {
        daemon
            .said()
            .contains(&format!("speaks for {instance}"))
            .then_some(())
    });
    until("its exit", || (daemon.family() == [daemon.pid()]).then_some(()));
    assert!(!marker.exists());
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
}

#[test]
fn a_wrapper_that_is_told_to_stop_reports_255() {
    let daemon = daemon(json!({"long": job("echo ready; exec sleep 60")}));
    let instance = daemon.run("long");
    daemon.wait_output(&instance, "m1", "ready");
    let command = daemon.fact("pid", &instance, "m1").unwrap() as i32;
    let guardian = crate::support::parent_of(command);
    signal(crate::support::parent_of(guardian), Signal::TERM);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 255);
    assert!(
        daemon
            .output_text(&instance, "m1")
            .contains("[wrapper was told to stop]")
    );
    assert!(!is_alive(command));
}

#[test]
fn a_timeout_of_0_is_none_and_a_job_that_prints_nothing_is_left_alone() {
    let daemon = daemon(json!({"quiet": job_with("exec sleep 60", json!({"timeout": 0}))}));
    let instance = daemon.run("quiet");
    until("the start", || daemon.fact("started", &instance, "m1"));
    never_within(1_500, "it ended", || {
        daemon.fact("retcode", &instance, "m1").is_some()
    });
}
