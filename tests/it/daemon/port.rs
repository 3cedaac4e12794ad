//! Wrappers written by hand against the real daemon: the Python one's exact ways, and all that a stranger may try.

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Plan, job, job_with};
use crate::support::peer::{Orders, output_ack};
use crate::support::{never_within, until};

/// A daemon whose job `j` (also `k`) is played by the test: its wrapper only tells what it was given.
fn daemon() -> Daemon {
    let daemon = Plan::new(json!({})).start();
    let fields = json!({"wrapper_path": daemon.told_wrapper(), "env": {"SECRET": "x"}, "timeout": 100});
    let on_all = json!({"wrapper_path": daemon.told_wrapper(), "targets": "m1,m2", "target_type": "list"});
    daemon.write_jobs(
        "jobs",
        &json!({"j": job_with("echo never", fields.clone()), "k": job_with("echo never", on_all), "real": job("echo real")}),
    );
    daemon.wait_jobs(3);
    daemon
}

fn launched(daemon: &Daemon) -> Orders {
    let instance = daemon.run("j");
    daemon.orders(&instance, "m1")
}

fn ended(daemon: &Daemon, orders: &Orders) -> (i64, String) {
    daemon.wait_ended(&orders.instance);
    let output = daemon.output_text(&orders.instance, &orders.machine);
    (daemon.retcode(&orders.instance, &orders.machine), output)
}

#[test]
fn a_python_wrapper_gets_what_it_needs_in_its_environment() {
    let daemon = daemon();
    let instance = daemon.run("j");
    let environment = daemon.environment(&instance, "m1");
    for (name, value) in [
        ("SP_COMMAND", "echo never"),
        ("SP_JOB_NAME", "j"),
        ("SP_JOB_INSTANCE", &instance),
        ("SP_JOB_INSTANCE_NAME", &instance),
        ("SP_MACHINE_ID", "m1"),
        ("SP_TIMEOUT", "100"),
        ("SECRET", "x"),
    ] {
        let found = environment.iter().find(|(known, _)| known == name);
        assert_eq!(found.map(|(_, found)| found.as_str()), Some(value), "{name}");
    }
}

#[test]
fn every_frame_of_a_python_wrapper_gets_exactly_its_ack() {
    let daemon = daemon();
    let orders = launched(&daemon);
    let mut peer = orders.connect();
    // a path of its own choice does not matter either
    peer.greet();
    for (seq, data) in ["one\n", "zwei ü\n", "😀\n"].iter().enumerate() {
        peer.output(seq as u64, data);
        assert_eq!(peer.hear(), output_ack(seq as u64));
    }
    peer.say("heartbeat", json!({}));
    peer.say("sync_request", json!({"last_acked_seq": 2, "next_seq": 3}));
    assert_eq!(peer.hear(), json!({"type": "sync_response", "last_seq": 2}));
    peer.complete(0, 3);
    assert_eq!(ended(&daemon, &orders), (0, "one\nzwei ü\n😀\n".into()));
    // its ack was lost: it asks again, and nothing changes
    let mut again = orders.connect();
    again.complete(0, 3);
    assert_eq!(ended(&daemon, &orders).0, 0);
}

#[test]
fn everything_pipelined_at_the_end_is_acked_one_by_one() {
    let daemon = daemon();
    let orders = launched(&daemon);
    let mut peer = orders.connect();
    peer.queue("connect", json!({}));
    peer.queue("start", json!({"pid": 1, "version": "0.9.31"}));
    for seq in 0..20 {
        peer.queue(
            "output",
            json!({"stream": "stdout", "data": format!("{seq}\n"), "seq": seq}),
        );
    }
    peer.say("complete", json!({"retcode": 7, "seq": 20}));
    assert_eq!(peer.hear(), json!({"type": "ack", "ack_type": "connect"}));
    assert_eq!(peer.hear(), json!({"type": "ack", "ack_type": "start"}));
    for seq in 0..20 {
        assert_eq!(peer.hear(), output_ack(seq));
    }
    assert_eq!(
        peer.hear(),
        json!({"type": "ack", "ack_type": "complete", "seq": 20})
    );
    let whole: String = (0..20).map(|seq| format!("{seq}\n")).collect();
    assert_eq!(ended(&daemon, &orders), (7, whole));
}

