//! What the wall clock has shown, and how far it is believed: the last look at the schedule, and after a step of the clock
//! the look before it, until the clock has run evenly for a while (rules.md 13a).
//! Must not know: jobs, what a verdict says.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::clock::{Mono, Now, Wall};
use crate::engine::AwakeMs;
use crate::engine::record::{Verdict, VerdictRecord};
use crate::limits;

/// When the schedule was last looked at.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Second up to which due times are taken up; None: never looked.
    at_s: Option<i64>,
    /// None: not yet in this process.
    mono: Option<Mono>,
    /// As stored last.
    pub stored_s: i64,
    doubt: Option<Doubt>,
    /// The look before the last step forward.
    step_s: Option<i64>,
    /// Jobs whose next due time is to be found again, from `replan_from_s` on.
    pub replan: VecDeque<Arc<str>>,
    pub replan_from_s: i64,
}

/// The clock has stepped, or the daemon has started: what was said since may be withdrawn.
#[derive(Debug)]
struct Doubt {
    /// The look before it.
    look_s: i64,
    began: AwakeMs,
    /// The last step.
    since: AwakeMs,
    is_stored: bool,
    /// By job: due times that were given a verdict since.
    spoken: HashMap<String, Vec<Spoken>>,
    entries: usize,
}

/// Due times with a verdict, from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spoken {
    pub from: i64,
    pub to: i64,
    /// How many of them were missed; 0: it is another verdict.
    pub missed: u64,
    /// They were skipped: paused, or in maintenance.
    pub is_skip: bool,
}

impl Spoken {
    /// What that verdict says.
    pub fn of(verdict: &VerdictRecord) -> Spoken {
        let is_miss = matches!(verdict.verdict, Verdict::Missed { .. });
        Spoken {
            from: verdict.due.secs(),
            to: verdict.until.secs(),
            missed: if is_miss { verdict.count } else { 0 },
            is_skip: matches!(verdict.verdict, Verdict::Paused { .. } | Verdict::Maintenance),
        }
    }

    /// It is withdrawn if the clock turns out to have been ahead: nothing has come of it.
    pub fn may_be_withdrawn(&self) -> bool {
        self.missed > 0 || self.is_skip
    }
}

impl Look {
    /// As storage has it: the look before a step that was still in doubt, and what was said since the last one.
    pub fn recovered(
        last: Option<Wall>,
        doubt: Option<Wall>,
        verdicts: &[VerdictRecord],
        now: Now,
        awake: AwakeMs,
    ) -> Look {
        let now_s = now.wall.secs();
        let Some(before) = doubt.or(last).map(Wall::secs) else {
            return Look::default();
        };
        let mut doubt = Doubt {
            look_s: before,
            began: awake,
            since: awake,
            is_stored: doubt.is_some(),
            spoken: HashMap::new(),
            entries: 0,
        };
        for verdict in verdicts {
            doubt.note(&verdict.job, Spoken::of(verdict));
        }
        let last_s = last.map_or(before, Wall::secs);
        let at_s = if now_s >= before { before } else { last_s };
        Look {
            at_s: Some(at_s),
            doubt: Some(doubt),
            ..Look::default()
        }
    }

    /// Second up to which due times are taken up.
    pub fn at_s(&self) -> Option<i64> {
        self.at_s
    }

    /// Not yet looked in this process.
    pub fn is_first(&self) -> bool {
        self.mono.is_none()
    }

    /// The wall clock has moved otherwise than the monotonic one since the last look.
    pub fn is_step(&self, now: Now) -> bool {
        let (Some(at_s), Some(mono)) = (self.at_s, self.mono) else {
            return false;
        };
        let passed_s = now.mono.since_ms(mono) as i64 / 1_000;
        let moved_s = now.wall.secs() - at_s;
        moved_s < 0 || (moved_s - passed_s).abs() > limits::CLOCK_STEP_S
    }

    /// The clock has stepped. Returns the second from which due times are to be taken up again; None: as ever, from the last
    /// look on.
    pub fn stepped(&mut self, now: Now, awake: AwakeMs) -> Option<i64> {
        let now_s = now.wall.secs();
        let last_s = self.at_s.unwrap_or(now_s);
        if now_s > last_s {
            self.step_s = Some(last_s);
        }
        let is_new = self.doubt.is_none();
        let doubt = self.doubt.get_or_insert_with(|| Doubt {
            look_s: last_s,
            began: awake,
            since: awake,
            is_stored: false,
            spoken: HashMap::new(),
            entries: 0,
        });
        doubt.since = awake;
        if doubt.look_s < limits::CLOCK_FLOOR_S && now_s >= limits::CLOCK_FLOOR_S {
            // that was no time at all: nothing was passed over
            doubt.look_s = now_s;
            doubt.is_stored = false;
            return Some(now_s);
        }
        if now_s >= doubt.look_s {
            let is_ordinary = is_new && now_s >= last_s;
            return (!is_ordinary).then_some(doubt.look_s);
        }
        (now_s < last_s).then_some(now_s)
    }

    /// This look is done.
    pub fn looked(&mut self, now: Now) {
        self.at_s = Some(now.wall.secs());
        self.mono = Some(now.mono);
    }

