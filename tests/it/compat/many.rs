//! Many UIs, and slow ones.

use std::thread::JoinHandle;

use saltpeter::thread;
use serde_json::json;

use super::client::Ui;
use crate::support::daemon::{Daemon, LONG_MS, Plan, job};
use crate::support::{until, until_within};

/// So many bytes, in lines.
fn printing(bytes: usize) -> serde_json::Value {
    job(&format!(
        "yes 'sixty-four bytes of output, again and again, until it is enough' | head -c {bytes}"
    ))
}

/// Follows a job's next run to its end on a thread of its own; the length of its text.
fn follow(mut ui: Ui, job: &'static str) -> JoinHandle<usize> {
    thread::spawn("ui-client", 1 << 20, move || {
        ui.until("its end", |ui| {
            let text = ui.text(job, "m1");
            text.is_complete && text.count > 0 && !ui.is_running(job)
        });
        ui.text(job, "m1").text.len()
    })
    .unwrap()
}

fn memory_kib(daemon: &Daemon, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn fifty_uis_follow_one_job_and_each_sees_everything() {
    const BYTES: usize = 2 << 20;
    let daemon = Plan::new(json!({"j": printing(BYTES)})).start();
    let uis: Vec<JoinHandle<usize>> = (0..50)
        .map(|_| follow(Ui::following(&daemon, "j"), "j"))
        .collect();
    daemon.run("j");
    for ui in uis {
        assert_eq!(ui.join().unwrap(), BYTES);
    }
}

#[test]
fn a_ui_that_never_reads_costs_others_nothing_and_little_memory() {
    const BYTES: usize = 24 << 20;
    let daemon = Plan::new(json!({"j": printing(BYTES), "k": job("echo quick")})).start();
    let silent: Vec<Ui> = (0..10).map(|_| Ui::following(&daemon, "j")).collect();
    let mut other = Ui::following(&daemon, "k");
    let before_kib = memory_kib(&daemon, "VmRSS:");
    let fast = follow(Ui::following(&daemon, "j"), "j");
    daemon.run("j");
    let quick = daemon.run("k");
    other.until("the other job", |ui| ui.text("k", "m1").is_complete);
    other.until_shown(&daemon, &quick, "m1");
    assert_eq!(fast.join().unwrap(), BYTES);
    let grown_kib = memory_kib(&daemon, "VmRSS:").saturating_sub(before_kib);
    assert!(grown_kib < 200 << 10, "grown by {grown_kib} KiB");
    drop(silent);
}

#[test]
fn a_ui_that_takes_nothing_for_long_is_closed_and_another_stays() {
    let daemon = Plan::new(json!({"j": printing(24 << 20)})).start();
    let connections = || -> usize {
        let metrics = daemon.get("/metrics").text();
        let mut lines = metrics.lines();
        let found = lines.find_map(|line| line.strip_prefix("saltpeter_connections{kind=\"api\"} "));
        found.unwrap().parse().unwrap()
    };
    let _silent = Ui::following(&daemon, "j");
    let mut other = Ui::connect(&daemon);
    daemon.run("j");
    // itself, and the one that reads
    until_within(LONG_MS, "its end", || {
        other.hear();
        (connections() == 2).then_some(())
    });
    other.say(json!({"run": "nope"}));
    other.until("an answer", |ui| !ui.errors.is_empty());
}

#[test]
fn a_long_list_of_jobs_that_are_none_costs_little() {
    let daemon = Plan::new(json!({"j": job("echo quick")})).start();
    let mut ui = Ui::connect(&daemon);
    let jobs: Vec<String> = (0..4_000).map(|number| format!("nope-{number}")).collect();
    ui.say(json!({"subscribe": jobs}));
    ui.until("refusals", |ui| ui.errors.len() >= 64);
    assert_eq!(ui.errors[0]["request"], json!({"subscribe": ["nope-1000"]}));
    let peak_kib = memory_kib(&daemon, "VmHWM:");
    assert!(peak_kib < 200 << 10, "{peak_kib} KiB");
    ui.say(json!({"unsubscribe": jobs}));
    ui.say(json!({"subscribe": "j"}));
    let instance = daemon.run("j");
    ui.until("its end", |ui| ui.text("j", "m1").is_complete);
    ui.until_shown(&daemon, &instance, "m1");
}

#[test]
fn uis_that_go_away_in_the_middle_leave_nothing_behind() {
    let daemon = Plan::new(json!({"j": printing(8 << 20)})).start();
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        tasks.count()
    };
    let before = threads();
    for _ in 0..3 {
        let uis: Vec<Ui> = (0..20).map(|_| Ui::following(&daemon, "j")).collect();
        let instance = daemon.run("j");
        daemon.wait_output(&instance, "m1", "sixty-four");
        drop(uis);
        daemon.wait_status("its end", |status| {
            status["running"].as_object()?.is_empty().then_some(())
        });
    }
    until("the threads' end", || (threads() <= before + 2).then_some(()));
}
