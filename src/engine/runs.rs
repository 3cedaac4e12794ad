//! All runs in memory, and the ways to find one: by its number, its name, or one of its machine runs.
//! Must not know: what becomes of a run.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::engine::id::{MachineRunId, RunId};
use crate::engine::machine_run::MachineRun;
use crate::engine::record::MachineStage;
use crate::engine::run::Run;
use crate::engine::{AwakeMs, Engine, Turn};
use crate::limits;

/// The runs in memory: those that have not ended, and those that ended a short time ago.
#[derive(Debug)]
pub(super) struct Runs {
    by_id: HashMap<RunId, Run>,
    by_instance: HashMap<Arc<str>, RunId>,
    /// Run and index of each machine run.
    places: HashMap<MachineRunId, (RunId, usize)>,
    /// Ended runs, by when they may leave memory at the earliest.
    resting: VecDeque<(AwakeMs, RunId)>,
    /// First numbers not used yet.
    next_run: u64,
    next_machine_run: u64,
}

impl Runs {
    /// No runs; numbers begin with these.
    pub fn new(next_run: u64, next_machine_run: u64) -> Runs {
        Runs {
            by_id: HashMap::new(),
            by_instance: HashMap::new(),
            places: HashMap::new(),
            resting: VecDeque::new(),
            next_run: next_run.max(1),
            next_machine_run: next_machine_run.max(1),
        }
    }

    /// A number that no run has had.
    pub fn next_id(&mut self) -> RunId {
        self.next_run += 1;
        RunId(self.next_run - 1)
    }

    /// The first of `count` numbers that no machine run has had.
    pub fn next_machine_ids(&mut self, count: usize) -> u64 {
        let first = self.next_machine_run;
        self.next_machine_run += count as u64;
        first
    }

    pub fn get(&self, id: RunId) -> Option<&Run> {
        self.by_id.get(&id)
    }

    pub fn get_mut(&mut self, id: RunId) -> Option<&mut Run> {
        self.by_id.get_mut(&id)
    }

    /// The run of that name.
    pub fn named(&self, instance: &str) -> Option<&Run> {
        self.by_id.get(self.by_instance.get(instance)?)
    }

    /// Whether a run in memory has that name.
    pub fn is_named(&self, instance: &str) -> bool {
        self.by_instance.contains_key(instance)
    }

    /// The run of a machine run, and the machine run's index in it.
    pub fn find(&self, id: MachineRunId) -> Option<(&Run, usize)> {
        let (run, place) = self.places.get(&id)?;
        Some((self.by_id.get(run)?, *place))
    }

    /// The same, to be changed.
    pub fn find_mut(&mut self, id: MachineRunId) -> Option<(&mut Run, usize)> {
        let (run, place) = self.places.get(&id)?;
        Some((self.by_id.get_mut(run)?, *place))
    }

    pub fn machine_mut(&mut self, id: MachineRunId) -> Option<&mut MachineRun> {
        let (run, place) = self.find_mut(id)?;
        run.machines.get_mut(place)
    }

    /// Numbers of the runs that have not ended, in their order: hash order would make a replay differ.
    pub fn open(&self) -> Vec<RunId> {
        let open = self.by_id.values().filter(|run| run.is_open());
        let mut open: Vec<RunId> = open.map(|run| run.record.id).collect();
        open.sort_unstable();
        open
    }

    /// Numbers of the runs that storage has to be given once more after it could not write, in their order.
    pub fn to_be_rewritten(&self) -> Vec<RunId> {
        let runs = self.by_id.values().filter(|run| run.is_open() || run.is_refused);
        let mut runs: Vec<RunId> = runs.map(|run| run.record.id).collect();
        runs.sort_unstable();
        runs
    }

    pub fn insert(&mut self, run: Run) {
        let id = run.record.id;
        self.by_instance.insert(run.record.instance.as_str().into(), id);
        if !run.is_open() {
            self.rest(id, run.rests_since);
        }
        self.by_id.insert(id, run);
        self.note_machines(id, 0);
    }

    /// Machine runs were added to that run, from index `from` on.
    pub fn note_machines(&mut self, id: RunId, from: usize) {
        let Some(run) = self.by_id.get(&id) else { return };
        for (place, m) in run.machines.iter().enumerate().skip(from) {
            self.places.insert(m.record.id, (id, place));
        }
    }

    /// Gives a run another name.
    pub fn rename(&mut self, id: RunId, instance: String) {
        let Some(run) = self.by_id.get_mut(&id) else {
            return;
        };
        self.by_instance.remove(run.record.instance.as_str());
        self.by_instance.insert(instance.as_str().into(), id);
        run.record.instance = instance;
    }

    pub fn forget(&mut self, id: RunId) -> Option<Run> {
        let run = self.by_id.remove(&id)?;
        self.by_instance.remove(run.record.instance.as_str());
        for m in &run.machines {
            self.places.remove(&m.record.id);
        }
        Some(run)
    }

