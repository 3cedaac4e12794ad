//! Job files that change under the running daemon: good ones, bad ones, ones that go.

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Plan, every_second, job};
use crate::support::until;

const HEAD: &str = "targets: m1, year: 2020, min: 0, hour: 0, dom: 1, mon: 1, dow: '*'";

/// Waits until `/status` shows something bad in that file; what.
fn wait_bad(daemon: &Daemon, file: &str) -> Value {
    daemon.wait_status(&format!("{file} to be bad"), |status| {
        let bad = status["bad"].as_array()?;
        bad.iter().find(|problem| problem["file"] == file).cloned()
    })
}

fn wait_good(daemon: &Daemon) {
    daemon.wait_status("nothing to be bad", |status| {
        (status["bad"] == json!([])).then_some(())
    });
}

#[test]
fn a_changed_file_is_in_force_and_a_run_keeps_what_it_began_with() {
    let daemon = Plan::new(json!({"a": job("echo old; sleep 1; echo old too")})).start();
    let instance = daemon.run("a");
    daemon.wait_output(&instance, "m1", "old");
    daemon.write_jobs("jobs", &json!({"a": job("echo new"), "b": job("echo b")}));
    daemon.wait_jobs(2);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.output_text(&instance, "m1"), "old\nold too\n");
    assert_eq!(daemon.run_to_end("a"), (0, "new\n".into()));
    assert_eq!(daemon.run_to_end("b"), (0, "b\n".into()));
    // written in place, in two pieces, as some tools do
    let path = daemon.path("conf/jobs.yaml");
    std::fs::write(&path, format!("a: {{command: echo in, {HEAD}}}\n")).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(
        &mut file,
        format!("c: {{command: echo place, {HEAD}}}\n").as_bytes(),
    )
    .unwrap();
    drop(file);
    until("the third content", || {
        let state = daemon.status()["state"].clone();
        (state.get("c").is_some() && state.get("b").is_none()).then_some(())
    });
    assert_eq!(daemon.run_to_end("a"), (0, "in\n".into()));
}

#[test]
fn whatever_is_bad_leaves_the_last_good_content_in_force_and_is_shown() {
    let daemon = Plan::new(json!({"other": job("echo other")})).start();
    let good = format!("keep: {{command: echo kept, {HEAD}}}\nsecond: {{command: echo second, {HEAD}}}\n");
    let deep = "[".repeat(100_000);
    let bomb: String = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_string()
        + &('b'..='z').map(|key| {
            let before = (key as u8 - 1) as char;
            format!("{key}: &{key} [*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before}]\n")
        }).collect::<String>();
    let whole_files: [(&str, &[u8]); 9] = [
        ("no YAML", b"keep: [\n"),
        ("a tab", b"keep:\n\tcommand: x\n"),
        ("a list", b"- keep\n- second\n"),
        ("a word", b"keep\n"),
        ("no text", b"keep: \xff\xfe\n"),
        ("zeros", &[0; 1_000]),
        ("an unknown anchor", b"keep: *nowhere\n"),
        ("very deep", deep.as_bytes()),
        ("a bomb of aliases", bomb.as_bytes()),
    ];
    for (what, text) in whole_files {
        daemon.write_file("jobs2.yaml", &good);
        wait_good(&daemon);
        daemon.wait_jobs(3);
        std::fs::write(daemon.path("conf/jobs2.yaml"), text).unwrap();
        let bad = wait_bad(&daemon, "jobs2.yaml");
        assert!(
            bad["reason"].as_str().is_some_and(|reason| reason.len() < 1_000),
            "{what}: {bad}"
        );
        daemon.wait_jobs(3);
        assert_eq!(daemon.run_to_end("keep"), (0, "kept\n".into()), "{what}");
        assert_eq!(daemon.run_to_end("other").0, 0, "{what}");
    }
}

