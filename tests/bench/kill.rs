//! From the kill request until the command's process has ended, and until `/status` shows the end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;

use crate::daemon::{Daemon, on_demand};
use crate::report::{By, Figure, Reach};
use crate::{Bench, raw, timing};

/// Machines of the run that is killed.
const SIZES: [usize; 3] = [1, 10, 30];
const LIMIT_MS: u64 = 30_000;

pub fn run(bench: &mut Bench) -> io::Result<()> {
    let kills = bench.repetitions(50);
    let mut raw = raw::kills_ms(kills)?;
    raw.sort_by(f64::total_cmp);
    let raw_ms = crate::report::quantile(&raw, 0.5);
    for machines in SIZES {
        let pids = bench.directory.join("pids");
        let command = format!("echo $$ >> '{}'; exec sleep 1000", pids.display());
        let text = on_demand("endless", &command, "");
        let mut daemon = bench.start(machines, vec![("jobs.yaml".into(), text)])?;
        let (mut gone, mut seen) = (vec![], vec![]);
        for _ in 0..kills {
            let (gone_ms, seen_ms) = kill_once(bench, &mut daemon, &pids, machines)?;
            gone.push(gone_ms);
            seen.push(seen_ms);
        }
        daemon.stop()?;
        let figure = |what, samples, by, reach| {
            bench.report.figure(Figure {
                bench: bench.name,
                what,
                size: format!("{machines} machines"),
                unit: "ms",
                samples,
                reach,
                by,
                raw: vec![("SIGTERM to a bare sleep's end (p50)", raw_ms)],
            });
        };
        figure("asked to last process gone", gone, By::Median, Reach::Nothing);
        let what = "asked to process gone and end visible";
        figure(what, seen, By::Median, Reach::AtMost(50.0));
    }
    Ok(())
}

fn kill_once(bench: &mut Bench, daemon: &mut Daemon, pids: &Path, machines: usize) -> io::Result<(f64, f64)> {
    let _ = std::fs::remove_file(pids);
    daemon.run("endless")?;
    let watched = timing::until(LIMIT_MS, 2, || running(pids, machines));
    let watched = watched.ok_or_else(|| io::Error::other("the commands do not start"))??;
    // all that starting takes is over
    timing::pass_ms(100);
    let begun = timing::mono_ns();
    let (status, answer) = daemon.api.post("/kill", &json!({"job": "endless"}))?;
    if status != 200 {
        return Err(io::Error::other(format!("kill: {status} {answer}")));
    }
    for process in &watched {
        let limit = Timespec {
            tv_sec: (LIMIT_MS / 1_000) as i64,
            tv_nsec: 0,
        };
        if poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit))? == 0 {
            bench.report.wrong(bench.name, "a killed command lives on".into());
        }
    }
    let gone_ms = timing::ms_since(begun);
    let results = daemon.wait_for_end("endless", LIMIT_MS, 1)?;
    let seen_ms = timing::ms_since(begun);
    let codes = results.as_object().into_iter().flatten();
    for (machine, result) in codes.filter(|(_, result)| result["retcode"] != 143) {
        let what = format!("{machine} was killed and ended with {}", result["retcode"]);
        bench.report.wrong(bench.name, what);
    }
    Ok((gone_ms, seen_ms))
}

/// The processes of the commands, once all are running.
fn running(pids: &Path, machines: usize) -> Option<io::Result<Vec<OwnedFd>>> {
    let text = std::fs::read_to_string(pids).ok()?;
    let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    (pids.len() == machines).then(|| {
        pids.iter()
            .filter_map(|pid| Pid::from_raw(*pid))
            .map(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?))
            .collect()
    })
}
