//! Quiet hours: in which nothing is delivered, and when they end.
//! Must not know: what is delivered.

use chrono::{Datelike, NaiveDateTime, TimeDelta, TimeZone, Timelike, Weekday};

use crate::clock::Wall;
use crate::limits;
use crate::schedule::Tz;

/// Hours in which nothing is delivered, by the job's wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// On these days it begins, Monday first.
    days: [bool; 7],
    from_min: u16,
    /// Not after `from_min`: on the next day.
    to_min: u16,
}

impl Quiet {
    /// When the quiet hours that hold at `at` end; None: they do not hold.
    pub fn end_of(hours: &[Quiet], at: Wall, zone: Tz) -> Option<Wall> {
        let mut end = at;
        // one may begin where another ends, such as the days of a week
        for _ in 0..2 * limits::QUIET_HOURS {
            let local = end.utc().with_timezone(&zone).naive_local();
            let next = hours.iter().filter_map(|quiet| quiet.local_end(local)).max();
            let Some(next) = next else { break };
            let utc = zone
                .from_local_datetime(&next)
                .latest()
                // a moment that the clock skips is an hour later
                .or_else(|| zone.from_local_datetime(&(next + TimeDelta::hours(1))).latest());
            match utc {
                Some(utc) if Wall::from_utc(utc.to_utc()) > end => end = Wall::from_utc(utc.to_utc()),
                _ => break,
            }
        }
        (end > at).then_some(end)
    }

    fn local_end(&self, at: NaiveDateTime) -> Option<NaiveDateTime> {
        let minute = (at.hour() * 60 + at.minute()) as u16;
        let midnight = at.date().and_hms_opt(0, 0, 0)?;
        let today = at.weekday().num_days_from_monday() as usize;
        let begins = |day: usize| self.days[day % 7];
        let end = |days: i64| midnight + TimeDelta::days(days) + TimeDelta::minutes(self.to_min.into());
        if self.from_min < self.to_min {
            let is_in = begins(today) && (self.from_min..self.to_min).contains(&minute);
            return is_in.then(|| end(0));
        }
        if begins(today) && minute >= self.from_min {
            return Some(end(1));
        }
        (begins(today + 6) && minute < self.to_min).then(|| end(0))
    }

    /// `22:00-06:00`, `sat,sun 00:00-24:00`, `mon-fri 12:00-13:00`.
    pub fn of(text: &str) -> Result<Quiet, String> {
        let wrong = || {
            format!(
                "invalid quiet hours '{}'; write 22:00-06:00 or 'sat,sun 00:00-24:00'",
                text.escape_debug()
            )
        };
        let (days, hours) = match text.trim().split_once(' ') {
            Some((days, hours)) => (days_of(days).ok_or_else(wrong)?, hours),
            None => ([true; 7], text),
        };
        let (from, to) = hours.trim().split_once('-').ok_or_else(wrong)?;
        let from_min = minute_of(from)
            .filter(|minute| *minute < 1_440)
            .ok_or_else(wrong)?;
        let to_min = minute_of(to).ok_or_else(wrong)?;
        Ok(Quiet {
            days,
            from_min,
            to_min,
        })
    }
}

fn minute_of(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours.checked_mul(60)?.checked_add(minutes)?;
    (minutes < 60 && minute <= 1_440).then_some(minute)
}

fn days_of(text: &str) -> Option<[bool; 7]> {
    let mut days = [false; 7];
    let day = |word: &str| -> Option<usize> {
        let day: Weekday = word.trim().parse().ok()?;
        Some(day.num_days_from_monday() as usize)
    };
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        for offset in 0..=(last + 7 - first) % 7 {
            days[(first + offset) % 7] = true;
        }
    }
    Some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Wall {
        Wall::from_utc(text.parse().unwrap())
    }

    fn quiet(texts: &[&str]) -> Vec<Quiet> {
        texts.iter().map(|text| Quiet::of(text).unwrap()).collect()
    }

    #[test]
    fn quiet_hours_end_by_the_wall_clock_of_the_jobs_zone() {
        let night = quiet(&["22:00-06:00"]);
        let end = |hours: &[Quiet], text: &str| {
            Quiet::end_of(hours, at(text), Tz::Europe__Berlin).map(|end| end.utc().to_rfc3339())
        };
        assert_eq!(end(&night, "2026-11-27T12:00:00Z"), None);
        assert_eq!(end(&night, "2026-11-27T05:00:00Z"), None);
        for inside in ["2026-11-26T21:00:00Z", "2026-11-27T04:59:59Z"] {
            assert_eq!(end(&night, inside).as_deref(), Some("2026-11-27T05:00:00+00:00"));
        }
        // the night in which the clock goes back, and that in which it goes forward
        let back = end(&night, "2026-10-24T21:00:00Z");
        assert_eq!(back.as_deref(), Some("2026-10-25T05:00:00+00:00"));
        let forward = end(&night, "2027-03-27T22:00:00Z");
        assert_eq!(forward.as_deref(), Some("2027-03-28T04:00:00+00:00"));
        let weekend = quiet(&["sat,sun 00:00-24:00", "22:00-06:00"]);
        // from Friday evening to Monday morning without a gap
        let monday = end(&weekend, "2026-11-27T22:00:00Z");
        assert_eq!(monday.as_deref(), Some("2026-11-30T05:00:00+00:00"));
    }

    #[test]
    fn quiet_hours_that_make_no_sense_are_refused() {
        for text in [
            "",
            "22-6",
            "22:00",
            "24:00-06:00",
            "22:60-06:00",
            "foo 22:00-06:00",
            "1:00-25:00",
        ] {
            assert!(Quiet::of(text).is_err(), "{text}");
        }
    }
}
