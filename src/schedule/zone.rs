//! From wall readings to instants in a zone, by Debian cron's rules for clocks that jump.
//! Must not know: fields and calendars (it asks a function for "the next wall reading that matches"), the host's zone.
//!
//! Wall readings and instants are both seconds from 1970-01-01T00:00:00, the one on the wall, the other in UTC.

use chrono::{DateTime, MappedLocalTime, Offset, TimeZone};
use chrono_tz::{GapInfo, TZ_VARIANTS, Tz};

/// A job of fixed times whose wall reading was skipped is caught up when the clock jumped by less than this.
pub(super) const CAUGHT_UP_BELOW_SECS: i64 = 3 * 3600;

/// A zone by its IANA name, such as `Europe/Bucharest`.
pub fn zone(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| match likeliest_zone(name) {
        Some(likely) => format!("unknown zone '{name}': did you mean '{likely}'?"),
        None => format!("unknown zone '{name}': use an IANA name such as Europe/Bucharest"),
    })
}

/// The next firing of a job that follows the running clock: nothing is caught up, a repeated hour fires twice.
pub(super) fn next_running(next_wall: impl Fn(i64) -> Option<i64>, zone: Tz, after: i64) -> Option<i64> {
    let wall = local(zone, after);
    let again = match local_time(zone, wall) {
        LocalTime::Twice(first, second) if first == after => {
            next_in_second_pass(&next_wall, zone, change_between(zone, first, second))
        }
        _ => None,
    };
    let forward = next_forward(next_wall, wall, |found| match local_time(zone, found) {
        LocalTime::Once(instant) => Ok(instant),
        LocalTime::Twice(first, second) => Ok(if first > after { first } else { second }),
        LocalTime::Skipped { resume, .. } => Err(resume),
    });
    match (again, forward) {
        (Some(again), Some(forward)) => Some(again.min(forward)),
        (again, forward) => again.or(forward),
    }
}

/// The next firing of a job of fixed times: a repeated wall reading fires once, skipped ones are caught up together.
pub(super) fn next_fixed(next_wall: impl Fn(i64) -> Option<i64>, zone: Tz, after: i64) -> Option<i64> {
    let mut wall = local(zone, after);
    if let LocalTime::Twice(first, second) = local_time(zone, wall)
        && second == after
    {
        // all that the clock shows until the end of the second pass has had its firing in the first
        let change = change_between(zone, first, second);
        wall = local(zone, change - 1);
    }
    next_forward(next_wall, wall, |found| match local_time(zone, found) {
        LocalTime::Once(instant) | LocalTime::Twice(instant, _) => Ok(instant),
        LocalTime::Skipped { instant, length, .. } if length < CAUGHT_UP_BELOW_SECS => Ok(instant),
        LocalTime::Skipped { resume, .. } => Err(resume),
    })
}

/// From `at` on the clocks are ahead of UTC by `behind` seconds, right before it by `before`.
pub(super) struct Change {
    pub at: i64,
    pub before: i64,
    pub behind: i64,
}

/// The zone's changes after `after`, up to and including `until`, in order.
pub(super) fn changes(zone: Tz, after: i64, until: i64) -> Vec<Change> {
    const STEP_SECS: i64 = 86_400;
    let mut found = Vec::new();
    let (mut from, mut before) = (after, offset(zone, after));
    while from < until && zone != Tz::UTC {
        let to = until.min(from + STEP_SECS);
        let behind = offset(zone, to);
        if behind != before {
            let at = change_between(zone, from, to);
            found.push(Change { at, before, behind });
        }
        (from, before) = (to, behind);
    }
    found
}

/// If the clock shows readings at `instant` for the second time: the last reading that it repeats.
pub(super) fn repeated_until(zone: Tz, instant: i64) -> Option<i64> {
    match local_time(zone, local(zone, instant)) {
        LocalTime::Twice(first, second) if second == instant => {
            Some(local(zone, change_between(zone, first, second) - 1))
        }
        _ => None,
    }
}

/// Where a wall reading lies in time.
enum LocalTime {
    Once(i64),
    Twice(i64, i64),
    /// The clock jumped over it at `instant`, by `length` seconds; `resume` is the last reading it skipped.
    Skipped {
        instant: i64,
        length: i64,
        resume: i64,
    },
}

/// Goes through the matching wall readings after `wall` until `resolve` gives an instant, or else the reading to go
/// on from.
fn next_forward(
    next_wall: impl Fn(i64) -> Option<i64>,
    mut wall: i64,
    resolve: impl Fn(i64) -> Result<i64, i64>,
) -> Option<i64> {
    loop {
        match resolve(next_wall(wall)?) {
            Ok(instant) => return Some(instant),
            Err(resume) => wall = resume,
        }
    }
}

/// The first firing among the readings that the clock shows again from `change` on.
fn next_in_second_pass(next_wall: impl Fn(i64) -> Option<i64>, zone: Tz, change: i64) -> Option<i64> {
    let last_repeated = local(zone, change - 1);
    let found = next_wall(local(zone, change) - 1)?;
    (found <= last_repeated).then(|| found - offset(zone, change))
}

fn local_time(zone: Tz, wall: i64) -> LocalTime {
    let reading = DateTime::from_timestamp(wall, 0).unwrap_or_default().naive_utc();
    let instant = |offset: chrono_tz::TzOffset| wall - i64::from(offset.fix().local_minus_utc());
    match zone.offset_from_local_datetime(&reading) {
        MappedLocalTime::Single(offset) => LocalTime::Once(instant(offset)),
        MappedLocalTime::Ambiguous(first, second) => LocalTime::Twice(instant(first), instant(second)),
        MappedLocalTime::None => {
            let Some((start, before)) = GapInfo::new(&reading, &zone).and_then(|gap| gap.begin) else {
                // every gap has a beginning, since a zone's first offset reaches back for ever
                return LocalTime::Once(wall - offset(zone, wall));
            };
            let start = start.and_utc().timestamp();
            let instant = start - i64::from(before.fix().local_minus_utc());
            let end = local(zone, instant);
            LocalTime::Skipped {
                instant,
                length: end - start,
                resume: end - 1,
            }
        }
    }
}

/// The instant between the two (the second included) from which the zone's offset is another.
fn change_between(zone: Tz, mut before: i64, mut changed: i64) -> i64 {
    let old = offset(zone, before);
    while changed - before > 1 {
        let middle = before + (changed - before) / 2;
        if offset(zone, middle) == old {
            before = middle;
        } else {
            changed = middle;
        }
    }
    changed
}

pub(super) fn local(zone: Tz, instant: i64) -> i64 {
    instant + offset(zone, instant)
}

/// Seconds that the zone's clocks are ahead of UTC.
pub(super) fn offset(zone: Tz, instant: i64) -> i64 {
    let utc = DateTime::from_timestamp(instant, 0)
        .unwrap_or_default()
        .naive_utc();
    i64::from(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc())
}

/// The known name nearest to what was written, be it the whole name or its last part alone (`bucharest`).
fn likeliest_zone(name: &str) -> Option<&'static str> {
    const LIKELY: f64 = 0.8;
    let wanted = name.trim().to_lowercase().replace(' ', "_");
    let mut best = (LIKELY, None);
    for known in TZ_VARIANTS.iter().map(|zone| zone.name()) {
        let lower = known.to_lowercase();
        let city = lower.rsplit('/').next().unwrap_or(&lower);
        let score = strsim::jaro_winkler(&wanted, &lower).max(strsim::jaro_winkler(&wanted, city));
        if score > best.0 {
            best = (score, Some(known));
        }
    }
    best.1
}
