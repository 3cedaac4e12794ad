//! The storage thread: takes what has queued up, commits it as one group (output first, then the facts that depend
//! on it), and only then lets acks leave. On a full disk it holds output back and goes on with facts.
//! Must not know: what facts mean, wrappers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rusqlite::{Connection, ErrorCode};

use crate::clock::{self, Mono};
use crate::engine::effect::{Fact, StorageOrder, Write};
use crate::engine::event::{Event, StoreOutcome};
use crate::engine::id::ConnectionId;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::record::Recovered;
use crate::{limits, metrics};

use super::directory::{self, Reserve, StateDir};
use super::output::{self, DayFiles, OutputError};
use super::retention::Retention;
use super::{Callbacks, Request, facts, recover, schema};

/// What the thread owns.
pub(super) struct Worker {
    directory: StateDir,
    reserve: Reserve,
    facts: Connection,
    days: DayFiles,
    /// `output_limit` of machine runs whose tails are being trimmed.
    output_limits: HashMap<MachineRunId, u64>,
    trouble: Option<Trouble>,
    /// The trouble that was told last.
    told: Option<String>,
    /// Writes that wait for room on the disk, by number. Bounded: each session has at most a window of unacked
    /// output, of all sessions no more than the output budget, and facts with a ticket are refused instead.
    held: BTreeMap<u64, Box<Write>>,
    next_number: u64,
    retention: Option<Retention>,
    last_step: Mono,
}

/// A write, numbered in the order of the queue.
struct Queued {
    number: u64,
    write: Box<Write>,
}

/// The disk does not take everything.
struct Trouble {
    reason: String,
    /// Not even facts can be written.
    stops_facts: bool,
    retry_at: Mono,
}

/// Why a group was not committed. Whatever was written of it is either rolled back or taken out of its writes.
enum CommitError {
    Output(OutputError),
    Facts(rusqlite::Error),
}

/// What the held writes speak of: what else speaks of it waits behind them.
#[derive(Default)]
struct HeldBack {
    outputs: HashSet<MachineRunId>,
    connections: HashSet<ConnectionId>,
    machines: HashSet<MachineRunId>,
    runs: HashSet<RunId>,
}

/// Opens, locks and recovers a state directory. The error is one line for people.
pub(super) fn open(path: &Path) -> Result<(Worker, Recovered), String> {
    let directory = StateDir::open(path)?;
    let state = path.join("state.db");
    directory::make_private_file(&state).map_err(|error| {
        format!(
            "cannot make '{}': {error}; mend its rights or make room",
            state.display()
        )
    })?;
    let facts =
        schema::open(&state, &schema::STATE_LAYOUT).map_err(|error| schema::describe(&state, &error))?;
    let mut days = DayFiles::new(path);
    let recovered = recover::recover(&facts, &mut days, path)?;
    let mut reserve = Reserve::of(path);
    if let Err(error) = reserve.make() {
        log::warn!(
            "no room for the reserve of state_dir '{}' ({error}): make room",
            path.display()
        );
    }
    let worker = Worker {
        directory,
        reserve,
        facts,
        days,
        output_limits: HashMap::new(),
        trouble: None,
        told: None,
        held: BTreeMap::new(),
        next_number: 0,
        retention: None,
        last_step: clock::mono(),
    };
    Ok((worker, recovered))
}

