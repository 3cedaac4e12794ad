//! The total CPU time of a run of `true`: daemon, wrapper, guardian, shell. This process is the subreaper of what the daemon
//! starts, so the kernel adds up the usage of each detached wrapper and its children.

use std::io;

use crate::daemon::{Daemon, on_demand};
use crate::report::{By, Figure, Reach};
use crate::{Bench, procfs, raw, timing};
use rustix::process::{WaitOptions, set_child_subreaper, wait};

const SIZES: [usize; 3] = [30, 100, 300];
/// Used in turn: the end of a run is acknowledged before the API shows it.
const JOBS: usize = 10;
const ROUNDS: usize = 5;
const LIMIT_MS: u64 = 30_000;

pub fn run(bench: &mut Bench) -> io::Result<()> {
    let raw_ms = raw::shell_cpu_ms(200)?;
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let measured = SIZES.iter().try_for_each(|runs| measure(bench, *runs, raw_ms));
    set_child_subreaper(None)?;
    measured
}

fn measure(bench: &mut Bench, runs: usize, raw_ms: f64) -> io::Result<()> {
    let text = (0..JOBS).map(|job| on_demand(&name(job), "true", "")).collect();
    let mut daemon = bench.start(1, vec![("jobs.yaml".into(), text)])?;
    // cold caches are no part of it
    (0..JOBS).try_for_each(|job| run_once(&mut daemon, job))?;
    let (mut all, mut own, mut wrappers, mut wall) = (vec![], vec![], vec![], vec![]);
    for _ in 0..bench.repetitions(ROUNDS) {
        let begun = timing::mono_ns();
        let before = (daemon.cpu(), procfs::cpu(std::process::id()).children_s);
        for number in 0..runs {
            run_once(&mut daemon, number % JOBS)?;
        }
        let after = (daemon.cpu(), procfs::cpu(std::process::id()).children_s);
        let each = |seconds: f64| seconds * 1e3 / runs as f64;
        let launchers = after.0.children_s - before.0.children_s;
        own.push(each(after.0.own_s - before.0.own_s));
        wrappers.push(each(launchers + after.1 - before.1));
        all.push(each(after.0.all_s() - before.0.all_s() + after.1 - before.1));
        wall.push(timing::ms_since(begun) / runs as f64);
    }
    for job in 0..JOBS {
        let results = daemon.wait_for_end(&name(job), LIMIT_MS, 50)?;
        if results["m00000"]["retcode"] != 0 {
            let what = format!("true ended with {results}");
            bench.report.wrong(bench.name, what);
        }
    }
    daemon.stop()?;
    let figure = |what, samples, reach| {
        bench.report.figure(Figure {
            bench: bench.name,
            what,
            size: format!("{runs} runs, one after the other"),
            unit: "ms each",
            samples,
            reach,
            by: By::Median,
            raw: vec![("/bin/sh -c true, CPU", raw_ms)],
        });
    };
    figure("CPU of everything", all, Reach::AtMost(10.0));
    figure("CPU of the daemon", own, Reach::Nothing);
    figure("CPU of wrapper and command", wrappers, Reach::Nothing);
    figure("asked to the wrapper's exit (wall time)", wall, Reach::Nothing);
    Ok(())
}

/// One run, until its wrapper has exited, which it does when its completion is acknowledged.
fn run_once(daemon: &mut Daemon, job: usize) -> io::Result<()> {
    daemon.run(&name(job))?;
    // several processes of a run become ours one after the other; the daemon alone is left when all have ended
    let own = daemon.pid().to_string();
    let begun = timing::mono_ns();
    let mut reaped = 0;
    while reaped == 0 || children()?.trim() != own {
        if timing::ms_since(begun) > LIMIT_MS as f64 {
            return Err(io::Error::other("the wrapper does not end"));
        }
        match wait(WaitOptions::empty())? {
            Some((pid, _)) if pid.as_raw_pid().to_string() == own => {
                return Err(io::Error::other("the daemon ended"));
            }
            Some(_) => reaped += 1,
            None => {}
        }
    }
    Ok(())
}

fn children() -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id()))
}

fn name(job: usize) -> String {
    format!("trivial_{job}")
}
