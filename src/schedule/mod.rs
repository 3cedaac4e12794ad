//! When a job is due (schedule.md). Placeholder of the interface until branch `schedule` is merged.

pub use chrono_tz::Tz;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub sec: String,
    pub min: String,
    pub hour: String,
    pub dom: String,
    pub mon: String,
    pub dow: String,
    pub year: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: &'static str,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    fields: Fields,
    zone: Tz,
}

impl Schedule {
    pub fn parse(fields: &Fields, zone: Tz) -> Result<Schedule, Vec<FieldError>> {
        Ok(Schedule {
            fields: fields.clone(),
            zone,
        })
    }

    pub fn next_after(&self, after: chrono::DateTime<chrono::Utc>) -> Option<chrono::DateTime<chrono::Utc>> {
        Some(after + chrono::TimeDelta::seconds(60))
    }

    pub fn warnings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

pub fn zone(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| format!("unknown zone '{name}'"))
}
