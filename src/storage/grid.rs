//! Reading of a job's latest runs with the outcome on each machine, for a grid of runs and machines.
//! Must not know: HTTP, the storage thread.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use crate::engine::id::RunId;
use crate::limits;

use super::facts;
use super::reader::Reader;
use super::runs::RunBrief;

/// Runs and machines, and how each run ended on each machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    /// Those with the most failures first; at most [`limits::GRID_MACHINES`].
    pub machines: Vec<String>,
    /// Machines of all these runs, also those that are left out.
    pub machine_count: usize,
    /// Newest first.
    pub runs: Vec<GridRun>,
}

/// One run of a [`Grid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridRun {
    pub brief: RunBrief,
    /// One for each machine of the grid. None: the machine is not in this run.
    pub cells: Vec<Option<GridCell>>,
}

/// How a run ended on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridCell {
    /// See [`crate::ending::GivenBy::outcome`]. None: it has not ended.
    pub outcome: Option<&'static str>,
    /// How long the command ran, in milliseconds, if that is known.
    pub duration_ms: Option<u64>,
}

impl Reader {
    /// A job's latest runs (at most [`limits::GRID_RUNS`]) on its machines. Fewer runs if they have so many machine runs
    /// that more than [`limits::GRID_SCAN`] would be read.
    pub fn grid(&self, job: &str, runs: usize) -> Result<Grid, String> {
        let briefs = self.recent(job, runs.min(limits::GRID_RUNS))?;
        self.with_state(|connection| {
            let mut scanned = 0;
            let mut read = Vec::new();
            for brief in briefs {
                if scanned >= limits::GRID_SCAN {
                    break;
                }
                let cells = cells(connection, &brief.instance)?;
                scanned += cells.len();
                read.push((brief, cells));
            }
            Ok(arrange(read))
        })
    }
}

type Cells = Vec<(String, bool, GridCell)>;

/// Each machine of a run: its name, whether it failed, and its cell.
fn cells(connection: &Connection, instance: &str) -> rusqlite::Result<Cells> {
    let mut statement = connection.prepare_cached("SELECT id FROM runs WHERE instance = ?1")?;
    let run = statement.query_row([instance], |row| row.get::<_, i64>(0).map(|id| RunId(id as u64)))?;
    connection
        .prepare_cached(
            "SELECT machine, retcode, given_by, not_counted, duration_ms FROM machine_runs WHERE run = ?1 LIMIT ?2",
        )?
        .query_map(params![run.0 as i64, limits::GRID_SCAN as i64], |row| {
            let code: Option<i32> = row.get(1)?;
            let not_counted = row.get(3)?;
            let given_by = facts::given_by(row, 2, code, not_counted)?;
            let cell = GridCell {
                outcome: code.zip(given_by).map(|(code, given_by)| given_by.outcome(code)),
                duration_ms: row.get::<_, Option<i64>>(4)?.map(|ms| ms as u64),
            };
            let has_failed = !not_counted && code.is_some_and(|code| code != 0);
            Ok((row.get(0)?, has_failed, cell))
        })?
        .collect()
}

/// Machines with the most failures come first, and are the ones that remain where there are too many.
fn arrange(read: Vec<(RunBrief, Cells)>) -> Grid {
    let mut failures: HashMap<&str, usize> = HashMap::new();
    for (machine, has_failed, _) in read.iter().flat_map(|(_, cells)| cells) {
        *failures.entry(machine).or_default() += usize::from(*has_failed);
    }
    let machine_count = failures.len();
    let mut order: Vec<(&str, usize)> = failures.into_iter().collect();
    order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    order.truncate(limits::GRID_MACHINES);
    let machines: Vec<String> = order.iter().map(|(machine, _)| (*machine).to_string()).collect();
    let places: HashMap<&str, usize> = machines
        .iter()
        .enumerate()
        .map(|(place, machine)| (machine.as_str(), place))
        .collect();
    let runs = read
        .iter()
        .map(|(brief, cells)| {
            let mut row = vec![None; machines.len()];
            for (machine, _, cell) in cells {
                if let Some(place) = places.get(machine.as_str()) {
                    row[*place] = Some(*cell);
                }
            }
            GridRun {
                brief: brief.clone(),
                cells: row,
            }
        })
        .collect();
    Grid {
        runs,
        machine_count,
        machines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;

    fn run(instance: &str, cells: Cells) -> (RunBrief, Cells) {
        let brief = RunBrief {
            instance: instance.into(),
            started: Wall::from_secs(1),
            ended: None,
            success: None,
            is_killed: false,
            killed_by: None,
            duration_ms: None,
            counts: None,
        };
        (brief, cells)
    }

    #[test]
    fn machines_that_failed_come_first_and_too_many_are_counted() {
        let cell = |outcome| GridCell {
            outcome: Some(outcome),
            duration_ms: None,
        };
        let many = (0..limits::GRID_MACHINES + 5).map(|at| (format!("m{at:04}"), at == 7, cell("success")));
        let read = vec![
            run("b", many.collect()),
            run("a", vec![("z".into(), true, cell("failed"))]),
        ];
        let grid = arrange(read);
        assert_eq!(grid.machine_count, limits::GRID_MACHINES + 6);
        assert_eq!(grid.machines.len(), limits::GRID_MACHINES);
        assert_eq!(grid.machines[..3], ["m0007", "z", "m0000"]);
        assert_eq!(grid.runs[1].cells[1], Some(cell("failed")));
        assert_eq!(grid.runs[1].cells[0], None);
        assert!(grid.runs.iter().all(|run| run.cells.len() == grid.machines.len()));
    }
}
