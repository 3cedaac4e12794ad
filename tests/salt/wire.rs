//! Real minions on hosts of their own: what is heard on the wire between, who is believed at its other end, and what a
//! cable that is pulled does to a run.

#[path = "../it/support/heard.rs"]
mod heard;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{Daemon, codes, job, silence_s, with};
use crate::lab::network::{DISPUTED, MASTER, Tap};
use crate::lab::{self, Lab};
use crate::{processes, wait};

/// A daemon on the master's host that tells wrappers to come to `host`.
fn daemon(lab: &'static Lab, host: &str, jobs: Value, settings: Value) -> Daemon {
    let network = json!({"default_saltpeter_server_host": host, "machines_ws_bind_addr": "0.0.0.0"});
    let mut files = jobs;
    files["saltpeter_config"] = with(network, settings);
    Daemon::start((lab, lab.hold()), files)
}

/// What the wrapper on that machine was given.
fn dispatched(instance: &str, machine: &str) -> (i32, impl Fn(&str) -> Option<String> + use<>) {
    let wrapper = processes::wrapper(instance, machine).unwrap();
    let environment = processes::environment(wrapper);
    let get = move |name: &str| {
        let found = environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    };
    (wrapper, get)
}

/// A machine's output without the lines in which the daemon says what it thought meanwhile.
fn own_output(daemon: &Daemon, instance: &str, machine: &str) -> String {
    let output = daemon.output(instance, machine);
    let lines = output.split_inclusive('\n');
    lines.filter(|line| !line.starts_with("[SALTPETER")).collect()
}

/// Waits for a file, for a command that is to go on when the test says so.
fn until_there(file: &Path) -> String {
    format!("until [ -e {} ]; do sleep 0.1; done", file.display())
}

#[test]
fn who_listens_on_the_wire_finds_neither_command_nor_token_nor_output() {
    let Some((lab, _stay)) = lab::on_network() else {
        return;
    };
    for is_tls in [true, false] {
        let go = lab.root.join(format!("go-on-{is_tls}"));
        let command = format!(
            "yes \"marker-in-output-$((600 + 13))\" | head -n 5000; true marker-in-command; {}",
            until_there(&go)
        );
        let secret = json!({"env": {"SECRET": "marker-in-env"}, "wrapper_delivery": "auto"});
        let jobs = json!({"j": with(job(json!("edge-d"), &command), secret)});
        let daemon = daemon(lab, MASTER, jobs, json!({"wrapper_tls": is_tls}));
        let tap = Tap::on(lab, lab.network().master(), "to-edge-d");
        let instance = daemon.run("j");
        daemon.wait_for_output("j", "edge-d", "marker-in-output-613", 60);
        let (wrapper, given) = dispatched(&instance, "edge-d");
        assert!(lab.network().machine("edge-d").has(wrapper));
        let url = given("SP_WEBSOCKET_URL").unwrap();
        let scheme = if is_tls { "wss" } else { "ws" };
        assert!(url.starts_with(&format!("{scheme}://{MASTER}:")), "{scheme}");
        assert_eq!(given("SP_TLS_PIN").is_some(), is_tls);
        // where the peer cannot prove who it is, the job travels with Salt
        assert_eq!(given("SP_COMMAND").is_some(), !is_tls);
        fs::write(&go, "").unwrap();
        let results = daemon.results("j", &instance, 60);
        assert_eq!(codes(&results), [("edge-d", 0)]);
        assert_eq!(
            daemon.output(&instance, "edge-d"),
            "marker-in-output-613\n".repeat(5_000)
        );
        let heard = tap.stop();
        let token = url.split_once("token=").unwrap().1;
        let on_our_wire = [token, "marker-in-output-613", &instance, "Sec-WebSocket"];
        for secret in on_our_wire {
            // without TLS they are there: it is the right wire that is listened on
            assert_eq!(heard::is_in(&heard, secret), !is_tls, "'{secret}', TLS: {is_tls}");
        }
        for secret in ["marker-in-command", "marker-in-env", "SP_WEBSOCKET_URL"] {
            assert!(!heard::is_in(&heard, secret), "'{secret}', TLS: {is_tls}");
        }
    }
}

/// A wrapper of ours as it may be built for machines that are short of room.
fn wrapper_without_tls() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_saltpeter"))
        .ancestors()
        .nth(2)
        .unwrap()
        .join("without-tls");
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--locked",
            "-q",
            "--no-default-features",
            "--bin",
            "sp-wrapper",
        ])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    target.join("debug/sp-wrapper")
}

#[test]
fn a_wrapper_without_tls_says_so_and_works_where_the_settings_allow_it() {
    let Some((lab, _stay)) = lab::on_network() else {
        return;
    };
    let jobs = || {
        let path = json!({"wrapper_path": wrapper_without_tls()});
        json!({"j": with(job(json!("edge-e"), "echo ran"), path)})
    };
    let strict = daemon(lab, MASTER, jobs(), json!({}));
    let results = strict.outcome("j", 60);
    assert_eq!(codes(&results), [("edge-e", 254)]);
    let ret = results["edge-e"]["ret"].as_str().unwrap();
    assert!(ret.contains("which this wrapper was built without"), "{ret}");
    assert!(ret.contains("'wrapper_tls: false'"), "{ret}");
    let lenient = daemon(lab, MASTER, jobs(), json!({"wrapper_tls": false}));
    let results = lenient.outcome("j", 60);
    assert_eq!(codes(&results), [("edge-e", 0)]);
    assert_eq!(results["edge-e"]["ret"], "ran\n");
}

