//! `/metrics` in Prometheus text, `/healthz` and `/readyz`. Figures of jobs are counted since the daemon's start.
//! Must not know: where the figures come from.

use std::fmt::Write;

use super::call::{Answered, Call};
use super::http::{Body, Response};
use crate::clock::Wall;
use crate::config::Severity;
use crate::engine::board::{Board, JobBoard, NotifierBoard};
use crate::metrics::{self, BOUNDS_US, Times};

/// `GET /metrics`.
pub fn metrics(call: &Call) -> Answered {
    let text = whole(&call.board, call.shared.requests.is_busy());
    Ok(Response {
        status: 200,
        content_type: "text/plain; version=0.0.4; charset=utf-8",
        headers: Vec::new(),
        body: Body::Bytes(text.into_bytes()),
    })
}

/// `GET /healthz`: the process answers.
pub fn healthz(_call: &Call) -> Answered {
    Ok(Response::json(200, &serde_json::json!({"status": "ok"})))
}

/// `GET /readyz`: it can start jobs. Says what is wrong, not why: anybody may ask.
pub fn readyz(call: &Call) -> Answered {
    let board = &call.board;
    let storage = !board.is_storage_down;
    let executor = !board.is_executor_down;
    let errors = errors(board);
    // bad files leave what was last good in force; with nothing in force there is nothing to be ready for
    let config = errors == 0 || !board.config.jobs.is_empty();
    let is_ready = storage && executor && config;
    let word = |is_well: bool| if is_well { "ok" } else { "trouble" };
    let view = serde_json::json!({
        "status": if is_ready { "ready" } else { "not ready" },
        "storage": word(storage), "executor": word(executor), "config": word(config),
    });
    Ok(Response::json(if is_ready { 200 } else { 503 }, &view))
}

/// The whole text.
fn whole(board: &Board, is_busy: bool) -> String {
    let mut text = MetricsText::default();
    by_job(&mut text, board);
    times_by_job(&mut text, board);
    by_daemon(&mut text, board);
    by_notifier(&mut text, board);
    inside(&mut text, is_busy);
    text.0
}

#[derive(Default)]
struct MetricsText(String);

impl MetricsText {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // writing to a string cannot fail
        let _ = writeln!(
            self.0,
            "# HELP saltpeter_{name} {help}\n# TYPE saltpeter_{name} {kind}"
        );
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.0, "saltpeter_{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.value(name, &[], value);
    }

    fn times(&mut self, name: &str, help: &str, times: &Times) {
        self.family(name, "histogram", help);
        let (up_to, count, sum_us) = times.read();
        for (bound, count) in BOUNDS_US.iter().zip(up_to) {
            let bound = (*bound as f64 / 1e6).to_string();
            self.value(&format!("{name}_bucket"), &[("le", &bound)], count);
        }
        self.value(&format!("{name}_bucket"), &[("le", "+Inf")], count);
        self.value(&format!("{name}_sum"), &[], sum_us as f64 / 1e6);
        self.value(&format!("{name}_count"), &[], count);
    }

    fn per_job<V: std::fmt::Display>(
        &mut self,
        board: &Board,
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&JobBoard) -> Option<V>,
    ) {
        self.family(name, kind, help);
        for (job, state) in &board.jobs {
            if let Some(value) = value(state) {
                self.value(name, &[("job", job), ("group", group(board, job))], value);
            }
        }
    }
}

/// The name of a job's file; empty for a job that is in none any more.
fn group<'a>(board: &'a Board, job: &str) -> &'a str {
    let configured = board.config.jobs.get(job);
    configured.map_or("", |configured| configured.group.as_str())
}

