//! `/ws` on a real daemon, with clients that behave as the deployed UI does.

mod client;
mod many;

use saltpeter::clock;
use serde_json::json;

use crate::support::daemon::{Plan, job, job_with};
use client::{Ui, try_connect};

/// Two bytes to six, four bytes to two units, faulty ones, a carriage return, quotes.
const AWKWARD: &str = r#"printf 'plain \360\237\230\200 \342\202\254 "q" \\ \t\r\001 \377\376 \360\237\n'; i=0; while [ $i -lt 400 ]; do i=$((i+1)); printf '%s \360\237\230\200\360\237\220\247 line\n' $i; done; printf 'end \342\202'"#;

#[test]
fn config_comes_first_then_status_then_an_empty_timeline_and_status_at_least_every_two_seconds() {
    let daemon = Plan::new(json!({"j": job("true")})).start();
    let mut ui = Ui::connect(&daemon);
    ui.until("four statuses", |ui| {
        ui.seen.iter().filter(|(kind, _)| kind == "status").count() == 4
    });
    let kinds: Vec<&str> = ui.seen.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds[..3], ["config", "status", "timeline"]);
    assert_eq!(ui.timelines, [json!({})]);
    let times: Vec<_> = ui
        .seen
        .iter()
        .filter(|(kind, _)| kind == "status")
        .map(|(_, at)| *at)
        .collect();
    for pair in times.windows(2) {
        let gap_ms = pair[1].since_ms(pair[0]);
        assert!(gap_ms < 2_500, "{gap_ms} ms without status");
    }
    let cron = &ui.config["crons"]["j"];
    assert_eq!(cron["command"], "true");
    assert_eq!(cron["group"], "jobs");
    assert_eq!((&cron["sec"], &cron["utc"]), (&json!(0), &json!(false)));
}

#[test]
fn awkward_output_is_shown_exactly_live_and_afterwards() {
    let daemon = Plan::new(json!({"j": job(AWKWARD)})).start();
    let mut live = Ui::following(&daemon, "j");
    let instance = daemon.run("j");
    live.until("the run", |ui| ui.details["j"]["results"]["m1"]["retcode"] == 0);
    let text = live.until_shown(&daemon, &instance, "m1");
    assert!(text.text.contains("\u{1f600}\u{1f427} line"));
    assert_eq!(text.dropped, 0);
    assert_eq!(live.details["j"]["targets"], json!(["m1"]));
    assert_eq!(live.details["j"]["results"]["m1"]["ret"], "");
    let mut later = Ui::following(&daemon, "j");
    let again = later.until_shown(&daemon, &instance, "m1");
    assert_eq!(again.text, text.text);
}

#[test]
fn quick_runs_one_after_the_other_are_each_shown_from_the_start() {
    let daemon = Plan::new(json!({"j": job("echo $SP_JOB_INSTANCE \u{1f600}")})).start();
    let mut ui = Ui::following(&daemon, "j");
    for _ in 0..8 {
        let instance = daemon.run("j");
        ui.until("its end", |ui| {
            ui.text("j", "m1").text == format!("{instance} \u{1f600}\n") && !ui.is_running("j")
        });
    }
    // nobody looks while these run
    let mut last = String::new();
    for _ in 0..5 {
        last = daemon.run("j");
        daemon.wait_status("its end", |status| {
            status["running"].as_object()?.is_empty().then_some(())
        });
    }
    ui.until_shown(&daemon, &last, "m1");
    let starts = ui.seen.iter().filter(|(kind, _)| kind == "output_chunk").count();
    assert!(starts >= 13, "every run was shown: {starts}");
}

#[test]
fn who_comes_back_or_subscribes_again_in_the_middle_gets_the_whole() {
    let talk = r#"i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo "step $i 😀"; sleep 0.1; done"#;
    let daemon = Plan::new(json!({"j": job(talk)})).start();
    let mut ui = Ui::following(&daemon, "j");
    let instance = daemon.run("j");
    ui.until("some output", |ui| ui.text("j", "m1").count > 60);
    let mut second = Ui::following(&daemon, "j");
    ui.say(json!({"unsubscribe": ["j"]}));
    ui.say(json!({"subscribe": "j"}));
    let had = ui.seen.iter().filter(|(kind, _)| kind == "details").count();
    ui.until("details again", |ui| {
        ui.seen.iter().filter(|(kind, _)| kind == "details").count() > had
    });
    ui.say(json!({"subscribe": ["j"]}));
    second.until("its end", |ui| ui.details["j"]["results"]["m1"]["retcode"] == 0);
    let text = ui.until_shown(&daemon, &instance, "m1");
    assert!(
        text.dropped >= 1,
        "sent again from the start, cut where the UI stood"
    );
    second.until_shown(&daemon, &instance, "m1");
}

