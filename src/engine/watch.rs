//! What time brings: once a second every open machine run and run is looked at, and what is due is done.
//! Must not know: how frames change them.

use log::Level;

use crate::clock::Mono;
use crate::engine::effect::{Effect, JobLogLine};
use crate::engine::id::ConnectionId;
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::machine_run::Overdue;
use crate::engine::record::{MachineStage, RunStage};
use crate::engine::{Engine, Turn};
use crate::limits;

/// No heartbeat for too long.
const LOST: i32 = 253;

impl Engine {
    /// The second has come.
    pub(super) fn tick(&mut self, turn: &mut Turn) {
        if !self.is_listening {
            return;
        }
        for id in self.due_machine_runs(turn.awake) {
            self.send_kill(turn, id);
            self.check(turn, id);
        }
        self.check_runs(turn);
        self.expire_controls(turn);
        if !self.is_shutting_down {
            self.look(turn);
        }
        self.forget_rested(turn);
        if turn.awake >= self.next_retention_ms {
            self.next_retention_ms = turn.awake + limits::RETENTION_INTERVAL_MS;
            let days = i64::from(self.config.settings.history_days);
            turn.effects.push(Effect::Retain {
                before: turn.now.wall.plus_ms(-days * 86_400_000),
            });
        }
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
        let Some(m) = self.machine_mut(id) else { return };
        if !m.is_open() {
            // given up for its silence, and not silent any more; of other presumptions a beat says nothing
            let is_back = m.record.presumed && m.record.retcode == Some(LOST) && awake_at > m.clocks.beat;
            if !is_back {
                return;
            }
            self.reopen(turn, id);
        }
        let Some(m) = self.machine_mut(id) else { return };
        m.refresh(awake_at);
        m.record.last_heartbeat = m.record.last_heartbeat.max(Some(wall));
        if is_debug && let Some(&(run, place)) = self.places.get(&id) {
            let run = &self.runs[&run];
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
        if let Some(m) = self.machine_mut(id)
            && m.connection == Some(connection)
        {
            m.clocks.dry = Some(dry);
            self.check(turn, id);
        }
    }

    /// Looks at one machine run's deadlines.
    fn check(&mut self, turn: &mut Turn, id: MachineRunId) {
        let Some(&(run_id, place)) = self.places.get(&id) else {
            return;
        };
        let Some(run) = self.runs.get_mut(&run_id) else {
            return;
        };
        let spec = run.record.spec.clone();
        let m = &mut run.machines[place];
        let env = m.record.env_delivery;
        let (retcode, presumed, text) = match m.overdue(&spec, turn.awake) {
            Overdue::Nothing => return,
            Overdue::Probe => {
                if let Some(connection) = m.connection
                    && m.clocks.probed.is_none()
                {
                    m.clocks.probed = Some(turn.awake);
                    turn.effects.push(Effect::Probe { connection });
                }
                return;
            }
            Overdue::Dispatch => {
                let text = format!(
                    "the executor did not report a launch within {} seconds",
                    limits::DISPATCH_TIMEOUT_MS / 1_000
                );
                (255, env, text)
            }
            Overdue::Connect => {
                let mut text = format!(
                    "the wrapper did not connect within {} seconds of its launch",
                    spec.start_timeout_ms / 1_000
                );
                if let Some(stranger) = &run.stranger {
                    text += &format!(": a wrapper connected as '{stranger}', which is no target of this run");
                }
                (254, env, text)
            }
            Overdue::Start => {
                let text = format!(
                    "the wrapper connected but did not start within {} seconds",
                    limits::CONNECT_TO_START_MS / 1_000
                );
                (254, true, text)
            }
            Overdue::Heartbeat { silent_s } => {
                let text =
                    format!("[SALTPETER ERROR: Job lost connection - no heartbeat for {silent_s} seconds]");
                (LOST, true, text)
            }
            Overdue::Timeout => {
                let text = format!(
                    "[SALTPETER ERROR: Job exceeded its timeout of {} seconds, and its wrapper did not report an end]",
                    spec.timeout_s
                );
                (124, true, text)
            }
            Overdue::Kill => {
                let text = format!(
                    "[SALTPETER ERROR: Job was killed, and its wrapper did not report an end within {} seconds]",
                    limits::KILL_GIVE_UP_MS / 1_000
                );
                (143, m.may_have_started(), text)
            }
        };
        let (instance, machine) = (&run.record.instance, &m.record.machine);
        turn.say(
            Level::Warn,
            format!("{instance} on {machine} ends with {retcode}: {text}"),
        );
        self.end_machine(turn, id, retcode, presumed, Some(&text), Vec::new());
    }

    /// Runs whose machines are not known yet end too, whatever the executor does.
    fn check_runs(&mut self, turn: &mut Turn) {
        let mut overdue: Vec<(RunId, &'static str)> = Vec::new();
        for state in self.jobs.values() {
            for id in &state.open {
                let Some(run) = self
                    .runs
                    .get(id)
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
        for (id, note) in overdue {
            let Some(run) = self.runs.get_mut(&id) else {
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

    /// Runs that ended a while ago leave memory; storage has them. While storage cannot write it may have refused their
    /// ends, and memory is the only place that holds them. What stays is bounded: nothing new starts meanwhile.
    fn forget_rested(&mut self, turn: &mut Turn) {
        if self.storage_trouble.is_some() {
            return;
        }
        let is_old = |since: u64| turn.awake >= since.saturating_add(limits::ENDED_RUN_KEPT_MS);
        let old: Vec<RunId> = self
            .runs
            .values()
            .filter(|run| !run.is_open() && is_old(run.rests_since))
            .filter(|run| {
                run.machines
                    .iter()
                    .all(|m| m.connection.is_none() && m.record.stage == MachineStage::Ended)
            })
            .map(|run| run.record.id)
            .collect();
        for id in old {
            self.forget_run(id);
        }
    }
}
