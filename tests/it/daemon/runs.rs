//! Runs as people see them: started, shown, refused; which machines, in which order; what a command is given.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::Value as SqlValue;
use serde_json::json;

use crate::support::daemon::{Daemon, Plan, every_second, job, job_with};
use crate::support::{is_root, never_within, until};

/// A daemon with these jobs.
fn daemon(jobs: serde_json::Value) -> Daemon {
    Plan::new(jobs).start()
}

#[test]
fn a_job_that_is_due_runs_on_every_matching_machine_and_is_shown_with_its_output() {
    let daemon = daemon(json!({
        "tick": every_second("echo hello from $SP_MACHINE_ID; echo oops >&2", json!({"targets": "*"})),
    }));
    let state = daemon.wait_status("results of three machines", |status| {
        let state = &status["state"]["tick"];
        let results = state["results"].as_object()?;
        let all_ended = results.values().all(|result| result["retcode"] == 0);
        (results.len() == 3 && all_ended).then(|| state.clone())
    });
    for machine in ["m1", "m2", "m3"] {
        let result = &state["results"][machine];
        assert_eq!(result["ret"], format!("hello from {machine}\noops\n"));
        assert_eq!(result["ret_truncated"], false);
        let (start, end) = (
            result["starttime"].as_str().unwrap(),
            result["endtime"].as_str().unwrap(),
        );
        assert!(start <= end, "{start} {end}");
    }
    assert_eq!(state["result_ok"], true);
    assert_eq!(state["missed"], 0);
    // at two due times it has two instances, each named for its second, and no due time has two
    let runs = "SELECT count(*) FROM runs WHERE due IS NOT NULL AND instance = job || '_' || (due / 1000000)";
    until("the second run", || (daemon.number(runs, "") >= 2).then_some(()));
    let doubled = "SELECT count(*) - count(DISTINCT due) FROM runs";
    assert_eq!(daemon.number(doubled, ""), 0);
}

#[test]
fn a_run_ends_with_the_true_code_of_its_command() {
    let daemon = daemon(json!({
        "zero": job("true"), "three": job("echo no disk; exit 3"), "missing": job("no-such-command"),
        "signal": job("kill -SEGV $$"), "silent": job("exec >&- 2>&-; sleep 0.3; exit 4"),
    }));
    for (job, retcode) in [
        ("zero", 0),
        ("three", 3),
        ("missing", 127),
        ("signal", 139),
        ("silent", 4),
    ] {
        let (code, output) = daemon.run_to_end(job);
        assert_eq!(code, retcode, "{job}: {output}");
        let state = daemon.state(job);
        assert_eq!(state["results"]["m1"]["retcode"], retcode, "{job}");
        assert_eq!(state["result_ok"], retcode == 0, "{job}");
        assert!(state["last_run"].is_string());
    }
    assert_eq!(daemon.result("three", "m1")["ret"], "no disk\n");
}

#[test]
fn while_it_runs_a_run_is_shown_with_its_machines_and_the_output_so_far() {
    let daemon = daemon(
        json!({"long": job_with("echo begun; exec sleep 60", json!({"targets": "m1,m3", "target_type": "list"}))}),
    );
    let instance = daemon.run("long");
    daemon.wait_output(&instance, "m3", "begun");
    // the board that /status shows follows the commit of the output
    let status = daemon.wait_status("the output so far", |status| {
        let ret = &status["state"]["long"]["results"]["m1"]["ret"];
        (*ret == "begun\n").then(|| status.clone())
    });
    let run = &status["running"][&instance];
    assert_eq!(run["name"], "long");
    assert_eq!(run["machines"], json!(["m1", "m3"]));
    assert!(run["started"].as_str().unwrap().contains('T'));
    let result = &status["state"]["long"]["results"]["m1"];
    assert_eq!((&result["retcode"], &result["endtime"]), (&json!(""), &json!("")));
    assert_eq!(
        daemon
            .post("/kill", &json!({"job": "long", "machine": "m1"}))
            .status,
        200
    );
    daemon.wait_status("one machine less", |status| {
        (status["running"][&instance]["machines"] == json!(["m3"])).then_some(())
    });
    assert_eq!(daemon.kill("long").status, 200);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
    assert_eq!(daemon.retcode(&instance, "m3"), 143);
}

