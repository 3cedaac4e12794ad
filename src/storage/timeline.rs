//! Reading of all runs of a stretch of time, and of the due times in it that started nothing, for the timeline.
//! Must not know: HTTP, the storage thread, how runs are merged.

use rusqlite::params;

use crate::clock::Wall;
use crate::limits;

use super::reader::Reader;
use super::runs::IS_KILLED;

/// A run as the timeline shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineRun {
    pub job: String,
    pub instance: String,
    pub started: Wall,
    /// None: it has not ended.
    pub ended: Option<Wall>,
    /// None: it has not ended, or all its machines were in maintenance.
    pub success: Option<bool>,
    pub is_killed: bool,
}

/// A due time, or a stretch of them, that started nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineVerdict {
    pub job: String,
    pub due: Wall,
    /// The last due time of the stretch.
    pub until: Wall,
    pub count: u64,
    /// missed, overlap, maintenance or paused.
    pub why: String,
    pub reason: Option<String>,
}

impl Reader {
    /// Runs that were active at `from` or later and started before `until`, newest first: the latest
    /// [`limits::TIMELINE_RUNS`] of them. Of runs that started more than [`limits::TIMELINE_LOOKBACK_S`] before `from`,
    /// only those that are still active.
    pub fn timeline(&self, from: Wall, until: Wall) -> Result<Vec<TimelineRun>, String> {
        let earliest = from.plus_ms(-limits::TIMELINE_LOOKBACK_S * 1_000);
        self.with_state(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT job, instance, started, ended, success, coalesce({IS_KILLED}, 0) FROM runs
                         WHERE started < ?1 AND (started >= ?2 AND coalesce(ended >= ?3, 1)
                           OR id IN (SELECT id FROM runs WHERE stage <> 'ended'))
                         ORDER BY started DESC LIMIT ?4"
                ))?
                .query_map(
                    params![until.0, earliest.0, from.0, limits::TIMELINE_RUNS as i64],
                    |row| {
                        Ok(TimelineRun {
                            job: row.get(0)?,
                            instance: row.get(1)?,
                            started: Wall(row.get(2)?),
                            ended: row.get::<_, Option<i64>>(3)?.map(Wall),
                            success: row.get(4)?,
                            is_killed: row.get(5)?,
                        })
                    },
                )?
                .collect()
        })
    }

    /// Due times from `from` on and before `until` that started nothing, newest first: the latest
    /// [`limits::TIMELINE_VERDICTS`] records of them.
    pub fn timeline_verdicts(&self, from: Wall, until: Wall) -> Result<Vec<TimelineVerdict>, String> {
        self.with_state(|connection| {
            connection
                .prepare_cached(
                    "SELECT job, due, until, count, verdict, reason FROM verdicts
                         WHERE verdict <> 'started' AND due < ?1 AND due >= ?2 ORDER BY due DESC LIMIT ?3",
                )?
                .query_map(
                    params![until.0, from.0, limits::TIMELINE_VERDICTS as i64],
                    |row| {
                        Ok(TimelineVerdict {
                            job: row.get(0)?,
                            due: Wall(row.get(1)?),
                            until: Wall(row.get(2)?),
                            count: row.get::<_, i64>(3)? as u64,
                            why: row.get(4)?,
                            reason: row.get(5)?,
                        })
                    },
                )?
                .collect()
        })
    }
}
