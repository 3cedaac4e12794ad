//! A directory as operators keep it: what loads, what is told, what stays in force.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::node::Node;
use super::*;
use crate::clock;

/// A directory of its own for each test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("saltpeter-config-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn with(files: &[(&str, &str)]) -> Dir {
        let dir = Dir::new();
        for (file, text) in files {
            dir.write(file, text);
        }
        dir
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.0.join(file), text).unwrap();
    }

    fn loader(&self) -> Loader {
        Loader::new(self.0.clone())
    }

    fn load(&self) -> Arc<Config> {
        self.loader().load().unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A job that is due every minute, with more fields.
fn job(name: &str, more: &str) -> String {
    format!(
        "{name}:\n  min: '*'\n  hour: '*'\n  dom: '*'\n  mon: '*'\n  dow: '*'\n  targets: '*'\n  command: date\n{more}"
    )
}

fn errors(config: &Config) -> Vec<&Problem> {
    config
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect()
}

fn one_problem(config: &Config) -> &Problem {
    assert_eq!(config.problems.len(), 1, "{:?}", config.problems);
    &config.problems[0]
}

fn only_job(text: &str) -> Arc<Job> {
    let config = Dir::with(&[("a.yaml", text)]).load();
    assert_eq!(errors(&config), Vec::<&Problem>::new());
    config.jobs.values().next().unwrap().clone()
}

#[test]
fn a_job_has_every_default() {
    let job = only_job(&job("backup", ""));
    let spec = &job.spec;
    assert_eq!(
        (job.name.as_str(), job.group.as_str(), job.enabled),
        ("backup", "a", true)
    );
    assert_eq!(spec.target_type, "glob");
    assert_eq!(spec.targets, Targets::Text("*".into()));
    assert_eq!(
        (spec.timeout_s, spec.number_of_targets, spec.batch_size),
        (3600, 0, 0)
    );
    assert!(spec.use_wrapper && !spec.allow_overlap);
    assert_eq!(
        (spec.cwd.as_ref(), spec.user.as_ref(), spec.lockfile.as_ref()),
        (None, None, None)
    );
    assert_eq!(
        (spec.heartbeat_timeout_ms, spec.start_timeout_ms),
        (15_000, 30_000)
    );
    assert_eq!(
        (spec.output_limit_bytes, spec.start_deadline_s),
        (100 << 20, Some(60))
    );
    let raw = job.raw.fields();
    assert_eq!(raw["sec"], 0);
    assert_eq!((&raw["year"], &raw["group"]), (&"*".into(), &"a".into()));
    assert_eq!((&raw["utc"], &raw["timeout"]), (&false.into(), &3600.into()));
}

#[test]
fn a_job_has_every_field() {
    let text = job(
        "j",
        "  sec: 5\n  year: 2030\n  target_type: list\n  cwd: /tmp\n  user: nobody\n  timeout: 1.2\n  number_of_targets: 3\n  \
         batch_size: 2\n  success: 60%\n  max_failures: 0\n  allow_overlap: i know what i am doing!\n  lockfile: /tmp/l\n  use_wrapper: no\n  \
         wrapper_path: /opt/w\n  wrapper_loglevel: off\n  wrapper_logdir: /l\n  saltpeter_server_host: h\n  \
         timezone: Europe/Berlin\n  enabled: off\n  description: d\n  output_limit: 1000\n  heartbeat_timeout: 20\n  \
         start_timeout: 0.5\n  notify: {to: [], on: failure, after: 2, repeat: 1h, quiet: '22:00-06:00'}\n  expect_within: 60\n  \
         warn_after: 30\n  min_runtime: 1.5\n  catch_up: none\n  start_deadline: 10\n  wrapper_delivery: env\n",
    );
    let job = only_job(&text);
    let wanted = JobSpec {
        group: "a".into(),
        command: "date".into(),
        targets: Targets::Text("*".into()),
        target_type: "list".into(),
        cwd: Some("/tmp".into()),
        user: Some("nobody".into()),
        env: BTreeMap::new(),
        timeout_s: 2,
        number_of_targets: 3,
        batch_size: 2,
        success: Success::Percent(60),
        max_failures: Some(0),
        allow_overlap: true,
        lockfile: Some("/tmp/l".into()),
        use_wrapper: false,
        wrapper_path: Some("/opt/w".into()),
        wrapper_loglevel: Some("off".into()),
        wrapper_logdir: Some("/l".into()),
        saltpeter_server_host: Some("h".into()),
        output_limit_bytes: 1000,
        heartbeat_timeout_ms: 20_000,
        start_timeout_ms: 500,
        start_deadline_s: None,
        delivery: Delivery::Env,
        parameters: BTreeMap::new(),
        only: Vec::new(),
    };
    assert_eq!(*job.spec, wanted);
    assert!(!job.enabled);
    let notices = &job.notices;
    assert_eq!(
        (
            notices.expect_within_s,
            notices.warn_after_s,
            notices.min_runtime_ms
        ),
        (60, 30, 1_500)
    );
    assert_eq!(
        (notices.rule.after, notices.rule.repeat_s),
        (Some(2), Some(3_600))
    );
    assert_eq!(notices.rule.on, Some(vec![notify::NoticeKind::Failure]));
    assert_eq!(job.description, "d");
}

#[test]
fn parameters_reach_the_command_by_names_of_our_own_and_nothing_else_does() {
    let job = only_job(&job(
        "j",
        "  env: {A: b}\n  parameters: {db: main, Level: 3, empty: }\n",
    ));
    let env = |spec: &JobSpec| -> Vec<String> {
        spec.env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    };
    let by_default = ["A=b", "SP_PARAM_DB=main", "SP_PARAM_EMPTY=", "SP_PARAM_LEVEL=3"];
    assert_eq!(env(&job.spec), by_default);
    let values = |name: &str, value: &str| BTreeMap::from([(name.to_string(), value.to_string())]);
    let ordered = job
        .spec
        .with_order(&["web01".into()], &values("db", "$(reboot)"))
        .unwrap();
    assert_eq!(ordered.only, ["web01"]);
    assert_eq!(env(&ordered)[1], "SP_PARAM_DB=$(reboot)");
    assert_eq!(ordered.command, job.spec.command);
    for (name, value) in [
        ("LD_PRELOAD", "x"),
        ("A", "x"),
        ("DB", "x"),
        ("db", "a\0b"),
        ("db", &"x".repeat(5_000)),
    ] {
        assert!(job.spec.with_order(&[], &values(name, value)).is_err(), "{name}");
    }
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    for more in [
        "{'a-b': 1}",
        "{1a: 1}",
        "{a: 1, A: 2}",
        "{a: [1]}",
        "[a]",
        "{a: \"b\\0\"}",
        "{'': 1}",
    ] {
        let text = job("j", &format!("  parameters: {more}\n"));
        let config = Dir::with(&[("a.yaml", &text)]).load();
        assert_eq!(errors(&config).len(), 1, "{more}: {:?}", config.problems);
        assert_eq!(errors(&config)[0].field, "j.parameters", "{more}");
    }
}

#[test]
fn an_origin_is_a_scheme_and_a_host() {
    for bad in [
        "ui.example.com",
        "https://",
        "https://ui.example.com/",
        "*",
        "https://*.example.com",
        "null",
    ] {
        let text = format!("saltpeter_config: {{api_allowed_origins: ['{bad}']}}\n");
        let config = Dir::with(&[("a.yaml", &text)]).load();
        assert_eq!(errors(&config).len(), 1, "{bad}");
    }
}

#[test]
fn env_values_arrive_as_they_always_did() {
    let job = only_job(&job(
        "j",
        "  env:\n    A: true\n    B: null\n    C: 1\n    D: 1.10\n    E: yes\n    F: 'yes'\n    G: 010\n    H: 2026-11-21\n    \
         I: 1e3\n    J: \"a b\\nc\"\n    K: ~\n    L: 1:30\n    5: five\n    M: 0o17\n    N:\n    O: '010'\n    P: 1e16\n",
    ));
    let env: Vec<(&str, &str)> = job
        .spec
        .env
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let wanted = [
        ("5", "five"),
        ("A", "True"),
        ("B", "None"),
        ("C", "1"),
        ("D", "1.1"),
        ("E", "True"),
        ("F", "yes"),
        ("G", "8"),
        ("H", "2026-11-21"),
        ("I", "1e3"),
        ("J", "a b\nc"),
        ("K", "None"),
        ("L", "90"),
        ("M", "0o17"),
        ("N", "None"),
        ("O", "010"),
        ("P", "1e16"),
    ];
    assert_eq!(env, wanted);
}

#[test]
fn an_env_value_in_doubt_is_warned_about_without_being_shown() {
    let config = Dir::with(&[("a.yaml", &job("j", "  env: {TOKEN: 0777123, B: 'x'}\n"))]).load();
    let problem = one_problem(&config);
    assert_eq!(
        (problem.field.as_str(), problem.severity),
        ("j.env.TOKEN", Severity::Warning)
    );
    assert!(!problem.reason.contains("777"), "{problem}");
    assert_eq!(config.jobs["j"].spec.env["TOKEN"], "0777123");
}

#[test]
fn odd_names_load() {
    let names = [
        "123",
        "on",
        "2026-11-21",
        "a/b",
        "../x",
        "'a: b'",
        "ünï",
        "1.5",
        "true",
        "~",
        "a.b.c",
        "\"x\\ty\"",
    ];
    let text: String = names.iter().map(|name| job(name, "")).collect();
    let config = Dir::with(&[("odd.yaml", &text)]).load();
    assert_eq!(config.problems, []);
    let mut wanted = [
        "123",
        "on",
        "2026-11-21",
        "a/b",
        "../x",
        "a: b",
        "ünï",
        "1.5",
        "true",
        "null",
        "a.b.c",
        "x\ty",
    ];
    wanted.sort_unstable();
    assert_eq!(config.jobs.keys().map(String::as_str).collect::<Vec<_>>(), wanted);
}

#[test]
fn a_job_without_a_name_is_bad() {
    let config = Dir::with(&[("a.yaml", &(job("''", "") + &job("good", "")))]).load();
    assert_eq!(errors(&config).len(), 1);
    assert_eq!(config.jobs.len(), 1);
}

#[test]
fn dates_nan_and_merge_keys_become_plain_json() {
    let text = "base: &base\n  min: '*'\n  hour: '*'\n  dom: '*'\n  mon: '*'\n  dow: '*'\n  targets: '*'\n  command: a\n\
                j:\n  <<: *base\n  command: b\n  since: 2026-11-21\n  odd: [.nan, -.inf, {1: 2026-11-21T10:00:00Z}]\n";
    let config = Dir::with(&[("a.yaml", text)]).load();
    assert_eq!(errors(&config), Vec::<&Problem>::new());
    let raw = config.jobs["j"].raw.fields();
    assert_eq!(
        (&raw["command"], &raw["since"]),
        (&"b".into(), &"2026-11-21".into())
    );
    assert_eq!(
        raw["odd"],
        serde_json::json!(["nan", "-inf", {"1": "2026-11-21T10:00:00Z"}])
    );
    assert_eq!(config.jobs["base"].spec.command, "a");
    assert_eq!(config.jobs["j"].spec.command, "b");
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_line() {
    let text = "bad:\n  min: 61\n  hour: [1, 2]\n  dom: 1.5\n  mon:\n  dow: true\n  timeout: soon\n  target_type: globb\n  env: [a]\n";
    let config = Dir::with(&[("a.yaml", text)]).load();
    assert!(config.jobs.is_empty());
    let told: Vec<(&str, Option<usize>)> = errors(&config)
        .into_iter()
        .map(|problem| (problem.field.as_str(), problem.line))
        .collect();
    for wanted in [
        ("bad.min", Some(2)),
        ("bad.hour", Some(3)),
        ("bad.dom", Some(4)),
        ("bad.mon", Some(5)),
        ("bad.dow", Some(6)),
        ("bad.timeout", Some(7)),
        ("bad.target_type", Some(8)),
        ("bad.env", Some(9)),
        ("bad.command", Some(1)),
        ("bad.targets", Some(1)),
    ] {
        assert!(told.contains(&wanted), "{wanted:?} not in {told:?}");
    }
}

#[test]
fn a_misspelt_field_is_a_warning_with_the_likeliest_name() {
    let config = Dir::with(&[(
        "a.yaml",
        &job("j", "  timout: 5\n  zzz: 1\n  hard_timeout: 9\n  minute: 5\n"),
    )])
    .load();
    assert_eq!(errors(&config), Vec::<&Problem>::new());
    let reasons: Vec<String> = config
        .problems
        .iter()
        .map(|problem| problem.to_string())
        .collect();
    assert_eq!(
        reasons,
        [
            "a.yaml:9: warning: j.timout: unknown field, ignored; did you mean 'timeout'?",
            "a.yaml:10: warning: j.zzz: unknown field, ignored",
            "a.yaml:11: warning: j.hard_timeout: is ignored, as it always was; rename it to 'timeout'",
            "a.yaml:12: warning: j.minute: unknown field, ignored; did you mean 'min'?",
        ]
    );
    assert_eq!(config.jobs["j"].spec.timeout_s, 3600);
}

#[test]
fn a_field_of_another_scheduler_is_answered_with_ours() {
    let text = "j:\n  cron: '* * * * *'\n  tz: UTC\n  command: x\n  targets: '*'\n";
    let dir = Dir::with(&[("a.yaml", text)]);
    let told: Vec<String> = dir.load().problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "a.yaml:1: error: j: has no schedule: give min, hour, dom, mon and dow (each may be '*'), or 'schedule'; no job is made",
            "a.yaml:2: warning: j.cron: unknown field, ignored; write 'schedule', or 'min', 'hour', 'dom', 'mon' and 'dow'",
            "a.yaml:3: warning: j.tz: unknown field, ignored; did you mean 'timezone'?",
        ]
    );
}

