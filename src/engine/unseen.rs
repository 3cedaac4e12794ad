//! Misses that nobody has seen yet: a job's note of them stays until somebody says so, or for a day.
//! Must not know: what a miss is.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::clock::Wall;
use crate::engine::control::{audit, control_fact, say_audit};
use crate::engine::effect::{Done, Effect, Refusal, Write};
use crate::engine::id::RequestId;
use crate::engine::record::Control;
use crate::engine::{Engine, Turn, Waiting};
use crate::limits;

/// The jobs that have such a note, by when it was last added to.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    by_time: BTreeSet<(Wall, Arc<str>)>,
    times: HashMap<Arc<str>, Wall>,
}

impl Unseen {
    /// A job has missed a due time.
    pub fn note(&mut self, job: &Arc<str>, at: Wall) {
        self.forget(job);
        self.times.insert(job.clone(), at);
        self.by_time.insert((at, job.clone()));
    }

    fn forget(&mut self, job: &str) {
        if let Some((job, at)) = self.times.remove_entry(job) {
            self.by_time.remove(&(at, job));
        }
    }

    /// A job whose note was last added to before `before`.
    fn pop_older(&mut self, before: Wall) -> Option<Arc<str>> {
        let (_, job) = self.by_time.first().filter(|(at, _)| *at <= before)?;
        let job = job.clone();
        self.forget(&job);
        Some(job)
    }
}

impl Engine {
    /// Notes that have stood for a day, as many as a turn may, by a clock that one reading of the wall clock does not carry
    /// away.
    pub(super) fn expire_misses(&mut self, turn: &mut Turn) {
        let now = self.look.believed(turn.now.wall, turn.awake);
        let mut facts = Vec::new();
        for _ in 0..limits::TURN_CONTROLS {
            let Some(job) = self.unseen.pop_older(now.plus_ms(-limits::MISSED_SHOWN_MS)) else {
                break;
            };
            if let Some(state) = self.jobs.get_mut(&job) {
                state.record.missed = 0;
                state.record.missed_at = None;
                facts.push(state.fact());
                self.shown.jobs.insert(job);
            }
        }
        turn.store(facts);
    }

    /// Somebody has seen a job's misses.
    pub(super) fn seen_asked(&mut self, turn: &mut Turn, request: RequestId, name: &str, who: &str) {
        let mut audit = audit(turn.now.wall, who, "seen", name, "");
        let Some(state) = self.jobs.get_mut(name) else {
            return self.refuse(turn, request, audit, Refusal::UnknownJob { job: name.into() });
        };
        let missed = std::mem::take(&mut state.record.missed);
        state.record.missed_at = None;
        audit.detail = format!("{missed} missed");
        audit.outcome = "ok".into();
        say_audit(turn, &audit);
        let facts = vec![state.fact(), control_fact(Control::Audit(audit))];
        self.unseen.forget(name);
        self.shown.jobs.insert(name.into());
        let answer = Ok(Done::Set(format!(
            "the missed due times of {name} are marked as seen"
        )));
        let ticket = self.ticket(Waiting::Answer { request, answer });
        turn.effects.push(Effect::Store(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        }));
    }
}
