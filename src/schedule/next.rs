//! The wall-clock evaluator: which readings of a clock on the wall match all seven fields.
//! Must not know: zones (a wall reading here is a count of seconds from 1970-01-01T00:00:00 on that wall),
//! the fields' grammar, the time it is.
//!
//! The `cron` crate walks the calendar. It is given nothing but explicit lists (and `*` for a full one), since its
//! own grammar means other things: its dow 1 is Sunday. It sees only `DateTime<Utc>`, since it may step back in a
//! zone's repeated hour. What it lacks, days counted from the end of the month, is filtered here.

use std::fmt::Write as _;
use std::sync::Arc;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};

use super::fields::{self, Parsed, Rule, Set};

/// The seven fields as sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WallSet {
    sec: u64,
    min: u64,
    hour: u32,
    /// Bit n: day n of the month.
    dom: u32,
    /// Bit n: n days before the last day of the month.
    dom_from_end: u8,
    /// Bit n: month n.
    mon: u16,
    /// Bit n: weekday n, 0 = Sunday.
    dow: u8,
    /// Bit n: the last weekday n of the month.
    dow_last: u8,
    years: Set,
}

/// A set with what it takes to search it.
#[derive(Clone)]
pub(super) struct Walls {
    set: WallSet,
    /// None when no date ever matches. Shared, as the crate's object is larger than all the rest.
    search: Option<Search>,
}

#[derive(Clone)]
struct Search {
    calendar: Arc<cron::Schedule>,
    /// The last matching second. From there on the crate is not asked: it would walk to the end of its years.
    end: i64,
}

const DAY_SECS: i64 = 86_400;

impl Walls {
    /// Errors: the crate does not take our lists, a bug of ours.
    pub fn new(set: WallSet) -> Result<Walls, String> {
        let search = match set.last() {
            None => None,
            Some(end) => {
                let text = set.crate_text();
                let calendar = text.parse::<cron::Schedule>().map_err(|error| {
                    format!("cannot be evaluated as '{text}', please report this: {error}")
                })?;
                Some(Search {
                    calendar: Arc::new(calendar),
                    end,
                })
            }
        };
        Ok(Walls { set, search })
    }

    /// The first matching wall second strictly after `after`.
    pub fn next(&self, after: i64) -> Option<i64> {
        let search = self.search.as_ref()?;
        // nothing matches before 1970; the crate cannot look at earlier years
        let mut after = after.max(-1);
        while after < search.end {
            let start = DateTime::from_timestamp(after, 0)?;
            let found = search.calendar.after(&start).next()?;
            if !self.set.has_special() {
                return Some(found.timestamp());
            }
            let days = self.set.days(found.year(), found.month());
            if days >> found.day() & 1 == 1 {
                return Some(found.timestamp());
            }
            after = before_next_day(found, days);
        }
        None
    }

    /// Its sets as a short text.
    pub fn mark(&self) -> String {
        let set = &self.set;
        format!(
            "{:x}/{:x}/{:x}/{:x}/{:x}/{:x}/{:x}/{:x}/{}",
            set.sec,
            set.min,
            set.hour,
            set.dom,
            set.dom_from_end,
            set.mon,
            set.dow,
            set.dow_last,
            set.years.mark()
        )
    }

    pub fn set(&self) -> &WallSet {
        &self.set
    }

    /// No date matches: the month has no such day, or never on such a weekday.
    pub fn is_never(&self) -> bool {
        self.search.is_none()
    }
}

impl WallSet {
    /// The fields in the order sec, min, hour, dom, mon, dow, year.
    pub fn new(fields: &[Parsed; 7]) -> WallSet {
        let [sec, min, hour, dom, mon, dow, year] = fields;
        WallSet {
            sec: sec.set.bits(&fields::SEC),
            min: min.set.bits(&fields::MIN),
            hour: hour.set.bits(&fields::HOUR) as u32,
            dom: dom.set.bits(&fields::DOM) as u32,
            dom_from_end: dom.special,
            mon: mon.set.bits(&fields::MON) as u16,
            dow: dow.set.bits(&fields::DOW) as u8,
            dow_last: dow.special,
            years: year.set,
        }
    }

    /// Hours, minutes, seconds.
    pub(super) fn time_bits(&self) -> (u64, u64, u64) {
        (u64::from(self.hour), self.min, self.sec)
    }

    pub(super) fn has_month(&self, year: i32, month: u32) -> bool {
        self.mon >> month & 1 == 1
            && u32::try_from(year).is_ok_and(|year| self.years.contains(&fields::YEAR, year))
    }

    /// The matching days of a month, bit n for day n.
    pub(super) fn days(&self, year: i32, month: u32) -> u32 {
        let (Some(first), length) = (NaiveDate::from_ymd_opt(year, month, 1), month_length(year, month))
        else {
            return 0;
        };
        let in_month = ((1_u64 << length) - 1) << 1;
        let mut dom = u64::from(self.dom);
        for back in (0..8).filter(|back| self.dom_from_end >> back & 1 == 1) {
            dom |= 1 << (length - back);
        }
        let first_weekday = first.weekday().num_days_from_sunday();
        let weekdays = |set: u8| weeks(set) >> first_weekday << 1;
        let last_week = in_month & !((1 << (length - 6)) - 1);
        let dow = weekdays(self.dow) | weekdays(self.dow_last) & last_week;
        (dom & dow & in_month) as u32
    }

