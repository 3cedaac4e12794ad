//! What several tests need: waiting for a condition, scratch directories, a look at processes.

pub mod daemon;
pub mod fake_daemon;
pub mod heard;
pub mod http;
pub mod peer;
pub mod proxy;
pub mod receiver;
pub mod run;
pub mod tap;
pub mod together;

use std::path::{Path, PathBuf};
use std::time::Duration;

use saltpeter::clock;

/// The longest that anything in a test may take, on a busy machine.
pub const PATIENCE_MS: u64 = 120_000;

/// Looks until `look` gives something, or panics with `what` when patience ends.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE_MS, what, look)
}

/// The same with more patience, for what waits for a deadline of the product.
pub fn until_within<T>(patience_ms: u64, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    // nobody ever sends: receiving is the way to let time pass
    let (_keep, never) = crossbeam_channel::bounded::<()>(0);
    let ends_at = clock::mono().plus_ms(patience_ms);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::mono() < ends_at, "waited in vain for {what}");
        let _ = never.recv_timeout(Duration::from_millis(5));
    }
}

/// Lets time pass, for what a test itself does again and again.
pub fn pause(ms: u64) {
    let (_keep, never) = crossbeam_channel::bounded::<()>(0);
    let _ = never.recv_timeout(Duration::from_millis(ms));
}

/// Looks for `ms` that nothing appears.
pub fn never_within(ms: u64, what: &str, mut look: impl FnMut() -> bool) {
    let (_keep, never) = crossbeam_channel::bounded::<()>(0);
    let ends_at = clock::mono().plus_ms(ms);
    while clock::mono() < ends_at {
        assert!(!look(), "{what}");
        let _ = never.recv_timeout(Duration::from_millis(5));
    }
}

/// A directory that goes with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "sp-it-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    /// What a failed test leaves says why it failed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return eprintln!("kept: {}", self.0.display());
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// False for the dead, zombies included.
pub fn is_alive(pid: i32) -> bool {
    stat_field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

pub fn parent_of(pid: i32) -> i32 {
    stat_field(pid, 1).unwrap().parse().unwrap()
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Tests of other users need root; says so when they cannot run.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}

fn stat_field(pid: i32, index: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(index)
        .map(str::to_string)
}
