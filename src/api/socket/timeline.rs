//! The UI's timeline: from when to when, and what happened in between.
//! Must not know: sockets, SQL.

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde::Serialize;
use serde_json::Value;

use crate::clock::Wall;
use crate::limits;
use crate::storage::{MachineRunRow, Reader};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    cron: String,
    timestamp: String,
    /// Empty at a start.
    ret_code: Value,
    msg_type: &'static str,
    job_instance: String,
    #[serde(skip)]
    at: Wall,
}

/// What happened from `from` to `until`, ascending; of more than [`limits::UI_TIMELINE_MACHINE_RUNS`] machine runs
/// the newest.
pub fn read(reader: &Reader, from: Option<Wall>, until: Option<Wall>) -> Result<Vec<Entry>, String> {
    let from = from.unwrap_or(Wall(i64::MIN));
    let until = until.unwrap_or(Wall(i64::MAX));
    // a run may have begun before and ended within
    let earliest = from.plus_ms(-limits::UI_TIMELINE_BEFORE_S * 1_000);
    let rows = reader.machine_runs(earliest, until, limits::UI_TIMELINE_MACHINE_RUNS)?;
    let mut entries: Vec<Entry> = rows.iter().flat_map(entries).collect();
    entries.retain(|entry| (from..=until).contains(&entry.at));
    entries.sort_by_key(|entry| entry.at);
    Ok(entries)
}

fn entries(row: &MachineRunRow) -> impl Iterator<Item = Entry> {
    let entry = |at: Wall, msg_type, ret_code| Entry {
        cron: row.job.clone(),
        timestamp: at.iso(),
        ret_code,
        msg_type,
        job_instance: row.instance.clone(),
        at,
    };
    let started = row.started.map(|at| entry(at, "machine_start", "".into()));
    let ended = row
        .ended
        .map(|at| entry(at, "machine_result", row.retcode.unwrap_or(255).into()));
    started.into_iter().chain(ended)
}

/// A date as the UI gives it: ISO, date math (`now-5m`), or null for none.
pub fn moment(value: &Value, now: Wall) -> Result<Option<Wall>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => text.trim(),
        other => return Err(format!("'{other}' is no date")),
    };
    let found = match text.strip_prefix("now") {
        Some(math) => date_math(math, now),
        None => iso(text),
    };
    found
        .map(Some)
        .ok_or_else(|| format!("'{text}' is neither an ISO date nor date math such as now-5m"))
}

fn iso(text: &str) -> Option<Wall> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(Wall::from_utc(time.to_utc()));
    }
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let naive = naive.or_else(|| {
        NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()?
            .and_hms_opt(0, 0, 0)
    });
    naive.map(|time| Wall::from_utc(time.and_utc()))
}

/// What follows `now`: steps as `-5m`, `+1h`, and a rounding down as `/d`.
fn date_math(mut math: &str, now: Wall) -> Option<Wall> {
    let mut at = now;
    while let Some(sign) = math.chars().next() {
        math = &math[sign.len_utf8()..];
        if sign == '/' {
            let unit_s = unit_s(math.chars().next()?)?;
            at = Wall::from_secs(at.secs() - at.secs().rem_euclid(unit_s));
            math = &math[1..];
            continue;
        }
        let direction: i64 = match sign {
            '-' => -1,
            '+' => 1,
            _ => return None,
        };
        let digits = math.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = match digits {
            0 => 1,
            _ => math[..digits].parse().ok()?,
        };
        let unit_s = unit_s(math[digits..].chars().next()?)?;
        at = at.plus_ms(direction * count.saturating_mul(unit_s).saturating_mul(1_000));
        math = &math[digits + 1..];
    }
    Some(at)
}

fn unit_s(unit: char) -> Option<i64> {
    match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' | 'H' => Some(3_600),
        'd' => Some(86_400),
        'w' => Some(7 * 86_400),
        'M' => Some(30 * 86_400),
        'y' => Some(365 * 86_400),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall(1_000_000_000_000_000);

    fn at(text: &str) -> Option<i64> {
        moment(&text.into(), NOW).ok()?.map(Wall::secs)
    }

    #[test]
    fn dates_are_iso_or_date_math() {
        let now = NOW.secs();
        for (text, expected) in [
            ("now", now),
            ("now-5m", now - 300),
            ("now-1h", now - 3_600),
            ("now-1d+2h", now - 86_400 + 7_200),
            ("now/d", now - now % 86_400),
            ("2001-09-09T01:46:40+00:00", now),
            ("2001-09-09T03:46:40.000+02:00", now),
            ("2001-09-09T01:46:40.000Z", now),
            ("2001-09-09 01:46:40", now),
            ("2001-09-09", now - now % 86_400),
        ] {
            assert_eq!(at(text), Some(expected), "{text}");
        }
        assert_eq!(moment(&Value::Null, NOW), Ok(None));
        for wrong in [
            "nowhere",
            "now-",
            "now-5",
            "now-5\u{20ac}",
            "now/\u{e4}",
            "yesterday",
            "now-99999999999999999999d",
        ] {
            assert!(moment(&wrong.into(), NOW).is_err(), "{wrong}");
        }
        assert!(moment(&5.into(), NOW).is_err());
        assert!(at("now-9223372036854775807y").is_some(), "saturates");
    }

    #[test]
    fn a_machine_run_is_a_start_and_a_result() {
        let row = MachineRunRow {
            job: "j".into(),
            instance: "j_1".into(),
            run_started: Wall(0),
            started: Some(Wall(1)),
            ended: Some(Wall(2)),
            retcode: Some(3),
        };
        let found: Vec<Entry> = entries(&row).collect();
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json[0]["msg_type"], "machine_start");
        assert_eq!(json[1]["ret_code"], 3);
        assert_eq!(json[1]["job_instance"], "j_1");
        assert!(json[1].get("at").is_none());
    }
}
