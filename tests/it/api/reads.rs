//! What can be seen: jobs, runs, outputs, machines, events, metrics, the old paths.

use serde_json::{Value, json};

use super::{expect, with_headers};
use crate::support::daemon::{Plan, job, job_with};
use crate::support::until;

#[test]
fn a_job_shows_its_configuration_its_state_and_its_next_and_recent_runs() {
    let jobs = json!({
        "nightly": job_with("echo hi", json!({"year": "*", "hour": 3, "min": 0, "description": "d"})),
        "off": job_with("true", json!({"enabled": false})),
    });
    let daemon = Plan::new(jobs).start();
    let instance = daemon.run("nightly");
    daemon.wait_ended(&instance);
    let shown = expect(&daemon.get("/api/v1/jobs/nightly"), 200);
    assert_eq!((&shown["state"], &shown["group"]), (&json!("ok"), &json!("jobs")));
    assert_eq!(shown["config"]["command"], "echo hi");
    assert_eq!(shown["recent"][0]["instance"], instance);
    assert_eq!(shown["recent"][0]["outcome"], "succeeded");
    let next = shown["next_runs"].as_array().unwrap();
    assert_eq!(next.len(), 5);
    assert!(
        next.iter()
            .all(|time| time.as_str().unwrap().contains("T03:00:00")),
        "{next:?}"
    );
    let all = expect(&daemon.get("/api/v1/jobs"), 200);
    let states: Vec<&Value> = all["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["state"])
        .collect();
    assert_eq!(states, ["ok", "disabled"]);
    assert_eq!(
        expect(&daemon.get("/api/v1/jobs?group=none"), 200)["jobs"],
        json!([])
    );
    expect(&daemon.get("/api/v1/jobs/nope"), 404);
    expect(&daemon.get("/api/v1/jobs?recent=21"), 400);
}

#[test]
fn runs_are_found_by_job_machine_outcome_and_time_page_by_page() {
    let daemon = Plan::new(json!({
        "good": job("true"), "bad": job_with("exit 3", json!({"targets": "m2"})),
    }))
    .start();
    let mut instances = Vec::new();
    for name in ["good", "bad", "good"] {
        let instance = daemon.run(name);
        daemon.wait_ended(&instance);
        instances.push(instance);
    }
    let found = |query: &str| -> Vec<String> {
        let answer = expect(&daemon.get(&format!("/api/v1/runs?{query}")), 200);
        let runs = answer["runs"].as_array().unwrap();
        runs.iter()
            .map(|run| run["instance"].as_str().unwrap().to_string())
            .collect()
    };
    let newest_first: Vec<String> = instances.iter().rev().cloned().collect();
    assert_eq!(found(""), newest_first);
    assert_eq!(found("job=bad"), instances[1..2]);
    assert_eq!(found("machine=m2"), instances[1..2]);
    assert_eq!(found("outcome=failed"), instances[1..2]);
    assert_eq!(found("outcome=succeeded").len(), 2);
    assert_eq!(found("outcome=running"), [""; 0]);
    assert_eq!(found("group=jobs").len(), 3);
    assert_eq!(found("from=now-1h&until=now").len(), 3);
    assert_eq!(found("until=now-1h"), [""; 0]);
    let failed = expect(&daemon.get("/api/v1/runs?job=bad"), 200)["runs"][0].clone();
    let counts = |run: &Value| ["total_count", "ended_count", "failed_count"].map(|name| run[name].as_u64());
    assert_eq!(counts(&failed), [Some(1), Some(1), Some(1)], "{failed}");
    let brief = expect(&daemon.get("/api/v1/jobs/good"), 200)["recent"][0].clone();
    assert_eq!(counts(&brief), [Some(1), Some(1), Some(0)], "{brief}");
    let first = expect(&daemon.get("/api/v1/runs?limit=2"), 200);
    assert_eq!(first["runs"].as_array().unwrap().len(), 2);
    assert_eq!(
        found(&format!("limit=2&before={}", first["next"])),
        instances[..1]
    );
    for bad in ["limit=0", "limit=1001", "outcome=odd", "from=soon", "before=-1"] {
        expect(&daemon.get(&format!("/api/v1/runs?{bad}")), 400);
    }
    let run = expect(&daemon.get(&format!("/api/v1/runs/{}", instances[1])), 200);
    assert_eq!(
        (&run["outcome"], &run["stage"]),
        (&json!("failed"), &json!("ended"))
    );
    let machine = &run["machines"][0];
    assert_eq!(
        (&machine["machine"], &machine["retcode"]),
        (&json!("m2"), &json!(3))
    );
    assert_eq!(machine["outcome"], "failed");
    assert!(run.get("token").is_none());
    expect(&daemon.get("/api/v1/runs/good_1"), 404);
}

#[test]
fn an_output_is_there_whole_in_part_and_while_it_comes() {
    let go = "echo first; while [ ! -e $GO ]; do sleep 0.05; done; printf 'sec\\303\\266nd'";
    let daemon = Plan::new(json!({"slow": job(go)})).prepare();
    let flag = daemon.path("go");
    daemon.write_jobs(
        "jobs",
        &json!({"slow": job_with(go, json!({"env": {"GO": flag}}))}),
    );
    daemon.start();
    let instance = daemon.run("slow");
    let path = format!("/api/v1/runs/{instance}/machines/m1/output");
    daemon.wait_output(&instance, "m1", "first");
    let mut follower = daemon.http();
    follower
        .send(format!("GET {path}?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .unwrap();
    std::fs::write(&flag, "").unwrap();
    let followed = follower.reply().unwrap();
    assert_eq!(followed.body, "first\nsecönd".as_bytes());
    // followed to the end: it has ended
    daemon.wait_ended(&instance);
    let part = |range: &str| with_headers(&daemon, "GET", &path, &[("Range", range)], b"");
    let reply = part("bytes=6-8");
    assert_eq!((reply.status, reply.text().as_str()), (206, "sec"));
    assert_eq!(reply.header("content-range"), Some("bytes 6-8/13"));
    assert_eq!(part("bytes=-2").body, b"nd");
    let beyond = part("bytes=13-");
    expect(&beyond, 416);
    assert_eq!(beyond.header("content-range"), Some("bytes */13"));
    // a part of what may be another version by now: nobody can know, so it is sent whole
    let headers = [("Range", "bytes=6-8"), ("If-Range", "\"v\"")];
    let reply = with_headers(&daemon, "GET", &path, &headers, b"");
    assert_eq!((reply.status, reply.body.len()), (200, 13));
    let rest = with_headers(
        &daemon,
        "GET",
        &format!("{path}?follow=1"),
        &[("Range", "bytes=6-")],
        b"",
    );
    assert_eq!(rest.text(), "secönd");
    let mut head = daemon.http();
    head.send(format!("HEAD {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut head.stream, &mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("Content-Length: 13\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "a head has no body");
    expect(
        &daemon.get(&format!("/api/v1/runs/{instance}/machines/m9/output")),
        404,
    );
    expect(&daemon.get(&format!("{path}?follow=maybe")), 400);
}

#[test]
fn who_follows_and_hangs_up_costs_nothing_more() {
    let daemon = Plan::new(json!({"long": job("sleep 600")})).start();
    let instance = daemon.run("long");
    until("the machine's run", || {
        let run = daemon.get(&format!("/api/v1/runs/{instance}")).json();
        (run["machines"][0]["stage"] == "running").then_some(())
    });
    let connections = || {
        let text = daemon.get("/metrics").text();
        let line = text
            .lines()
            .find(|line| line.contains("connections{kind=\"api\"}"))
            .unwrap()
            .to_string();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let follow = format!(
        "GET /api/v1/runs/{instance}/machines/m1/output?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    );
    let followers: Vec<_> = (0..20)
        .map(|_| {
            let mut client = daemon.http();
            client.send(follow.as_bytes()).unwrap();
            client
        })
        .collect();
    until("all to be followed", || (connections() >= 21).then_some(()));
    drop(followers);
    until("all to be forgotten", || (connections() < 5).then_some(()));
}

#[test]
fn machines_events_problems_and_metrics_tell_what_happened() {
    let daemon = Plan::new(json!({"bad": job_with("exit 7", json!({"targets": "*"}))})).start();
    let instance = daemon.run("bad");
    daemon.wait_ended(&instance);
    let machines = expect(&daemon.get("/api/v1/machines"), 200);
    let machines = machines["machines"].as_array().unwrap();
    assert_eq!(machines.len(), 3);
    assert!(
        machines.iter().all(|machine| machine["last"]["retcode"] == 7),
        "{machines:?}"
    );
    let events = expect(&daemon.get("/api/v1/events?job=bad"), 200);
    let kinds: Vec<&str> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "machine_started").count(), 3);
    assert_eq!(kinds.iter().filter(|kind| **kind == "machine_ended").count(), 3);
    daemon.write_file("broken.yaml", "x: [\n");
    until("the problem", || {
        let problems = daemon.get("/api/v1/problems").json();
        (problems["problems"][0]["file"] == "broken.yaml").then_some(())
    });
    let metrics = daemon.get("/metrics");
    assert_eq!(
        metrics.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let text = metrics.text();
    for line in [
        "saltpeter_runs_total{job=\"bad\",group=\"jobs\",outcome=\"failed\"} 1",
        "saltpeter_machine_runs_total{job=\"bad\",group=\"jobs\",outcome=\"failed\"} 3",
        "saltpeter_machine_runs_running 0",
        "saltpeter_config_errors 1",
        "saltpeter_executor_up 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(text.contains("saltpeter_engine_turn_seconds_count "));
    assert!(text.contains("saltpeter_storage_commit_seconds_sum "));
    assert_eq!(expect(&daemon.get("/healthz"), 200)["status"], "ok");
    assert_eq!(expect(&daemon.get("/readyz"), 200)["status"], "ready");
}

#[test]
fn the_old_paths_answer_as_they_always_did() {
    let daemon = Plan::new(json!({"j": job_with("sleep 600", json!({"env": {"A": "b"}}))})).start();
    let instance = daemon.run("j");
    let running = daemon.get("/running").json();
    assert_eq!(running[&instance]["name"], "j");
    let config = daemon.get("/config").json();
    let cron = &config["crons"]["j"];
    assert_eq!(
        (&cron["command"], &cron["group"]),
        (&json!("sleep 600"), &json!("jobs"))
    );
    assert_eq!(
        (&cron["sec"], &cron["utc"], &cron["timeout"]),
        (&json!(0), &json!(false), &json!(3600))
    );
    assert_eq!(config["maintenance"], json!({"global": false, "machines": []}));
    assert!(daemon.get("/version").json()["version"].is_string());
    until("the start in the timeline", || {
        let timeline = daemon
            .get("/timeline?start_date=now-1h&end_date=now%2B1m&id=7")
            .json();
        assert_eq!(timeline["id"], "7");
        let entry = timeline["content"].get(0)?.clone();
        assert_eq!(
            (&entry["cron"], &entry["msg_type"]),
            (&json!("j"), &json!("machine_start"))
        );
        assert_eq!(entry["job_instance"], instance);
        Some(())
    });
    for path in ["/run", "/config", "/any"] {
        let reply = with_headers(&daemon, "OPTIONS", path, &[], b"");
        assert_eq!((reply.status, reply.body.len()), (204, 0), "{path}");
    }
    // refusals speak as they did
    let refusal = daemon.post("/run", &json!({"job": "nope"}));
    assert_eq!(
        (refusal.status, &refusal.json()["status"]),
        (404, &json!("error"))
    );
}

#[test]
fn the_document_is_served_to_anybody() {
    let daemon = Plan::new(json!({})).setting("api_open", json!(false)).start();
    let document = expect(&daemon.get("/api/v1/openapi.json"), 200);
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/api/v1/jobs/{job}/run"]["post"].is_object());
}

#[test]
fn the_last_run_and_its_failures_are_of_one_run_also_while_it_runs() {
    let daemon = Plan::new(json!({})).prepare();
    let flag = daemon.path("flag");
    let command = "if [ -e $FLAG ]; then sleep 600; else exit 3; fi";
    let fields = json!({"targets": "*", "env": {"FLAG": flag}});
    daemon.write_jobs("jobs", &json!({"j": job_with(command, fields)}));
    daemon.start();
    let rows = || {
        let overview = expect(&daemon.get("/api/v1/overview"), 200);
        let jobs = expect(&daemon.get("/api/v1/jobs"), 200);
        [overview["jobs"][0].clone(), jobs["jobs"][0].clone()]
    };
    let figures = |row: &serde_json::Value| {
        (
            row["last_instance"].as_str().map(str::to_string),
            row["last_failed_count"].as_u64().unwrap(),
            row["last_total_count"].as_u64().unwrap(),
        )
    };
    let failed = daemon.run("j");
    daemon.wait_ended(&failed);
    for row in rows() {
        assert_eq!(figures(&row), (Some(failed.clone()), 3, 3), "{row}");
    }
    std::fs::write(&flag, "").unwrap();
    let running = daemon.run("j");
    until("its machines", || {
        let of_running = |row| figures(row) == (Some(running.clone()), 0, 3);
        rows().iter().all(of_running).then_some(())
    });
}

#[test]
fn the_overview_tells_everything_once_and_then_what_has_changed() {
    let daemon = Plan::new(json!({"a": job("true"), "b.c": job("exit 3"), "d": job("sleep 600")})).start();
    daemon.write_file("bad.yaml", "b:\n  min: 99\n");
    let look = |since: &str| expect(&daemon.get(&format!("/api/v1/overview?since={since}")), 200);
    let all = until("the problems", || {
        let all = look("");
        (!all["problems"].as_array()?.is_empty()).then_some(all)
    });
    assert_eq!(all["whole"], true);
    assert_eq!(
        all["you"],
        json!({"who": "somebody at 127.0.0.1", "role": "operate", "session": false, "login": false})
    );
    assert_eq!(all["maintenance"]["global"], false);
    assert_eq!(all["troubles"], json!([]));
    let names = |answer: &serde_json::Value| -> Vec<String> {
        let jobs = answer["jobs"].as_array().unwrap();
        jobs.iter()
            .map(|job| job["name"].as_str().unwrap().to_string())
            .collect()
    };
    assert_eq!(names(&all), ["a", "b.c", "d"]);
    let none = look(all["as_of"].as_str().unwrap());
    assert_eq!((&none["whole"], names(&none)), (&json!(false), vec![]));
    assert!(none.get("problems").is_none() && none.get("maintenance").is_none());

    let instance = daemon.run("d");
    let some = until("the run", || {
        let some = look(none["as_of"].as_str().unwrap());
        (some["running"][0]["machines"] == 1).then_some(some)
    });
    assert_eq!((&some["whole"], names(&some)), (&json!(false), vec!["d".into()]));
    assert_eq!(
        (&some["jobs"][0]["state"], &some["jobs"][0]["last_ok"]),
        (&json!("running"), &json!(null))
    );
    assert_eq!(
        (&some["running"][0]["instance"], &some["running"][0]["ended"]),
        (&json!(instance), &json!(0))
    );
    daemon.run_to_end("b.c");
    let some = until("the end", || {
        let some = look(some["as_of"].as_str().unwrap());
        names(&some).contains(&"b.c".into()).then_some(some)
    });
    let failed = some["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .find(|job| job["name"] == "b.c")
        .unwrap();
    assert_eq!(
        (&failed["state"], &failed["last_ok"]),
        (&json!("failed"), &json!(false))
    );
    assert_eq!(
        (&failed["last_failed_count"], &failed["last_total_count"]),
        (&json!(1), &json!(1))
    );

    // a job that goes, and a daemon that has begun anew
    daemon.write_jobs("jobs", &json!({"a": job("true"), "d": job("sleep 600")}));
    let less = until("a job fewer", || {
        let less = look(some["as_of"].as_str().unwrap());
        (less["whole"] == true && less["jobs"].as_array()?.len() == 2).then_some(less)
    });
    assert_eq!(names(&less), ["a", "d"]);
    for odd in ["1-1", "x", "-", "0-99999999999999999999", "%00"] {
        assert_eq!(look(odd)["whole"], true, "{odd}");
    }
}

#[test]
fn recent_runs_tell_how_their_machines_ended_to_who_asks() {
    let fields = json!({"targets": "*"});
    let command = r#"[ "$SP_MACHINE_ID" = m1 ] || exit 3"#;
    let daemon = Plan::new(json!({"j": job_with(command, fields)})).start();
    let instance = daemon.run("j");
    daemon.wait_ended(&instance);
    let told = expect(&daemon.get("/api/v1/jobs/j?machines=1"), 200);
    assert_eq!(
        told["recent"][0]["machines"],
        json!({"outcomes": {"success": 1, "failed": 2}, "failed": [{"machine": "m2", "retcode": 3, "outcome": "failed"}, {"machine": "m3", "retcode": 3, "outcome": "failed"}]})
    );
    assert!(
        expect(&daemon.get("/api/v1/jobs/j"), 200)["recent"][0]
            .get("machines")
            .is_none()
    );
    expect(&daemon.get("/api/v1/jobs/j?machines=yes"), 400);
}

/// Paths that show the web UI.
const PAGES: &[&str] = &[
    "/",
    "/jobs/a%2F..%2Fb",
    "/runs/x?machine=y",
    "/runs",
    "/machines",
    "/problems",
    "/audit",
];

#[test]
fn the_pages_files_are_served_to_anybody_and_only_once() {
    let daemon = Plan::new(json!({})).start();
    for path in PAGES {
        let page = daemon.get(path);
        assert_eq!(
            (page.status, page.header("content-type")),
            (200, Some("text/html; charset=utf-8"))
        );
        let policy = page.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        // what it names is there, and nothing of anybody else's
        for name in page.text().split(['"']).filter(|text| text.starts_with("/ui/")) {
            assert_eq!(daemon.get(name).status, 200, "{name}");
        }
        assert!(!page.text().contains("://") && !page.text().contains("<script>"));
    }
    let script = daemon.get("/ui/main.js");
    assert_eq!(
        script.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    assert_eq!(script.header("cache-control"), Some("no-cache"));
    let tag = script.header("etag").unwrap();
    for known in [
        tag.to_string(),
        format!("W/{tag}"),
        format!("\"x\", {tag}"),
        "*".into(),
    ] {
        let again = with_headers(&daemon, "GET", "/ui/main.js", &[("If-None-Match", &known)], b"");
        assert_eq!((again.status, again.body.len()), (304, 0), "{known}");
        assert_eq!(
            (again.header("etag"), again.header("content-length")),
            (Some(tag), None)
        );
    }
    let other = with_headers(&daemon, "GET", "/ui/main.js", &[("If-None-Match", "\"x\"")], b"");
    assert_eq!(other.status, 200);
    let mut client = daemon.http();
    client
        .send(b"HEAD /ui/page.css HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut client.stream, &mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"\r\n\r\n"));
    for path in ["/", "/ui/main.js", "/jobs/a"] {
        let refused = with_headers(&daemon, "POST", path, &[], b"");
        assert_eq!(
            (refused.status, refused.header("allow")),
            (405, Some("GET, HEAD, OPTIONS")),
            "{path}"
        );
    }
    for path in [
        "/ui/",
        "/ui/index.html",
        "/ui/../main.js",
        "/ui/%2e%2e%2fmain.js",
        "/ui/main.js/",
        "/jobs/",
        "/jobs/a/b",
        "/jobs",
    ] {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
}
