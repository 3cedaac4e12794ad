//! `GET /api/v1/jobs/{job}/grid`: a job's latest runs on each of its machines.
//! Must not know: how the page shows it.

use serde_json::{Value, json};

use super::call::{Answered, Call};
use super::error::{missing, unreadable};
use super::http::Response;
use super::views;
use crate::limits;
use crate::storage::{GridCell, GridRun};

/// `GET /api/v1/jobs/{job}/grid`.
pub fn grid(call: &Call) -> Answered {
    let name = call.parts[0].as_str();
    if !call.board.jobs.contains_key(name) {
        return Err(missing(views::no_such_job(&call.board, name)));
    }
    let runs = call.query.number("runs", 1..=limits::GRID_RUNS as u64)?;
    let runs = runs.map_or(limits::GRID_RUNS, |runs| runs as usize);
    let grid = call.shared.reader.lock().grid(name, runs).map_err(unreadable)?;
    let shown: Vec<Value> = grid.runs.iter().map(|run| row(call, run)).collect();
    Ok(Response::json(
        200,
        &json!({"machines": grid.machines, "machine_count": grid.machine_count, "runs": shown}),
    ))
}

/// A run with one outcome and one duration for each machine of the grid.
fn row(call: &Call, run: &GridRun) -> Value {
    let mut shown = views::brief(&run.brief, &call.board);
    let outcome = |cell: &Option<GridCell>| cell.map(|cell| cell.outcome.unwrap_or("running"));
    let outcomes: Vec<_> = run.cells.iter().map(outcome).collect();
    let durations: Vec<_> = run
        .cells
        .iter()
        .map(|cell| cell.and_then(|cell| cell.duration_ms))
        .collect();
    if let Value::Object(shown) = &mut shown {
        shown.insert("outcomes".into(), json!(outcomes));
        shown.insert("durations_ms".into(), json!(durations));
    }
    shown
}
