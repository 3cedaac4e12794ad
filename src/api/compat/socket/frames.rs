//! The frames that the UI gets (wire-protocol.md section 2), as JSON text. Nothing in them is ever null: the old UI
//! goes blank on that.
//! Must not know: who gets them, and when.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Value, json};

use super::text::{Cursor, Piece};
use crate::api::compat::shapes;
use crate::clock::Wall;
use crate::config::{Config, Role};
use crate::engine::board::{Board, JobBoard, MachineBoard, RunBoard};

/// In `config` and `status`.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What one connection has to see of a job otherwise than it is.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// Machines that are not named as running, whatever run of the job they belong to.
    pub hidden: Vec<String>,
    /// A run, and machines of it that are named as running though they have ended.
    pub named: Option<(Arc<RunBoard>, Vec<String>)>,
}

/// By job.
pub type Overlays = BTreeMap<Arc<str>, Overlay>;

/// `config`, as it is shown to that role.
pub fn config(board: &Board, role: Role) -> String {
    let config = shapes::config(board, role);
    json!({"type": "config", "config": config, "sp_version": VERSION}).to_string()
}

/// `status`, as it is.
pub fn status(board: &Board, overlays: &Overlays) -> String {
    #[derive(Serialize)]
    struct Status<'a> {
        r#type: &'static str,
        running: Running<'a>,
        last_state: LastState<'a>,
        sp_version: &'static str,
    }
    text_of(&Status {
        r#type: "status",
        running: Running { board, overlays },
        last_state: LastState(board),
        sp_version: VERSION,
    })
}

/// `details`; `length` is the length of a machine's text in UTF-16 code units.
pub fn details(
    name: &str,
    job: &JobBoard,
    config: &Config,
    length: impl Fn(&RunBoard, &MachineBoard) -> u64,
) -> String {
    let record = &job.record;
    let known = config.jobs.get(name).map(|job| job.group.as_str());
    let group = known.or(job.last.as_ref().map(|run| run.run.spec.group.as_str()));
    let machines = job.last.as_ref().map_or(&[][..], |run| &run.machines);
    let targets: Vec<&str> = machines
        .iter()
        .map(|machine| machine.record.machine.as_str())
        .collect();
    let results: BTreeMap<&str, Value> = machines
        .iter()
        .map(|machine| {
            let run = job.last.as_deref();
            let length = run.map_or(0, |run| length(run, machine));
            (machine.record.machine.as_str(), result(job, machine, length))
        })
        .collect();
    let mut frame = json!({
        "type": "details",
        "cron": name,
        "data": {
            "next_run": iso(job.next_run),
            "overlap": record.overlap,
            "group": group.unwrap_or(""),
            "targets": targets,
            "last_success": iso(record.last_success),
            "last_failed_count": record.last_failed_count,
            "last_total_count": record.last_total_count,
            "results": results,
        },
    });
    // the React UI takes an empty one for a date
    if let Some(last_run) = record.last_run {
        frame["data"]["last_run"] = last_run.iso().into();
    }
    frame.to_string()
}

/// `output_chunk`.
pub fn chunk(
    job: &str,
    machine: &str,
    at: Cursor,
    piece: Option<&Piece>,
    total_utf16: u64,
    is_complete: bool,
) -> String {
    let (json, utf16) = piece.map_or(("\"\"", 0), |piece| (piece.json.as_str(), piece.utf16));
    let total = total_utf16.max(at.utf16 + utf16);
    format!(
        r#"{{"type":"output_chunk","cron":{},"machine":{},"chunk":{json},"position":{},"total_length":{total},"is_complete":{is_complete}}}"#,
        text_of(&job),
        text_of(&machine),
        at.utf16,
    )
}

/// `timeline` on connect.
pub fn empty_timeline() -> String {
    r#"{"type":"timeline","timeline":{}}"#.to_string()
}

/// The answer to `getTimeline`.
pub fn timeline(content: &[Value], id: &Value, serial: u64) -> String {
    json!({"type": "timeline", "timeline": {"content": content, "id": id, "serial": serial}}).to_string()
}