#[test]
fn a_job_that_is_not_valid_keeps_its_last_good_content_and_the_rest_of_the_file_loads() {
    let daemon = Plan::new(json!({})).start();
    for (number, (field, bad_field)) in [
        ("min", "min: 61"),
        ("min", "min: [1"),
        ("hour", "hour: noon"),
        ("dow", "dow: someday"),
        ("timezone", "timezone: Mars/Olympus"),
        ("timeout", "timeout: soon"),
        ("timeout", "timeout: -1"),
        ("batch_size", "batch_size: many"),
        ("command", "command: [echo, x]"),
        ("env", "env: text"),
        ("targets", "targets: {a: b}"),
    ]
    .into_iter()
    .filter(|(_, bad_field)| !bad_field.ends_with("[1"))
    .enumerate()
    {
        daemon.write_file("jobs.yaml", &format!("keep: {{command: echo kept, {HEAD}}}\n"));
        daemon.wait_jobs(1);
        wait_good(&daemon);
        let name = field.to_string() + ":";
        let fields: Vec<&str> = [
            "command: echo bad",
            "targets: m1",
            "min: 0",
            "hour: 0",
            "dom: 1",
            "mon: 1",
            "dow: '*'",
            "year: 2020",
        ]
        .into_iter()
        .filter(|known| !known.starts_with(&name))
        .chain([bad_field])
        .collect();
        let text = format!(
            "keep: {{{}}}\nnew{number}: {{command: echo new, {HEAD}}}\n",
            fields.join(", ")
        );
        daemon.write_file("jobs.yaml", &text);
        let bad = wait_bad(&daemon, "jobs.yaml");
        assert_eq!(bad["field"], format!("keep.{field}"), "{bad_field}");
        assert!(bad["line"].is_number(), "{bad_field}: {bad}");
        daemon.wait_jobs(2);
        assert_eq!(daemon.state("keep")["bad"][0]["field"], format!("keep.{field}"));
        assert_eq!(daemon.run_to_end("keep"), (0, "kept\n".into()), "{bad_field}");
        assert_eq!(daemon.run_to_end(&format!("new{number}")).0, 0, "{bad_field}");
        daemon.wait_said(&format!("keep.{field}"));
    }
}

#[test]
fn a_setting_that_waits_for_the_next_start_is_warned_about_in_the_log_too() {
    let daemon = Plan::new(json!({})).start();
    let later = daemon.path("later");
    daemon.set("state_dir", json!(later));
    daemon.wait_said(
        "warning: saltpeter_config.state_dir: the change takes effect with the daemon's next start",
    );
    daemon.set("state_dir", json!(daemon.path("state")));
    daemon.wait_said("every problem is mended");
    assert!(!later.exists());
}

#[test]
fn settings_that_cannot_be_read_hold_over_a_restart() {
    let daemon = Plan::new(json!({"a": job("echo good")})).restarts().start();
    let instance = daemon.run("a");
    daemon.wait_ended(&instance);
    let (api, machines) = (daemon.api_port(), daemon.machines_port());
    daemon.set("api_ws_port", json!(api));
    daemon.stop();
    daemon.start();
    daemon.write_file("0-settings.yaml", &format!("{{{}", daemon.settings_text()));
    wait_bad(&daemon, "0-settings.yaml");
    daemon.stop();
    daemon.start();
    let bad = wait_bad(&daemon, "0-settings.yaml");
    assert!(
        bad["reason"].as_str().unwrap().ends_with("stays in force"),
        "{bad}"
    );
    assert_eq!((daemon.api_port(), daemon.machines_port()), (api, machines));
    assert_eq!(daemon.result("a", "m1")["ret"], "good\n");
    assert_eq!(daemon.run_to_end("a"), (0, "good\n".into()));
}

#[test]
fn what_was_last_good_holds_over_a_restart_and_is_still_shown_as_bad() {
    let daemon = Plan::new(json!({"a": job("echo good")})).start();
    assert_eq!(daemon.run_to_end("a").0, 0);
    daemon.write_file("jobs.yaml", "a: [\n");
    wait_bad(&daemon, "jobs.yaml");
    daemon.stop();
    daemon.start();
    wait_bad(&daemon, "jobs.yaml");
    assert_eq!(daemon.run_to_end("a"), (0, "good\n".into()));
    daemon.write_jobs("jobs", &json!({"a": job("echo mended")}));
    wait_good(&daemon);
    assert_eq!(daemon.run_to_end("a"), (0, "mended\n".into()));
}

