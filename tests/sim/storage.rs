//! Storage as effect.rs promises it: writes in order, several to a commit, acks after it, all lost in a crash that
//! was not committed; a disk that is full for output, or for everything.
//! Must not know: why anything is written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use saltpeter::clock::Wall;
use saltpeter::engine::effect::{Fact, StorageOrder, Write};
use saltpeter::engine::event::{Event, StoreOutcome};
use saltpeter::engine::id::{MachineRunId, RunId};
use saltpeter::engine::notice::{NoticeRecord, NoticeStage, NoticeState};
use saltpeter::engine::record::{
    Control, JobRecord, MachineRecord, MachineStage, OutputPosition, Recovered, RunRecord, RunStage,
    StoredRun, Verdict, VerdictRecord,
};

use crate::trace;
use crate::world::{Action, World};

/// What there is no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Full {
    #[default]
    Room,
    /// Facts use the reserve, output waits.
    ForOutput,
    /// Even the reserve is spent.
    ForAll,
}

/// A stored row of output.
#[derive(Clone, Debug)]
pub struct Row {
    pub row: u64,
    pub seq: Option<u64>,
    pub byte_offset: u64,
    pub utf16_offset: u64,
    pub data: Vec<u8>,
}

/// What is on the disk, and what waits for it.
#[derive(Default)]
pub struct Storage {
    pub runs: BTreeMap<RunId, RunRecord>,
    pub machines: BTreeMap<MachineRunId, MachineRecord>,
    pub rows: BTreeMap<MachineRunId, Vec<Row>>,
    /// By job, due time and end of the stretch: a stretch speaks for what has no verdict of its own.
    pub verdicts: BTreeMap<(String, i64, i64), VerdictRecord>,
    pub controls: Vec<Control>,
    pub notices: BTreeMap<u64, NoticeRecord>,
    pub notice_states: BTreeMap<String, NoticeState>,
    pub names: BTreeMap<String, RunId>,
    pub by_run: BTreeMap<RunId, Vec<MachineRunId>>,
    pub jobs: BTreeMap<String, JobRecord>,
    last_look: Option<Wall>,
    /// The look before a step of the clock that is still in doubt.
    doubt: Option<Wall>,
    /// Verdicts given since that look (or the last one) was stored.
    since_look: Vec<VerdictRecord>,
    history_clock: Option<Wall>,
    pending: VecDeque<Write>,
    commit_scheduled: bool,
    pub full: Full,
    pub slow: bool,
}

/// What writes that wait for room speak of: whatever else speaks of it waits behind them.
#[derive(Default)]
struct Waiting {
    outputs: BTreeSet<MachineRunId>,
    machines: BTreeSet<MachineRunId>,
    runs: BTreeSet<RunId>,
}

impl Waiting {
    fn add(&mut self, write: &Write) {
        self.outputs.extend(write.output.iter().map(|r| r.machine_run));
        self.outputs.extend(write.trim.iter().map(|t| t.machine_run));
        for fact in &write.facts {
            match fact {
                Fact::Start(run) | Fact::Run(run) => drop(self.runs.insert(run.id)),
                Fact::Machine(machine) => drop(self.machines.insert(machine.id)),
                _ => {}
            }
        }
    }

    fn concerns(&self, write: &Write) -> bool {
        !write.output.is_empty()
            || !write.trim.is_empty()
            || write.after_output_of.is_some_and(|m| self.outputs.contains(&m))
            || write.facts.iter().any(|fact| match fact {
                Fact::Start(run) | Fact::Run(run) => self.runs.contains(&run.id),
                Fact::Machine(m) => self.machines.contains(&m.id) || self.runs.contains(&m.run),
                _ => false,
            })
    }
}

impl Storage {
    pub fn reason(&self) -> Option<String> {
        (self.full != Full::Room).then(|| "disk full".to_string())
    }

    pub fn recovered(&self) -> Recovered {
        let mut last: BTreeMap<&str, RunId> = BTreeMap::new();
        for run in self.runs.values().filter(|r| r.stage == RunStage::Ended) {
            last.insert(&run.job, run.id);
        }
        let mut wanted: BTreeSet<RunId> = last.into_values().collect();
        let open = self.runs.values().filter(|r| r.stage != RunStage::Ended);
        wanted.extend(open.map(|r| r.id));
        // output that waits for room holds back the end that depends on it
        let open = self.machines.values().filter(|m| m.stage != MachineStage::Ended);
        wanted.extend(open.map(|m| m.run));
        let waiting = self
            .notices
            .values()
            .filter(|notice| notice.stage == NoticeStage::Waiting);
        Recovered {
            last_look: self.last_look,
            history_clock: self.history_clock,
            doubt: self.doubt,
            verdicts: self.since_look.clone(),
            next_run: self.runs.keys().next_back().map_or(1, |id| id.0 + 1),
            next_machine_run: self.next_machine_run(),
            jobs: self.jobs.values().cloned().collect(),
            controls: self.controls.clone(),
            notices: waiting.cloned().collect(),
            next_notice: self.notices.keys().next_back().map_or(1, |id| id + 1),
            notice_states: self.notice_states.clone().into_iter().collect(),
            notices_given_up: Vec::new(),
            runs: wanted.iter().filter_map(|id| self.load(*id)).collect(),
        }
    }

