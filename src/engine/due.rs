//! Due times: when the schedule was last looked at, and the one verdict that every due time gets (rules.md 13, schedule.md
//! R9).
//! Must not know: machines, frames.

use std::sync::Arc;

use log::Level;

use crate::clock::Wall;
use crate::engine::effect::{Effect, Fact, JobLogLine, Write};
use crate::engine::record::{Verdict, VerdictRecord};
use crate::engine::{Engine, Turn, Waiting, log_line};
use crate::limits;

impl Engine {
    /// Evaluates the schedule up to now.
    pub(super) fn look(&mut self, turn: &mut Turn) {
        let now_s = turn.now.wall.secs();
        let last = *self.last_look_s.get_or_insert(now_s);
        if now_s < last {
            turn.say(
                Level::Warn,
                format!(
                    "the clock went back by {} s: the schedule goes on from now",
                    last - now_s
                ),
            );
            self.last_look_s = Some(now_s);
            self.spoken_of.clear();
            let now = turn.now.wall;
            let mut facts = vec![Fact::LastLook(Wall::from_secs(now_s))];
            let names: Vec<Arc<str>> = self.jobs.keys().cloned().collect();
            for name in names {
                self.plan(&name, now_s);
                if let Some(state) = self.jobs.get_mut(&name)
                    && state.record.active_since > Some(now)
                {
                    // due times count from here, not from a moment that is to come again
                    state.record.active_since = Some(now);
                    facts.push(state.fact());
                }
            }
            self.last_look_stored_s = now_s;
            turn.store(facts);
            return;
        }
        if last - self.last_look_stored_s >= limits::LAST_LOOK_STORE_S {
            self.store_last_look(turn, last);
            if self.storage_trouble.is_none() {
                self.store_misses(turn);
            }
        }
        self.last_look_s = Some(now_s);
        while let Some((next, _)) = self.due.first()
            && *next <= now_s
        {
            let Some((next, name)) = self.due.pop_first() else {
                break;
            };
            self.fall_due(turn, &name, next, now_s);
        }
        self.spoken_of.clear();
    }

    fn store_last_look(&mut self, turn: &mut Turn, now_s: i64) {
        // while a verdict is in memory alone, a restart must look at its due time again
        if self.all_verdicts_are_stored() {
            self.last_look_stored_s = now_s;
            turn.store(vec![Fact::LastLook(Wall::from_secs(now_s))]);
        }
    }

    pub(super) fn all_verdicts_are_stored(&self) -> bool {
        let is_verdict = |waiting: &Waiting| matches!(waiting, Waiting::Misses(_) | Waiting::Start { .. });
        self.unstored_misses.is_empty() && !self.tickets.values().any(is_verdict)
    }

    /// Due times of a job from `first` to now: the latest may start, each other is missed.
    fn fall_due(&mut self, turn: &mut Turn, name: &Arc<str>, first: i64, now_s: i64) {
        let Some(state) = self.jobs.get_mut(name) else {
            return;
        };
        state.next_s = None;
        let Some(job) = state.job.clone() else { return };
        let next_after = |after: i64| {
            job.schedule
                .next_after(Wall::from_secs(after).utc())
                .map(|t| t.timestamp())
        };
        let oldest_to_start = now_s
            - job
                .spec
                .start_deadline_s
                .unwrap_or(0)
                .max(limits::STALL_MS as i64 / 1_000);
        let mut passed = Vec::new();
        let mut at = Some(first);
        while let Some(due) = at.filter(|due| *due <= now_s) {
            passed.push(due);
            at = next_after(due);
            if passed.len() as u64 >= limits::MISSED_COUNTED && at.is_some_and(|due| due < oldest_to_start) {
                // a very long gap: what lies between is not counted one by one
                at = next_after(oldest_to_start.max(due + 1) - 1);
            }
        }
        if let Some(next) = at {
            if let Some(state) = self.jobs.get_mut(name) {
                state.next_s = Some(next);
            }
            self.due.insert((next, name.clone()));
        }
        self.shown.jobs.insert(name.clone());
        // before a crash, those after the last look that was stored had their verdicts
        let spoken_of = self.spoken_of.get(&**name);
        let is_new = |due: &i64| !spoken_of.is_some_and(|known| is_within(known, *due));
        let mut to_start = passed.last().copied().filter(|due| *due >= oldest_to_start);
        if to_start.is_some() {
            passed.pop();
        }
        to_start = to_start.filter(is_new);
        passed.retain(is_new);
        self.record_misses(turn, name, &passed);
        if let Some(due) = to_start {
            self.fire(turn, name, due);
        }
    }

