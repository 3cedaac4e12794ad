//! The published vectors in full, and the corners they leave out.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{FieldError, Fields, Schedule, Tz, fields, zone};

#[test]
fn every_utc_vector_passes() {
    check_firings(
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/schedule-utc.jsonl"
        )),
        600,
    );
}

#[test]
fn every_zone_vector_passes() {
    check_firings(
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/schedule-zones.jsonl"
        )),
        168,
    );
}

#[test]
fn every_field_vector_passes() {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/schedule-fields.jsonl"
    ));
    let vectors = vectors(text);
    assert_eq!(vectors.len(), 180);
    for vector in vectors {
        let (parsed, ok) = (
            Schedule::parse(&vector_fields(&vector), Tz::UTC),
            vector["ok"] == true,
        );
        assert_eq!(parsed.is_ok(), ok, "{vector}: {parsed:?}");
        let name = vector["field"].as_str().unwrap();
        if let Err(errors) = parsed {
            assert!(
                errors.iter().all(|error| error.field == name),
                "{vector}: {errors:?}"
            );
            continue;
        }
        let rule = rule(name);
        let parsed = fields::parse(rule, vector[name].as_str().unwrap()).unwrap();
        let expected: Vec<u32> = match &vector["set"] {
            Value::String(_) => (rule.min..=rule.max).collect(),
            set => serde_json::from_value(set.clone()).unwrap(),
        };
        assert_eq!(parsed.set.values(rule).collect::<Vec<_>>(), expected, "{vector}");
        if vector["special"] == false {
            assert_eq!(parsed.special, 0, "{vector}");
        }
    }
}

/// Field, text, and the values that it stands for.
const ACCEPTED: &[(&str, &str, &[u32])] = &[
    ("min", "007", &[7]),
    ("min", "00000000000000000000000000000000000000003", &[3]),
    ("min", "0-5/05", &[0, 5]),
    ("min", "59", &[59]),
    ("min", "58/1", &[58, 59]),
    ("min", "3-3", &[3]),
    ("min", "\t5\u{a0}", &[5]),
    ("hour", "0/23", &[0, 23]),
    ("dom", "1/30", &[1, 31]),
    ("dom", "30/1", &[30, 31]),
    ("mon", "OCT-12", &[10, 11, 12]),
    ("mon", "1/11", &[1, 12]),
    ("mon", "dec", &[12]),
    ("dow", "sun/6", &[0, 6]),
    ("dow", "0/7", &[0]),
    ("dow", "6/1", &[6]),
    ("dow", "5-0/2", &[0, 5]),
    ("dow", "0-0/2", &[0, 2, 4, 6]),
    ("dow", "4-0/3", &[0, 4]),
    ("dow", "7-sun", &[0]),
    ("dow", "1-0", &[0, 1, 2, 3, 4, 5, 6]),
    ("dow", "1-00", &[0, 1, 2, 3, 4, 5, 6]),
    ("dow", "07", &[0]),
    ("dow", "L5,1-2", &[1, 2]),
    ("dow", "L5-3", &[]),
    ("year", "*/129", &[1970, 2099]),
    ("year", "2098/1", &[2098, 2099]),
    ("year", "02030", &[2030]),
];

/// Field, and texts that it rejects.
const REJECTED: &[(&str, &[&str])] = &[
    (
        "sec",
        &[
            "", " ", "?", "1,?", "*/60", "0/60", "59/1", "1/59", "*/0", "*/00", "*/", "/5", "*/-1", "*/+1",
            "-", ",",
        ],
    ),
    (
        "min",
        &[
            "*/*", "*-*", "0-*", "**", "*,60", "5,*5", "1-5-9", "1/2/3", "1 2", "0x5", "1e1", "٣", "5\n6",
            "mon", "Z1",
        ],
    ),
    (
        "hour",
        &[
            "22-4",
            "*/24",
            "1-24",
            "23/1",
            "24-24",
            "99999999999999999999",
            "@daily",
            "@hourly",
            "~",
            "1~5",
        ],
    ),
    (
        "dom",
        &[
            "0", "0-5", "32", "*/31", "2/30", "L-3", "LW", "15W", "L1", "l,", "Z", "Z8", "Z0-0", "Z3-1",
            "Z1-8", "Z-1", "Z1/2", "Z1-2-3", "L/2", "?/2", "5-0", "mon", "ZL", "Z 1", "Z+1", "1-L", "L-1",
        ],
    ),
    (
        "mon",
        &[
            "0", "13", "?", "1,?", "L", "*/12", "nov-feb", "december", "janu", "ja", "jan-", "-jan", "dec/1",
            "mon", "sept",
        ],
    ),
    (
        "dow",
        &[
            "8", "L", "L,5", "5L", "Lfri", "L8", "L5-", "L-5", "L5-8", "L5/2", "5#2", "fri#2", "7/1", "7/2",
            "*/8", "6/2", "1-5/7", "7-7/1", "5-1", "7-3", "fri-mon", "sat-fri", "monday", "tues", "jan",
            "?/2", "?-5", "1-8", "Z1",
        ],
    ),
    (
        "year",
        &[
            "1969",
            "2100",
            "1970-2100",
            "*/130",
            "2099/1",
            "25",
            "0",
            "2030-2025",
            "?",
            "L",
        ],
    ),
];

