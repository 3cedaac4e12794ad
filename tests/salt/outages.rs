//! Minions, master, helper, wrapper and daemon that die at the wrong moment.

use rustix::process::Signal;
use saltpeter::clock;
use serde_json::json;

use crate::daemon::{Daemon, codes, job, silence_s};
use crate::lab::{self, free_port};
use crate::{processes, wait};

#[test]
fn a_minion_that_is_down_costs_the_others_nothing_and_ends_with_255() {
    let Some((lab, hold)) = lab::alone() else { return };
    lab.kill("web-b");
    let daemon = Daemon::start((lab, hold), json!({"j": job(json!("*"), "echo ran")}));
    let begun = clock::mono();
    let instance = daemon.run("j");
    for machine in ["web-a", "db1"] {
        daemon.wait_for_output("j", machine, "ran", 15);
    }
    let others_ms = clock::mono().since_ms(begun);
    let results = daemon.results("j", &instance, 40);
    let took_ms = clock::mono().since_ms(begun);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 255)]);
    assert!(
        results["web-b"]["ret"]
            .to_string()
            .contains("Target did not respond")
    );
    println!("others after {others_ms} ms, the run after {took_ms} ms");
    assert!(others_ms < 15_000 && took_ms >= 19_000);
    lab.start("web-b");
    lab.wait_until_ready();
}

#[test]
fn a_run_outlives_its_minion_and_a_restart_of_the_master() {
    let Some((lab, hold)) = lab::alone() else { return };
    let daemon = Daemon::start(
        (lab, hold),
        json!({"j": job(json!("*"), "echo begun; sleep 8; echo over")}),
    );
    let instance = daemon.run("j");
    for machine in lab::MINIONS {
        daemon.wait_for_output("j", machine, "begun", 60);
    }
    lab.kill("db1");
    lab.kill("master");
    lab.start("master");
    let results = daemon.results("j", &instance, 60);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
    assert_eq!(results["db1"]["ret"], "begun\nover\n");
    lab.start("db1");
    lab.wait_until_ready();
    // the same daemon goes on with the new master
    let results = daemon.outcome("j", 90);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
}

#[test]
fn a_run_that_is_due_while_the_master_restarts_starts_when_it_is_back() {
    let Some((lab, hold)) = lab::alone() else { return };
    let daemon = Daemon::start((lab, hold), json!({"j": job(json!("*"), "true")}));
    wait::until("the helper", 30, || {
        daemon.log().contains("salt: version").then_some(())
    });
    lab.kill("master");
    let instance = daemon.run("j");
    lab.start("master");
    let results = daemon.results("j", &instance, 100);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
}

#[test]
fn a_minion_that_was_frozen_starts_nothing_when_it_wakes_after_the_run() {
    let Some((lab, hold)) = lab::alone() else { return };
    let mark = lab.root.join("woken");
    let command = format!("echo \"$SP_MACHINE_ID\" >> {}", mark.display());
    let daemon = Daemon::start((lab, hold), json!({"j": job(json!("*"), &command)}));
    // it answers the ping, and is frozen before the dispatch: so it looks to the daemon
    let freeze = |signal| lab.signal("web-a", signal);
    let instance = daemon.run("j");
    wait::until("the ping's answers", 30, || {
        let running = &daemon.status()["running"][&instance];
        let machines = running["machines"].as_array().map_or(0, Vec::len);
        (machines > 0).then(|| freeze(Signal::STOP))
    });
    let results = daemon.results("j", &instance, 120);
    let frozen = codes(&results).contains(&("web-a", 255));
    freeze(Signal::CONT);
    lab.wait_until_ready();
    // what it had queued has been worked off: it answers in order
    wait::until("the wrapper's refusal", 60, || {
        let still = processes::wrapper(&instance, "web-a").is_some();
        (!still).then_some(())
    });
    let ran = std::fs::read_to_string(&mark).unwrap_or_default();
    println!("frozen in time: {frozen}; ran on: {ran:?}");
    assert_eq!(ran.contains("web-a"), !frozen);
    assert_eq!(ran.matches("web-b").count(), 1);
}

#[test]
fn a_wrapper_that_is_killed_is_lost_15_to_17_seconds_after_its_last_beat() {
    let Some(lab) = lab::shared() else { return };
    let daemon = Daemon::start(
        lab,
        json!({"j": job(json!("web-a"), "echo begun; exec sleep 300")}),
    );
    let instance = daemon.run("j");
    daemon.wait_for_output("j", "web-a", "begun", 60);
    let wrapper = wait::until("the wrapper", 10, || processes::wrapper(&instance, "web-a"));
    processes::signal(wrapper, Signal::KILL);
    let results = daemon.results("j", &instance, 60);
    assert_eq!(codes(&results), [("web-a", 253)]);
    let seconds = silence_s(&results["web-a"]);
    assert!((15.0..=17.0).contains(&seconds), "{seconds}");
}

#[test]
fn a_helper_that_is_killed_is_started_again_and_loses_no_run() {
    let Some(lab) = lab::shared() else { return };
    let daemon = Daemon::start(lab, json!({"j": job(json!("*"), "echo ran")}));
    let helper = |other_than: i32| {
        wait::until("the helper", 40, || {
            let is_helper = |pid: &i32| {
                let arguments = processes::arguments(*pid);
                let name = b"saltpeter-salt-helper";
                *pid != other_than
                    && processes::parent(*pid) == Some(daemon.pid())
                    && arguments.windows(name.len()).any(|part| part == name)
            };
            processes::all().into_iter().find(is_helper)
        })
    };
    let first = helper(0);
    let instance = daemon.run("j");
    processes::signal(first, Signal::KILL);
    let results = daemon.results("j", &instance, 60);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
    let second = helper(first);
    // one that hangs is found out, too
    processes::signal(second, Signal::STOP);
    let results = daemon.outcome("j", 110);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
}

#[test]
fn a_daemon_that_is_killed_while_salt_works_goes_on_and_starts_nothing_twice() {
    let Some(lab) = lab::shared() else { return };
    let mark = lab.0.root.join("twice");
    let command = format!("echo \"$SP_MACHINE_ID\" >> {}; sleep 2", mark.display());
    let mut daemon = Daemon::start(
        lab,
        json!({
            "j": job(json!("*"), &command),
            // it has to come back where the wrappers look for it
            "saltpeter_config": {"machines_ws_port": free_port()},
        }),
    );
    let instance = daemon.run("j");
    wait::until("the dispatch", 30, || {
        let running = &daemon.status()["running"][&instance];
        let machines = running["machines"].as_array().map_or(0, Vec::len);
        (machines > 0).then_some(())
    });
    daemon.kill();
    daemon.restart();
    let results = daemon.results("j", &instance, 60);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
    let ran = std::fs::read_to_string(&mark).unwrap();
    let mut ran: Vec<&str> = ran.lines().collect();
    ran.sort_unstable();
    assert_eq!(ran, ["db1", "web-a", "web-b"]);
}
