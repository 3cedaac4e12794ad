//! When a job is due: seven fields and a zone become a `Schedule`, which is asked for the next firing.
//! Must not know: jobs, files, the time it is. Pure: neither clock nor I/O.
//!
//! `fields` reads the text, `next` searches the wall clock's calendar, `zone` turns wall readings into instants,
//! `count` counts firings without a walk along them.

mod count;
mod fields;
mod next;
mod zone;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::fmt;

use chrono::{DateTime, Utc};
pub use chrono_tz::Tz;

use fields::{Parsed, Rule};
use next::{WallSet, Walls};
pub use zone::zone;

/// The seven fields as text, as the job file has them (integers already turned into decimal text).
///
/// The default has the two fields that a job may leave out (`sec: 0`, `year: *`); the others are empty, which
/// `Schedule::parse` rejects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    pub sec: String,
    pub min: String,
    pub hour: String,
    pub dom: String,
    pub mon: String,
    pub dow: String,
    pub year: String,
}

/// When a job is due, in its zone. Two schedules are equal when they mean the same, however they were written.
#[derive(Clone, Debug)]
pub struct Schedule {
    walls: Walls,
    zone: Tz,
    /// An item of min or hour starts with `*`: the job follows the running clock where clocks change.
    wild: bool,
    warnings: Vec<(&'static str, String)>,
}

/// Why one field is no schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// As the job file names it: sec, min, hour, dom, mon, dow, year.
    pub field: &'static str,
    pub reason: String,
}

impl Schedule {
    /// The zone whose wall clock it means.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// A short text that is another one for schedules that mean something else.
    pub fn mark(&self) -> String {
        let wild = if self.wild { "*" } else { "" };
        format!("{}{wild} {}", self.walls.mark(), self.zone)
    }

    /// All problems at once.
    pub fn parse(fields: &Fields, zone: Tz) -> Result<Schedule, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        let parsed = fields.with_rules().map(|(rule, text)| {
            let parsed = fields::parse(rule, text).unwrap_or_else(|reasons| {
                errors.extend(reasons.into_iter().map(|reason| FieldError {
                    field: rule.name,
                    reason,
                }));
                Parsed::default()
            });
            warnings.extend(parsed.warnings.iter().map(|warning| (rule.name, warning.clone())));
            parsed
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        let [_, min, hour, ..] = &parsed;
        let wild = min.starred || hour.starred;
        let walls = Walls::new(WallSet::new(&parsed)).map_err(|reason| {
            vec![FieldError {
                field: fields::MIN.name,
                reason,
            }]
        })?;
        if walls.is_never() {
            let reason =
                "no day from 1970 to 2099 matches dom, mon, dow and year together: the job never runs";
            warnings.push((fields::DOM.name, reason.into()));
        }
        Ok(Schedule {
            walls,
            zone,
            wild,
            warnings,
        })
    }

    /// First firing strictly after `after`; None: never again. Cheap when repeated.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // firings are whole seconds, so the fraction of `after` decides nothing
        let after = after.timestamp();
        let next_wall = |wall| self.walls.next(wall);
        let firing = if self.wild {
            zone::next_running(next_wall, self.zone, after)
        } else {
            zone::next_fixed(next_wall, self.zone, after)
        };
        DateTime::from_timestamp(firing?, 0)
    }

    /// How many firings there are after `after`, up to and including `until`: computed, not walked.
    pub fn count(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> u64 {
        self.count_secs(after.timestamp(), until.timestamp())
    }

    /// The last firing after `after`, up to and including `until`.
    pub fn last_in(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let until = until.timestamp();
        let last = count::last(after.timestamp(), until, |from| self.count_secs(from, until) > 0);
        DateTime::from_timestamp(last?, 0)
    }

    fn count_secs(&self, after: i64, until: i64) -> u64 {
        if self.walls.is_never() {
            return 0;
        }
        count::firings(self.walls.set(), self.zone, self.wild, after, until)
    }

    /// What loads but deserves a doubt (such as dow `0-0` = every day): field and text.
    pub fn warnings(&self) -> Vec<(&'static str, String)> {
        self.warnings.clone()
    }
}

impl Fields {
    /// The seven, from `sec` to `year`, each with its name in a job file.
    pub fn named(&self) -> [(&'static str, &str); 7] {
        self.with_rules().map(|(rule, text)| (rule.name, text))
    }

    /// In the order of a schedule's sets.
    fn with_rules(&self) -> [(&'static Rule, &str); 7] {
        [
            (&fields::SEC, &self.sec),
            (&fields::MIN, &self.min),
            (&fields::HOUR, &self.hour),
            (&fields::DOM, &self.dom),
            (&fields::MON, &self.mon),
            (&fields::DOW, &self.dow),
            (&fields::YEAR, &self.year),
        ]
    }
}

impl Default for Fields {
    fn default() -> Fields {
        let required = String::new;
        Fields {
            sec: "0".into(),
            min: required(),
            hour: required(),
            dom: required(),
            mon: required(),
            dow: required(),
            year: "*".into(),
        }
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Schedule) -> bool {
        self.walls == other.walls && self.zone == other.zone && self.wild == other.wild
    }
}

impl Eq for Schedule {}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "field '{}': {}", self.field, self.reason)
    }
}

impl std::error::Error for FieldError {}