impl Worker {
    /// Serves requests until their queue is closed and empty.
    pub(super) fn run(&mut self, requests: &Receiver<Request>, callbacks: &Callbacks) {
        loop {
            match requests.recv_timeout(self.patience()) {
                Ok(request) => self.serve(request, requests, callbacks),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self
                .trouble
                .as_ref()
                .is_some_and(|trouble| trouble.retry_at <= clock::mono())
            {
                self.retry(callbacks);
            }
            self.days.checkpoint();
            self.step_retention(requests.is_empty());
        }
        if self.trouble.is_some() {
            self.retry(callbacks);
        }
    }

    /// How long the thread may wait for a request.
    fn patience(&self) -> Duration {
        let retry_ms = self
            .trouble
            .as_ref()
            .map(|trouble| trouble.retry_at.since_ms(clock::mono()));
        let step_ms = self.retention.as_ref().map(|_| 0);
        let wait_ms = [retry_ms, step_ms].into_iter().flatten().min();
        Duration::from_millis(wait_ms.unwrap_or(limits::DISK_RETRY_MS))
    }

    /// Commits what has queued up as one group. What else was asked follows it, in order: that sees all that was
    /// queued before it, and does not cut the group into more commits.
    fn serve(&mut self, first: Request, requests: &Receiver<Request>, callbacks: &Callbacks) {
        let mut group = Vec::new();
        let mut others = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Order(StorageOrder::Commit(write)) => {
                    bytes += weight(&write);
                    group.push(self.number(write));
                }
                other => others.push(other),
            }
            let is_full =
                bytes >= limits::COMMIT_BYTES || group.len() + others.len() >= limits::COMMIT_WRITES;
            next = if is_full { None } else { requests.try_recv().ok() };
        }
        self.commit(group, callbacks);
        for other in others {
            self.serve_other(other, callbacks);
        }
    }

    fn serve_other(&mut self, request: Request, callbacks: &Callbacks) {
        match request {
            Request::Order(StorageOrder::Commit(write)) => {
                let alone = vec![self.number(write)];
                self.commit(alone, callbacks);
            }
            Request::Order(StorageOrder::LoadRun { instance }) => {
                let run = recover::load(&self.facts, &mut self.days, &instance).unwrap_or_else(|error| {
                    log::error!("cannot read run '{instance}' from 'state.db': {error}");
                    None
                });
                let run = run.map(Box::new);
                (callbacks.report)(Event::RunLoaded { instance, run });
            }
            Request::Order(StorageOrder::PruneHistory { before }) => {
                self.retention = Some(Retention::new(before));
            }
            // the other end may have stopped waiting
            Request::Sync(done) => drop(done.send(())),
        }
    }

    fn number(&mut self, write: Box<Write>) -> Queued {
        let number = self.next_number;
        self.next_number += 1;
        Queued { number, write }
    }

    /// Commits a group, as much of it as the disk takes, and answers for it.
    fn commit(&mut self, writes: Vec<Queued>, callbacks: &Callbacks) {
        let mut ready = self.hold_back(writes, callbacks);
        while !ready.is_empty() {
            let begun = clock::wall();
            let tried = self.try_commit(&mut ready);
            metrics::COMMITS.took_us(clock::wall().0.saturating_sub(begun.0).max(0) as u64);
            match tried {
                Ok(outcomes) => return self.release(ready, outcomes, callbacks),
                Err(error) if error.is_refusal() => return self.commit_one_by_one(ready, callbacks),
                Err(CommitError::Output(error)) if self.set_aside_damaged(&error) => {}
                Err(CommitError::Output(error)) => {
                    self.enter_trouble(error.describe(), false, callbacks);
                    ready = self.hold_back(ready, callbacks);
                }
                Err(CommitError::Facts(error)) => {
                    let can_help = self.reserve.is_made();
                    self.reserve.release();
                    self.enter_trouble(format!("writing 'state.db': {error}"), !can_help, callbacks);
                    ready = self.hold_back(ready, callbacks);
                }
            }
        }
    }

    /// A damaged day file would hold its outputs back for ever: a new one takes its place. False: it is not damaged.
    fn set_aside_damaged(&mut self, error: &OutputError) -> bool {
        let OutputError::Sqlite(day, error) = error else {
            return false;
        };
        if !schema::is_damage(error) {
            return false;
        }
        let done = recover::set_aside(&mut self.days, self.directory.path(), *day, error);
        done.inspect_err(|reason| log::error!("{reason}")).is_ok()
    }

    /// One write of the group is faulty in itself: it alone is refused.
    fn commit_one_by_one(&mut self, writes: Vec<Queued>, callbacks: &Callbacks) {
        for queued in writes {
            let mut alone = vec![queued];
            match self.try_commit(&mut alone) {
                Ok(outcomes) => self.release(alone, outcomes, callbacks),
                Err(error) if error.is_refusal() => {
                    let reason = error.describe();
                    log::error!("storage refuses a write: {reason}");
                    fail(&alone[0].write, &reason, callbacks);
                }
                Err(_) => self.commit(alone, callbacks),
            }
        }
    }

    /// All or nothing, but for output: what was committed of it is taken out of its writes.
    fn try_commit(&mut self, writes: &mut [Queued]) -> Result<Vec<StoreOutcome>, CommitError> {
        let has_facts = writes.iter().any(|queued| !queued.write.facts.is_empty());
        let mut outcomes = vec![StoreOutcome::Committed; writes.len()];
        if has_facts {
            begin(&self.facts)?;
            for (queued, outcome) in writes.iter().zip(&mut outcomes) {
                match facts::apply(&self.facts, &queued.write) {
                    Ok(applied) => *outcome = applied,
                    Err(error) => {
                        roll_back(&self.facts);
                        return Err(error.into());
                    }
                }
            }
        }
        let accepted = writes
            .iter_mut()
            .zip(&outcomes)
            .filter(|(_, outcome)| **outcome == StoreOutcome::Committed)
            .map(|(queued, _)| &mut *queued.write);
        if let Err(error) = commit_output(&mut self.days, &self.facts, &mut self.output_limits, accepted) {
            if has_facts {
                roll_back(&self.facts);
            }
            return Err(CommitError::Output(error));
        }
        if has_facts {
            commit_transaction(&self.facts).inspect_err(|_| roll_back(&self.facts))?;
        }
        Ok(outcomes)
    }

    /// The group is on the disk: acks first, then tickets.
    fn release(&mut self, writes: Vec<Queued>, outcomes: Vec<StoreOutcome>, callbacks: &Callbacks) {
        if !self.held.is_empty() {
            for queued in &writes {
                self.forget_older(queued.number, &queued.write.facts);
            }
        }
        let mut answers = Vec::new();
        for (Queued { mut write, .. }, outcome) in writes.into_iter().zip(outcomes) {
            if outcome == StoreOutcome::Committed {
                for (connection, frame) in write.acks.drain(..) {
                    (callbacks.deliver)(connection, frame);
                }
            }
            answers.extend(write.ticket.map(|ticket| Event::Stored { ticket, outcome }));
        }
        for answer in answers {
            (callbacks.report)(answer);
        }
    }

    /// Records of a job are whole: an older one that is still held must not come after a newer one.
    fn forget_older(&mut self, number: u64, stored: &[Fact]) {
        for fact in stored {
            let is_older = |held: &Fact| match (held, fact) {
                (Fact::Job(held), Fact::Job(stored)) => held.job == stored.job,
                (Fact::LastLook(_), Fact::LastLook(_)) => true,
                (Fact::HistoryClock(_), Fact::HistoryClock(_)) => true,
                (Fact::Notice(held), Fact::Notice(stored)) => held.id == stored.id,
                (Fact::NoticeState(held, _), Fact::NoticeState(stored, _)) => held == stored,
                _ => false,
            };
            for (_, write) in self.held.range_mut(..number) {
                write.facts.retain(|held| !is_older(held));
            }
        }
    }

    /// Takes out of a group what has to wait for room on the disk.
    fn hold_back(&mut self, writes: Vec<Queued>, callbacks: &Callbacks) -> Vec<Queued> {
        let Some(trouble) = &self.trouble else {
            return writes;
        };
        let mut held_back = HeldBack::of(self.held.values());
        let mut ready = Vec::new();
        for Queued { number, write } in writes {
            let waits_for_output = held_back.concerns(&write);
            let waits_for_facts = trouble.stops_facts && !write.facts.is_empty();
            if waits_for_facts && write.ticket.is_some() && !waits_for_output {
                fail(&write, &trouble.reason, callbacks);
            } else if waits_for_facts || waits_for_output {
                held_back.add(&write);
                self.held.insert(number, write);
            } else {
                ready.push(Queued { number, write });
            }
        }
        ready
    }

    /// Says so once for each reason.
    fn enter_trouble(&mut self, reason: String, stops_facts: bool, callbacks: &Callbacks) {
        let state_dir = self.directory.path().display();
        let reason = if stops_facts {
            format!("state_dir '{state_dir}': {reason}; nothing new starts until there is room")
        } else {
            format!("state_dir '{state_dir}': {reason}; output waits until there is room")
        };
        if self.told.as_ref() != Some(&reason) {
            log::error!("{reason}");
            self.told = Some(reason.clone());
            (callbacks.report)(Event::StorageTrouble {
                reason: Some(reason.clone()),
            });
        }
        self.trouble = Some(Trouble {
            reason,
            stops_facts,
            retry_at: clock::mono().plus_ms(limits::DISK_RETRY_MS),
        });
    }

    /// Is there room again? The reserve comes first, so that held output cannot eat it.
    fn retry(&mut self, callbacks: &Callbacks) {
        let Some(mut trouble) = self.trouble.take() else {
            return;
        };
        if self.reserve.make().is_err() {
            // facts may fit where the reserve does not
            trouble.stops_facts = false;
            trouble.retry_at = clock::mono().plus_ms(limits::DISK_RETRY_MS);
            self.trouble = Some(trouble);
        }
        let mut waiting = std::mem::take(&mut self.held).into_iter().peekable();
        while waiting.peek().is_some() {
            let mut group = Vec::new();
            let mut bytes = 0;
            while bytes < limits::COMMIT_BYTES
                && group.len() < limits::COMMIT_WRITES
                && let Some((number, write)) = waiting.next()
            {
                bytes += weight(&write);
                group.push(Queued { number, write });
            }
            self.commit(group, callbacks);
        }
        if self.trouble.is_none() {
            log::warn!(
                "state_dir '{}' takes everything again",
                self.directory.path().display()
            );
            self.told = None;
            (callbacks.report)(Event::StorageTrouble { reason: None });
        }
    }

    /// One small step of retention, when nothing waits or the last step is long ago.
    fn step_retention(&mut self, is_idle: bool) {
        let Some(retention) = &mut self.retention else {
            return;
        };
        let now = clock::mono();
        if !is_idle && now.since_ms(self.last_step) < limits::RETENTION_PAUSE_MS {
            return;
        }
        let path = self.directory.path();
        let is_done = retention
            .step(path, &self.facts, &mut self.days)
            .unwrap_or_else(|reason| {
                log::error!("cannot remove old history from '{}': {reason}", path.display());
                true
            });
        if is_done {
            if let Some(summary) = retention.summary() {
                log::info!("{summary}");
            }
            self.retention = None;
        }
        self.last_step = clock::mono();
    }
}

