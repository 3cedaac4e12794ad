//! Many runs at once. Prints what they cost.

use std::process::Command;

use saltpeter::clock;
use serde_json::json;

use crate::bridge::{Bridge, new_jid};
use crate::daemon::{Daemon, codes, job};
use crate::{lab, processes};

const RUNS: usize = 30;

#[test]
fn many_runs_that_are_due_together_all_start() {
    let Some(lab) = lab::alone() else { return };
    let mut files = json!({"first": job(json!("*"), "true")});
    for number in 0..RUNS {
        files[format!("job{number}")] = job(json!("*"), "true");
    }
    let daemon = Daemon::start(lab, files);
    let all_well = [("db1", 0), ("web-a", 0), ("web-b", 0)];
    // one alone, with everything warm
    assert_eq!(codes(&daemon.outcome("first", 60)), all_well);
    let helper = processes::all().into_iter().find(|pid| {
        processes::parent(*pid) == Some(daemon.pid())
            && String::from_utf8_lossy(&processes::arguments(*pid)).contains("saltpeter-salt-helper")
    });
    let cpu = || [helper.unwrap_or(0), daemon.pid()].map(processes::cpu_ticks);
    for _ in 0..3 {
        let before = cpu();
        assert_eq!(codes(&daemon.outcome("first", 60)), all_well);
        let after = cpu();
        let state = &daemon.status()["state"]["first"];
        let fired = seconds(&state["last_run"]);
        let mut starts: Vec<f64> = state["results"]
            .as_object()
            .unwrap()
            .values()
            .map(|result| seconds(&result["starttime"]) - fired)
            .collect();
        starts.sort_by(f64::total_cmp);
        println!(
            "one run: started on the machines after {starts:.2?} s; helper {} ms, daemon {} ms of CPU",
            (after[0] - before[0]) * 10,
            (after[1] - before[1]) * 10
        );
    }
    let (before, begun) = (cpu(), clock::mono());
    let instances: Vec<String> = (0..RUNS)
        .map(|number| daemon.run(&format!("job{number}")))
        .collect();
    for (number, instance) in instances.iter().enumerate() {
        let results = daemon.results(&format!("job{number}"), instance, 240);
        assert_eq!(codes(&results), all_well, "job{number}");
    }
    let after = cpu();
    println!(
        "{RUNS} runs at once: {} ms; helper {} ms, daemon {} ms of CPU",
        clock::mono().since_ms(begun),
        (after[0] - before[0]) * 10,
        (after[1] - before[1]) * 10
    );
}

/// Puts returns of minions that do not exist on the master's event bus.
const FIRE: &str = "
import sys, time, salt.config, salt.utils.event
opts = salt.config.client_config(sys.argv[1] + '/master')
bus = salt.utils.event.get_master_event(opts, opts['sock_dir'], listen=False)
for number in range(int(sys.argv[3])):
    data = {'id': 'm%d' % number, 'jid': sys.argv[2], 'return': True, 'retcode': 0, 'success': True}
    bus.fire_event(data, 'salt/job/%s/ret/m%d' % (sys.argv[2], number))
time.sleep(3)
";

#[test]
fn the_helper_hands_on_a_thousand_returns() {
    const RETURNS: usize = 1_000;
    let Some((lab, _hold)) = lab::alone() else { return };
    let mut bridge = Bridge::start(lab);
    let jid = new_jid();
    let request = json!({"tgt": "web-a", "fun": "test.sleep", "arg": [8], "jid": jid, "timeout": 60});
    bridge.run(request);
    bridge.wait_for(30, |event| event["ev"] == "pub");
    let pid = bridge.child.id() as i32;
    let (before, begun) = (processes::cpu_ticks(pid), clock::mono());
    let mut fire = Command::new(&lab.python)
        .args(["-c", FIRE])
        .arg(lab.config())
        .args([&jid, &RETURNS.to_string()])
        .spawn()
        .unwrap();
    let mut seen = 0;
    bridge.events_for(60_000, |event| {
        seen += usize::from(event["ev"] == "ret" && event["minion"] != "web-a");
        seen == RETURNS
    });
    let took_ms = clock::mono().since_ms(begun);
    let _ = fire.wait();
    println!(
        "{RETURNS} returns: {took_ms} ms; helper {} ms of CPU",
        (processes::cpu_ticks(pid) - before) * 10
    );
    assert_eq!(seen, RETURNS);
}

/// Seconds within the day of an ISO time.
fn seconds(iso: &serde_json::Value) -> f64 {
    let time = iso.as_str().unwrap();
    let part = |range: std::ops::Range<usize>| time[range].parse::<f64>().unwrap();
    part(11..13) * 3_600.0 + part(14..16) * 60.0 + part(17..26)
}