#[test]
fn beyond_the_limit_head_line_and_tail_are_shown_as_they_are_kept() {
    let long = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo \"number $i \u{20ac}\"; done";
    let daemon = Plan::new(json!({"j": job_with(long, json!({"output_limit": 50_001}))})).start();
    let mut ui = Ui::following(&daemon, "j");
    let instance = daemon.run("j");
    ui.until("its end", |ui| ui.details["j"]["results"]["m1"]["retcode"] == 0);
    let text = ui.until_shown(&daemon, &instance, "m1");
    let count = text.count;
    ui.until("its length", |ui| {
        ui.details["j"]["results"]["m1"]["output_length"] == count
    });
    assert!(text.text.contains(" bytes left out]\n"), "{}", text.text.len());
    assert!(text.text.ends_with("number 20000 \u{20ac}\n"));
}

#[test]
fn people_run_and_kill_from_the_ui_and_refusals_are_told() {
    let daemon = Plan::new(json!({
        "j": job_with("trap 'exit 3' TERM; echo up; sleep 60 & wait", json!({"targets": "m*"})),
    }))
    .start();
    let mut ui = Ui::following(&daemon, "j");
    ui.say(json!({"run": "j"}));
    ui.until("output of all", |ui| {
        ["m1", "m2", "m3"]
            .iter()
            .all(|machine| ui.text("j", machine).text == "up\n")
    });
    ui.say(json!({"killMachine": {"cron": "j", "machine": "m2"}}));
    ui.until("the end of one", |ui| {
        ui.details["j"]["results"]["m2"]["retcode"] == 143
    });
    assert_eq!(ui.details["j"]["results"]["m1"]["retcode"], "");
    ui.say(json!({"killCron": "j"}));
    ui.until("the end of all", |ui| {
        !ui.is_running("j") && ui.details["j"]["results"]["m3"]["retcode"] == 143
    });
    assert_eq!(ui.status["last_state"]["j"]["result_ok"], false);
    for (request, said) in [
        (json!({"run": "nope"}), "no such job"),
        (json!({"killCron": "j"}), "run"),
        (json!({"killMachine": {"cron": "j", "machine": "m9"}}), ""),
    ] {
        ui.say(request.clone());
        let had = ui.errors.len();
        ui.until("a refusal", |ui| ui.errors.len() > had);
        let error = ui.errors.last().unwrap();
        assert_eq!(error["request"], request);
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
    }
}

#[test]
fn the_timeline_comes_from_history_to_the_one_that_asked_each_time() {
    let daemon = Plan::new(json!({"j": job("exit 3")})).start();
    let mut ui = Ui::following(&daemon, "j");
    let mut other = Ui::connect(&daemon);
    let instance = daemon.run("j");
    ui.until("its end", |ui| ui.details["j"]["results"]["m1"]["retcode"] == 3);
    for (from, until) in [(json!("now-5m"), json!("now")), (json!(null), json!(null))] {
        ui.say(json!({"getTimeline": {"start_date": from, "end_date": until, "id": {"x": 7}}}));
        let had = ui.timelines.len();
        ui.until("a timeline", |ui| ui.timelines.len() > had);
        let timeline = ui.timelines.last().unwrap();
        assert_eq!(timeline["id"], json!({"x": 7}));
        assert!(timeline["serial"].is_number());
        let content = timeline["content"].as_array().unwrap();
        assert_eq!(content.len(), 2, "{timeline}");
        assert_eq!(content[0]["msg_type"], "machine_start");
        assert_eq!(content[1]["msg_type"], "machine_result");
        assert_eq!(content[1]["ret_code"], 3);
        assert_eq!(content[1]["job_instance"], instance.as_str());
        assert!(content[0]["timestamp"].as_str() <= content[1]["timestamp"].as_str());
    }
    ui.say(json!({"getTimeline": {"start_date": "now-2h", "end_date": "now-1h", "id": null}}));
    let had = ui.timelines.len();
    ui.until("an empty timeline", |ui| ui.timelines.len() > had);
    assert_eq!(ui.timelines.last().unwrap()["content"], json!([]));
    let had = other.seen.iter().filter(|(kind, _)| kind == "status").count();
    other.until("two more statuses", |ui| {
        ui.seen.iter().filter(|(kind, _)| kind == "status").count() > had + 1
    });
    assert_eq!(other.timelines.len(), 1, "nobody else gets it");
}