    /// A run has ended: it may leave memory some time after `since`.
    pub fn rest(&mut self, id: RunId, since: AwakeMs) {
        let until = since.saturating_add(limits::ENDED_RUN_KEPT_MS);
        self.resting.push_back((until, id));
    }

    /// The next run that has rested long enough.
    fn next_rested(&mut self, awake: AwakeMs) -> Option<RunId> {
        self.resting.front().filter(|(until, _)| *until <= awake)?;
        self.resting.pop_front().map(|(_, id)| id)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
}

impl Engine {
    /// Runs that ended a while ago leave memory once storage has confirmed their last facts: what it has refused, memory alone
    /// still holds. What stays is bounded: nothing new starts while storage refuses facts.
    pub(super) fn forget_rested(&mut self, turn: &mut Turn) {
        let mut left = limits::TURN_MACHINES;
        while left > 0
            && let Some(id) = self.runs.next_rested(turn.awake)
        {
            // one that is open again comes back with its next end
            let Some(run) = self.runs.get(id).filter(|run| !run.is_open()) else {
                left -= 1;
                continue;
            };
            left = left.saturating_sub(run.machines.len() + 1);
            let is_at_rest = |m: &MachineRun| m.connection.is_none() && m.record.stage == MachineStage::Ended;
            let since = run.rests_since;
            if turn.awake < since.saturating_add(limits::ENDED_RUN_KEPT_MS) {
                self.runs.rest(id, since);
            } else if run.is_stored_whole() && run.machines.iter().all(is_at_rest) {
                self.forget_run(id);
            } else {
                if run.is_refused && self.storage_trouble.is_none() {
                    self.rewriting.push_back(id);
                }
                self.runs.rest(id, turn.awake);
            }
        }
    }

    pub(super) fn forget_run(&mut self, id: RunId) -> Option<Run> {
        self.shown.runs.insert(id);
        self.runs.forget(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Mono, Now, Wall};
    use crate::engine::EngineSettings;
    use crate::engine::effect::{Effect, StorageOrder, Write};
    use crate::engine::event::{Event, StoreOutcome};
    use crate::engine::record::{Recovered, StoredRun};

    const KEPT_S: u64 = limits::ENDED_RUN_KEPT_MS / 1_000;

    /// An engine in virtual time whose storage answers each ticket as told.
    struct Life {
        engine: Engine,
        second: u64,
        writes: Vec<Write>,
    }

    impl Life {
        fn run_for(&mut self, seconds: u64, answer: &StoreOutcome) {
            for _ in 0..seconds {
                self.second += 1;
                self.turn(Event::Tick, answer);
            }
        }

        fn turn(&mut self, event: Event, answer: &StoreOutcome) {
            let now = Now {
                mono: Mono(self.second * 1_000),
                wall: Wall::from_secs(1_795_000_000 + self.second as i64),
            };
            let mut events = vec![event];
            while let Some(event) = events.pop() {
                let mut effects = Vec::new();
                self.engine.handle(now, event, &mut effects);
                for effect in effects {
                    let Effect::Store(StorageOrder::Commit(write)) = effect else {
                        continue;
                    };
                    events.extend(write.ticket.map(|ticket| Event::Stored {
                        ticket,
                        outcome: answer.clone(),
                    }));
                    self.writes.push(*write);
                }
            }
        }
    }

    /// A run whose wrapper is never heard of again.
    fn silent() -> Life {
        let recovered = Recovered {
            runs: vec![StoredRun::under_way()],
            ..Recovered::default()
        };
        let now = Now {
            mono: Mono(0),
            wall: Wall::from_secs(1_795_000_000),
        };
        let engine = Engine::new(EngineSettings::default(), Arc::default(), recovered, now);
        let mut life = Life {
            engine,
            second: 0,
            writes: Vec::new(),
        };
        life.turn(Event::Listening, &StoreOutcome::Committed);
        life
    }

    #[test]
    fn a_run_whose_end_is_stored_leaves_memory() {
        let mut life = silent();
        life.run_for(120 + KEPT_S, &StoreOutcome::Committed);
        assert_eq!(life.engine.runs.len(), 0);
    }

    #[test]
    fn a_run_whose_end_was_refused_stays_in_memory_until_it_is_stored_even_if_no_trouble_was_reported() {
        let mut life = silent();
        let refused = StoreOutcome::Failed("disk full".into());
        life.run_for(120 + 2 * KEPT_S, &refused);
        assert_eq!(life.engine.runs.len(), 1);
        life.writes.clear();
        life.run_for(KEPT_S, &StoreOutcome::Committed);
        let is_whole = |write: &Write| write.facts.len() == 2 && write.ticket.is_some();
        assert!(life.writes.iter().any(is_whole), "{:?}", life.writes);
        life.run_for(KEPT_S, &StoreOutcome::Committed);
        assert_eq!(life.engine.runs.len(), 0);
    }
}
