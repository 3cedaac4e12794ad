//! A wall clock that lies, with libfaketime before the real daemon: while it does and from the moment it is right again, each due
//! time has one verdict, and what was set ends in its own time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::types::Value as Sql;
use serde_json::json;

use crate::support::daemon::{Daemon, Plan, every_second, job};
use crate::support::until;

const YEAR_S: i64 = 365 * 86_400;

/// The library that fakes the wall clock, installed if it is missing and we are root.
fn library() -> Option<PathBuf> {
    let found = || {
        let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
        folders
            .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.is_file())
    };
    if found().is_none() && rustix::process::geteuid().is_root() {
        for arguments in [
            &["update", "-qq"][..],
            &["install", "-y", "-qq", "--no-install-recommends", "faketime"],
        ] {
            let _ = Command::new("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .output();
        }
        assert!(
            found().is_some(),
            "the tests of wrong clocks need libfaketime (package faketime), and apt-get could not install it"
        );
    }
    if found().is_none() {
        eprintln!(
            "SKIPPED the tests of wrong clocks: libfaketime is not installed (apt-get install faketime)"
        );
    }
    found()
}

/// A daemon whose wall clock is wrong by what a file says, with jobs due each second, minute and day.
struct Wrong {
    daemon: Daemon,
    offset: PathBuf,
}

fn now_s() -> i64 {
    saltpeter::clock::wall().secs()
}

fn jobs() -> serde_json::Value {
    let all = |sec: &str, min: &str, hour: &str| {
        json!({"sec": sec, "min": min, "hour": hour, "dom": "*", "mon": "*", "dow": "*", "year": "*",
            "targets": "m1", "command": "true"})
    };
    json!({
        "second": every_second("true", json!({"allow_overlap": true})), "minute": all("30", "*", "*"),
        "day": all("0", "0", "3"), "paused": job("true"),
    })
}

impl Wrong {
    fn new(library: &Path, offset_s: i64) -> Wrong {
        // no wrapper and no command: the verdicts are what is looked at
        let daemon = Plan::new(jobs()).setting("executor", json!("none")).prepare();
        let offset = daemon.path("offset");
        let script = daemon.script(
            "wrong-clock",
            &format!(
                "exec env LD_PRELOAD='{}' FAKETIME_TIMESTAMP_FILE='{}' FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1 \
                 FAKETIME_DONT_FAKE_MONOTONIC=1 '{}' \"$@\"",
                library.display(),
                offset.display(),
                env!("CARGO_BIN_EXE_saltpeter")
            ),
        );
        let wrong = Wrong {
            daemon: daemon.with_program(&script),
            offset,
        };
        wrong.set(offset_s);
        wrong.daemon.start();
        wrong
    }

    /// Wrong by so much from now on; 0: right.
    fn set(&self, offset_s: i64) {
        let new = self.offset.with_extension("new");
        fs::write(&new, format!("{offset_s:+}")).unwrap();
        fs::rename(&new, &self.offset).unwrap();
    }

    /// A pause and two switches for an hour.
    fn set_for_an_hour(&self) {
        let pause = json!({"reason": "disk swap", "until": "now+1h"});
        let paused = self.daemon.post("/api/v1/jobs/paused/pause", &pause);
        assert_eq!(paused.status, 200, "{}", paused.text());
        let switch = json!({"on": true, "reason": "disk swap", "seconds": 3_600, "machine": "m2"});
        let told = crate::api::control(&self.daemon, "PUT", "/api/v1/maintenance", &switch);
        assert_eq!(told.status, 200, "{}", told.text());
    }

    fn is_set(&self) -> bool {
        let maintenance = self.daemon.get("/api/v1/maintenance").json();
        let job = self.daemon.get("/api/v1/jobs/paused").json();
        maintenance["machines"] == json!(["m2"]) && !job["paused"].is_null()
    }

    /// Waits until a due time of the second-by-second job beyond that moment has its verdict.
    fn wait_verdict_after(&self, second: i64) {
        let sql =
            "SELECT count(*) FROM verdicts WHERE job = 'second' AND due > CAST(?1 AS INTEGER) * 1000000";
        until("a verdict on a later due time", || {
            (self.daemon.number(sql, &second.to_string()) > 0).then_some(())
        });
    }

    /// Waits until it goes on from now, with two more due times.
    fn wait_right(&self) {
        let from = now_s();
        let sql = format!(
            "SELECT count(*) FROM verdicts WHERE job = 'second' AND due > {from} * 1000000 AND due < ({from} + 600) * 1000000"
        );
        until("due times of the right time", || {
            (self.daemon.number(&sql, "") >= 2).then_some(())
        });
    }