#[test]
fn a_schedule_may_be_one_text_as_in_a_crontab() {
    let seven = |[sec, min, hour, dom, mon, dow, year]: [&str; 7]| {
        only_job(&format!(
            "j: {{sec: '{sec}', min: '{min}', hour: '{hour}', dom: '{dom}', mon: '{mon}', dow: '{dow}', year: '{year}', \
             command: x, targets: a}}\n"
        ))
    };
    let one = |text: &str| only_job(&format!("j: {{schedule: '{text}', command: x, targets: a}}\n"));
    for (text, fields) in [
        ("*/5 * * * *", ["0", "*/5", "*", "*", "*", "*", "*"]),
        (" 30  2 * * mon-fri ", ["0", "30", "2", "*", "*", "mon-fri", "*"]),
        ("15 0 3 1 jan *", ["15", "0", "3", "1", "jan", "*", "*"]),
        ("0 0 3 1 jan * 2099", ["0", "0", "3", "1", "jan", "*", "2099"]),
        ("@daily", ["0", "0", "0", "*", "*", "*", "*"]),
        ("@Weekly", ["0", "0", "0", "*", "*", "0", "*"]),
        ("@yearly", ["0", "0", "0", "1", "1", "*", "*"]),
    ] {
        assert_eq!(one(text).schedule, seven(fields).schedule, "{text}");
    }
    let raw = one("*/5 2 * * *").raw.fields();
    assert_eq!(
        (&raw["min"], &raw["hour"], &raw["dow"]),
        (&"*/5".into(), &"2".into(), &"*".into())
    );
    for (fields, reason) in [
        ("schedule: '* * * *'", "j.schedule: has 4 fields; write 5"),
        ("schedule: '61 * * * *'", "j.schedule: min: "),
        ("schedule: '@reboot'", "j.schedule: cannot be '@reboot'"),
        (
            "schedule: '@often'",
            "j.schedule: has an unknown shorthand '@often'",
        ),
        ("schedule: ''", "j.schedule: has 0 fields"),
        (
            "schedule: '@daily', min: 5",
            "j.schedule: cannot stand beside 'min'",
        ),
    ] {
        let dir = Dir::with(&[("a.yaml", &format!("j: {{{fields}, command: x, targets: a}}\n"))]);
        let config = dir.load();
        let told = one_problem(&config).to_string();
        assert!(told.contains(reason), "{told}");
        assert!(config.jobs.is_empty());
    }
    let dir = Dir::with(&[(
        "a.yaml",
        "j: {schedule: '0 0 13 * fri', command: x, targets: a}\n",
    )]);
    assert!(one_problem(&dir.load()).reason.contains("cron takes either"));
}