/// A refusal.
pub fn error(message: &str, request: &Value) -> String {
    json!({"type": "error", "message": message, "request": request}).to_string()
}

struct Running<'a> {
    board: &'a Board,
    overlays: &'a Overlays,
}

struct LastState<'a>(&'a Board);

#[derive(Serialize)]
struct RunningRun<'a> {
    started: String,
    name: &'a str,
    machines: Vec<&'a str>,
    stop_signal: bool,
}

impl<'a> RunningRun<'a> {
    fn of(run: &'a RunBoard, overlay: Option<&'a Overlay>) -> RunningRun<'a> {
        let hidden = overlay.map_or(&[][..], |overlay| &overlay.hidden);
        let mut machines: Vec<&str> = run
            .machines
            .iter()
            .filter(|machine| machine.record.ended.is_none())
            .map(|machine| machine.record.machine.as_str())
            .filter(|machine| !hidden.iter().any(|other| other == machine))
            .collect();
        if let Some((named, more)) = overlay.and_then(|overlay| overlay.named.as_ref())
            && named.run.id == run.run.id
        {
            machines.extend(more.iter().map(String::as_str));
        }
        let is_killed = |machine: &Arc<MachineBoard>| {
            machine.record.kill_asked.is_some() && machine.record.ended.is_none()
        };
        RunningRun {
            started: run.run.started.iso(),
            name: &run.run.job,
            machines,
            stop_signal: run.run.kill_asked.is_some() || run.machines.iter().any(is_killed),
        }
    }
}

impl Serialize for Running<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for overlay in self.overlays.values() {
            if let Some((run, _)) = &overlay.named
                && !self.board.running.contains_key(run.run.instance.as_str())
            {
                map.serialize_entry(&run.run.instance, &RunningRun::of(run, Some(overlay)))?;
            }
        }
        // the old UI shows the first run of a job that it finds: the newest
        let mut runs: Vec<_> = self.board.running.iter().collect();
        runs.sort_by_key(|(_, run)| std::cmp::Reverse(run.run.id));
        for (instance, run) in runs {
            let overlay = self.overlays.get(run.run.job.as_str());
            map.serialize_entry(&**instance, &RunningRun::of(run, overlay))?;
        }
        map.end()
    }
}

impl Serialize for LastState<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct State {
            last_run: String,
            result_ok: bool,
        }
        let states = self.0.jobs.iter().filter_map(|(name, job)| {
            let last_run = job.record.last_run?.iso();
            let result_ok = job.record.result_ok.unwrap_or(true);
            Some((&**name, State { last_run, result_ok }))
        });
        serializer.collect_map(states)
    }
}

fn result(job: &JobBoard, machine: &MachineBoard, length_utf16: u64) -> Value {
    let record = &machine.record;
    let started = record.started.or(record.dispatched);
    let started = started.or(job.last.as_ref().map(|run| run.run.started));
    json!({
        "ret": "",
        "retcode": match (record.ended, record.retcode) {
            (Some(_), Some(retcode)) => Value::from(retcode),
            _ => Value::from(""),
        },
        "starttime": iso(started),
        "endtime": iso(record.ended),
        "wrapper_version": record.wrapper_version.as_deref().unwrap_or(""),
        "last_heartbeat": iso(record.last_heartbeat),
        "last_output_seq": machine.last_seq.map_or(-1, |seq| i64::try_from(seq).unwrap_or(i64::MAX)),
        "output_length": length_utf16,
    })
}

fn iso(at: Option<Wall>) -> String {
    at.map(Wall::iso).unwrap_or_default()
}

