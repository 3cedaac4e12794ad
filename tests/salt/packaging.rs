//! The Salt state that installs the wrapper.

use std::fs;

use serde_json::json;

use crate::bridge::Bridge;
use crate::daemon::{Daemon, codes, job, with};
use crate::lab;

#[test]
fn the_state_installs_a_wrapper_that_runs_jobs() {
    let Some((lab, hold)) = lab::shared() else { return };
    let source = lab.root.join("files/saltpeter/files");
    fs::create_dir_all(&source).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_sp-wrapper"), source.join("sp-wrapper")).unwrap();
    let installed = lab.root.join("installed/bin/sp-wrapper");
    let pillar = json!({"saltpeter": {
        "wrapper_path": installed, "wrapper_logdir": lab.root.join("installed/log"),
    }});
    let mut bridge = Bridge::start(lab);
    let id = bridge.run(json!({
        "tgt": "db1", "fun": "state.apply", "arg": ["saltpeter.wrapper"], "kwarg": {"pillar": pillar}, "timeout": 90,
    }));
    let events = bridge.all_of(id, 120);
    let ret = events.iter().find(|event| event["ev"] == "ret").unwrap();
    let states = ret["ret"].as_object().unwrap_or_else(|| panic!("{ret}"));
    assert_eq!(states.len(), 3, "{ret}");
    for (name, state) in states {
        assert_eq!(state["result"], true, "{name}: {state}");
    }
    let job = with(job(json!("db1"), "echo ran"), json!({"wrapper_path": installed}));
    let daemon = Daemon::start((lab, hold), json!({"j": job}));
    let results = daemon.outcome("j", 60);
    assert_eq!(codes(&results), [("db1", 0)]);
    assert_eq!(results["db1"]["ret"], "ran\n");
}
