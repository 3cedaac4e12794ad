//! `GET /api/v1/timeline`: what ran when, what did not start, and what is due next, merged to a resolution.
//! Must not know: how the page draws it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::call::{Answered, Call};
use super::error::{bad, unreadable};
use super::http::Response;
use crate::clock::{self, Wall};
use crate::config::Job;
use crate::engine::board::JobBoard;
use crate::limits;
use crate::storage::{TimelineRun, TimelineVerdict};

/// The range without a start, and the resolution without a number: a thousandth of the range.
const RANGE_MS: i64 = 86_400_000;
const PARTS: i64 = 1_000;

/// A job's part of the timeline. Times are seconds since the epoch.
#[derive(Default, Serialize)]
struct Row<'a> {
    group: Option<&'a str>,
    /// Ascending.
    spans: Vec<Span>,
    not_started: Vec<Mark>,
    due: Vec<i64>,
}

/// Runs that are less than the resolution apart.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Span {
    from: i64,
    /// None: the last run has not ended.
    until: Option<i64>,
    /// The worst of them.
    outcome: &'static str,
    count: u64,
    /// The latest run with that outcome.
    instance: String,
}

/// Due times that started nothing for the same reason and are less than the resolution apart.
#[derive(Serialize)]
struct Mark {
    from: i64,
    until: i64,
    #[serde(rename = "type")]
    why: String,
    reason: Option<String>,
    count: u64,
}

/// `GET /api/v1/timeline`.
pub fn timeline(call: &Call) -> Answered {
    let now = clock::wall();
    let until = call.query.moment("until", now)?.unwrap_or(now);
    let from = call.query.moment("from", now)?;
    let from = from.unwrap_or(until.plus_ms(-RANGE_MS));
    if from >= until {
        return Err(bad("'from' must be before 'until'"));
    }
    let range_s = until.secs().saturating_sub(from.secs());
    if range_s > limits::TIMELINE_RANGE_S {
        let days = limits::TIMELINE_RANGE_S / 86_400;
        return Err(bad(format!(
            "'from' and 'until' must be at most {days} days apart"
        )));
    }
    let step = call.query.number("resolution", 1..=86_400)?;
    let step_s = step.map_or(range_s / PARTS, |step| step as i64).max(1);
    // long reads, which must not keep others from the shared one
    let reader = call.shared.reader.lock().clone();
    let runs = reader.timeline(from, until).map_err(unreadable)?;
    let verdicts = reader.timeline_verdicts(from, until).map_err(unreadable)?;
    drop(reader);
    let complete = complete_from(&runs, &verdicts);
    let mut rows = merged(runs, verdicts, step_s);
    for (name, row) in &mut rows {
        row.group = call.board.config.jobs.get(&**name).map(|job| job.group.as_str());
    }
    add_dues(call, &mut rows, from.max(now), until, step_s);
    let complete = complete.filter(|complete| *complete > from).map(Wall::iso);
    Ok(Response::json(
        200,
        &json!({
            "from": from.iso(), "until": until.iso(), "now": now.iso(), "resolution": step_s,
            "complete_from": complete, "jobs": rows,
        }),
    ))
}

/// Where the answer begins if there was more than is read.
fn complete_from(runs: &[TimelineRun], verdicts: &[TimelineVerdict]) -> Option<Wall> {
    let run = runs.last().filter(|_| runs.len() >= limits::TIMELINE_RUNS);
    let verdict = verdicts
        .last()
        .filter(|_| verdicts.len() >= limits::TIMELINE_VERDICTS);
    run.map(|run| run.started).max(verdict.map(|verdict| verdict.due))
}

fn merged<'a>(
    runs: Vec<TimelineRun>,
    verdicts: Vec<TimelineVerdict>,
    step_s: i64,
) -> BTreeMap<String, Row<'a>> {
    let mut rows: BTreeMap<String, Row<'a>> = BTreeMap::new();
    for run in runs.into_iter().rev() {
        let (until, outcome) = (run.ended.map(Wall::secs), outcome(&run));
        let span = Span {
            from: run.started.secs(),
            until,
            outcome,
            count: 1,
            instance: run.instance,
        };
        add_span(&mut rows.entry(run.job).or_default().spans, span, step_s);
    }
    for verdict in verdicts.into_iter().rev() {
        let mark = Mark {
            from: verdict.due.secs(),
            until: verdict.until.secs(),
            why: verdict.why,
            reason: verdict.reason,
            count: verdict.count,
        };
        let marks = &mut rows.entry(verdict.job).or_default().not_started;
        match marks.last_mut() {
            Some(last)
                if last.why == mark.why && last.reason == mark.reason && mark.from - last.until <= step_s =>
            {
                last.until = last.until.max(mark.until);
                last.count += mark.count;
            }
            _ => marks.push(mark),
        }
    }
    rows
}

