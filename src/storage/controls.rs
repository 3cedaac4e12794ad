//! What people have set and what they did, as rows of `state.db`: pauses, maintenance switches, the audit.
//! Must not know: what they mean.

use rusqlite::{Connection, Row, params};

use crate::clock::{self, Wall};
use crate::engine::record::{AuditRecord, Control, PauseRecord, SwitchRecord};
use crate::limits;

use super::reader::Reader;

/// An audit record with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub id: u64,
    pub record: AuditRecord,
}

/// Which audit records, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub action: Option<String>,
    pub object: Option<String>,
    /// At or after.
    pub from: Option<Wall>,
    /// Before.
    pub until: Option<Wall>,
    /// Only older than this one.
    pub before: Option<u64>,
    pub limit: usize,
}

impl Reader {
    /// What people did (at most [`limits::HISTORY_PAGE`] records).
    pub fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, String> {
        self.with_state(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, at, by, action, object, detail, outcome FROM audit
                     WHERE (?1 IS NULL OR action = ?1) AND (?2 IS NULL OR object = ?2)
                       AND (?3 IS NULL OR at >= ?3) AND (?4 IS NULL OR at < ?4) AND (?5 IS NULL OR id < ?5)
                     ORDER BY id DESC LIMIT ?6",
                )?
                .query_map(
                    params![
                        filter.action,
                        filter.object,
                        filter.from.map(|at| at.0),
                        filter.until.map(|at| at.0),
                        filter.before.map(|id| id as i64),
                        filter.limit.min(limits::HISTORY_PAGE) as i64,
                    ],
                    entry_of_row,
                )?
                .collect()
        })
    }
}

/// Writes one of them.
pub(super) fn put(connection: &Connection, control: &Control) -> rusqlite::Result<()> {
    match control {
        Control::Pause(pause) => connection
            .prepare_cached("INSERT OR REPLACE INTO pauses VALUES(?1, ?2, ?3, ?4, ?5)")?
            .execute(params![
                pause.job,
                pause.since.0,
                pause.until.map(|at| at.0),
                pause.reason,
                pause.by
            ])?,
        Control::Resume { job } => connection
            .prepare_cached("DELETE FROM pauses WHERE job = ?1")?
            .execute([job])?,
        Control::Switch(switch) => connection
            .prepare_cached("INSERT OR REPLACE INTO switches VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                switch.machine.as_deref().unwrap_or_default(),
                switch.is_on,
                switch.since.0,
                switch.until.0,
                switch.reason,
                switch.by
            ])?,
        Control::SwitchBack { machine } => connection
            .prepare_cached("DELETE FROM switches WHERE machine = ?1")?
            .execute([machine.as_deref().unwrap_or_default()])?,
        Control::Audit(audit) => connection
            .prepare_cached(
                "INSERT INTO audit(at, by, action, object, detail, outcome) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                audit.at.0,
                audit.by,
                audit.action,
                audit.object,
                audit.detail,
                audit.outcome
            ])?,
    };
    Ok(())
}

/// Pauses and switches that a daemon starts with.
pub(super) fn in_force(connection: &Connection) -> rusqlite::Result<Vec<Control>> {
    let mut controls: Vec<Control> = connection
        .prepare("SELECT job, since, until, reason, by FROM pauses ORDER BY job")?
        .query_map([], |row| {
            Ok(Control::Pause(PauseRecord {
                job: row.get(0)?,
                since: Wall(row.get(1)?),
                until: row.get::<_, Option<i64>>(2)?.map(Wall),
                reason: row.get(3)?,
                by: row.get(4)?,
            }))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut statement = connection
        .prepare("SELECT machine, is_on, since, until, reason, by FROM switches ORDER BY machine")?;
    let switches = statement.query_map([], |row| {
        Ok(Control::Switch(SwitchRecord {
            machine: Some(row.get::<_, String>(0)?).filter(|machine| !machine.is_empty()),
            is_on: row.get(1)?,
            since: Wall(row.get(2)?),
            until: Wall(row.get(3)?),
            reason: row.get(4)?,
            by: row.get(5)?,
        }))
    })?;
    for switch in switches {
        controls.push(switch?);
    }
    Ok(controls)
}

/// Removes some of what is older than [`limits::AUDIT_DAYS`]; true when nothing is left of it.
pub(super) fn remove_old_audit(connection: &Connection) -> rusqlite::Result<bool> {
    let before = clock::wall().plus_ms(-limits::AUDIT_DAYS * 86_400_000);
    let removed = connection
        .prepare_cached("DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ?1 LIMIT ?2)")?
        .execute(params![before.0, limits::RETENTION_STEP_ROWS as i64])?;
    Ok(removed == 0)
}

fn entry_of_row(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.get::<_, i64>(0)? as u64,
        record: AuditRecord {
            at: Wall(row.get(1)?),
            by: row.get(2)?,
            action: row.get(3)?,
            object: row.get(4)?,
            detail: row.get(5)?,
            outcome: row.get(6)?,
        },
    })
}