    /// The last second that matches, if any does.
    fn last(&self) -> Option<i64> {
        let midnight = self.last_day()?.and_time(NaiveTime::MIN).and_utc().timestamp();
        let (hour, minute, second) = (
            self.hour.checked_ilog2()?,
            self.min.checked_ilog2()?,
            self.sec.checked_ilog2()?,
        );
        Some(midnight + i64::from(hour * 3600 + minute * 60 + second))
    }

    /// Seldom more than a few steps, at most 1560.
    fn last_day(&self) -> Option<NaiveDate> {
        for year in self.years.values(&fields::YEAR).rev() {
            for month in (1..=12).rev().filter(|month| self.mon >> month & 1 == 1) {
                let days = self.days(year as i32, month);
                if days != 0 {
                    return NaiveDate::from_ymd_opt(year as i32, month, days.ilog2());
                }
            }
        }
        None
    }

    fn has_special(&self) -> bool {
        self.dom_from_end != 0 || self.dow_last != 0
    }

    /// The crate's seven fields. Days counted from the end appear as every day they may fall on. A full field is
    /// `*`, for which the crate keeps one set for all; that its years then reach 2100 is cut off by `Search::end`.
    fn crate_text(&self) -> String {
        let mut dom = u64::from(self.dom);
        for back in (0..8).filter(|back| self.dom_from_end >> back & 1 == 1) {
            dom |= 0b1111 << (28 - back);
        }
        let dow = u64::from(self.dow | self.dow_last);
        let mut text = String::new();
        let narrow = |bits: u64| move |value: u32| bits >> value & 1 == 1;
        append_list(&mut text, &fields::SEC, 0, narrow(self.sec));
        append_list(&mut text, &fields::MIN, 0, narrow(self.min));
        append_list(&mut text, &fields::HOUR, 0, narrow(u64::from(self.hour)));
        append_list(&mut text, &fields::DOM, 0, narrow(dom));
        append_list(&mut text, &fields::MON, 0, narrow(u64::from(self.mon)));
        // the crate's Sunday is 1
        append_list(&mut text, &fields::DOW, 1, narrow(dow));
        append_list(&mut text, &fields::YEAR, 0, |year| {
            self.years.contains(&fields::YEAR, year)
        });
        text
    }
}

#[cfg(test)]
impl WallSet {
    /// Whether one wall second matches, without the crate: what the tests hold the search against.
    pub fn matches(&self, wall: i64) -> bool {
        use chrono::Timelike;
        let Some(time) = DateTime::from_timestamp(wall, 0) else {
            return false;
        };
        self.sec >> time.second() & 1 == 1
            && self.min >> time.minute() & 1 == 1
            && self.hour >> time.hour() & 1 == 1
            && self.day_matches_at(wall)
    }

    /// Whether the day of that wall second matches, whatever the hour.
    pub fn day_matches_at(&self, wall: i64) -> bool {
        let Some(time) = DateTime::from_timestamp(wall, 0) else {
            return false;
        };
        self.mon >> time.month() & 1 == 1
            && u32::try_from(time.year()).is_ok_and(|year| self.years.contains(&fields::YEAR, year))
            && self.day_matches(time.date_naive())
    }

    /// The same as `days`, but said one day at a time.
    fn day_matches(&self, day: NaiveDate) -> bool {
        let length = month_length(day.year(), day.month());
        let weekday = day.weekday().num_days_from_sunday();
        let from_end = length - day.day();
        (self.dom >> day.day() & 1 == 1 || from_end < 8 && self.dom_from_end >> from_end & 1 == 1)
            && (self.dow >> weekday & 1 == 1 || from_end < 7 && self.dow_last >> weekday & 1 == 1)
    }
}

/// The calendar is made from the set, so the set says it all.
impl PartialEq for Walls {
    fn eq(&self, other: &Walls) -> bool {
        self.set == other.set
    }
}

impl std::fmt::Debug for Walls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.set.fmt(formatter)
    }
}

/// Appends one field for the crate: the chosen values, each moved by `shift`.
fn append_list(text: &mut String, rule: &Rule, shift: u32, chosen: impl Fn(u32) -> bool) {
    if !text.is_empty() {
        text.push(' ');
    }
    if (rule.min..=rule.max).all(&chosen) {
        text.push('*');
        return;
    }
    let mut separator = "";
    for value in (rule.min..=rule.max).filter(|value| chosen(*value)) {
        // writing to a String cannot fail
        let _ = write!(text, "{separator}{}", value + shift);
        separator = ",";
    }
}

/// The last second before the next day that matches in the month of `found`, or before the next month.
fn before_next_day(found: DateTime<Utc>, days: u32) -> i64 {
    let length = month_length(found.year(), found.month());
    let later = u64::from(days) >> (found.day() + 1) << (found.day() + 1);
    let next = if later == 0 {
        length + 1
    } else {
        later.trailing_zeros()
    };
    let midnight = found.timestamp().div_euclid(DAY_SECS) * DAY_SECS;
    midnight + i64::from(next - found.day()) * DAY_SECS - 1
}

/// A set of weekdays, repeated over six weeks from a Sunday on.
fn weeks(weekdays: u8) -> u64 {
    (0..6).fold(0, |weeks, week| weeks | u64::from(weekdays) << (7 * week))
}

pub(super) fn month_length(year: i32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}