#[test]
fn a_schedule_whose_years_are_over_is_warned_about() {
    let dir = Dir::with(&[("a.yaml", &job("j", "  year: 2020"))]);
    let config = dir.load();
    assert_eq!(
        one_problem(&config).to_string(),
        "a.yaml:9: warning: j.year: is over: the schedule has no due time from now on"
    );
}

#[test]
fn what_yaml_1_1_read_otherwise_is_warned_about() {
    let text =
        "a:\n  min: 010\n  hour: '010'\n  dom: '*'\n  mon: '*'\n  dow: '*'\n  targets: on\n  command: date\n";
    let config = Dir::with(&[("a.yaml", text)]).load();
    assert_eq!(errors(&config), Vec::<&Problem>::new());
    let fields: Vec<&str> = config
        .problems
        .iter()
        .map(|problem| problem.field.as_str())
        .collect();
    assert_eq!(fields, ["a.min", "a.targets"]);
    assert!(config.problems[0].reason.contains("was 8 to the old daemon"));
}

#[test]
fn an_empty_command_loads_with_a_warning_and_a_missing_one_does_not() {
    let text = job("empty", "").replace("command: date", "command:")
        + &job("missing", "").replace("  command: date\n", "");
    let config = Dir::with(&[("a.yaml", &text)]).load();
    assert_eq!(config.jobs["empty"].spec.command, "");
    assert_eq!(config.jobs["empty"].raw.fields()["command"], "");
    assert!(!config.jobs.contains_key("missing"));
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_content() {
    let dir = Dir::with(&[("a.yaml", &job("one", "")), ("b.yaml", &job("two", ""))]);
    let mut loader = dir.loader();
    let before = loader.load().unwrap();
    dir.write("a.yaml", "one: [unclosed\nthree: {min: 1\n");
    let after = loader.load().unwrap();
    assert!(Arc::ptr_eq(&before.jobs["one"], &after.jobs["one"]));
    let problem = one_problem(&after);
    assert_eq!(
        (problem.file.as_str(), problem.severity),
        ("a.yaml", Severity::Error)
    );
    assert!(problem.line.is_some());
    dir.write("a.yaml", job("one", "  user: web\n"));
    let mended = loader.load().unwrap();
    assert_eq!(mended.problems, []);
    assert_eq!(mended.jobs["one"].spec.user.as_deref(), Some("web"));
    assert!(Arc::ptr_eq(&before.jobs["two"], &mended.jobs["two"]));
    assert!(before.serial < after.serial && after.serial < mended.serial);
}

#[test]
fn unreadable_texts_are_problems_of_their_file_alone() {
    let deep = "[".repeat(100_000);
    let laughs: String = std::iter::once("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_string())
        .chain((1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","))))
        .collect();
    let texts: [&[u8]; 12] = [
        b"just text",
        b"- a\n- b\n",
        b"a: b: c",
        b"a: *nobody",
        b"\xff\xfe\x00",
        b"a: \x00",
        b"---\na: 1\n---\nb: 2\n",
        b"<<: 5",
        b"a:\n\tb: 1",
        deep.as_bytes(),
        laughs.as_bytes(),
        b"5",
    ];
    for text in texts {
        let dir = Dir::with(&[("good.yaml", &job("good", ""))]);
        dir.write("bad.yaml", text);
        let config = dir.load();
        assert_eq!(config.jobs.len(), 1);
        assert!(
            !errors(&config).is_empty(),
            "{:?}",
            String::from_utf8_lossy(&text[..text.len().min(40)])
        );
        assert!(config.problems.iter().all(|problem| problem.file == "bad.yaml"));
    }
    for text in [
        "",
        "\n",
        "# nothing\n",
        "---\n",
        "{}",
        "saltpeter_config:\nsaltpeter_maintenance:\n",
    ] {
        assert_eq!(Dir::with(&[("a.yaml", text)]).load().problems, [], "{text}");
    }
}

#[test]
fn an_invalid_job_keeps_its_last_version_and_the_rest_of_the_file_loads() {
    let dir = Dir::with(&[("a.yaml", &(job("one", "") + &job("two", "")))]);
    let mut loader = dir.loader();
    let before = loader.load().unwrap();
    dir.write(
        "a.yaml",
        job("one", "  timeout: never\n") + &job("two", "  user: web\n") + &job("three", "  timeout: -1\n"),
    );
    let after = loader.load().unwrap();
    assert!(Arc::ptr_eq(&before.jobs["one"], &after.jobs["one"]));
    assert_eq!(after.jobs["two"].spec.user.as_deref(), Some("web"));
    assert!(!after.jobs.contains_key("three"));
    let reasons: Vec<&str> = errors(&after)
        .iter()
        .map(|problem| problem.reason.as_str())
        .collect();
    assert!(
        reasons[0].ends_with("the job's last good version stays in force"),
        "{reasons:?}"
    );
    assert!(reasons[1].ends_with("no job is made"), "{reasons:?}");
}

#[test]
fn last_good_content_holds_over_a_restart() {
    let env = "  env:\n    A: yes\n    B: 'yes'\n";
    let dir = Dir::with(&[
        ("a.yaml", &(job("one", env) + &job("two", ""))),
        (
            "b.yaml",
            &(job("three", "")
                + "saltpeter_config: {debug: true}\nsaltpeter_maintenance: {machines: [web01]}\n"),
        ),
    ]);
    let store = dir.0.join("state/last-good");
    let mut loader = dir.loader();
    loader.set_last_good(Some(store.clone()));
    let before = loader.load().unwrap();
    loader.save_last_good();
    assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(
        fs::metadata(store.join("a.yaml.json"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );

    dir.write("a.yaml", job("one", "  min: 99\n") + &job("two", "  user: web\n"));
    dir.write("b.yaml", "three: [");
    for named_before_first_load in [true, false] {
        // as a daemon starts: the settings tell where the store is
        let mut loader = dir.loader();
        if !named_before_first_load {
            assert_eq!(loader.load().unwrap().jobs.len(), 1);
        }
        loader.set_last_good(Some(store.clone()));
        loader.save_last_good();
        let after = loader.load().unwrap();
        loader.save_last_good();
        assert_eq!(after.jobs["one"].spec, before.jobs["one"].spec);
        assert_eq!(after.jobs["one"].schedule, before.jobs["one"].schedule);
        assert_eq!(after.jobs["one"].spec.env["A"], "True");
        assert_eq!(after.jobs["two"].spec.user.as_deref(), Some("web"));
        assert_eq!(after.jobs["three"].spec, before.jobs["three"].spec);
        assert!(after.settings.debug);
        assert!(after.maintenance.machines.contains("web01"));
        assert_eq!(errors(&after).len(), 2, "still shown as bad");
    }
    fs::remove_file(dir.0.join("b.yaml")).unwrap();
    loader.load().unwrap();
    loader.save_last_good();
    assert!(!store.join("b.yaml.json").exists());
}

#[test]
fn a_file_that_disappears_takes_its_jobs_along() {
    let dir = Dir::with(&[("a.yaml", &job("one", "")), ("b.yaml", &job("two", ""))]);
    let mut loader = dir.loader();
    loader.load().unwrap();
    fs::remove_file(dir.0.join("b.yaml")).unwrap();
    let config = loader.load().unwrap();
    assert_eq!(config.jobs.keys().collect::<Vec<_>>(), ["one"]);
    assert_eq!(config.problems, []);
}

#[test]
fn a_directory_that_becomes_unreadable_keeps_what_was_in_force() {
    let dir = Dir::with(&[("a.yaml", &job("one", ""))]);
    let mut loader = dir.loader();
    loader.load().unwrap();
    let away = dir.0.with_extension("away");
    fs::rename(&dir.0, &away).unwrap();
    let config = loader.load().unwrap();
    assert_eq!(config.jobs.len(), 1);
    assert!(
        one_problem(&config)
            .reason
            .starts_with("cannot read the directory")
    );
    assert!(Arc::ptr_eq(&config, &loader.load().unwrap()) || loader.load().unwrap().serial >= config.serial);
    fs::rename(&away, &dir.0).unwrap();
    assert_eq!(loader.load().unwrap().problems, []);
    assert!(
        Loader::new("/nonexistent/saltpeter".into())
            .load()
            .unwrap_err()
            .contains("/nonexistent/saltpeter")
    );
}

/// Runs on a thread that permissions hold for, even as root.
fn without_privileges<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let powerless = || {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        rustix::thread::set_capabilities(None, sets).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(powerless).join().unwrap())
}

#[test]
fn files_that_cannot_be_looked_at_keep_their_last_content_over_a_restart_too() {
    let (dir, state) = (Dir::with(&[("a.yaml", &job("one", ""))]), Dir::new());
    let loader = || {
        let mut loader = dir.loader();
        loader.set_last_good(Some(state.0.clone()));
        loader
    };
    let mut running = loader();
    running.load().unwrap();
    running.save_last_good();
    // the names can be read, no more
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o400)).unwrap();
    without_privileges(|| {
        for mut loader in [running, loader()] {
            let config = loader.load().unwrap();
            loader.save_last_good();
            assert!(config.jobs.contains_key("one"));
            assert!(one_problem(&config).reason.contains("Permission denied"));
        }
    });
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(loader().load().unwrap().problems, []);
}

