//! What time brings: once a second every open machine run and run is looked at, and what is due is done.
//! Must not know: how frames change them.

use log::Level;

use crate::clock::Mono;
use crate::ending::{Ending, GivenBy};
use crate::engine::effect::{ConnectionOrder, Effect, Fact, JobLogLine, StorageOrder};
use crate::engine::id::ConnectionId;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::machine_run::{MachineRun, Overdue};
use crate::engine::record::RunStage;
use crate::engine::{AwakeMs, Engine, Turn};
use crate::limits;

impl Engine {
    /// The second has come.
    pub(super) fn tick(&mut self, turn: &mut Turn) {
        if !self.is_listening {
            return;
        }
        if self.checks.is_empty() && self.scanning.is_empty() && self.resuming.is_empty() {
            self.scanning = self.runs.open().into();
        }
        self.expire(turn);
        self.go_on(turn);
        if self.resuming.is_empty() {
            self.check_runs(turn);
        }
        if !self.is_shutting_down {
            self.look(turn);
        }
        self.look_at_watches(turn);
        self.send_notices(turn);
        self.forget_rested(turn);
        if turn.awake >= self.next_retention_ms {
            self.next_retention_ms = turn.awake + limits::RETENTION_INTERVAL_MS;
            self.retain(turn);
        }
    }

    /// Goes on with what earlier turns had no time for.
    pub(super) fn go_on(&mut self, turn: &mut Turn) {
        if self.expiry.is_behind() {
            self.expire(turn);
        }
        self.resume_some(turn);
        self.rewrite(turn);
        self.scan_some(turn.awake);
        for _ in 0..limits::TURN_MACHINES {
            let Some(id) = self.checks.pop_front() else { break };
            self.send_kill(turn, id);
            self.check(turn, id);
        }
        if self.is_listening && !self.is_shutting_down {
            self.catch_up(turn);
        }
    }

    /// Lets go of old history. One reading of the wall clock removes nothing: history ages by a clock of its own, which is
    /// stored, never ahead of the wall clock and never faster than twice the time that the daemon has been awake, so
    /// that a clock that is years ahead for a while costs an hour or two of history, and a daemon that was down for
    /// long catches up by a day each day.
    fn retain(&mut self, turn: &mut Turn) {
        let wall = turn.now.wall;
        let Some((at, awake)) = self.history_clock else {
            self.history_clock = Some((wall, turn.awake));
            turn.store(vec![Fact::HistoryClock(wall)]);
            return;
        };
        let passed_ms = turn.awake.saturating_sub(awake).saturating_mul(2);
        let allowed = at.plus_ms(i64::try_from(passed_ms).unwrap_or(i64::MAX));
        let clock = wall.min(allowed).max(at);
        self.history_clock = Some((clock, turn.awake));
        if clock != at {
            turn.store(vec![Fact::HistoryClock(clock)]);
        }
        let days = i64::from(self.config.settings.history_days);
        let before = clock.min(wall).plus_ms(-days * 86_400_000);
        turn.effects
            .push(Effect::Store(StorageOrder::PruneHistory { before }));
    }

    /// Heartbeats that connections have stamped.
    pub(super) fn beats(&mut self, turn: &mut Turn, beats: &[(ConnectionId, Mono)]) {
        for (connection, at) in beats {
            if let Some(id) = self
                .connections
                .get(connection)
                .and_then(|connection| connection.bound)
            {
                self.beat(turn, id, *at);
            }
        }
    }

    /// A heartbeat that was read at `at`.
    pub(super) fn beat(&mut self, turn: &mut Turn, id: MachineRunId, at: Mono) {
        let awake_at = self.awake.at(at).min(turn.awake);
        let wall = turn.now.wall.plus_ms(-(turn.now.mono.since_ms(at) as i64));
        let is_debug = self.config.settings.debug;
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        if !m.is_open() {
            // given up for its silence, and not silent any more; of other presumptions a beat says nothing
            let is_back =
                m.record.presumed && m.record.given_by == Some(GivenBy::Lost) && awake_at > m.clocks.beat;
            if !is_back {
                return;
            }
            self.reopen(turn, id);
        }
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        m.refresh(awake_at);
        m.record.last_heartbeat = m.record.last_heartbeat.max(Some(wall));
        if is_debug && let Some((run, place)) = self.runs.find(id) {
            let machine = &run.machines[place].record.machine;
            turn.say(
                Level::Debug,
                format!("WebSocket: Heartbeat from {}:{machine}", run.record.instance),
            );
        }
        self.touch_machine(id);
    }

