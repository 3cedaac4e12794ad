//! The only place that reads clocks. The engine is given a `Now` and never reads a clock itself.
//! Must not know: any other module.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// Milliseconds of CLOCK_MONOTONIC. Only differences are meaningful, and only within one boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// Microseconds since the Unix epoch, UTC. May jump in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall(pub i64);

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub mono: Mono,
    pub wall: Wall,
}

impl Mono {
    /// The instant `ms` milliseconds later (saturating).
    pub fn plus_ms(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; 0 when `earlier` is later.
    pub fn since_ms(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Wall {
    /// Whole seconds since the epoch, rounded down.
    pub fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Days since the epoch, UTC: names the day file of a run's output.
    pub fn utc_day(self) -> i64 {
        self.secs().div_euclid(86_400)
    }

    /// The instant that many whole seconds after the epoch.
    pub fn from_secs(secs: i64) -> Wall {
        Wall(secs.saturating_mul(1_000_000))
    }

    /// The instant `ms` milliseconds later.
    pub fn plus_ms(self, ms: i64) -> Wall {
        Wall(self.0.saturating_add(ms.saturating_mul(1_000)))
    }

    /// As a calendar time; instants outside chrono's range become the epoch.
    pub fn utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }

    /// From a calendar time.
    pub fn from_utc(time: DateTime<Utc>) -> Wall {
        Wall(time.timestamp_micros())
    }

    /// ISO 8601 with microseconds and offset, the format of frames and job logs:
    /// `2026-11-21T10:00:00.123456+00:00`.
    pub fn iso(self) -> String {
        self.utc().to_rfc3339_opts(SecondsFormat::Micros, false)
    }
}

/// Reads both clocks.
#[allow(clippy::disallowed_methods, reason = "the one place that reads clocks")]
pub fn now() -> Now {
    Now {
        mono: mono(),
        wall: wall(),
    }
}

/// Reads the monotonic clock.
pub fn mono() -> Mono {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // the monotonic clock starts at 0 at boot: never negative
    Mono(time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000)
}

/// Reads the wall clock.
#[allow(clippy::disallowed_methods, reason = "the one place that reads clocks")]
pub fn wall() -> Wall {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Wall(since.as_micros() as i64)
}
