//! A daemon that was down for a week, with jobs due each minute: how long until every due time has its verdict, and how long
//! requests and a kill take meanwhile.

use std::io;

use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::daemon::{Daemon, on_demand, scheduled};
use crate::report::{By, Figure, Reach};
use crate::{Bench, timing};

const SIZES: [usize; 3] = [1_000, 3_000, 10_000];
const WEEK_US: i64 = 7 * 86_400 * 1_000_000;
/// From writing the job files until the jobs are due.
const QUIET_S: u64 = 50;
const LIMIT_MS: u64 = 300_000;

pub fn run(bench: &mut Bench) -> io::Result<()> {
    for jobs in SIZES {
        let size = format!("{jobs} jobs");
        let mut daemon = bench.start(1, vec![("jobs.yaml".into(), job_file(jobs))])?;
        daemon.run("endless")?;
        let started = timing::until(LIMIT_MS, 20, || runs_somewhere(&mut daemon));
        started.ok_or_else(|| io::Error::other("the endless job does not start"))?;
        daemon.halt()?;
        let state = daemon.directory.join("state/state.db");
        set_back(&state)?;
        daemon.restart()?;
        let begun = timing::mono_ns();
        let mut answers = Vec::new();
        let mut kill_ms = None;
        let reader = Connection::open_with_flags(&state, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(io::Error::other)?;
        let done = timing::until(LIMIT_MS, 50, || {
            let asked = timing::mono_ns();
            let job = daemon.api.get("/api/v1/jobs/endless?recent=0").ok()?;
            answers.push(timing::ms_since(asked));
            if kill_ms.is_none() && job.1["state"] == "running" {
                let asked = timing::mono_ns();
                let (status, _) = daemon.api.post("/kill", &json!({"job": "endless"})).ok()?;
                kill_ms = (status == 200).then(|| timing::ms_since(asked));
            }
            let covered = covered(&reader).ok()?;
            (covered >= jobs).then(|| timing::ms_since(begun))
        });
        let done = done.ok_or_else(|| io::Error::other("due times of the week have no verdict"))?;
        let result = daemon.wait_for_end("endless", LIMIT_MS, 100)?;
        if result
            .as_object()
            .into_iter()
            .flatten()
            .any(|(_, end)| end["retcode"] != 143)
        {
            bench
                .report
                .wrong(bench.name, format!("killed meanwhile, but {result}"));
        }
        let slow = slow_turns(&daemon)?;
        daemon.stop()?;
        let figure = |what, unit, samples, reach| {
            bench.report.figure(Figure {
                bench: bench.name,
                what,
                size: size.clone(),
                unit,
                samples,
                reach,
                by: By::Worst,
                raw: vec![],
            });
        };
        figure("ready to last verdict", "ms", vec![done], Reach::AtMost(60_000.0));
        figure("request meanwhile", "ms", answers, Reach::AtMost(1_000.0));
        figure(
            "kill meanwhile",
            "ms",
            kill_ms.into_iter().collect(),
            Reach::AtMost(1_000.0),
        );
        figure("turns of over 100 ms", "", vec![slow as f64], Reach::Nothing);
    }
    Ok(())
}

/// A job that runs until it is killed, and so many that are due each minute.
fn job_file(jobs: usize) -> String {
    let mut text = on_demand("endless", "exec sleep 1000", "  timeout: 0\n");
    // none starts before the week is measured
    let second = (timing::wall_ns() / 1_000_000_000 + QUIET_S) % 60;
    let when = format!("{second} * * * * * *");
    for number in 0..jobs {
        let more = "  start_deadline: 1\n";
        text += &scheduled(&format!("job_{number:05}"), &when, "true", more);
    }
    text
}

fn runs_somewhere(daemon: &mut Daemon) -> Option<()> {
    let status = daemon.status().ok()?;
    let running = status["running"].as_object()?;
    let has_started = |run: &serde_json::Value| {
        run["name"] == "endless"
            && run["machines"]
                .as_array()
                .is_some_and(|machines| !machines.is_empty())
    };
    running.values().any(has_started).then_some(())
}

/// As if the daemon had stopped a week ago, and had known its jobs for longer.
fn set_back(state: &std::path::Path) -> io::Result<()> {
    let connection = Connection::open(state).map_err(io::Error::other)?;
    let facts = "DELETE FROM meta WHERE key IN ('doubt', 'doubt_seq');
                 DELETE FROM verdicts";
    connection.execute_batch(facts).map_err(io::Error::other)?;
    let look = saltpeter::clock::wall().0 - WEEK_US;
    let back = "INSERT OR REPLACE INTO meta VALUES('last_look', ?1)";
    connection.execute(back, [look]).map_err(io::Error::other)?;
    let back = "UPDATE jobs SET active_since = active_since - 2 * ?1";
    connection.execute(back, [WEEK_US]).map_err(io::Error::other)?;
    Ok(())
}

/// Jobs whose due times of the week have their verdict.
fn covered(reader: &Connection) -> rusqlite::Result<usize> {
    let count: i64 = reader.query_row(
        "SELECT count(DISTINCT job) FROM verdicts WHERE verdict = 'missed' AND count > 10000",
        [],
        |row| row.get(0),
    )?;
    Ok(count as usize)
}

fn slow_turns(daemon: &Daemon) -> io::Result<usize> {
    let log = std::fs::read_to_string(daemon.directory.join("daemon.log"))?;
    for line in log
        .lines()
        .filter(|line| line.contains("a turn of the engine took"))
    {
        eprintln!("{line}");
    }
    Ok(log.matches("a turn of the engine took").count())
}