    /// A connection had nothing left to read.
    pub(super) fn dry(
        &mut self,
        turn: &mut Turn,
        connection: ConnectionId,
        at: Mono,
        last_beat: Option<Mono>,
    ) {
        let Some(id) = self
            .connections
            .get(&connection)
            .and_then(|connection| connection.bound)
        else {
            return;
        };
        if let Some(beat) = last_beat {
            self.beat(turn, id, beat);
        }
        let dry = self.awake.at(at).min(turn.awake);
        if let Some(m) = self.runs.machine_mut(id)
            && m.connection == Some(connection)
        {
            m.clocks.dry = Some(dry);
            self.check(turn, id);
        }
    }

    /// Looks at one machine run's deadlines.
    fn check(&mut self, turn: &mut Turn, id: MachineRunId) {
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let spec = run.record.spec.clone();
        let m = &mut run.machines[place];
        let env = m.record.env_delivery;
        let ending = match m.overdue(&spec, turn.awake) {
            Overdue::Nothing => return,
            Overdue::Probe => {
                if let Some(connection) = m.connection
                    && m.clocks.probed.is_none()
                {
                    m.clocks.probed = Some(turn.awake);
                    turn.order(connection, ConnectionOrder::Probe);
                }
                return;
            }
            Overdue::Dispatch => {
                let text = format!(
                    "the executor did not report a launch within {} seconds",
                    limits::DISPATCH_TIMEOUT_MS / 1_000
                );
                Ending::error(text).presumed(env)
            }
            Overdue::Connect => {
                let mut text = format!(
                    "the wrapper did not connect within {} seconds of its launch",
                    spec.start_timeout_ms / 1_000
                );
                if let Some(unknown_machine) = &run.unknown_machine {
                    text += &format!(
                        ": a wrapper connected as '{unknown_machine}', which is no target of this run"
                    );
                }
                Ending::not_started(text).presumed(env)
            }
            Overdue::Start => {
                let text = format!(
                    "the wrapper connected but did not start within {} seconds",
                    limits::CONNECT_TO_START_MS / 1_000
                );
                Ending::not_started(text).presumed(true)
            }
            Overdue::Heartbeat { silent_s } => Ending::lost(silent_s),
            Overdue::Timeout => Ending::timed_out_unreported(spec.timeout_s).presumed(true),
            Overdue::Kill => {
                let ending = Ending::killed_unreported(limits::KILL_GIVE_UP_MS / 1_000);
                ending.presumed(m.may_have_started())
            }
        };
        let (instance, machine) = (&run.record.instance, &m.record.machine);
        turn.say(
            Level::Warn,
            format!(
                "{instance} on {machine} ends with {}: {}",
                ending.code,
                ending.note.as_deref().unwrap_or_default()
            ),
        );
        self.end_machine(turn, id, ending, Vec::new());
    }

    /// Looks through the machine runs that have been handed to the executor for those for which something is due: few of ten
    /// thousand, and what falls due for a job in the same second waits behind this look.
    fn scan_some(&mut self, awake: AwakeMs) {
        let mut left = limits::TURN_SCANNED;
        while left > 0
            && let Some(id) = self.scanning.pop_front()
        {
            let Some(run) = self.runs.get(id) else { continue };
            left = left.saturating_sub(run.machines.len() + 1);
            let spec = &run.record.spec;
            let is_due = |m: &&MachineRun| m.kill.is_some() || m.overdue(spec, awake) != Overdue::Nothing;
            let unfinished = run.machines.iter().filter(|m| m.is_unfinished());
            self.checks.extend(unfinished.filter(is_due).map(|m| m.record.id));
        }
    }

