//! Reading of runs: lists, one run with its machines, and how its machines ended.
//! Must not know: HTTP, the storage thread.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Row, params, params_from_iter};

use crate::clock::Wall;
use crate::engine::id::RunId;
use crate::engine::record::{MachineCounts, OutputPosition, RunRecord, StoredRun};
use crate::limits;

use super::facts::{self, RUN_COLUMNS};
use super::reader::Reader;
use super::{output, recover};

/// Which runs. Every field that is set narrows the choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    pub job: Option<String>,
    pub group: Option<String>,
    /// Runs with a machine run on this machine.
    pub machine: Option<String>,
    pub outcome: Option<RunOutcome>,
    /// Started at or after.
    pub from: Option<Wall>,
    /// Started before.
    pub until: Option<Wall>,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    Unfinished,
    Succeeded,
    /// Killed or otherwise.
    Failed,
    /// Of the failed: by kills alone.
    Killed,
    /// Ended, and said nothing about success: all its machines were in maintenance.
    Skipped,
}

/// The little that a list of recent runs shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunBrief {
    pub instance: String,
    pub started: Wall,
    /// None: it has not ended.
    pub ended: Option<Wall>,
    /// None: it has not ended, or all its machines were in maintenance.
    pub success: Option<bool>,
    /// It did not succeed, and nothing but kills kept it from that; who asked for them.
    pub is_killed: bool,
    pub killed_by: Option<String>,
    /// See [`RunRecord::duration_ms`].
    pub duration_ms: Option<u64>,
    /// None: it has not ended.
    pub counts: Option<MachineCounts>,
}

/// How the machines of a run have ended; those that do not count are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineTally {
    /// Outcomes in a word, and how many have each. None: not ended.
    pub outcomes: BTreeMap<Option<&'static str>, u32>,
    /// The first that failed, by name: exit code, and outcome in a word.
    pub failed: Vec<(String, i32, &'static str)>,
}

/// Which part of a long answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageOf {
    /// Only runs older than this one (the last of the page before).
    pub before: Option<RunId>,
    /// At most so many.
    pub limit: usize,
}

