//! `saltpeter check` and `saltpeter next` as an operator types them.
//! Must not know: how the answers come about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

/// A configuration directory of its own, removed at the test's end.
struct Dir(PathBuf);

impl Dir {
    fn with(files: &[(&str, &str)]) -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("saltpeter-cli-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            fs::write(path.join(file), text).unwrap();
        }
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn saltpeter(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saltpeter"))
        .args(arguments)
        .arg("-c")
        .arg(dir)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const GOOD: &str = "backup: {min: 30, hour: 2, dom: '*', mon: '*', dow: '*', targets: '*', command: date}\n";

#[test]
fn check_passes_a_good_directory_and_one_with_warnings() {
    let dir = Dir::with(&[("a.yaml", GOOD), ("b.yaml", "saltpeter_config: {dbug: true}\n")]);
    let output = saltpeter(&["check"], &dir.0);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        "b.yaml:1: warning: saltpeter_config.dbug: unknown setting, ignored; did you mean 'debug'?\n\
         1 jobs, 0 errors, 1 warnings\n"
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn check_fails_on_errors_and_names_file_line_field_and_reason() {
    let dir = Dir::with(&[
        ("a.yaml", GOOD),
        ("b.yaml", "bad:\n  min: 61\n  hour: 1\n"),
        ("c.yaml", "x: [\n"),
    ]);
    let output = saltpeter(&["check", "--json"], &dir.0);
    assert_eq!(output.status.code(), Some(1));
    let problems: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let of_min = problems
        .iter()
        .find(|problem| problem["field"] == "bad.min")
        .unwrap();
    assert_eq!(
        (&of_min["file"], &of_min["line"], &of_min["severity"]),
        (&json!("b.yaml"), &json!(2), &json!("error"))
    );
    assert!(of_min["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    let of_c = problems
        .iter()
        .find(|problem| problem["file"] == "c.yaml")
        .unwrap();
    assert_eq!(of_c["field"], "");
    assert!(of_c["line"].is_number());
}

#[test]
fn a_directory_that_is_not_there_is_a_failure_and_a_wrong_command_line_another() {
    let nowhere = Path::new("/nonexistent/saltpeter");
    for verb in ["check", "next"] {
        let output = saltpeter(&[verb], nowhere);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("/nonexistent/saltpeter"));
    }
    let output = saltpeter(&["chekc"], nowhere);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean 'check'?"));
}

#[test]
fn next_tells_the_due_times_of_each_job() {
    let never = "never: {min: 0, hour: 0, dom: 31, mon: 2, dow: '*', targets: '*', command: date}\n";
    let few = "few: {min: 0, hour: 0, dom: 1, mon: 1, dow: '*', year: '2099', targets: '*', command: date}\n";
    let berlin = "berlin: {min: 30, hour: 2, dom: '*', mon: '*', dow: '*', timezone: Europe/Berlin, targets: '*', command: a}\n";
    let off = "off: {enabled: no, min: 0, hour: 0, dom: 1, mon: 1, dow: '*', targets: '*', command: date}\n";
    let text = [GOOD, never, few, berlin, off].concat();
    let dir = Dir::with(&[("a.yaml", &text)]);
    let output = saltpeter(
        &["next", "-n", "2", "--after", "2026-11-21T10:00:00Z", "--json"],
        &dir.0,
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wanted = json!([
        {"job": "backup", "next": ["2026-11-22T02:30:00Z", "2026-11-23T02:30:00Z"]},
        {"job": "berlin", "next": ["2026-11-22T01:30:00Z", "2026-11-23T01:30:00Z"]},
        {"job": "few", "next": ["2099-01-01T00:00:00Z"]},
        {"job": "never", "next": []},
        {"job": "off", "next": []},
    ]);
    assert_eq!(answer, wanted);
    let output = saltpeter(&["next", "backup", "-n1", "--after", "2026-11-21"], &dir.0);
    assert_eq!(stdout(&output), "backup\n  2026-11-21T02:30:00Z\n");
    for after in [
        "2026-11-21T05:30:00+0300",
        "2026-11-21T05:30:00+03:00",
        "2026-11-21 05:30:00 +0300",
        "2026-11-21 05:30:00+03:00",
        "2026-11-21T02:30",
    ] {
        let output = saltpeter(&["next", "backup", "-n1", "--after", after], &dir.0);
        assert_eq!(stdout(&output), "backup\n  2026-11-22T02:30:00Z\n", "{after}");
    }
}

#[test]
fn next_of_a_job_that_is_not_there_or_not_valid_says_why() {
    let dir = Dir::with(&[("a.yaml", GOOD), ("b.yaml", "bad: {min: 61}\n")]);
    let output = saltpeter(&["next", "bakup"], &dir.0);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("did you mean 'backup'?"));
    let output = saltpeter(&["next", "bad"], &dir.0);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("b.yaml:1: error: bad"),
        "{}",
        stderr(&output)
    );
    let output = saltpeter(&["next", "--after", "soon"], &dir.0);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn secrets_stand_in_no_problem() {
    let text = "j: {min: 1, hour: 1, dom: 1, mon: 1, dow: 1, targets: '*', command: [hunter2], env: {A: 0hunter2, \
                B: [hunter2], C: \"hunter2\\0\", 'D=': hunter2}}\nsaltpeter_config: {api_tokens: hunter2, elasticsearch: [hunter2]}\n";
    let dir = Dir::with(&[("a.yaml", text)]);
    let output = saltpeter(&["check"], &dir.0);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        !(stdout(&output) + &stderr(&output)).contains("hunter2"),
        "{}",
        stdout(&output)
    );
}