#[test]
fn a_file_that_could_not_be_read_is_tried_again_though_it_did_not_change() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: needs root");
    }
    let dir = Dir::with(&[("a.yaml", &job("one", ""))]);
    fs::set_permissions(dir.0.join("a.yaml"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut loader = dir.loader();
    without_privileges(|| {
        let config = load_until_settled(&mut loader);
        assert!(one_problem(&config).reason.contains("Permission denied"));
        assert!(Arc::ptr_eq(&config, &loader.load().unwrap()));
    });
    let config = loader.load().unwrap();
    assert!(config.jobs.contains_key("one") && config.problems.is_empty());
}

/// Until no file is so young that it is looked at again; fails after two minutes.
fn load_until_settled(loader: &mut Loader) -> Arc<Config> {
    let deadline = clock::mono().plus_ms(120_000);
    loop {
        let config = loader.load().unwrap();
        if !loader.is_unsettled() {
            return config;
        }
        assert!(clock::mono() < deadline, "looked at again and again");
        std::thread::yield_now();
    }
}

#[test]
fn one_name_twice_the_later_wins() {
    let dir = Dir::with(&[
        (
            "a.yaml",
            &(job("one", "  user: first\n") + &job("one", "  user: second\n")),
        ),
        ("b.yaml", &job("two", "  user: b\n")),
        ("c.yaml", &job("two", "  user: c\n")),
    ]);
    let config = dir.load();
    assert_eq!(config.jobs["one"].spec.user.as_deref(), Some("second"));
    assert_eq!(config.jobs["two"].spec.user.as_deref(), Some("c"));
    let places: Vec<(&str, &str)> = config
        .problems
        .iter()
        .map(|problem| (problem.file.as_str(), problem.field.as_str()))
        .collect();
    assert_eq!(places, [("a.yaml", "one"), ("c.yaml", "two")]);
}

#[test]
fn settings_are_merged_and_conflicts_told() {
    let dir = Dir::with(&[
        (
            "a.yaml",
            "saltpeter_config: {debug: on, api_ws_port: 1, elasticsearch: 'http://u:pass@es:9200', dbug: 1,
              opensearch: 'https://u:p@os:9200/?api_key=k'}\n",
        ),
        (
            "b.yaml",
            "saltpeter_config: {api_ws_port: 0, state_dir: state, logdir: /l, api_ws_bind_addr: localhost}\n",
        ),
        (
            "c.yaml",
            "saltpeter_config: {machines_ws_bind_addr: example.com, history_days: 5}\n",
        ),
        ("d.yaml", "saltpeter_maintenance: {global: no, machines: [a]}\n"),
        ("e.yaml", "saltpeter_maintenance: {global: yes, machines: [b]}\n"),
    ]);
    let config = dir.load();
    let settings = &config.settings;
    assert!(settings.debug && config.maintenance.global);
    assert_eq!((settings.api_ws_port, settings.history_days), (0, 5));
    assert_eq!(
        (settings.state_dir.clone(), settings.logdir.clone()),
        (dir.0.join("state"), "/l".into())
    );
    assert_eq!(settings.machines_ws_bind_addr, IpAddr::from([0, 0, 0, 0]));
    assert_eq!(config.maintenance.machines.len(), 2);
    assert_eq!(settings.raw["elasticsearch"], "http://***@es:9200");
    assert_eq!(settings.raw["opensearch"], "https://***@os:9200/?***");
    assert_eq!(settings.raw["dbug"], "***");
    let told: Vec<(&str, Severity)> = config
        .problems
        .iter()
        .map(|problem| (problem.field.as_str(), problem.severity))
        .collect();
    assert_eq!(
        told,
        [
            ("saltpeter_config.dbug", Severity::Warning),
            ("saltpeter_config.machines_ws_bind_addr", Severity::Error),
            ("saltpeter_config.api_ws_port", Severity::Warning),
        ]
    );
}

#[test]
fn an_api_beyond_loopback_needs_tokens() {
    let token = format!(
        "api_tokens: [{{name: a, role: read, sha256: {}}}]",
        "00".repeat(32)
    );
    for (more, refused) in [("", true), (token.as_str(), false), ("api_ws: no", false)] {
        let text = format!("saltpeter_config: {{api_ws_bind_addr: 0.0.0.0, {more}}}\n");
        let config = Dir::with(&[("a.yaml", &text)]).load();
        assert_eq!(config.problems.len(), usize::from(refused), "{more}");
    }
}

#[test]
fn settings_that_are_not_indented_alike_are_one_problem() {
    let texts = "logdir: l\n debug: y\n";
    let config = Dir::with(&[("a.yaml", &format!("saltpeter_config:\n {texts}"))]).load();
    assert_eq!(config.problems.len(), 1);
}