#[test]
fn each_field_keeps_its_grammar() {
    for (name, text, expected) in ACCEPTED {
        let rule = rule(name);
        let parsed = fields::parse(rule, text).unwrap_or_else(|reasons| panic!("{name} {text}: {reasons:?}"));
        assert_eq!(
            parsed.set.values(rule).collect::<Vec<_>>(),
            *expected,
            "{name} {text}"
        );
    }
    for (name, texts) in REJECTED {
        for text in *texts {
            assert!(fields::parse(rule(name), text).is_err(), "{name} {text:?}");
        }
    }
}

#[test]
fn days_from_the_end_unite_with_the_other_items() {
    assert_firings(
        "0 0 0 15,L 2 * *",
        "UTC",
        "2028-01-01T00:00:00Z",
        &["2028-02-15T00:00:00Z", "2028-02-29T00:00:00Z"],
    );
    assert_firings(
        "0 0 0 Z7,1 2 * *",
        "UTC",
        "2027-01-01T00:00:00Z",
        &["2027-02-01T00:00:00Z", "2027-02-21T00:00:00Z"],
    );
    assert_firings(
        "0 0 0 Z1-2 4 * *",
        "UTC",
        "2027-01-01T00:00:00Z",
        &["2027-04-28T00:00:00Z", "2027-04-29T00:00:00Z"],
    );
    assert_firings(
        "0 0 0 Z02 4 * *",
        "UTC",
        "2027-01-01T00:00:00Z",
        &["2027-04-28T00:00:00Z"],
    );
    // the last Friday, and every Monday
    assert_firings(
        "0 0 0 * 2 1,L5 2027",
        "UTC",
        "2027-02-15T00:00:00Z",
        &["2027-02-22T00:00:00Z", "2027-02-26T00:00:00Z"],
    );
    // L7 and L0 are the last Sunday; L6-7 the last Saturday and the last Sunday
    for text in ["L7", "L0", "L07"] {
        assert_firings(
            &format!("0 0 0 * 5 {text} 2026"),
            "UTC",
            "2026-01-01T00:00:00Z",
            &["2026-05-31T00:00:00Z"],
        );
    }
    assert_firings(
        "0 0 0 * 5 L6-7 2026",
        "UTC",
        "2026-01-01T00:00:00Z",
        &["2026-05-30T00:00:00Z", "2026-05-31T00:00:00Z"],
    );
    // both must match: the last day of the month when it is a Friday
    assert_firings(
        "0 0 0 L * 5 *",
        "UTC",
        "2026-06-01T00:00:00Z",
        &["2026-07-31T00:00:00Z", "2027-04-30T00:00:00Z"],
    );
    assert_firings(
        "0 0 0 L * L5 *",
        "UTC",
        "2026-06-01T00:00:00Z",
        &["2026-07-31T00:00:00Z", "2027-04-30T00:00:00Z"],
    );
    // an unrestricted list stays one
    assert_firings(
        "0 0 0 *,L * * *",
        "UTC",
        "2026-06-01T00:00:00Z",
        &["2026-06-02T00:00:00Z"],
    );
    // a backwards last weekday never matches, the rest of its list does
    assert_firings(
        "0 0 0 * * L5-3,2 *",
        "UTC",
        "2026-06-01T00:00:00Z",
        &["2026-06-02T00:00:00Z", "2026-06-09T00:00:00Z"],
    );
}