    /// Every due time of that stretch has one verdict, and none of a time that is to come has one of being missed.
    fn all_have_their_verdict(&self, from: i64, to: i64) {
        for (job, step) in [("second", 1), ("minute", 60)] {
            // each second at which it was due
            let rows = self.daemon.rows(
                "SELECT due / 1000000, until / 1000000, count, verdict FROM verdicts WHERE job = ?1 ORDER BY due",
                job,
            );
            let number = |value: &Sql| match value {
                Sql::Integer(number) => *number,
                other => panic!("{other:?}"),
            };
            let mut times: Vec<i64> = Vec::new();
            for row in &rows {
                let (due, until, count) = (number(&row[0]), number(&row[1]), number(&row[2]));
                if until < from || due > to {
                    continue;
                }
                assert_eq!((until - due) / step + 1, count, "{job}: {row:?}");
                times.extend((due..=until).step_by(step as usize));
            }
            times.retain(|at| (from..=to).contains(at));
            let is_due = |at: &i64| step == 1 || at.rem_euclid(60) == 30;
            let expected: Vec<i64> = (from..=to).filter(is_due).collect();
            assert_eq!(times, expected, "{job}\n{}", self.daemon.said());
        }
        let later = format!(
            "SELECT count(*) FROM verdicts WHERE verdict = 'missed' AND until > ({} + 120) * 1000000",
            now_s()
        );
        assert_eq!(self.daemon.number(&later, ""), 0, "{}", self.daemon.said());
    }

    /// Down for some seconds, and what passed meanwhile is taken up.
    fn restart(&self) {
        self.daemon.kill_hard();
        crate::support::pause(3_000);
        self.daemon.start();
        self.wait_right();
    }
}

#[test]
fn a_clock_that_is_four_years_ahead_for_seconds_costs_nothing_once_it_is_right() {
    let Some(library) = library() else { return };
    let wrong = Wrong::new(&library, 0);
    wrong.wait_right();
    let from = now_s() - 1;
    wrong.set_for_an_hour();
    wrong.set(4 * YEAR_S);
    wrong.wait_verdict_after(from + 3 * YEAR_S);
    crate::support::pause(2_000);
    assert!(wrong.is_set(), "{}", wrong.daemon.said());
    wrong.set(0);
    wrong.wait_right();
    assert!(wrong.is_set());
    wrong.restart();
    wrong.all_have_their_verdict(from, now_s() - 2);
    assert!(wrong.is_set());
    assert!(
        wrong.daemon.number(
            "SELECT count(*) FROM runs WHERE started < 1000000 * CAST(?1 AS INTEGER)",
            &(from + 2).to_string()
        ) > 0
    );
}

#[test]
fn a_clock_of_1970_at_the_start_is_not_believed_and_ends_nothing() {
    let Some(library) = library() else { return };
    let wrong = Wrong::new(&library, 0);
    wrong.wait_right();
    wrong.set_for_an_hour();
    let from = now_s() - 1;
    wrong.daemon.kill_hard();
    wrong.set(60 - now_s());
    wrong.daemon.start();
    crate::support::pause(3_000);
    assert!(wrong.is_set());
    wrong.set(0);
    wrong.wait_right();
    wrong.restart();
    wrong.all_have_their_verdict(from, now_s() - 2);
    assert!(wrong.is_set());
}

#[test]
fn a_clock_that_goes_back_by_hours_and_comes_forward_again_starts_nothing_twice_and_passes_nothing_over() {
    let Some(library) = library() else { return };
    let wrong = Wrong::new(&library, 0);
    wrong.wait_right();
    wrong.set_for_an_hour();
    let from = now_s() - 1;
    wrong.set(-3 * 3_600);
    wrong.daemon.wait_said("the clock went back");
    crate::support::pause(2_500);
    wrong.set(0);
    wrong.daemon.wait_said("the clock went forward");
    wrong.wait_right();
    wrong.all_have_their_verdict(from, now_s() - 2);
    assert!(wrong.is_set());
    let doubled = "SELECT count(*) - count(DISTINCT job || due) FROM runs WHERE due IS NOT NULL";
    assert_eq!(wrong.daemon.number(doubled, ""), 0);
}

#[test]
fn a_clock_that_steps_during_a_restart_and_is_put_right_during_another_passes_nothing_over() {
    let Some(library) = library() else { return };
    let wrong = Wrong::new(&library, 0);
    wrong.wait_right();
    wrong.set_for_an_hour();
    let from = now_s() - 1;
    wrong.daemon.kill_hard();
    wrong.set(2 * 86_400);
    wrong.daemon.start();
    wrong.wait_verdict_after(from + 86_400);
    crate::support::pause(2_000);
    assert!(wrong.is_set(), "{}", wrong.daemon.said());
    wrong.daemon.kill_hard();
    wrong.set(0);
    wrong.daemon.start();
    wrong.wait_right();
    wrong.all_have_their_verdict(from, now_s() - 2);
    assert!(wrong.is_set());
}
