//! What goes: day files and rows of runs that ended before a moment, in small steps. Unfinished runs stay, and so
//! does the last ended run of each job, without its output. Must not know: when to take the next step.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use crate::clock::Wall;
use crate::limits;

use super::output::{self, DayFiles};
use super::{controls, directory, facts, notices};

/// A day file on its way out.
const REMOVED: &str = "removed";

/// One pass.
pub(super) struct Retention {
    before: Wall,
    stage: Stage,
    /// Runs up to here (start, id) are dealt with.
    cursor: (i64, i64),
    /// What has gone so far.
    runs: u64,
    day_files: u64,
}

/// Runs first: what is left of the old ones says which day files are still needed.
enum Stage {
    Runs,
    DayFiles,
    Verdicts,
    Audit,
    Notices,
    Specs,
}

impl Retention {
    pub(super) fn new(before: Wall) -> Retention {
        Retention {
            before,
            stage: Stage::Runs,
            cursor: (i64::MIN, i64::MIN),
            runs: 0,
            day_files: 0,
        }
    }

    /// What has gone, for the log; None: nothing.
    pub(super) fn summary(&self) -> Option<String> {
        let before = self.before.iso();
        (self.runs > 0 || self.day_files > 0).then(|| {
            format!(
                "history: removed {} runs that ended before {before}, and the output of {} days",
                self.runs, self.day_files
            )
        })
    }

    /// One step; true when nothing is left to do.
    pub(super) fn step(
        &mut self,
        state_dir: &Path,
        connection: &Connection,
        days: &mut DayFiles,
    ) -> Result<bool, String> {
        let is_stage_done = match self.stage {
            Stage::DayFiles => self.remove_day_file(state_dir, connection, days)?,
            Stage::Runs => in_transaction(connection, || self.remove_runs(connection))?,
            Stage::Verdicts => in_transaction(connection, || remove_verdicts(connection, self.before))?,
            Stage::Audit => in_transaction(connection, || controls::remove_old_audit(connection))?,
            Stage::Notices => in_transaction(connection, || notices::remove_old(connection, self.before))?,
            Stage::Specs => in_transaction(connection, || remove_specs(connection))?,
        };
        if is_stage_done {
            self.stage = match self.stage {
                Stage::Runs => Stage::DayFiles,
                Stage::DayFiles => Stage::Verdicts,
                Stage::Verdicts => Stage::Audit,
                Stage::Audit => Stage::Notices,
                Stage::Notices => Stage::Specs,
                Stage::Specs => return Ok(true),
            };
        }
        Ok(false)
    }

    fn remove_runs(&mut self, connection: &Connection) -> rusqlite::Result<bool> {
        keep_numbers(connection)?;
        let candidates: Vec<(i64, i64, bool)> = connection
            .prepare_cached(
                "SELECT started, id, stage = 'ended' AND coalesce(ended, started) < ?3 AND id <> (
                     SELECT later.id FROM runs AS later WHERE later.job = runs.job AND later.stage = 'ended'
                     ORDER BY later.id DESC LIMIT 1
                 ) FROM runs WHERE (started, id) > (?1, ?2) AND started < ?3 ORDER BY started, id LIMIT ?4",
            )?
            .query_map(
                params![
                    self.cursor.0,
                    self.cursor.1,
                    self.before.0,
                    limits::RETENTION_STEP_ROWS as i64
                ],
                |row| {
                    Ok((
                        row.get(0)?,
                        row.get(1)?,
                        row.get::<_, Option<bool>>(2)?.unwrap_or(false),
                    ))
                },
            )?
            .collect::<rusqlite::Result<_>>()?;
        let mut rows_left = limits::RETENTION_STEP_ROWS;
        for (started, id, may_go) in &candidates {
            if *may_go {
                let removed = connection
                    .prepare_cached(
                        "DELETE FROM machine_runs WHERE id IN (SELECT id FROM machine_runs WHERE run = ?1 LIMIT ?2)",
                    )?
                    .execute(params![id, rows_left as i64])?;
                rows_left -= removed;
                if rows_left == 0 {
                    return Ok(false);
                }
                connection
                    .prepare_cached("DELETE FROM runs WHERE id = ?1")?
                    .execute([id])?;
                rows_left -= 1;
                self.runs += 1;
            }
            self.cursor = (*started, *id);
            if rows_left == 0 {
                return Ok(false);
            }
        }
        Ok(candidates.is_empty())
    }

    /// Takes one day file out of sight, or a piece off one that is. True when none is left.
    fn remove_day_file(
        &mut self,
        state_dir: &Path,
        connection: &Connection,
        days: &mut DayFiles,
    ) -> Result<bool, String> {
        if let Some(path) = removed_file(state_dir).map_err(|error| error.to_string())? {
            shorten(&path).map_err(|error| format!("'{}': {error}", path.display()))?;
            return Ok(false);
        }
        let needed = days_needed(connection, self.before).map_err(|error| error.to_string())?;
        let known = output::days(state_dir).map_err(|error| error.to_string())?;
        let old = known
            .range(..self.before.utc_day())
            .find(|day| !needed.contains(day));
        let Some(day) = old else {
            return Ok(true);
        };
        days.close(*day);
        let path = output::path_of_day(state_dir, *day);
        hide(&path).map_err(|error| format!("'{}': {error}", path.display()))?;
        self.day_files += 1;
        Ok(false)
    }
}

