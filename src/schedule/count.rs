//! How many firings lie in a stretch of time, and which is the last of them: by arithmetic on the sets, since a week of a
//! job that is due every second has 600,000.
//! Must not know: the fields' grammar, the time it is.

use chrono::{DateTime, Datelike};
use chrono_tz::Tz;

use super::next::WallSet;
use super::zone::{self, Change};

const DAY_SECS: i64 = 86_400;
/// How far back the last firing is looked for first.
const NEAR_SECS: i64 = 3_600;

/// Firings after `after`, up to and including `until` (instants).
pub(super) fn firings(set: &WallSet, zone: Tz, wild: bool, after: i64, until: i64) -> u64 {
    if until <= after {
        return 0;
    }
    let mut count = 0;
    let mut from = after;
    let mut from_wall = zone::local(zone, after);
    if !wild && let Some(repeated) = zone::repeated_until(zone, after) {
        from_wall = repeated;
    }
    for change in zone::changes(zone, after, until) {
        let Change { at, before, behind } = change;
        count += walls(set, from_wall, at - 1 + before);
        from = at - 1;
        from_wall = at - 1 + behind;
        if wild {
            continue;
        }
        let shown = at - 1 + before;
        if behind < before {
            // the second pass of the repeated readings fires nothing
            from_wall = shown;
        } else if behind - before < zone::CAUGHT_UP_BELOW_SECS
            && walls(set, shown, from_wall) > 0
            && walls(set, from_wall, from_wall + 1) == 0
        {
            // what the gap swallowed fires once, right after it
            count += 1;
        }
    }
    let offset = zone::offset(zone, until);
    if until > from {
        count += walls(set, from_wall, until + offset);
    }
    count
}

/// The last instant after `after`, up to and including `until`, for which `has` says that there is one from there on.
pub(super) fn last(after: i64, until: i64, has: impl Fn(i64) -> bool) -> Option<i64> {
    let mut reach = NEAR_SECS;
    let mut low = loop {
        let low = after.max(until.saturating_sub(reach));
        if has(low) {
            break low;
        }
        if low == after {
            return None;
        }
        reach = reach.saturating_mul(8);
    };
    // there is one after `low`, and none after `high`
    let mut high = until;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if has(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(high)
}

/// Matching wall readings after `after`, up to and including `until`.
fn walls(set: &WallSet, after: i64, until: i64) -> u64 {
    let after = after.max(-1);
    if until <= after {
        return 0;
    }
    let (first_day, last_day) = ((after + 1).div_euclid(DAY_SECS), until.div_euclid(DAY_SECS));
    let before = set.times_until((after + 1).rem_euclid(DAY_SECS) - 1);
    let last = set.times_until(until.rem_euclid(DAY_SECS));
    if first_day == last_day {
        return set.days_between(first_day, first_day) * (last - before);
    }
    let whole = set.times_until(DAY_SECS - 1);
    set.days_between(first_day, first_day) * (whole - before)
        + set.days_between(first_day + 1, last_day - 1) * whole
        + set.days_between(last_day, last_day) * last
}

impl WallSet {
    /// Matching times of day up to and including that second of the day.
    fn times_until(&self, second: i64) -> u64 {
        if second < 0 {
            return 0;
        }
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let below = |bits: u64, value: i64| u64::from((bits & ((1 << value) - 1)).count_ones());
        let has = |bits: u64, value: i64| bits >> value & 1;
        let (hours, minutes, seconds) = self.time_bits();
        let of_minute = u64::from(seconds.count_ones());
        let of_hour = u64::from(minutes.count_ones()) * of_minute;
        below(hours, hour) * of_hour
            + has(hours, hour)
                * (below(minutes, minute) * of_minute
                    + has(minutes, minute) * (below(seconds, second) + has(seconds, second)))
    }

    /// Matching days from `first` to `last`, both counted from 1970-01-01.
    fn days_between(&self, first: i64, last: i64) -> u64 {
        let mut count = 0;
        let mut day = first;
        while day <= last {
            let Some(date) = DateTime::from_timestamp(day.saturating_mul(DAY_SECS), 0) else {
                return count;
            };
            let length = i64::from(super::next::month_length(date.year(), date.month()));
            let until = (i64::from(date.day()) + last - day).min(length);
            if self.has_month(date.year(), date.month()) {
                let month = u64::from(self.days(date.year(), date.month()));
                let wanted = ((1_u64 << (until + 1)) - 1) >> date.day() << date.day();
                count += u64::from((month & wanted).count_ones());
            }
            day += until - i64::from(date.day()) + 1;
        }
        count
    }
}
