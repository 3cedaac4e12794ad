//! The judge of promise 3's second half: every due time has exactly one verdict, and the right one. Due times are
//! computed here from [`saltpeter::schedule::Schedule::next_after`] alone (schedule.md R4, R9; rules.md 13).
//! Must not know: the engine's insides.

use std::collections::{BTreeMap, BTreeSet};

use saltpeter::clock::Wall;
use saltpeter::engine::effect::{Fact, Write};
use saltpeter::engine::record::{Control, Verdict, VerdictRecord};
use saltpeter::schedule::Schedule;

use crate::world::World;

/// Due times this near to a change of configuration may go either way, in microseconds.
const EDGE_US: i64 = 2_500_000;

/// A job that counts: configured and enabled since then.
#[derive(Clone, Debug)]
struct Span {
    schedule: Schedule,
    deadline_s: Option<i64>,
    /// Looked at up to here.
    since: Wall,
    looked: Wall,
    next: Option<Wall>,
    /// It was in force before the last change of configuration, too.
    is_old: bool,
}

/// A step of the clock by more than this is a lie, which is taken back.
const LIE_US: i64 = 86_400_000_000;

/// What is known of due times.
#[derive(Default)]
pub struct Dues {
    /// While the clock lies: how far each job had been looked at before.
    before_lie: Option<BTreeMap<String, Span>>,
    spans: BTreeMap<String, Span>,
    /// Due times that must have a verdict at the end.
    pub wanted: BTreeSet<(String, i64)>,
    /// Every verdict on a single due time that was committed.
    pub given: BTreeMap<(String, i64), Vec<Verdict>>,
    /// What a stretch of misses speaks for, unless it has a verdict of its own.
    covered: Vec<(String, i64, i64)>,
    said: BTreeSet<(String, i64)>,
    pub stepped_back: bool,
    /// In this life of the daemon.
    has_looked: bool,
    missed_singly: BTreeMap<(String, u64), u32>,
}

/// A stretch of misses speaks for it, by whatever schedule was in force then.
fn is_covered(stretches: &[(String, i64, i64)], (job, due): &(String, i64)) -> bool {
    stretches
        .iter()
        .any(|(of, from, to)| of == job && (from..=to).contains(&due))
}

fn next_after(schedule: &Schedule, after: Wall) -> Option<Wall> {
    schedule.next_after(after.utc()).map(Wall::from_utc)
}

impl Dues {
    /// The clock is years off for a while.
    pub fn lies(&self) -> bool {
        self.before_lie.is_some()
    }
}

impl World {
    pub fn dues_daemon_started(&mut self) {
        self.checker.dues.has_looked = false;
        self.dues_config();
        let wall = self.wall();
        // jobs that went away while nobody looked: what had no verdict by then gets none
        let dues = &mut self.checker.dues;
        // a schedule of which storage has not heard is a new one
        for (name, span) in &mut dues.spans {
            let stored = self.storage.jobs.get(name).and_then(|job| job.schedule.as_ref());
            if stored.is_some_and(|stored| *stored != span.schedule.mark()) {
                span.since = Wall(wall.0 + EDGE_US);
                span.looked = span.since;
                span.next = next_after(&span.schedule, span.looked);
                span.is_old = false;
            }
        }
        let (spans, given, covered) = (&dues.spans, &dues.given, &dues.covered);
        dues.wanted.retain(|key| {
            given.contains_key(key) || is_covered(covered, key) || spans.get(&key.0).is_some_and(|s| s.is_old)
        });
    }

    pub fn dues_daemon_gone(&mut self) {
        let dues = &mut self.checker.dues;
        dues.said = dues.given.keys().cloned().collect();
        // what was said before a change of the schedule is lost, and is not asked for again
        let (spans, given, covered) = (&dues.spans, &dues.given, &dues.covered);
        dues.wanted.retain(|key| {
            given.contains_key(key)
                || is_covered(covered, key)
                || spans.get(&key.0).is_some_and(|s| s.since.0 < key.1)
        });
    }

    pub fn dues_wall_stepped(&mut self, us: i64) {
        let wall = self.wall();
        let dues = &mut self.checker.dues;
        // a stretch of misses after it may cover what had its verdict before
        dues.stepped_back |= us < 0;
        if us.abs() <= LIE_US {
            return;
        }
        let Some(before) = dues.before_lie.take() else {
            dues.before_lie = Some(dues.spans.clone());
            return;
        };
        // what was said of a time that did not come speaks for nothing; the schedule goes on from before the lie
        dues.covered.retain(|(_, _, to)| *to < wall.0 + LIE_US);
        for (name, span) in &mut dues.spans {
            match before.get(name).filter(|old| old.schedule == span.schedule) {
                Some(old) => (span.since, span.looked, span.next) = (old.since, old.looked, old.next),
                None => {
                    span.since = Wall(wall.0 + EDGE_US);
                    span.looked = span.since;
                    span.next = next_after(&span.schedule, span.looked);
                }
            }
        }
    }