/// The span becomes a part of the last one if it is near.
fn add_span(spans: &mut Vec<Span>, span: Span, step_s: i64) {
    let Some(last) = spans.last_mut() else {
        spans.push(span);
        return;
    };
    let is_near = last.until.is_none_or(|until| span.from - until <= step_s);
    // what lasts is shown by itself
    let is_short = |span: &Span| span.until.is_some_and(|until| until - span.from <= step_s);
    if !is_near || !(is_short(&span) || last.until.is_none_or(|until| span.from <= until)) {
        spans.push(span);
        return;
    }
    last.count += span.count;
    last.until = last.until.zip(span.until).map(|(a, b)| a.max(b));
    if severity(span.outcome) >= severity(last.outcome) {
        last.outcome = span.outcome;
        last.instance = span.instance;
    }
}

fn outcome(run: &TimelineRun) -> &'static str {
    match (run.ended, run.success) {
        (None, _) => "running",
        (Some(_), _) if run.is_killed => "killed",
        (Some(_), Some(true)) => "succeeded",
        (Some(_), Some(false)) => "failed",
        (Some(_), None) => "skipped",
    }
}

fn severity(outcome: &str) -> u8 {
    match outcome {
        "failed" => 4,
        "killed" => 3,
        "running" => 2,
        "succeeded" => 1,
        _ => 0,
    }
}

/// When jobs will start by themselves, no more than one time for each step.
fn add_dues<'a>(call: &'a Call, rows: &mut BTreeMap<String, Row<'a>>, from: Wall, until: Wall, step_s: i64) {
    let mut left = limits::TIMELINE_DUES;
    for (name, job) in &call.board.jobs {
        let Some(configured) = call.board.config.jobs.get(&**name) else {
            continue;
        };
        let dues = dues(job, configured, from, until, step_s, left);
        left -= dues.len();
        if !dues.is_empty() {
            let row = rows.entry(name.to_string()).or_default();
            row.group = Some(&configured.group);
            row.due = dues;
        }
    }
}

fn dues(job: &JobBoard, configured: &Job, from: Wall, until: Wall, step_s: i64, most: usize) -> Vec<i64> {
    let paused_until = job.paused.as_ref().map(|paused| paused.until);
    let from = match (job.next_run, paused_until) {
        // it is disabled, its schedule is over, or it is paused until somebody resumes it
        (None, _) | (_, Some(None)) => return Vec::new(),
        (Some(_), Some(Some(resumed))) => from.max(resumed),
        (Some(next), None) => from.max(next),
    };
    let mut dues = Vec::new();
    let mut after = from.plus_ms(-1_000);
    while dues.len() < most.min(limits::TIMELINE_JOB_DUES) {
        let Some(next) = configured.schedule.next_after(after.utc()).map(Wall::from_utc) else {
            break;
        };
        if next >= until {
            break;
        }
        dues.push(next.secs());
        after = next.plus_ms((step_s - 1) * 1_000);
    }
    dues
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(from: i64, until: Option<i64>, success: bool) -> TimelineRun {
        TimelineRun {
            job: "j".into(),
            instance: format!("j_{from}"),
            started: Wall::from_secs(from),
            ended: until.map(Wall::from_secs),
            success: until.map(|_| success),
            is_killed: false,
        }
    }

    #[test]
    fn near_runs_become_one_span_that_leads_to_the_worst_of_them() {
        let runs = vec![
            run(500, None, false),
            run(120, Some(121), true),
            run(60, Some(61), false),
            run(0, Some(1), true),
        ];
        let rows = merged(runs, Vec::new(), 60);
        let spans = &rows["j"].spans;
        let found: Vec<_> = spans
            .iter()
            .map(|span| (span.from, span.until, span.outcome, span.count, &*span.instance))
            .collect();
        assert_eq!(
            found,
            [
                (0, Some(121), "failed", 3, "j_60"),
                (500, None, "running", 1, "j_500")
            ]
        );
    }
}
