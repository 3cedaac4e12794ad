//! How long after its due second a job's wrapper process has started, on an idle machine. The wrapper first records the time
//! (a program that then executes sp-wrapper), and so does the command.

use std::io;

use crate::daemon::scheduled;
use crate::report::{By, Figure, Reach};
use crate::{Bench, raw, roles, timing};

/// Jobs due in each second.
const SIZES: [usize; 3] = [1, 3, 10];
const SECONDS: usize = 60;
/// In the first second all caches are cold, the last may be incomplete.
const SETTLE_MS: u64 = 3_000;
const OVERLAP: &str = "  allow_overlap: 'i know what i am doing!'\n";

pub fn run(bench: &mut Bench) -> io::Result<()> {
    let seconds = bench.repetitions(SECONDS);
    for jobs in SIZES {
        let raw = raw::stamps_after_the_second_ms(&bench.directory, seconds.min(20), jobs)?;
        let raw = median(raw);
        let (wrapper, wrapper_stamps) =
            roles::stamping_wrapper(&bench.directory.join("stamping"), &bench.sp_wrapper)?;
        let command_stamps = bench.directory.join("command-stamps");
        for path in [&wrapper_stamps, &command_stamps] {
            let _ = std::fs::remove_file(path);
        }
        let command = roles::command(&format!("stamp '{}'", command_stamps.display()))?;
        let text = (0..jobs)
            .map(|number| scheduled(&format!("tick_{number}"), "* * * * * * *", &command, OVERLAP))
            .collect();
        let daemon = bench.start_with(1, vec![("jobs.yaml".into(), text)], &wrapper)?;
        timing::pass_ms(SETTLE_MS);
        let from = timing::wall_ns();
        timing::pass_ms(seconds as u64 * 1_000);
        let to = timing::wall_ns();
        daemon.stop()?;
        timing::pass_ms(1_000);
        let late = |path| late_ms(&roles::stamps(path), from, to);
        let size = format!("{jobs} due each second");
        let started = late(&wrapper_stamps);
        if started.len() + 2 * jobs < seconds * jobs {
            let what = format!("{size}: {} wrappers in {seconds} seconds", started.len());
            bench.report.wrong(bench.name, what);
        }
        let figure = |what, samples, reach, by| {
            bench.report.figure(Figure {
                bench: bench.name,
                what,
                size: size.clone(),
                unit: "ms",
                samples,
                reach,
                by,
                raw: vec![("sleep until the second, spawn as many, note the time (p50)", raw)],
            });
        };
        let what = "due to wrapper process started";
        figure(what, started.clone(), Reach::AtMost(5.0), By::Median);
        figure(what, started, Reach::AtMost(50.0), By::P99);
        let what = "due to command started";
        figure(what, late(&command_stamps), Reach::Nothing, By::Median);
    }
    Ok(())
}

fn late_ms(stamps: &[u64], from: u64, to: u64) -> Vec<f64> {
    let within = stamps.iter().filter(|at| (from..to).contains(*at));
    within.map(|at| (at % 1_000_000_000) as f64 / 1e6).collect()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    crate::report::quantile(&samples, 0.5)
}
