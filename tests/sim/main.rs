//! The engine against simulated wrappers, network, clocks, storage, people and crashes, in virtual time. The judge
//! (checker.rs, dues.rs, stream.rs, settle.rs) knows the promises (README.md), not the code.
//!
//! 2,000 seeds in the normal run. `SALTPETER_SIM_SEED=n` replays one with its trace, `SALTPETER_SIM_SEEDS=count` runs
//! so many, from `SALTPETER_SIM_FROM` on. Named, exact cases are in scenarios.rs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod checker;
mod daemon;
mod dues;
mod executor;
mod network;
mod notices;
mod plan;
mod python;
mod rng;
mod scenarios;
mod settle;
mod setup;
mod storage;
mod stream;
mod world;
mod wrapper;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds of one of the four parallel tests.
const SEEDS_PER_PART: u64 = 500;
/// Lines of the trace that a failure shows.
const TRACE_LINES: usize = 60;

/// Runs one seed; what went wrong, and the trace if wanted.
fn run_seed(seed: u64, tracing: bool) -> (Option<String>, Vec<String>) {
    let (mut world, plan) = plan::build(seed);
    world.tracing = tracing;
    let panicked = catch_unwind(AssertUnwindSafe(|| world.settle(&plan))).is_err();
    let failure = match (panicked, world.failure.take()) {
        (true, _) => Some(format!("[panic] at {} ms", world.now_ms)),
        (false, failure) => failure,
    };
    (failure, world.trace.into_iter().collect())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seeds of one part; the first that fails is replayed with its trace.
fn part(number_of_part: u64) {
    if let Some(seed) = number("SALTPETER_SIM_SEED") {
        if number_of_part == 0 {
            replay(seed, usize::MAX);
        }
        return;
    }
    let count = number("SALTPETER_SIM_SEEDS").map_or(SEEDS_PER_PART, |n| n.div_ceil(4));
    let from = number("SALTPETER_SIM_FROM").unwrap_or(1) + number_of_part * count;
    let keep_going = std::env::var("SALTPETER_SIM_ALL").is_ok();
    let mut failed = 0;
    for seed in from..from + count {
        if let (Some(failure), _) = run_seed(seed, false) {
            println!("seed {seed}: {failure}");
            failed += 1;
            if !keep_going {
                replay(seed, TRACE_LINES);
            }
        }
    }
    assert!(failed == 0, "{failed} of {count} seeds broke a promise");
}

fn replay(seed: u64, lines: usize) {
    let (failure, trace) = run_seed(seed, true);
    for line in &trace[trace.len().saturating_sub(lines)..] {
        println!("{line}");
    }
    if let Some(failure) = failure {
        panic!(
            "seed {seed}: {failure}\nreplay: SALTPETER_SIM_SEED={seed} cargo test --test sim promises_hold_1 -- --nocapture"
        );
    }
}

#[test]
fn promises_hold_1() {
    part(0);
}

#[test]
fn promises_hold_2() {
    part(1);
}

#[test]
fn promises_hold_3() {
    part(2);
}

#[test]
fn promises_hold_4() {
    part(3);
}