/// All shapes here have string keys: they always serialize.
fn text_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::id::RunId;
    use crate::engine::record::{JobRecord, MachineRecord, RunRecord};

    fn has_null(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.iter().any(has_null),
            Value::Object(map) => map.values().any(has_null),
            _ => false,
        }
    }

    fn machine(name: &str, retcode: Option<i32>) -> Arc<MachineBoard> {
        Arc::new(MachineBoard {
            record: MachineRecord {
                machine: name.into(),
                retcode,
                ended: retcode.map(|_| Wall(5)),
                ..MachineRecord::default()
            },
            ..MachineBoard::default()
        })
    }

    fn run(id: u64, machines: Vec<Arc<MachineBoard>>) -> Arc<RunBoard> {
        Arc::new(RunBoard {
            run: RunRecord {
                id: RunId(id),
                instance: format!("j_{id}"),
                job: "j".into(),
                ..RunRecord::default()
            },
            machines,
        })
    }

    #[test]
    fn details_have_no_nulls_and_no_codes_as_text() {
        let job = JobBoard {
            last: Some(run(1, vec![machine("a", Some(3)), machine("b", None)])),
            ..JobBoard::default()
        };
        let frame: Value = serde_json::from_str(&details("j", &job, &Config::default(), |_, _| 7)).unwrap();
        assert!(!has_null(&frame), "{frame}");
        let data = &frame["data"];
        assert_eq!(data["targets"], json!(["a", "b"]));
        assert_eq!(data["results"]["a"]["retcode"], 3);
        assert_eq!(data["results"]["b"]["retcode"], "");
        assert_eq!(data["results"]["b"]["endtime"], "");
        assert_eq!(data["results"]["a"]["last_output_seq"], -1);
        let never: Value =
            serde_json::from_str(&details("j", &JobBoard::default(), &Config::default(), |_, _| 7)).unwrap();
        assert!(!has_null(&never), "{never}");
        assert_eq!(never["data"]["targets"], json!([]));
        assert_eq!(
            never["data"].get("last_run"),
            None,
            "it has not run: no date at all"
        );
        assert_eq!(data["results"]["a"]["output_length"], 7);
    }

    #[test]
    fn status_names_who_runs_and_an_overlay_changes_that() {
        let mut board = Board::default();
        let live = run(7, vec![machine("a", None), machine("b", Some(0))]);
        board.running.insert("j_7".into(), live.clone());
        let record = JobRecord {
            last_run: Some(Wall(0)),
            ..JobRecord::default()
        };
        let job = |record| {
            Arc::new(JobBoard {
                record,
                ..JobBoard::default()
            })
        };
        board.jobs.insert("j".into(), job(record));
        board.jobs.insert("never".into(), job(JobRecord::default()));
        let read =
            |overlays: &Overlays| -> Value { serde_json::from_str(&status(&board, overlays)).unwrap() };
        let plain = read(&Overlays::new());
        assert_eq!(plain["running"]["j_7"]["machines"], json!(["a"]));
        assert_eq!(plain["running"]["j_7"]["stop_signal"], false);
        assert_eq!(
            plain["last_state"],
            json!({"j": {"last_run": "1970-01-01T00:00:00.000000+00:00", "result_ok": true}})
        );
        let hidden = Overlay {
            hidden: vec!["a".into()],
            named: Some((run(6, vec![]), vec!["c".into()])),
        };
        let other = read(&Overlays::from([("j".into(), hidden)]));
        assert_eq!(other["running"]["j_7"]["machines"], json!([]));
        assert_eq!(other["running"]["j_6"]["machines"], json!(["c"]));
    }

    #[test]
    fn nothing_in_a_config_is_null() {
        let job = json!({"command": "x", "cwd": null, "env": {"A": null}, "targets": ["m", null]});
        let shown = shapes::without_nulls(job);
        assert_eq!(
            shown,
            json!({"command": "x", "cwd": "", "env": {"A": ""}, "targets": ["m", ""]})
        );
        let frame: Value = serde_json::from_str(&config(&Board::default(), Role::Read)).unwrap();
        assert!(!has_null(&frame), "{frame}");
    }

    #[test]
    fn a_chunk_says_where_it_belongs() {
        let at = Cursor {
            utf16: 5,
            ..Cursor::default()
        };
        let piece = Piece {
            json: "\"x\\n\"".into(),
            utf16: 2,
            ..Piece::default()
        };
        let frame: Value = serde_json::from_str(&chunk("j\"", "m", at, Some(&piece), 6, true)).unwrap();
        assert_eq!(
            frame,
            json!({"type": "output_chunk", "cron": "j\"", "machine": "m", "chunk": "x\n", "position": 5,
                   "total_length": 7, "is_complete": true})
        );
    }
}
