//! Facts as rows of `state.db`: written by the storage thread, read back by recovery and history.
//! Must not know: output, groups, acks.

use std::collections::BTreeSet;
use std::sync::Arc;

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{controls, notices};
use crate::clock::Wall;
use crate::config::JobSpec;
use crate::ending::GivenBy;
use crate::engine::effect::{Fact, Write};
use crate::engine::event::StoreOutcome;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::record::{
    JobRecord, MachineCounts, MachineRecord, MachineStage, RunRecord, RunStage, Verdict, VerdictRecord,
};
use crate::limits;
use crate::secret::sha256;

/// Columns of a run in the order that [`run_of_row`] reads them; `runs` and `specs` are joined.
pub(super) const RUN_COLUMNS: &str = "runs.id, runs.instance, runs.job, runs.due, runs.asked_by, runs.started, \
     runs.ended, runs.stage, runs.success, runs.kill_asked, runs.note, runs.token, specs.spec, \
     runs.kill_when_known, runs.total, runs.failed, runs.killed, runs.killed_by, runs.duration_ms";

/// Columns of a machine run in the order that [`machine_of_row`] reads them.
pub(super) const MACHINE_COLUMNS: &str = "id, run, machine, position, stage, env_delivery, wrapper_id, ours, \
     wrapper_version, pid, dispatched, started, ended, retcode, presumed, revised_from, kill_asked, last_heartbeat, \
     wrapper_started, wrapper_ended, left_out_bytes, not_counted, given_by, duration_ms, killed_by";

/// Counters that outlive the rows they were counted from.
pub(super) const LAST_LOOK: &str = "last_look";
/// The number of the latest verdict when that look was stored.
const LOOK_SEQ: &str = "look_seq";
/// The look before a step of the clock that is still in doubt, and the same for it.
pub(super) const DOUBT: &str = "doubt";
const DOUBT_SEQ: &str = "doubt_seq";
/// When storage was last seen to take writes.
const HEARTBEAT: &str = "heartbeat";
pub(super) const HISTORY_CLOCK: &str = "history_clock";
pub(super) const NEXT_RUN: &str = "next_run";
pub(super) const NEXT_MACHINE_RUN: &str = "next_machine_run";

/// Writes the facts of one write within the transaction that is open. Anything but `Committed`: nothing was written.
pub(super) fn apply(connection: &Connection, write: &Write) -> rusqlite::Result<StoreOutcome> {
    // looked at before the first row is written: a refused write leaves no trace
    for fact in &write.facts {
        if let Fact::Start(run) = fact
            && let Some(refusal) = refuse_start(connection, run)?
        {
            return Ok(refusal);
        }
    }
    for fact in &write.facts {
        match fact {
            Fact::Start(run) => start(connection, run)?,
            Fact::Run(run) => update_run(connection, run)?,
            Fact::Machine(machine) => put_machine(connection, machine)?,
            Fact::Verdict(verdict) => put_verdict(connection, verdict)?,
            Fact::Job(job) => put_job(connection, job)?,
            Fact::LastLook(at) => put_look(connection, *at)?,
            Fact::Doubt(Some(at)) => put_doubt(connection, *at)?,
            Fact::Doubt(None) => end_doubt(connection)?,
            Fact::Withdraw { job, due, until } => withdraw(connection, job, *due, *until)?,
            Fact::HistoryClock(at) => put_meta(connection, HISTORY_CLOCK, at.0)?,
            Fact::Control(control) => controls::put(connection, control)?,
            Fact::Notice(notice) => notices::put(connection, notice)?,
            Fact::NoticeState(job, state) => notices::put_state(connection, job, state)?,
            Fact::Heartbeat(at) => put_meta(connection, HEARTBEAT, at.0)?,
        }
    }
    Ok(StoreOutcome::Committed)
}