impl HeldBack {
    fn of<'w>(writes: impl IntoIterator<Item = &'w Box<Write>>) -> HeldBack {
        let mut held_back = HeldBack::default();
        for write in writes {
            held_back.add(write);
        }
        held_back
    }

    fn add(&mut self, write: &Write) {
        self.outputs
            .extend(write.output.iter().map(|row| row.machine_run));
        self.outputs
            .extend(write.trim.iter().map(|trim| trim.machine_run));
        self.connections
            .extend(write.acks.iter().map(|(connection, _)| *connection));
        for fact in &write.facts {
            match fact {
                Fact::Start(run) | Fact::Run(run) => drop(self.runs.insert(run.id)),
                Fact::Machine(machine) => drop(self.machines.insert(machine.id)),
                Fact::Verdict(_)
                | Fact::Job(_)
                | Fact::LastLook(_)
                | Fact::Doubt(_)
                | Fact::Withdraw { .. }
                | Fact::HistoryClock(_)
                | Fact::Control(_)
                | Fact::Notice(_)
                | Fact::NoticeState(..)
                | Fact::Heartbeat(_) => {}
            }
        }
    }

    /// Output waits in any case; facts wait behind held ones of the same run or machine run, acks behind held ones of
    /// the same connection: a later ack covers what stands before it.
    fn concerns(&self, write: &Write) -> bool {
        let waits_for_output = write.after_output_of.is_some_and(|id| self.outputs.contains(&id));
        !write.output.is_empty()
            || !write.trim.is_empty()
            || waits_for_output
            || write
                .acks
                .iter()
                .any(|(connection, _)| self.connections.contains(connection))
            || write.facts.iter().any(|fact| match fact {
                Fact::Start(run) | Fact::Run(run) => self.runs.contains(&run.id),
                Fact::Machine(machine) => {
                    self.machines.contains(&machine.id) || self.runs.contains(&machine.run)
                }
                Fact::Verdict(_)
                | Fact::Job(_)
                | Fact::LastLook(_)
                | Fact::Doubt(_)
                | Fact::Withdraw { .. }
                | Fact::HistoryClock(_)
                | Fact::Control(_)
                | Fact::Notice(_)
                | Fact::NoticeState(..)
                | Fact::Heartbeat(_) => false,
            })
    }
}

