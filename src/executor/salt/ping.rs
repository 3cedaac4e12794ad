//! Which of the matching minions are up: a ping, its answers as they arrive, and the runs that asked.
//! Must not know: the helper process, dispatches.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::protocol::Request;
use super::{Salt, What};
use crate::clock::{self, Mono};
use crate::config::{JobSpec, TARGET_TYPES, Targets};
use crate::engine::event::Event;
use crate::engine::id::RunId;
use crate::limits;

/// Which of the matching minions are up?
pub(super) struct Ping {
    /// Runs that wait for the answer: those due together share it.
    runs: Vec<RunId>,
    tgt: Value,
    tgt_type: String,
    published: Option<Mono>,
    /// Not known to Salt: down.
    unknown: Vec<String>,
    told: Vec<String>,
    /// Told to be down: whatever comes of them is too late.
    gone: HashSet<String>,
    seen: HashSet<String>,
    /// Up, not told yet: told together, so that they are started together.
    fresh: Vec<String>,
    fresh_since: Mono,
    last_return: Mono,
    /// The master was away: minions find back to it one by one, and miss what is published meanwhile.
    master_was_away: bool,
    /// Up to then it can be published the first time, and they are pinged again.
    pub(super) patience: Mono,
}

impl Salt {
    pub(super) fn resolve(&mut self, run: RunId, spec: &JobSpec) {
        let refusal = self.no_salt.clone().or_else(|| unknown_kind(&spec.target_type));
        if refusal.is_some() {
            return self.report(resolved(run, &[], &[], true, refusal));
        }
        let now = clock::mono();
        let (tgt, tgt_type) = target(spec);
        for pending in self.pending.values_mut() {
            if let What::Ping(ping) = &mut pending.what
                && ping.tgt == tgt
                && ping.tgt_type == tgt_type
                && ping
                    .published
                    .is_none_or(|at| now.since_ms(at) < limits::PING_SHARED_MS)
            {
                ping.runs.push(run);
                let gone: Vec<String> = ping.gone.iter().cloned().collect();
                let event = resolved(run, &ping.told, &gone, false, None);
                return self.report(event);
            }
        }
        let ping = Ping::new(run, tgt, tgt_type, now);
        let jid = self.jids.next(clock::wall());
        self.add(
            jid,
            false,
            now.plus_ms(limits::PING_PATIENCE_MS),
            What::Ping(ping),
        );
    }

    pub(super) fn ping_again(&mut self, mut ping: Ping, missing: Vec<String>) {
        self.report_all(ping.news());
        ping.tgt = json!(missing);
        ping.tgt_type = "list".to_string();
        let jid = self.jids.next(clock::wall());
        let deadline = ping.patience.plus_ms(limits::PING_GRACE_MS);
        self.add(jid, false, deadline, What::Ping(ping));
    }
}

impl Ping {
    fn new(run: RunId, tgt: Value, tgt_type: String, now: Mono) -> Ping {
        Ping {
            runs: vec![run],
            tgt,
            tgt_type,
            published: None,
            unknown: Vec::new(),
            told: Vec::new(),
            gone: HashSet::new(),
            seen: HashSet::new(),
            fresh: Vec::new(),
            fresh_since: now,
            last_return: now,
            master_was_away: false,
            patience: now.plus_ms(limits::PING_PATIENCE_MS),
        }
    }

    pub(super) fn published(&mut self, now: Mono, took_ms: u64, unknown: Vec<String>) {
        // a master that took so long has just come up: minions find back to it one by one
        self.master_was_away |= took_ms >= limits::SALT_SLOW_PUBLISH_MS;
        self.published = Some(now);
        self.unknown.extend(unknown);
    }

    /// When it ends at the latest, being published now: however often a helper is lost, in time for the engine.
    pub(super) fn deadline(&self, now: Mono) -> Mono {
        now.min(self.patience)
            .plus_ms(limits::PING_BUSY_MS + limits::PING_GRACE_MS)
    }

    /// Those are silent, while others still may answer: every run is told at once that they are down.
    pub(super) fn silent(&mut self, mut minions: Vec<String>) -> Vec<Event> {
        if self.master_was_away {
            // they are pinged again
            return Vec::new();
        }
        minions.retain(|minion| !self.seen.contains(minion) && self.gone.insert(minion.clone()));
        let runs = self.runs.iter();
        runs.map(|run| resolved(*run, &[], &minions, false, None))
            .collect()
    }