#[test]
fn every_setting_is_known_and_applied() {
    let text = "saltpeter_config:\n  logdir: l\n  debug: true\n  api_ws: false\n  api_ws_port: 1\n  api_ws_bind_addr: '::1'\n  \
                machines_ws_port: 2\n  machines_ws_bind_addr: 10.0.0.1\n  default_saltpeter_server_host: h\n  \
                default_wrapper_path: /w\n  default_wrapper_loglevel: off\n  default_wrapper_logdir: wl\n  \
                elasticsearch: http://e\n  elasticsearch_index: ei\n  opensearch: http://o\n  opensearch_index: oi\n  \
                executor: local\n  local_machines: [a, b]\n  state_dir: /s\n  timezone: Europe/Berlin\n  \
                output_limit: 0\n  wrapper_delivery: socket\n  start_timeout: 1.5\n  heartbeat_timeout: 16\n  \
                history_days: 3\n  salt_python: /p\n  salt_config: /c\n  tls_cert: c.pem\n  tls_key: /k.pem\n  \
                wrapper_tls: no\n  api_open: yes\n  api_hosts: cron.example.com\n  \
                api_allowed_origins: ['https://UI.example.com']\n  \
                notifiers: {ops: {mail: root}}\n  notify: ops\n  heartbeat_url: 'https://hc/1'\n";
    let dir = Dir::with(&[("a.yaml", text)]);
    let config = dir.load();
    assert_eq!(config.problems, []);
    let wanted = Settings {
        logdir: dir.0.join("l"),
        debug: true,
        api_ws: false,
        api_ws_port: 1,
        api_ws_bind_addr: "::1".parse().unwrap(),
        machines_ws_port: 2,
        machines_ws_bind_addr: [10, 0, 0, 1].into(),
        default_saltpeter_server_host: Some("h".into()),
        default_wrapper_path: Some("/w".into()),
        default_wrapper_loglevel: "off".into(),
        default_wrapper_logdir: dir.0.join("wl").to_string_lossy().into_owned(),
        elasticsearch: "http://e".into(),
        elasticsearch_index: "ei".into(),
        opensearch: "http://o".into(),
        opensearch_index: "oi".into(),
        executor: ExecutorKind::Local,
        local_machines: Some(vec!["a".into(), "b".into()]),
        state_dir: "/s".into(),
        zone: Tz::Europe__Berlin,
        output_limit_bytes: 0,
        heartbeat_timeout_ms: 16_000,
        start_timeout_ms: 1_500,
        delivery: Delivery::Socket,
        history_days: 3,
        salt_python: Some("/p".into()),
        salt_config: "/c".into(),
        tls_cert: Some(dir.0.join("c.pem")),
        tls_key: Some("/k.pem".into()),
        wrapper_tls: false,
        api_tokens: Vec::new(),
        api_open: true,
        api_hosts: vec!["cron.example.com".into()],
        api_allowed_origins: vec!["https://ui.example.com".into()],
        notifiers: BTreeMap::from([(
            "ops".to_string(),
            Arc::new(notifiers::Notifier {
                name: "ops".into(),
                channel: notifiers::Channel::Mail(notifiers::Mail {
                    to: vec!["root".into()],
                    from: None,
                    sendmail: "/usr/sbin/sendmail".into(),
                }),
            }),
        )]),
        notify: notify::NotifyRule {
            to: Some(vec!["ops".into()]),
            ..notify::NotifyRule::default()
        },
        heartbeat_url: crate::url::HttpUrl::parse("https://hc/1").ok(),
        raw: config.settings.raw.clone(),
    };
    assert_eq!(*config.settings, wanted);
}

#[test]
fn tokens_are_read_and_never_shown() {
    let hash = "ab".repeat(32);
    let text = format!("saltpeter_config:\n  api_tokens:\n  - {{name: ci, role: operate, sha256: {hash}}}\n");
    let config = Dir::with(&[("a.yaml", &text)]).load();
    assert_eq!(config.problems, []);
    let token = ApiToken {
        name: "ci".into(),
        role: Role::Operate,
        sha256: [0xab; 32],
    };
    assert_eq!(config.settings.api_tokens, [token]);
    assert!(
        !serde_json::to_string(&*config.settings.raw)
            .unwrap()
            .contains(&hash)
    );
    for bad in [
        "[{name: a, role: root, sha256: 00}]",
        "[secret]",
        "secret",
        "[{name: a, token: secret}]",
    ] {
        let text = format!("saltpeter_config:\n  api_tokens: {bad}\n");
        let config = Dir::with(&[("a.yaml", &text)]).load();
        let problem = one_problem(&config);
        assert_eq!((problem.severity, problem.line), (Severity::Error, Some(2)));
        assert!(!problem.reason.contains("secret"), "{problem}");
    }
}

#[test]
fn an_invalid_setting_keeps_its_last_value() {
    let dir = Dir::with(&[("a.yaml", "saltpeter_config: {history_days: 7}\n")]);
    let mut loader = dir.loader();
    loader.load().unwrap();
    dir.write("a.yaml", "saltpeter_config: {history_days: week, debug: true}\n");
    let config = loader.load().unwrap();
    assert_eq!((config.settings.history_days, config.settings.debug), (7, true));
    assert!(
        one_problem(&config)
            .reason
            .ends_with("the last good value is in force")
    );
}

#[test]
fn changed_defaults_reach_jobs_of_unchanged_files() {
    let dir = Dir::with(&[
        ("a.yaml", &job("one", "")),
        ("z.yaml", "saltpeter_config: {output_limit: 5}\n"),
    ]);
    let mut loader = dir.loader();
    assert_eq!(loader.load().unwrap().jobs["one"].spec.output_limit_bytes, 5);
    dir.write(
        "z.yaml",
        "saltpeter_config: {output_limit: 600, timezone: Europe/Berlin}\n",
    );
    let config = loader.load().unwrap();
    assert_eq!(config.jobs["one"].spec.output_limit_bytes, 600);
    assert_eq!(config.settings.zone, Tz::Europe__Berlin);
}

#[test]
fn an_unchanged_directory_gives_the_same_configuration() {
    let dir = Dir::with(&[("a.yaml", &job("one", ""))]);
    let mut loader = dir.loader();
    let first = loader.load().unwrap();
    assert!(Arc::ptr_eq(&first, &loader.load().unwrap()));
    dir.write("a.yaml", job("one", "") + "# a remark\n");
    assert!(Arc::ptr_eq(&first, &loader.load().unwrap()));
    dir.write("a.yaml", job("one", "") + &job("two", ""));
    let second = loader.load().unwrap();
    assert!(Arc::ptr_eq(&first.jobs["one"], &second.jobs["one"]));
    assert_eq!(second.serial, first.serial + 1);
}

