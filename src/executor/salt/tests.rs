//! The executor in front of a helper that plays its part by heart: what needs no Salt. The rest is in tests/salt.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::launching::wrapper_call;
use super::ping::unknown_kind;
use super::*;
use crate::config::{ExecutorKind, JobSpec, Settings, Targets};
use crate::engine::effect::Dispatch;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::record::Handover;
use crate::executor::{self, Executor};

const HELLO: &str = r#"{"ev":"hello","proto":1,"salt":"3008.5","python":"3","exe":"fake"}"#;

/// A "Python" that takes the helper's source and then does as it is told.
fn fake_python(name: &str, body: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("saltpeter-fake-python-{name}-{}", std::process::id()));
    let script = format!("head -c \"$4\" >/dev/null; echo '{HELLO}'\n{body}\ncat >/dev/null");
    // by another process: see local.rs
    let written = std::process::Command::new("/bin/sh")
        .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 700 "$0""#])
        .arg(&path)
        .arg(script)
        .status();
    assert!(written.unwrap().success());
    path
}

fn endpoint() -> Endpoint {
    Endpoint {
        local_host: "127.0.0.1".into(),
        port: 8889,
        pin: "sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
            .parse()
            .unwrap(),
        starts_sp_wrapper_by_default: false,
    }
}

fn start(python: &Path) -> (Executor, Receiver<Event>) {
    let settings = Settings {
        salt_python: Some(python.display().to_string()),
        ..Settings::default()
    };
    let settings = Arc::new(parking_lot::RwLock::new(Arc::new(settings)));
    let (sender, events) = crossbeam_channel::bounded(limits::CONTROL_QUEUE);
    let executor = executor::start(ExecutorKind::Salt, endpoint(), settings, sender).unwrap();
    (executor, events)
}

fn resolve(executor: &Executor, run: u64, target_type: &str) {
    let spec = Arc::new(JobSpec {
        targets: Targets::Text("*".into()),
        target_type: target_type.into(),
        ..JobSpec::default()
    });
    let order = ExecutorOrder::Resolve {
        run: RunId(run),
        spec,
    };
    executor.try_send(order).unwrap();
}

/// Up, down and error of that run, when its machines are all known.
fn resolved_to_the_end(events: &Receiver<Event>, wanted: u64) -> (Vec<String>, Vec<String>, Option<String>) {
    let (mut all_up, mut all_down) = (Vec::new(), Vec::new());
    loop {
        let event = events.recv_timeout(Duration::from_secs(30)).unwrap();
        if let Event::Resolved {
            run,
            up,
            down,
            finished,
            error,
        } = event
            && run == RunId(wanted)
        {
            all_up.extend(up);
            all_down.extend(down);
            if finished {
                return (all_up, all_down, error);
            }
        }
    }
}

#[test]
fn runs_that_are_due_together_share_a_ping_and_up_is_told_before_down() {
    // a second request would get no answer
    let python = fake_python(
        "shares",
        r#"read -r line
        echo '{"ev":"pub","id":1,"jid":"1","minions":["a","b","c"],"unknown":[]}'
        echo '{"ev":"ret","id":1,"jid":"1","minion":"a","ret":true,"retcode":0}'
        echo '{"ev":"ret","id":1,"jid":"1","minion":"b","ret":true,"retcode":0}'
        sleep 1
        echo '{"ev":"done","id":1,"jid":"1","missing":["c"],"why":"timeout"}'"#,
    );
    let (executor, events) = start(&python);
    resolve(&executor, 1, "glob");
    resolve(&executor, 2, "glob");
    let first_of_two = loop {
        match events.recv_timeout(Duration::from_secs(20)).unwrap() {
            Event::Resolved { up, finished, .. } if !up.is_empty() => break (up, finished),
            _ => {}
        }
    };
    assert_eq!(first_of_two, (vec!["a".to_string(), "b".to_string()], false));
    let (up, down, error) = resolved_to_the_end(&events, 2);
    assert_eq!((up.len(), down, error), (2, vec!["c".to_string()], None));
    std::fs::remove_file(python).unwrap();
}