    /// New configuration is in force from now on.
    pub fn dues_config(&mut self) {
        let wall = self.wall();
        let (config, dues) = (&self.config, &mut self.checker.dues);
        let mut spans = BTreeMap::new();
        for (name, job) in config.jobs.iter().filter(|(_, j)| j.enabled) {
            let span = match dues.spans.remove(name) {
                Some(span) if span.schedule == job.schedule => Span {
                    deadline_s: job.spec.start_deadline_s,
                    is_old: true,
                    ..span
                },
                // a job never seen before, changed, or enabled again starts at its next due time
                _ => {
                    let looked = Wall(wall.0 + EDGE_US);
                    Span {
                        next: next_after(&job.schedule, looked),
                        schedule: job.schedule.clone(),
                        deadline_s: job.spec.start_deadline_s,
                        since: looked,
                        looked,
                        is_old: false,
                    }
                }
            };
            spans.insert(name.clone(), span);
        }
        // what was due just before a job went away may go either way
        let (given, has_looked) = (&dues.given, dues.has_looked);
        for (name, _) in std::mem::take(&mut dues.spans) {
            dues.wanted.retain(|key| {
                key.0 != name || given.contains_key(key) || (has_looked && key.1 < wall.0 - EDGE_US)
            });
        }
        dues.spans = spans;
    }

    /// The daemon looks at the clock: everything due up to now must get its verdict.
    pub fn dues_look(&mut self) {
        let wall = self.wall();
        if self
            .daemon
            .as_ref()
            .is_none_or(|d| d.shutting_down || !d.listening)
        {
            return;
        }
        let dues = &mut self.checker.dues;
        dues.has_looked = true;
        if dues.before_lie.is_some() {
            return;
        }
        for (name, span) in &mut dues.spans {
            while let Some(next) = span.next.filter(|n| *n <= wall) {
                dues.wanted.insert((name.clone(), next.0));
                span.looked = next;
                span.next = next_after(&span.schedule, next);
            }
        }
    }

    /// The engine gives a verdict: is it allowed to be that one?
    pub fn dues_verdict_said(&mut self, verdict: &VerdictRecord) {
        let key = (verdict.job.clone(), verdict.due.0);
        let first = self.checker.dues.said.insert(key.clone());
        let stored = self.storage.verdicts.get(&(key.0.clone(), key.1, key.1)).cloned();
        if let Some(stored) = &stored
            && !matches!(verdict.verdict, Verdict::Started { .. })
            && !self.checker.dues.stepped_back
        {
            // storage keeps the one that it has, but people are told of both
            let text = format!("{verdict:?} is said of what has its verdict: {stored:?}");
            self.fail("P3", text);
        }
        let stored = stored.is_some();
        if !first || stored || verdict.count > 1 {
            return;
        }
        let late_us = self.wall().0 - verdict.due.0;
        let quiet = self.now_ms.saturating_sub(self.checker.disk_trouble_until) > 70_000
            && self.checker.disk_trouble_until != u64::MAX;
        let Some(span) = self.checker.dues.spans.get(&verdict.job) else {
            return;
        };
        let newest = next_after(&span.schedule, verdict.due).is_none_or(|n| n > self.wall());
        let in_time = span.deadline_s.map_or(1_500_000, |s| s * 1_000_000 - 1_000_000);
        match &verdict.verdict {
            Verdict::Missed { reason }
                if newest && late_us < in_time && quiet && !self.checker.global_maintenance =>
            {
                let text = format!(
                    "{} due {} is recorded missed ({reason}) {late_us} us after it",
                    verdict.job,
                    verdict.due.iso()
                );
                self.fail("P3", text);
            }
            Verdict::Started { instance } if late_us > 75_000_000 => {
                let text = format!("{instance}, due {}, starts {late_us} us late", verdict.due.iso());
                self.fail("P3", text);
            }
            Verdict::Started { instance } if late_us < 0 => {
                let text = format!("{instance} starts before it is due ({})", verdict.due.iso());
                self.fail("P3", text);
            }
            Verdict::Started { instance } if self.is_paused_at(&verdict.job, verdict.due) => {
                let text = format!("{instance} starts for {}, in a pause", verdict.due.iso());
                self.fail("P3", text);
            }
            Verdict::Missed { .. } if self.is_paused_at(&verdict.job, verdict.due) => {
                let text = format!("{} due {}: missed in a pause", verdict.job, verdict.due.iso());
                self.fail("P3", text);
            }
            Verdict::Maintenance if !self.checker.global_maintenance && !self.is_switched_at(verdict.due) => {
                let text = format!("{} due {}: no maintenance is on", verdict.job, verdict.due.iso());
                self.fail("P3", text);
            }
            _ => {}
        }
    }