/// Writes one of the counters.
pub(super) fn put_meta(connection: &Connection, key: &str, value: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO meta VALUES(?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value")?
        .execute((key, value))?;
    Ok(())
}

/// Reads one of the counters.
pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

/// The `output_limit` of the run that a machine run belongs to; None: no such machine run.
pub(super) fn output_limit(connection: &Connection, id: MachineRunId) -> rusqlite::Result<Option<u64>> {
    let spec: Option<String> = connection
        .prepare_cached(
            "SELECT specs.spec FROM machine_runs JOIN runs ON runs.id = machine_runs.run
             JOIN specs ON specs.id = runs.spec WHERE machine_runs.id = ?1",
        )?
        .query_row([id.0 as i64], |row| row.get(0))
        .optional()?;
    Ok(match spec {
        Some(spec) => Some(spec_of_text(&spec)?.output_limit_bytes),
        None => None,
    })
}

/// Reads a row of [`RUN_COLUMNS`].
pub(super) fn run_of_row(row: &Row<'_>) -> rusqlite::Result<RunRecord> {
    let spec: String = row.get(12)?;
    Ok(RunRecord {
        id: RunId(number(row, 0)?),
        instance: row.get(1)?,
        job: row.get(2)?,
        due: wall(row, 3)?,
        asked_by: row.get(4)?,
        started: Wall(row.get(5)?),
        ended: wall(row, 6)?,
        stage: word(row, 7, run_stage)?,
        success: row.get(8)?,
        counts: counts(row, 14)?,
        kill_asked: wall(row, 9)?,
        killed_by: row.get(17)?,
        duration_ms: some_number(row, 18)?,
        note: row.get(10)?,
        token: row.get(11)?,
        spec: Arc::new(spec_of_text(&spec)?),
        kill_when_known: names_of_text(row.get(13)?)?,
    })
}

/// Reads a row of [`MACHINE_COLUMNS`].
pub(super) fn machine_of_row(row: &Row<'_>) -> rusqlite::Result<MachineRecord> {
    let retcode: Option<i32> = row.get(13)?;
    let not_counted = row.get(21)?;
    Ok(MachineRecord {
        id: MachineRunId(number(row, 0)?),
        run: RunId(number(row, 1)?),
        machine: row.get(2)?,
        position: row.get(3)?,
        stage: word(row, 4, machine_stage)?,
        env_delivery: row.get(5)?,
        wrapper_id: row.get(6)?,
        ours: row.get(7)?,
        wrapper_version: row.get(8)?,
        pid: row.get(9)?,
        dispatched: wall(row, 10)?,
        started: wall(row, 11)?,
        ended: wall(row, 12)?,
        retcode,
        given_by: given_by(row, 22, retcode, not_counted)?,
        duration_ms: some_number(row, 23)?,
        presumed: row.get(14)?,
        revised_from: row.get(15)?,
        kill_asked: wall(row, 16)?,
        killed_by: row.get(24)?,
        last_heartbeat: wall(row, 17)?,
        wrapper_started: row.get(18)?,
        wrapper_ended: row.get(19)?,
        left_out_bytes: number(row, 20)?,
        not_counted,
    })
}

/// All job records.
pub(super) fn jobs(connection: &Connection) -> rusqlite::Result<Vec<JobRecord>> {
    let mut statement = connection.prepare(
        "SELECT job, active_since, last_run, last_instance, last_ended, last_success, result_ok, last_failed_count,
         last_total_count, missed, overlap, missed_at, schedule FROM jobs",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(JobRecord {
            job: row.get(0)?,
            active_since: wall(row, 1)?,
            last_run: wall(row, 2)?,
            last_instance: row.get(3)?,
            last_ended: wall(row, 4)?,
            last_success: wall(row, 5)?,
            result_ok: row.get(6)?,
            last_failed_count: number(row, 7)?,
            last_total_count: number(row, 8)?,
            missed: number(row, 9)?,
            missed_at: wall(row, 11)?,
            overlap: row.get(10)?,
            schedule: row.get(12)?,
        })
    })?;
    rows.collect()
}

fn refuse_start(connection: &Connection, run: &RunRecord) -> rusqlite::Result<Option<StoreOutcome>> {
    if let Some(due) = run.due {
        let has_started: bool = connection
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM verdicts WHERE job = ?1 AND due = ?2 AND verdict <> 'missed')",
            )?
            .query_row(params![run.job, due.0], |row| row.get(0))?;
        if has_started {
            return Ok(Some(StoreOutcome::AlreadyStarted));
        }
    }
    let is_taken: bool = connection
        .prepare_cached("SELECT EXISTS(SELECT 1 FROM runs WHERE instance = ?1)")?
        .query_row([&run.instance], |row| row.get(0))?;
    Ok(is_taken.then_some(StoreOutcome::NameTaken))
}