#[test]
fn what_cannot_be_done_is_refused_with_a_fitting_code() {
    let daemon = daemon(json!({"idle": job("true"), "long": job("exec sleep 60")}));
    for path in ["/run", "/kill"] {
        let reply = daemon.post(path, &json!({"job": "nobody"}));
        assert_eq!(
            (reply.status, &reply.json()["status"]),
            (404, &json!("error")),
            "{path}"
        );
        for body in ["", "{", "[]", "{}", r#"{"job": 3}"#, "job=idle"] {
            let headers = [("Host", "localhost"), ("Content-Type", "application/json")];
            let reply = daemon.http().ask("POST", path, &headers, body.as_bytes());
            assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text());
            assert_eq!(reply.json()["status"], "error");
        }
    }
    assert_eq!(daemon.kill("idle").status, 409);
    let instance = daemon.run("long");
    let again = daemon.post("/run", &json!({"job": "long"}));
    assert_eq!(again.status, 409, "{}", again.text());
    let elsewhere = daemon.post("/kill", &json!({"job": "long", "machine": "m2"}));
    assert_eq!(elsewhere.status, 409, "{}", elsewhere.text());
    assert_eq!(daemon.kill("long").status, 200);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.kill("long").status, 409, "what has ended cannot be killed");
    // a kill of an idle job does not hit the next run
    assert_eq!(daemon.run_to_end("idle").0, 0);
}

#[test]
fn a_job_that_is_still_running_is_passed_over_as_an_overlap_unless_it_says_the_words() {
    let words = "i know what i am doing!";
    let daemon = daemon(json!({
        "slow": every_second("exec sleep 60", json!({})),
        "bold": every_second("exec sleep 60", json!({"allow_overlap": words})),
    }));
    daemon.wait_status("the overlap", |status| {
        (status["state"]["slow"]["overlap"] == true).then_some(())
    });
    until("the note in the job's log", || {
        let log = daemon.job_log("slow.log");
        log.contains("###### Overlap detected on slow_").then_some(())
    });
    let started = "SELECT count(*) FROM runs WHERE job = ?1";
    assert_eq!(daemon.number(started, "slow"), 1);
    until("two runs at a time", || {
        (daemon.number(started, "bold") >= 2).then_some(())
    });
    daemon.write_jobs("jobs", &json!({"bold": job("true"), "slow": job("true")}));
    daemon.wait_jobs(2);
    // a kill of the job ends all its instances
    until("all killed", || {
        daemon.kill("bold");
        (daemon.number(
            "SELECT count(*) FROM runs WHERE job = 'bold' AND stage <> 'ended'",
            "",
        ) == 0)
            .then_some(())
    });
    let verdict = "SELECT count(*) FROM verdicts WHERE job = 'slow' AND verdict LIKE '%verlap%'";
    assert!(daemon.number(verdict, "") >= 1);
}

#[test]
fn during_maintenance_nothing_starts_nothing_is_queued_and_running_ones_go_on() {
    let daemon = daemon(json!({
        "tick": every_second("true", json!({})), "asked": job("true"), "long": job("exec sleep 60"),
    }));
    let long = daemon.run("long");
    daemon.write_jobs("zz", &json!({"saltpeter_maintenance": {"global": true}}));
    let refused = until("the refusal", || {
        let reply = daemon.post("/run", &json!({"job": "asked"}));
        reply.text().contains("maintenance").then_some(reply)
    });
    assert_eq!(refused.status, 409, "{}", refused.text());
    let asked = "SELECT count(*) FROM runs WHERE job = ?1";
    let before = (daemon.number(asked, "asked"), daemon.number(asked, "tick"));
    let skipped = "SELECT count(*) FROM verdicts WHERE verdict LIKE '%aintenance%'";
    until("due times skipped", || {
        (daemon.number(skipped, "") >= 2).then_some(())
    });
    assert!(
        daemon
            .job_log("tick.log")
            .contains("###### Maintenance, skipped tick_")
    );
    assert!(daemon.is_running(&long));
    daemon.write_jobs("zz", &json!({"saltpeter_maintenance": {"global": false}}));
    until("due times started again", || {
        (daemon.number(asked, "tick") > before.1).then_some(())
    });
    assert_eq!(daemon.number(asked, "asked"), before.0, "it was never queued");
}