#[test]
fn a_master_that_is_away_is_asked_again_and_so_are_minions_that_come_back_after_it() {
    let python = fake_python(
        "away",
        r#"read -r first
        echo '{"ev":"error","id":1,"kind":"master_down","msg":"x"}'
        read -r second
        jid=${first#*jid\":\"}; jid=${jid%%\"*}
        case "$second" in *"$jid"*'"again":true'*) ;; *) exit 1 ;; esac
        echo '{"ev":"pub","id":1,"jid":"1","minions":["a","b"],"unknown":["gone"],"took_ms":3}'
        echo '{"ev":"ret","id":1,"jid":"1","minion":"a","ret":true,"retcode":0}'
        echo '{"ev":"done","id":1,"jid":"1","missing":["b"],"why":"timeout"}'
        read -r third
        case "$third" in *'"tgt":["b"]'*) ;; *) exit 1 ;; esac
        echo '{"ev":"ret","id":2,"jid":"2","minion":"b","ret":true,"retcode":0}'
        echo '{"ev":"done","id":2,"jid":"2","missing":[],"why":"complete"}'"#,
    );
    let (executor, events) = start(&python);
    resolve(&executor, 1, "glob");
    let (up, down, error) = resolved_to_the_end(&events, 1);
    assert_eq!(
        (up, down, error),
        (vec!["a".into(), "b".into()], vec!["gone".into()], None)
    );
    std::fs::remove_file(python).unwrap();
}

#[test]
fn a_publish_that_waited_for_others_is_no_sign_of_a_master_that_was_away() {
    // a second ping would get no answer
    let python = fake_python(
        "queued",
        r#"read -r line
        sleep 2.5
        echo '{"ev":"pub","id":1,"jid":"1","minions":["a","b"],"unknown":[],"took_ms":40}'
        echo '{"ev":"ret","id":1,"jid":"1","minion":"a","ret":true,"retcode":0}'
        echo '{"ev":"done","id":1,"jid":"1","missing":["b"],"why":"timeout"}'"#,
    );
    let (executor, events) = start(&python);
    resolve(&executor, 1, "glob");
    let (up, down, error) = resolved_to_the_end(&events, 1);
    assert_eq!((up, down, error), (vec!["a".into()], vec!["b".into()], None));
    std::fs::remove_file(python).unwrap();
}

#[test]
fn who_was_unknown_at_first_stays_down_when_the_rest_is_asked_again() {
    let python = fake_python(
        "unknown",
        r#"read -r line
        echo '{"ev":"pub","id":1,"jid":"1","minions":["a"],"unknown":["gone"],"took_ms":4000}'
        echo '{"ev":"done","id":1,"jid":"1","missing":["a"],"why":"timeout"}'
        read -r line
        echo '{"ev":"error","id":2,"kind":"no_match","msg":"no minion matches","unknown":["a"]}'"#,
    );
    let (executor, events) = start(&python);
    resolve(&executor, 1, "glob");
    let (up, down, error) = resolved_to_the_end(&events, 1);
    assert_eq!(
        (up, down, error),
        (Vec::new(), vec!["gone".into(), "a".into()], None)
    );
    std::fs::remove_file(python).unwrap();
}

#[test]
fn who_is_silent_is_down_at_once_while_others_still_may_answer_and_stays_so() {
    let python = fake_python(
        "silent",
        r#"read -r line
        echo '{"ev":"pub","id":1,"jid":"1","minions":["busy","dead","late"],"unknown":[],"took_ms":3}'
        echo '{"ev":"gone","id":1,"jid":"1","minions":["dead","late"]}'
        read -r line
        echo '{"ev":"ret","id":1,"jid":"1","minion":"late","ret":true,"retcode":0}'
        echo '{"ev":"ret","id":1,"jid":"1","minion":"busy","ret":true,"retcode":0}'
        echo '{"ev":"done","id":1,"jid":"1","missing":["dead","late"],"why":"timeout"}'"#,
    );
    let (executor, events) = start(&python);
    resolve(&executor, 1, "glob");
    let told = events.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(
        matches!(&told, Event::Resolved { down, finished: false, .. } if down[..] == ["dead", "late"]),
        "{told:?}"
    );
    // what it waits for
    resolve(&executor, 2, "pcre");
    let told_later = resolved_to_the_end(&events, 1);
    assert_eq!(told_later, (vec!["busy".into()], Vec::new(), None));
    std::fs::remove_file(python).unwrap();
}

