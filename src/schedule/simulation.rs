//! Cross-check: random schedules, searched by `next_after` and stepped through one second at a time. The stepping
//! knows neither the `cron` crate nor how a zone maps wall readings: it asks for the zone's offset, nothing else.

use chrono::{DateTime, Utc};

use super::{Fields, Schedule, Tz, zone::offset};

/// A xorshift generator: the same schedules on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u32) -> u32 {
        (self.next() >> 33) as u32 % bound
    }

    fn within(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u32) as usize]
    }

    /// A field of one to three items.
    fn field(&mut self, low: u32, high: u32) -> String {
        let items: Vec<String> = (0..self.within(1, 3)).map(|_| self.item(low, high)).collect();
        items.join(",")
    }

    fn item(&mut self, low: u32, high: u32) -> String {
        let first = self.within(low, high);
        let last = self.within(first, high);
        match self.below(6) {
            0 | 1 => format!("{first}"),
            2 => format!("{first}-{last}"),
            3 if first < high => format!("{first}/{}", self.within(1, high - first)),
            4 => format!("*/{}", self.within((high - low) / 4 + 1, high - low)),
            _ => format!("{first},{last}"),
        }
    }

    fn day_of_month(&mut self) -> String {
        match self.below(8) {
            0..3 => "*".into(),
            3 => self
                .pick(&[
                    "L", "Z1", "Z7", "Z1-3", "15,L", "Z2,Z4-6", "1,Z0", "29", "31", "30,L",
                ])
                .into(),
            _ => self.field(1, 31),
        }
    }

    fn day_of_week(&mut self) -> String {
        match self.below(8) {
            0..4 => "*".into(),
            4 => self
                .pick(&[
                    "L5", "L0", "L7", "L1-3", "L5,1", "L6-7", "L3-2,2", "5-0", "fri-sun", "6-7",
                ])
                .into(),
            _ => self.field(0, 6),
        }
    }

    fn schedule(&mut self, sec: String, min: String, hour: String, zone: Tz) -> (Fields, Schedule) {
        let month = if self.below(3) == 0 {
            self.field(1, 12)
        } else {
            "*".into()
        };
        let year = if self.below(4) == 0 {
            self.field(2024, 2032)
        } else {
            "*".into()
        };
        let fields = Fields {
            sec,
            min,
            hour,
            dom: self.day_of_month(),
            mon: month,
            dow: self.day_of_week(),
            year,
        };
        let schedule =
            Schedule::parse(&fields, zone).unwrap_or_else(|errors| panic!("{fields:?}: {errors:?}"));
        (fields, schedule)
    }
}

/// The firings after `from` up to `until`, second by second. Debian's rules: a job that follows the clock fires
/// whenever the reading matches; any other keeps the furthest reading it has seen, fires on further ones only, and
/// once for all that a jump of less than three hours left out.
fn simulate(schedule: &Schedule, zone: Tz, from: i64, until: i64) -> Vec<i64> {
    let set = schedule.walls.set();
    // two days to learn the furthest reading, as `from` may lie between a change and its end
    let start = from - 2 * 86_400;
    let mut furthest = start - 1 + offset(zone, start - 1);
    let mut firings = Vec::new();
    for instant in start..=until {
        let wall = instant + offset(zone, instant);
        let jump = wall - furthest - 1;
        let due = if schedule.wild {
            set.matches(wall)
        } else if wall <= furthest {
            false
        } else {
            set.matches(wall) || jump < 3 * 3600 && (furthest + 1..wall).any(|skipped| set.matches(skipped))
        };
        furthest = furthest.max(wall);
        if due && instant > from {
            firings.push(instant);
        }
    }
    firings
}

fn instant(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(secs, 0).unwrap()
}

fn parse_instant(text: &str) -> i64 {
    text.parse::<DateTime<Utc>>().unwrap().timestamp()
}

/// Asks from every firing for the next, and from a second before each, and compares with the stepping.
fn check(fields: &Fields, schedule: &Schedule, zone: Tz, from: i64, until: i64) {
    let expected = simulate(schedule, zone, from, until);
    check_counts(fields, schedule, &expected, from, until);
    let mut after = from;
    for due in expected {
        for asked in [after, (after + due) / 2, due - 1] {
            assert_eq!(
                schedule.next_after(instant(asked)),
                Some(instant(due)),
                "{fields:?} {zone} after {asked}"
            );
        }
        after = due;
    }
    let beyond = schedule.next_after(instant(after));
    assert!(
        beyond.is_none_or(|next| next.timestamp() > until),
        "{fields:?} {zone} after {after}: {beyond:?}"
    );
}

/// Counts and last firings over stretches that begin and end at, before and after firings.
fn check_counts(fields: &Fields, schedule: &Schedule, firings: &[i64], from: i64, until: i64) {
    let span = until - from;
    let mut edges: Vec<i64> = (0..=4).map(|part| from + span * part / 4).collect();
    let sample = firings.iter().step_by((firings.len() / 3).max(1));
    edges.extend(sample.flat_map(|due| [due - 1, *due]).filter(|at| *at >= from));
    for after in &edges {
        for end in &edges {
            let within: Vec<i64> = firings
                .iter()
                .copied()
                .filter(|due| after < due && due <= end)
                .collect();
            let (after, end) = (instant(*after), instant(*end));
            let counted = (schedule.count(after, end), schedule.last_in(after, end));
            let expected = (within.len() as u64, within.last().map(|last| instant(*last)));
            assert_eq!(counted, expected, "{fields:?} {} {after} to {end}", schedule.zone);
        }
    }
}