impl CommitError {
    /// The write is faulty in itself: trying again would not help.
    fn is_refusal(&self) -> bool {
        let error = match self {
            CommitError::Output(OutputError::Sqlite(_, error)) | CommitError::Facts(error) => error,
            CommitError::Output(OutputError::Io(..)) => return false,
        };
        match error.sqlite_error_code() {
            Some(code) => matches!(
                code,
                ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch
            ),
            // not SQLite's: a value that cannot be converted
            None => true,
        }
    }

    fn describe(&self) -> String {
        match self {
            CommitError::Output(error) => error.describe(),
            CommitError::Facts(error) => format!("writing 'state.db': {error}"),
        }
    }
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> CommitError {
        CommitError::Facts(error)
    }
}

fn weight(write: &Write) -> usize {
    let output: usize = write.output.iter().map(|row| row.data.len()).sum();
    output + write.facts.len() * limits::FACT_BYTES
}

fn fail(write: &Write, reason: &str, callbacks: &Callbacks) {
    if let Some(ticket) = write.ticket {
        let outcome = StoreOutcome::Failed(reason.to_string());
        (callbacks.report)(Event::Stored { ticket, outcome });
    }
}

/// Commits output and trims day by day. What is committed leaves its write, so that a second attempt does not write
/// it again.
fn commit_output<'w>(
    days: &mut DayFiles,
    facts: &Connection,
    output_limits: &mut HashMap<MachineRunId, u64>,
    writes: impl Iterator<Item = &'w mut Write>,
) -> Result<(), OutputError> {
    let mut writes: Vec<&mut Write> = writes
        .filter(|write| !write.output.is_empty() || !write.trim.is_empty())
        .collect();
    while let Some(day) = writes.iter().find_map(|write| first_day(write)) {
        let file = days.begin(day)?;
        let written = writes
            .iter()
            .try_for_each(|write| write_day(file, day, write, facts, output_limits))
            .and_then(|()| commit_transaction(file));
        if let Err(error) = written {
            roll_back(file);
            return Err(OutputError::Sqlite(day, error));
        }
        let bytes = writes
            .iter()
            .flat_map(|write| &write.output)
            .map(|row| row.data.len())
            .sum();
        days.count_written(day, bytes);
        for write in &mut writes {
            write.output.retain(|row| row.day != day);
            write.trim.retain(|trim| trim.day != day);
        }
    }
    Ok(())
}

