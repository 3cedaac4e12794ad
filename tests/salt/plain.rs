//! Jobs without a wrapper (`use_wrapper: false`).

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::daemon::{Daemon, codes, job, with};
use crate::{lab, processes, wait};

fn plain(targets: Value, command: &str, more: Value) -> Value {
    with(with(job(targets, command), json!({"use_wrapper": false})), more)
}

#[test]
fn salt_runs_the_command_and_its_return_is_the_outcome() {
    let Some(lab) = lab::shared() else { return };
    let settings = json!({"cwd": "/usr/lib", "user": "daemon", "env": {"A": "it's \"a\"\n$B"}});
    let daemon = Daemon::start(
        lab,
        json!({
            "where": plain(json!("*"), "pwd; id -un; echo \"$A|$SP_JOB_NAME\"", settings),
            "fails": plain(json!("web-a"), "A=b; echo out; echo err >&2; exit 3", json!({})),
            "long": plain(json!("db1"), "echo begun; sleep 60", json!({"timeout": 2})),
            "nobody": plain(json!("db1"), "true", json!({"user": "no-such-user"})),
        }),
    );
    let results = daemon.outcome("where", 60);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
    assert_eq!(results["db1"]["ret"], "/usr/lib\ndaemon\nit's \"a\"\n$B|where\n");
    let results = daemon.outcome("fails", 60);
    assert_eq!(codes(&results), [("web-a", 3)]);
    assert_eq!(results["web-a"]["ret"], "out\nerr\n");
    let results = daemon.outcome("long", 60);
    assert_eq!(codes(&results), [("db1", 124)]);
    let results = daemon.outcome("nobody", 60);
    assert_eq!(codes(&results), [("db1", 255)]);
    assert!(results["db1"]["ret"].to_string().contains("no-such-user"));
}

#[test]
fn a_kill_ends_it_on_every_minion() {
    let Some(lab) = lab::shared() else { return };
    let daemon = Daemon::start(
        lab,
        json!({"long": plain(json!("*"), "exec sleep 299.75", json!({}))}),
    );
    let sleeping = || {
        let all = processes::all().into_iter();
        all.filter(|pid| processes::arguments(*pid) == b"sleep\x00299.75\x00")
            .count()
    };
    let instance = daemon.run("long");
    wait::until("the commands", 60, || (sleeping() == 3).then_some(()));
    wait::until("the word that they run", 20, || {
        let results = &daemon.status()["state"]["long"]["results"];
        let started = results
            .as_object()?
            .values()
            .filter(|result| result["starttime"] != "");
        (started.count() == 3).then_some(())
    });
    daemon.kill_job("long");
    let results = daemon.results("long", &instance, 40);
    assert_eq!(codes(&results), [("db1", 143), ("web-a", 143), ("web-b", 143)]);
    assert_eq!(sleeping(), 0);
}

#[test]
fn a_result_that_came_while_the_daemon_was_away_is_found_in_the_job_cache() {
    let Some(lab) = lab::shared() else { return };
    let mark = lab.0.root.join("plain-executions");
    let command = format!("echo x >> {0}; sleep 3; echo over; echo y >> {0}", mark.display());
    let mut daemon = Daemon::start(lab, json!({"j": plain(json!("web-a"), &command, json!({}))}));
    let instance = daemon.run("j");
    let executions = || std::fs::read_to_string(&mark).unwrap_or_default();
    wait::until("the execution", 60, || executions().contains('x').then_some(()));
    daemon.kill();
    wait::until("its end", 60, || executions().contains('y').then_some(()));
    daemon.restart();
    let results = daemon.results("j", &instance, 60);
    assert_eq!(codes(&results), [("web-a", 0)]);
    assert_eq!(results["web-a"]["ret"], "over\n");
    assert_eq!(executions(), "x\ny\n");
}

#[test]
fn a_minion_that_restarts_meanwhile_loses_what_it_killed_and_nothing_else() {
    let Some((lab, hold)) = lab::alone() else { return };
    let mark = lab.root.join("restart");
    fs::create_dir_all(&mark).unwrap();
    let go = mark.join("go");
    let command = format!(
        "touch {}/\"$SP_JOB_NAME\"; while [ ! -e {} ]; do sleep 0.2; done; echo over",
        mark.display(),
        go.display()
    );
    let daemon = Daemon::start(
        (lab, hold),
        json!({
            "killed": plain(json!("web-a"), &command, json!({})),
            "left": plain(json!("web-b"), &command, json!({})),
        }),
    );
    let instances = ["killed", "left"].map(|job| daemon.run(job));
    for job in ["killed", "left"] {
        wait::until("the command", 60, || mark.join(job).exists().then_some(()));
    }
    // with all that it has started; and alone, as systemd does it where it is told to
    lab.kill("web-a");
    lab.start("web-a");
    processes::signal(lab.session("web-b"), Signal::KILL);
    lab.forget("web-b");
    lab.start("web-b");
    lab.wait_until_ready();
    fs::write(go, "").unwrap();
    let results = daemon.results("left", &instances[1], 60);
    assert_eq!(codes(&results), [("web-b", 0)]);
    assert_eq!(results["web-b"]["ret"], "over\n");
    let results = daemon.results("killed", &instances[0], 150);
    assert_eq!(codes(&results), [("web-a", 255)]);
    let ret = results["web-a"]["ret"].to_string();
    assert!(ret.contains("the minion no longer runs the command"), "{ret}");
}