/// Only what has a value: a fleet of thousands of jobs would make as many lines of zeros for each metric.
fn by_job(text: &mut MetricsText, board: &Board) {
    text.family("runs_total", "counter", "Runs that ended, by job and outcome.");
    for (job, state) in &board.jobs {
        let counts = &state.counts;
        let outcomes = [
            ("success", counts.succeeded),
            ("failed", counts.failed),
            ("skipped", counts.skipped),
        ];
        for (outcome, count) in outcomes {
            if count > 0 {
                let labels = [
                    ("job", &**job),
                    ("group", group(board, job)),
                    ("outcome", outcome),
                ];
                text.value("runs_total", &labels, count);
            }
        }
    }
    text.family(
        "machine_runs_total",
        "counter",
        "Machine runs that ended, by job and outcome.",
    );
    for (job, state) in &board.jobs {
        for (outcome, count) in &state.counts.machines {
            let labels = [
                ("job", &**job),
                ("group", group(board, job)),
                ("outcome", *outcome),
            ];
            text.value("machine_runs_total", &labels, count);
        }
    }
    text.family(
        "not_started_total",
        "counter",
        "Due times that started nothing, by job and reason.",
    );
    for (job, state) in &board.jobs {
        let counts = &state.counts;
        let reasons = [
            ("missed", counts.missed),
            ("overlap", counts.overlap),
            ("maintenance", counts.maintenance),
            ("paused", counts.paused),
        ];
        for (reason, count) in reasons {
            if count > 0 {
                let labels = [("job", &**job), ("group", group(board, job)), ("reason", reason)];
                text.value("not_started_total", &labels, count);
            }
        }
    }
}

fn times_by_job(text: &mut MetricsText, board: &Board) {
    let seconds = |ms: u64| ms as f64 / 1e3;
    text.family(
        "start_delay_seconds",
        "summary",
        "Seconds that starts for a due time were late.",
    );
    for (job, state) in board.jobs.iter().filter(|(_, state)| state.counts.starts > 0) {
        let (sum, count) = (seconds(state.counts.late_ms_sum), state.counts.starts);
        let labels = [("job", &**job), ("group", group(board, job))];
        text.value("start_delay_seconds_sum", &labels, sum);
        text.value("start_delay_seconds_count", &labels, count);
    }
    text.per_job(
        board,
        "start_delay_last_seconds",
        "gauge",
        "Seconds that the last start was late.",
        |state| (state.counts.starts > 0).then(|| seconds(state.counts.late_ms_last)),
    );
    text.per_job(
        board,
        "last_success_timestamp_seconds",
        "gauge",
        "When the last success ended.",
        |state| state.record.last_success.map(unix),
    );
    text.per_job(
        board,
        "last_duration_seconds",
        "gauge",
        "How long the last run took.",
        |state| {
            let run = &state.last.as_ref()?.run;
            Some((run.ended?.0 - run.started.0) as f64 / 1e6)
        },
    );
    text.per_job(
        board,
        "last_result_ok",
        "gauge",
        "1: the last run succeeded, or is running.",
        |state| state.record.result_ok.map(u8::from),
    );
    text.per_job(
        board,
        "paused",
        "gauge",
        "1: its due times start nothing.",
        |state| state.paused.as_ref().map(|_| 1),
    );
}

fn by_daemon(text: &mut MetricsText, board: &Board) {
    let open = board.running.values().flat_map(|run| &run.machines);
    let open = open.filter(|machine| machine.record.ended.is_none()).count();
    let lost = |state: &JobBoard| state.counts.machines.get("lost").copied().unwrap_or(0);
    let lost: u64 = board.jobs.values().map(|state| lost(state)).sum();
    text.single(
        "runs_running",
        "gauge",
        "Runs that have not ended.",
        board.running.len(),
    );
    text.single(
        "machine_runs_running",
        "gauge",
        "Machine runs that have not ended.",
        open,
    );
    text.single(
        "heartbeat_losses_total",
        "counter",
        "Machine runs given up for want of a heartbeat.",
        lost,
    );
    text.single("jobs", "gauge", "Jobs in force.", board.config.jobs.len());
    text.single(
        "config_errors",
        "gauge",
        "What keeps something from being in force.",
        errors(board),
    );
    text.single(
        "maintenance",
        "gauge",
        "1: no run starts.",
        u8::from(board.maintenance.global),
    );
    text.single(
        "maintenance_machines",
        "gauge",
        "Machines left out of every run.",
        board.maintenance.machines.len(),
    );
    text.single(
        "executor_up",
        "gauge",
        "1: machines can be reached.",
        u8::from(!board.is_executor_down),
    );
    text.single(
        "storage_up",
        "gauge",
        "1: storage can write.",
        u8::from(!board.is_storage_down),
    );
}