#[test]
fn a_daemon_with_another_key_is_told_nothing_and_obeyed_in_nothing() {
    let Some((lab, _stay)) = lab::on_network() else {
        return;
    };
    let network = lab.network();
    let (go, obeyed) = (lab.root.join("go-on-misled"), lab.root.join("obeyed"));
    let begun = format!("echo begun; {}; echo over", until_there(&go));
    let port = json!({"machines_ws_port": crate::lab::free_port(), "start_timeout": 8});
    let jobs = json!({
        "begun": job(json!("edge-a"), &begun),
        "fresh": job(json!("edge-a"), &format!("touch {}", obeyed.display())),
    });
    let truth = daemon(lab, DISPUTED, jobs, port.clone());
    let begun = truth.run("begun");
    truth.wait_for_output("begun", "edge-a", "begun", 60);
    let (_, given) = dispatched(&begun, "edge-a");
    let token = given("SP_WEBSOCKET_URL").unwrap();
    let token = token.split_once("token=").unwrap().1.to_string();

    let liar = {
        let _stay = network.stranger().enter();
        let jobs = json!({"begun": job(json!("edge-a"), "true"), "fresh": job(json!("edge-a"), "true")});
        daemon(lab, DISPUTED, jobs, with(port, json!({"executor": "none"})))
    };
    let tap = Tap::on(lab, network.stranger(), "eth0");
    network.mislead(true);
    let fresh = truth.run("fresh");
    let results = truth.results("fresh", &fresh, 60);
    assert_eq!(codes(&results), [("edge-a", 254)]);
    let ret = results["edge-a"]["ret"].as_str().unwrap();
    assert!(ret.contains("did not connect within 8 seconds"), "{ret}");
    let results = truth.results("begun", &begun, 60);
    assert_eq!(codes(&results), [("edge-a", 253)]);
    assert!((15.0..=17.0).contains(&silence_s(&results["edge-a"])));
    let why = "not the one that SP_TLS_PIN names";
    for job in ["begun", "fresh"] {
        let log = fs::read_to_string(lab.root.join("wrapper-logs").join(format!("{job}.log"))).unwrap();
        assert!(log.contains(why), "{job}: {log}");
    }
    let heard = tap.stop();
    // it did come: the beginning of a TLS handshake
    assert!(heard.windows(3).any(|bytes| bytes == [0x16, 3, 1]));
    for secret in [&token, &begun, &fresh, "Sec-WebSocket"] {
        assert!(!heard::is_in(&heard, secret), "'{secret}'");
    }
    {
        let _stay = network.stranger().enter();
        assert_eq!(liar.status()["running"], json!({}));
        drop(liar);
    }

    fs::write(&go, "").unwrap();
    network.mislead(false);
    // the one that runs is found again, the one that never started does not start any more
    wait::until("the late truth", 60, || {
        let results = truth.results("begun", &begun, 60);
        (codes(&results) == [("edge-a", 0)]).then_some(())
    });
    assert_eq!(own_output(&truth, &begun, "edge-a"), "begun\nover\n");
    wait::until("the end of the one that waited", 60, || {
        processes::wrapper(&fresh, "edge-a").is_none().then_some(())
    });
    assert!(!obeyed.exists());
    assert_eq!(codes(&truth.results("fresh", &fresh, 10)), [("edge-a", 254)]);
}

#[test]
fn a_pulled_cable_loses_no_line_and_a_long_one_is_253_until_the_truth_comes() {
    let Some((lab, _stay)) = lab::on_network() else {
        return;
    };
    let network = lab.network();
    // some 60 seconds
    let command =
        "n=0; while [ $n -lt 550 ]; do n=$((n + 1)); echo \"line $n of $SP_MACHINE_ID\"; sleep 0.1; done";
    let lines = |machine: &str| -> String {
        let line = |n| format!("line {n} of {machine}\n");
        (1..=550).map(line).collect()
    };
    let jobs = json!({"short": job(json!("edge-b"), command), "long": job(json!("edge-c"), command)});
    let daemon = daemon(lab, MASTER, jobs, json!({}));
    let (short, long) = (daemon.run("short"), daemon.run("long"));
    daemon.wait_for_output("short", "edge-b", "line 20 of", 60);
    daemon.wait_for_output("long", "edge-c", "line 20 of", 60);
    network.cut("edge-b");
    network.cut("edge-c");
    wait::pause(5_000);
    network.mend("edge-b");
    let results = daemon.results("long", &long, 30);
    assert_eq!(codes(&results), [("edge-c", 253)]);
    assert!((15.0..=17.0).contains(&silence_s(&results["edge-c"])));
    wait::pause(23_000);
    network.mend("edge-c");
    for (job, instance, machine) in [("short", short, "edge-b"), ("long", long, "edge-c")] {
        let results = wait::until("the truth", 90, || {
            let results = daemon.results(job, &instance, 90);
            (codes(&results) == [(machine, 0)]).then_some(results)
        });
        assert_eq!(results[machine]["retcode"], 0);
        assert!(
            own_output(&daemon, &instance, machine) == lines(machine),
            "{machine}"
        );
        let log = fs::read_to_string(daemon.directory.join(format!("logs/{job}.log"))).unwrap();
        assert_eq!(log.contains("Exit Code 253 "), job == "long", "{machine}");
    }
}
