//! Many runs due in one second: all end with the correct code.

use std::io;

use chrono::{Datelike, Timelike};
use saltpeter::clock::{self, Wall};
use serde_json::Value;

use crate::daemon::{Daemon, scheduled};
use crate::report::{By, Figure, Reach};
use crate::{Bench, procfs, raw, timing};

const SIZES: [usize; 3] = [100, 300, 1_000];
/// From writing the configuration to the due second.
const AHEAD_S: i64 = 5;
const LIMIT_MS: u64 = 180_000;
/// Polling the status takes CPU time of the daemon, too.
const LOOK_MS: u64 = 200;

pub fn run(bench: &mut Bench) -> io::Result<()> {
    for jobs in SIZES {
        let raw_ms = raw::spawns_ms(jobs)?;
        let (mut seconds, mut cpu, mut peak, mut untrue) = (vec![], vec![], vec![], vec![]);
        for _ in 0..bench.repetitions(3) {
            let due = Wall::from_secs(clock::wall().secs() + AHEAD_S);
            let mut daemon = bench.start(1, vec![("jobs.yaml".into(), text(jobs, due))])?;
            if clock::wall() > due {
                return Err(io::Error::other("the daemon was ready only after the due second"));
            }
            timing::wait_for_wall(due.0 as u64 * 1_000);
            let begun = timing::mono_ns();
            let before = daemon.cpu().own_s;
            let wrong = wait_for_all(&mut daemon, jobs)?;
            seconds.push(timing::ms_since(begun) / 1e3);
            cpu.push((daemon.cpu().own_s - before) * 1e3 / jobs as f64);
            peak.push(procfs::peak_bytes(daemon.pid()) as f64 / procfs::MEBIBYTE);
            untrue.push(wrong.len() as f64);
            if let Some(first) = wrong.first() {
                let what = format!("{} of {jobs} have a wrong code, as {first}", wrong.len());
                bench.report.wrong(bench.name, what);
            }
            daemon.stop()?;
        }
        let figure = |what, unit, samples, reach, raw| {
            bench.report.figure(Figure {
                bench: bench.name,
                what,
                size: format!("{jobs} runs"),
                unit,
                samples,
                reach,
                by: By::Worst,
                raw,
            });
        };
        figure(
            "ends with a wrong code",
            "runs",
            untrue,
            Reach::AtMost(0.0),
            vec![],
        );
        let raw = vec![("spawning as many /bin/sh and waiting", raw_ms / 1e3)];
        figure("due to all ended", "s", seconds, Reach::Nothing, raw);
        figure("CPU of the daemon", "ms each", cpu, Reach::Nothing, vec![]);
        figure("peak memory of the daemon", "MiB", peak, Reach::Nothing, vec![]);
    }
    Ok(())
}

fn code(number: usize) -> usize {
    number % 7
}

fn text(jobs: usize, due: Wall) -> String {
    let at = due.utc();
    let when = format!(
        "{} {} {} {} {} * {}",
        at.second(),
        at.minute(),
        at.hour(),
        at.day(),
        at.month(),
        at.year()
    );
    (0..jobs)
        .map(|number| {
            let command = format!("echo run {number}; exit {}", code(number));
            scheduled(&format!("burst_{number}"), &when, &command, "")
        })
        .collect()
}

/// What is wrong once all have ended, or at the time limit.
fn wait_for_all(daemon: &mut Daemon, jobs: usize) -> io::Result<Vec<String>> {
    let begun = timing::mono_ns();
    loop {
        let status = daemon.status()?;
        let is_idle = status["running"].as_object().is_some_and(|runs| runs.is_empty());
        let wrong = wrong_codes(&status, jobs);
        let has_all = !wrong
            .iter()
            .any(|text| text.ends_with("null") || text.ends_with("\"\""));
        if (is_idle && has_all) || timing::ms_since(begun) > LIMIT_MS as f64 {
            return Ok(wrong);
        }
        timing::pass_ms(LOOK_MS);
    }
}

fn wrong_codes(status: &Value, jobs: usize) -> Vec<String> {
    (0..jobs)
        .filter_map(|number| {
            let name = format!("burst_{number}");
            let retcode = &status["state"][&name]["results"]["m00000"]["retcode"];
            (*retcode != code(number)).then(|| format!("{name}: {retcode}"))
        })
        .collect()
}
