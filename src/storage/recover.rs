//! What a daemon starts from, and one run on demand: rows of `state.db` joined with where their outputs stand.
//! Must not know: the thread, writes.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::clock::Wall;
use crate::engine::record::{MachineRecord, OutputPosition, Recovered, RunRecord, StoredRun};

use super::controls;
use super::facts::{self, MACHINE_COLUMNS, RUN_COLUMNS};
use super::output::{self, DayFiles, OutputError};
use super::{notices, schema};

/// Reads everything that [`Recovered`] has. The error names the file.
pub(super) fn recover(
    connection: &Connection,
    days: &mut DayFiles,
    state_dir: &Path,
) -> Result<Recovered, String> {
    let from_state = |error: rusqlite::Error| schema::describe(&state_dir.join("state.db"), &error);
    let highest_output = highest_machine_run(days, state_dir)?;
    let next = |key, table| next_number(connection, key, table).map_err(from_state);
    let last_look = facts::meta(connection, facts::LAST_LOOK)
        .map_err(from_state)?
        .map(Wall);
    let history_clock = facts::meta(connection, facts::HISTORY_CLOCK)
        .map_err(from_state)?
        .map(Wall);
    let doubt = facts::meta(connection, facts::DOUBT)
        .map_err(from_state)?
        .map(Wall);
    let mut recovered = Recovered {
        last_look,
        history_clock,
        doubt,
        verdicts: facts::verdicts_since_look(connection).map_err(from_state)?,
        next_run: next(facts::NEXT_RUN, "runs")?,
        // output is committed before the facts it belongs to: a crash between the two leaves rows of a number that
        // no fact has, and that must not be given to another machine
        next_machine_run: next(facts::NEXT_MACHINE_RUN, "machine_runs")?.max(highest_output + 1),
        jobs: facts::jobs(connection).map_err(from_state)?,
        runs: Vec::new(),
        controls: controls::in_force(connection).map_err(from_state)?,
        notices: notices::waiting(connection).map_err(from_state)?,
        next_notice: notices::next_id(connection).map_err(from_state)?,
        notice_states: notices::states(connection).map_err(from_state)?,
        notices_given_up: notices::given_up(connection).map_err(from_state)?,
    };
    let mut stored = Vec::new();
    for run in runs_to_take_up(connection).map_err(from_state)? {
        let machines = machines(connection, &run).map_err(from_state)?;
        stored.push((run, machines));
    }
    // one day file after the other, each from its beginning: every page is read once
    stored.sort_by_key(|(run, _)| (run.day(), run.id));
    for (run, machines) in stored {
        recovered.runs.push(with_positions(days, run, machines));
    }
    recovered.runs.sort_by_key(|stored| stored.run.id);
    Ok(recovered)
}

/// One run with everything; None: no such run.
pub(super) fn load(
    connection: &Connection,
    days: &mut DayFiles,
    instance: &str,
) -> rusqlite::Result<Option<StoredRun>> {
    let Some(run) = run(connection, instance)? else {
        return Ok(None);
    };
    let machines = machines(connection, &run)?;
    Ok(Some(with_positions(days, run, machines)))
}

/// One run without its machines; None: no such run.
pub(super) fn run(connection: &Connection, instance: &str) -> rusqlite::Result<Option<RunRecord>> {
    connection
        .prepare_cached(&format!(
            "SELECT {RUN_COLUMNS} FROM runs JOIN specs ON specs.id = runs.spec WHERE instance = ?1"
        ))?
        .query_row([instance], facts::run_of_row)
        .optional()
}

/// A run's machine runs, in the order of their starts.
pub(super) fn machines(connection: &Connection, run: &RunRecord) -> rusqlite::Result<Vec<MachineRecord>> {
    connection
        .prepare_cached(&format!(
            "SELECT {MACHINE_COLUMNS} FROM machine_runs WHERE run = ?1 ORDER BY position, id"
        ))?
        .query_map([run.id.0 as i64], facts::machine_of_row)?
        .collect()
}