    pub(super) fn returned(&mut self, minion: String, now: Mono) {
        if self.gone.contains(&minion) {
            return;
        }
        if self.fresh.is_empty() {
            self.fresh_since = now;
        }
        self.last_return = now;
        // a lost helper's successor tells again
        if self.seen.insert(minion.clone()) {
            self.fresh.push(minion);
        }
    }

    /// Tells every run which minions have answered since the last call.
    pub(super) fn news(&mut self) -> Vec<Event> {
        if self.fresh.is_empty() {
            return Vec::new();
        }
        let runs = self.runs.iter();
        let events = runs
            .map(|run| resolved(*run, &self.fresh, &[], false, None))
            .collect();
        self.told.append(&mut self.fresh);
        events
    }

    /// The master does not answer, or refuses for now.
    pub(super) fn refused(&mut self) {
        self.master_was_away = true;
    }

    pub(super) fn matches_nobody(&mut self, unknown: Vec<String>) {
        self.unknown.extend(unknown);
    }

    /// No more answers will come: minions that have not answered are down.
    pub(super) fn end(mut self, missing: Vec<String>, error: Option<&str>) -> Vec<Event> {
        self.unknown.extend(missing);
        self.unknown.retain(|minion| !self.gone.contains(minion));
        let runs = self.runs.iter();
        runs.map(|run| resolved(*run, &self.fresh, &self.unknown, true, error.map(str::to_string)))
            .collect()
    }

    pub(super) fn fill_in(&self, request: &mut Request, left_ms: u64) {
        request.tgt = self.tgt.clone();
        request.tgt_type.clone_from(&self.tgt_type);
        request.fun = "test.ping";
        let (window_ms, busy_ms) = if self.master_was_away {
            // minions that have not answered by then are asked again
            (limits::PING_AGAIN_MS, 0)
        } else {
            (limits::PING_TIMEOUT_MS, limits::PING_BUSY_MS)
        };
        request.timeout = window_ms.min(left_ms) as f64 / 1_000.0;
        request.patience = busy_ms.min(left_ms) as f64 / 1_000.0;
    }

    pub(super) fn should_go_on(&self, missing: &[String]) -> bool {
        self.master_was_away && !missing.is_empty() && clock::mono() < self.patience
    }

    /// Answers are told when no more come for a moment, or the first has waited long enough: each telling costs a
    /// publish of its own.
    pub(super) fn is_ripe(&self, now: Mono) -> bool {
        !self.fresh.is_empty()
            && (now.since_ms(self.last_return) >= limits::PING_QUIET_MS
                || now.since_ms(self.fresh_since) >= limits::PING_GATHER_MS)
    }
}

fn resolved(run: RunId, up: &[String], down: &[String], finished: bool, error: Option<String>) -> Event {
    Event::Resolved {
        run,
        up: up.to_vec(),
        down: down.to_vec(),
        finished,
        error,
    }
}

/// Why this kind of target cannot be asked for.
pub(super) fn unknown_kind(target_type: &str) -> Option<String> {
    (!TARGET_TYPES.contains(&target_type)).then(|| {
        format!(
            "target_type '{}' is none of Salt's: {}",
            target_type.escape_debug(),
            TARGET_TYPES.join(", ")
        )
    })
}

/// The job's targets for Salt: an array means a list of ids, whatever the kind (only Salt 3008 takes it otherwise);
/// compound expressions may be arrays of words.
fn target(spec: &JobSpec) -> (Value, String) {
    match &spec.targets {
        Targets::Text(text) => (json!(text), spec.target_type.clone()),
        Targets::List(words) if spec.target_type.starts_with("compound") => {
            (json!(words.join(" ")), spec.target_type.clone())
        }
        Targets::List(ids) => (json!(ids), "list".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_that_is_published_again_and_again_ends_before_the_engine_gives_it_up() {
        let ping = Ping::new(RunId(1), json!("*"), "glob".into(), Mono(0));
        let deadlines = [0, 59_000, 89_000, 119_000].map(|ms| ping.deadline(Mono(ms)).0);
        assert_eq!(deadlines, [70_000, 129_000, 130_000, 130_000]);
        assert!(deadlines[3] < limits::RESOLVE_TIMEOUT_MS);
    }
}