#[test]
fn after_a_reconnect_it_goes_on_without_connect_and_start_and_can_be_killed() {
    let daemon = daemon();
    let orders = launched(&daemon);
    let mut peer = orders.start();
    peer.output(0, "a");
    assert_eq!(peer.hear(), output_ack(0));
    drop(peer);
    let mut peer = orders.connect();
    peer.say("sync_request", json!({"last_acked_seq": -1, "next_seq": 2}));
    assert_eq!(peer.hear(), json!({"type": "sync_response", "last_seq": 0}));
    peer.output(1, "b");
    assert_eq!(peer.hear(), output_ack(1));
    drop(peer);
    // the next speaks first by a heartbeat; the kill must find it
    let mut peer = orders.connect();
    peer.say("heartbeat", json!({}));
    assert_eq!(daemon.kill("j").status, 200);
    let kill = peer.hear();
    assert_eq!(kill["type"], "kill");
    assert_eq!(
        (&kill["job_name"], &kill["job_instance"], &kill["machine"]),
        (&json!("j"), &json!(orders.instance), &json!("m1"))
    );
    peer.say("killed", json!({}));
    peer.say(
        "output",
        json!({"stream": "stderr", "data": "[Job terminated by user request]\n", "seq": 2}),
    );
    peer.say("complete", json!({"retcode": -15, "seq": 3}));
    // the kill is repeated until the end is heard of
    until("both acks", || {
        let frame = peer.hear();
        (frame["ack_type"] == "complete").then_some(())
    });
    assert_eq!(
        ended(&daemon, &orders),
        (143, "ab[Job terminated by user request]\n".into())
    );
}

#[test]
fn duplicates_are_acked_again_and_gaps_are_told_and_nothing_is_stored_twice() {
    let daemon = daemon();
    let orders = launched(&daemon);
    let mut peer = orders.start();
    peer.output(0, "a");
    peer.output(0, "a");
    peer.output(2, "c");
    peer.output(1, "b");
    peer.output(2, "c");
    peer.output(1, "b");
    // acks follow the commit; that a frame came too early can be said before
    let (nacks, acks): (Vec<Value>, Vec<Value>) = (0..6)
        .map(|_| peer.hear())
        .partition(|frame| frame["type"] == "nack");
    let nack = json!({"type": "nack", "nack_type": "out_of_order", "expected_seq": 1, "received_seq": 2});
    assert_eq!(nacks, [nack]);
    assert_eq!(acks, [0, 0, 1, 2, 1].map(output_ack));
    peer.complete(0, 3);
    assert_eq!(ended(&daemon, &orders), (0, "abc".into()));
}

#[test]
fn a_wrapper_that_offers_the_same_future_seq_twice_has_lost_the_rest() {
    let daemon = daemon();
    let orders = launched(&daemon);
    let mut peer = orders.start();
    peer.output(0, "a\n");
    assert_eq!(peer.hear(), output_ack(0));
    peer.output(5, "f\n");
    assert_eq!(peer.hear()["type"], "nack");
    peer.output(5, "f\n");
    assert_eq!(peer.hear(), output_ack(5));
    peer.complete(0, 6);
    let wanted = "a\n[output messages 1..4 were lost by the wrapper]\nf\n";
    assert_eq!(ended(&daemon, &orders), (0, wanted.into()));
}