fn start(connection: &Connection, run: &RunRecord) -> rusqlite::Result<()> {
    insert_run(connection, run)?;
    let Some(due) = run.due else {
        return Ok(());
    };
    // a due time that was recorded as passed over and then started after all (the clock went back) has started:
    // anything else would hide the run, and let it start once more
    connection
        .prepare_cached(
            "INSERT INTO verdicts(job, due, until, count, verdict, instance, seq)
             VALUES(?1, ?2, ?2, 1, 'started', ?3, (SELECT coalesce(max(seq), 0) + 1 FROM verdicts))
             ON CONFLICT DO UPDATE SET verdict = 'started', instance = excluded.instance, reason = NULL,
                 seq = excluded.seq",
        )?
        .execute(params![run.job, due.0, run.instance])?;
    Ok(())
}

fn insert_run(connection: &Connection, run: &RunRecord) -> rusqlite::Result<()> {
    let spec = spec_row(connection, &run.spec)?;
    connection
        .prepare_cached(
            "INSERT INTO runs VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
                 ?19, ?20)",
        )?
        .execute(params![
            run.id.0 as i64,
            run.instance,
            run.job,
            run.spec.group,
            run.due.map(|due| due.0),
            run.asked_by,
            run.started.0,
            run.ended.map(|ended| ended.0),
            run_stage_word(run.stage),
            run.success,
            run.kill_asked.map(|asked| asked.0),
            run.note,
            run.token,
            spec,
            text_of_names(run),
            run.counts.map(|counts| counts.total as i64),
            run.counts.map(|counts| counts.failed as i64),
            run.counts.map(|counts| counts.killed as i64),
            run.killed_by,
            run.duration_ms.map(|ms| ms as i64),
        ])?;
    Ok(())
}

/// What may change of a run; its job, its spec and its start never do.
fn update_run(connection: &Connection, run: &RunRecord) -> rusqlite::Result<()> {
    let changed = connection
        .prepare_cached(
            "UPDATE runs SET ended = ?2, stage = ?3, success = ?4, kill_asked = ?5, note = ?6, kill_when_known = ?7,
                 total = ?8, failed = ?9, killed = ?10, killed_by = ?11, duration_ms = ?12
             WHERE id = ?1",
        )?
        .execute(params![
            run.id.0 as i64,
            run.ended.map(|ended| ended.0),
            run_stage_word(run.stage),
            run.success,
            run.kill_asked.map(|asked| asked.0),
            run.note,
            text_of_names(run),
            run.counts.map(|counts| counts.total as i64),
            run.counts.map(|counts| counts.failed as i64),
            run.counts.map(|counts| counts.killed as i64),
            run.killed_by,
            run.duration_ms.map(|ms| ms as i64),
        ])?;
    match changed {
        0 => insert_run(connection, run),
        _ => Ok(()),
    }
}

/// The row of a job as it was: the same text is kept once, however many runs had it.
fn spec_row(connection: &Connection, spec: &JobSpec) -> rusqlite::Result<i64> {
    let text = serde_json::to_string(spec)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let digest: &[u8] = &sha256(&text);
    let known = connection
        .prepare_cached("SELECT id FROM specs WHERE digest = ?1")?
        .query_row([digest], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    connection
        .prepare_cached("INSERT INTO specs(digest, spec) VALUES(?1, ?2)")?
        .insert(params![digest, text])
}

/// Nearly always none: NULL costs nothing.
fn text_of_names(run: &RunRecord) -> Option<String> {
    // names are strings: they always serialize
    (!run.kill_when_known.is_empty()).then(|| serde_json::to_string(&run.kill_when_known).unwrap_or_default())
}

fn names_of_text(text: Option<String>) -> rusqlite::Result<BTreeSet<String>> {
    match text {
        None => Ok(BTreeSet::new()),
        Some(text) => serde_json::from_str(&text)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(13, Type::Text, Box::new(error))),
    }
}