    /// The look to be stored as the one before a step, if it is not yet.
    pub fn doubt_to_store(&mut self) -> Option<Wall> {
        let doubt = self.doubt.as_mut().filter(|doubt| !doubt.is_stored)?;
        doubt.is_stored = true;
        Some(Wall::from_secs(doubt.look_s))
    }

    /// The clock has run evenly for long enough: it is believed. True: just now.
    pub fn settle(&mut self, wall: Wall, awake: AwakeMs) -> bool {
        let is_over = self.doubt.as_ref().is_some_and(|doubt| {
            let is_even = awake >= doubt.since.saturating_add(limits::CLOCK_TRUST_MS);
            is_even && wall.secs() >= limits::CLOCK_FLOOR_S || doubt.entries > limits::DOUBT_VERDICTS
        });
        if is_over {
            self.doubt = None;
        }
        is_over
    }

    /// The time by which what people have set comes to its end: the wall clock's, but while it is in doubt no later than the
    /// look before the step and the time awake since allow. A step that no look has seen yet puts it in doubt, too.
    pub fn believed(&self, now: Now, awake: AwakeMs) -> Wall {
        let (look_s, passed_ms) = match (&self.doubt, self.at_s.zip(self.mono)) {
            (Some(doubt), _) => (doubt.look_s, awake.saturating_sub(doubt.began)),
            (None, Some((at_s, mono))) if self.is_step(now) => (at_s, now.mono.since_ms(mono)),
            (None, _) => return now.wall,
        };
        let passed_ms = i64::try_from(passed_ms).unwrap_or(i64::MAX);
        let allowed_ms = passed_ms.saturating_add(limits::CLOCK_TOLERANCE_MS);
        now.wall.min(Wall::from_secs(look_s).plus_ms(allowed_ms))
    }

    /// Keeps what was said of a job's due times while the clock is in doubt.
    pub fn note(&mut self, job: &str, spoken: Spoken) {
        if let Some(doubt) = &mut self.doubt {
            doubt.note(job, spoken);
        }
    }

    /// Whether what is said of that second now may be withdrawn: it is later than the look before a step.
    pub fn is_doubtful(&self, second: i64) -> bool {
        self.doubt.as_ref().is_some_and(|doubt| second > doubt.look_s)
    }

    /// The last second of what was said of a job's misses from `from` on that stays when the clock goes back to `now_s`.
    pub fn kept_until(&self, job: &str, from: i64, now_s: i64) -> Option<i64> {
        let spoken = self.doubt.as_ref()?.spoken.get(job)?;
        let kept = spoken
            .iter()
            .filter(|s| s.missed > 0 && s.from >= from && s.to <= now_s);
        kept.map(|spoken| spoken.to).max()
    }

    /// Whether that second was passed since the clock stepped forward last.
    pub fn is_after_step(&self, second: i64) -> bool {
        self.step_s.is_some_and(|step_s| second > step_s)
    }

    /// Misses that were said one by one are stored as one stretch, and would be withdrawn as one.
    pub fn unite(&mut self, job: &str, whole: Spoken) {
        let Some(doubt) = self.doubt.as_mut().filter(|doubt| whole.from > doubt.look_s) else {
            return;
        };
        if let Some(spoken) = doubt.spoken.get_mut(job) {
            spoken.retain(|s| !s.may_be_withdrawn() || s.from < whole.from || s.to > whole.to);
        }
        doubt.note(job, whole);
    }

    /// The parts of a stretch of seconds on which nothing was said.
    pub fn unspoken(&self, job: &str, from: i64, to: i64) -> Vec<(i64, i64)> {
        let spoken = self.doubt.as_ref().and_then(|doubt| doubt.spoken.get(job));
        let mut known: Vec<Spoken> = spoken
            .into_iter()
            .flatten()
            .copied()
            .filter(|spoken| spoken.to >= from && spoken.from <= to)
            .collect();
        known.sort_unstable_by_key(|spoken| spoken.from);
        let mut gaps = Vec::new();
        let mut at = from;
        for spoken in known {
            if spoken.from > at {
                gaps.push((at, spoken.from - 1));
            }
            at = at.max(spoken.to + 1);
        }
        if at <= to {
            gaps.push((at, to));
        }
        gaps
    }

    /// Forgets what was said of a job's due times that are still to come, and returns it.
    pub fn withdraw(&mut self, job: &str, now_s: i64) -> Vec<Spoken> {
        let spoken = self.doubt.as_mut().and_then(|doubt| doubt.spoken.get_mut(job));
        let Some(spoken) = spoken else { return Vec::new() };
        spoken.extract_if(.., |spoken| spoken.to > now_s).collect()
    }

    /// Jobs of which something was said beyond `now_s`.
    pub fn ahead_of(&self, now_s: i64) -> impl Iterator<Item = &str> {
        let doubt = self.doubt.iter();
        doubt.flat_map(move |doubt| {
            let ahead = doubt
                .spoken
                .iter()
                .filter(move |(_, spoken)| spoken.iter().any(|s| s.to > now_s));
            ahead.map(|(job, _)| job.as_str())
        })
    }
}

impl Doubt {
    fn note(&mut self, job: &str, spoken: Spoken) {
        self.entries += 1;
        match self.spoken.get_mut(job) {
            Some(known) => known.push(spoken),
            None => drop(self.spoken.insert(job.into(), vec![spoken])),
        }
    }
}