#[test]
fn machines_under_maintenance_are_left_out_and_noted_once() {
    let daemon = daemon(json!({
        "all": job_with("true", json!({"targets": "*"})), "one": job_with("true", json!({"targets": "m2"})),
        "saltpeter_maintenance": {"machines": ["m2"]},
    }));
    let instance = daemon.run("all");
    daemon.wait_ended(&instance);
    let codes: Vec<i64> = ["m1", "m2", "m3"]
        .map(|machine| daemon.retcode(&instance, machine))
        .into();
    assert_eq!(codes, [0, 0, 0]);
    assert_eq!(daemon.output_text(&instance, "m2"), "Target under maintenance\n");
    assert_eq!(
        daemon.number("SELECT success FROM runs WHERE instance = ?1", &instance),
        1
    );
    let log = until("the log", || {
        let log = daemon.job_log("all.log");
        log.contains("###### Finished").then_some(log)
    });
    assert_eq!(log.matches("Target under maintenance").count(), 1, "{log}");
    assert!(!log.contains("on m2 at"), "{log}");
    // all in maintenance: skipped, not failed
    let skipped = daemon.run("one");
    daemon.wait_ended(&skipped);
    let success = daemon.rows("SELECT success FROM runs WHERE instance = ?1", &skipped);
    assert_eq!(success, [[rusqlite::types::Value::Null]]);
}

#[test]
fn a_run_without_machines_ends_as_failed_and_says_so() {
    let daemon = daemon(json!({
        "nowhere": job_with("true", json!({"targets": "web*"})),
        "salty": job_with("true", json!({"targets": "os:Debian", "target_type": "grain"})),
    }));
    let instance = daemon.run("nowhere");
    daemon.wait_ended(&instance);
    assert_eq!(
        daemon.number("SELECT success FROM runs WHERE instance = ?1", &instance),
        0
    );
    until("the note", || {
        let log = daemon.job_log("nowhere.log");
        let wanted =
            format!("!!!!!! No targets matched for {instance} !!!!!!\n###### Finished {instance} at ");
        log.contains(&wanted).then_some(())
    });
    assert_eq!(daemon.state("nowhere")["note"], "No targets matched");
    let instance = daemon.run("salty");
    daemon.wait_ended(&instance);
    let note = daemon.state("salty")["note"].as_str().unwrap().to_string();
    assert!(note.contains("Salt"), "{note}");
    assert_eq!(daemon.state("salty")["result_ok"], false);
}

#[test]
fn batches_of_one_run_one_after_the_other() {
    let daemon = daemon(json!({
        "rolling": job_with("date +%s%N; sleep 0.2; date +%s%N", json!({"targets": "*", "batch_size": 1})),
    }));
    let instance = daemon.run("rolling");
    daemon.wait_ended(&instance);
    let mut spans: Vec<(u64, u64)> = ["m1", "m2", "m3"]
        .iter()
        .map(|machine| {
            let text = daemon.output_text(&instance, machine);
            let mut stamps = text.lines().map(|line| line.parse().unwrap());
            (stamps.next().unwrap(), stamps.next().unwrap())
        })
        .collect();
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 < pair[1].0), "{spans:?}");
}

#[test]
fn a_kill_between_batches_keeps_the_rest_from_starting() {
    let daemon = daemon(json!({
        "rolling": job_with("echo on; exec sleep 60", json!({"targets": "*", "batch_size": 1})),
    }));
    let instance = daemon.run("rolling");
    let first = until("the first machine's output", || {
        let machines = ["m1", "m2", "m3"];
        machines.into_iter().find(|machine| {
            let path = format!("/api/v1/runs/{instance}/machines/{machine}/output");
            daemon.get(&path).text() == "on\n"
        })
    });
    assert_eq!(daemon.kill("rolling").status, 200);
    daemon.wait_ended(&instance);
    for machine in ["m1", "m2", "m3"] {
        assert_eq!(daemon.retcode(&instance, machine), 143);
        let output = daemon.output_text(&instance, machine);
        if machine == first {
            assert!(output.contains("[Job terminated by user request]"), "{output}")
        } else {
            assert_eq!(output, "[Job killed before execution]\n")
        }
    }
}

#[test]
fn so_many_machines_are_drawn_as_asked_for() {
    let daemon = daemon(json!({
        "two": job_with("true", json!({"targets": "*", "number_of_targets": 2})),
    }));
    let mut drawn = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let instance = daemon.run("two");
        daemon.wait_ended(&instance);
        let sql = "SELECT machine FROM machine_runs WHERE run = (SELECT id FROM runs WHERE instance = ?1)";
        let machines = daemon.rows(sql, &instance);
        assert_eq!(machines.len(), 2);
        drawn.extend(machines.into_iter().map(|row| format!("{:?}", row[0])));
    }
    // each of three is left out of all eight draws once in 6,561
    assert_eq!(drawn.len(), 3, "{drawn:?}");
}