#[test]
fn sync_says_minus_1_only_of_what_is_unknown() {
    let daemon = daemon();
    let orders = launched(&daemon);
    let mut peer = orders.start();
    // nothing is held, and -1 would make it drop its output: the next ack is the answer
    peer.say("sync_request", json!({"last_acked_seq": -1, "next_seq": 1}));
    peer.output(0, "a");
    assert_eq!(peer.hear(), output_ack(0));
    let mut stranger = Orders {
        instance: "j_1".into(),
        ..orders.clone()
    }
    .connect();
    stranger.say("sync_request", json!({"last_acked_seq": -1, "next_seq": 1}));
    assert_eq!(stranger.hear(), json!({"type": "sync_response", "last_seq": -1}));
    peer.complete(0, 1);
}

/// Whose frames must change nothing.
fn strangers(orders: &Orders) -> [(&'static str, Orders); 7] {
    [
        ("a wrong token", orders.with_token("0123456789abcdef")),
        ("no token", orders.with_token("")),
        (
            "an unknown run",
            Orders {
                instance: "j_17".into(),
                ..orders.clone()
            },
        ),
        (
            "an unknown job",
            Orders {
                job: "x".into(),
                instance: "x_17".into(),
                ..orders.clone()
            },
        ),
        (
            "another job's name",
            Orders {
                job: "real".into(),
                ..orders.clone()
            },
        ),
        ("a machine that is no target", orders.of_machine("m3")),
        ("a machine that is nowhere", orders.of_machine("m\n\u{1b}[31m")),
    ]
}

#[test]
fn strangers_change_nothing_and_are_told_no_more_than_they_must() {
    let daemon = daemon();
    let orders = launched(&daemon);
    let mut peer = orders.start();
    peer.output(0, "true\n");
    assert_eq!(peer.hear(), output_ack(0));
    let facts = || daemon.rows("SELECT stage, pid, started FROM machine_runs ORDER BY id", "");
    let before = facts();
    for (what, orders) in strangers(&orders) {
        // an old wrapper must not be cut off (rules.md 23b)
        let mut stranger = orders.connect();
        stranger.greet();
        stranger.output(0, "false\n");
        stranger.output(1, "false\n");
        stranger.say("heartbeat", json!({}));
        stranger.say("sync_request", json!({"last_acked_seq": -1, "next_seq": 2}));
        assert_eq!(
            stranger.hear(),
            json!({"type": "sync_response", "last_seq": -1}),
            "{what}"
        );
        stranger.say("error", json!({"error": "I fail you"}));
        stranger.say("complete", json!({"retcode": 9, "seq": 2}));
        let answer = stranger.hear();
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!("JOB_NOT_FOUND")),
            "{what}"
        );
        assert!(stranger.until_closed().is_empty(), "{what}");
        // one of ours is refused at once
        let mut ours = orders.connect();
        ours.say(
            "connect",
            json!({"accepts": ["job", "window"], "wrapper_id": "ab"}),
        );
        assert_eq!(ours.hear()["code"], "JOB_NOT_FOUND", "{what}");
        assert!(ours.until_closed().is_empty(), "{what}");
    }
    // with the token of the run, but of another run
    let other = daemon.run("k");
    let token_of_other = daemon.orders(&other, "m1");
    let mixed = Orders {
        url: token_of_other.url.clone(),
        ..orders.clone()
    };
    let mut stranger = mixed.connect();
    stranger.say("complete", json!({"retcode": 9, "seq": 0}));
    assert_eq!(stranger.hear()["code"], "JOB_NOT_FOUND");
    assert_eq!(facts()[..before.len()], before[..]);
    peer.complete(0, 1);
    assert_eq!(ended(&daemon, &orders), (0, "true\n".into()));
    assert!(
        !daemon.said().contains('\u{1b}'),
        "a stranger's letters in the log"
    );
}

