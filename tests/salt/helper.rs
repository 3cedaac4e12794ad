//! The helper's protocol, without a daemon.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bridge::{Bridge, new_jid};
use crate::{lab, wait};

fn minions(events: &[Value], what: &str) -> Vec<String> {
    let mut minions: Vec<String> = events
        .iter()
        .filter(|event| event["ev"] == what)
        .map(|event| event["minion"].as_str().unwrap().to_string())
        .collect();
    minions.sort();
    minions
}

#[test]
fn every_minions_return_arrives_by_itself_and_then_the_end() {
    let Some((lab, _hold)) = lab::shared() else { return };
    let mut bridge = Bridge::start(lab);
    let id = bridge.run(json!({"tgt": "*", "fun": "test.ping", "timeout": 20}));
    let events = bridge.all_of(id, 30);
    assert_eq!(minions(&events, "ret"), ["db1", "web-a", "web-b"]);
    assert_eq!(events.last().unwrap()["missing"], json!([]));
    let published = events.iter().find(|event| event["ev"] == "pub").unwrap();
    assert_eq!(published["minions"], json!(["db1", "web-a", "web-b"]));
}

#[test]
fn what_matches_nothing_and_what_salt_does_not_know_is_said_at_once() {
    let Some((lab, _hold)) = lab::shared() else { return };
    let mut bridge = Bridge::start(lab);
    let id = bridge.run(json!({"tgt": "nobody*", "fun": "test.ping"}));
    assert_eq!(bridge.all_of(id, 15).last().unwrap()["kind"], "no_match");
    let id = bridge.run(json!({"tgt": ["web-a", "gone"], "tgt_type": "list", "fun": "test.ping"}));
    let events = bridge.all_of(id, 30);
    let published = events.iter().find(|event| event["ev"] == "pub").unwrap();
    assert_eq!(published["unknown"], json!(["gone"]));
    assert_eq!(minions(&events, "ret"), ["web-a"]);
}

#[test]
fn nonsense_is_refused_and_harms_nobody() {
    let Some((lab, _hold)) = lab::shared() else { return };
    let mut bridge = Bridge::start(lab);
    for line in ["{", "[]", r#"{"op":"fly","id":1}"#, r#"{"op":"run","id":1}"#] {
        bridge.say(line);
        let error = bridge.wait_for(10, |event| event["ev"] == "error");
        assert_eq!(error["kind"], "bad_request", "{line}");
    }
    bridge.say(r#"{"op":"status","id":77}"#);
    bridge.wait_for(10, |event| event["ev"] == "hello" && event["id"] == 77);
}

#[test]
fn a_request_that_is_sent_again_after_the_helper_was_lost_is_executed_once() {
    let Some((lab, _hold)) = lab::shared() else { return };
    let mark = lab.root.join("executions");
    let command = format!("echo x >> {}; sleep 4; echo done", mark.display());
    let request = json!({
        "tgt": ["web-a"], "tgt_type": "list", "fun": "cmd.run_all", "jid": new_jid(), "timeout": 40,
        "kwarg": {"cmd": command}, "again": true,
    });
    let mut first = Bridge::start(lab);
    first.run(request.clone());
    wait::until("the execution", 30, || mark.exists().then_some(()));
    drop(first);
    // while it runs, and when it is over
    for via in ["bus", "cache"] {
        let mut next = Bridge::start(lab);
        let id = next.run(request.clone());
        let events = next.all_of(id, 30);
        let ret = events.iter().find(|event| event["ev"] == "ret").unwrap();
        assert_eq!(ret["ret"]["stdout"], "done");
        println!("{} (expected {via})", ret["via"]);
    }
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "x\n");
}

#[test]
fn a_minion_that_answers_others_is_busy_and_one_that_answers_nobody_is_given_up() {
    let Some((lab, _hold)) = lab::alone() else { return };
    let mut bridge = Bridge::start(lab);
    let request = json!({"tgt": "web-a", "fun": "test.sleep", "arg": [14], "timeout": 6, "patience": 100});
    let silent = bridge.run(request);
    assert_eq!(
        bridge.all_of(silent, 60).last().unwrap()["missing"],
        json!(["web-a"])
    );
    // of the same job, one at work and one that is off
    lab.kill("web-b");
    let both = bridge.run(json!({
        "tgt": ["web-a", "web-b"], "tgt_type": "list", "fun": "test.sleep", "arg": [14], "timeout": 6, "patience": 100,
    }));
    let mut told = Vec::new();
    wait::until("the end of what takes long", 90, || {
        bridge.run(json!({"tgt": "web-a", "fun": "test.ping", "timeout": 60}));
        bridge.events_for(1_000, |event| {
            if event["id"] == both && event["ev"] != "pub" {
                told.push(event.clone());
            }
            event["id"] == both && event["ev"] == "done"
        });
        told.last().filter(|event| event["ev"] == "done").map(|_| ())
    });
    let said: Vec<&Value> = told.iter().map(|event| &event["ev"]).collect();
    assert_eq!(said, ["gone", "ret", "done"], "{told:?}");
    assert_eq!(told[0]["minions"], json!(["web-b"]));
    assert_eq!(told[1]["minion"], "web-a");
    assert_eq!(told[2]["missing"], json!(["web-b"]));
    lab.start("web-b");
    lab.wait_until_ready();
}

#[test]
fn it_ends_with_its_input() {
    let Some((lab, _hold)) = lab::shared() else { return };
    let mut bridge = Bridge::start(lab);
    drop(bridge.child.stdin.take());
    let status = wait::until("its end", 10, || bridge.child.try_wait().unwrap());
    assert!(status.success());
}

#[test]
fn a_master_that_is_away_is_named_and_found_again() {
    let Some((lab, _hold)) = lab::alone() else { return };
    let mut bridge = Bridge::start(lab);
    lab.signal("master", Signal::KILL);
    lab.kill("master");
    let id = bridge.run(json!({"tgt": "*", "fun": "test.ping", "publish_timeout": 2}));
    let kind = bridge.all_of(id, 40).last().unwrap()["kind"].clone();
    assert!(kind == "master_timeout" || kind == "master_down", "{kind}");
    lab.start("master");
    lab.wait_until_ready();
    let id = bridge.run(json!({"tgt": "*", "fun": "test.ping", "timeout": 30}));
    let events = bridge.all_of(id, 60);
    assert_eq!(minions(&events, "ret"), ["db1", "web-a", "web-b"], "{events:?}");
}