fn put_machine(connection: &Connection, machine: &MachineRecord) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO machine_runs VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                 ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)
             ON CONFLICT(id) DO UPDATE SET position = ?4, stage = ?5, env_delivery = ?6, wrapper_id = ?7, ours = ?8,
                 wrapper_version = ?9, pid = ?10, dispatched = ?11, started = ?12, ended = ?13, retcode = ?14,
                 presumed = ?15, revised_from = ?16, kill_asked = ?17, last_heartbeat = ?18, wrapper_started = ?19,
                 wrapper_ended = ?20, left_out_bytes = ?21, not_counted = ?22, given_by = ?23, duration_ms = ?24,
                 killed_by = ?25",
        )?
        .execute(params![
            machine.id.0 as i64,
            machine.run.0 as i64,
            machine.machine,
            machine.position,
            machine_stage_word(machine.stage),
            machine.env_delivery,
            machine.wrapper_id,
            machine.ours,
            machine.wrapper_version,
            machine.pid,
            machine.dispatched.map(|at| at.0),
            machine.started.map(|at| at.0),
            machine.ended.map(|at| at.0),
            machine.retcode,
            machine.presumed,
            machine.revised_from,
            machine.kill_asked.map(|at| at.0),
            machine.last_heartbeat.map(|at| at.0),
            machine.wrapper_started,
            machine.wrapper_ended,
            machine.left_out_bytes as i64,
            machine.not_counted,
            machine.given_by.map(GivenBy::word),
            machine.duration_ms.map(|ms| ms as i64),
            machine.killed_by,
        ])?;
    Ok(())
}

fn put_verdict(connection: &Connection, record: &VerdictRecord) -> rusqlite::Result<()> {
    let (verdict, instance, reason) = match &record.verdict {
        Verdict::Started { instance } => ("started", Some(instance), None),
        Verdict::Overlap => ("overlap", None, None),
        Verdict::Maintenance => ("maintenance", None, None),
        Verdict::Paused { reason } => ("paused", None, Some(reason)),
        Verdict::Missed { reason } => ("missed", None, Some(reason)),
    };
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO verdicts
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, (SELECT coalesce(max(seq), 0) + 1 FROM verdicts))",
        )?
        .execute(params![
            record.job,
            record.due.0,
            record.until.0,
            record.count as i64,
            verdict,
            instance,
            reason
        ])?;
    Ok(())
}

/// Takes back that a stretch was missed.
fn withdraw(connection: &Connection, job: &str, due: Wall, until: Wall) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM verdicts WHERE job = ?1 AND due = ?2 AND until = ?3 AND verdict IN ('missed', 'paused', 'maintenance')",
        )?
        .execute(params![job, due.0, until.0])?;
    Ok(())
}

/// Writes the last look, and which verdicts were given by then: time alone does not tell, where the clock has stepped.
fn put_look(connection: &Connection, at: Wall) -> rusqlite::Result<()> {
    put_meta(connection, LAST_LOOK, at.0)?;
    let latest = connection
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM verdicts")?
        .query_row([], |row| row.get(0))?;
    put_meta(connection, LOOK_SEQ, latest)
}

/// Writes the look before a step. Verdicts count from the last look that was stored, which is no later.
fn put_doubt(connection: &Connection, at: Wall) -> rusqlite::Result<()> {
    put_meta(connection, DOUBT, at.0)?;
    if meta(connection, DOUBT_SEQ)?.is_none() {
        let seq = meta(connection, LOOK_SEQ)?.unwrap_or(0);
        put_meta(connection, DOUBT_SEQ, seq)?;
    }
    Ok(())
}

fn end_doubt(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM meta WHERE key IN (?1, ?2)")?
        .execute([DOUBT, DOUBT_SEQ])?;
    Ok(())
}

/// The verdicts given after the look that a restart goes on from was stored; the earliest
/// [`limits::RECOVERED_VERDICTS`].
pub(super) fn verdicts_since_look(connection: &Connection) -> rusqlite::Result<Vec<VerdictRecord>> {
    let seq = match meta(connection, DOUBT_SEQ)? {
        Some(seq) => Some(seq),
        None => meta(connection, LOOK_SEQ)?,
    };
    let mut statement = connection.prepare(
        "SELECT job, due, until, count, verdict, instance, reason FROM verdicts WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let rows = statement.query_map(
        params![seq.unwrap_or(0), limits::RECOVERED_VERDICTS as i64],
        verdict_of_row,
    )?;
    rows.collect()
}

