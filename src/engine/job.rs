//! Jobs: what the configuration says of them, what outlives their runs, and when each is due next (due.rs decides what
//! comes of it).
//! Must not know: machines, frames.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Wall;
use crate::config::{Config, Job};
use crate::engine::board::{Counts, RunBoard};
use crate::engine::effect::Fact;
use crate::engine::id::RunId;
use crate::engine::notice::NoticeState;
use crate::engine::record::{JobRecord, PauseRecord, RunRecord};
use crate::engine::{Engine, Turn};
use crate::limits;

/// A job that is configured, or has runs.
#[derive(Debug, Default)]
pub struct JobState {
    /// None: no longer configured.
    pub job: Option<Arc<Job>>,
    pub record: JobRecord,
    /// How often the record has been handed to storage.
    pub facts: u64,
    /// Next due second.
    pub next_s: Option<i64>,
    /// Runs that have not ended, those not stored yet included.
    pub open: Vec<RunId>,
    /// The latest run, as shown.
    pub last: Option<Arc<RunBoard>>,
    /// Its due times start nothing.
    pub paused: Option<Arc<PauseRecord>>,
    /// The last pause, with its end: due times of it may still be without a verdict.
    pub pause_over: Option<Arc<PauseRecord>>,
    pub counts: Counts,
    /// What of it was told.
    pub notices: NoticeState,
}

impl JobState {
    /// Ends the pause; what was due during it stays paused. False: there was none.
    pub fn end_pause(&mut self, at: Wall) -> bool {
        let Some(pause) = self.paused.take() else {
            return false;
        };
        let before = self
            .pause_over
            .as_ref()
            .filter(|over| over.until >= Some(pause.since));
        self.pause_over = Some(Arc::new(PauseRecord {
            // one pause after another is one
            since: before.map_or(pause.since, |before| before.since),
            until: Some(pause.until.map_or(at, |until| until.min(at))),
            ..PauseRecord::clone(&pause)
        }));
        true
    }

    /// The record, to be stored.
    pub fn fact(&mut self) -> Fact {
        self.facts += 1;
        Fact::Job(self.record.clone())
    }

    /// The record as it is once that run has started.
    pub fn started(&self, run: &RunRecord) -> JobRecord {
        JobRecord {
            last_run: Some(run.started),
            last_instance: Some(run.instance.clone()),
            result_ok: Some(true),
            overlap: false,
            ..self.record.clone()
        }
    }
}

impl Engine {
    /// A new configuration is in force.
    pub(super) fn configure(&mut self, turn: &mut Turn, config: Arc<Config>) {
        let facts = self.apply_config(config, turn.now.wall);
        turn.store(facts);
        let mut left = limits::TURN_DUE_TIMES;
        self.plan_some(&mut left);
    }

    /// Takes a configuration; returns what has to be stored of it. The jobs' next due times are found after this, see
    /// [`Engine::plan_some`].
    pub(super) fn apply_config(&mut self, config: Arc<Config>, wall: Wall) -> Vec<Fact> {
        let mut facts = Vec::new();
        let from = self.look.at_s().unwrap_or(wall.secs());
        let names: Vec<Arc<str>> = self.jobs.keys().cloned().collect();
        for name in names {
            if !config.jobs.contains_key(&*name) {
                self.set_job(name, None, from, wall, &mut facts);
            }
        }
        for (name, job) in &config.jobs {
            let known = self.jobs.get_key_value(name.as_str());
            let is_same =
                known.is_some_and(|(_, state)| state.job.as_ref().is_some_and(|old| Arc::ptr_eq(old, job)));
            if !is_same {
                let name = known.map_or_else(|| name.as_str().into(), |(name, _)| name.clone());
                self.set_job(name, Some(job.clone()), from, wall, &mut facts);
            }
        }
        self.config = config;
        self.watches.replan();
        self.apply_switches();
        self.shown.is_changed = true;
        facts
    }

    fn set_job(
        &mut self,
        name: Arc<str>,
        job: Option<Arc<Job>>,
        from: i64,
        wall: Wall,
        facts: &mut Vec<Fact>,
    ) {
        let state = self.jobs.entry(name.clone()).or_default();
        state.record.job = name.to_string();
        let is_active = job.as_ref().is_some_and(|job| job.enabled);
        let schedule = job.as_ref().map(|job| job.schedule.mark());
        let is_edited = schedule != state.record.schedule && state.record.schedule.is_some();
        let was_unwatched = state.job.is_none();
        state.job = job;
        if schedule.is_some() && schedule != state.record.schedule {
            state.record.schedule = schedule;
            if is_active && is_edited && was_unwatched {
                // edited while the daemon was not running: what it would have been due for meanwhile is no due time
                state.record.active_since = None;
            } else if state.record.active_since.is_some() {
                facts.push(state.fact());
            }
        }
        if is_active && state.record.active_since.is_none() {
            // never seen before, or enabled again: it starts at its next due time
            state.record.active_since = Some(wall);
            facts.push(state.fact());
        } else if !is_active && state.record.active_since.take().is_some() {
            facts.push(state.fact());
        }
        let since = state
            .record
            .active_since
            .map_or(from, |since| since.secs().min(wall.secs()).max(from));
        let since = match state.next_s.take() {
            None => since,
            Some(old) => {
                self.due.remove(&(old, name.clone()));
                // what was due already and has no verdict yet is not passed over
                since.min(old.max(1) - 1)
            }
        };
        if is_active {
            let planned = self.planning.entry(name.clone()).or_insert(since);
            *planned = since.min(*planned);
        } else {
            self.planning.remove(&name);
        }
        self.shown.jobs.insert(name);
    }

    /// Finds the next due times of jobs that have changed, and takes them from what is `left` of the turn.
    pub(super) fn plan_some(&mut self, left: &mut usize) {
        while *left > 0
            && let Some((name, since)) = self.planning.pop_first()
        {
            *left -= 1;
            self.plan(&name, since);
        }
    }

    /// Finds a job's next due second after `after_s`.
    pub(super) fn plan(&mut self, name: &Arc<str>, after_s: i64) {
        let Some(state) = self.jobs.get_mut(name) else {
            return;
        };
        if let Some(old) = state.next_s.take() {
            self.due.remove(&(old, name.clone()));
        }
        state.next_s = state
            .job
            .as_ref()
            .filter(|job| job.enabled)
            .and_then(|job| job.schedule.next_after(Wall::from_secs(after_s).utc()))
            .map(|next| next.timestamp());
        if let Some(next) = state.next_s {
            self.due.insert((next, name.clone()));
        }
        self.shown.jobs.insert(name.clone());
    }

    pub(super) fn overlaps(&self, name: &str) -> bool {
        self.jobs.get(name).is_some_and(|state| {
            !state.open.is_empty() && !state.job.as_ref().is_some_and(|job| job.spec.allow_overlap)
        })
    }

    /// Job records from storage, before the first configuration.
    pub(super) fn recover_jobs(&mut self, records: Vec<JobRecord>, now: Wall) {
        for record in records.iter().filter(|record| record.missed > 0) {
            // a version that did not store since when
            let at = record.missed_at.unwrap_or(now);
            self.note_missed(&record.job.as_str().into(), at);
        }
        let states: BTreeMap<Arc<str>, JobState> = records
            .into_iter()
            .map(|record| {
                (
                    record.job.as_str().into(),
                    JobState {
                        record,
                        ..JobState::default()
                    },
                )
            })
            .collect();
        self.jobs = states;
    }
}
