//! Notices and what is remembered of jobs for them, as rows of `state.db`.
//! Must not know: what is told when, how it is delivered.

use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::Wall;
use crate::engine::notice::{NoticeRecord, NoticeStage, NoticeState};
use crate::limits;

use super::reader::Reader;

const COLUMNS: &str = "id, destination, at, not_before, message, stage, tries, error, done, facts";

/// Which notices, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoticeFilter {
    pub destination: Option<String>,
    pub job: Option<String>,
    pub stage: Option<NoticeStage>,
    /// Only older than this one.
    pub before: Option<u64>,
    pub limit: usize,
}

impl Reader {
    /// Notices (at most [`limits::HISTORY_PAGE`]).
    pub fn notices(&self, filter: &NoticeFilter) -> Result<Vec<NoticeRecord>, String> {
        self.with_state(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM notices
                     WHERE (?1 IS NULL OR destination = ?1) AND (?2 IS NULL OR job = ?2) AND (?3 IS NULL OR stage = ?3)
                       AND (?4 IS NULL OR id < ?4)
                     ORDER BY id DESC LIMIT ?5"
                ))?
                .query_map(
                    params![
                        filter.destination,
                        filter.job,
                        filter.stage.map(NoticeStage::word),
                        filter.before.map(|id| id as i64),
                        filter.limit.min(limits::HISTORY_PAGE) as i64,
                    ],
                    notice_of_row,
                )?
                .collect()
        })
    }

    /// One notice; None: there is none of that number.
    pub fn notice(&self, id: u64) -> Result<Option<NoticeRecord>, String> {
        self.with_state(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM notices WHERE id = ?1"))?
                .query_row([id as i64], notice_of_row)
                .optional()
        })
    }
}

/// Writes a notice as it is now.
pub(super) fn put(connection: &Connection, notice: &NoticeRecord) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO notices VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            notice.id as i64,
            notice.to,
            notice.at.0,
            notice.not_before.map(|at| at.0),
            notice.message,
            notice.stage.word(),
            notice.tries,
            notice.error,
            notice.done.map(|at| at.0),
            notice.facts.kind.word(),
            notice.facts.job,
            text_of(&*notice.facts)?,
        ])?;
    Ok(())
}

/// Writes what is remembered of a job.
pub(super) fn put_state(connection: &Connection, job: &str, state: &NoticeState) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO notice_states VALUES(?1, ?2)")?
        .execute(params![job, text_of(state)?])?;
    Ok(())
}

/// Notices that are on their way, in the order in which they were made.
pub(super) fn waiting(connection: &Connection) -> rusqlite::Result<Vec<NoticeRecord>> {
    connection
        .prepare(&format!(
            "SELECT {COLUMNS} FROM notices WHERE stage = 'waiting' ORDER BY id"
        ))?
        .query_map([], notice_of_row)?
        .collect()
}

/// What is remembered of jobs.
pub(super) fn states(connection: &Connection) -> rusqlite::Result<Vec<(String, NoticeState)>> {
    connection
        .prepare("SELECT job, state FROM notice_states ORDER BY job")?
        .query_map([], |row| {
            let text: String = row.get(1)?;
            // what an older or newer version has written is no reason not to start
            Ok((row.get(0)?, serde_json::from_str(&text).unwrap_or_default()))
        })?
        .collect()
}

/// How many were given up, by destination, since the last that was delivered.
pub(super) fn given_up(connection: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    connection
        .prepare(
            "SELECT destination, count(*) FROM notices WHERE stage = 'failed' AND kind <> 'test' AND coalesce(done, at) > coalesce((
                 SELECT max(later.done) FROM notices AS later
                 WHERE later.destination = notices.destination AND later.stage = 'sent'
             ), 0) GROUP BY destination ORDER BY destination",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?
        .collect()
}

/// The first number that is not used.
pub(super) fn next_id(connection: &Connection) -> rusqlite::Result<u64> {
    let highest: Option<i64> = connection.query_row("SELECT max(id) FROM notices", [], |row| row.get(0))?;
    Ok(highest.unwrap_or(0) as u64 + 1)
}

/// Removes some of those that are done since before then, and all but the latest [`limits::NOTICES_KEPT`]; true when
/// nothing is left to remove. The latest stays, so that no number is used twice.
pub(super) fn remove_old(connection: &Connection, before: Wall) -> rusqlite::Result<bool> {
    let removed = connection
        .prepare_cached(
            "DELETE FROM notices WHERE id IN (
                 SELECT id FROM notices WHERE stage <> 'waiting' AND id < (SELECT max(id) FROM notices)
                   AND (coalesce(done, at) < ?1 OR id <= (SELECT max(id) FROM notices) - ?2)
                 ORDER BY id LIMIT ?3
             )",
        )?
        .execute(params![
            before.0,
            limits::NOTICES_KEPT as i64,
            limits::RETENTION_STEP_ROWS as i64
        ])?;
    Ok(removed == 0)
}

fn text_of(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn notice_of_row(row: &Row<'_>) -> rusqlite::Result<NoticeRecord> {
    let wall = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(Wall));
    let (stage, facts): (String, String) = (row.get(5)?, row.get(9)?);
    let facts = serde_json::from_str(&facts)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(9, Type::Text, Box::new(error)))?;
    Ok(NoticeRecord {
        id: row.get::<_, i64>(0)? as u64,
        to: row.get(1)?,
        at: Wall(row.get(2)?),
        not_before: wall(3)?,
        message: row.get(4)?,
        stage: NoticeStage::of_word(&stage).unwrap_or_default(),
        tries: row.get(6)?,
        error: row.get(7)?,
        done: wall(8)?,
        facts: Arc::new(facts),
    })
}
