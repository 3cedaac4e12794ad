//! Many jobs configured, none due: CPU and memory of the daemon, and how soon a changed file takes effect.

use std::io;

use chrono::Timelike;
use serde_json::json;

use crate::daemon::{Daemon, scheduled};
use crate::report::{By, Figure, Reach};
use crate::{Bench, procfs, timing};

const SIZES: [usize; 3] = [1_000, 3_000, 10_000];
const JOBS_PER_FILE: usize = 100;
const SETTLE_MS: u64 = 3_000;
const WINDOW_MS: u64 = 20_000;
const CHANGE_LIMIT_MS: u64 = 60_000;

pub fn run(bench: &mut Bench) -> io::Result<()> {
    for jobs in SIZES {
        let size = format!("{jobs} jobs");
        let mut daemon = bench.start(1, files(jobs))?;
        timing::pass_ms(SETTLE_MS);
        let mut percents = Vec::new();
        let mut megabytes = Vec::new();
        for _ in 0..bench.repetitions(3) {
            let before = daemon.cpu().own_s;
            let begun = timing::mono_ns();
            timing::pass_ms(WINDOW_MS);
            let used_s = daemon.cpu().own_s - before;
            percents.push(100.0 * used_s / (timing::ms_since(begun) / 1e3));
            megabytes.push(procfs::pss_bytes(daemon.pid()) as f64 / procfs::MEBIBYTE);
        }
        let changes = (0..bench.repetitions(5))
            .map(|number| in_force_ms(&mut daemon, number))
            .collect::<io::Result<Vec<f64>>>()?;
        let raw_ms = read_all_ms(&daemon)?;
        let figure = |what, unit, samples, reach, raw| {
            bench.report.figure(Figure {
                bench: bench.name,
                what,
                size: size.clone(),
                unit,
                samples,
                reach,
                by: By::Worst,
                raw,
            });
        };
        figure("idle CPU", "% of a core", percents, Reach::AtMost(1.0), vec![]);
        figure("memory (PSS)", "MiB", megabytes, Reach::AtMost(100.0), vec![]);
        let raw = vec![("reading every file once", raw_ms)];
        figure(
            "changed file in force",
            "ms",
            changes,
            Reach::AtMost(2_000.0),
            raw,
        );
        let ready = vec![daemon.ready_ms];
        figure("spawn to ready", "ms", ready, Reach::Nothing, vec![]);
        daemon.stop()?;
    }
    Ok(())
}

/// Typical jobs, all due in some hours.
fn files(jobs: usize) -> Vec<(String, String)> {
    let now = saltpeter::clock::wall().utc();
    let far = |hours: u32| (now.hour() + hours) % 24;
    let job = |number: usize| {
        let minute = number % 60;
        let when = match number % 4 {
            0 => format!("0 {minute} {} * * * *", far(8)),
            1 => format!("{minute} */5 {} * * mon-fri *", far(6)),
            2 => format!("0 {minute} {} 1,15 * * *", far(10)),
            _ => format!("30 0-59/7 {}-{} * * * *", far(12), far(12)),
        };
        let command = format!("/usr/local/bin/task-{number} --all --quietly");
        let more = "  user: nobody\n  timeout: 600\n  env:\n    MODE: 'nightly'\n";
        scheduled(&format!("job_{number:05}"), &when, &command, more)
    };
    (0..jobs.div_ceil(JOBS_PER_FILE))
        .map(|file| {
            let numbers = file * JOBS_PER_FILE..jobs.min((file + 1) * JOBS_PER_FILE);
            (format!("group_{file:03}.yaml"), numbers.map(job).collect())
        })
        .collect()
}

/// Writes a job into one of the files, and waits until it can be started.
fn in_force_ms(daemon: &mut Daemon, number: usize) -> io::Result<f64> {
    let path = daemon.directory.join("conf/group_000.yaml");
    let name = format!("fresh_{number}");
    let mut text = std::fs::read_to_string(&path)?;
    text.push_str(&crate::daemon::on_demand(&name, "true", ""));
    let begun = timing::mono_ns();
    std::fs::write(&path, text)?;
    let found = timing::until(CHANGE_LIMIT_MS, 10, || {
        let answer = daemon.api.post("/run", &json!({"job": name}));
        matches!(answer, Ok((200, _))).then(|| timing::ms_since(begun))
    });
    let Some(ms) = found else {
        return Err(io::Error::other(format!("{name} is not in force after a minute")));
    };
    daemon.wait_for_end(&name, CHANGE_LIMIT_MS, 200)?;
    Ok(ms)
}

fn read_all_ms(daemon: &Daemon) -> io::Result<f64> {
    let begun = timing::mono_ns();
    for entry in std::fs::read_dir(daemon.directory.join("conf"))? {
        std::fs::read(entry?.path())?;
    }
    Ok(timing::ms_since(begun))
}