    /// Inside the last pause of the job that was stored: what people have set stands, looked at or not. A clock that has gone
    /// back leaves it open which one that is.
    fn is_paused_at(&self, job: &str, due: Wall) -> bool {
        let pauses = self.storage.controls.iter().rev();
        let last = pauses
            .filter_map(|control| match control {
                Control::Pause(pause) if pause.job == job => Some(pause),
                _ => None,
            })
            .next();
        // and a pause that storage refused is none to us
        !self.checker.dues.stepped_back
            && self.checker.disk_trouble_until == 0
            && last.is_some_and(|pause| {
                let until = pause.until.unwrap_or(Wall(i64::MAX));
                pause.since.0 < due.0 && due.0 + EDGE_US < until.0
            })
    }

    /// Inside a switch to global maintenance.
    fn is_switched_at(&self, due: Wall) -> bool {
        self.storage.controls.iter().any(|control| match control {
            Control::Switch(switch) => {
                switch.machine.is_none() && switch.is_on && (switch.since..switch.until).contains(&due)
            }
            _ => false,
        })
    }

    pub fn dues_commit(&mut self, write: &Write) {
        for fact in &write.facts {
            let Fact::Verdict(verdict) = fact else { continue };
            let key = (verdict.job.clone(), verdict.due.0);
            let stored = (verdict.job.clone(), verdict.due.0, verdict.until.0);
            if let Some(before) = self.storage.verdicts.get(&stored)
                && !(matches!(before.verdict, Verdict::Missed { .. })
                    && matches!(verdict.verdict, Verdict::Started { .. }))
            {
                // storage keeps the one that it has
                continue;
            }
            if verdict.count <= 1 {
                self.checker.dues.given.insert(key, vec![verdict.verdict.clone()]);
                if matches!(verdict.verdict, Verdict::Missed { .. }) {
                    let at = (verdict.job.clone(), self.now_ms);
                    *self.checker.dues.missed_singly.entry(at).or_default() += 1;
                }
                continue;
            }
            self.stretch(verdict);
        }
        if let Some(((job, _), n)) = self.checker.dues.missed_singly.iter().find(|(_, n)| **n > 110) {
            let text = format!("{n} misses of {job} at once, each with a record of its own");
            self.fail("P3", text);
        }
        self.checker.dues.missed_singly.clear();
    }

    fn stretch(&mut self, verdict: &VerdictRecord) {
        let stretch = (verdict.job.clone(), verdict.due.0, verdict.until.0);
        self.checker.dues.covered.push(stretch);
        let Some(schedule) = self.jobs.get(&verdict.job).map(|j| j.job().schedule) else {
            return;
        };
        let now_differs = self
            .checker
            .dues
            .spans
            .get(&verdict.job)
            .is_none_or(|s| s.schedule != schedule || s.since > verdict.due);
        let count = schedule.count(verdict.due.plus_ms(-1_000).utc(), verdict.until.utc());
        if count < verdict.count && !now_differs {
            let text = format!(
                "a record of {} misses stands for {count}: {verdict:?}",
                verdict.count
            );
            self.fail("P3", text);
        }
    }

    /// At the end: every due time has one verdict.
    pub fn dues_settled(&mut self) {
        let wall = self.wall();
        let dues = &self.checker.dues;
        let mut failure = None;
        for (job, due) in dues.wanted.iter().filter(|(_, due)| *due < wall.0) {
            let key = (job.clone(), *due);
            if !dues.given.contains_key(&key) && !is_covered(&dues.covered, &key) {
                failure = Some(format!(
                    "{job} due {} was passed over without a trace",
                    Wall(*due).iso()
                ));
                break;
            }
        }
        for ((job, due), given) in &dues.given {
            if given.len() > 1 && !dues.stepped_back {
                failure = Some(format!(
                    "{job} due {} has {} verdicts: {given:?}",
                    Wall(*due).iso(),
                    given.len()
                ));
                break;
            }
        }
        if let Some(text) = failure {
            self.fail("P3", text);
        }
    }
}