#[test]
fn what_is_no_job_file_is_left_alone() {
    let dir = Dir::with(&[(".hidden.yaml", "x: ["), ("note.txt", "["), ("a.yaml~", "[")]);
    fs::create_dir(dir.0.join("sub.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.0.join("link.yaml")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.0.join("pipe.yaml"), rustix::fs::Mode::RUSR).unwrap();
    let config = dir.load();
    let files: Vec<&str> = config
        .problems
        .iter()
        .map(|problem| problem.file.as_str())
        .collect();
    assert_eq!(files, ["link.yaml", "pipe.yaml", "sub.yaml"]);
}

#[test]
fn a_job_file_that_becomes_a_link_to_nowhere_or_no_file_keeps_its_last_content() {
    // one more file: a directory without any keeps everything
    let dir = Dir::with(&[("b.yaml", "{}\n")]);
    let path = dir.0.join("a.yaml");
    let mut loader = dir.loader();
    let link = || std::os::unix::fs::symlink("nowhere", &path).unwrap();
    let pipe = || rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    for become_bad in [&link as &dyn Fn(), &pipe] {
        dir.write("a.yaml", job("one", ""));
        assert_eq!(loader.load().unwrap().problems, []);
        fs::remove_file(&path).unwrap();
        become_bad();
        let config = loader.load().unwrap();
        assert!(config.jobs.contains_key("one"));
        assert!(one_problem(&config).reason.ends_with("stays in force"));
        fs::remove_file(&path).unwrap();
        let config = loader.load().unwrap();
        assert!(config.jobs.is_empty() && config.problems.is_empty());
    }
}

#[test]
fn an_emptied_file_keeps_its_jobs_over_a_restart_until_it_says_what_it_wants() {
    let dir = Dir::with(&[("a.yaml", &job("one", ""))]);
    let store = dir.0.join("state/last-good");
    let mut loader = Loader::new(dir.0.clone());
    loader.set_last_good(Some(store.clone()));
    assert_eq!(loader.load().unwrap().problems, []);
    loader.save_last_good();
    for emptied in ["", "\n", "# nothing yet\n", "---\n"] {
        dir.write("a.yaml", emptied);
        let config = loader.load().unwrap();
        assert!(config.jobs.contains_key("one"), "{emptied:?}");
        let reason = &one_problem(&config).reason;
        assert!(
            reason.starts_with("is empty; ") && reason.ends_with("stays in force"),
            "{reason}"
        );
        loader.save_last_good();
        // and so in a process that has not seen it full
        let mut fresh = Loader::new(dir.0.clone());
        fresh.set_last_good(Some(store.clone()));
        assert!(fresh.load().unwrap().jobs.contains_key("one"), "{emptied:?}");
        fresh.save_last_good();
    }
    dir.write("a.yaml", "{}\n");
    let config = loader.load().unwrap();
    assert!(config.jobs.is_empty() && config.problems.is_empty());
    loader.save_last_good();
    dir.write("a.yaml", "");
    let config = loader.load().unwrap();
    assert!(config.jobs.is_empty() && config.problems.is_empty());
    // one that never held a job is no problem
    dir.write("b.yaml", "");
    assert_eq!(loader.load().unwrap().problems, []);
}

#[test]
fn a_directory_that_became_empty_keeps_all_jobs_over_a_restart_until_a_file_is_back() {
    let dir = Dir::with(&[("a.yaml", &job("one", "")), ("b.yaml", &job("two", ""))]);
    let store = dir.0.join("state/last-good");
    let loaded = |store: &Path| {
        let mut loader = Loader::new(dir.0.clone());
        // the daemon learns where its state is from the configuration itself
        loader.load().unwrap();
        loader.set_last_good(Some(store.to_path_buf()));
        let config = loader.load().unwrap();
        loader.save_last_good();
        (loader, config)
    };
    let (mut loader, config) = loaded(&store);
    assert_eq!(config.problems, []);
    // a file that is removed drops its jobs
    fs::remove_file(dir.0.join("b.yaml")).unwrap();
    let config = loader.load().unwrap();
    assert_eq!(config.jobs.keys().collect::<Vec<_>>(), ["one"]);
    dir.write("b.yaml", job("two", ""));
    loader.load().unwrap();
    loader.save_last_good();
    for file in ["a.yaml", "b.yaml"] {
        fs::remove_file(dir.0.join(file)).unwrap();
    }
    let is_kept = |config: &Config| {
        let told = config.problems.iter().filter(|problem| problem.file.is_empty());
        let told: Vec<&str> = told.map(|problem| problem.reason.as_str()).collect();
        assert!(
            told.len() == 1 && told[0].contains("holds no job files"),
            "{told:?}"
        );
        assert_eq!(config.jobs.keys().collect::<Vec<_>>(), ["one", "two"]);
    };
    let config = loader.load().unwrap();
    is_kept(&config);
    assert!(Arc::ptr_eq(&config, &loader.load().unwrap()));
    loader.save_last_good();
    let (mut fresh, config) = loaded(&store);
    is_kept(&config);
    is_kept(&loaded(&store).1);
    dir.write("a.yaml", "{}\n");
    for loader in [&mut loader, &mut fresh] {
        let config = loader.load().unwrap();
        assert!(
            config.jobs.is_empty() && config.problems.is_empty(),
            "{:?}",
            config.problems
        );
        loader.save_last_good();
    }
    fs::remove_file(dir.0.join("a.yaml")).unwrap();
    assert_eq!(loader.load().unwrap().problems, []);
    assert!(loaded(&store).1.problems.is_empty());
}

#[test]
fn a_file_with_the_short_suffix_is_warned_about() {
    let dir = Dir::with(&[("a.yaml", &job("one", "")), ("b.yml", &job("two", ""))]);
    let mut loader = Loader::new(dir.0.clone());
    let config = loader.load().unwrap();
    let problem = one_problem(&config);
    assert_eq!(
        (problem.file.as_str(), problem.severity),
        ("b.yml", Severity::Warning)
    );
    assert!(problem.reason.contains("end with .yaml"), "{}", problem.reason);
}

#[test]
fn tokens_of_two_files_are_united_and_a_name_in_both_is_a_problem() {
    let entry = |name: &str, role: &str, digit: &str| {
        format!("{{name: {name}, role: {role}, sha256: '{}'}}", digit.repeat(64))
    };
    let file = |entries: &[String]| format!("saltpeter_config: {{api_tokens: [{}]}}\n", entries.join(", "));
    let dir = Dir::with(&[
        (
            "a.yaml",
            &file(&[entry("ops", "admin", "1"), entry("both", "read", "2")]),
        ),
        (
            "b.yaml",
            &file(&[entry("page", "read", "3"), entry("both", "read", "4")]),
        ),
    ]);
    let config = Loader::new(dir.0.clone()).load().unwrap();
    let tokens = config.settings.api_tokens.iter();
    let tokens: Vec<(&str, u8)> = tokens
        .map(|token| (token.name.as_str(), token.sha256[0]))
        .collect();
    assert_eq!(tokens, [("ops", 0x11), ("page", 0x33), ("both", 0x44)]);
    let problem = one_problem(&config);
    assert_eq!(
        (problem.file.as_str(), problem.field.as_str()),
        ("b.yaml", "saltpeter_config.api_tokens.both")
    );
    assert!(!config.settings.raw["api_tokens"].to_string().contains("1111"));
}

#[test]
fn what_is_no_file_settles_as_a_file_does() {
    let dir = Dir::new();
    fs::create_dir(dir.0.join("sub.yaml")).unwrap();
    let link = dir.0.join("link.yaml");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let mut loader = dir.loader();
    assert_eq!(load_until_settled(&mut loader).problems.len(), 2);
    dir.write("nowhere", job("one", ""));
    let config = loader.load().unwrap();
    assert!(config.jobs.contains_key("one"));
    assert_eq!(one_problem(&config).file, "sub.yaml");
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let text = format!("\u{feff}{}{}", job("one", ""), job("two", "  tmeout: 5\n"));
    let config = Dir::with(&[("a.yaml", &text)]).load();
    assert_eq!(config.jobs.len(), 2);
    let last_line = text.lines().count();
    assert_eq!(one_problem(&config).line, Some(last_line));
}

#[test]
fn numbers_are_read_as_the_old_daemon_read_them_or_told() {
    let with = |field: &str| Dir::with(&[("a.yaml", &job("one", &format!("  {field}\n")))]).load();
    for (field, seconds) in [
        ("timeout: 1_000", 1_000),
        ("timeout: 1:30", 90),
        ("timeout: '90'", 90),
        ("timeout: 0x10", 16),
        ("timeout: '010'", 10),
        ("timeout: 08", 8),
    ] {
        let config = with(field);
        assert_eq!(config.problems, [], "{field}");
        assert_eq!(config.jobs["one"].spec.timeout_s, seconds, "{field}");
    }
    for field in ["timeout: 010", "batch_size: 010", "start_deadline: 010"] {
        let config = with(field);
        let problem = one_problem(&config);
        assert_eq!(problem.severity, Severity::Warning, "{field}");
        assert!(problem.reason.contains("was 8 to the old daemon"), "{problem}");
    }
    assert_eq!(with("batch_size: 1_0").jobs["one"].spec.batch_size, 10);
    let settings = "saltpeter_config: {api_ws_port: 8_888, history_days: 010}\n";
    let config = Dir::with(&[("a.yaml", settings)]).load();
    assert_eq!(
        (config.settings.api_ws_port, config.settings.history_days),
        (8_888, 10)
    );
    assert_eq!(one_problem(&config).field, "saltpeter_config.history_days");
}

#[test]
fn a_section_that_is_misspelt_is_named() {
    let text = "saltpeter_maintenence: {global: true}\nsaltpeter-config: {debug: true}\n";
    let config = Dir::with(&[("a.yaml", text)]).load();
    let told = |name: &str, section: &str| {
        config.problems.iter().any(|problem| {
            problem.field == name && problem.reason.ends_with(&format!("did you mean '{section}'?"))
        })
    };
    assert!(told("saltpeter_maintenence", "saltpeter_maintenance"));
    assert!(told("saltpeter-config", "saltpeter_config"));
    let config = Dir::with(&[("a.yaml", &job("saltpeter_backup", ""))]).load();
    assert_eq!(config.problems, []);
}

#[test]
fn the_state_directory_is_remembered_where_the_file_that_names_it_is_bad() {
    let texts = [
        "saltpeter_config: {\"state_dir\": \"state\", debug: true}\n",
        "# state_dir: old\nsaltpeter_config:\n  state_dir: state # here\n  debug: true\n",
    ];
    for text in texts {
        let dir = Dir::with(&[("a.yaml", text), ("b.yaml", &job("one", ""))]);
        let state_dir = dir.0.join("state");
        for spoiled in ["", "more: [\n"] {
            let mut loader = dir.loader();
            loader.load().unwrap();
            assert_eq!(loader.state_dir(), state_dir);
            loader.set_last_good(Some(last_good_dir(&state_dir)));
            assert!(loader.load().unwrap().settings.debug);
            loader.save_last_good();
            dir.write("a.yaml", text.to_string() + spoiled);
        }
        // another daemon's, or none's
        fs::remove_dir_all(&state_dir).unwrap();
        let mut loader = dir.loader();
        loader.load().unwrap();
        assert_eq!(loader.state_dir(), Settings::default().state_dir);
    }
}

/// The same numbers in each run.
fn random(mut seed: u64) -> impl FnMut() -> usize {
    move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    }
}

/// The text with one to four small damages.
fn mutated(valid: &[u8], random: &mut impl FnMut() -> usize) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..1 + random() % 4 {
        let at = random() % bytes.len();
        match random() % 4 {
            0 => bytes[at] = random() as u8,
            1 => bytes[at] = b":-[]{}'\"\n #&*!|>%@`,?"[random() % 21],
            2 => bytes.insert(at, b":-[]{}'\"\n #&*!|>%@`,?"[random() % 21]),
            _ => drop(bytes.drain(at..bytes.len().min(at + random() % 9))),
        }
    }
    bytes
}