    /// One that has output, and facts not yet, is used too.
    fn next_machine_run(&self) -> u64 {
        let facts = self.machines.keys().next_back();
        let output = self.rows.keys().next_back();
        facts.max(output).map_or(1, |id| id.0 + 1)
    }

    pub fn stored_run(&self, instance: &str) -> Option<StoredRun> {
        self.load(*self.names.get(instance)?)
    }

    fn load(&self, id: RunId) -> Option<StoredRun> {
        let run = self.runs.get(&id)?.clone();
        let limit = run.spec.output_limit_bytes;
        let mut machines: Vec<_> = self
            .machines_of(id)
            .map(|m| (m.clone(), self.position(m.id, limit)))
            .collect();
        machines.sort_by_key(|(m, _)| m.position);
        Some(StoredRun { run, machines })
    }

    pub fn machines_of(&self, id: RunId) -> impl Iterator<Item = &MachineRecord> {
        self.by_run
            .get(&id)
            .into_iter()
            .flatten()
            .filter_map(|m| self.machines.get(m))
    }

    fn position(&self, id: MachineRunId, limit: u64) -> OutputPosition {
        let Some(rows) = self.rows.get(&id) else {
            return OutputPosition::default();
        };
        let Some(last) = rows.last() else {
            return OutputPosition::default();
        };
        let text = String::from_utf8_lossy(&last.data);
        let mut last_bytes: Vec<u8> = rows
            .iter()
            .rev()
            .take(4)
            .rev()
            .flat_map(|r| r.data.clone())
            .collect();
        last_bytes = last_bytes.split_off(last_bytes.len().saturating_sub(4));
        OutputPosition {
            next_seq: last.seq.map_or(0, |s| s + 1),
            next_row: last.row + 1,
            bytes: last.byte_offset + last.data.len() as u64,
            utf16: last.utf16_offset + text.encode_utf16().count() as u64,
            last_bytes,
            tail_from_row: rows
                .iter()
                .find(|r| limit > 0 && r.byte_offset >= limit / 2)
                .map(|r| r.row),
        }
    }

    /// Highest seq on the disk; -1 if none.
    pub fn covered(&self, id: MachineRunId) -> i64 {
        let last = self.rows.get(&id).and_then(|rows| rows.last());
        last.and_then(|r| r.seq).map_or(-1, |s| s as i64)
    }

    fn refusal(&self, write: &Write) -> Option<StoreOutcome> {
        for fact in &write.facts {
            if let Fact::Start(run) = fact {
                if let Some(due) = run.due
                    && self
                        .verdicts
                        .get(&(run.job.clone(), due.0, due.0))
                        .is_some_and(|v| !matches!(v.verdict, Verdict::Missed { .. }))
                {
                    return Some(StoreOutcome::AlreadyStarted);
                }
                if self.names.contains_key(&run.instance) {
                    return Some(StoreOutcome::NameTaken);
                }
            }
        }
        None
    }

    fn put_rows(&mut self, write: &mut Write) {
        for row in write.output.drain(..) {
            self.rows.entry(row.machine_run).or_default().push(Row {
                row: row.row,
                seq: row.seq,
                byte_offset: row.byte_offset,
                utf16_offset: row.utf16_offset,
                data: row.data.bytes().to_vec(),
            });
        }
    }
}

impl World {
    /// Does what the engine wants of storage. History is never old enough to be pruned here.
    pub fn storage_order(&mut self, order: StorageOrder) {
        match order {
            StorageOrder::Commit(write) => {
                self.storage.pending.push_back(*write);
                self.schedule_commit();
            }
            StorageOrder::LoadRun { instance } => {
                let run = self.storage.stored_run(&instance).map(Box::new);
                let wait = self.delay(1, 50);
                self.control_after(wait, Event::RunLoaded { instance, run });
            }
            StorageOrder::PruneHistory { .. } => {}
        }
    }

    fn schedule_commit(&mut self) {
        if self.storage.commit_scheduled || self.storage.pending.is_empty() {
            return;
        }
        self.storage.commit_scheduled = true;
        let wait = if self.storage.full != Full::Room {
            1_000
        } else if self.storage.slow {
            self.delay(100, 5_000)
        } else {
            self.delay(1, 25)
        };
        let life = self.life;
        self.after(wait, Action::Commit { life });
    }

    pub fn commit(&mut self, life: u32) {
        if life != self.life {
            return;
        }
        self.storage.commit_scheduled = false;
        self.commit_all(true);
        self.schedule_commit();
    }