#[test]
fn odd_job_names_run_and_log_inside_logdir() {
    let names = [
        "a/b",
        "../x",
        "/etc/x",
        "with space",
        "grüße 😀",
        "123",
        "on",
        "no",
        ".hidden",
        "100%",
        "a\tb",
        "a'b\"c",
    ];
    let jobs: serde_json::Map<String, serde_json::Value> = names
        .iter()
        .map(|name| (name.to_string(), job("echo ran $SP_JOB_NAME")))
        .collect();
    let daemon = daemon(jobs.into());
    // as people write them, without quotes
    daemon.write_file(
        "yaml.yaml",
        "off: {command: echo ran, targets: m1, year: 2020, min: 0, hour: 0, dom: 31, mon: 2, dow: '*'}\n\
         1: {command: echo ran, targets: m1, year: 2020, min: 0, hour: 0, dom: 1, mon: 1, dow: '*'}\n\
         2026-11-21: {command: echo ran, targets: m1, year: 2020, min: 0, hour: 0, dom: 1, mon: 1, dow: '*'}\n",
    );
    daemon.wait_jobs(names.len() + 3);
    for name in names.iter().chain(&["off", "1", "2026-11-21"]) {
        let instance = daemon.run(name);
        assert!(instance.starts_with(&format!("{name}_")), "{instance}");
        daemon.wait_ended(&instance);
        assert_eq!(daemon.retcode(&instance, "m1"), 0, "{name}");
        assert!(daemon.output_text(&instance, "m1").starts_with("ran"), "{name}");
        assert_eq!(daemon.result(name, "m1")["retcode"], 0, "{name}");
    }
    let all = names.len() + 3;
    let logs = until("a log each", || {
        let files = std::fs::read_dir(daemon.path("log")).ok()?.flatten();
        let names: Vec<String> = files
            .map(|file| file.file_name().into_string().unwrap())
            .collect();
        (names.len() >= all).then_some(names)
    });
    assert_eq!(logs.len(), all, "{logs:?}");
    assert!(
        logs.iter()
            .all(|log| log.ends_with(".log") && !log.starts_with('.')),
        "{logs:?}"
    );
    assert!(!daemon.path("x.log").exists());
    assert!(!Path::new("/etc/x.log").exists());
    let wrapper_logs = std::fs::read_dir(daemon.path("wrapper-log")).unwrap().count();
    assert_eq!(wrapper_logs, all);
}

#[test]
fn the_environment_arrives_as_it_was_written() {
    let values = [
        "",
        " ",
        "  leading and trailing  ",
        "$HOME `id` $(id)",
        "a'b\"c",
        "back\\slash\\n",
        "line\nbreak\n",
        "tab\there",
        "grüße 😀",
        "a=b=c",
        "*",
        "~",
        "%s %d",
        "#no comment",
        "\u{1}\u{1b}[0m",
    ];
    let env: BTreeMap<String, String> = values
        .iter()
        .enumerate()
        .map(|(number, value)| (format!("V{number}"), value.to_string()))
        .collect();
    let daemon = daemon(json!({"env": job_with("env -0", json!({"env": env}))}));
    daemon.write_file(
        "words.yaml",
        "words: {command: env -0, targets: m1, year: 2020, min: 0, hour: 0, dom: 1, mon: 1, dow: '*', \
         env: {FLAG: true, NULL_: null, NUMBER: 12, QUOTED: '007', FLOAT: 1.50, DATE: 2026-11-21}}\n",
    );
    daemon.wait_jobs(2);
    let environment = |job: &str| -> BTreeMap<String, String> {
        let instance = daemon.run(job);
        daemon.wait_ended(&instance);
        let text = daemon.output_text(&instance, "m1");
        let pairs = text
            .split_terminator('\0')
            .filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.into(), value.into())).collect()
    };
    let found = environment("env");
    for (name, value) in &env {
        assert_eq!(found.get(name), Some(value), "{name}");
    }
    assert_eq!(found["SP_JOB_NAME"], "env");
    assert!(
        !found.contains_key("SP_WEBSOCKET_URL"),
        "the token is the wrapper's alone"
    );
    let found = environment("words");
    let wanted = [
        ("FLAG", "True"),
        ("NULL_", "None"),
        ("NUMBER", "12"),
        ("QUOTED", "007"),
        ("FLOAT", "1.5"),
        ("DATE", "2026-11-21"),
    ];
    for (name, value) in wanted {
        assert_eq!(found[name], value, "{name}");
    }
}

