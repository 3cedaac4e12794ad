//! When a job is due, as its file says: seven fields or one text, and the zone.
//! Must not know: what the job does; how due times are found.

use std::collections::HashMap;

use super::job_fields::{JobFields, REQUIRED_FIELDS, SCHEDULE, SCHEDULE_FIELDS};
use super::lines::Style;
use super::node::Node;
use super::{crontab, value, yaml11};
use crate::clock;
use crate::schedule::{self, FieldError, Fields, Schedule, Tz};

/// Schedules of jobs that are read together: equal ones share what they hold, which is most of a job's memory.
#[derive(Default)]
pub struct Schedules(HashMap<String, Schedule>);

impl Schedules {
    fn parse(&mut self, fields: &Fields, zone: Tz) -> Result<Schedule, Vec<FieldError>> {
        let mut key = zone.name().to_string();
        for (_, text) in fields.named() {
            key.push('\n');
            key.push_str(text);
        }
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let schedule = Schedule::parse(fields, zone)?;
        self.0.insert(key, schedule.clone());
        Ok(schedule)
    }
}

impl JobFields<'_, '_> {
    pub(super) fn schedule(&mut self, default_zone: Tz, schedules: &mut Schedules) -> Option<Schedule> {
        let zone = self.zone(default_zone);
        let is_text = self.values.contains_key(SCHEDULE);
        let parsed = if is_text {
            self.schedule_text()?
        } else {
            self.schedule_fields()?
        };
        // a problem of the one text names the part of it, and stands at its line
        let place = |field: &'static str, reason: String| {
            if is_text {
                (SCHEDULE, format!("{field}: {reason}"))
            } else {
                (field, reason)
            }
        };
        match schedules.parse(&parsed, zone?) {
            Ok(schedule) => {
                let mut warnings = schedule.warnings();
                if warnings.is_empty() && schedule.next_after(clock::wall().utc()).is_none() {
                    warnings.push(("year", "is over: the schedule has no due time from now on".into()));
                }
                for (field, warning) in warnings {
                    let (field, warning) = place(field, warning);
                    self.warning(field, warning);
                }
                self.expanded = is_text.then_some(parsed);
                Some(schedule)
            }
            Err(errors) => {
                for error in errors {
                    let (field, reason) = place(error.field, error.reason);
                    self.error(field, reason);
                }
                None
            }
        }
    }

    /// `schedule: '*/5 * * * *'`, which stands instead of the seven fields.
    fn schedule_text(&mut self) -> Option<Fields> {
        let beside = SCHEDULE_FIELDS
            .into_iter()
            .find(|field| self.values.contains_key(*field));
        if let Some(field) = beside {
            self.error(
                SCHEDULE,
                format!("cannot stand beside '{field}'; remove one of them"),
            );
            return None;
        }
        let text = self.get(SCHEDULE, value::text).unwrap_or_default();
        match crontab::fields(&text) {
            Ok(fields) => {
                let is_restricted = |field: &str| !matches!(field, "*" | "?");
                if is_restricted(&fields.dom) && is_restricted(&fields.dow) {
                    let reason = "is due when day of month and day of week both match; cron takes either: write two jobs \
                                  for that";
                    self.warning(SCHEDULE, reason);
                }
                Some(fields)
            }
            Err(reason) => {
                self.error(SCHEDULE, reason);
                None
            }
        }
    }

    /// The seven fields.
    fn schedule_fields(&mut self) -> Option<Fields> {
        if !REQUIRED_FIELDS
            .iter()
            .any(|field| self.values.contains_key(*field))
        {
            self.error(
                "",
                "has no schedule: give min, hour, dom, mon and dow (each may be '*'), or 'schedule'",
            );
            return None;
        }
        let [sec, min, hour, dom, mon, dow, year] = SCHEDULE_FIELDS.map(|field| self.schedule_field(field));
        // each bad field is told by itself: those that are there are parsed even if others are missing
        let every = |field: Option<String>| field.unwrap_or_else(|| "*".to_string());
        Some(Fields {
            sec: sec.unwrap_or_else(|| "0".to_string()),
            min: every(min),
            hour: every(hour),
            dom: every(dom),
            mon: every(mon),
            dow: every(dow),
            year: every(year),
        })
    }

    /// One of the seven fields (schedule.md R1, R10); None: missing or no text.
    fn schedule_field(&mut self, field: &str) -> Option<String> {
        let Some(node) = self.values.get(field).copied() else {
            if REQUIRED_FIELDS.contains(&field) {
                self.error(field, "is missing; it may be '*'");
            }
            return None;
        };
        match node {
            Node::Int(value) => Some(value.to_string()),
            Node::Text(text) => {
                if yaml11::differs(text.trim())
                    && self.source.lines.style(&[self.name, field]) != Style::Quoted
                {
                    let old = yaml11::plain_text(text.trim());
                    self.warning(
                        field,
                        format!(
                            "'{text}' was {old} to the old daemon (YAML 1.1) unless quoted; put it in quotes"
                        ),
                    );
                }
                Some(text.clone())
            }
            other => {
                let kind = other.kind();
                self.error(
                    field,
                    format!("must be a text or a whole number, not {kind}; put it in quotes"),
                );
                None
            }
        }
    }

    /// schedule.md R6. None: an unknown zone, told.
    fn zone(&mut self, default: Tz) -> Option<Tz> {
        let utc = self.flag("utc", false);
        let named = self.text("timezone");
        if utc {
            if named.is_some() {
                self.warning("timezone", "has no effect beside 'utc: true'; remove one");
            }
            return Some(Tz::UTC);
        }
        let Some(name) = named else {
            return Some(default);
        };
        match schedule::zone(&name) {
            Ok(zone) => Some(zone),
            Err(reason) => {
                self.error("timezone", reason);
                None
            }
        }
    }
}
