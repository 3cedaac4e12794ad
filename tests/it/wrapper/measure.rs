//! Figures of the wrapper, printed; not run by default. As shipped:
//! `cargo build --profile wrapper --no-default-features --bin sp-wrapper`, then
//! `SP_WRAPPER_BINARY=target/wrapper/sp-wrapper cargo test --release --test it measure -- --ignored --nocapture --test-threads 1`

use rustix::process::{Signal, WaitOptions, getpid, set_child_subreaper, waitpid};
use saltpeter::clock;

use crate::support::fake_daemon::{FakeDaemon, order};
use crate::support::run::{Family, Run};
use crate::support::{Scratch, never_within, signal, until};

const FLOOD_BYTES: u64 = 1_000_000_000;

fn measured(daemon: &FakeDaemon, job: &str) -> Run {
    let mut run = Run::new(daemon, job);
    if let Some(binary) = std::env::var_os("SP_WRAPPER_BINARY") {
        let old = std::mem::replace(&mut run.command, std::process::Command::new(binary));
        run.command.env_clear();
        for (name, value) in old.get_envs() {
            run.command.env(name, value.unwrap_or_default());
        }
    }
    run
}

fn pss_kib(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn cpu_ns(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            stat.split_ascii_whitespace()
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum()
}

#[test]
#[ignore = "prints figures"]
fn measure_start_to_connected() {
    let mut took_us: Vec<i64> = (0..30)
        .map(|_| {
            let daemon = FakeDaemon::with_command("true");
            let mut run = measured(&daemon, "connect");
            let before = clock::wall();
            run.launch();
            let at = daemon.until("the connect", |told| told.connected_at);
            daemon.outcome();
            at.0 - before.0
        })
        .collect();
    took_us.sort_unstable();
    println!(
        "FIGURE start to connected: best {} us, median {} us, worst {} us",
        took_us[0], took_us[15], took_us[29]
    );
}

#[test]
#[ignore = "prints figures"]
fn measure_idle() {
    let daemon = FakeDaemon::with_command("echo x; exec sleep 1000");
    measured(&daemon, "idle").launch();
    let family = Family::of(&daemon);
    daemon.until("output", |told| (!told.output.is_empty()).then_some(()));
    never_within(1_000, "", || false);
    let before = cpu_ns(family.wrapper) + cpu_ns(family.guardian);
    println!(
        "FIGURE PSS: wrapper {} KiB, guardian {} KiB",
        pss_kib(family.wrapper),
        pss_kib(family.guardian)
    );
    never_within(20_000, "", || false);
    let used = cpu_ns(family.wrapper) + cpu_ns(family.guardian) - before;
    println!("FIGURE idle CPU: {:.4} % of a core", used as f64 / 20e9 * 100.0);
    signal(family.wrapper, Signal::KILL);
}

#[test]
#[ignore = "prints figures"]
fn measure_throughput() {
    let scratch = Scratch::new();
    let kinds = [
        (
            "log lines",
            "2026-11-21 10:00:00 a line of quite ordinary length, as a backup prints them".to_string(),
        ),
        ("two-byte lines", "x".to_string()),
        (
            "utf-8",
            "größe und höhe, ärger übers öl, straße \u{1f600}".to_string(),
        ),
    ];
    for (kind, line) in kinds {
        let file = scratch.path().join("sample");
        std::fs::write(&file, format!("{line}\n").repeat(50_000_000 / (line.len() + 1))).unwrap();
        let daemon = FakeDaemon::with_command(&format!(
            "while cat {}; do :; done | head -c {FLOOD_BYTES}",
            file.display()
        ));
        daemon.change(|script| script.keep_bytes = Some(0));
        let before = clock::mono();
        measured(&daemon, "throughput").launch();
        let family = Family::of(&daemon);
        let mut peak = String::new();
        let outcome = until("the outcome", || {
            if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", family.wrapper)) {
                peak = status
                    .lines()
                    .find(|line| line.starts_with("VmHWM"))
                    .unwrap_or(&peak)
                    .to_string();
            }
            daemon.told(|told| told.complete)
        });
        let took_ms = clock::mono().since_ms(before);
        assert_eq!(outcome, 0);
        assert_eq!(daemon.told(|told| told.output_bytes), FLOOD_BYTES);
        println!(
            "FIGURE throughput, {kind}: {} MB/s, {peak}",
            FLOOD_BYTES / 1_000 / took_ms
        );
    }
}

#[test]
#[ignore = "prints figures"]
fn measure_cpu_of_a_trivial_run() {
    // what the launcher detaches comes back to us, so that its CPU time is counted here
    set_child_subreaper(Some(getpid())).unwrap();
    let children_ticks = || -> u64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_ascii_whitespace()
            .collect();
        fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap()
    };
    let runs = 200;
    let daemon_free_before = children_ticks();
    for _ in 0..runs {
        let mut job = order("true");
        job.timeout = 60;
        let daemon = FakeDaemon::with_job(job);
        measured(&daemon, "trivial").launch();
        daemon.outcome();
        until("everything to be reaped", || {
            loop {
                match waitpid(None, WaitOptions::NOHANG) {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(_) => return Some(()),
                }
            }
        });
    }
    let ticks = children_ticks() - daemon_free_before;
    println!(
        "FIGURE CPU of launcher, wrapper, guardian and command of a trivial run: {:.2} ms",
        ticks as f64 * 10.0 / runs as f64
    );
}