#[test]
fn what_cannot_be_started_ends_with_255_and_names_the_fault() {
    let daemon = daemon(json!({
        "user": job_with("true", json!({"user": "nobody-of-that-name"})),
        "cwd": job_with("true", json!({"cwd": "/no/such/directory"})),
        "wrapper": job_with("true", json!({"wrapper_path": "/no/such/sp-wrapper"})),
        "here": job_with("pwd", json!({"cwd": "/usr/share"})),
    }));
    for (job, retcode, named) in [
        ("user", 255, "nobody-of-that-name"),
        ("cwd", 255, "/no/such/directory"),
        ("wrapper", 254, "/no/such/sp-wrapper"),
        ("here", 0, "/usr/share\n"),
    ] {
        let (code, output) = daemon.run_to_end(job);
        assert_eq!(code, retcode, "{job}: {output}");
        assert!(output.contains(named), "{job}: {output}");
    }
}

#[test]
fn a_job_of_another_user_has_nothing_of_roots() {
    if !is_root("a_job_of_another_user_has_nothing_of_roots") {
        return;
    }
    let daemon = daemon(json!({
        "nobody": job_with("id -un; id -gn; id -G; echo $HOME $USER $LOGNAME", json!({"user": "nobody", "cwd": "/"})),
    }));
    let (code, output) = daemon.run_to_end("nobody");
    assert_eq!(
        (code, output.as_str()),
        (0, "nobody\nnogroup\n65534\n/nonexistent nobody nobody\n")
    );
}

#[test]
fn a_lock_that_another_run_holds_ends_a_run_with_254() {
    let scratch = crate::support::Scratch::new();
    let lock = scratch.path().join("lock");
    let daemon = daemon(json!({
        "holder": job_with("echo held; exec sleep 60", json!({"lockfile": lock})),
        "other": job_with("echo ran", json!({"lockfile": lock})),
    }));
    let holder = daemon.run("holder");
    daemon.wait_output(&holder, "m1", "held");
    let (code, output) = daemon.run_to_end("other");
    assert_eq!(code, 254, "{output}");
    assert!(output.contains("LOCKFILE ERROR"), "{output}");
    daemon.kill("holder");
    daemon.wait_ended(&holder);
    assert_eq!(daemon.run_to_end("other"), (0, "ran\n".into()));
}

/// F: a job got the limit that the daemon had raised for its own connections.
#[test]
fn a_command_gets_the_descriptor_limit_that_the_daemon_was_started_with() {
    let inherited = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let daemon = daemon(json!({"limit": job("ulimit -Sn")}));
    let (code, output) = daemon.run_to_end("limit");
    assert_eq!(code, 0, "{output}");
    assert_eq!(output.trim().parse().ok(), inherited, "{output}");
    let raised = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let of_daemon = raised
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let mut numbers = of_daemon.split_ascii_whitespace().skip(3);
    assert_eq!(
        numbers.next(),
        numbers.next(),
        "the daemon raised its own: {of_daemon}"
    );
}

#[test]
fn machines_on_one_host_do_not_lock_each_other_out() {
    // each test's jobs have an explicit `lockfile` (support/daemon.rs); these machines hold it at the same time
    let daemon = daemon(json!({"all": job_with("echo held; exec sleep 60", json!({"targets": "*"}))}));
    let instance = daemon.run("all");
    for machine in ["m1", "m2", "m3"] {
        daemon.wait_output(&instance, machine, "held");
    }
    daemon.kill("all");
    daemon.wait_ended(&instance);
}

#[test]
fn schedules_that_never_come_stop_nobody_elses() {
    // year 2020 and 31 February ended the old scheduler
    let february = json!({"dom": "31", "mon": "2", "hour": "0", "min": "0", "year": "*"});
    let daemon = daemon(json!({
        "past": job_with("true", json!({"year": "2020"})), "never": job_with("true", february), "tick": every_second("true", json!({})),
    }));
    let ended = "SELECT count(*) FROM runs WHERE job = 'tick' AND stage = 'ended'";
    until("three runs", || (daemon.number(ended, "") >= 3).then_some(()));
    let status = daemon.status();
    for job in ["past", "never"] {
        assert_eq!(status["state"][job]["next_run"], serde_json::Value::Null, "{job}");
        assert_eq!(status["state"][job]["bad"], json!([]), "{job}");
        assert_eq!(daemon.run_to_end(job).0, 0, "{job}");
    }
    assert!(status["state"]["tick"]["next_run"].is_string());
}