fn first_day(write: &Write) -> Option<i64> {
    let of_output = write.output.first().map(|row| row.day);
    of_output.or(write.trim.first().map(|trim| trim.day))
}

fn write_day(
    file: &Connection,
    day: i64,
    write: &Write,
    facts: &Connection,
    output_limits: &mut HashMap<MachineRunId, u64>,
) -> rusqlite::Result<()> {
    for row in write.output.iter().filter(|row| row.day == day) {
        output::insert(file, row)?;
    }
    for trim in write.trim.iter().filter(|trim| trim.day == day) {
        if let Some(limit_bytes) = output_limit(facts, output_limits, trim.machine_run)? {
            output::trim(file, trim.machine_run, limit_bytes, trim.below_row)?;
        }
    }
    Ok(())
}

/// The limit says which rows are the head, which is never trimmed. None: no limit, or no such machine run.
fn output_limit(
    facts: &Connection,
    known: &mut HashMap<MachineRunId, u64>,
    machine_run: MachineRunId,
) -> rusqlite::Result<Option<u64>> {
    if let Some(limit_bytes) = known.get(&machine_run) {
        return Ok(Some(*limit_bytes));
    }
    let found = facts::output_limit(facts, machine_run)?.filter(|limit_bytes| *limit_bytes > 0);
    if let Some(limit_bytes) = found {
        if known.len() >= limits::MACHINE_CONNECTIONS {
            known.clear();
        }
        known.insert(machine_run, limit_bytes);
    }
    Ok(found)
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("BEGIN IMMEDIATE")?
        .execute([])
        .map(drop)
}

fn commit_transaction(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("COMMIT")?.execute([]).map(drop)
}

/// SQLite may have rolled back by itself; whatever this says, the transaction is gone.
fn roll_back(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        log::error!("cannot roll back: {error}");
    }
}