    fn record_misses(&mut self, turn: &mut Turn, name: &str, passed: &[i64]) {
        let reason = "the daemon was not running or was stalled";
        let (Some(first), Some(last)) = (passed.first(), passed.last()) else {
            return;
        };
        if passed.len() > limits::MISSED_RECORDS {
            self.missed(turn, name, *first, *last, passed.len() as u64, reason);
        } else {
            for due in passed {
                self.missed(turn, name, *due, *due, 1, reason);
            }
        }
    }

    /// Records due times that start nothing.
    pub(super) fn missed(
        &mut self,
        turn: &mut Turn,
        job: &str,
        from: i64,
        to: i64,
        count: u64,
        reason: &str,
    ) {
        let at = if from == to {
            Wall::from_secs(from).iso()
        } else {
            format!(
                "{} to {} ({count})",
                Wall::from_secs(from).iso(),
                Wall::from_secs(to).iso()
            )
        };
        turn.say(Level::Warn, format!("{job} missed its due time {at}: {reason}"));
        let instance = format!("{job}_{from}");
        let text = format!("Missed {instance}: due {at}, {reason}");
        turn.effects
            .push(log_line(job, &instance, turn.now.wall, JobLogLine::Note { text }));
        let record = VerdictRecord {
            job: job.into(),
            due: Wall::from_secs(from),
            until: Wall::from_secs(to),
            count,
            verdict: Verdict::Missed {
                reason: reason.into(),
            },
        };
        let mut facts = vec![Fact::Verdict(record.clone())];
        if let Some(state) = self.jobs.get_mut(job) {
            state.record.missed += count;
            state.counts.missed += count;
            facts.push(state.fact());
            let name: Arc<str> = job.into();
            self.shown.jobs.insert(name);
        }
        let ticket = self.ticket(Waiting::Misses(vec![record]));
        turn.effects.push(Effect::Store(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        }));
    }

    /// Keeps a miss that storage refused: one stretch per job, so that it stays bounded.
    pub(super) fn remember_miss(&mut self, miss: VerdictRecord) {
        match self.unstored_misses.get_mut(&miss.job) {
            Some(stretch) => {
                stretch.due = stretch.due.min(miss.due);
                stretch.until = stretch.until.max(miss.until);
                stretch.count += miss.count;
            }
            None => {
                self.unstored_misses.insert(miss.job.clone(), miss);
            }
        }
    }

    /// Storage may have room again: what it refused is offered once more.
    pub(super) fn store_misses(&mut self, turn: &mut Turn) {
        let misses: Vec<VerdictRecord> = std::mem::take(&mut self.unstored_misses).into_values().collect();
        if misses.is_empty() {
            return;
        }
        let facts = misses.iter().cloned().map(Fact::Verdict).collect();
        let ticket = self.ticket(Waiting::Misses(misses));
        turn.effects.push(Effect::Store(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        }));
    }

    /// A due time has come.
    fn fire(&mut self, turn: &mut Turn, name: &Arc<str>, due: i64) {
        let due_at = Wall::from_secs(due);
        let verdict = match self.obstacle(name) {
            None => return self.start_run(turn, name, Some(due_at), None),
            Some(verdict) => verdict,
        };
        let instance = self.free_instance(name, turn.now.wall, &mut 0);
        let (line, reason) = match &verdict {
            Verdict::Maintenance => (JobLogLine::Maintenance, "global maintenance".to_string()),
            Verdict::Paused { reason } => {
                let text = format!("Paused, {instance} not started: {reason}");
                (JobLogLine::Note { text }, format!("it is paused: {reason}"))
            }
            _ => (JobLogLine::Overlap, "it is still running (overlap)".to_string()),
        };
        turn.say(Level::Warn, format!("{name} not started: {reason}"));
        turn.effects.push(log_line(name, &instance, turn.now.wall, line));
        let Some(state) = self.jobs.get_mut(name) else {
            return;
        };
        state.record.overlap = verdict == Verdict::Overlap;
        match &verdict {
            Verdict::Maintenance => state.counts.maintenance += 1,
            Verdict::Paused { .. } => state.counts.paused += 1,
            _ => state.counts.overlap += 1,
        }
        let record = VerdictRecord {
            job: name.to_string(),
            due: due_at,
            until: due_at,
            count: 1,
            verdict,
        };
        turn.store(vec![Fact::Verdict(record), state.fact()]);
    }

    /// What keeps a due time from starting.
    fn obstacle(&self, name: &str) -> Option<Verdict> {
        if self.maintenance.global {
            return Some(Verdict::Maintenance);
        }
        let paused = self.jobs.get(name).and_then(|state| state.paused.as_ref());
        if let Some(paused) = paused {
            let reason = paused.reason.clone();
            return Some(Verdict::Paused { reason });
        }
        self.overlaps(name).then_some(Verdict::Overlap)
    }
}

fn is_within(stretches: &[(i64, i64)], due: i64) -> bool {
    stretches.iter().any(|(from, to)| (*from..=*to).contains(&due))
}
