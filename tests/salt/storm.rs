//! Many runs at once, many machines in a run. What it costs is measured in tests/bench.

use serde_json::json;

use crate::bridge::{Bridge, new_jid};
use crate::daemon::{Daemon, codes, job};
use crate::lab::{self, farm};

const RUNS: usize = 30;

#[test]
fn many_runs_that_are_due_together_all_start() {
    let Some(lab) = lab::alone() else { return };
    let mut files = json!({});
    for number in 0..RUNS {
        files[format!("job{number}")] = job(json!("*"), "true");
    }
    let daemon = Daemon::start(lab, files);
    let instances: Vec<String> = (0..RUNS)
        .map(|number| daemon.run(&format!("job{number}")))
        .collect();
    for (number, instance) in instances.iter().enumerate() {
        let results = daemon.results(&format!("job{number}"), instance, 240);
        let all_well = [("db1", 0), ("web-a", 0), ("web-b", 0)];
        assert_eq!(codes(&results), all_well, "job{number}");
    }
}

#[test]
fn hundreds_of_machines_in_one_run_all_end_and_a_silent_one_costs_them_nothing() {
    const MINIONS: usize = 300;
    let Some((lab, hold)) = lab::alone() else { return };
    let _farm = farm::Farm::start(lab, MINIONS, 1);
    let mark = lab.root.join("farm-executions");
    let command = format!("echo \"$SP_MACHINE_ID\" >> {}", mark.display());
    let daemon = Daemon::start((lab, hold), json!({"j": job(json!(farm::TARGETS), &command)}));
    let results = daemon.outcome("j", 120);
    let silent = farm::id(0);
    let expected: Vec<(String, i64)> = (0..MINIONS)
        .map(|number| (farm::id(number), if number == 0 { 255 } else { 0 }))
        .collect();
    let codes: Vec<(String, i64)> = codes(&results)
        .into_iter()
        .map(|(machine, retcode)| (machine.to_string(), retcode))
        .collect();
    assert_eq!(codes, expected);
    let mut ran: Vec<String> = std::fs::read_to_string(mark)
        .unwrap()
        .lines()
        .map(String::from)
        .collect();
    ran.sort();
    let all_but_silent: Vec<String> = (1..MINIONS).map(farm::id).collect();
    assert_eq!(ran, all_but_silent, "lost or started twice");
    let ended = |machine: &str| results[machine]["endtime"].as_str().unwrap().to_string();
    let first = all_but_silent.iter().map(|machine| ended(machine)).min();
    assert!(first < Some(ended(&silent)), "others waited for the silent one");
}

#[test]
fn the_helper_hands_on_a_thousand_returns() {
    const RETURNS: usize = 1_000;
    let Some((lab, _hold)) = lab::alone() else { return };
    let mut bridge = Bridge::start(lab);
    let jid = new_jid();
    let request = json!({"tgt": "web-a", "fun": "test.sleep", "arg": [8], "jid": jid, "timeout": 60});
    bridge.run(request);
    bridge.wait_for(30, |event| event["ev"] == "pub");
    let mut fire = farm::fire_returns(lab, &jid, RETURNS);
    let mut seen = 0;
    bridge.events_for(60_000, |event| {
        seen += usize::from(event["ev"] == "ret" && event["minion"] != "web-a");
        seen == RETURNS
    });
    let _ = fire.wait();
    assert_eq!(seen, RETURNS);
}