#[test]
fn nobody_joins_a_session_of_ours_without_its_wrapper_id() {
    let daemon = Plan::new(json!({})).start();
    let body = std::fs::read_to_string(daemon.told_wrapper())
        .unwrap()
        .replace("#!/bin/sh\n", "");
    let wrapper = daemon.script("sp-wrapper", &body);
    daemon.write_jobs(
        "jobs",
        &json!({"j": job_with("echo x", json!({"wrapper_path": wrapper}))}),
    );
    daemon.wait_jobs(1);
    let instance = daemon.run("j");
    let orders = daemon.orders(&instance, "m1");
    let environment = daemon.environment(&instance, "m1");
    assert!(
        environment.iter().all(|(name, _)| name != "SP_COMMAND"),
        "the job comes over the socket"
    );
    let accepts = json!(["job", "data_base64", "window", "resume"]);
    let connect = |id: &str| json!({"accepts": accepts, "wrapper_id": id, "version": "1"});
    let mut peer = orders.connect();
    peer.say("connect", connect("first"));
    let ack = peer.hear();
    assert_eq!(ack["ack_type"], "connect");
    assert_eq!(
        (&ack["job"]["command"], &ack["last_seq"]),
        (&json!("echo x"), &json!(-1))
    );
    assert_eq!(ack["features"], accepts);
    // the same again gets the same again, another gets nothing
    peer.say("connect", connect("first"));
    assert_eq!(peer.hear()["job"]["command"], "echo x");
    let mut second = orders.connect();
    second.say("connect", connect("second"));
    let refusal = second.hear();
    assert_eq!(
        (&refusal["code"], &refusal["job"]),
        (&json!("NOT_STARTED_AGAIN"), &Value::Null)
    );
    assert!(second.until_closed().is_empty());
    for kind in ["start", "heartbeat", "output", "complete", "connect"] {
        let mut other = orders.connect();
        other.say(kind, json!({"seq": 0, "data": "x", "retcode": 9}));
        let answers = other.until_closed();
        assert_eq!(answers.len(), 1, "{kind}: {answers:?}");
        assert_eq!(answers[0]["code"], "NOT_STARTED_AGAIN", "{kind}");
    }
    daemon.wait_said("refused a wrapper at 127.0.0.1");
    peer.say("start", json!({"pid": 1}));
    assert_eq!(peer.hear()["ack_type"], "start");
    // once it has started, the job is not given again, not even to it
    peer.say("connect", connect("first"));
    assert_eq!(peer.hear()["job"], Value::Null);
    peer.say("output", json!({"data_base64": "/wAK", "seq": 0}));
    assert_eq!(peer.hear(), output_ack(0));
    peer.complete(0, 1);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.output(&instance, "m1"), [255, 0, 10]);
    let mut late = orders.connect();
    late.say("connect", connect("third"));
    assert_eq!(late.hear()["code"], "NOT_STARTED_AGAIN");
}

#[test]
fn frames_may_lack_what_old_wrappers_leave_out() {
    let daemon = daemon();
    // output before any start, without seq or stream
    let orders = launched(&daemon);
    let mut peer = orders.connect();
    let bare = json!({"type": "output", "job_name": "j", "job_instance": orders.instance, "machine": "m1", "data": "bare\n"});
    peer.say_text(&bare.to_string());
    assert_eq!(peer.hear(), output_ack(0));
    peer.say("complete", json!({"seq": 1}));
    assert_eq!(peer.hear()["ack_type"], "complete");
    // a completion without a code is no success
    assert_eq!(ended(&daemon, &orders), (255, "bare\n".into()));

    let orders = launched(&daemon);
    let mut peer = orders.start();
    peer.say("complete", json!({"retcode": null, "seq": 0}));
    assert_eq!(peer.hear()["ack_type"], "complete");
    assert_eq!(ended(&daemon, &orders), (255, "".into()));

    let orders = launched(&daemon);
    let mut peer = orders.start();
    peer.say("complete", json!({"retcode": -9, "seq": 0}));
    assert_eq!(peer.hear()["ack_type"], "complete");
    assert_eq!(ended(&daemon, &orders).0, 137, "it died of signal 9 by itself");

    let orders = launched(&daemon);
    let mut peer = orders.start();
    peer.say("error", json!({"error": "my disk is full"}));
    let (retcode, output) = ended(&daemon, &orders);
    assert_eq!(retcode, 255);
    assert!(output.contains("my disk is full"), "{output}");
}

