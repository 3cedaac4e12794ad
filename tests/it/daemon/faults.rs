//! Silence, lies about the time, cuts, stalls: what may be presumed of a wrapper, and what never. These wait for the
//! product's own deadlines, so they run together.

use rustix::process::Signal;
use saltpeter::clock;
use serde_json::json;

use crate::support::daemon::{Daemon, Plan, job, job_with};
use crate::support::peer::{Orders, Peer, output_ack};
use crate::support::proxy::Proxy;
use crate::support::together::together;
use crate::support::{is_alive, parent_of, pause, signal, until, until_within};

together!(
    a_killed_wrapper_is_253_15_to_17_s_after_its_last_beat_and_its_command_is_gone,
    a_clock_two_hours_behind_is_no_loss_and_total_silence_is_one,
    output_does_not_stand_for_a_heartbeat,
    a_daemon_that_is_frozen_for_20_s_fails_nobody,
    a_wrapper_that_never_starts_its_command_ends_with_254,
    a_kill_that_nobody_answers_ends_with_143_after_30_s,
    a_timeout_that_the_wrapper_does_not_enforce_is_enforced_30_s_later,
    who_says_nothing_is_dropped_after_a_bound,
    after_cuts_no_line_is_lost_or_doubled_and_the_kill_arrives,
    a_daemon_that_is_away_for_long_costs_the_command_nothing,
);

/// A daemon whose job `j` the test plays.
fn played(fields: serde_json::Value) -> (Daemon, Orders) {
    let daemon = Plan::new(json!({})).start();
    let mut job = job_with("echo never", fields);
    job["wrapper_path"] = json!(daemon.told_wrapper());
    daemon.write_jobs("jobs", &json!({"j": job}));
    daemon.wait_jobs(1);
    let instance = daemon.run("j");
    let orders = daemon.orders(&instance, "m1");
    (daemon, orders)
}

/// Seconds from the stored last heartbeat to the stored end.
fn silence_s(daemon: &Daemon, instance: &str) -> f64 {
    let at = |column: &str| daemon.fact(column, instance, "m1").unwrap();
    (at("ended") - at("last_heartbeat")) as f64 / 1e6
}

/// Beats every second until the run has ended, or so many seconds.
fn beat(daemon: &Daemon, peer: &mut Peer, instance: &str, seconds: u64) {
    let ends_at = clock::mono().plus_ms(seconds * 1_000);
    while clock::mono() < ends_at && daemon.fact("retcode", instance, "m1").is_none() {
        peer.say("heartbeat", json!({"timestamp": "2026-11-21T08:00:00+00:00"}));
        pause(1_000);
    }
}

fn a_killed_wrapper_is_253_15_to_17_s_after_its_last_beat_and_its_command_is_gone() {
    let daemon = Plan::new(json!({
        "long": job_with("echo ready; sleep 70 & sleep 71; wait", json!({"timeout": 0})),
    }))
    .start();
    let instance = daemon.run("long");
    daemon.wait_output(&instance, "m1", "ready");
    let command = daemon.fact("pid", &instance, "m1").unwrap() as i32;
    let wrapper = parent_of(parent_of(command));
    signal(wrapper, Signal::KILL);
    until("the end of the whole family", || {
        (daemon.family() == [daemon.pid()]).then_some(())
    });
    assert!(!is_alive(command));
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 253);
    let silence_s = silence_s(&daemon, &instance);
    assert!((15.0..17.0).contains(&silence_s), "{silence_s}");
    let output = daemon.output_text(&instance, "m1");
    assert!(
        output.contains("[SALTPETER ERROR: Job lost connection - no heartbeat for 15 seconds]")
            || output.contains("[SALTPETER ERROR: Job lost connection - no heartbeat for 16 seconds]"),
        "{output}"
    );
}

fn a_clock_two_hours_behind_is_no_loss_and_total_silence_is_one() {
    let (daemon, orders) = played(json!({"timeout": 0}));
    let mut peer = orders.start();
    beat(&daemon, &mut peer, &orders.instance, 18);
    assert_eq!(daemon.fact("retcode", &orders.instance, "m1"), None, "it beats");
    // now it says nothing, on a connection that stands
    daemon.wait_ended(&orders.instance);
    assert_eq!(daemon.retcode(&orders.instance, "m1"), 253);
    let silence_s = silence_s(&daemon, &orders.instance);
    assert!((15.0..17.0).contains(&silence_s), "{silence_s}");
    // by the daemon's clock, not by the frames'
    let (started, ended) = (
        daemon.fact("started", &orders.instance, "m1"),
        daemon.fact("ended", &orders.instance, "m1"),
    );
    assert!(ended > started);
}