/// One random schedule, asked from about an hour before a change on.
fn check_around(random: &mut Random, zone: Tz, change: i64, span_secs: i64) {
    let sec = if random.below(4) == 0 {
        random.field(0, 59)
    } else {
        random.pick(&["0", "30"]).into()
    };
    let min = match random.below(3) {
        0 => random.pick(&["*", "*/15", "0-59", "59", "0"]).into(),
        _ => random.field(0, 59),
    };
    let hour = match random.below(3) {
        0 => random.pick(&["*", "0-23", "*/2", "0-4", "23"]).into(),
        _ => random.field(0, 23),
    };
    let (fields, schedule) = random.schedule(sec, min, hour, zone);
    let from = change - 5400 + i64::from(random.below(5)) * 1777;
    check(&fields, &schedule, zone, from, change + span_secs);
}

/// Walls in UTC, day by day and then second by second on the days that count.
#[test]
fn search_finds_what_stepping_finds_in_utc() {
    let mut random = Random(0x5a17_9e7e_0000_0001);
    let start = parse_instant("2024-02-25T00:00:00Z");
    for _ in 0..250 {
        let (sec, min, hour) = (random.field(0, 59), random.field(0, 59), random.field(0, 23));
        let (fields, schedule) = random.schedule(sec, min, hour, Tz::UTC);
        let set = schedule.walls.set();
        let from = start + i64::from(random.below(86_400 * 900));
        let mut day = from.div_euclid(86_400);
        let mut expected = Vec::new();
        while expected.len() < 5 && day < start / 86_400 + 5000 {
            if set.day_matches_at(day * 86_400) {
                let all = day * 86_400..(day + 1) * 86_400;
                expected.extend(all.filter(|wall| *wall > from && set.matches(*wall)).take(5));
            }
            day += 1;
        }
        if let Some(last) = expected.last() {
            check_counts(&fields, &schedule, &expected, from, *last);
        }
        let mut after = from;
        for due in expected.into_iter().take(5) {
            assert_eq!(
                schedule.next_after(instant(after)),
                Some(instant(due)),
                "{fields:?} after {after}"
            );
            after = due;
        }
    }
}

/// Around real changes of clocks of every kind: an hour, half an hour, at midnight, two hours, three hours, a whole
/// day, odd seconds, twice within a month, at the turn of the year.
#[test]
fn search_finds_what_stepping_finds_where_clocks_change() {
    const CHANGES: &[(&str, &str)] = &[
        ("Europe/Bucharest", "2026-03-29T01:00:00Z"),
        ("Europe/Bucharest", "2026-10-25T01:00:00Z"),
        ("America/New_York", "2098-11-02T06:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
        ("America/Sao_Paulo", "2018-11-04T03:00:00Z"),
        ("America/Sao_Paulo", "2018-02-18T02:00:00Z"),
        ("Africa/Cairo", "2026-04-23T22:00:00Z"),
        ("Africa/Cairo", "2026-10-29T21:00:00Z"),
        ("Antarctica/Troll", "2026-03-29T01:00:00Z"),
        ("Antarctica/Troll", "2026-10-25T01:00:00Z"),
        ("Antarctica/Casey", "2009-10-17T18:00:00Z"),
        ("Antarctica/Casey", "2010-03-04T15:00:00Z"),
        ("Pacific/Apia", "2011-12-30T10:00:00Z"),
        ("Pacific/Kiritimati", "1994-12-31T10:40:00Z"),
        ("Pacific/Kwajalein", "1993-08-21T12:00:00Z"),
        ("Africa/Monrovia", "1972-01-07T00:44:30Z"),
        ("Africa/Casablanca", "2026-02-15T02:00:00Z"),
        ("Asia/Pyongyang", "2015-08-14T15:00:00Z"),
        ("Asia/Singapore", "1981-12-31T16:30:00Z"),
        ("Europe/Lisbon", "1992-09-27T01:00:00Z"),
    ];
    let mut random = Random(0x5a17_9e7e_0000_0002);
    for (name, change) in CHANGES {
        let zone = super::zone(name).unwrap();
        let change = parse_instant(change);
        for _ in 0..6 {
            check_around(&mut random, zone, change, 30 * 3600);
        }
    }
}

/// Every zone there is, at each change but the ordinary ones of one hour, of which few are sampled.
#[test]
#[ignore = "takes a minute: run it when the zones' data are updated"]
fn search_finds_what_stepping_finds_in_every_zone() {
    let mut random = Random(0x5a17_9e7e_0000_0003);
    let mut seen = std::collections::HashSet::new();
    for zone in chrono_tz::TZ_VARIANTS {
        for (change, jump) in changes(zone) {
            if !seen.insert((change, jump)) || jump.abs() == 3600 && random.below(40) != 0 {
                continue;
            }
            for _ in 0..3 {
                check_around(&mut random, zone, change, 8 * 3600);
            }
        }
    }
}

/// Where the zone's offset changes within the years of schedules, and by how much.
fn changes(zone: Tz) -> Vec<(i64, i64)> {
    const STEP_SECS: usize = 6 * 3600;
    let (begin, end) = (
        parse_instant("1969-12-30T00:00:00Z"),
        parse_instant("2100-01-02T00:00:00Z"),
    );
    let mut changes = Vec::new();
    for before in (begin..end).step_by(STEP_SECS) {
        let after = before + STEP_SECS as i64;
        let jump = offset(zone, after) - offset(zone, before);
        if jump != 0 {
            let seconds: Vec<i64> = (before..=after).collect();
            let place = seconds.partition_point(|second| offset(zone, *second) == offset(zone, before));
            changes.push((seconds[place], jump));
        }
    }
    changes
}