    /// Runs whose machines are not known yet end too, whatever the executor does.
    fn check_runs(&mut self, turn: &mut Turn) {
        let mut overdue: Vec<(RunId, &'static str)> = Vec::new();
        for state in self.jobs.values() {
            for id in &state.open {
                let Some(run) = self
                    .runs
                    .get(*id)
                    .filter(|run| run.is_stored && !run.found.is_finished)
                else {
                    continue;
                };
                let passed = |from: u64, window: u64| turn.awake >= from.saturating_add(window);
                if run
                    .kill
                    .is_some_and(|asked| passed(asked, limits::KILL_GIVE_UP_MS))
                {
                    overdue.push((*id, "killed before its machines were known"));
                } else if passed(run.asked_executor, limits::RESOLVE_TIMEOUT_MS) {
                    overdue.push((*id, "the executor did not say which machines are up"));
                }
            }
        }
        for (id, note) in overdue.into_iter().take(limits::TURN_RUNS) {
            let Some(run) = self.runs.get_mut(id) else {
                continue;
            };
            run.found.is_finished = true;
            run.record.stage = RunStage::Running;
            run.record.note = Some(note.into());
            let entry = run.log_entry(turn.now.wall, JobLogLine::Note { text: note.into() });
            turn.effects.push(entry);
            turn.say(Level::Error, format!("{}: {note}", run.record.instance));
            let (up, down) = (
                std::mem::take(&mut run.found.up),
                std::mem::take(&mut run.found.down),
            );
            let spec = run.record.spec.clone();
            self.add_machines(turn, id, up, down, &spec);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Now, Wall};
    use crate::config::Config;
    use crate::engine::EngineSettings;
    use crate::engine::event::Event;
    use crate::engine::record::Recovered;

    const HOUR_S: u64 = 3_600;
    const DAY_S: i64 = 86_400;

    /// A daemon that ticks every second of `hours`, and how far behind `at` its history ended each time, in seconds; the
    /// wall clock is ahead by what `ahead_s` says for each second awake.
    fn retained(last_look: Option<Wall>, at: Wall, hours: u64, ahead_s: impl Fn(u64) -> i64) -> Vec<i64> {
        let config = Arc::new(Config::default());
        let days = i64::from(config.settings.history_days);
        let recovered = Recovered {
            last_look,
            next_run: 1,
            next_machine_run: 1,
            ..Recovered::default()
        };
        let now = |second: u64| Now {
            mono: Mono(second * 1_000),
            wall: Wall(at.0 + (second as i64 + ahead_s(second)) * 1_000_000),
        };
        let mut engine = Engine::new(EngineSettings::default(), config, recovered, now(0));
        let mut effects = Vec::new();
        engine.handle(now(0), Event::Listening, &mut effects);
        for second in 0..hours * HOUR_S {
            engine.handle(now(second), Event::Tick, &mut effects);
        }
        let before = effects.iter().filter_map(|effect| match effect {
            Effect::Store(StorageOrder::PruneHistory { before }) => {
                Some((before.0 - at.0) / 1_000_000 + days * DAY_S)
            }
            _ => None,
        });
        before.collect()
    }

    #[test]
    fn a_clock_that_is_years_ahead_removes_hours_of_history_at_the_most() {
        let at = Wall::from_secs(1_795_000_000);
        let years_s = 4 * 365 * DAY_S;
        for ahead_s in [
            // from the start on, at a step, and for a moment
            &(|_| 4 * 365 * DAY_S) as &dyn Fn(u64) -> i64,
            &|second| if second > 100 { 4 * 365 * DAY_S } else { 0 },
            &|second| {
                if (3_500..3_700).contains(&second) {
                    4 * 365 * DAY_S
                } else {
                    0
                }
            },
        ] {
            let limits = retained(Some(at), at, 6, ahead_s);
            assert!(limits.len() >= 6, "{limits:?}");
            let furthest = limits.iter().max().unwrap();
            assert!(*furthest <= 12 * 3_600 && *furthest < years_s, "{limits:?}");
        }
        // a first start has no history to go by: nothing is removed before there is
        let limits = retained(None, at, 2, |second| if second < 10 { years_s } else { 0 });
        assert!(limits.iter().all(|limit| *limit <= 2 * 3_600), "{limits:?}");
    }

    #[test]
    fn history_ages_with_the_clock_and_after_a_long_stop_by_a_day_a_day() {
        let at = Wall::from_secs(1_795_000_000);
        let limits = retained(Some(at), at, 5, |_| 0);
        assert_eq!(limits.last(), Some(&(4 * 3_600)), "{limits:?}");
        let stopped = Wall(at.0 - 30 * DAY_S * 1_000_000);
        let limits = retained(Some(stopped), at, 5, |_| 0);
        assert_eq!(limits.last(), Some(&(8 * 3_600 - 30 * DAY_S)), "{limits:?}");
        // 1970 until it is corrected
        let limits = retained(
            Some(at),
            at,
            5,
            |second| if second < 4_000 { -at.secs() } else { 0 },
        );
        assert_eq!(limits.last(), Some(&(4 * 3_600)), "{limits:?}");
    }
}