fn verdict_of_row(row: &Row<'_>) -> rusqlite::Result<VerdictRecord> {
    let word: String = row.get(4)?;
    let reason = row.get::<_, Option<String>>(6)?.unwrap_or_default();
    let instance = row.get::<_, Option<String>>(5)?.unwrap_or_default();
    Ok(VerdictRecord {
        job: row.get(0)?,
        due: Wall(row.get(1)?),
        until: Wall(row.get(2)?),
        count: number(row, 3)?,
        verdict: match word.as_str() {
            "started" => Verdict::Started { instance },
            "overlap" => Verdict::Overlap,
            "maintenance" => Verdict::Maintenance,
            "paused" => Verdict::Paused { reason },
            _ => Verdict::Missed { reason },
        },
    })
}

fn put_job(connection: &Connection, job: &JobRecord) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO jobs VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT DO UPDATE SET active_since = ?2, last_run = ?3, last_instance = ?4, last_ended = ?5,
                 last_success = ?6, result_ok = ?7, last_failed_count = ?8, last_total_count = ?9, missed = ?10,
                 overlap = ?11, missed_at = ?12, schedule = ?13",
        )?
        .execute(params![
            job.job,
            job.active_since.map(|at| at.0),
            job.last_run.map(|at| at.0),
            job.last_instance,
            job.last_ended.map(|at| at.0),
            job.last_success.map(|at| at.0),
            job.result_ok,
            job.last_failed_count as i64,
            job.last_total_count as i64,
            job.missed as i64,
            job.overlap,
            job.missed_at.map(|at| at.0),
            job.schedule,
        ])?;
    Ok(())
}

fn spec_of_text(text: &str) -> rusqlite::Result<JobSpec> {
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

/// Who gave `code`, as stored; of a row from before that was, what the code stands for.
pub(super) fn given_by(
    row: &Row<'_>,
    column: usize,
    code: Option<i32>,
    not_counted: bool,
) -> rusqlite::Result<Option<GivenBy>> {
    let word: Option<String> = row.get(column)?;
    let stored = word.as_deref().and_then(GivenBy::of_word);
    let derived = code.map(|code| match code {
        0 if not_counted => GivenBy::Maintenance,
        code => GivenBy::of_code(code),
    });
    Ok(code.and(stored).or(derived))
}

/// What [`MachineCounts`] were stored: total, failed and killed, in this and the next two columns.
pub(super) fn counts(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<MachineCounts>> {
    let total: Option<i64> = row.get(column)?;
    let failed: Option<i64> = row.get(column + 1)?;
    let killed: Option<i64> = row.get(column + 2)?;
    Ok(total.zip(failed).map(|(total, failed)| MachineCounts {
        total: total as u64,
        ended: total as u64,
        failed: failed as u64,
        killed: killed.unwrap_or(0) as u64,
    }))
}

fn wall(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Wall>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Wall))
}

fn some_number(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(|number| number as u64))
}

/// Numbers are kept as SQLite's signed 64 bits; none of ours reaches the sign.
fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)? as u64)
}

fn word<T>(row: &Row<'_>, column: usize, parse: fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    parse(text).ok_or_else(|| {
        let reason = FromSqlError::Other(format!("unknown word '{text}'").into());
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(reason))
    })
}

fn run_stage_word(stage: RunStage) -> &'static str {
    match stage {
        RunStage::Pinging => "pinging",
        RunStage::Running => "running",
        RunStage::Ended => "ended",
    }
}

fn run_stage(word: &str) -> Option<RunStage> {
    [RunStage::Pinging, RunStage::Running, RunStage::Ended]
        .into_iter()
        .find(|stage| run_stage_word(*stage) == word)
}

fn machine_stage_word(stage: MachineStage) -> &'static str {
    match stage {
        MachineStage::Waiting => "waiting",
        MachineStage::Dispatched => "dispatched",
        MachineStage::Launched => "launched",
        MachineStage::Permitted => "permitted",
        MachineStage::Started => "started",
        MachineStage::Ended => "ended",
    }
}

fn machine_stage(word: &str) -> Option<MachineStage> {
    [
        MachineStage::Waiting,
        MachineStage::Dispatched,
        MachineStage::Launched,
        MachineStage::Permitted,
        MachineStage::Started,
        MachineStage::Ended,
    ]
    .into_iter()
    .find(|stage| machine_stage_word(*stage) == word)
}
