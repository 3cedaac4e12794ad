//! The daemon dies, stops, stalls and comes back; what was acknowledged is there, once, and nobody's job fails for it.

use rustix::process::Signal;
use serde_json::json;

use crate::support::daemon::{Plan, every_second, job, job_with};
use crate::support::peer::output_ack;
use crate::support::{is_alive, until};

/// Prints `count` numbered lines, one every `pause` seconds.
fn lines(count: u32, pause: &str) -> String {
    format!("i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo line $i; sleep {pause}; done; exit 5")
}

fn all_lines(count: u32) -> String {
    (1..=count).map(|number| format!("line {number}\n")).collect()
}

#[test]
fn after_kill_9_the_same_run_goes_on_with_each_line_once_and_its_true_code() {
    let daemon = Plan::new(json!({"s": job_with(&lines(60, "0.05"), json!({"targets": "*"}))}))
        .restarts()
        .start();
    let instance = daemon.run("s");
    daemon.wait_output(&instance, "m1", "line 10\n");
    let pid = daemon.fact("pid", &instance, "m1");
    daemon.kill_hard();
    daemon.start();
    let state = daemon.state("s");
    assert_eq!(state["last_instance"], instance.as_str());
    assert!(daemon.is_running(&instance));
    daemon.wait_ended(&instance);
    for machine in ["m1", "m2", "m3"] {
        assert_eq!(daemon.retcode(&instance, machine), 5, "{machine}");
        assert_eq!(daemon.output_text(&instance, machine), all_lines(60), "{machine}");
    }
    assert_eq!(daemon.fact("pid", &instance, "m1"), pid);
    assert_eq!(daemon.number("SELECT count(*) FROM runs", ""), 1);
}

#[test]
fn after_a_restart_a_kill_reaches_what_was_running_before() {
    let daemon = Plan::new(json!({"long": job("echo ready; exec sleep 60")}))
        .restarts()
        .start();
    let instance = daemon.run("long");
    daemon.wait_output(&instance, "m1", "ready");
    let command = daemon.fact("pid", &instance, "m1").unwrap() as i32;
    daemon.kill_hard();
    daemon.start();
    // asked at once, whether its wrapper is back already or not
    assert_eq!(daemon.kill("long").status, 200);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
    assert!(!is_alive(command));
}

#[test]
fn killed_again_and_again_while_20_jobs_stream_nothing_is_lost_or_doubled() {
    let jobs: serde_json::Map<String, serde_json::Value> = (0..20)
        .map(|number| (format!("s{number}"), job(&lines(80, "0.1"))))
        .collect();
    let daemon = Plan::new(jobs.into()).restarts().start();
    let instances: Vec<String> = (0..20).map(|number| daemon.run(&format!("s{number}"))).collect();
    // at moments that hang on how fast all goes
    for seen in [5, 12, 20, 31, 45] {
        daemon.wait_output(&instances[seen % 20], "m1", &format!("line {seen}\n"));
        daemon.kill_hard();
        daemon.start();
    }
    for instance in &instances {
        daemon.wait_ended(instance);
        assert_eq!(daemon.retcode(instance, "m1"), 5, "{instance}");
        assert_eq!(daemon.output_text(instance, "m1"), all_lines(80), "{instance}");
    }
    assert_eq!(daemon.number("SELECT count(*) FROM runs", ""), 20);
}

#[test]
fn after_kill_9_nothing_is_said_to_be_missed_or_overlapped_that_has_its_verdict() {
    let jobs = json!({"s": every_second("true", json!({})), "once": every_second("sleep 30", json!({}))});
    let daemon = Plan::new(jobs).restarts().start();
    let verdicts = |job: &str| {
        let query = format!("SELECT count(*) FROM verdicts WHERE job = '{job}'");
        daemon.number(&query, "")
    };
    until("verdicts", || {
        (verdicts("s") > 4 && verdicts("once") > 4).then_some(())
    });
    let said_before = daemon.job_log("once.log").matches("Overlap detected").count() as i64;
    daemon.kill_hard();
    let (started, known) = (verdicts("s"), verdicts("once"));
    daemon.start();
    until("more verdicts", || (verdicts("s") > started + 1).then_some(()));
    // what was due before the kill had its verdict: whatever is said now is of what came later
    let missed = daemon.said().matches("s missed its due time").count() as i64;
    let query = "SELECT count(*) FROM verdicts WHERE verdict = 'missed' AND job = 's'";
    until("each miss that was said to be stored", || {
        (daemon.number(query, "") >= missed).then_some(())
    });
    let overlaps = daemon.job_log("once.log").matches("Overlap detected").count() as i64 - said_before;
    let given = verdicts("once") - known;
    // one may have been said, and not stored, before the kill
    assert!(
        overlaps <= given + 1,
        "{overlaps} overlaps said, {given} verdicts"
    );
}