#[test]
fn pieces_never_say_otherwise_than_the_whole() {
    let valid = job(
        "one",
        "  env: {A: yes, 'B': [1, {c: d}]}\n# remark\n  x: |\n    a: b\n    - c\n",
    ) + "two: {x: 1, y: 'a b'}\n'three': \"quoted\\n\"\nfour:\n - a\n - {b: c}\nfive: &x {}\nsix: >\n  text\n\n  more\nseven:\n  plain\n  text\n\
           eight: 'it''s'\nnine: 9\n";
    let without_anchor = valid.replace("&x ", "");
    let mut random = random(0x1234_5678_9abc_def1);
    let mut compared = 0;
    for round in 0..12_000 {
        let bytes = mutated(
            if round % 9 == 0 {
                valid.as_bytes()
            } else {
                without_anchor.as_bytes()
            },
            &mut random,
        );
        let Some(pieces) = file::pieces(&bytes, 8) else {
            continue;
        };
        let read: Option<Vec<_>> = pieces
            .iter()
            .map(|piece| match file::read(piece) {
                Ok(Node::Map(entries)) => Some(entries),
                _ => None,
            })
            .collect();
        if let Some(entries) = read {
            compared += 1;
            let joined = Node::Map(entries.concat());
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(
                file::read(&bytes).map(|whole| format!("{whole:?}")),
                Ok(format!("{joined:?}")),
                "{text}"
            );
        }
    }
    assert!(compared > 500, "{compared}");
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let valid = job("one", "  env: {A: yes, 'B': [1, {c: d}]}\n  since: 2026-11-21\n")
        + "two: &a {x: !t 1}\nthree: *a\n";
    let mut random = random(0x9e37_79b9_7f4a_7c15);
    let defaults = settings::defaults(&Settings::default());
    let attempt = |bytes: &[u8]| {
        let lines = lines::Lines::new(bytes);
        let source = job_fields::Source {
            file: "a.yaml",
            lines: &lines,
        };
        if let Ok(Node::Map(entries)) = file::read(bytes) {
            for (key, node) in &entries {
                let name = key.key_text().unwrap_or_default();
                let mut schedules = timing::Schedules::default();
                validate::job(
                    source,
                    "a",
                    &name,
                    node,
                    &defaults,
                    &mut schedules,
                    &mut Vec::new(),
                );
                let _ = lines.line_of(&[&name, "env", "A"]);
                let _ = settings::apply(&mut Settings::default(), &name, node, std::path::Path::new("/"));
            }
        }
    };
    for end in 0..valid.len() {
        attempt(&valid.as_bytes()[..end]);
    }
    for _ in 0..6_000 {
        attempt(&mutated(valid.as_bytes(), &mut random));
    }
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
        attempt(&bytes);
    }
}

/// A watched directory, and what its watcher reports.
fn watched(dir: &Dir) -> (watch::Watcher, Receiver<Arc<Config>>) {
    let mut loader = dir.loader();
    loader.load().unwrap();
    let (sender, receiver) = bounded(100);
    let watcher = watch::start(loader, move |config| {
        let _ = sender.send(config);
    })
    .unwrap();
    (watcher, receiver)
}

/// Waits for a configuration that fits; fails after 10 seconds.
fn wait_for(changes: &Receiver<Arc<Config>>, fits: impl Fn(&Config) -> bool) -> Arc<Config> {
    let deadline = clock::mono().plus_ms(120_000);
    loop {
        let left = deadline.since_ms(clock::mono());
        let config = changes
            .recv_timeout(Duration::from_millis(left))
            .expect("no such configuration in time");
        if fits(&config) {
            return config;
        }
    }
}

fn holds_no_files(config: &Config) -> bool {
    let mut problems = config.problems.iter();
    problems.any(|problem| problem.reason.contains("holds no job files"))
}

#[test]
fn the_watcher_reports_changes_new_files_and_removals() {
    let dir = Dir::with(&[("a.yaml", &job("one", ""))]);
    let (watcher, changes) = watched(&dir);
    dir.write("b.yaml", job("two", ""));
    wait_for(&changes, |config| config.jobs.len() == 2);
    dir.write("b.yaml", "two: [");
    let bad = wait_for(&changes, |config| !config.problems.is_empty());
    assert_eq!(bad.jobs.len(), 2);
    dir.write(".new", job("three", ""));
    fs::rename(dir.0.join(".new"), dir.0.join("b.yaml")).unwrap();
    wait_for(&changes, |config| {
        config.jobs.contains_key("three") && config.problems.is_empty()
    });
    fs::remove_file(dir.0.join("b.yaml")).unwrap();
    wait_for(&changes, |config| config.jobs.len() == 1);
    watcher.poke();
    // at once: file by file, its jobs would go first, as they should
    let away = dir.0.with_extension("away");
    fs::rename(&dir.0, &away).unwrap();
    wait_for(&changes, |config| {
        !config.problems.is_empty() && config.jobs.len() == 1
    });
    fs::create_dir(&dir.0).unwrap();
    wait_for(&changes, |config| {
        holds_no_files(config) && config.jobs.len() == 1
    });
    dir.write("c.yaml", job("four", ""));
    wait_for(&changes, |config| config.jobs.contains_key("four"));
    fs::remove_dir_all(away).unwrap();
}

#[test]
fn the_watcher_follows_links_and_a_directory_made_anew() {
    let dir = Dir::with(&[]);
    let (real, linked) = (dir.0.join("real"), dir.0.join("linked"));
    fs::create_dir(&real).unwrap();
    fs::create_dir(&linked).unwrap();
    fs::write(real.join("target"), job("one", "")).unwrap();
    std::os::unix::fs::symlink(real.join("target"), linked.join("a.yaml")).unwrap();
    let dir_of_links = Dir(linked);
    let (_watcher, changes) = watched(&dir_of_links);
    fs::write(real.join("target"), job("other", "")).unwrap();
    wait_for(&changes, |config| config.jobs.contains_key("other"));
    fs::rename(&dir_of_links.0, dir.0.join("old")).unwrap();
    wait_for(&changes, |config| {
        !config.problems.is_empty() && config.jobs.len() == 1
    });
    fs::create_dir(&dir_of_links.0).unwrap();
    wait_for(&changes, |config| {
        holds_no_files(config) && config.jobs.len() == 1
    });
    dir_of_links.write("b.yaml", job("two", ""));
    wait_for(&changes, |config| config.jobs.contains_key("two"));
}

