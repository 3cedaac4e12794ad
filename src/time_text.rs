//! The one grammar of moments and durations that users write, on the command line and in the API.
//! Must not know: what they are for.

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime};

use crate::clock::Wall;

/// What a message says is expected.
pub const MOMENTS: &str = "2026-11-21T10:00:00Z, 2026-11-21, now, now-2h or yesterday";

/// ISO 8601 (UTC where no offset is given), a date, `now`, `now-2h`, `yesterday` (its 0:00 UTC), or seconds since 1970.
pub fn moment(text: &str, now: Wall) -> Option<Wall> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("now") {
        return shifted(rest, now);
    }
    if text == "yesterday" {
        return midnight(now.utc().date_naive().checked_sub_days(Days::new(1))?);
    }
    // an offset's plus arrives as a space where it was not encoded in a URL
    let encoded = text.replacen(' ', "+", usize::from(text.contains('T')));
    if let Ok(time) = DateTime::parse_from_rfc3339(&encoded) {
        return Some(Wall::from_utc(time.to_utc()));
    }
    // as `date +%FT%T%z` has them
    for format in ["%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f %z"] {
        if let Ok(time) = DateTime::parse_from_str(&encoded, format) {
            return Some(Wall::from_utc(time.to_utc()));
        }
    }
    for format in [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text.trim_end_matches('Z'), format) {
            return Some(Wall::from_utc(time.and_utc()));
        }
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return midnight(date);
    }
    DateTime::from_timestamp(text.parse().ok()?, 0).map(Wall::from_utc)
}

/// Seconds of `90`, `90s`, `15m`, `2h`, `1d` or `1w`. Never negative.
pub fn duration_s(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let amount: i64 = text[..digits].parse().ok()?;
    let unit_s = match &text[digits..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    amount.checked_mul(unit_s)
}

/// What follows `now`: nothing, or a sign and a duration with its unit.
fn shifted(rest: &str, now: Wall) -> Option<Wall> {
    let sign = match rest.as_bytes().first() {
        None => return Some(now),
        Some(b'-') => -1_000,
        Some(b'+') => 1_000,
        Some(_) => return None,
    };
    let duration = &rest[1..];
    if duration.ends_with(|last: char| last.is_ascii_digit()) {
        return None;
    }
    Some(now.plus_ms(duration_s(duration)?.checked_mul(sign)?))
}

fn midnight(date: NaiveDate) -> Option<Wall> {
    Some(Wall::from_utc(date.and_hms_opt(0, 0, 0)?.and_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_users_and_the_legacy_react_ui_write_them() {
        let now = Wall::from_secs(1_000_000);
        for (text, wanted) in [
            ("now", Some(1_000_000)),
            ("now-5m", Some(999_700)),
            ("now-1h", Some(996_400)),
            ("now+1d", Some(1_086_400)),
            ("now-1w", Some(395_200)),
            ("yesterday", Some(864_000)),
            ("86400", Some(86_400)),
            ("1970-01-02", Some(86_400)),
            ("1970-01-02T00:00:00Z", Some(86_400)),
            ("1970-01-02T01:00:00+01:00", Some(86_400)),
            ("1970-01-02T01:00:00+0100", Some(86_400)),
            ("1970-01-02 01:00:00 +0100", Some(86_400)),
            ("1970-01-02T01:00:00 01:00", Some(86_400)),
            ("1970-01-02 00:00", Some(86_400)),
            ("now-", None),
            ("now-5", None),
            ("now-99999999999999999999w", None),
            ("now-9223372036854775807w", None),
            ("nowé", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(moment(text, now).map(Wall::secs), wanted, "{text}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, wanted) in [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("2h", Some(7_200)),
            ("15m", Some(900)),
            ("1w", Some(604_800)),
            ("h", None),
            ("-1h", None),
            ("1y", None),
            ("", None),
            ("9223372036854775807w", None),
        ] {
            assert_eq!(duration_s(text), wanted, "{text}");
        }
    }
}