#[test]
fn next_is_strictly_after_whatever_the_fraction() {
    assert_firings(
        "0 0 12 * * * *",
        "UTC",
        "2026-06-01T11:59:59.999Z",
        &["2026-06-01T12:00:00Z"],
    );
    assert_firings(
        "0 0 12 * * * *",
        "UTC",
        "2026-06-01T12:00:00Z",
        &["2026-06-02T12:00:00Z"],
    );
    assert_firings(
        "0 0 12 * * * *",
        "UTC",
        "2026-06-01T12:00:00.9Z",
        &["2026-06-02T12:00:00Z"],
    );
    assert_firings(
        "* * * * * * *",
        "UTC",
        "2026-06-01T12:00:00.9Z",
        &["2026-06-01T12:00:01Z"],
    );
    assert_firings(
        "* * * * * * *",
        "UTC",
        "2026-12-31T23:59:59Z",
        &["2027-01-01T00:00:00Z"],
    );
}

#[test]
fn years_end_with_2099_and_begin_with_1970() {
    assert_last(
        "* * * * * * *",
        "UTC",
        "2099-12-31T23:59:58Z",
        "2099-12-31T23:59:59Z",
    );
    assert_last(
        "0 0 12 * * * *",
        "UTC",
        "2099-12-31T11:59:59Z",
        "2099-12-31T12:00:00Z",
    );
    assert_last(
        "0 0 0 29 2 * *",
        "UTC",
        "2092-03-01T00:00:00Z",
        "2096-02-29T00:00:00Z",
    );
    // the year is the zone's
    assert_last(
        "0 59 23 31 12 * *",
        "Asia/Kolkata",
        "2099-01-01T00:00:00Z",
        "2099-12-31T18:29:00Z",
    );
    assert_last(
        "0 59 23 31 12 * *",
        "America/New_York",
        "2099-12-31T23:00:00Z",
        "2100-01-01T04:59:00Z",
    );
    assert_firings(
        "0 0 0 1 1 * *",
        "UTC",
        "1960-01-01T00:00:00Z",
        &["1970-01-01T00:00:00Z", "1971-01-01T00:00:00Z"],
    );
    assert_firings(
        "0 0 0 * * * *",
        "Asia/Kolkata",
        "1960-01-01T00:00:00Z",
        &["1969-12-31T18:30:00Z"],
    );
    for zone in ["UTC", "Europe/Bucharest", "Pacific/Kiritimati"] {
        for line in ["* * * * * * *", "0 0-59 3 * * * *"] {
            let schedule = schedule(line, zone);
            assert_eq!(schedule.next_after(DateTime::<Utc>::MAX_UTC), None);
            assert!(schedule.next_after(DateTime::<Utc>::MIN_UTC).is_some());
        }
    }
}

#[test]
fn leap_years_and_rare_dates() {
    assert_firings(
        "0 0 0 29 2 * *",
        "UTC",
        "1999-01-01T00:00:00Z",
        &["2000-02-29T00:00:00Z", "2004-02-29T00:00:00Z"],
    );
    assert_firings(
        "0 0 0 29 feb sun *",
        "UTC",
        "2032-03-01T00:00:00Z",
        &["2060-02-29T00:00:00Z", "2088-02-29T00:00:00Z"],
    );
    assert_firings(
        "0 0 0 13 * 5 *",
        "UTC",
        "2026-04-01T00:00:00Z",
        &["2026-11-13T00:00:00Z", "2027-08-13T00:00:00Z"],
    );
    assert_firings(
        "0 0 0 Z0 2 * *",
        "UTC",
        "2027-01-01T00:00:00Z",
        &["2027-02-28T00:00:00Z", "2028-02-29T00:00:00Z"],
    );
}

#[test]
fn a_date_that_never_comes_is_no_run_and_a_warning() {
    for line in [
        "0 0 0 30 2 * *",
        "0 0 0 31 4,6,9,11 * *",
        "0 0 0 29 2 * 2025-2027",
        "0 0 0 1 * L5 *",
        "0 0 0 * * L5-3 *",
        "* * * 1-7 * L0-6 *",
        "0 0 0 29 2 sun 2033-2059",
    ] {
        let schedule = schedule(line, "Europe/Bucharest");
        assert_eq!(schedule.next_after(DateTime::<Utc>::MIN_UTC), None, "{line}");
        assert!(
            schedule
                .warnings()
                .iter()
                .any(|(_, text)| text.contains("never runs")),
            "{line}"
        );
    }
    // a date that has passed is none of the schedule's business
    assert_eq!(schedule("0 0 0 1 1 * 2020", "UTC").warnings(), vec![]);
}