#[test]
fn what_is_no_frame_ends_its_connection_and_harms_no_other() {
    let daemon = daemon();
    let orders = launched(&daemon);
    let mut peer = orders.start();
    type Offence = (&'static str, fn(&mut crate::support::peer::Peer));
    let offences: [Offence; 10] = [
        ("no JSON", |peer| peer.say_text("{")),
        ("no object", |peer| peer.say_text("[1, 2]")),
        ("no fields", |peer| peer.say_text(r#"{"type": "connect"}"#)),
        ("unknown type", |peer| peer.say("dance", json!({}))),
        ("wrong type of a field", |peer| {
            peer.say("output", json!({"seq": "zero", "data": 5}))
        }),
        ("negative seq", |peer| {
            peer.say("output", json!({"seq": -1, "data": "x"}))
        }),
        ("a seq beyond all bounds", |peer| {
            peer.say("output", json!({"seq": u64::MAX, "data": "x"}))
        }),
        ("bad base64", |peer| {
            peer.say("output", json!({"seq": 0, "data_base64": "!!"}))
        }),
        ("binary", |peer| {
            peer.socket
                .send(tungstenite::Message::binary(vec![0; 10]))
                .unwrap()
        }),
        ("deeply nested", |peer| peer.say_text(&"[".repeat(1_000_000))),
    ];
    for (what, offend) in offences {
        let mut offender = orders.connect();
        offend(&mut offender);
        let answers = offender.until_closed();
        assert_eq!(answers.len(), 1, "{what}");
        assert_eq!(answers[0]["type"], "error", "{what}");
    }
    peer.output(0, "unharmed");
    assert_eq!(peer.hear(), output_ack(0));
    peer.complete(0, 1);
    assert_eq!(ended(&daemon, &orders), (0, "unharmed".into()));
}

#[test]
fn a_frame_of_200_mb_is_refused_without_being_held_in_memory() {
    use std::io::{Read, Write};
    let daemon = daemon();
    let orders = launched(&daemon);
    let mut peer = orders.connect();
    let stream = peer.socket.get_mut();
    // a text frame's header with an 8-byte length and a mask of zeros
    let mut header = vec![0x81, 0xff];
    header.extend_from_slice(&200_000_000_u64.to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    stream.write_all(&header).unwrap();
    let piece = vec![b'x'; 1 << 20];
    // the daemon may close before it has read everything
    let sent = (0..200).take_while(|_| stream.write_all(&piece).is_ok()).count();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.contains("error") || sent < 200,
        "{sent} MiB sent, heard {answer}"
    );
    assert!(super::output::peak_memory_mib(daemon.pid()) < 100);
    // 20 MB is what a Python wrapper may send at once
    let mut peer = orders.start();
    let data = "0123456789abcde\n".repeat(20_000_000 / 16);
    peer.output(0, &data);
    assert_eq!(peer.hear(), output_ack(0));
    peer.complete(0, 1);
    daemon.wait_ended(&orders.instance);
    assert!(daemon.output(&orders.instance, "m1") == data.as_bytes());
}

#[test]
fn one_that_never_reads_is_dropped_and_500_idle_ones_disturb_nobody() {
    let daemon = daemon();
    let orders = launched(&daemon);
    let idle: Vec<_> = (0..500).map(|_| orders.connect()).collect();
    let mut deaf = orders.start();
    deaf.output(0, "x");
    // each asks for an answer that it does not take
    let duplicate = deaf.frame("output", json!({"data": "x", "seq": 0})).to_string();
    let asked = (0..2_000_000)
        .take_while(|_| {
            deaf.socket
                .send(tungstenite::Message::text(duplicate.as_str()))
                .is_ok()
        })
        .count();
    assert!(asked < 2_000_000, "it was never dropped");
    // meanwhile and afterwards others are served
    assert_eq!(daemon.run_to_end("real"), (0, "real\n".into()));
    let mut back = orders.connect();
    back.say("sync_request", json!({"last_acked_seq": -1, "next_seq": 1}));
    assert_eq!(back.hear(), json!({"type": "sync_response", "last_seq": 0}));
    back.complete(0, 1);
    assert_eq!(ended(&daemon, &orders), (0, "x".into()));
    drop(idle);
}

#[test]
fn a_late_truth_replaces_what_was_presumed() {
    let daemon = daemon();
    // 1 s instead of 15
    let fields = json!({"wrapper_path": daemon.told_wrapper(), "heartbeat_timeout": 1});
    daemon.write_jobs("zz", &json!({"quick": job_with("echo never", fields)}));
    daemon.wait_jobs(4);
    let instance = daemon.run("quick");
    let orders = daemon.orders(&instance, "m1");
    let mut peer = orders.start();
    peer.output(0, "before\n");
    assert_eq!(peer.hear(), output_ack(0));
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 253);
    let line = "[SALTPETER ERROR: Job lost connection - no heartbeat for ";
    assert!(daemon.output_text(&instance, "m1").contains(line));
    assert_eq!(daemon.state("quick")["result_ok"], false);
    // the wrapper is back, on another socket as well as on the old one
    let mut back = orders.connect();
    back.output(1, "after\n");
    assert_eq!(back.hear(), output_ack(1));
    until("it to count as running again", || {
        back.say("heartbeat", json!({}));
        daemon.is_running(&instance).then_some(())
    });
    back.complete(0, 2);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 0);
    assert_eq!(daemon.fact("revised_from", &instance, "m1"), Some(253));
    assert_eq!(
        daemon.number("SELECT success FROM runs WHERE instance = ?1", &instance),
        1
    );
    let output = daemon.output_text(&instance, "m1");
    assert!(
        output.starts_with("before\n[SALTPETER ERROR") && output.ends_with("after\n"),
        "{output}"
    );
    daemon.wait_status("success", |status| {
        (status["state"]["quick"]["result_ok"] == true).then_some(())
    });
    until("the revised block", || {
        let log = daemon.job_log("quick.log");
        log.contains(&format!(
            "########## m1 from {instance}, revised (was 253) ################\n**** Exit Code 0 ******"
        ))
        .then_some(())
    });
}

#[test]
fn a_stranger_under_a_wrong_name_is_named_in_the_machines_254() {
    let daemon = daemon();
    let fields = json!({"wrapper_path": daemon.told_wrapper()});
    daemon.write_jobs(
        "zz",
        &json!({"quick": job_with("echo never", fields), "saltpeter_config": {"start_timeout": 2}}),
    );
    daemon.wait_jobs(4);
    let instance = daemon.run("quick");
    let orders = daemon.orders(&instance, "m1");
    let mut stranger = orders.of_machine("m1.example.org").connect();
    stranger.greet();
    let (retcode, output) = ended(&daemon, &orders);
    assert_eq!(retcode, 254);
    assert!(
        output.contains("a wrapper connected as 'm1.example.org', which is no target of this run"),
        "{output}"
    );
}

#[test]
fn a_machine_that_has_not_connected_is_told_of_its_kill_when_it_does() {
    let daemon = daemon();
    let orders = launched(&daemon);
    // delivered in the environment: it may have started already, so only the wrapper can tell
    until("the launch", || daemon.fact("dispatched", &orders.instance, "m1"));
    assert_eq!(daemon.kill("j").status, 200);
    never_within(300, "it ended before its wrapper was told", || {
        !daemon.is_running(&orders.instance)
    });
    let mut peer = orders.connect();
    peer.say("connect", json!({}));
    assert_eq!(peer.hear(), json!({"type": "ack", "ack_type": "connect"}));
    // the next frame after connect is taken for its ack: the kill waits for the start
    peer.say("start", json!({"pid": 1}));
    assert_eq!(peer.hear(), json!({"type": "ack", "ack_type": "start"}));
    assert_eq!(peer.hear()["type"], "kill");
    peer.say("complete", json!({"retcode": 143, "seq": 0}));
    assert_eq!(ended(&daemon, &orders).0, 143);
}
