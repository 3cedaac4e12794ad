//! Clocks that are more precise than the product's, and waiting.
//! Must not know: what is measured.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds of the monotonic clock.
pub fn mono_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds since the epoch.
pub fn wall_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

/// Milliseconds from an earlier [`mono_ns`] to now.
pub fn ms_since(begun_ns: u64) -> f64 {
    mono_ns().saturating_sub(begun_ns) as f64 / 1e6
}

/// Waits: for a measuring window, or between two checks of a condition.
pub fn pass_ms(ms: u64) {
    let deadline = mono_ns() + ms * 1_000_000;
    let at = timespec(deadline);
    while mono_ns() < deadline {
        let _ = rustix::thread::clock_nanosleep_absolute(rustix::thread::ClockId::Monotonic, &at);
    }
}

/// Waits for a wall-clock instant, nanoseconds since the epoch.
pub fn wait_for_wall(at_ns: u64) {
    while wall_ns() < at_ns {
        let _ = rustix::thread::clock_nanosleep_absolute(rustix::thread::ClockId::Realtime, &timespec(at_ns));
    }
}

/// Checks every `every_ms` until there is a result, or `limit_ms` have passed (None).
pub fn until<T>(limit_ms: u64, every_ms: u64, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = mono_ns();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if ms_since(begun) > limit_ms as f64 {
            return None;
        }
        pass_ms(every_ms);
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    }
}