#[test]
fn what_deserves_a_doubt_is_said() {
    let warned = |line: &str| {
        schedule(line, "UTC")
            .warnings()
            .into_iter()
            .map(|(field, _)| field)
            .collect::<Vec<_>>()
    };
    assert_eq!(warned("0 0 0 * * 0-0 *"), ["dow"]);
    assert_eq!(warned("0 0 0 * * sun-sun *"), ["dow"]);
    assert_eq!(warned("0 0 0 * * 1,L5-3 *"), ["dow"]);
    assert_eq!(warned("0 *,5 0 * * * *"), ["min"]);
    assert_eq!(warned("0 */5 9-17 15,L jan mon-fri *"), Vec::<&str>::new());
    assert_eq!(warned("0 0 0 ? * 7-7 *"), Vec::<&str>::new());
}

#[test]
fn all_problems_come_at_once_and_say_what_to_do() {
    let fields = Fields {
        min: "60,1,,2".into(),
        hour: "22-4".into(),
        dom: "L-3".into(),
        dow: "monday".into(),
        ..Fields::default()
    };
    let errors = Schedule::parse(&fields, Tz::UTC).unwrap_err();
    let shown: Vec<String> = errors.iter().map(FieldError::to_string).collect();
    assert_eq!(
        shown,
        [
            "field 'min': '60' is out of range: use 0-59",
            "field 'min': '60,1,,2' has an empty item: remove the extra comma",
            "field 'hour': '22-4' runs backwards: write 22-23,0-4",
            "field 'dom': 'L-3' is not supported: L stands alone, days before the last are written Z1 to Z7",
            "field 'mon': is empty: write '*' to match every value",
            "field 'dow': 'monday' has a name of more than three letters: write mon",
        ]
    );
}

#[test]
fn a_skipped_day_or_three_hours_are_dropped_and_less_is_caught_up() {
    // Samoa had no 30 December 2011
    assert_firings(
        "0 0 12 * * * *",
        "Pacific/Apia",
        "2011-12-29T23:00:00Z",
        &["2011-12-30T22:00:00Z"],
    );
    assert_firings(
        "0 0 12 30 12 * *",
        "Pacific/Apia",
        "2011-12-01T00:00:00Z",
        &["2012-12-29T22:00:00Z"],
    );
    assert_firings(
        "* 0-59 0-23 30 12 * 2011",
        "Pacific/Apia",
        "2011-12-01T00:00:00Z",
        &[],
    );
    assert_firings("* * * 30 12 * 2011", "Pacific/Apia", "2011-12-01T00:00:00Z", &[]);
    // exactly three hours (Casey, 2009), then two (Troll)
    assert_firings(
        "0 30 3 18 10 * 2009",
        "Antarctica/Casey",
        "2009-10-17T00:00:00Z",
        &[],
    );
    assert_firings(
        "0 30 2 29 3 * 2026",
        "Antarctica/Troll",
        "2026-03-28T00:00:00Z",
        &["2026-03-29T01:00:00Z"],
    );
    // a gap of 44 minutes and 30 seconds from midnight on
    assert_firings(
        "0 10 0 7 1 * 1972",
        "Africa/Monrovia",
        "1972-01-06T00:00:00Z",
        &["1972-01-07T00:44:30Z"],
    );
}

#[test]
fn wild_needs_a_star_at_the_start_of_an_item() {
    // 3:30 is repeated in Bucharest, and hour is 0, 3 or 23: a wild job runs in both passes, a fixed one in the first
    let (after, zone) = ("2026-10-25T00:10:00Z", "Europe/Bucharest");
    let passes = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"];
    assert_firings("0 30 3,*/23 25 10 * 2026", zone, after, &passes);
    assert_firings(
        "0 30 3,0,23 25 10 * 2026",
        zone,
        after,
        &[passes[0], "2026-10-25T21:30:00Z"],
    );
    assert!(schedule("0 30,*/59 3 * * * *", "UTC").wild);
    assert!(schedule("0 5,* 3 * * * *", "UTC").wild);
    assert!(!schedule("* 0-59 0-23 * * * *", "UTC").wild);
    assert!(!schedule("*/5 0/5 0/1 */2 * */2 *", "UTC").wild);
}

#[test]
fn equal_means_the_same_firings() {
    assert_eq!(
        schedule("0 0 0 * * 0-6 *", "UTC"),
        schedule("00 0 0 ? 1-12 * *", "UTC")
    );
    assert_ne!(
        schedule("0 0 * * * * *", "UTC"),
        schedule("0 0 0-23 * * * *", "UTC")
    );
    assert_ne!(
        schedule("0 0 0 * * * *", "UTC"),
        schedule("0 0 0 * * * *", "Europe/Bucharest")
    );
    assert_ne!(
        schedule("0 0 0 L * * *", "UTC"),
        schedule("0 0 0 31 * * *", "UTC")
    );
}