impl Reader {
    /// Runs that match, newest first (at most [`limits::HISTORY_PAGE`]).
    pub fn runs(&self, filter: &RunFilter, page: PageOf) -> Result<Vec<RunRecord>, String> {
        let (condition, values) = conditions(filter, page);
        let limit = page.limit.min(limits::HISTORY_PAGE);
        self.with_state(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {RUN_COLUMNS} FROM runs JOIN specs ON specs.id = runs.spec {condition}
                     ORDER BY runs.id DESC LIMIT {limit}"
                ))?
                .query_map(params_from_iter(values), facts::run_of_row)?
                .collect()
        })
    }

    /// A job's latest runs in brief, newest first.
    pub fn recent(&self, job: &str, limit: usize) -> Result<Vec<RunBrief>, String> {
        self.with_state(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT instance, started, ended, success, total, failed, killed, killed_by, duration_ms,
                             coalesce({IS_KILLED}, 0)
                         FROM runs WHERE job = ?1 ORDER BY id DESC LIMIT ?2"
                ))?
                .query_map(params![job, limit.min(limits::HISTORY_PAGE) as i64], |row| {
                    Ok(RunBrief {
                        instance: row.get(0)?,
                        started: Wall(row.get(1)?),
                        ended: row.get::<_, Option<i64>>(2)?.map(Wall),
                        success: row.get(3)?,
                        counts: facts::counts(row, 4)?,
                        killed_by: row.get(7)?,
                        duration_ms: row.get::<_, Option<i64>>(8)?.map(|ms| ms as u64),
                        is_killed: row.get(9)?,
                    })
                })?
                .collect()
        })
    }

    /// How a run's machines have ended, and the first `failed` that did not end well.
    pub fn tally(&self, instance: &str, failed: usize) -> Result<MachineTally, String> {
        self.with_state(|connection| {
            let mut outcomes = BTreeMap::new();
            let mut ends = connection.prepare_cached(
                "SELECT m.retcode, m.given_by, count(*) FROM machine_runs m JOIN runs r ON m.run = r.id
                 WHERE r.instance = ?1 AND NOT m.not_counted GROUP BY m.retcode, m.given_by",
            )?;
            let mut ends = ends.query([instance])?;
            while let Some(row) = ends.next()? {
                let count: u32 = row.get(2)?;
                *outcomes.entry(outcome(row, 0)?).or_default() += count;
            }
            let failed = connection
                .prepare_cached(
                    "SELECT m.machine, m.retcode, m.given_by FROM machine_runs m JOIN runs r ON m.run = r.id
                     WHERE r.instance = ?1 AND NOT m.not_counted AND m.retcode <> 0 ORDER BY m.machine LIMIT ?2",
                )?
                .query_map(params![instance, failed as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?, outcome(row, 1)?.unwrap_or_default()))
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(MachineTally { outcomes, failed })
        })
    }

    /// One run with its machine runs and where their outputs stand; None: no such run.
    pub fn run(&self, instance: &str) -> Result<Option<StoredRun>, String> {
        let found = self.with_state(|connection| {
            let Some(run) = recover::run(connection, instance)? else {
                return Ok(None);
            };
            let machines = recover::machines(connection, &run)?;
            Ok(Some((run, machines)))
        })?;
        let Some((run, machines)) = found else {
            return Ok(None);
        };
        let limit_bytes = run.spec.output_limit_bytes;
        let positions = self.with_day(run.day(), |file| {
            machines
                .iter()
                .map(|machine| output::position(file, machine.id, limit_bytes))
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let positions = positions.into_iter().flatten();
        let positions = positions.chain(std::iter::repeat_with(OutputPosition::default));
        let machines = machines.into_iter().zip(positions).collect();
        Ok(Some(StoredRun { run, machines }))
    }
}

/// [`RunRecord::is_killed`] of a row.
pub(super) const IS_KILLED: &str =
    "(runs.success = 0 AND runs.killed = runs.failed AND (runs.killed > 0 OR runs.kill_asked IS NOT NULL))";

/// A machine run's outcome in a word, of its code and, in the next column, who gave it.
fn outcome(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<&'static str>> {
    let code: Option<i32> = row.get(column)?;
    let given_by = facts::given_by(row, column + 1, code, false)?;
    Ok(code.zip(given_by).map(|(code, given_by)| given_by.outcome(code)))
}

fn conditions(filter: &RunFilter, page: PageOf) -> (String, Vec<Value>) {
    let mut conditions = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    let mut and = |condition: &'static str, value: Value| {
        conditions.push(condition);
        values.push(value);
    };
    if let Some(job) = &filter.job {
        and("runs.job = ?", job.clone().into());
    }
    if let Some(group) = &filter.group {
        and("runs.job_group = ?", group.clone().into());
    }
    if let Some(machine) = &filter.machine {
        and(
            "EXISTS(SELECT 1 FROM machine_runs WHERE machine_runs.run = runs.id AND machine = ?)",
            machine.clone().into(),
        );
    }
    match filter.outcome {
        None => {}
        Some(RunOutcome::Unfinished) => and("runs.stage <> ?", "ended".to_string().into()),
        Some(RunOutcome::Succeeded) => and("runs.success = ?", 1.into()),
        Some(RunOutcome::Failed) => and("runs.success = ?", 0.into()),
        Some(RunOutcome::Killed) => and("coalesce(IS_KILLED, 0) = ?", 1.into()),
        Some(RunOutcome::Skipped) => {
            let condition = "runs.success IS NULL AND runs.stage = ?";
            and(condition, "ended".to_string().into());
        }
    }
    if let Some(from) = filter.from {
        and("runs.started >= ?", from.0.into());
    }
    if let Some(until) = filter.until {
        and("runs.started < ?", until.0.into());
    }
    if let Some(before) = page.before {
        and("runs.id < ?", (before.0 as i64).into());
    }
    let text = if conditions.is_empty() {
        String::new()
    } else {
        format!("WHERE {}", conditions.join(" AND ")).replace("IS_KILLED", IS_KILLED)
    };
    (text, values)
}