#[test]
fn rubbish_is_ignored_and_the_connection_stays() {
    use tungstenite::Message;
    let daemon = Plan::new(json!({"j": job("echo hi")})).start();
    let mut ui = Ui::connect(&daemon);
    for text in [
        "",
        "{",
        "[]",
        "nul",
        r#"{"run":{}}"#,
        r#"{"subscribe":5}"#,
        r#"{"ack":{"cron":"j"}}"#,
        r#"{"x":1}"#,
    ] {
        ui.socket.send(Message::text(text)).unwrap();
    }
    ui.socket.send(Message::binary(vec![0, 1, 2])).unwrap();
    ui.socket.send(Message::text("[".repeat(50_000))).unwrap();
    ui.say(json!({"ack": {"cron": "nope", "machine": "m", "position": u64::MAX}}));
    ui.say(json!({"subscribe": "j"}));
    let instance = daemon.run("j");
    ui.until("its end", |ui| ui.text("j", "m1").is_complete);
    ui.until_shown(&daemon, &instance, "m1");
    assert_eq!(ui.errors, [] as [serde_json::Value; 0]);
}

#[test]
fn a_changed_configuration_and_switched_maintenance_reach_the_ui() {
    let daemon = Plan::new(json!({"j": job("true")})).start();
    let mut ui = Ui::connect(&daemon);
    ui.until("the timeline", |ui| !ui.timelines.is_empty());
    daemon.write_jobs("jobs", &json!({"j": job("true"), "k": job("false")}));
    ui.until("the new job", |ui| ui.config["crons"].get("k").is_some());
    daemon.write_file(
        "m.yaml",
        "saltpeter_maintenance: {global: true, machines: [m2]}\n",
    );
    ui.until("maintenance", |ui| {
        ui.config["maintenance"] == json!({"global": true, "machines": ["m2"]})
    });
    let after = ui.seen.len();
    ui.until("a status after it", |ui| ui.seen.len() > after);
    assert_eq!(ui.seen[after].0, "status");
    ui.say(json!({"run": "j"}));
    ui.until("a refusal", |ui| !ui.errors.is_empty());
}

#[test]
fn everybody_is_let_in_as_far_as_the_token_goes_and_no_token_is_logged() {
    // tokens "reading" and "operating"
    let token = |name: &str, role: &str, sha256: &str| json!({"name": name, "role": role, "sha256": sha256});
    let tokens = json!([
        token("r2", "read", &sha256("reading")),
        token("o", "operate", &sha256("operating")),
    ]);
    let daemon = Plan::new(json!({"j": job_with("true", json!({"env": {"SECRET": "word"}}))}))
        .setting("api_open", json!(false))
        .setting("api_tokens", tokens)
        .setting("api_allowed_origins", json!(["http://localhost:3000"]))
        .setting("debug", json!(true))
        .start();
    assert_eq!(try_connect(&daemon, "/ws", &[]).err(), Some(401));
    assert_eq!(try_connect(&daemon, "/ws?token=wrong", &[]).err(), Some(401));
    let foreign = [("Origin", "http://evil.example.org")];
    assert_eq!(
        try_connect(&daemon, "/ws?token=operating", &foreign).err(),
        Some(403)
    );
    let other_port = [("Origin", "http://localhost:4000")];
    assert_eq!(
        try_connect(&daemon, "/ws?token=operating", &other_port).err(),
        Some(403)
    );
    let host = [("Host", "evil.example.org")];
    assert_eq!(
        try_connect(&daemon, "/ws?token=operating", &host).err(),
        Some(403)
    );
    assert_eq!(try_connect(&daemon, "/ws2", &[]).err(), Some(404));

    let mut reader = try_connect(&daemon, "/ws?token=reading", &[]).ok().unwrap();
    reader.until("the config", |ui| !ui.timelines.is_empty());
    assert_eq!(reader.config["crons"]["j"]["env"], json!({"SECRET": "***"}));
    assert!(
        !reader.config["saltpeter_config"]
            .to_string()
            .contains(&sha256("operating"))
    );
    reader.say(json!({"run": "j"}));
    reader.until("a refusal", |ui| !ui.errors.is_empty());
    reader.say(json!({"killCron": "j"}));
    reader.until("a refusal", |ui| ui.errors.len() == 2);

    let bearer = [
        ("Authorization", "Bearer operating"),
        ("Origin", "http://localhost:3000"),
    ];
    let mut operator = try_connect(&daemon, "/ws", &bearer).ok().unwrap();
    operator.until("the config", |ui| !ui.timelines.is_empty());
    assert_eq!(operator.config["crons"]["j"]["env"], json!({"SECRET": "word"}));
    operator.say(json!({"subscribe": "j"}));
    operator.say(json!({"run": "j"}));
    operator.until("the run", |ui| {
        ui.details
            .get("j")
            .is_some_and(|data| data["results"]["m1"]["retcode"] == 0)
    });
    for secret in ["reading", "operating"] {
        assert!(!daemon.said().contains(secret), "{}", daemon.said());
    }

    // a token that is taken away no longer reads
    daemon.set("api_tokens", json!([token("o", "operate", &sha256("operating"))]));
    let ends_at = clock::mono().plus_ms(20_000);
    while reader.socket.read().is_ok() {
        assert!(clock::mono() < ends_at, "it still reads");
    }
}

fn sha256(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&saltpeter::secret::sha256(text))
}
