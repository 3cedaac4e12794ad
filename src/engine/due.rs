//! Due times: when the schedule was last looked at, and the one verdict that every due time gets (rules.md 13, schedule.md
//! R9).
//! Must not know: machines, frames.

use std::mem::discriminant;
use std::sync::Arc;

use log::Level;

use crate::clock::Wall;
use crate::engine::commits::Waiting;
use crate::engine::effect::{Fact, JobLogEntry, JobLogLine, Write};
use crate::engine::hold::{self, Part};
use crate::engine::look::Spoken;
use crate::engine::record::{Verdict, VerdictRecord};
use crate::engine::{Engine, Turn};
use crate::limits;
use crate::schedule::Schedule;

impl Engine {
    /// Looks at the clock once a second: due times up to now are taken up.
    pub(super) fn look(&mut self, turn: &mut Turn) {
        let now_s = turn.now.wall.secs();
        let last_s = self.look.at_s().unwrap_or(now_s);
        let is_first = self.look.is_first();
        if self.look.is_step(turn.now) || is_first && now_s < last_s {
            self.stepped(turn, last_s);
        } else {
            self.store_doubt(turn);
            if is_first {
                // said by a clock that was ahead
                let ahead: Vec<Arc<str>> = self.look.ahead_of(now_s).map(Arc::from).collect();
                self.look.replan_from_s = last_s;
                self.look.replan.extend(ahead);
            }
            if last_s - self.look.stored_s >= limits::LAST_LOOK_STORE_S {
                self.store_last_look(turn, last_s);
                if self.storage_trouble.is_none() {
                    self.store_misses(turn);
                }
            }
            if self.look.settle(turn.now.wall, turn.awake) {
                turn.store(vec![Fact::Doubt(None)]);
            }
        }
        self.look.looked(turn.now);
        self.catch_up(turn);
    }

    /// The clock has stepped (rules.md 13a).
    fn stepped(&mut self, turn: &mut Turn, last_s: i64) {
        let now_s = turn.now.wall.secs();
        let resume = self.look.stepped(turn.now, turn.awake);
        self.store_doubt(turn);
        let from = Wall::from_secs(resume.unwrap_or(last_s)).iso();
        let (by_s, way) = (
            (now_s - last_s).abs(),
            if now_s < last_s { "back" } else { "forward" },
        );
        turn.say(
            Level::Warn,
            format!("the clock went {way} by {by_s} s: the schedule continues from {from}"),
        );
        let Some(resume_s) = resume else { return };
        self.look.replan = self.jobs.keys().cloned().collect();
        self.look.replan_from_s = resume_s;
        let unstored = std::mem::take(&mut self.unstored_misses);
        for miss in unstored.into_values().flatten() {
            self.remember_miss(turn.now.wall, miss);
        }
        if now_s < last_s {
            self.look.stored_s = now_s;
            turn.store(vec![Fact::LastLook(Wall::from_secs(resume_s.min(now_s)))]);
        }
    }

    /// Before any later look is: verdicts count from the look before the step.
    fn store_doubt(&mut self, turn: &mut Turn) {
        if let Some(before) = self.look.doubt_to_store() {
            turn.store(vec![Fact::Doubt(Some(before))]);
        }
    }

    /// Takes up due times, as many as a turn may; [`Engine::has_more`] tells whether some are left.
    pub(super) fn catch_up(&mut self, turn: &mut Turn) {
        let Some(now_s) = self.look.at_s() else { return };
        // a pause or a switch that is over must not keep anything from starting
        if self.expiry.is_behind() {
            return;
        }
        let mut left = limits::TURN_DUE_TIMES;
        self.plan_some(&mut left);
        while left > 0
            && let Some(name) = self.look.replan.pop_front()
        {
            left -= 1;
            self.replan(turn, &name);
        }
        if !self.look.replan.is_empty() || !self.planning.is_empty() {
            return;
        }
        while left > 0
            && self.has_due(now_s)
            && let Some((next, name)) = self.due.pop_first()
        {
            let looked_at = self.fall_due(turn, &name, next, now_s);
            left = left.saturating_sub(looked_at);
        }
    }

    /// Due times up to then have not been taken up yet.
    pub(super) fn is_behind(&self, second: i64) -> bool {
        !self.look.replan.is_empty() || !self.planning.is_empty() || self.has_due(second)
    }

    fn has_due(&self, second: i64) -> bool {
        self.due.first().is_some_and(|(next, _)| *next <= second)
    }