#[test]
fn what_was_acked_is_there_after_kill_9() {
    let daemon = Plan::new(json!({})).restarts().start();
    let fields = json!({"wrapper_path": daemon.told_wrapper()});
    daemon.write_jobs("jobs", &json!({"j": job_with("echo never", fields)}));
    daemon.wait_jobs(1);
    let instance = daemon.run("j");
    let orders = daemon.orders(&instance, "m1");
    let mut peer = orders.start();
    let mut whole = String::new();
    for round in 0..5 {
        for seq in round * 10..round * 10 + 10 {
            let line = format!("{seq}\n");
            peer.output(seq, &line);
            whole += &line;
            assert_eq!(peer.hear(), output_ack(seq));
        }
        // at once after the ack
        daemon.kill_hard();
        daemon.start();
        peer = orders.connect();
        peer.say("sync_request", json!({"last_acked_seq": -1, "next_seq": 0}));
        assert_eq!(
            peer.hear(),
            json!({"type": "sync_response", "last_seq": round * 10 + 9})
        );
    }
    peer.complete(0, 50);
    daemon.kill_hard();
    daemon.start();
    assert_eq!(daemon.retcode(&instance, "m1"), 0);
    assert_eq!(daemon.output_text(&instance, "m1"), whole);
    daemon.wait_status("the result", |status| {
        (status["state"]["j"]["results"]["m1"]["retcode"] == 0).then_some(())
    });
    assert!(!daemon.is_running(&instance));
}

#[test]
fn every_due_time_gets_one_verdict_across_crashes() {
    let daemon = Plan::new(json!({
        "tick": every_second("true", json!({})),
        "none": every_second("true", json!({"catch_up": "none"})),
    }))
    .restarts()
    .start();
    let ended = "SELECT count(*) FROM runs WHERE job = 'tick' AND stage = 'ended'";
    until("the first runs", || (daemon.number(ended, "") >= 2).then_some(()));
    let first = daemon.number("SELECT min(due) FROM verdicts WHERE job = 'tick'", "");
    for _ in 0..2 {
        daemon.kill_hard();
        // two due times pass meanwhile
        let down_since = saltpeter::clock::wall().secs();
        until("time to pass", || {
            (saltpeter::clock::wall().secs() >= down_since + 3).then_some(())
        });
        daemon.start();
        let started = daemon.number("SELECT count(*) FROM runs", "");
        until("runs after the restart", || {
            (daemon.number("SELECT count(*) FROM runs", "") > started + 3).then_some(())
        });
    }
    let last = daemon.number("SELECT max(until) FROM verdicts WHERE job = 'tick'", "");
    let seconds = (last - first) / 1_000_000 + 1;
    let covered = "SELECT sum(count) FROM verdicts WHERE job = ?1 AND until >= (SELECT min(due) FROM verdicts WHERE job = 'tick')";
    let rows = daemon.rows(
        "SELECT due / 1000000, until / 1000000, count, verdict, reason FROM verdicts WHERE job = ?1",
        "tick",
    );
    assert_eq!(daemon.number(covered, "tick"), seconds, "{rows:?}");
    for job in ["tick", "none"] {
        let twice = "SELECT count(*) - count(DISTINCT due) FROM runs WHERE job = ?1";
        assert_eq!(daemon.number(twice, job), 0, "a due time has started twice");
        let missed =
            "SELECT count(*) FROM verdicts WHERE job = ?1 AND verdict LIKE '%issed%' AND reason <> ''";
        assert!(daemon.number(missed, job) >= 2, "{job}: {rows:?}");
    }
}

#[test]
fn sigterm_ends_the_daemon_within_2_s_and_the_jobs_go_on() {
    let daemon = Plan::new(json!({
        "long": job_with(&lines(25, "0.1"), json!({"targets": "*"})), "tick": every_second("true", json!({})),
    }))
    .restarts()
    .start();
    let instance = daemon.run("long");
    daemon.wait_output(&instance, "m1", "line 3\n");
    let command = daemon.fact("pid", &instance, "m1").unwrap() as i32;
    let begun = saltpeter::clock::mono();
    daemon.stop();
    let took_ms = saltpeter::clock::mono().since_ms(begun);
    assert!(took_ms < 2_000, "{took_ms} ms");
    assert!(is_alive(command), "the command goes on");
    let started = daemon.number("SELECT count(*) FROM runs WHERE job = 'tick'", "");
    // the command ends while nobody listens: its outcome waits for the daemon
    until("the command's end", || (!is_alive(command)).then_some(()));
    assert_eq!(
        daemon.number("SELECT count(*) FROM runs WHERE job = 'tick'", ""),
        started
    );
    daemon.start();
    daemon.wait_ended(&instance);
    for machine in ["m1", "m2", "m3"] {
        assert_eq!(daemon.retcode(&instance, machine), 5);
        assert_eq!(daemon.output_text(&instance, machine), all_lines(25));
    }
    // and then the wrappers are gone
    daemon.write_jobs("jobs", &json!({}));
    until("the wrappers' exit", || {
        (daemon.family() == [daemon.pid()]).then_some(())
    });
}