fn output_does_not_stand_for_a_heartbeat() {
    let (daemon, orders) = played(json!({"timeout": 0}));
    let mut peer = orders.start();
    let mut seq = 0;
    until("the loss", || {
        peer.output(seq, "still here\n");
        assert_eq!(peer.hear(), output_ack(seq));
        seq += 1;
        pause(200);
        daemon
            .output_text(&orders.instance, "m1")
            .contains("no heartbeat for")
            .then_some(())
    });
    assert_eq!(
        daemon.fact("revised_from", &orders.instance, "m1").unwrap_or(253),
        253
    );
    let rows = "SELECT count(*) FROM machine_runs WHERE last_heartbeat - started < 1000000";
    assert_eq!(daemon.number(rows, ""), 1, "output has moved the heartbeat");
}

fn a_daemon_that_is_frozen_for_20_s_fails_nobody() {
    let daemon = Plan::new(json!({
        "real": job("i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.1; done; exit 6"),
    }))
    .start();
    let fields = json!({"wrapper_path": daemon.told_wrapper()});
    daemon.write_jobs("zz", &json!({"j": job_with("echo never", fields)}));
    daemon.wait_jobs(2);
    let real = daemon.run("real");
    daemon.wait_output(&real, "m1", "5\n");
    let python = daemon.run("j");
    let mut peer = daemon.orders(&python, "m1").start();
    peer.say("heartbeat", json!({}));
    daemon.signal(Signal::STOP);
    // the kernel takes what they say meanwhile
    for _ in 0..10 {
        pause(2_000);
        peer.say("heartbeat", json!({}));
    }
    daemon.signal(Signal::CONT);
    beat(&daemon, &mut peer, &python, 5);
    peer.complete(0, 0);
    daemon.wait_ended(&python);
    daemon.wait_ended(&real);
    assert_eq!(
        (daemon.retcode(&python, "m1"), daemon.retcode(&real, "m1")),
        (0, 6)
    );
    let whole: String = (1..=300).map(|number| format!("{number}\n")).collect();
    assert_eq!(daemon.output_text(&real, "m1"), whole);
    for instance in [&python, &real] {
        assert_eq!(
            daemon.fact("revised_from", instance, "m1"),
            None,
            "it was failed for a moment"
        );
    }
}

fn a_wrapper_that_never_starts_its_command_ends_with_254() {
    let (daemon, orders) = played(json!({}));
    let mut peer = orders.connect();
    peer.say("connect", json!({}));
    peer.hear();
    daemon.wait_ended(&orders.instance);
    assert_eq!(daemon.retcode(&orders.instance, "m1"), 254);
}

fn a_kill_that_nobody_answers_ends_with_143_after_30_s() {
    let (daemon, orders) = played(json!({"timeout": 0}));
    let mut peer = orders.start();
    assert_eq!(daemon.kill("j").status, 200);
    beat(&daemon, &mut peer, &orders.instance, 60);
    daemon.wait_ended(&orders.instance);
    assert_eq!(daemon.retcode(&orders.instance, "m1"), 143);
    let at = |column: &str| daemon.fact(column, &orders.instance, "m1").unwrap();
    let waited_s = (at("ended") - at("kill_asked")) / 1_000_000;
    assert!((29..35).contains(&waited_s), "{waited_s}");
    let kills = (0..20).take_while(|_| peer.hear()["type"] == "kill").count();
    assert_eq!(kills, 20, "it is repeated every second");
}

fn a_timeout_that_the_wrapper_does_not_enforce_is_enforced_30_s_later() {
    let (daemon, orders) = played(json!({"timeout": 2}));
    let mut peer = orders.start();
    beat(&daemon, &mut peer, &orders.instance, 60);
    daemon.wait_ended(&orders.instance);
    assert_eq!(daemon.retcode(&orders.instance, "m1"), 124);
    let at = |column: &str| daemon.fact(column, &orders.instance, "m1").unwrap();
    let waited_s = (at("ended") - at("started")) / 1_000_000;
    assert!((31..37).contains(&waited_s), "{waited_s}");
}

fn who_says_nothing_is_dropped_after_a_bound() {
    let (daemon, orders) = played(json!({}));
    let mut silent = orders.connect();
    let mut no_handshake = std::net::TcpStream::connect(("127.0.0.1", orders.port())).unwrap();
    let mut slow_head = daemon.http();
    let patience = Some(std::time::Duration::from_secs(60));
    silent.socket.get_ref().set_read_timeout(patience).unwrap();
    no_handshake.set_read_timeout(patience).unwrap();
    slow_head.send(b"GET /status HTTP/1.1\r\nHost: loc").unwrap();
    // a slow head is told so
    assert_eq!(slow_head.reply().unwrap().status, 408);
    assert!(slow_head.is_closed());
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut no_handshake, &mut rest);
    assert!(silent.until_closed().is_empty());
    assert_eq!(daemon.get("/status").status, 200);
}

