//! Which minions a job reaches, and in which order.

use serde_json::{Value, json};

use crate::daemon::{Daemon, codes, job, with};
use crate::lab;

#[test]
fn every_kind_of_target_reaches_whom_salt_means() {
    let Some(lab) = lab::shared() else { return };
    let say_id = "echo \"I am $SP_MACHINE_ID\"";
    let kinds: [(&str, Value, &str, &[&str]); 14] = [
        ("all", json!("*"), "glob", &["db1", "web-a", "web-b"]),
        ("some", json!("web*"), "glob", &["web-a", "web-b"]),
        ("listed", json!(["db1", "web-b"]), "list", &["db1", "web-b"]),
        ("text", json!("web-a,db1"), "list", &["db1", "web-a"]),
        ("array", json!(["web-a", "db1"]), "glob", &["db1", "web-a"]),
        (
            "pattern",
            json!("(web-[ab]|nobody)$"),
            "pcre",
            &["web-a", "web-b"],
        ),
        ("grain", json!("role:db"), "grain", &["db1"]),
        ("tier", json!("tier:front"), "pillar", &["web-a", "web-b"]),
        (
            "tier_pattern",
            json!("tier:fr.*"),
            "pillar_pcre",
            &["web-a", "web-b"],
        ),
        (
            "tier_exact",
            json!("tier:front"),
            "pillar_exact",
            &["web-a", "web-b"],
        ),
        ("role_pattern", json!("role:d."), "grain_pcre", &["db1"]),
        (
            "network",
            json!("127.0.0.0/8"),
            "ipcidr",
            &["db1", "web-a", "web-b"],
        ),
        ("group", json!("edge"), "nodegroup", &["db1", "web-b"]),
        (
            "mixed",
            json!("G@role:web and not L@web-b or db*"),
            "compound",
            &["db1", "web-a"],
        ),
    ];
    let mut files = json!({});
    for (name, targets, kind, _) in &kinds {
        files[name] = with(job(targets.clone(), say_id), json!({"target_type": kind}));
    }
    files["nowhere"] = job(json!("nobody*"), "true");
    files["elsewhere"] = with(
        job(json!("203.0.113.0/24"), "true"),
        json!({"target_type": "ipcidr"}),
    );
    files["ranged"] = with(job(json!("%edge"), "true"), json!({"target_type": "range"}));
    let daemon = Daemon::start(lab, files);
    let instances: Vec<String> = kinds.iter().map(|(name, ..)| daemon.run(name)).collect();
    for ((name, _, _, expected), instance) in kinds.iter().zip(instances) {
        let results = daemon.results(name, &instance, 90);
        let expected: Vec<(&str, i64)> = expected.iter().map(|id| (*id, 0)).collect();
        assert_eq!(codes(&results), expected, "{name}");
        for (machine, _) in expected {
            assert_eq!(results[machine]["ret"], format!("I am {machine}\n"));
        }
    }
    for job in ["nowhere", "elsewhere"] {
        assert_eq!(daemon.outcome(job, 40), json!({}));
        assert_eq!(daemon.status()["state"][job]["note"], "No targets matched");
    }
    // what it needs is in no package index
    assert_eq!(daemon.outcome("ranged", 40), json!({}));
    let note = daemon.status()["state"]["ranged"]["note"].to_string();
    assert!(note.contains("seco.range"), "{note}");
}

#[test]
fn a_batch_starts_the_next_when_one_has_ended_and_a_number_is_drawn() {
    let Some(lab) = lab::shared() else { return };
    let daemon = Daemon::start(
        lab,
        json!({
            "one_by_one": with(job(json!("*"), "sleep 1"), json!({"batch_size": 1})),
            "any_two": with(job(json!("*"), "true"), json!({"number_of_targets": 2})),
            "saltpeter_maintenance": {"machines": []},
        }),
    );
    let results = daemon.outcome("one_by_one", 90);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
    let mut times: Vec<(String, String)> = results
        .as_object()
        .unwrap()
        .values()
        .map(|result| (result["starttime"].to_string(), result["endtime"].to_string()))
        .collect();
    times.sort();
    assert!(times[0].1 <= times[1].0 && times[1].1 <= times[2].0, "{times:?}");
    let drawn = daemon.outcome("any_two", 60);
    assert_eq!(drawn.as_object().unwrap().len(), 2, "{drawn}");
}

#[test]
fn machines_in_maintenance_are_left_out_and_listed() {
    let Some(lab) = lab::shared() else { return };
    let daemon = Daemon::start(
        lab,
        json!({
            "j": job(json!("*"), "echo ran"),
            "saltpeter_maintenance": {"machines": ["db1"]},
        }),
    );
    let results = daemon.outcome("j", 60);
    assert_eq!(codes(&results), [("db1", 0), ("web-a", 0), ("web-b", 0)]);
    assert!(
        results["db1"]["ret"]
            .to_string()
            .contains("Target under maintenance")
    );
    assert_eq!(results["web-a"]["ret"], "ran\n");
}