    /// Finds a job's next due time after a step of the clock; what was said of times that are still to come is withdrawn.
    fn replan(&mut self, turn: &mut Turn, name: &Arc<str>) {
        let now = turn.now.wall;
        let withdrawn = self.look.withdraw(name, now.secs());
        let Some(state) = self.jobs.get_mut(name) else {
            return;
        };
        let mut facts = Vec::new();
        for spoken in withdrawn.iter().filter(|spoken| spoken.may_be_withdrawn()) {
            state.record.missed = state.record.missed.saturating_sub(spoken.missed);
            facts.push(Fact::Withdraw {
                job: name.to_string(),
                due: Wall::from_secs(spoken.from),
                until: Wall::from_secs(spoken.to),
            });
        }
        let is_ahead = state.record.active_since > Some(now);
        if is_ahead {
            // due times count from here, not from a moment that is to come again
            state.record.active_since = Some(now);
        }
        if is_ahead || !facts.is_empty() {
            facts.push(state.fact());
        }
        let since = state.record.active_since.map_or(0, Wall::secs);
        let from = self.look.replan_from_s.max(since);
        self.plan(name, from);
        turn.store(facts);
    }

    fn store_last_look(&mut self, turn: &mut Turn, look_s: i64) {
        // while a verdict is in memory alone, a restart must look at its due time again
        if self.all_verdicts_are_stored(look_s) {
            self.look.stored_s = look_s;
            turn.store(vec![Fact::LastLook(Wall::from_secs(look_s))]);
        }
    }

    /// Everything due up to then has its verdict, and storage has them all.
    pub(super) fn all_verdicts_are_stored(&self, look_s: i64) -> bool {
        let is_verdict = |waiting: &Waiting| matches!(waiting, Waiting::Misses(_) | Waiting::Start { .. });
        !self.is_behind(look_s) && self.unstored_misses.is_empty() && !self.tickets.values().any(is_verdict)
    }

    /// Due times of a job from `first` to now: the latest may start, each other is missed. Returns how many were looked at.
    fn fall_due(&mut self, turn: &mut Turn, name: &Arc<str>, first: i64, now_s: i64) -> usize {
        let Some(state) = self.jobs.get_mut(name) else {
            return 1;
        };
        state.next_s = None;
        let Some(job) = state.job.clone() else { return 1 };
        let next = next_after(&job.schedule, now_s);
        if let Some(next) = next {
            state.next_s = Some(next);
            self.due.insert((next, name.clone()));
        }
        self.shown.jobs.insert(name.clone());
        let deadline_s = job.spec.start_deadline_s.unwrap_or(0);
        let oldest_to_start = now_s - deadline_s.max(limits::STALL_MS as i64 / 1_000);
        let latest = last_in(&job.schedule, first, now_s).unwrap_or(first);
        let gaps = self.look.unspoken(name, first, now_s);
        let is_new = gaps.iter().any(|(from, to)| (*from..=*to).contains(&latest));
        let holds = self.holds(name);
        let is_held = holds.iter().any(|hold| hold.contains(latest));
        let starts = is_new && latest >= oldest_to_start && !(is_held && self.obstacle(name).is_none());
        let mut looked_at = 1;
        for (from, to) in gaps {
            let to = if starts { to.min(latest - 1) } else { to };
            for part in hold::parts(&holds, from, to) {
                looked_at += self.pass_over(turn, name, &job.schedule, part);
            }
        }
        if starts {
            self.fire(turn, name, latest);
        }
        looked_at
    }

    /// Records due times that were passed over: each by itself, or a long stretch at once. Returns how many were looked at.
    fn pass_over(&mut self, turn: &mut Turn, name: &str, schedule: &Schedule, part: Part) -> usize {
        let Part { from, to, verdict } = part;
        let count = schedule.count(Wall::from_secs(from - 1).utc(), Wall::from_secs(to).utc());
        if count > limits::MISSED_RECORDS as u64 {
            let first = next_after(schedule, from - 1).unwrap_or(from);
            let last = last_in(schedule, from, to).unwrap_or(to);
            self.passed_over(turn, name, (first, last, count), verdict);
            return 1;
        }
        let mut looked_at = 0;
        let mut due = next_after(schedule, from - 1);
        while let Some(at) = due.filter(|due| *due <= to) {
            self.passed_over(turn, name, (at, at, 1), verdict.clone());
            looked_at += 1;
            due = next_after(schedule, at);
        }
        looked_at
    }

