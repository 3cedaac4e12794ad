//! A flood of output: nothing is lost, memory stays bounded.

use crate::support::fake_daemon::FakeDaemon;
use crate::support::run::{Family, launch};

const FLOOD_BYTES: u64 = 200_000_000;

#[test]
fn a_flood_arrives_whole_in_bounded_memory() {
    let line = "this is a line of quite ordinary length, as a backup prints them\\n";
    let command = format!(
        "yes \"$(printf '{line}')\" | head -c {FLOOD_BYTES}; while [ ! -e $GATE ]; do sleep 0.05; done"
    );
    let scratch = crate::support::Scratch::new();
    let gate = scratch.path().join("gate");
    let mut job = crate::support::fake_daemon::order(&command);
    job.env.insert("GATE".into(), gate.to_string_lossy().into_owned());
    let daemon = FakeDaemon::with_job(job);
    daemon.change(|script| script.keep_bytes = Some(0));
    let _run = launch(&daemon, "flood200");
    let family = Family::of(&daemon);
    daemon.until("all of the output", |told| {
        (told.output_bytes == FLOOD_BYTES).then_some(())
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", family.wrapper)).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let peak_kib: u64 = peak.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak_kib < 40 << 10, "{peak_kib} KiB");
    std::fs::write(gate, "").unwrap();
    assert_eq!(daemon.outcome(), 0);
    daemon.told(|told| assert_eq!((told.duplicates, told.nacked), (0, 0)));
}