fn by_notifier(text: &mut MetricsText, board: &Board) {
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&NotifierBoard) -> u64| {
        text.family(name, kind, help);
        for (notifier, board) in &board.notifiers {
            text.value(name, &[("notifier", notifier)], value(board));
        }
    };
    each(
        "notifications_waiting",
        "gauge",
        "Notifications that have not been delivered, by notifier.",
        |board| board.waiting,
    );
    each(
        "notifications_sent_total",
        "counter",
        "Notifications that were delivered, by notifier.",
        |board| board.sent,
    );
    each(
        "notification_failures_total",
        "counter",
        "Deliveries that failed, by notifier.",
        |board| board.failures,
    );
    each(
        "notifications_given_up",
        "gauge",
        "Notifications given up since the last delivery, by notifier.",
        |board| board.given_up,
    );
}

/// What goes on inside.
fn inside(text: &mut MetricsText, is_busy: bool) {
    text.single(
        "engine_busy",
        "gauge",
        "1: the engine takes no more questions.",
        u8::from(is_busy),
    );
    text.family("connections", "gauge", "Connections, by kind.");
    text.value(
        "connections",
        &[("kind", "machines")],
        metrics::MACHINE_CONNECTIONS.get(),
    );
    text.value("connections", &[("kind", "api")], metrics::API_CONNECTIONS.get());
    text.family("queue_depth", "gauge", "What waits, by queue.");
    text.value(
        "queue_depth",
        &[("queue", "control")],
        metrics::CONTROL_QUEUE.get(),
    );
    text.value("queue_depth", &[("queue", "output")], metrics::BULK_QUEUE.get());
    text.value(
        "queue_depth",
        &[("queue", "storage")],
        metrics::STORAGE_QUEUE.get(),
    );
    text.times(
        "engine_turn_seconds",
        "Turns of the engine.",
        &metrics::ENGINE_TURNS,
    );
    text.times(
        "storage_commit_seconds",
        "Commits of the storage.",
        &metrics::COMMITS,
    );
    text.family("build_info", "gauge", "What runs here.");
    text.value("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn errors(board: &Board) -> usize {
    let problems = board.config.problems.iter();
    problems
        .filter(|problem| problem.severity == Severity::Error)
        .count()
}

fn unix(at: Wall) -> f64 {
    at.0 as f64 / 1e6
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_jobs_name_cannot_forge_a_line() {
        let mut board = Board::default();
        let name: Arc<str> = "evil\"} 1\nsaltpeter_jobs 99".into();
        let mut job = JobBoard::default();
        job.counts.failed = 1;
        board.jobs.insert(name, Arc::new(job));
        board.jobs.insert("idle".into(), Arc::default());
        let text = whole(&board, false);
        assert!(text.contains("saltpeter_jobs 0\n"));
        assert!(
            !text
                .lines()
                .any(|line| line == "saltpeter_jobs 99\",outcome=\"success\"} 0")
        );
        assert!(text.contains(r#"job="evil\"} 1\nsaltpeter_jobs 99""#));
        assert!(!text.contains("idle"), "a job without a value has no line");
        let mut kinds = std::collections::HashMap::new();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (family, kind) = kind.split_once(' ').unwrap();
                assert!(kinds.insert(family, kind).is_none(), "twice: {line}");
                // a scraper takes these endings for parts of a histogram or a summary
                let is_part = ["_sum", "_count", "_bucket"]
                    .iter()
                    .any(|end| family.ends_with(end));
                assert!(
                    !is_part && (kind == "counter") == family.ends_with("_total"),
                    "{line}"
                );
            } else {
                assert!(
                    line.starts_with("# HELP ") || line.starts_with("saltpeter_"),
                    "{line}"
                );
            }
        }
    }
}