#[test]
fn a_file_is_not_read_while_it_is_being_written() {
    use std::io::Write;
    let dir = Dir::with(&[("a.yaml", &job("one", ""))]);
    let (_watcher, changes) = watched(&dir);
    let text = job("one", "  env:\n    A: \"quoted\"\n");
    let mut file = fs::File::create(dir.0.join("a.yaml")).unwrap();
    for piece in text.as_bytes().chunks(7) {
        file.write_all(piece).unwrap();
    }
    drop(file);
    let first = wait_for(&changes, |_| true);
    assert_eq!(first.problems, []);
    assert_eq!(first.jobs["one"].spec.env["A"], "quoted");
}

#[test]
fn the_sample_configuration_is_without_problems() {
    let config = Loader::new(concat!(env!("CARGO_MANIFEST_DIR"), "/conf").into())
        .load()
        .unwrap();
    assert_eq!(config.problems, []);
    assert!(config.jobs.len() >= 5);
}

#[test]
fn a_large_file_read_in_pieces_says_the_same_as_a_small_one() {
    let filler: String = (0..2_700)
        .map(|n| job(&format!("job_{n}"), "  env: {A: '1'}\n"))
        .collect();
    let tricky = [
        "",
        "torn: {min: 1, hour: 1, dom: 1, mon: 1, dow: 1, targets: a,\ncommand: b}\n",
        "anchor: &a {min: 1, hour: 1, dom: 1, mon: 1, dow: 1, targets: a, command: b}\nalias: *a\n",
    ];
    for (number, tricky) in tricky.into_iter().enumerate() {
        let text = format!("{tricky}{filler}{}", job("last", "  timout: 4\n"));
        let pieces = file::pieces(text.as_bytes(), limits::CONFIG_PIECE_BYTES);
        assert_eq!(pieces.is_some_and(|pieces| pieces.len() > 2), number != 2);
        let config = Dir::with(&[("a.yaml", &text)]).load();
        assert_eq!(
            config.jobs.len(),
            2_701 + tricky.matches("min").count() + tricky.matches("alias").count()
        );
        let line = text
            .lines()
            .position(|line| line.contains("timout"))
            .map(|line| line + 1);
        assert_eq!(one_problem(&config).line, line);
    }
    let text = filler.clone() + &job("job_0", "  user: second\n") + "bad: {min: [}\n";
    let dir = Dir::with(&[("a.yaml", &text.replace("bad: {min: [}\n", ""))]);
    let mut loader = dir.loader();
    let config = loader.load().unwrap();
    assert_eq!(config.jobs["job_0"].spec.user.as_deref(), Some("second"));
    assert_eq!(one_problem(&config).field, "job_0");
    dir.write("a.yaml", &text);
    let bad = loader.load().unwrap();
    assert!(Arc::ptr_eq(&bad.jobs["job_0"], &config.jobs["job_0"]) && bad.jobs.len() == 2_700);
    assert_eq!(one_problem(&bad).line, Some(text.lines().count()));
}

/// What PyYAML 6.0.3 and `str` make of bare words, as the old daemon did (made with its FullLoader).
#[test]
fn bare_words_reach_the_environment_as_with_the_old_daemon() {
    let mut wrong = Vec::new();
    for line in include_str!("../../tests/fixtures/env-words.jsonl").lines() {
        let (word, wanted): (String, String) = serde_json::from_str(line).unwrap();
        let text = job("j", &format!("  env:\n    A: {word}\n"));
        let lines = lines::Lines::new(text.as_bytes());
        let source = job_fields::Source {
            file: "a.yaml",
            lines: &lines,
        };
        let Ok(Node::Map(entries)) = file::read(text.as_bytes()) else {
            panic!("{word}")
        };
        let defaults = settings::defaults(&Settings::default());
        let job = validate::job(
            source,
            "a",
            "j",
            &entries[0].1,
            &defaults,
            &mut Default::default(),
            &mut Vec::new(),
        );
        let text = job.unwrap().spec.env["A"].clone();
        if text != wanted {
            wrong.push(format!("{word}: {text}, not {wanted}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn an_unknown_notifier_is_a_problem_at_its_line_and_the_job_runs_all_the_same() {
    let settings = "saltpeter_config:\n  notifiers:\n    ops: {webhook: 'https://hooks.example.com/s3cret', format: slack}\n";
    let text = job("backup", "  notify: {to: [opps], on: [failure]}\n");
    let config = Dir::with(&[("0.yaml", settings), ("a.yaml", &text)]).load();
    assert!(config.jobs.contains_key("backup"));
    let problem = one_problem(&config);
    assert_eq!((problem.field.as_str(), problem.line), ("backup.notify", Some(9)));
    assert_eq!(problem.reason, "unknown notifier 'opps', did you mean 'ops'?");
    // a URL is a secret: only its host is shown
    let shown = config.settings.raw["notifiers"].to_string();
    assert_eq!(
        shown,
        r#"{"ops":{"format":"slack","webhook":"https://hooks.example.com/***"}}"#
    );
}

#[test]
fn notifiers_of_several_files_are_united_and_one_that_is_named_twice_is_told() {
    let one = "saltpeter_config: {notifiers: {ops: {mail: a@b}, dev: {command: page}}}\n";
    let two = "saltpeter_config: {notifiers: {ops: {mail: c@d}}}\n";
    let config = Dir::with(&[("a.yaml", one), ("b.yaml", two)]).load();
    assert_eq!(config.settings.notifiers.len(), 2);
    let problem = one_problem(&config);
    assert_eq!(problem.field, "saltpeter_config.notifiers.ops");
    assert_eq!(problem.severity, Severity::Warning);
}

#[test]
fn a_notifier_that_cannot_work_is_told_with_its_name_and_without_its_secrets() {
    for (bad, words) in [
        (
            "{ops: {webhook: 'http://example.com/s3cret'}}",
            "'ops': 'webhook' must begin with https://",
        ),
        ("{ops: {webhook: 'https://u:s3cret@x/'}}", "token_file"),
        ("{ops: {webhook: 'https://x/', mail: a@b}}", "exactly one of"),
        ("{ops: {}}", "exactly one of"),
        (
            "{ops: {webhook: 'https://x/', formt: slack}}",
            "did you mean 'format'?",
        ),
        (
            "{ops: {webhook: 'https://x/', format: s3}}",
            "'format' must be one of saltpeter, slack",
        ),
        (
            "{ops: {webhook: 'https://x/', format: matrix}}",
            "needs room and token_file",
        ),
        (
            "{ops: {webhook: 'https://x/', format: pagerduty}}",
            "needs token_file",
        ),
        ("{ops: {mail: \"a@b\\nBcc: c@d\"}}", "invalid mail address"),
        ("{ops: {mail: []}}", "an address or a list"),
        ("{ops: {command: page, timeout: 99999}}", "at most"),
        ("{'o p': {mail: a@b}}", "letters, digits"),
        ("[ops]", "must be a mapping of names"),
    ] {
        let config = Dir::with(&[("a.yaml", &format!("saltpeter_config:\n  notifiers: {bad}\n"))]).load();
        let problem = one_problem(&config);
        assert_eq!(
            (problem.severity, problem.line),
            (Severity::Error, Some(2)),
            "{bad}"
        );
        assert!(problem.reason.contains(words), "{bad}: {problem}");
        assert!(!problem.reason.contains("s3cret"), "{problem}");
    }
    for (bad, words) in [
        ("{on: [fail]}", "unknown kind 'fail'"),
        ("{too: ops}", "did you mean 'to'?"),
        ("{after: 0}", "'after' must be a number of failed runs"),
        ("{repeat: often}", "'repeat' must be a number of seconds"),
        ("{quiet: night}", "invalid quiet hours 'night'"),
        ("5", "must be a mapping"),
    ] {
        let config = Dir::with(&[("a.yaml", &job("j", &format!("  notify: {bad}\n")))]).load();
        assert_eq!(one_problem(&config).field, "j.notify", "{bad}");
        assert!(
            config.problems[0].reason.contains(words),
            "{bad}: {}",
            config.problems[0]
        );
    }
    let config = Dir::with(&[("a.yaml", &job("j", "  notify: {to: [], on: [late]}\n"))]).load();
    assert!(
        one_problem(&config)
            .reason
            .contains("needs the field 'expect_within'")
    );
}