/// Makes the numbers of removed rows stay used.
fn keep_numbers(connection: &Connection) -> rusqlite::Result<()> {
    for (key, table) in [
        (facts::NEXT_RUN, "runs"),
        (facts::NEXT_MACHINE_RUN, "machine_runs"),
    ] {
        let highest: Option<i64> = connection
            .prepare_cached(&format!("SELECT max(id) FROM {table}"))?
            .query_row([], |row| row.get(0))?;
        let kept = facts::meta(connection, key)?.unwrap_or(0);
        if let Some(highest) = highest
            && highest >= kept
        {
            facts::put_meta(connection, key, highest + 1)?;
        }
    }
    Ok(())
}

fn remove_verdicts(connection: &Connection, before: Wall) -> rusqlite::Result<bool> {
    let removed = connection
        .prepare_cached(
            "DELETE FROM verdicts WHERE (job, due, until) IN (SELECT job, due, until FROM verdicts WHERE until < ?1 LIMIT ?2)",
        )?
        .execute(params![before.0, limits::RETENTION_STEP_ROWS as i64])?;
    Ok(removed == 0)
}

fn remove_specs(connection: &Connection) -> rusqlite::Result<bool> {
    let removed = connection
        .prepare_cached(
            "DELETE FROM specs WHERE id IN (
                 SELECT id FROM specs WHERE NOT EXISTS(SELECT 1 FROM runs WHERE runs.spec = specs.id) LIMIT ?1
             )",
        )?
        .execute([limits::RETENTION_STEP_ROWS as i64])?;
    Ok(removed == 0)
}

/// Days before `before` on which a run started that has not ended, or ended later than that: its output is still kept.
fn days_needed(connection: &Connection, before: Wall) -> rusqlite::Result<HashSet<i64>> {
    connection
        .prepare_cached(
            "SELECT started FROM runs WHERE started < ?1 AND (stage <> 'ended' OR coalesce(ended, started) >= ?1)",
        )?
        .query_map([before.0], |row| Ok(Wall(row.get::<_, i64>(0)?).utc_day()))?
        .collect()
}

fn hide(path: &Path) -> io::Result<()> {
    // the file first: as long as it has its name, readers need its side files
    fs::rename(path, path.with_extension(REMOVED))?;
    output::remove_side_files(path)?;
    directory::sync_parent(path)
}

fn removed_file(state_dir: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(state_dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == REMOVED) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn shorten(path: &Path) -> io::Result<()> {
    let length = fs::metadata(path)?.len();
    if length <= limits::RETENTION_STEP_BYTES {
        return fs::remove_file(path);
    }
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length - limits::RETENTION_STEP_BYTES)
}

fn in_transaction(
    connection: &Connection,
    body: impl FnOnce() -> rusqlite::Result<bool>,
) -> Result<bool, String> {
    let run = || {
        let transaction = connection.unchecked_transaction()?;
        let is_done = body()?;
        transaction.commit()?;
        Ok(is_done)
    };
    run().map_err(|error: rusqlite::Error| error.to_string())
}