#[test]
fn what_was_confirmed_holds_after_kill_9() {
    let daemon = Plan::new(json!({"long": job("echo ready; exec sleep 60")}))
        .restarts()
        .start();
    for _ in 0..3 {
        let instance = daemon.run("long");
        daemon.kill_hard();
        daemon.start();
        assert!(daemon.is_running(&instance), "a confirmed start is forgotten");
        daemon.wait_output(&instance, "m1", "ready");
        assert_eq!(daemon.kill("long").status, 200);
        daemon.kill_hard();
        daemon.start();
        daemon.wait_ended(&instance);
        assert_eq!(daemon.retcode(&instance, "m1"), 143);
    }
}

#[test]
fn a_restart_leaves_nobody_holding_the_ports_and_a_second_daemon_is_refused() {
    let daemon = Plan::new(json!({"long": job("echo ready; exec sleep 60")}))
        .restarts()
        .start();
    let instance = daemon.run("long");
    daemon.wait_output(&instance, "m1", "ready");
    let second = Plan::new(json!({})).state_dir(&daemon.state_dir()).prepare();
    let ended = second.start_in_vain();
    assert_eq!(ended.code(), Some(1));
    let said = second.said();
    let state_dir = daemon.state_dir();
    assert!(
        said.contains(state_dir.to_str().unwrap()) && said.contains(&daemon.pid().to_string()),
        "{said}"
    );
    // the first goes on, and after its end another takes over at once: same ports, same runs
    assert!(daemon.is_running(&instance));
    daemon.kill_hard();
    daemon.start();
    assert!(daemon.is_running(&instance));
    assert_eq!(daemon.kill("long").status, 200);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
}

#[test]
fn runs_between_their_steps_are_taken_up_where_they_were() {
    // batches: the daemon dies while the first machine runs
    let daemon = Plan::new(json!({
        "rolling": job_with("echo $SP_MACHINE_ID; sleep 0.7", json!({"targets": "*", "batch_size": 1})),
    }))
    .restarts()
    .start();
    for _ in 0..3 {
        let instance = daemon.run("rolling");
        // at once: pinging, launching or running, as it comes
        daemon.kill_hard();
        daemon.start();
        until("the first start", || {
            ["m1", "m2", "m3"]
                .iter()
                .find_map(|machine| daemon.fact("started", &instance, machine))
        });
        daemon.kill_hard();
        daemon.start();
        daemon.wait_ended(&instance);
        for machine in ["m1", "m2", "m3"] {
            assert_eq!(daemon.retcode(&instance, machine), 0, "{machine}");
            assert_eq!(
                daemon.output_text(&instance, machine),
                format!("{machine}\n"),
                "it ran once"
            );
        }
    }
}

#[test]
fn a_bad_state_is_not_overwritten() {
    let daemon = Plan::new(json!({"a": job("true")})).start();
    daemon.run_to_end("a");
    daemon.stop();
    std::fs::write(
        daemon.state_dir().join("state.db"),
        "this is no database, and long enough to be seen as none",
    )
    .unwrap();
    for name in ["state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(daemon.state_dir().join(name));
    }
    let ended = daemon.start_in_vain();
    assert_eq!(ended.code(), Some(1));
    assert!(daemon.said().contains("state.db"), "{}", daemon.said());
}

#[test]
fn sighup_and_a_second_sigterm_are_harmless() {
    let daemon = Plan::new(json!({"a": job("true")})).start();
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.run_to_end("a").0, 0);
    daemon.signal(Signal::TERM);
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_raw(daemon.pid()).unwrap(),
        Signal::TERM,
    );
    daemon.wait_gone();
}

#[test]
fn a_log_that_nobody_reads_any_more_holds_nothing() {
    // its stderr leads into a pipe that is read up to the line that says that it listens
    let wrapped = crate::support::Scratch::new();
    let script = wrapped.path().join("saltpeter");
    let body = format!(
        "#!/bin/sh\nmkfifo '{0}/pipe'; exec 3<>'{0}/pipe'\n\
         while IFS= read -r line <&3; do echo \"$line\" >&2; case $line in listening*) break;; esac; done &\n\
         exec '{1}' \"$@\" 2>&3\n",
        wrapped.path().display(),
        env!("CARGO_BIN_EXE_saltpeter"),
    );
    let made = std::process::Command::new("/bin/sh")
        .args(["-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#])
        .arg(&script)
        .arg(&body)
        .status();
    assert!(made.unwrap().success());
    let daemon = Plan::new(json!({"a": job("echo a")})).program(&script).start();
    // more than a pipe holds
    let unknown = "x".repeat(300);
    for _ in 0..300 {
        assert_eq!(daemon.post("/run", &json!({"job": unknown})).status, 404);
    }
    daemon.write_jobs("more", &json!({"b": job("echo b")}));
    daemon.wait_jobs(2);
    assert_eq!(daemon.run_to_end("b"), (0, "b\n".into()));
    daemon.stop();
}
