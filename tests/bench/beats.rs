//! Thousands of connected wrappers that only send heartbeats: CPU and memory of the daemon, and no false 253.
//! Must not know: what a wrapper does.

use std::io;

use serde_json::Value;

use crate::daemon::{Daemon, NEVER, scheduled_on};
use crate::report::{By, Figure, Reach};
use crate::wrappers::Fleet;
use crate::{Bench, procfs, sink, timing};

const SIZES: [usize; 3] = [1_000, 3_000, 9_900];
/// Machines of a run: as many as the local executor starts within the dispatch timeout on a busy host, too.
const FLOCK: usize = 1_000;
const SETTLE_MS: u64 = 6_000;
const WINDOW_MS: u64 = 20_000;
const START_LIMIT_MS: u64 = 180_000;
const END_LIMIT_MS: u64 = 60_000;
/// Approximate size of a heartbeat frame with its header.
const BEAT_BYTES: usize = 170;

/// Wrappers like the Python one.
pub fn run(bench: &mut Bench) -> io::Result<()> {
    SIZES.iter().try_for_each(|count| measure(bench, *count, false))
}

/// Wrappers that offer the features of sp-wrapper.
pub fn run_ours(bench: &mut Bench) -> io::Result<()> {
    SIZES.iter().try_for_each(|count| measure(bench, *count, true))
}

/// One sample for each measuring window.
#[derive(Default)]
struct Windows {
    percents: Vec<f64>,
    kilobytes: Vec<f64>,
    /// CPU of the load generator.
    load: Vec<f64>,
}

fn measure(bench: &mut Bench, count: usize, ours: bool) -> io::Result<()> {
    let interval_ms = saltpeter::limits::HEARTBEAT_INTERVAL_MS;
    let raw = sink::percent_of_core(count, BEAT_BYTES, interval_ms, WINDOW_MS / 2)?;
    let mut fleet = Fleet::start(&bench.directory.join("fleet"), ours)?;
    let text = (0..count.div_ceil(FLOCK)).map(flock).collect();
    let mut daemon = bench.start_with(count, vec![("jobs.yaml".into(), text)], &fleet.wrapper)?;
    timing::pass_ms(1_000);
    let empty_bytes = procfs::pss_bytes(daemon.pid());
    let begun = timing::mono_ns();
    let begun_cpu = daemon.cpu().own_s;
    for number in 0..count.div_ceil(FLOCK) {
        daemon.run(&format!("flock_{number}"))?;
        wait_until_started(bench, &mut fleet, count.min((number + 1) * FLOCK))?;
    }
    let all_started_s = timing::ms_since(begun) / 1e3;
    let start_cpu_ms = (daemon.cpu().own_s - begun_cpu) * 1e3 / count as f64;
    timing::pass_ms(SETTLE_MS);
    let mut windows = Windows::default();
    for _ in 0..bench.repetitions(3) {
        windows.take(&daemon, &fleet, empty_bytes, count);
    }
    let (end_s, false_codes) = end(bench, &mut daemon, &mut fleet, count)?;
    let to_start_ms = fleet.counts()?.to_start_ms;
    daemon.stop()?;
    let figure = |what, unit, samples, by, reach, raw| {
        bench.report.figure(Figure {
            bench: bench.name,
            what,
            size: format!("{count} connections"),
            unit,
            samples,
            reach,
            by,
            raw,
        });
    };
    let raw = vec![("bare loopback: one thread reads as many sockets", raw)];
    let (most, worst) = (Reach::AtMost, By::Worst);
    let core = "% of a core";
    figure("beating CPU", core, windows.percents, worst, most(15.0), raw);
    let figure = |what, unit, samples, by, reach| figure(what, unit, samples, by, reach, vec![]);
    figure(
        "memory (PSS) for each",
        "KiB",
        windows.kilobytes,
        worst,
        most(25.0),
    );
    figure("ends that are not 0", "runs", vec![false_codes], worst, most(0.0));
    let median = |what, unit, samples| figure(what, unit, samples, By::Median, Reach::Nothing);
    median("TCP connect to start acked", "ms", to_start_ms);
    median("asked to all started", "s", vec![all_started_s]);
    median("launch and connect CPU", "ms each", vec![start_cpu_ms]);
    median("all completed to end visible", "s", vec![end_s]);
    let generator = "beating CPU of the load generator";
    figure(generator, core, windows.load, worst, Reach::Nothing);
    Ok(())
}