/// Runs that are unfinished or have an unfinished machine run, and the last ended run of each job.
fn runs_to_take_up(connection: &Connection) -> rusqlite::Result<Vec<RunRecord>> {
    // the jobs are walked name by name along the index: a run may be of a job that has no record
    let mut statement = connection.prepare(&format!(
        "WITH RECURSIVE names(job) AS (
             SELECT min(job) FROM runs
             UNION ALL
             SELECT (SELECT min(job) FROM runs WHERE job > names.job) FROM names WHERE job IS NOT NULL
         ), wanted(id) AS (
             SELECT id FROM runs WHERE stage <> 'ended'
             UNION
             SELECT run FROM machine_runs WHERE stage <> 'ended'
             UNION
             SELECT (SELECT id FROM runs WHERE runs.job = names.job AND stage = 'ended' ORDER BY id DESC LIMIT 1)
             FROM names WHERE names.job IS NOT NULL
         )
         SELECT {RUN_COLUMNS} FROM wanted JOIN runs ON runs.id = wanted.id JOIN specs ON specs.id = runs.spec"
    ))?;
    let runs = statement.query_map([], facts::run_of_row)?;
    runs.collect()
}

/// A day file that cannot be read costs its outputs, never the start of the daemon.
fn with_positions(days: &mut DayFiles, run: RunRecord, machines: Vec<MachineRecord>) -> StoredRun {
    let limit_bytes = run.spec.output_limit_bytes;
    let day = run.day();
    let positions = match days.existing(day) {
        Ok(None) => Vec::new(),
        Ok(Some(file)) => machines
            .iter()
            .map(|machine| output::position(file, machine.id, limit_bytes))
            .collect::<rusqlite::Result<Vec<OutputPosition>>>()
            .unwrap_or_else(|error| lost_output(&run, &OutputError::Sqlite(day, error))),
        Err(error) => lost_output(&run, &error),
    };
    let positions = positions
        .into_iter()
        .chain(std::iter::repeat_with(OutputPosition::default));
    StoredRun {
        machines: machines.into_iter().zip(positions).collect(),
        run,
    }
}

fn lost_output(run: &RunRecord, error: &OutputError) -> Vec<OutputPosition> {
    log::error!(
        "cannot read the output of run '{}' ({})",
        run.instance,
        error.describe()
    );
    Vec::new()
}

fn highest_machine_run(days: &mut DayFiles, state_dir: &Path) -> Result<u64, String> {
    let known = output::days(state_dir)
        .map_err(|error| format!("cannot list state_dir '{}': {error}", state_dir.display()))?;
    let mut highest = 0;
    for day in known {
        let found = match days.existing(day) {
            Ok(Some(file)) => {
                output::highest_machine_run(file).map_err(|error| OutputError::Sqlite(day, error))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => highest = highest.max(found.unwrap_or(0) as u64),
            Err(OutputError::Sqlite(_, error)) if schema::is_damage(&error) => {
                set_aside(days, state_dir, day, &error)?;
            }
            Err(OutputError::Sqlite(_, error)) if schema::is_newer(&error) => {
                return Err(format!("cannot use state_dir '{}': {error}", state_dir.display()));
            }
            Err(error) => {
                return Err(format!(
                    "cannot use state_dir '{}': {}; mend its rights, or set another state_dir",
                    state_dir.display(),
                    error.describe()
                ));
            }
        }
    }
    Ok(highest)
}

/// A damaged day file is kept for people under another name; its outputs are not shown any more.
pub(super) fn set_aside(
    days: &mut DayFiles,
    state_dir: &Path,
    day: i64,
    error: &rusqlite::Error,
) -> Result<(), String> {
    days.close(day);
    let path = output::path_of_day(state_dir, day);
    for suffix in ["", "-wal", "-shm"] {
        let mut from = path.clone().into_os_string();
        from.push(suffix);
        let mut to = path.clone().into_os_string();
        to.push(format!(".damaged{suffix}"));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {}
            Err(failed) => {
                return Err(format!(
                    "cannot rename the damaged '{}': {failed}",
                    path.display()
                ));
            }
        }
    }
    log::error!(
        "'{}' is damaged ({error}): it is kept as '.damaged', and its outputs are not shown any more",
        path.display()
    );
    Ok(())
}

fn next_number(connection: &Connection, key: &str, table: &str) -> rusqlite::Result<u64> {
    let highest: Option<i64> =
        connection.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| row.get(0))?;
    let counted = facts::meta(connection, key)?.unwrap_or(1);
    Ok(counted.max(highest.unwrap_or(0) + 1) as u64)
}