#[test]
fn a_file_that_goes_takes_its_jobs_with_it_and_their_running_runs_end_as_they_would() {
    let daemon =
        Plan::new(json!({"a": job("echo a; sleep 1; exit 4"), "tick": every_second("true", json!({}))}))
            .start();
    daemon.write_jobs("zz", &json!({"b": job("echo b")}));
    daemon.wait_jobs(3);
    let instance = daemon.run("a");
    std::fs::remove_file(daemon.path("conf/jobs.yaml")).unwrap();
    until("it to be gone", || {
        (daemon.post("/run", &json!({"job": "tick"})).status == 404).then_some(())
    });
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 4);
    daemon.wait_jobs(1);
    assert_eq!(daemon.run_to_end("b").0, 0);
    // its kill is possible as long as it runs
    daemon.write_jobs("jobs", &json!({"a": job("echo ready; exec sleep 60")}));
    daemon.wait_jobs(2);
    let instance = daemon.run("a");
    daemon.wait_output(&instance, "m1", "ready");
    std::fs::remove_file(daemon.path("conf/jobs.yaml")).unwrap();
    until("it to be gone", || {
        (daemon.post("/run", &json!({"job": "a"})).status == 404).then_some(())
    });
    assert_eq!(daemon.kill("a").status, 200);
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
}

#[test]
fn a_directory_that_goes_leaves_everything_in_force_until_it_is_back() {
    let daemon = Plan::new(json!({"a": job("echo a")})).start();
    std::fs::rename(daemon.path("conf"), daemon.path("elsewhere")).unwrap();
    daemon.wait_said(daemon.path("conf").to_str().unwrap());
    assert_eq!(daemon.run_to_end("a"), (0, "a\n".into()));
    std::fs::rename(daemon.path("elsewhere"), daemon.path("conf")).unwrap();
    daemon.write_jobs("jobs", &json!({"a": job("echo b")}));
    until("the change", || (daemon.run_to_end("a").1 == "b\n").then_some(()));
}

#[test]
fn what_the_old_daemon_accepted_loads_and_what_we_doubt_is_told() {
    let daemon = Plan::new(json!({})).start();
    daemon.write_file(
        "old.yaml",
        &format!(
            "saltpeter_maintenance: {{global: no, machines: []}}\n\
             defaults: &defaults {{command: echo merged, {HEAD}}}\n\
             merged: {{<<: *defaults, utc: yes}}\n\
             dated: {{command: echo 2026-11-21, {HEAD}, description: 2026-11-21, env: {{D: 2026-11-21}}}}\n\
             on: {{command: echo on, {HEAD}, use_wrapper: on}}\n\
             misspelt: {{command: echo x, {HEAD}, timout: 5, hard_timeout: 3}}\n\
             twice: {{command: echo first, {HEAD}}}\n\
             twice: {{command: echo later, {HEAD}}}\n"
        ),
    );
    daemon.wait_jobs(6);
    for (job, output) in [
        ("merged", "merged\n"),
        ("dated", "2026-11-21\n"),
        ("on", "on\n"),
        ("twice", "later\n"),
    ] {
        assert_eq!(daemon.run_to_end(job), (0, output.into()), "{job}");
    }
    let problems = daemon.status()["problems"].as_array().unwrap().clone();
    let told = |field: &str, word: &str| {
        problems.iter().any(|problem| {
            problem["field"].as_str().unwrap().starts_with(field)
                && problem["reason"].as_str().unwrap().contains(word)
        })
    };
    assert!(told("misspelt.timout", "timeout"), "{problems:?}");
    assert!(told("misspelt.hard_timeout", ""), "{problems:?}");
    assert!(told("twice", ""), "{problems:?}");
    // in two files: the later one wins
    daemon.write_file("p.yaml", &format!("twice: {{command: echo last, {HEAD}}}\n"));
    until("the later file's job", || {
        (daemon.run_to_end("twice").1 == "last\n").then_some(())
    });
}

#[test]
fn ten_thousand_jobs_are_taken_and_one_more_is_noticed() {
    let daemon = Plan::new(json!({"due": every_second("true", json!({}))})).start();
    let text: String = (0..10_000)
        .map(|number| format!("job{number}: {{command: echo {number}, targets: m1, min: 0, hour: 3, dom: 29, mon: 2, dow: '*'}}\n"))
        .collect();
    daemon.write_file("many.yaml", &text);
    daemon.wait_jobs(10_001);
    assert_eq!(daemon.run_to_end("job9999"), (0, "9999\n".into()));
    daemon.write_file("one.yaml", &format!("more: {{command: echo more, {HEAD}}}\n"));
    daemon.wait_jobs(10_002);
    assert_eq!(daemon.run_to_end("more"), (0, "more\n".into()));
    let before = daemon.number("SELECT count(*) FROM runs WHERE job = 'due'", "");
    until("due runs to go on", || {
        (daemon.number("SELECT count(*) FROM runs WHERE job = 'due'", "") > before).then_some(())
    });
}
