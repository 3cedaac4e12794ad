//! Figures of the daemon itself: counted where things happen, read by the API. No locks: adding one is an atomic.
//! Must not know: what is counted means, how figures are shown.

use std::sync::atomic::{AtomicU64, Ordering};

/// Turns of the engine.
pub static ENGINE_TURNS: Times = Times::new();
/// Commits of the storage thread.
pub static COMMITS: Times = Times::new();
/// Events that wait for the engine: control, output.
pub static CONTROL_QUEUE: Level = Level::new();
pub static BULK_QUEUE: Level = Level::new();
/// Writes that wait for the storage thread.
pub static STORAGE_QUEUE: Level = Level::new();
/// Connections of wrappers, and of the API.
pub static MACHINE_CONNECTIONS: Level = Level::new();
pub static API_CONNECTIONS: Level = Level::new();

/// Upper bounds of a histogram's buckets, in microseconds; beyond the last there is one more.
pub const BOUNDS_US: [u64; 9] = [
    100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000,
];

/// How long something takes.
#[derive(Debug)]
pub struct Times {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// How many there are now.
#[derive(Debug)]
pub struct Level(AtomicU64);

impl Times {
    const fn new() -> Times {
        Times {
            buckets: [const { AtomicU64::new(0) }; BOUNDS_US.len() + 1],
            sum_us: AtomicU64::new(0),
        }
    }

    /// It took so long once more.
    pub fn took_us(&self, us: u64) {
        let bucket = BOUNDS_US
            .iter()
            .position(|bound| us <= *bound)
            .unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// How often it took at most each of [`BOUNDS_US`], how often in all, and how long in all.
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

    /// It is so many now.
    pub fn set(&self, count: usize) {
        self.0.store(count as u64, Ordering::Relaxed);
    }

    /// One more.
    pub fn rise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn fall(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many.
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
