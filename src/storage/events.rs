//! What happened between two moments, in order of time: machines started and ended, due times that started nothing.
//! Must not know: how it is shown.

use rusqlite::{Row, params};

use crate::clock::Wall;
use crate::ending::{GivenBy, code};
use crate::limits;

use super::facts;
use super::reader::Reader;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEvent {
    pub at: Wall,
    pub job: String,
    /// None: no run came of it.
    pub instance: Option<String>,
    pub kind: HistoryEventKind,
}

/// What it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryEventKind {
    MachineStarted {
        machine: String,
    },
    MachineEnded {
        machine: String,
        retcode: i32,
        given_by: GivenBy,
    },
    /// A due time, or a stretch of `count` of them, that started nothing: missed, overlap, maintenance, paused.
    NotStarted {
        why: String,
        reason: Option<String>,
        count: u64,
    },
}

/// Which events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKinds {
    All,
    /// Due times that started nothing.
    NotStarted,
}

impl Reader {
    /// What happened at `from` or later and before `until`: the latest `limit` of it (at most
    /// [`limits::HISTORY_PAGE`]), ascending. `job`: of that one alone.
    pub fn history_events(
        &self,
        from: Wall,
        until: Wall,
        job: Option<&str>,
        kinds: EventKinds,
        limit: usize,
    ) -> Result<Vec<HistoryEvent>, String> {
        let limit = limit.min(limits::HISTORY_PAGE) as i64;
        let statement = match kinds {
            EventKinds::All => format!("{MACHINE_EVENTS} UNION ALL {NOT_STARTED} ORDER BY at DESC LIMIT ?4"),
            EventKinds::NotStarted => format!("{NOT_STARTED} ORDER BY at DESC LIMIT ?4"),
        };
        let mut found: Vec<HistoryEvent> = self.with_state(|connection| {
            connection
                .prepare_cached(&statement)?
                .query_map(params![from.0, until.0, job, limit], event_of_row)?
                .collect()
        })?;
        found.reverse();
        Ok(found)
    }
}

const MACHINE_EVENTS: &str =
    "SELECT * FROM (SELECT machine_runs.started AS at, runs.job, runs.instance, 'start', machine, NULL, NULL
         FROM machine_runs JOIN runs ON runs.id = machine_runs.run
         WHERE machine_runs.started >= ?1 AND machine_runs.started < ?2
           AND (?3 IS NULL OR runs.job = ?3) ORDER BY machine_runs.started DESC LIMIT ?4)
     UNION ALL
     SELECT * FROM (SELECT machine_runs.ended AS at, runs.job, runs.instance, 'end', machine, retcode, given_by
         FROM machine_runs JOIN runs ON runs.id = machine_runs.run
         WHERE machine_runs.ended >= ?1 AND machine_runs.ended < ?2
           AND (?3 IS NULL OR runs.job = ?3) ORDER BY machine_runs.ended DESC LIMIT ?4)";

const NOT_STARTED: &str = "SELECT * FROM (SELECT due AS at, job, NULL, verdict, NULL, count, reason
         FROM verdicts WHERE verdict <> 'started' AND due >= ?1 AND due < ?2
           AND (?3 IS NULL OR job = ?3) ORDER BY due DESC LIMIT ?4)";

fn event_of_row(row: &Row<'_>) -> rusqlite::Result<HistoryEvent> {
    let word: String = row.get(3)?;
    let number = row.get::<_, Option<i64>>(5)?;
    let kind = match word.as_str() {
        "start" => HistoryEventKind::MachineStarted { machine: row.get(4)? },
        "end" => {
            let retcode = number.map_or(code::ERROR, |code| code as i32);
            HistoryEventKind::MachineEnded {
                machine: row.get(4)?,
                retcode,
                given_by: facts::given_by(row, 6, Some(retcode), false)?
                    .unwrap_or_else(|| GivenBy::of_code(retcode)),
            }
        }
        _ => HistoryEventKind::NotStarted {
            why: word,
            reason: row.get(6)?,
            count: number.unwrap_or(1) as u64,
        },
    };
    Ok(HistoryEvent {
        at: Wall(row.get(0)?),
        job: row.get(1)?,
        instance: row.get(2)?,
        kind,
    })
}