    /// Everything that there is room for, in order. What waits for room keeps its place.
    fn commit_all(&mut self, release: bool) {
        let mut rest = VecDeque::new();
        let mut waiting = Waiting::default();
        let mut released = Vec::new();
        while let Some(mut write) = self.storage.pending.pop_front() {
            let full = self.storage.full;
            let waits_for_output = full != Full::Room && waiting.concerns(&write);
            let waits_for_facts = full == Full::ForAll && !write.facts.is_empty();
            let outcome = match waits_for_facts && write.ticket.is_some() && !waits_for_output {
                true => Some(StoreOutcome::Failed("disk full".into())),
                false if waits_for_output || waits_for_facts => None,
                false => self.storage.refusal(&write),
            };
            if let Some(outcome) = outcome {
                trace!(self, "STORAGE refuses {outcome:?}");
                self.checker_refused(&write);
                released.push((Vec::new(), write.ticket, outcome));
                continue;
            }
            if waits_for_output || waits_for_facts {
                waiting.add(&write);
                rest.push_back(write);
                continue;
            }
            self.checker_commit(&write);
            self.storage.put_rows(&mut write);
            self.put_facts(&mut write);
            for trim in &write.trim {
                if let Some(rows) = self.storage.rows.get_mut(&trim.machine_run) {
                    rows.retain(|r| r.row < trim.from_row || r.row >= trim.below_row);
                }
            }
            released.push((write.acks, write.ticket, StoreOutcome::Committed));
        }
        self.storage.pending = rest;
        trace!(
            self,
            "STORAGE commits {}, {} wait",
            released.len(),
            self.storage.pending.len()
        );
        if !release {
            return;
        }
        for (acks, ticket, outcome) in released {
            for (connection, frame) in acks {
                self.checker_frame_out(connection, &frame, true);
                self.send_down(connection.0, frame);
            }
            if let Some(ticket) = ticket {
                let wait = self.delay(0, 5);
                self.control_after(wait, Event::Stored { ticket, outcome });
            }
        }
    }

    fn put_facts(&mut self, write: &mut Write) {
        for fact in write.facts.drain(..) {
            let storage = &mut self.storage;
            match fact {
                Fact::Start(run) => {
                    storage.names.insert(run.instance.clone(), run.id);
                    storage.runs.insert(run.id, *run);
                }
                Fact::Run(run) => {
                    storage.runs.insert(run.id, *run);
                }
                Fact::Machine(machine) => {
                    if machine.stage == MachineStage::Ended {
                        trace!(self, "STORAGE {} ended {:?}", machine.machine, machine.retcode);
                    }
                    let storage = &mut self.storage;
                    if !storage.machines.contains_key(&machine.id) {
                        storage.by_run.entry(machine.run).or_default().push(machine.id);
                    }
                    storage.machines.insert(machine.id, *machine);
                }
                Fact::Verdict(verdict) => {
                    let key = (verdict.job.clone(), verdict.due.0, verdict.until.0);
                    let replaces = storage.verdicts.get(&key).is_none_or(|old| {
                        matches!(old.verdict, Verdict::Missed { .. })
                            && matches!(verdict.verdict, Verdict::Started { .. })
                    });
                    if replaces {
                        storage.since_look.push(verdict.clone());
                        storage.verdicts.insert(key, verdict);
                    }
                }
                Fact::Job(job) => {
                    storage.jobs.insert(job.job.clone(), job);
                }
                Fact::LastLook(at) => {
                    storage.last_look = Some(at);
                    if storage.doubt.is_none() {
                        storage.since_look.clear();
                    }
                }
                Fact::Doubt(at) => storage.doubt = at,
                Fact::Withdraw { job, due, until } => {
                    let key = (job, due.0, until.0);
                    storage
                        .since_look
                        .retain(|v| (&v.job, v.due.0, v.until.0) != (&key.0, key.1, key.2));
                    storage.verdicts.remove(&key);
                }
                Fact::HistoryClock(at) => storage.history_clock = Some(at),
                Fact::Control(control) => storage.controls.push(*control),
                Fact::Notice(notice) => {
                    storage.notices.insert(notice.id, *notice);
                }
                Fact::NoticeState(job, state) => {
                    storage.notice_states.insert(job, *state);
                }
                Fact::Heartbeat(_) => {}
            }
        }
    }

    /// The process is gone. `kept`: what it had handed over made it to the disk (but no ack left).
    pub fn storage_crash(&mut self, kept: bool) {
        if kept {
            self.commit_all(false);
        }
        self.storage.pending.clear();
        self.storage.commit_scheduled = false;
    }

    /// The disk fills up, or there is room again.
    pub fn set_full(&mut self, full: Full) {
        if self.storage.full == full {
            return;
        }
        self.storage.full = full;
        trace!(self, "DISK {full:?}");
        self.checker_disk();
        let reason = self.storage.reason();
        let wait = self.delay(0, 900);
        self.control_after(wait, Event::StorageTrouble { reason });
    }
}