#[test]
fn secrets_of_a_job_show_in_no_command_line() {
    let daemon = daemon(json!({
        "quiet": job_with("sleep 60 # hunter2", json!({"env": {"PASSWORD": "hunter2"}})),
    }));
    let instance = daemon.run("quiet");
    until("the start", || daemon.fact("started", &instance, "m1"));
    for pid in daemon.family() {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // the command's own line is its own affair
        assert!(!line.contains("token"), "{line}");
        assert!(!line.contains("PASSWORD"), "{line}");
    }
    never_within(1, "it does not end", || !daemon.is_running(&instance));
}

#[test]
fn a_command_is_told_for_which_time_it_runs_and_why() {
    let command = "echo $SP_TRIGGER $SP_DUE; exit 1";
    let fields = json!({"targets": "m1", "env": {"SP_TRIGGER": "forged"}});
    let daemon =
        daemon(json!({"tick": every_second(command, fields.clone()), "hand": job_with(command, fields)}));
    let (by_schedule, due) = until("a run by schedule", || {
        let ended =
            "SELECT instance, due FROM runs WHERE job = 'tick' AND stage = 'ended' AND due IS NOT NULL";
        match daemon.rows(ended, "").first()?.as_slice() {
            [SqlValue::Text(instance), SqlValue::Integer(due)] => Some((instance.clone(), *due)),
            other => panic!("{other:?}"),
        }
    });
    let shown = |at_us: i64| {
        let at = chrono::DateTime::from_timestamp(at_us / 1_000_000, 0).unwrap();
        at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    // under load a start may be late, which is a catch-up
    let output = daemon.output_text(&by_schedule, "m1");
    let (trigger, told) = output.trim_end().split_once(' ').unwrap();
    assert!(["schedule", "catch_up"].contains(&trigger), "{output}");
    assert_eq!(told, shown(due));
    let by_hand = daemon.run("hand");
    daemon.wait_ended(&by_hand);
    let started = daemon.number("SELECT started FROM runs WHERE instance = ?1", &by_hand);
    assert_eq!(
        daemon.output_text(&by_hand, "m1"),
        format!("manual {}\n", shown(started))
    );
    let again = daemon
        .post(&format!("/api/v1/runs/{by_hand}/retry"), &json!({}))
        .json();
    let again = again["instance"].as_str().unwrap();
    daemon.wait_ended(again);
    assert!(daemon.output_text(again, "m1").starts_with("retry "));
}

#[test]
fn a_run_succeeds_with_as_many_machines_as_its_job_wants() {
    let command = "test $SP_MACHINE_ID = m1";
    let wants = |success: serde_json::Value| job_with(command, json!({"targets": "*", "success": success}));
    let daemon = daemon(json!({
        "all": wants("all".into()), "any": wants("any".into()), "third": wants("33%".into()), "two": wants(2.into()),
    }));
    let mut found = Vec::new();
    for name in ["all", "any", "third", "two"] {
        let instance = daemon.run(name);
        daemon.wait_ended(&instance);
        assert_ne!(daemon.retcode(&instance, "m2"), 0);
        found.push(daemon.number("SELECT success FROM runs WHERE instance = ?1", &instance) == 1);
    }
    assert_eq!(found, [false, true, true, false]);
}

#[test]
fn a_batch_that_fails_too_often_leaves_the_rest_alone() {
    let fields = json!({"targets": "*", "batch_size": 1, "max_failures": 0});
    let daemon = daemon(json!({"rolling": job_with("exit 3", fields)}));
    let instance = daemon.run("rolling");
    daemon.wait_ended(&instance);
    let mut codes = ["m1", "m2", "m3"].map(|machine| (daemon.retcode(&instance, machine), machine));
    codes.sort_unstable();
    assert_eq!(codes.map(|(code, _)| code), [3, 254, 254]);
    let told = daemon.output_text(&instance, codes[1].1);
    assert!(
        told.contains("more than 0 machines failed (max_failures)"),
        "{told}"
    );
}