#[test]
fn a_launch_gives_up_who_is_silent_and_waits_for_the_others() {
    let python = fake_python(
        "launch",
        r#"read -r line
        echo '{"ev":"pub","id":1,"jid":"1","minions":["busy","dead"],"unknown":[],"took_ms":3}'
        echo '{"ev":"gone","id":1,"jid":"1","minions":["dead"]}'
        echo '{"ev":"ret","id":1,"jid":"1","minion":"busy","ret":{"retcode":0},"retcode":0}'
        echo '{"ev":"done","id":1,"jid":"1","missing":["dead"],"why":"timeout"}'"#,
    );
    let (executor, events) = start(&python);
    let machines = [(1, "busy"), (2, "dead")];
    let dispatch = Dispatch {
        run: RunId(1),
        job: "j".into(),
        instance: "j_1".into(),
        token: "t".into(),
        spec: Default::default(),
        machines: machines
            .map(|(id, name)| (MachineRunId(id), name.into()))
            .to_vec(),
        handover: Handover::OverSocket,
        at: Default::default(),
        again: false,
    };
    executor
        .try_send(ExecutorOrder::Dispatch(Box::new(dispatch)))
        .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match events.recv_timeout(Duration::from_secs(20)).unwrap() {
            Event::LaunchFailed {
                machine_run, retcode, ..
            } => seen.push((machine_run, retcode)),
            Event::Launched { machine_run } => seen.push((machine_run, 0)),
            _ => {}
        }
    }
    assert_eq!(seen, [(MachineRunId(2), NO_ANSWER), (MachineRunId(1), 0)]);
    std::fs::remove_file(python).unwrap();
}

#[test]
fn without_salt_and_for_unknown_kinds_of_targets_a_run_is_refused_with_the_reason() {
    let (executor, events) = start(Path::new("/nowhere/python3"));
    resolve(&executor, 1, "glob");
    let (_, _, error) = resolved_to_the_end(&events, 1);
    let error = error.unwrap();
    assert!(
        error.contains("no Python with a working Salt was found (/nowhere/python3: "),
        "{error}"
    );
    assert_eq!(
        unknown_kind("globe").unwrap().split(':').next(),
        Some("target_type 'globe' is none of Salt's")
    );
    drop(executor);
}

#[test]
fn the_dispatch_of_a_wrapper_carries_no_command_and_lets_the_minion_fill_in_its_id() {
    let spec = JobSpec {
        command: "secret command".into(),
        env: [("KEY".to_string(), "secret value".to_string())].into(),
        saltpeter_server_host: Some("::1".into()),
        wrapper_path: Some("/usr/bin/sp-wrapper".into()),
        ..JobSpec::default()
    };
    let dispatch = Dispatch {
        run: RunId(1),
        job: "j".into(),
        instance: "j_1".into(),
        token: "t".into(),
        spec: Arc::new(spec),
        machines: Vec::new(),
        handover: Handover::OverSocket,
        at: Default::default(),
        again: false,
    };
    let call = json!(wrapper_call(&dispatch, &Settings::default(), &endpoint()));
    assert!(!call.to_string().contains("secret"), "{call}");
    assert_eq!(call["env"]["SP_WEBSOCKET_URL"], "wss://[::1]:8889/?token=t");
    let command = call["cmd"].as_str().unwrap();
    assert!(
        command.ends_with("env SP_MACHINE_ID='{{ grains['id'] }}' /usr/bin/sp-wrapper"),
        "{command}"
    );
}

#[test]
fn our_wrapper_is_sent_over_tls_with_the_pin_and_a_python_one_as_ever() {
    let endpoint = Endpoint {
        local_host: "127.0.0.1".into(),
        port: 8889,
        pin: format!("sha256:{}", "00".repeat(32)).parse().unwrap(),
        starts_sp_wrapper_by_default: false,
    };
    let settings = Settings {
        default_saltpeter_server_host: Some("master".into()),
        ..Settings::default()
    };
    for (path, scheme) in [(Some("/usr/bin/sp-wrapper"), "wss"), (None, "ws")] {
        let dispatch = Dispatch {
            run: RunId(1),
            job: "j".into(),
            instance: "j_1".into(),
            machines: Vec::new(),
            handover: if path.is_none() {
                Handover::InDispatch
            } else {
                Handover::OverSocket
            },
            at: Default::default(),
            again: false,
            token: "t".into(),
            spec: Arc::new(JobSpec {
                wrapper_path: path.map(str::to_string),
                ..JobSpec::default()
            }),
        };
        let call = wrapper_call(&dispatch, &settings, &endpoint);
        let env = &call["env"];
        assert_eq!(
            env["SP_WEBSOCKET_URL"],
            format!("{scheme}://master:8889/?token=t")
        );
        assert_eq!(env["SP_TLS_PIN"].is_string(), scheme == "wss");
    }
}