    /// Records a stretch of due times (from, to, how many) that were passed over.
    fn passed_over(
        &mut self,
        turn: &mut Turn,
        job: &str,
        stretch: (i64, i64, u64),
        verdict: Option<Verdict>,
    ) {
        let (from, to, count) = stretch;
        let Some(verdict) = verdict else {
            let reason = "the daemon was not running or was stalled";
            return self.missed(turn, job, from, to, count, reason);
        };
        if let Some(state) = self.jobs.get_mut(job) {
            match &verdict {
                Verdict::Maintenance => state.counts.maintenance += count,
                _ => state.counts.paused += count,
            }
            self.shown.jobs.insert(job.into());
        }
        let record = VerdictRecord {
            job: job.into(),
            due: Wall::from_secs(from),
            until: Wall::from_secs(to),
            count,
            verdict,
        };
        self.look.note(job, Spoken::of(&record));
        let facts = vec![Fact::Verdict(record.clone())];
        let ticket = self.ticket(Waiting::Misses(vec![record]));
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        });
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
        turn.effects.push(JobLogEntry::effect(
            job,
            &instance,
            turn.now.wall,
            JobLogLine::Note { text },
        ));
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
            state.record.missed_at = Some(turn.now.wall);
            state.counts.missed += count;
            facts.push(state.fact());
            let name: Arc<str> = job.into();
            self.note_missed(&name, turn.now.wall);
            self.shown.jobs.insert(name);
        }
        facts.extend(self.judge_missed(turn, job, from, count, reason));
        self.look.note(job, Spoken::of(&record));
        let ticket = self.ticket(Waiting::Misses(vec![record]));
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        });
    }

    /// Keeps a miss that storage refused: few stretches per job, so that memory stays bounded. Due times that only a wrong
    /// clock has passed are dropped: they get another verdict when they come (rules.md 13a).
    pub(super) fn remember_miss(&mut self, now: Wall, mut miss: VerdictRecord) {
        if miss.until > now {
            let until = if self.look.is_doubtful(miss.due.secs()) {
                let kept = self.look.kept_until(&miss.job, miss.due.secs(), now.secs());
                kept.map(Wall::from_secs)
            } else {
                Some(now)
            };
            let Some(until) = until.filter(|until| miss.due <= *until) else {
                return;
            };
            miss.until = until;
            miss.count = self.count_due(&miss);
        }
        let stretches = self.unstored_misses.entry(miss.job.clone()).or_default();
        let is_after = self.look.is_after_step(miss.due.secs());
        let is_full = stretches.len() >= limits::UNSTORED_STRETCHES;
        // what was passed before a step and what was passed since are not mixed: that may be withdrawn
        let alike = stretches.iter_mut().rev().find(|stretch| {
            let is_same = discriminant(&stretch.verdict) == discriminant(&miss.verdict);
            is_full || is_same && self.look.is_after_step(stretch.due.secs()) == is_after
        });
        match alike {
            Some(stretch) => {
                stretch.due = stretch.due.min(miss.due);
                stretch.until = stretch.until.max(miss.until);
                stretch.count += miss.count;
            }
            None => stretches.push(miss),
        }
    }

    /// How many due times the stretch has by its job's schedule; as many as it says if the job is gone.
    fn count_due(&self, miss: &VerdictRecord) -> u64 {
        let job = self
            .jobs
            .get(miss.job.as_str())
            .and_then(|state| state.job.as_ref());
        job.map_or(miss.count, |job| {
            let before = Wall::from_secs(miss.due.secs() - 1);
            job.schedule.count(before.utc(), miss.until.utc())
        })
    }

    /// Storage may have room again: what it refused is offered once more.
    pub(super) fn store_misses(&mut self, turn: &mut Turn) {
        let misses: Vec<VerdictRecord> = std::mem::take(&mut self.unstored_misses)
            .into_values()
            .flatten()
            .collect();
        if misses.is_empty() {
            return;
        }
        for miss in &misses {
            self.look.unite(&miss.job, Spoken::of(miss));
        }
        let facts = misses.iter().cloned().map(Fact::Verdict).collect();
        let ticket = self.ticket(Waiting::Misses(misses));
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        });
    }

    /// A due time has come.
    fn fire(&mut self, turn: &mut Turn, name: &Arc<str>, due: i64) {
        let due_at = Wall::from_secs(due);
        self.expect_end(name, due);
        let obstacle = self.obstacle(name);
        self.look.note(
            name,
            Spoken {
                from: due,
                to: due,
                missed: 0,
                is_skip: matches!(obstacle, Some(Verdict::Paused { .. } | Verdict::Maintenance)),
            },
        );
        let Some(verdict) = obstacle else {
            return self.start_run(turn, name, Some(due_at), None);
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
        turn.effects
            .push(JobLogEntry::effect(name, &instance, turn.now.wall, line));
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

    /// What keeps a due time from starting: paused comes before maintenance (rules.md 13c).
    fn obstacle(&self, name: &str) -> Option<Verdict> {
        let paused = self.jobs.get(name).and_then(|state| state.paused.as_ref());
        if let Some(paused) = paused {
            let reason = paused.reason.clone();
            return Some(Verdict::Paused { reason });
        }
        if self.maintenance.global {
            return Some(Verdict::Maintenance);
        }
        self.overlaps(name).then_some(Verdict::Overlap)
    }
}

fn next_after(schedule: &Schedule, after_s: i64) -> Option<i64> {
    let next = schedule.next_after(Wall::from_secs(after_s).utc());
    next.map(|next| next.timestamp())
}

/// The last due second from `from` to `to`.
fn last_in(schedule: &Schedule, from: i64, to: i64) -> Option<i64> {
    let last = schedule.last_in(Wall::from_secs(from - 1).utc(), Wall::from_secs(to).utc());
    last.map(|last| last.timestamp())
}
