//! Output of real wrappers, from the command's first byte to the last ack: what is acknowledged is on disk. The output that
//! HTTP returns is compared byte by byte.

use std::io;
use std::path::Path;

use crate::daemon::{Daemon, on_demand};
use crate::output_lines::Check;
use crate::report::{By, Figure, Reach};
use crate::{Bench, procfs, raw, roles, timing};

const MEGABYTE: usize = 1_000_000;
const LIMIT_MS: u64 = 300_000;
/// Each poll takes some time of the two cores.
const LOOK_MS: u64 = 10;
/// As sp-wrapper sends it.
const PIECE_BYTES: usize = saltpeter::limits::OUTPUT_CHUNK_BYTES;

pub fn run_one(bench: &mut Bench) -> io::Result<()> {
    run(bench, 1, [100, 300, 1_000], 80.0)
}

pub fn run_twenty(bench: &mut Bench) -> io::Result<()> {
    run(bench, 20, [5, 20, 100], 120.0)
}

fn run(bench: &mut Bench, machines: usize, sizes_mb: [usize; 3], reach: f64) -> io::Result<()> {
    for size_mb in sizes_mb {
        let total = machines * size_mb * MEGABYTE;
        let sample = total.min(500 * MEGABYTE);
        let raw_append = raw::append_and_sync(&bench.directory, sample, 1 << 20)?;
        let raw_sqlite = raw::sqlite(&bench.directory, sample, PIECE_BYTES, 32)?;
        let raw_loopback = raw::loopback(2 * sample, PIECE_BYTES)?;
        let mut speeds = vec![];
        let (mut peaks, mut wrapper_peaks, mut cpu) = (vec![], vec![], vec![]);
        for _ in 0..bench.repetitions(3) {
            let command = roles::command(&format!("emit {}", size_mb * MEGABYTE))?;
            let text = on_demand("print", &command, "  output_limit: 0\n");
            let mut daemon = bench.start(machines, vec![("jobs.yaml".into(), text)])?;
            let before = daemon.cpu().own_s;
            let begun = timing::mono_ns();
            let instance = daemon.run("print")?;
            let wrapper_peak = wait(&bench.sp_wrapper)?;
            let seconds = timing::ms_since(begun) / 1e3;
            speeds.push(total as f64 / MEGABYTE as f64 / seconds);
            cpu.push((daemon.cpu().own_s - before) * 1e9 / total as f64);
            peaks.push(procfs::peak_bytes(daemon.pid()) as f64 / procfs::MEBIBYTE);
            wrapper_peaks.push(wrapper_peak as f64 / procfs::MEBIBYTE);
            check(bench, &mut daemon, &instance, machines, size_mb * MEGABYTE)?;
            daemon.stop()?;
        }
        let figure = |what, unit, samples, reach, raw| {
            bench.report.figure(Figure {
                bench: bench.name,
                what,
                size: format!("{machines} x {size_mb} MB"),
                unit,
                samples,
                reach,
                by: By::Median,
                raw,
            });
        };
        let raw = vec![
            ("bare SQLite, blobs of 128 KiB, 4 MiB a commit", raw_sqlite),
            ("bare append and fdatasync of 1 MiB", raw_append),
            ("bare loopback, 128 KiB", raw_loopback),
        ];
        let speed = "asked to all stored and acked";
        figure(speed, "MB/s", speeds, Reach::AtLeast(reach), raw);
        figure("peak memory of the daemon", "MiB", peaks, Reach::Nothing, vec![]);
        figure(
            "peak memory of a wrapper",
            "MiB",
            wrapper_peaks,
            Reach::Nothing,
            vec![],
        );
        figure("CPU of the daemon", "s/GB", cpu, Reach::Nothing, vec![]);
    }
    Ok(())
}

/// Waits until every wrapper has exited, which it does when all its frames are acknowledged: polling the daemon would
/// distort the measurement. Returns the largest memory of any wrapper.
fn wait(wrapper: &Path) -> io::Result<u64> {
    let begun = timing::mono_ns();
    let mut most = 0;
    while timing::ms_since(begun) < LIMIT_MS as f64 {
        let wrappers = procfs::running(wrapper);
        if wrappers.is_empty() && most > 0 {
            return Ok(most);
        }
        for pid in wrappers {
            most = most.max(procfs::peak_bytes(pid));
        }
        timing::pass_ms(LOOK_MS);
    }
    Err(io::Error::other("the output is not stored after five minutes"))
}

fn check(
    bench: &mut Bench,
    daemon: &mut Daemon,
    instance: &str,
    machines: usize,
    bytes: usize,
) -> io::Result<()> {
    let results = daemon.wait_for_end("print", LIMIT_MS, LOOK_MS)?;
    for number in 0..machines {
        let machine = format!("m{number:05}");
        let retcode = &results[&machine]["retcode"];
        let mut check = Check::new();
        let path = format!("/api/v1/runs/{instance}/machines/{machine}/output");
        let status = daemon.api.download(&path, |piece| check.take(piece))?;
        if status != 200 || *retcode != 0 || check.bytes != bytes as u64 || !check.is_same {
            let what = format!(
                "{machine}: code {retcode}, HTTP {status}, {} of {bytes} bytes, same: {}",
                check.bytes, check.is_same
            );
            bench.report.wrong(bench.name, what);
        }
    }
    Ok(())
}
