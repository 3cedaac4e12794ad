//! Query strings and forms: names and values, and moments in time as people write them.
//! Must not know: what they ask for.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::error::{Denied, bad};
use crate::clock::Wall;
use crate::url::percent_decode;

/// Names and values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// `a=b&c=d`, percent-encoded, `+` for a space.
    pub fn parse(text: &str) -> Query {
        let decode = |part: &str| percent_decode(&part.replace('+', " "));
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Query(pairs.collect())
    }

    /// A name's first value; an empty one counts as none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given(name).filter(|value| !value.is_empty())
    }

    /// A name's first value, also an empty one.
    pub fn given(&self, name: &str) -> Option<&str> {
        let mut of_name = self.0.iter().filter(|(known, _)| known == name);
        of_name.next().map(|(_, value)| value.as_str())
    }

    /// [`Query::get`] as an owned text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_string)
    }

    /// A whole number in that range.
    pub fn number(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Denied> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let number = text
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse().ok());
        match number.flatten().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(bad(format!(
                "'{name}' must be a whole number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }

    /// `1`, `true` or nothing for yes.
    pub fn flag(&self, name: &str) -> Result<bool, Denied> {
        match self.given(name) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true" | "") => Ok(true),
            Some(_) => Err(bad(format!("'{name}' must be 1 or 0"))),
        }
    }

    /// A moment, as [`moment`] reads it.
    pub fn moment(&self, name: &str, now: Wall) -> Result<Option<Wall>, Denied> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        moment(text, now).map(Some).ok_or_else(|| {
            bad(format!(
                "invalid time in '{name}': expected 2026-11-21T10:00:00Z, now or now-1h"
            ))
        })
    }
}

/// ISO 8601 (UTC where no offset is given), a date, `now`, or date math as `now-5m` (s, m, h, d, w).
pub fn moment(text: &str, now: Wall) -> Option<Wall> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("now") {
        return date_math(rest, now);
    }
    // an offset's plus arrives as a space where it was not encoded
    let encoded = text.replacen(' ', "+", usize::from(text.contains('T')));
    if let Ok(time) = DateTime::parse_from_rfc3339(&encoded) {
        return Some(Wall::from_utc(time.to_utc()));
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
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(Wall::from_utc(date.and_hms_opt(0, 0, 0)?.and_utc()))
}

fn date_math(rest: &str, now: Wall) -> Option<Wall> {
    if rest.is_empty() {
        return Some(now);
    }
    let sign = match rest.as_bytes().first()? {
        b'-' => -1,
        b'+' => 1,
        _ => return None,
    };
    let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
    let amount: i64 = rest[1..1 + digits].parse().ok()?;
    let unit_s = match &rest[1 + digits..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    let shift_ms = amount.checked_mul(unit_s)?.checked_mul(sign * 1_000)?;
    Some(now.plus_ms(shift_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_and_the_old_ui_write_them() {
        let now = Wall::from_secs(1_000_000);
        for (text, wanted) in [
            ("now", Some(1_000_000)),
            ("now-5m", Some(999_700)),
            ("now-1h", Some(996_400)),
            ("now+1d", Some(1_086_400)),
            ("1970-01-02", Some(86_400)),
            ("1970-01-02T00:00:00Z", Some(86_400)),
            ("1970-01-02T01:00:00+01:00", Some(86_400)),
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
    fn values_are_decoded_and_bounded() {
        let query = Query::parse("job=a%26b+c&limit=7&limit=9&empty=&follow&x=%zz");
        assert_eq!(query.get("job"), Some("a&b c"));
        assert_eq!(query.number("limit", 1..=10).unwrap(), Some(7));
        assert!(query.number("limit", 1..=5).is_err());
        assert!(query.number("job", 1..=5).is_err());
        assert_eq!(query.get("empty"), None);
        assert!(query.flag("follow").unwrap());
        assert!(query.flag("job").is_err());
        assert_eq!(query.get("x"), Some("%zz"));
    }
}
