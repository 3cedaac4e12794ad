//! What can be done: run with machines and values, kill, retry, pause, maintenance; and that it is all recorded.

use serde_json::{Value, json};

use super::{control, expect};
use crate::support::daemon::{Daemon, Plan, every_second, job, job_with};
use crate::support::until;

fn run(daemon: &Daemon, job: &str, body: &Value) -> String {
    let answer = expect(&daemon.post(&format!("/api/v1/jobs/{job}/run"), body), 200);
    answer["instance"].as_str().unwrap().to_string()
}

fn machines_of(daemon: &Daemon, instance: &str) -> Vec<(String, i64)> {
    let run = expect(&daemon.get(&format!("/api/v1/runs/{instance}")), 200);
    let mut found: Vec<(String, i64)> = run["machines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|machine| {
            (
                machine["machine"].as_str().unwrap().into(),
                machine["retcode"].as_i64().unwrap(),
            )
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_run_takes_machines_and_declared_values_and_nothing_else() {
    let command = "echo \"db=$SP_PARAM_DB level=$SP_PARAM_LEVEL preload=$LD_PRELOAD\"";
    let fields = json!({"targets": "m*", "parameters": {"db": "main", "level": 3}});
    let daemon = Plan::new(json!({"j": job_with(command, fields)})).start();
    let order = json!({"targets": ["m2", "m3"], "parameters": {"db": "$(touch /tmp/no); `id`"}});
    let instance = run(&daemon, "j", &order);
    daemon.wait_ended(&instance);
    assert_eq!(
        machines_of(&daemon, &instance),
        [("m2".into(), 0), ("m3".into(), 0)]
    );
    assert_eq!(
        daemon.output_text(&instance, "m2"),
        "db=$(touch /tmp/no); `id` level=3 preload=\n"
    );
    let shown = expect(&daemon.get(&format!("/api/v1/runs/{instance}")), 200);
    assert_eq!(
        shown["parameters"],
        json!({"db": "$(touch /tmp/no); `id`", "level": "3"})
    );
    assert_eq!(shown["only"], json!(["m2", "m3"]));
    for body in [
        json!({"parameters": {"LD_PRELOAD": "/tmp/evil.so"}}),
        json!({"parameters": {"SP_PARAM_DB": "x"}}),
        json!({"parameters": {"db": "a\u{0}b"}}),
        json!({"parameters": {"db": "x".repeat(5_000)}}),
        json!({"parameters": {"db": 1}}),
        json!({"env": {"A": "b"}}),
        json!({"targets": "m1"}),
        json!({"targets": [""]}),
        json!({"targets": []}),
        json!([]),
    ] {
        expect(&daemon.post("/api/v1/jobs/j/run", &body), 400);
    }
    let plain = run(&daemon, "j", &json!({}));
    daemon.wait_ended(&plain);
    assert_eq!(machines_of(&daemon, &plain).len(), 3);
    assert_eq!(daemon.output_text(&plain, "m1"), "db=main level=3 preload=\n");
}

#[test]
fn a_machine_that_the_job_does_not_match_is_told_so_and_runs_nothing() {
    let daemon = Plan::new(json!({"j": job("echo ran")})).start();
    let instance = run(&daemon, "j", &json!({"targets": ["m1", "m2"]}));
    daemon.wait_ended(&instance);
    assert_eq!(
        machines_of(&daemon, &instance),
        [("m1".into(), 0), ("m2".into(), 255)]
    );
    assert!(
        daemon
            .output_text(&instance, "m2")
            .contains("Not among the machines")
    );
}

#[test]
fn a_run_on_machines_that_are_no_targets_or_of_a_disabled_job_is_refused() {
    let jobs = json!({
        "j": job_with("true", json!({"targets": "m*"})),
        "off": job_with("true", json!({"enabled": false})),
    });
    let daemon = Plan::new(jobs).start();
    let refused = expect(
        &daemon.post("/api/v1/jobs/j/run", &json!({"targets": ["web1", "web2"]})),
        400,
    );
    assert_eq!(refused["detail"], "j has no such target: web1, web2");
    let refused = expect(&daemon.post("/api/v1/jobs/off/run", &json!({})), 409);
    assert_eq!(
        refused["detail"],
        "off is disabled ('enabled: false' in its file): enable it to run it"
    );
    assert_eq!(daemon.get("/api/v1/runs").json()["runs"], json!([]));
}

#[test]
fn maintenance_of_a_machine_that_no_job_targets_is_set_with_a_warning() {
    let daemon = Plan::new(json!({"j": job_with("true", json!({"targets": "m*"}))})).start();
    let put = |machine: &str| {
        let body = json!({"on": true, "reason": "r", "machine": machine});
        let told = expect(&control(&daemon, "PUT", "/api/v1/maintenance", &body), 200);
        told["message"]
            .as_str()
            .unwrap()
            .contains("no job has this machine")
    };
    assert!(put("web1") && !put("m7"));
}

#[test]
fn a_retry_runs_on_the_machines_that_failed_with_the_same_values() {
    let command = "[ \"$SP_MACHINE_ID\" != m2 ] || [ -e $OK ] && echo \"$SP_PARAM_X\"";
    let daemon = Plan::new(json!({})).prepare();
    let ok = daemon.path("ok");
    let fields = json!({"targets": "*", "env": {"OK": ok}, "parameters": {"x": "default"}});
    daemon.write_jobs("jobs", &json!({"j": job_with(command, fields)}));
    daemon.start();
    let first = run(&daemon, "j", &json!({"parameters": {"x": "given"}}));
    daemon.wait_ended(&first);
    assert_eq!(
        machines_of(&daemon, &first),
        [("m1".into(), 0), ("m2".into(), 1), ("m3".into(), 0)]
    );
    std::fs::write(&ok, "").unwrap();
    let retry = format!("/api/v1/runs/{first}/retry");
    let second = expect(&daemon.post(&retry, &json!({})), 200)["instance"]
        .as_str()
        .unwrap()
        .to_string();
    daemon.wait_ended(&second);
    assert_eq!(machines_of(&daemon, &second), [("m2".into(), 0)]);
    assert_eq!(daemon.output_text(&second, "m2"), "given\n");
    expect(
        &daemon.post(&format!("/api/v1/runs/{second}/retry"), &json!({})),
        409,
    );
    expect(&daemon.post("/api/v1/runs/nope_1/retry", &json!({})), 404);
}

#[test]
fn a_run_or_one_machine_of_it_is_killed() {
    let daemon = Plan::new(json!({"j": job_with("sleep 600", json!({"targets": "*"}))})).start();
    let instance = run(&daemon, "j", &json!({}));
    expect(&daemon.post("/api/v1/jobs/j/run", &json!({})), 409);
    expect(
        &daemon.post(&format!("/api/v1/runs/{instance}/retry"), &json!({})),
        409,
    );
    let kill = format!("/api/v1/runs/{instance}/machines/m2/kill");
    expect(&daemon.post(&kill, &json!({})), 200);
    until("the end of m2", || {
        let run = daemon.get(&format!("/api/v1/runs/{instance}")).json();
        let machines = run["machines"].as_array()?.clone();
        let ended: Vec<Value> = machines
            .into_iter()
            .filter(|machine| !machine["ended"].is_null())
            .collect();
        (ended.len() == 1 && ended[0]["machine"] == "m2" && ended[0]["retcode"] == 143).then_some(())
    });
    expect(
        &daemon.post(&format!("/api/v1/runs/{instance}/kill"), &json!({})),
        200,
    );
    daemon.wait_ended(&instance);
    assert!(
        machines_of(&daemon, &instance)
            .iter()
            .all(|(_, code)| *code == 143)
    );
    expect(
        &daemon.post(&format!("/api/v1/runs/{instance}/kill"), &json!({})),
        409,
    );
    expect(&daemon.post("/api/v1/runs/nope_1/kill", &json!({})), 404);
    expect(&daemon.post("/api/v1/jobs/nope/kill", &json!({})), 404);
    expect(
        &daemon.post("/api/v1/jobs/j/kill", &json!({"mashine": "m1"})),
        400,
    );
}

#[test]
fn a_paused_job_starts_nothing_also_after_a_restart_until_it_is_resumed() {
    let daemon = Plan::new(json!({"tick": every_second("true", json!({}))}))
        .restarts()
        .start();
    until("a first run", || {
        (!daemon.state("tick")["last_run"].is_null()).then_some(())
    });
    let pause = |body: Value| daemon.post("/api/v1/jobs/tick/pause", &body);
    expect(&pause(json!({})), 400);
    expect(&pause(json!({"reason": "  "})), 400);
    expect(&pause(json!({"reason": "x", "until": "now-1h"})), 400);
    expect(&pause(json!({"reason": "disk swap", "until": "now+1h"})), 200);
    daemon.kill_hard();
    daemon.start();
    let job = expect(&daemon.get("/api/v1/jobs/tick"), 200);
    assert_eq!(job["paused"]["reason"], "disk swap");
    let runs = || daemon.number("SELECT count(*) FROM runs WHERE job = ?1", "tick");
    let before = runs();
    until("due times with that verdict", || {
        let paused = "SELECT count(*) FROM verdicts WHERE job = ?1 AND verdict = 'paused'";
        (daemon.number(paused, "tick") >= 2).then_some(())
    });
    assert_eq!(runs(), before, "nothing has started");
    let events = expect(&daemon.get("/api/v1/events?job=tick&limit=1000"), 200);
    let is_paused = |event: &Value| event["type"] == "paused" && event["reason"] == "disk swap";
    assert!(events["events"].as_array().unwrap().iter().any(is_paused));
    expect(&daemon.post("/api/v1/jobs/tick/resume", &json!({})), 200);
    until("a run", || (runs() > before).then_some(()));
    expect(&daemon.post("/api/v1/jobs/tick/resume", &json!({})), 409);
    expect(
        &daemon.post("/api/v1/jobs/nope/pause", &json!({"reason": "x"})),
        404,
    );
}

#[test]
fn a_pause_ends_by_itself() {
    let daemon = Plan::new(json!({"tick": every_second("true", json!({}))})).start();
    let reply = daemon.post(
        "/api/v1/jobs/tick/pause",
        &json!({"reason": "r", "until": "now+2s"}),
    );
    expect(&reply, 200);
    until("the end of the pause", || {
        daemon.get("/api/v1/jobs/tick").json()["paused"]
            .is_null()
            .then_some(())
    });
    let paused = daemon.number("SELECT count(*) FROM pauses WHERE job <> ?1", "");
    until("its end in storage", || {
        (paused == 0 || daemon.number("SELECT count(*) FROM pauses", "") == 0).then_some(())
    });
}

#[test]
fn maintenance_is_switched_on_top_of_the_files_for_a_while() {
    let daemon = Plan::new(json!({"j": job_with("true", json!({"targets": "*"}))}))
        .restarts()
        .start();
    daemon.write_file("m.yaml", "saltpeter_maintenance: {machines: [m3]}\n");
    until("the files' word", || {
        (daemon.get("/api/v1/maintenance").json()["machines"] == json!(["m3"])).then_some(())
    });
    let put = |body: Value| control(&daemon, "PUT", "/api/v1/maintenance", &body);
    // who may operate may not switch
    let with = [("Content-Type", "application/json")];
    let refused = super::with_headers(&daemon, "PUT", "/api/v1/maintenance", &with, b"{}");
    expect(&refused, 401);
    expect(&put(json!({"on": true})), 400);
    expect(&put(json!({"on": true, "reason": "r", "seconds": 0})), 400);
    expect(&put(json!({"on": true, "reason": "r", "seconds": 604_801})), 400);
    expect(
        &put(json!({"on": true, "reason": "switches", "machine": "m1"})),
        200,
    );
    expect(
        &put(json!({"on": false, "reason": "back early", "machine": "m3"})),
        200,
    );
    daemon.kill_hard();
    daemon.start();
    let shown = expect(&daemon.get("/api/v1/maintenance"), 200);
    assert_eq!(
        (&shown["machines"], &shown["files"]["machines"]),
        (&json!(["m1"]), &json!(["m3"]))
    );
    assert_eq!(shown["switches"].as_array().unwrap().len(), 2);
    let instance = daemon.run("j");
    daemon.wait_ended(&instance);
    assert_eq!(daemon.output_text(&instance, "m1"), "Target under maintenance\n");
    assert_eq!(daemon.output_text(&instance, "m3"), "");
    let skipped = run(&daemon, "j", &json!({"targets": ["m1"]}));
    daemon.wait_ended(&skipped);
    let found = expect(&daemon.get("/api/v1/runs?outcome=skipped"), 200)["runs"].clone();
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(
        (&found[0]["instance"], &found[0]["total_count"]),
        (&json!(skipped), &json!(0))
    );
    expect(&put(json!({"on": true, "reason": "all", "seconds": 3_600})), 200);
    expect(&daemon.post("/api/v1/jobs/j/run", &json!({})), 409);
    assert_eq!(daemon.get("/config").json()["maintenance"]["global"], true);
    // a script with an empty variable must not lift it
    let empty = control(&daemon, "DELETE", "/api/v1/maintenance?machine=", &json!({}));
    expect(&empty, 400);
    expect(
        &control(&daemon, "DELETE", "/api/v1/maintenance", &json!({})),
        200,
    );
    expect(
        &control(&daemon, "DELETE", "/api/v1/maintenance", &json!({})),
        409,
    );
    expect(&put(json!({"on": true, "reason": "short", "seconds": 1})), 200);
    until("its end", || {
        (daemon.get("/api/v1/maintenance").json()["global"] == false).then_some(())
    });
}

#[test]
fn who_did_what_from_where_and_when_is_recorded() {
    let fields = json!({"parameters": {"p": "x"}});
    let daemon = Plan::new(json!({"j": job_with("exit 1", fields)})).start();
    let instance = run(&daemon, "j", &json!({"parameters": {"p": "hunter2"}}));
    daemon.wait_ended(&instance);
    let again = expect(
        &daemon.post(&format!("/api/v1/runs/{instance}/retry"), &json!({})),
        200,
    );
    daemon.wait_ended(again["instance"].as_str().unwrap());
    daemon.kill("j");
    expect(
        &daemon.post("/api/v1/jobs/j/pause", &json!({"reason": "why not"})),
        200,
    );
    control(
        &daemon,
        "PUT",
        "/api/v1/maintenance",
        &json!({"on": true, "reason": "r"}),
    );
    let audit = expect(&daemon.get("/api/v1/audit"), 200);
    let entries = audit["audit"].as_array().unwrap();
    let actions: Vec<&str> = entries
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["maintenance", "pause", "kill", "retry", "run"]);
    assert!(
        entries[0]["by"].as_str().unwrap().contains("control.sock"),
        "{entries:?}"
    );
    assert!(
        entries[1]["by"].as_str().unwrap().contains("127.0.0.1"),
        "{entries:?}"
    );
    assert_eq!(entries[2]["outcome"], "j is not running");
    assert_eq!(entries[4]["outcome"], format!("ok: {instance}"));
    assert_eq!(entries[4]["detail"], "parameters p");
    let pauses = expect(
        &daemon.get("/api/v1/audit?action=pause&object=j&from=now-1h"),
        200,
    );
    assert_eq!(pauses["audit"].as_array().unwrap().len(), 1);
    let older = expect(
        &daemon.get(&format!("/api/v1/audit?before={}", entries[3]["id"])),
        200,
    );
    assert_eq!(older["audit"].as_array().unwrap().len(), 1);
    daemon.wait_said("audit: somebody at 127.0.0.1: pause j");
    // a value given is nobody's business but the run's
    assert!(!daemon.said().contains("hunter2") && !audit.to_string().contains("hunter2"));
}
