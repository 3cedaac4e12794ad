//! What held a job's due times back when they came, known although it may be over by the time they are looked at: a pause, global
//! maintenance (rules.md 13c).
//! Must not know: what becomes of due times that nothing held back.

use crate::clock::Wall;
use crate::engine::Engine;
use crate::engine::record::{PauseRecord, Verdict};

/// Seconds, from and to, whose due times get that verdict.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    from: i64,
    to: i64,
    verdict: Verdict,
}

/// Seconds, from and to, with the verdict on their due times; None: nothing held them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub from: i64,
    pub to: i64,
    pub verdict: Option<Verdict>,
}

impl Hold {
    fn new(since: Wall, until: Option<Wall>, verdict: Verdict) -> Hold {
        Hold {
            from: since.0.div_euclid(1_000_000) + i64::from(since.0.rem_euclid(1_000_000) != 0),
            // the second in which it ends is free
            to: until.map_or(i64::MAX, |until| (until.0 - 1).div_euclid(1_000_000)),
            verdict,
        }
    }

    pub fn contains(&self, second: i64) -> bool {
        (self.from..=self.to).contains(&second)
    }
}

impl Engine {
    /// What holds or held the job back, the first to be judged first.
    pub(super) fn holds(&self, name: &str) -> Vec<Hold> {
        let state = self.jobs.get(name);
        let paused = state.and_then(|state| state.paused.as_deref());
        let pause_over = state.and_then(|state| state.pause_over.as_deref());
        let hold = |pause: &PauseRecord, until| {
            let reason = pause.reason.clone();
            Hold::new(pause.since, until, Verdict::Paused { reason })
        };
        let mut holds: Vec<Hold> = paused.map(|pause| hold(pause, None)).into_iter().collect();
        holds.extend(pause_over.map(|pause| hold(pause, pause.until)));
        if let Some(switch) = self.switches.get(&None).filter(|switch| switch.is_on) {
            holds.push(Hold::new(switch.since, None, Verdict::Maintenance));
        }
        if let Some((since, until)) = self.maintenance_over {
            holds.push(Hold::new(since, Some(until), Verdict::Maintenance));
        }
        holds
    }
}

/// Cuts the seconds from `from` to `to` by what held them back; of several, the first counts.
pub(super) fn parts(holds: &[Hold], from: i64, to: i64) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = from;
    while at <= to {
        let place = holds.iter().position(|hold| hold.contains(at));
        let stronger = &holds[..place.unwrap_or(holds.len())];
        let next = stronger
            .iter()
            .map(|hold| hold.from)
            .filter(|next| *next > at)
            .min();
        let own_end = place.map_or(to, |place| holds[place].to.min(to));
        let end = next.map_or(own_end, |next| own_end.min(next - 1));
        parts.push(Part {
            from: at,
            to: end,
            verdict: place.map(|place| holds[place].verdict.clone()),
        });
        at = end + 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_before_maintenance_and_the_second_in_which_it_ends_is_free() {
        let pause = Verdict::Paused { reason: "x".into() };
        let at = |s| Wall::from_secs(s);
        let holds = [
            Hold::new(at(20), Some(at(30)), pause.clone()),
            Hold::new(at(10), Some(at(40)), Verdict::Maintenance),
        ];
        let found: Vec<(i64, i64, Option<Verdict>)> = parts(&holds, 5, 50)
            .into_iter()
            .map(|part| (part.from, part.to, part.verdict))
            .collect();
        let wanted = [
            (5, 9, None),
            (10, 19, Some(Verdict::Maintenance)),
            (20, 29, Some(pause)),
            (30, 39, Some(Verdict::Maintenance)),
            (40, 50, None),
        ];
        assert_eq!(found, wanted);
        assert!(parts(&holds, 7, 6).is_empty());
    }
}
