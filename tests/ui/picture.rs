//! The pictures in the documentation: `packaging/doc/screenshot` makes them.

use std::path::Path;

use serde_json::{Value, json};

use crate::browser;
use crate::support::daemon::{Daemon, Plan};

/// A job of a small company.
fn job(description: &str, time: (&str, &str), targets: &str, command: &str, more: Value) -> Value {
    let mut job = json!({
        "description": description, "min": time.0, "hour": time.1, "dom": "*", "mon": "*", "dow": "*",
        "targets": targets, "command": command,
    });
    for (name, value) in more.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

fn fleet() -> Daemon {
    let copy = r#"for n in $(seq 400); do echo "$(date +%T) copied part $n of 400"; sleep 0.3; done"#;
    let daemon = Plan::new(json!({}))
        .setting(
            "local_machines",
            json!(["web01", "web02", "web03", "db01", "db02"]),
        )
        .start();
    let none = || json!({});
    daemon.write_jobs("databases", &json!({
        "backup": job("dump, compress, copy to the vault", ("15", "2"), "db*", copy, none()),
        "vacuum": job("once a week, when nobody looks", ("0", "4"), "db*",
            r#"if [ "$SP_MACHINE_ID" = db02 ]; then echo "no space left on device"; exit 1; fi; echo done"#, none()),
        "replication_check": job("lag of the replica, in seconds", ("*/10", "*"), "db02", "echo 0.4", none()),
    }));
    daemon.write_jobs("web", &json!({
        "renew_certificates": job("a month before they end", ("30", "5"), "web*", "echo 'nothing to renew'", none()),
        "rotate_logs": job("compress what is older than a day", ("5", "0"), "*", "echo '12 files'", none()),
        "warm_cache": job("the 500 pages that are read most", ("*/20", "*"), "web*", "echo '500 pages'", none()),
        "sync_assets": job("from the build server", ("*/30", "*"), "web*", "echo 'up to date'", none()),
    }));
    daemon.write_jobs("billing", &json!({
        "invoices": job("yesterday's orders become invoices", ("10", "6"), "db01", "echo '318 invoices'", json!({"timezone": "Europe/Berlin"})),
        "dunning": job("reminders, on working days", ("0", "9"), "db01", "echo sent", json!({"dow": "mon-fri"})),
        "export": job("to the accountant", ("0", "7"), "db01", "echo sent", json!({"enabled": false})),
    }));
    daemon.wait_jobs(10);
    for name in [
        "vacuum",
        "replication_check",
        "renew_certificates",
        "rotate_logs",
        "warm_cache",
        "sync_assets",
        "invoices",
        "dunning",
    ] {
        let instance = daemon.run(name);
        daemon.wait_ended(&instance);
    }
    daemon.post(
        "/api/v1/jobs/dunning/pause",
        &json!({"reason": "new texts are being written"}),
    );
    daemon.write_file("reports.yaml", "weekly:\n  min: 0\n  hour: 8\n  dom: '*'\n  mon: '*'\n  dow: mon\n  targets: db01\n  command: report\n  enviroment: {}\n");
    daemon.wait_jobs(11);
    daemon
}

/// They are kept only if `SALTPETER_PICTURES` names a directory for them.
#[test]
fn the_pictures_of_the_documentation() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = fleet();
    let write = |name: &str, picture: &[u8]| {
        assert!(picture.starts_with(b"\x89PNG"), "{name}");
        if let Some(directory) = std::env::var_os("SALTPETER_PICTURES") {
            std::fs::write(Path::new(&directory).join(name), picture).unwrap();
        }
    };
    let instance = daemon.run("backup");
    browser.appear("light", 1240, 650);
    browser.visit(&daemon, "/");
    browser.until("the run", "named('.runs a', 'backup').length === 1");
    browser.until(
        "everything",
        "document.querySelectorAll('.jobs tbody tr').length === 11",
    );
    write("page.png", &browser.picture());
    browser.appear("light", 1240, 560);
    browser.visit(&daemon, &format!("/runs/{instance}?machine=db02"));
    browser.until(
        "its output",
        "document.querySelector('pre.output').textContent.includes('part 12 of')",
    );
    write("run.png", &browser.picture());
    if let Some(directory) = std::env::var_os("SALTPETER_MORE_PICTURES") {
        let more =
            |name: &str, picture: &[u8]| std::fs::write(Path::new(&directory).join(name), picture).unwrap();
        for (scheme, width) in [("light", 1240), ("dark", 1240), ("dark", 390), ("light", 390)] {
            browser.appear(scheme, width, 800);
            for (name, path) in [
                ("overview", "/"),
                ("job", "/jobs/vacuum"),
                ("run", &format!("/runs/{instance}")),
                ("runs", "/runs"),
                ("machines", "/machines"),
                ("problems", "/problems"),
                ("audit", "/audit"),
                ("login", "/login"),
            ] {
                browser.visit(&daemon, path);
                browser.until(path, "!document.body.innerText.includes('Loading')");
                crate::support::pause(300);
                more(&format!("{name}-{scheme}-{width}.png"), &browser.picture());
            }
        }
    }
    daemon.post("/api/v1/jobs/backup/kill", &json!({}));
    daemon.wait_ended(&instance);
}
