//! Load tools: the public protocols against the release binaries, with the raw limit next to each figure.
//! `tests/bench/run` builds what is needed and starts this; without it: `cargo bench --bench load -- [--quick] [NAME...]`.
//!
//! `daemon.rs` is the daemon under load, `wrappers.rs` and `roles.rs` the load, `raw.rs` and `sink.rs` raw limits, `report.rs`
//! the output, `../salt/lab` a real Salt; then one file for each benchmark.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod daemon;
mod http;
// the tests use all of it
#[allow(dead_code)]
#[path = "../salt/lab/mod.rs"]
mod lab;
mod output_lines;
mod procfs;
mod raw;
mod report;
mod roles;
mod sink;
mod timing;
mod wrappers;

mod beats;
mod burst;
mod catch_up;
mod due;
mod idle_jobs;
mod kill;
mod output;
mod salt;
mod trivial_run;
mod wrapper;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use daemon::{Daemon, Setup};
use report::Reporter;
use serde_json::Value;

/// What every benchmark receives.
pub struct Bench {
    pub name: &'static str,
    daemon: PathBuf,
    /// As it is installed on machines.
    built_wrapper: PathBuf,
    /// A copy that only this benchmark runs.
    pub sp_wrapper: PathBuf,
    pub directory: PathBuf,
    pub is_quick: bool,
    pub report: Reporter,
}

type Run = fn(&mut Bench) -> io::Result<()>;

const BENCHES: [(&str, Run); 15] = [
    ("wrapper", wrapper::run),
    ("idle_jobs", idle_jobs::run),
    ("catch_up", catch_up::run),
    ("due", due::run),
    ("trivial_run", trivial_run::run),
    ("kill", kill::run),
    ("burst", burst::run),
    ("output_one", output::run_one),
    ("output_twenty", output::run_twenty),
    ("beats", beats::run),
    ("beats_ours", beats::run_ours),
    ("salt_run", salt::run_one),
    ("salt_burst", salt::run_burst),
    ("salt_fleet", salt::run_fleet),
    ("salt_returns", salt::run_returns),
];

impl Bench {
    /// A daemon with these machines and job files, and the installed wrapper.
    pub fn start(&self, machines: usize, files: Vec<(String, String)>) -> io::Result<Daemon> {
        self.start_with(machines, files, &self.sp_wrapper)
    }

    /// The same with another wrapper.
    pub fn start_with(
        &self,
        machines: usize,
        files: Vec<(String, String)>,
        wrapper: &Path,
    ) -> io::Result<Daemon> {
        let machines: Vec<String> = (0..machines).map(|number| format!("m{number:05}")).collect();
        Daemon::start(Setup {
            program: &self.daemon,
            directory: self.directory.join("daemon"),
            machines: &machines,
            wrapper,
            files,
            settings: Value::Null,
        })
    }

    /// Fewer with `--quick`.
    pub fn repetitions(&self, full: usize) -> usize {
        if self.is_quick { (full / 5).max(1) } else { full }
    }
}

fn main() -> ExitCode {
    if let Some(code) = roles::play() {
        return code;
    }
    // cargo's own word for "this is a benchmark"
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let (flags, names): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| word.starts_with("--"));
    if flags.iter().any(|flag| flag == "--list") {
        BENCHES.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let unknown = names
        .iter()
        .find(|name| !BENCHES.iter().any(|(known, _)| known == name));
    if let Some(name) = unknown {
        eprintln!("there is no bench '{name}'; --list tells which there are");
        return ExitCode::from(2);
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
    let daemon = PathBuf::from(env!("CARGO_BIN_EXE_saltpeter"));
    let mut bench = Bench {
        name: "",
        built_wrapper: daemon.with_file_name("../wrapper/sp-wrapper"),
        sp_wrapper: directory.join("sp-wrapper"),
        daemon,
        directory,
        is_quick: flags.iter().any(|flag| flag == "--quick"),
        report: Reporter::new(),
    };
    if !bench.built_wrapper.is_file() {
        let path = bench.built_wrapper.display();
        eprintln!("there is no '{path}'; tests/bench/run builds it");
        return ExitCode::from(2);
    }
    for (name, run) in BENCHES {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            one(&mut bench, name, run);
        }
    }
    if bench.report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(bench: &mut Bench, name: &'static str, run: Run) {
    bench.name = name;
    let ended = prepare(bench).and_then(|()| run(bench));
    // wrappers of a daemon that is gone go on trying for an hour
    for pid in procfs::running(&bench.sp_wrapper) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    match ended {
        // what is left says why
        Err(error) => {
            let kept = bench.directory.with_extension(name);
            let what = format!("{error}; see {}", kept.display());
            bench.report.wrong(name, what);
            let _ = std::fs::rename(&bench.directory, kept);
        }
        Ok(()) => {
            let _ = std::fs::remove_dir_all(&bench.directory);
        }
    }
}

/// A directory with a wrapper of its own: processes are found by their file.
fn prepare(bench: &Bench) -> io::Result<()> {
    std::fs::create_dir_all(&bench.directory)?;
    std::fs::copy(&bench.built_wrapper, &bench.sp_wrapper)?;
    Ok(())
}