#[test]
fn an_unknown_zone_names_the_likeliest_one() {
    assert_eq!(zone("Europe/Bucharest"), Ok(Tz::Europe__Bucharest));
    assert_eq!(zone("UTC"), Ok(Tz::UTC));
    let suggested = |name: &str| zone(name).unwrap_err();
    assert_eq!(
        suggested("Europe/Bucarest"),
        "unknown zone 'Europe/Bucarest': did you mean 'Europe/Bucharest'?"
    );
    assert!(suggested("europe/bucharest").contains("'Europe/Bucharest'"));
    assert!(suggested("bucharest").contains("'Europe/Bucharest'"));
    assert!(suggested("New York").contains("'America/New_York'"));
    assert!(suggested("").contains("use an IANA name"));
}

#[test]
fn schedules_may_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug + PartialEq>() {}
    shared::<Schedule>();
    assert!(size_of::<Schedule>() <= 128, "{}", size_of::<Schedule>());
}

/// Not a benchmark: a search that walks the calendar second by second takes minutes here.
#[test]
fn rare_and_impossible_dates_stay_cheap() {
    let begun = crate::clock::mono();
    let lines = [
        "0 0 0 29 2 sun *",
        "* * * Z3 2 L1 *",
        "* * * L * 0 *",
        "0 0 0 30 2 * *",
        "* 0-59 0-23 30 12 * 2011",
    ];
    for line in lines {
        let schedule = schedule(line, "Pacific/Apia");
        let mut after = "2011-12-01T00:00:00Z".parse().unwrap();
        for _ in 0..2000 {
            let Some(next) = schedule.next_after(after) else {
                continue;
            };
            after = next;
        }
    }
    let elapsed = Duration::from_millis(crate::clock::mono().since_ms(begun));
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
}

fn check_firings(text: &str, count: usize) {
    let vectors = vectors(text);
    assert_eq!(vectors.len(), count);
    let mut wrong = Vec::new();
    for vector in vectors {
        let zone = zone(vector["tz"].as_str().unwrap()).unwrap();
        let schedule = match Schedule::parse(&vector_fields(&vector), zone) {
            Ok(schedule) => schedule,
            Err(errors) => panic!("{vector}: {errors:?}"),
        };
        let expected: Vec<DateTime<Utc>> = serde_json::from_value::<Vec<String>>(vector["next"].clone())
            .unwrap()
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let found = firings(&schedule, vector["after"].as_str().unwrap(), 3);
        if found != expected || !(vector["class"].is_null() || (vector["class"] == "wild") == schedule.wild) {
            wrong.push(format!("{vector}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
}

fn vectors(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn vector_fields(vector: &Value) -> Fields {
    let text = |name: &str| vector[name].as_str().unwrap().to_string();
    Fields {
        sec: text("sec"),
        min: text("min"),
        hour: text("hour"),
        dom: text("dom"),
        mon: text("mon"),
        dow: text("dow"),
        year: text("year"),
    }
}

fn rule(name: &str) -> &'static fields::Rule {
    let rules = [
        &fields::SEC,
        &fields::MIN,
        &fields::HOUR,
        &fields::DOM,
        &fields::MON,
        &fields::DOW,
        &fields::YEAR,
    ];
    rules.into_iter().find(|rule| rule.name == name).unwrap()
}

/// Seven fields in one line.
fn schedule(line: &str, name: &str) -> Schedule {
    let [sec, min, hour, dom, mon, dow, year] = line
        .split(' ')
        .map(String::from)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let fields = Fields {
        sec,
        min,
        hour,
        dom,
        mon,
        dow,
        year,
    };
    Schedule::parse(&fields, zone(name).unwrap()).unwrap_or_else(|errors| panic!("{line}: {errors:?}"))
}

fn firings(schedule: &Schedule, after: &str, count: usize) -> Vec<DateTime<Utc>> {
    let first = schedule.next_after(after.parse().unwrap());
    std::iter::successors(first, |firing| schedule.next_after(*firing))
        .take(count)
        .collect()
}

/// The first firings; none expected means that there is none at all.
fn assert_firings(line: &str, zone: &str, after: &str, expected: &[&str]) {
    let expected: Vec<DateTime<Utc>> = expected.iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(
        firings(&schedule(line, zone), after, expected.len().max(1)),
        expected,
        "{line} {zone} {after}"
    );
}

fn assert_last(line: &str, zone: &str, after: &str, last: &str) {
    let found = firings(&schedule(line, zone), after, 2);
    assert_eq!(
        found,
        [last.parse::<DateTime<Utc>>().unwrap()],
        "{line} {zone} {after}"
    );
}
