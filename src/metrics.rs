//! Metrics of the daemon itself: counted where things happen, read by the API, without locks.
//! Must not know: what the metrics mean, how they are shown.

use std::sync::atomic::{AtomicU64, Ordering};

/// Turns of the engine.
pub static ENGINE_TURNS: Times = Times::new();
/// Commits of the storage thread.
pub static COMMITS: Times = Times::new();
/// Control events waiting for the engine.
pub static CONTROL_QUEUE: Level = Level::new();
/// Output events waiting for the engine.
pub static BULK_QUEUE: Level = Level::new();
/// Writes waiting for the storage thread.
pub static STORAGE_QUEUE: Level = Level::new();
/// Connections of wrappers.
pub static MACHINE_CONNECTIONS: Level = Level::new();
/// Connections of the API.
pub static API_CONNECTIONS: Level = Level::new();

/// Upper bounds of a histogram's buckets, in microseconds; one more bucket is unbounded.
pub const BOUNDS_US: [u64; 9] = [
    100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000,
];

/// A histogram of durations.
#[derive(Debug)]
pub struct Times {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// A current number.
#[derive(Debug)]
pub struct Level(AtomicU64);

impl Times {
    const fn new() -> Times {
        Times {
            buckets: [const { AtomicU64::new(0) }; BOUNDS_US.len() + 1],
            sum_us: AtomicU64::new(0),
        }
    }

    /// Counts one duration.
    pub fn took_us(&self, us: u64) {
        let bucket = BOUNDS_US
            .iter()
            .position(|bound| us <= *bound)
            .unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The counts up to each of [`BOUNDS_US`], the total count, and the total duration in microseconds.
    pub fn read(&self) -> ([u64; BOUNDS_US.len()], u64, u64) {
        let mut count = 0;
        let mut up_to = [0; BOUNDS_US.len()];
        for (at, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            if let Some(place) = up_to.get_mut(at) {
                *place = count;
            }
        }
        (up_to, count, self.sum_us.load(Ordering::Relaxed))
    }
}

impl Level {
    const fn new() -> Level {
        Level(AtomicU64::new(0))
    }

    /// Sets the number.
    pub fn set(&self, count: usize) {
        self.0.store(count as u64, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn rise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts one.
    pub fn fall(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up() {
        let times = Times::new();
        for us in [1, 100, 101, 2_000_000] {
            times.took_us(us);
        }
        let (up_to, count, sum_us) = times.read();
        assert_eq!((up_to[0], up_to[1], up_to[8]), (2, 3, 3));
        assert_eq!((count, sum_us), (4, 2_000_202));
    }
}
