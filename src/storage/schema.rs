//! Tables, their versions, and how a database file is opened. Every change of a table is a new entry at the end of
//! its list of migrations; entries that were released never change. Must not know: what the rows mean.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::clock;

/// A connection waits this long for another one of this process (a reader that starts up). Nobody else uses the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept by a connection: more than any connection uses.
const STATEMENT_CACHE: usize = 64;

/// `state.db`. Times are microseconds since the epoch, UTC. Stages and outcomes are words, so that people can ask
/// the file with `sqlite3`.
pub(super) const STATE: &[&str] = &[
    "
CREATE TABLE meta(
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE specs(
    id     INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    spec   TEXT NOT NULL
) STRICT;

CREATE TABLE runs(
    id         INTEGER PRIMARY KEY,
    instance   TEXT NOT NULL UNIQUE,
    job        TEXT NOT NULL,
    job_group  TEXT NOT NULL,
    due        INTEGER,
    asked_by   TEXT,
    started    INTEGER NOT NULL,
    ended      INTEGER,
    stage      TEXT NOT NULL,
    success    INTEGER,
    kill_asked INTEGER,
    note       TEXT,
    token      TEXT NOT NULL,
    spec       INTEGER NOT NULL,
    kill_when_known TEXT
) STRICT;
CREATE INDEX runs_by_job ON runs(job);
CREATE INDEX runs_by_start ON runs(started);
CREATE INDEX runs_by_spec ON runs(spec);
CREATE INDEX runs_unfinished ON runs(id) WHERE stage <> 'ended';

CREATE TABLE machine_runs(
    id              INTEGER PRIMARY KEY,
    run             INTEGER NOT NULL,
    machine         TEXT NOT NULL,
    position        INTEGER NOT NULL,
    stage           TEXT NOT NULL,
    env_delivery    INTEGER NOT NULL,
    wrapper_id      TEXT,
    ours            INTEGER NOT NULL,
    wrapper_version TEXT,
    pid             INTEGER,
    dispatched      INTEGER,
    started         INTEGER,
    ended           INTEGER,
    retcode         INTEGER,
    presumed        INTEGER NOT NULL,
    revised_from    INTEGER,
    kill_asked      INTEGER,
    last_heartbeat  INTEGER,
    wrapper_started TEXT,
    wrapper_ended   TEXT,
    left_out_bytes  INTEGER NOT NULL,
    not_counted     INTEGER NOT NULL
) STRICT;
CREATE INDEX machine_runs_unfinished ON machine_runs(run) WHERE stage <> 'ended';
CREATE INDEX machine_runs_by_run ON machine_runs(run, machine);

CREATE TABLE verdicts(
    job      TEXT NOT NULL,
    due      INTEGER NOT NULL,
    until    INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    verdict  TEXT NOT NULL,
    instance TEXT,
    reason   TEXT,
    PRIMARY KEY(job, due, until)
) STRICT, WITHOUT ROWID;
CREATE INDEX verdicts_by_end ON verdicts(until);

CREATE TABLE jobs(
    job               TEXT PRIMARY KEY,
    active_since      INTEGER,
    last_run          INTEGER,
    last_instance     TEXT,
    last_ended        INTEGER,
    last_success      INTEGER,
    result_ok         INTEGER,
    last_failed_count INTEGER NOT NULL,
    last_total_count  INTEGER NOT NULL,
    missed            INTEGER NOT NULL,
    overlap           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
",
    "
CREATE TABLE pauses(
    job    TEXT PRIMARY KEY,
    since  INTEGER NOT NULL,
    until  INTEGER,
    reason TEXT NOT NULL,
    by     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- machine '': global maintenance
CREATE TABLE switches(
    machine TEXT PRIMARY KEY,
    is_on   INTEGER NOT NULL,
    since   INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    by      TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit(
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    by      TEXT NOT NULL,
    action  TEXT NOT NULL,
    object  TEXT NOT NULL,
    detail  TEXT NOT NULL,
    outcome TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit(at);
CREATE INDEX machine_runs_by_start ON machine_runs(started) WHERE started IS NOT NULL;
CREATE INDEX machine_runs_by_end ON machine_runs(ended) WHERE ended IS NOT NULL;
CREATE INDEX verdicts_by_due ON verdicts(due);
",
    "
-- of an ended run: its machines that count, and those of them that failed; counting them for each list would be slow
ALTER TABLE runs ADD COLUMN total INTEGER;
ALTER TABLE runs ADD COLUMN failed INTEGER;
UPDATE runs SET
    total = (SELECT count(*) FROM machine_runs WHERE run = runs.id AND NOT not_counted),
    failed = (SELECT count(*) FROM machine_runs WHERE run = runs.id AND NOT not_counted AND retcode IS NOT 0)
WHERE stage = 'ended';
",
    "
-- the order in which verdicts were given: due times do not tell, where the clock has stepped
ALTER TABLE verdicts ADD COLUMN seq INTEGER;
CREATE INDEX verdicts_by_seq ON verdicts(seq) WHERE seq IS NOT NULL;
",
    "
-- who gave a machine run its code (NULL: from before this was stored, see GivenBy::of_code), how long its command ran by
-- its wrapper's clock, who asked for a kill; of an ended run also: its machines that failed by a kill; since when a job
-- has misses that nobody has seen
ALTER TABLE machine_runs ADD COLUMN given_by TEXT;
ALTER TABLE machine_runs ADD COLUMN duration_ms INTEGER;
ALTER TABLE machine_runs ADD COLUMN killed_by TEXT;
ALTER TABLE runs ADD COLUMN killed INTEGER;
ALTER TABLE runs ADD COLUMN killed_by TEXT;
ALTER TABLE runs ADD COLUMN duration_ms INTEGER;
ALTER TABLE jobs ADD COLUMN missed_at INTEGER;
UPDATE runs SET
    killed = CASE success WHEN 0 THEN
        (SELECT count(*) FROM machine_runs WHERE run = runs.id AND NOT not_counted AND retcode = 143)
        ELSE 0 END,
    duration_ms = max(ended - started, 0) / 1000
WHERE stage = 'ended';
",
    "
-- notices for one destination each: those on their way, and the latest of those that are done
CREATE TABLE notices(
    id          INTEGER PRIMARY KEY,
    destination TEXT NOT NULL,
    at          INTEGER NOT NULL,
    not_before  INTEGER,
    message     TEXT,
    stage       TEXT NOT NULL,
    tries       INTEGER NOT NULL,
    error       TEXT,
    done        INTEGER,
    kind        TEXT NOT NULL,
    job         TEXT NOT NULL,
    facts       TEXT NOT NULL
) STRICT;
CREATE INDEX notices_waiting ON notices(id) WHERE stage = 'waiting';
CREATE INDEX notices_by_time ON notices(at);

-- what is remembered of each job, so that a change is told once; JSON
CREATE TABLE notice_states(
    job   TEXT PRIMARY KEY,
    state TEXT NOT NULL
) STRICT, WITHOUT ROWID;
",
    "
-- the schedule by which a job's due times were looked at last (Schedule::mark)
ALTER TABLE jobs ADD COLUMN schedule TEXT;
",
];

/// A day file. Rows are appended in the order of their commit, whatever they belong to: keyed by machine run, a
/// thousand runs that print a line each would touch a thousand pages of 64 KiB a commit (measured: 10 MB/s and
/// 120 bytes written per byte, against 104 MB/s and 3.5). The index finds a machine run's bytes by their offset.
pub(super) const OUTPUT: &[&str] = &["
CREATE TABLE output(
    id           INTEGER PRIMARY KEY,
    machine_run  INTEGER NOT NULL,
    row          INTEGER NOT NULL,
    seq          INTEGER,
    byte_offset  INTEGER NOT NULL,
    utf16_offset INTEGER NOT NULL,
    data         BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX output_by_offset ON output(machine_run, byte_offset, row);
"];

/// How a database file is laid out.
pub(super) struct Layout {
    pub migrations: &'static [&'static str],
    pub page_bytes: u32,
    /// Pages in the WAL from which on a commit also moves them into the file. Facts: 4 MiB. Output: the thread does
    /// that between commits, after the acks (`DayFiles::checkpoint`), long before this is reached.
    pub checkpoint_pages: u32,
    pub cache_bytes: u32,
}

/// `state.db`.
pub(super) const STATE_LAYOUT: Layout = Layout {
    migrations: STATE,
    page_bytes: 4 << 10,
    checkpoint_pages: 1_024,
    cache_bytes: 16 << 20,
};

/// `output-YYYY-MM-DD.db`.
pub(super) const OUTPUT_LAYOUT: Layout = Layout {
    migrations: OUTPUT,
    page_bytes: 64 << 10,
    checkpoint_pages: 1_024,
    cache_bytes: 16 << 20,
};

/// Opens a database for writing and brings its tables up to date. The file exists (maybe empty).
pub(super) fn open(path: &Path, layout: &Layout) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // page_size holds only before the first page is written; FULL makes every commit sync the WAL, NORMAL would not
    connection.execute_batch(&format!(
        "PRAGMA page_size = {};
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = {};
         PRAGMA cache_size = -{};
         PRAGMA temp_store = MEMORY;",
        layout.page_bytes,
        layout.checkpoint_pages,
        layout.cache_bytes >> 10,
    ))?;
    migrate(&connection, layout.migrations)?;
    Ok(connection)
}

/// Opens a database for reading alone. None: there is no such file.
pub(super) fn open_for_reading(path: &Path) -> rusqlite::Result<Option<Connection>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match Connection::open_with_flags(path, flags) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && !path.exists() => {
            return Ok(None);
        }
        opened => opened?,
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    Ok(Some(connection))
}

/// The file's content is damaged, as opposed to out of reach.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// The file has tables that this version does not know.
pub(super) fn is_newer(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::SchemaChanged)
}

/// Describes on one line why a file cannot be used, and what to do.
pub(super) fn describe(path: &Path, error: &rusqlite::Error) -> String {
    let shown = path.display();
    if is_damage(error) {
        return format!(
            "'{shown}' is damaged ({error}): put a backup in its place, or move it and its -wal and -shm away to \
             start with an empty history"
        );
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => format!("cannot write '{shown}': the disk is full; make room"),
        Some(ErrorCode::ReadOnly) => {
            format!(
                "cannot write '{shown}': it is read-only; check its permissions, or set a different state_dir"
            )
        }
        _ if is_newer(error) => format!("cannot use '{shown}': {error}"),
        _ => format!("cannot use '{shown}': {error}; check its permissions, or set a different state_dir"),
    }
}

/// The first migration has been applied.
pub(super) fn has_tables(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE name = 'migrations')",
        [],
        |row| row.get(0),
    )
}

fn migrate(connection: &Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let known = migrations.len() as i64;
    let version: i64 = if has_tables(connection)? {
        connection.query_row("SELECT coalesce(max(version), 0) FROM migrations", [], |row| {
            row.get(0)
        })?
    } else {
        0
    };
    if version > known {
        // carried as SQLite's own "schema" error, with a text for people
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_SCHEMA),
            Some(format!(
                "written by a newer saltpeter (tables of version {version}, this one knows {known}); install the \
                 newer one"
            )),
        ));
    }
    for (index, migration) in migrations.iter().enumerate().skip(version as usize) {
        apply(connection, index as i64 + 1, migration)?;
    }
    Ok(())
}

fn apply(connection: &Connection, version: i64, migration: &str) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS migrations(version INTEGER PRIMARY KEY, applied INTEGER NOT NULL) STRICT",
    )?;
    transaction.execute_batch(migration)?;
    transaction.execute(
        "INSERT INTO migrations(version, applied) VALUES(?1, ?2)",
        (version, clock::wall().0),
    )?;
    transaction.commit()
}