impl Windows {
    /// Measures one window.
    fn take(&mut self, daemon: &Daemon, fleet: &Fleet, empty_bytes: u64, count: usize) {
        let before = (daemon.cpu().own_s, procfs::cpu(fleet.pid()).own_s);
        let begun = timing::mono_ns();
        timing::pass_ms(WINDOW_MS);
        let seconds = timing::ms_since(begun) / 1e3;
        self.percents
            .push(100.0 * (daemon.cpu().own_s - before.0) / seconds);
        let load = procfs::cpu(fleet.pid()).own_s - before.1;
        self.load.push(100.0 * load / seconds);
        let grown = procfs::pss_bytes(daemon.pid()).saturating_sub(empty_bytes);
        self.kilobytes.push(grown as f64 / 1_024.0 / count as f64);
    }
}

/// A thousand machines: ids are `m` and five digits.
fn flock(number: usize) -> String {
    let targets = format!("m{number:02}*");
    scheduled_on(&targets, &format!("flock_{number}"), NEVER, "true", "")
}

fn wait_until_started(bench: &mut Bench, fleet: &mut Fleet, count: usize) -> io::Result<()> {
    let begun = timing::mono_ns();
    loop {
        let counts = fleet.counts()?;
        if counts.started >= count {
            return Ok(());
        }
        if timing::ms_since(begun) > START_LIMIT_MS as f64 {
            let what = format!(
                "{} connected, {} started of {count}; lost {}, errors {:?}",
                counts.connected, counts.started, counts.lost, counts.errors
            );
            bench.report.wrong(bench.name, what);
            return Err(io::Error::other("not all wrappers started"));
        }
        timing::pass_ms(100);
    }
}

/// Checks that all are still running, then completes all. Returns the seconds until that is visible, and how many ended
/// with a code other than 0.
fn end(bench: &mut Bench, daemon: &mut Daemon, fleet: &mut Fleet, count: usize) -> io::Result<(f64, f64)> {
    let status = daemon.status()?;
    let runs = status["running"].as_object().into_iter().flatten();
    let still: usize = runs
        .filter_map(|(_, run)| run["machines"].as_array())
        .map(Vec::len)
        .sum();
    if still != count {
        bench
            .report
            .wrong(bench.name, format!("{still} of {count} machines still run"));
    }
    let begun = timing::mono_ns();
    fleet.complete()?;
    let mut codes = Vec::with_capacity(count);
    for number in 0..count.div_ceil(FLOCK) {
        let results = daemon.wait_for_end(&format!("flock_{number}"), END_LIMIT_MS, 100)?;
        let results = results.as_object().into_iter().flatten();
        codes.extend(results.map(|(_, result)| result["retcode"].clone()));
    }
    let seconds = timing::ms_since(begun) / 1e3;
    let bad: Vec<&Value> = codes.iter().filter(|code| **code != 0).collect();
    let counts = fleet.counts()?;
    if !bad.is_empty() || codes.len() != count || counts.lost > 0 || counts.kills > 0 {
        let what = format!(
            "{} results of {count}, {} not 0 (as {:?}); lost {}, kills {}, errors {:?}",
            codes.len(),
            bad.len(),
            bad.first(),
            counts.lost,
            counts.kills,
            counts.errors
        );
        bench.report.wrong(bench.name, what);
    }
    Ok((seconds, bad.len() as f64))
}
