//! What ends by itself: pauses, maintenance switches, notes of missed due times. All are kept in the order of their ends:
//! a look costs what is over and not what there is, and a turn ends no more of it than it may.
//! Must not know: requests.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use log::Level;

use crate::clock::Wall;
use crate::engine::effect::Fact;
use crate::engine::record::{Control, SwitchRecord};
use crate::engine::{Engine, Turn};
use crate::limits;

/// Something that ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Ends {
    /// The pause of that job.
    Pause(Arc<str>),
    /// The switch of that machine; None: the global one.
    Switch(Option<String>),
    /// The note that the job missed due times.
    Missed(Arc<str>),
}

/// When what ends.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    by_time: BTreeSet<(Wall, Ends)>,
    times: HashMap<Ends, Wall>,
    /// More is over than a turn may end.
    is_behind: bool,
}

impl Expiry {
    /// It ends then; None: never. What was said of it before no longer holds.
    pub fn set(&mut self, what: Ends, at: Option<Wall>) {
        if let Some((what, at)) = self.times.remove_entry(&what) {
            self.by_time.remove(&(at, what));
        }
        if let Some(at) = at {
            self.by_time.insert((at, what.clone()));
            self.times.insert(what, at);
        }
    }

    /// More is over than the last turn could end.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    fn pop_over(&mut self, now: Wall) -> Option<Ends> {
        if self.by_time.first().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, what) = self.by_time.pop_first()?;
        self.times.remove(&what);
        Some(what)
    }
}

impl Engine {
    /// Ends what is over, by a clock that one reading of the wall clock does not carry away; as much as a turn may.
    pub(super) fn expire(&mut self, turn: &mut Turn) {
        let now = self.look.believed(turn.now, turn.awake);
        let mut facts = Vec::new();
        let mut is_switched = false;
        let mut left = limits::TURN_CONTROLS;
        while left > 0
            && let Some(what) = self.expiry.pop_over(now)
        {
            left -= 1;
            match what {
                Ends::Pause(job) => self.end_pause(turn, now, job, &mut facts),
                Ends::Switch(machine) => {
                    is_switched = true;
                    self.end_switch(turn, machine, &mut facts);
                }
                Ends::Missed(job) => {
                    self.forget_missed(&job, &mut facts);
                }
            }
        }
        self.expiry.is_behind = left == 0;
        if is_switched {
            self.apply_switches();
        }
        turn.store(facts);
    }

    fn end_pause(&mut self, turn: &mut Turn, now: Wall, job: Arc<str>, facts: &mut Vec<Fact>) {
        let Some(state) = self.jobs.get_mut(&job) else {
            return;
        };
        state.end_pause(now);
        turn.say(Level::Info, format!("the pause of {job} has expired"));
        let control = Control::Resume { job: job.to_string() };
        facts.push(Fact::Control(Box::new(control)));
        self.shown.jobs.insert(job);
    }

    fn end_switch(&mut self, turn: &mut Turn, machine: Option<String>, facts: &mut Vec<Fact>) {
        if let Some(switch) = self.switches.remove(&machine) {
            self.maintenance_is_over(&switch, switch.until);
        }
        let object = machine.as_deref().unwrap_or("global");
        turn.say(
            Level::Info,
            format!("the maintenance switch ({object}) has expired: the configuration files apply"),
        );
        let control = Control::SwitchBack { machine };
        facts.push(Fact::Control(Box::new(control)));
    }

    /// A switch is no longer in force: due times of its time may still be without a verdict.
    pub(super) fn maintenance_is_over(&mut self, switch: &SwitchRecord, at: Wall) {
        if switch.machine.is_none() && switch.is_on {
            self.maintenance_over = Some((switch.since, at.min(switch.until)));
        }
    }

    /// Returns how many due times the note was about.
    pub(super) fn forget_missed(&mut self, job: &Arc<str>, facts: &mut Vec<Fact>) -> u64 {
        let Some(state) = self.jobs.get_mut(job) else {
            return 0;
        };
        let missed = std::mem::take(&mut state.record.missed);
        state.record.missed_at = None;
        facts.push(state.fact());
        self.shown.jobs.insert(job.clone());
        missed
    }

    /// A job has missed due times: the note of them stands for a day.
    pub(super) fn note_missed(&mut self, job: &Arc<str>, at: Wall) {
        let until = at.plus_ms(limits::MISSED_SHOWN_MS);
        self.expiry.set(Ends::Missed(job.clone()), Some(until));
    }
}