/// A wrapper of ours whose way to the daemon leads through `proxy`.
fn behind(daemon: &Daemon, proxy: &Proxy) -> std::path::PathBuf {
    let body = format!(
        r#"SP_WEBSOCKET_URL=$(echo "$SP_WEBSOCKET_URL" | sed 's,:[0-9][0-9]*/,:{}/,') exec {}"#,
        proxy.port,
        env!("CARGO_BIN_EXE_sp-wrapper")
    );
    daemon.script("sp-wrapper", &body)
}

fn after_cuts_no_line_is_lost_or_doubled_and_the_kill_arrives() {
    let daemon = Plan::new(json!({})).start();
    let proxy = Proxy::to(daemon.machines_port());
    let command = "i=0; while [ $i -lt 120 ]; do i=$((i+1)); echo line $i; sleep 0.05; done; exec sleep 70";
    let fields = json!({"wrapper_path": behind(&daemon, &proxy)});
    daemon.write_jobs("jobs", &json!({"s": job_with(command, fields)}));
    daemon.wait_jobs(1);
    let instance = daemon.run("s");
    for line in [10, 40, 70, 100] {
        daemon.wait_output(&instance, "m1", &format!("line {line}\n"));
        proxy.cut();
    }
    daemon.wait_output(&instance, "m1", "line 120\n");
    proxy.cut();
    assert_eq!(daemon.kill("s").status, 200);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
    let lines: String = (1..=120).map(|number| format!("line {number}\n")).collect();
    assert_eq!(
        daemon.output_text(&instance, "m1"),
        lines + "[Job terminated by user request]\n"
    );
}

fn a_daemon_that_is_away_for_long_costs_the_command_nothing() {
    let daemon = Plan::new(json!({})).start();
    let proxy = Proxy::to(daemon.machines_port());
    // more than a pipe, the window and the spool's memory hold
    let done = daemon.path("done");
    let command = format!(
        "echo begun; yes 0123456789abcdef | head -c 20000000; touch {}; exit 3",
        done.display()
    );
    let fields = json!({"wrapper_path": behind(&daemon, &proxy)});
    daemon.write_jobs("jobs", &json!({"s": job_with(&command, fields)}));
    daemon.wait_jobs(1);
    let instance = daemon.run("s");
    until("the start", || daemon.fact("started", &instance, "m1"));
    proxy.set_down(true);
    until("the command's end", || done.exists().then_some(()));
    // past every deadline: it is presumed lost
    until_within(60_000, "the loss", || daemon.fact("retcode", &instance, "m1"));
    proxy.set_down(false);
    until_within(60_000, "the true outcome", || {
        (daemon.fact("retcode", &instance, "m1") == Some(3)).then_some(())
    });
    daemon.wait_ended(&instance);
    assert_eq!(daemon.fact("revised_from", &instance, "m1"), Some(253));
    // but for the daemon's own lines, each on a line of its own, it is what the command wrote
    let mut expected = b"begun\n".to_vec();
    expected.extend(b"0123456789abcdef\n".iter().cycle().take(20_000_000));
    let mut output = daemon.output(&instance, "m1");
    let own = b"[SALTPETER";
    while let Some(from) = output.windows(own.len()).position(|window| window == own) {
        let length = output[from..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let broken = usize::from(output[..from] != expected[..from]);
        output.drain(from - broken..from + length);
    }
    assert!(
        output == expected,
        "{} bytes instead of {}",
        output.len(),
        expected.len()
    );
}

#[test]
fn a_wrapper_that_does_not_return_ends_with_254_within_start_timeout() {
    let plan = Plan::new(json!({})).prepare();
    let hangs = plan.script("hangs", "exec sleep 30");
    let fields = json!({"wrapper_path": hangs, "start_timeout": 2});
    plan.write_jobs("jobs", &json!({"j": job_with("true", fields)}));
    plan.start();
    let instance = plan.run("j");
    plan.wait_ended(&instance);
    assert_eq!(plan.retcode(&instance, "m1"), 254);
    let output = plan.output_text(&instance, "m1");
    assert!(output.contains("did not connect within 2 seconds"), "{output}");
    let at = |column: &str| plan.fact(column, &instance, "m1").unwrap();
    let took_s = (at("ended") - at("dispatched")) / 1_000_000;
    assert!((2..10).contains(&took_s), "{took_s}");
}
