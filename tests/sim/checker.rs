//! The judge: what the five promises say about everything that the world sees. Written from rules.md and
//! rules.md, never from the engine's code. dues.rs judges due times and verdicts, settle.rs the end.
//! Must not know: the engine's insides.

use std::collections::{BTreeMap, BTreeSet};

use saltpeter::engine::effect::{Answer, Dispatch, Done, Effect, Fact, StorageOrder, Write};
use saltpeter::engine::event::{Arrival, Arrived, Ask, Event};
use saltpeter::engine::id::{ConnectionId, RequestId};
use saltpeter::engine::id::{MachineRunId, RunId};
use saltpeter::engine::record::{Handover, MachineRecord, MachineStage, RunRecord, RunStage};
use saltpeter::protocol::{DaemonFrame, ErrorCode, WrapperBody, WrapperFrame};

use crate::daemon::Seen;
use crate::dues::Dues;
use crate::network::Owner;
use crate::setup::Kind;
use crate::storage::Full;
use crate::world::World;

/// Stalls shorter than this are nobody's business (rules.md 3).
const STALL_MS: u64 = 2_000;

/// What the daemon got to hear of a machine run, in milliseconds of its being awake.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub dispatched: Option<i64>,
    pub launched: Option<i64>,
    pub connected: Option<i64>,
    /// The answer to its first connect left.
    pub answered: Option<i64>,
    pub started: Option<i64>,
    /// The last beat, start (and connect of ours): at the latest; and as late as the daemon may take it for.
    sign_low: Option<i64>,
    sign_high: Option<i64>,
    sign_ms: u64,
    /// The one before.
    sign_before: Option<i64>,
    pub last_output: Option<i64>,
    pub kill_asked: Option<i64>,
    pub complete_read: bool,
    pub reopened: bool,
    reopened_at: i64,
    pub stalls: i64,
}

/// Somebody asked for a kill of a run that had not ended.
#[derive(Debug)]
pub struct KillAsked {
    request: u64,
    instance: String,
    machine: Option<String>,
    is_confirmed: bool,
}

/// Everything that the judge remembers.
#[derive(Default)]
pub struct Checker {
    pub seen: Seen,
    pub keep_all: bool,
    pub views: BTreeMap<MachineRunId, View>,
    /// As the engine last said it, stored or not.
    pub machines: BTreeMap<MachineRunId, MachineRecord>,
    pub runs: BTreeMap<RunId, RunRecord>,
    pub resolved: BTreeMap<RunId, (Vec<String>, Vec<String>)>,
    pub executor_errors: BTreeSet<RunId>,
    pub launch_failures: BTreeMap<MachineRunId, i32>,
    starts: BTreeMap<MachineRunId, u32>,
    asleep_ms: i64,
    gone_at_ms: Option<u64>,
    listening_at: i64,
    stall_count: i64,
    pub disk_trouble_until: u64,
    pub global_maintenance: bool,
    pub dues: Dues,
    pub errors_read: BTreeSet<MachineRunId>,
    pub python_waits: u64,
    kills: Vec<KillAsked>,
    pub kill_frames: u64,
    /// Output of a connection may be handled after its end was: what is said to it then reaches nobody.
    late_output_of: Option<ConnectionId>,
    largest_turn: usize,
}

impl Checker {
    pub fn limit_of(&self, id: MachineRunId) -> u64 {
        self.machines
            .get(&id)
            .and_then(|m| self.runs.get(&m.run))
            .map_or(0, |r| r.spec.output_limit_bytes)
    }
}

impl World {
    /// Milliseconds of virtual time in which the daemon was alive, listening and not stalled.
    pub fn awake(&self) -> i64 {
        let now = self.now_ms as i64;
        let in_stall = match &self.daemon {
            Some(daemon) if daemon.stalled => now - daemon.stall_began_ms as i64,
            _ => 0,
        };
        let gone = self.checker.gone_at_ms.map_or(0, |gone| now - gone as i64);
        now - self.checker.asleep_ms - gone - if in_stall > STALL_MS as i64 { in_stall } else { 0 }
    }

    pub fn checker_daemon_started(&mut self) {
        self.checker.global_maintenance = self.config.maintenance.global;
        self.dues_daemon_started();
    }

    pub fn checker_daemon_gone(&mut self) {
        self.checker.gone_at_ms = Some(self.now_ms);
        self.checker.machines = self.storage.machines.clone();
        self.checker.runs = self.storage.runs.clone();
        let machines = &self.storage.machines;
        self.checker.views.retain(|id, _| machines.contains_key(id));
        for (id, view) in &mut self.checker.views {
            view.complete_read = false;
            // a kill that was not stored is forgotten; nobody had it confirmed
            let stored = &machines[id];
            let run_killed = self
                .storage
                .runs
                .get(&stored.run)
                .is_some_and(|r| r.kill_asked.is_some());
            if stored.kill_asked.is_none() && !run_killed {
                view.kill_asked = None;
            }
        }
        for wrapper in 0..self.wrappers.len() {
            self.place_wrapper(wrapper);
        }
        self.dues_daemon_gone();
    }

    pub fn checker_listening(&mut self) {
        if let Some(gone) = self.checker.gone_at_ms.take() {
            self.checker.asleep_ms += (self.now_ms - gone) as i64;
        }
        let awake = self.awake();
        self.checker.listening_at = awake;
        for view in self.checker.views.values_mut() {
            // every open machine run gets a full 15 s
            view.sign_low = view.sign_low.map(|_| awake);
            view.sign_high = view.sign_high.map(|_| awake);
        }
    }

    pub fn checker_stall_over(&mut self, ms: u64) {
        if ms <= STALL_MS {
            return;
        }
        self.checker.asleep_ms += ms as i64;
        self.checker.stall_count += 1;
        let (awake, now) = (self.awake(), self.now_ms);
        for view in self.checker.views.values_mut() {
            view.stalls += 1;
            if view.sign_ms + ms > now {
                view.sign_low = view.sign_low.map(|_| awake - (now - view.sign_ms) as i64);
                view.sign_high = view.sign_high.map(|_| awake);
            }
        }
    }

    pub fn checker_disk(&mut self) {
        self.checker.disk_trouble_until = match self.storage.full {
            Full::Room => self.now_ms,
            _ => u64::MAX,
        };
    }

    /// Numbers of machine runs that were never stored are given again: finds the one that a wrapper belongs to.
    pub fn place_wrapper(&mut self, wrapper: usize) {
        let key = &self.wrappers[wrapper].key;
        let run = self.storage.names.get(&key.instance).copied();
        let found = run.and_then(|run| {
            let mut machines = self.storage.machines_of(run);
            machines.find(|m| m.machine == key.machine).map(|m| m.id)
        });
        self.wrappers[wrapper].machine_run = found.unwrap_or(MachineRunId(u64::MAX - wrapper as u64));
    }

    /// Wrappers of an earlier life of the daemon, in which nothing of this machine run was stored, are its own now.
    fn place_survivors(&mut self, machine: &MachineRecord) {
        let Some(run) = self.checker.runs.get(&machine.run) else {
            return;
        };
        let known = &self.checker.machines;
        let ours = self.wrappers.iter_mut().filter(|w| {
            w.key.machine == machine.machine
                && w.key.instance == run.instance
                && !known.contains_key(&w.machine_run)
        });
        for wrapper in ours {
            wrapper.machine_run = machine.id;
        }
    }

    /// The wrapper that this machine run belongs to: not one that was refused.
    fn is_entitled(&self, wrapper: usize) -> bool {
        let w = &self.wrappers[wrapper];
        if w.kind != Kind::OursJob {
            return true;
        }
        let known = |m: Option<&MachineRecord>| m.and_then(|m| m.wrapper_id.clone());
        let id = known(self.checker.machines.get(&w.machine_run));
        id.is_none_or(|id| id == w.wrapper_id)
    }

    /// A connection thread has read a frame.
    pub fn checker_frame_read(&mut self, conn: u64, frame: &WrapperFrame) {
        let Some(Owner::Wrapper(wrapper)) = self.conns.get(&conn).map(|c| c.owner) else {
            return;
        };
        if !self.is_entitled(wrapper) {
            return;
        }
        let (awake, now_ms) = (self.awake(), self.now_ms);
        let python = self.wrappers[wrapper].kind == Kind::Python;
        let view = self
            .checker
            .views
            .entry(self.wrappers[wrapper].machine_run)
            .or_default();
        let sign = match &frame.body {
            WrapperBody::Connect { .. } => {
                view.connected = Some(awake);
                !python
            }
            WrapperBody::Start { .. } => {
                view.started.get_or_insert(awake);
                true
            }
            WrapperBody::Heartbeat => true,
            WrapperBody::Output(_) => {
                view.last_output = Some(awake);
                false
            }
            WrapperBody::Complete { .. } => {
                view.complete_read = true;
                false
            }
            _ => false,
        };
        if sign {
            view.sign_before = view.sign_low;
            view.sign_low = Some(awake);
            view.sign_high = Some(awake);
            view.sign_ms = now_ms;
            view.stalls = 0;
        }
    }

    pub fn checker_before_turn(&mut self, event: &Event) {
        self.checker.late_output_of = None;
        match event {
            Event::Wrapper(Arrival {
                connection,
                what: Arrived::Output(_),
                ..
            }) => self.checker.late_output_of = Some(*connection),
            Event::Launched { machine_run } => {
                let awake = self.awake();
                let view = self.checker.views.entry(*machine_run).or_default();
                view.launched.get_or_insert(awake);
            }
            Event::Request { request, ask, .. } => self.kill_handled(request.0, ask),
            Event::Config(config) => {
                self.checker.global_maintenance = config.maintenance.global;
                self.dues_config();
            }
            _ => {}
        }
    }

    pub fn checker_after_turn(&mut self, is_tick: bool, effects: &[Effect]) {
        let bound = 600 + 30 * self.checker.machines.len() + 260 * self.jobs.len();
        if effects.len() > bound {
            self.fail("growth", format!("{} effects in one turn", effects.len()));
        }
        self.checker.largest_turn = self.checker.largest_turn.max(effects.len());
        for effect in effects {
            if let Effect::Store(StorageOrder::Commit(write)) = effect {
                for fact in &write.facts {
                    self.fact_said(fact);
                }
            }
        }
        if is_tick {
            self.dues_look();
            self.overdue();
        }
    }

    /// The engine has decided something.
    fn fact_said(&mut self, fact: &Fact) {
        match fact {
            Fact::Start(run) => {
                if self.checker.global_maintenance {
                    self.fail("P3", format!("{} starts in global maintenance", run.instance));
                }
                let other = self
                    .checker
                    .runs
                    .values()
                    .find(|r| r.job == run.job && r.stage != RunStage::Ended && r.id != run.id)
                    .map(|r| r.instance.clone());
                if let Some(other) = other
                    && !run.spec.allow_overlap
                {
                    self.fail("overlap", format!("{} starts while {other} runs", run.instance));
                }
                self.checker.runs.insert(run.id, (**run).clone());
            }
            Fact::Run(run) => {
                self.checker.runs.insert(run.id, (**run).clone());
            }
            Fact::Machine(machine) => self.machine_said(machine),
            Fact::Verdict(verdict) => self.dues_verdict_said(verdict),
            _ => {}
        }
    }

    fn machine_said(&mut self, machine: &MachineRecord) {
        let awake = self.awake();
        self.place_survivors(machine);
        let before = self.checker.machines.insert(machine.id, machine.clone());
        let was_ended = before.as_ref().is_some_and(|m| m.stage == MachineStage::Ended);
        let is_ended = machine.stage == MachineStage::Ended;
        let view = self.checker.views.entry(machine.id).or_default();
        if machine.kill_asked.is_some() {
            view.kill_asked.get_or_insert(awake);
        }
        if machine.stage == MachineStage::Dispatched {
            view.dispatched.get_or_insert(awake);
        }
        if was_ended && !is_ended {
            view.reopened = true;
            view.reopened_at = awake;
            view.sign_low = Some(awake);
            view.sign_high = Some(awake);
            view.kill_asked = view.kill_asked.map(|_| awake);
        }
        let changed = before.is_none_or(|b| b.retcode != machine.retcode);
        if is_ended
            && (!was_ended || changed)
            && let Err(why) = self.explain(machine)
        {
            let promise = if machine.retcode == Some(253) { "P5" } else { "P2" };
            self.fail(
                promise,
                format!(
                    "{} ends with {:?}: {why}; {:?}",
                    machine.machine,
                    machine.retcode,
                    self.checker.views.get(&machine.id)
                ),
            );
        }
        // what a crash has forgotten of ends may count for a while, but starts nothing
        if machine.stage == MachineStage::Dispatched {
            self.batch_said(machine.run);
        }
    }

    fn batch_said(&mut self, run: RunId) {
        let size = self.checker.runs.get(&run).map_or(0, |r| r.spec.batch_size);
        if size == 0 {
            return;
        }
        let views = &self.checker.views;
        let busy = self
            .checker
            .machines
            .values()
            .filter(|m| m.run == run && !matches!(m.stage, MachineStage::Waiting | MachineStage::Ended))
            .filter(|m| !views.get(&m.id).is_some_and(|v| v.reopened))
            .count();
        if busy > size {
            self.fail("batch", format!("{busy} machines at a time, batch_size {size}"));
        }
    }

    /// What some wrapper of this machine run reported, as the product's codes.
    pub fn reported(&self, id: MachineRunId) -> BTreeSet<i64> {
        let mut codes = BTreeSet::new();
        for w in self.wrappers.iter().filter(|w| w.machine_run == id) {
            let Some(code) = w.complete else { continue };
            if code >= 0 {
                codes.insert(code);
                continue;
            }
            codes.insert(128 - code);
            if self
                .checker
                .views
                .get(&id)
                .is_some_and(|v| v.kill_asked.is_some())
            {
                codes.insert(143);
            }
            let up_ms = w.command.map_or(0, |c| self.now_ms - c.started_ms);
            // a Python wrapper counts its time from before it connects, and begins with SIGTERM
            let slack_ms = if code == -15 { 2_000 } else { 0 };
            if w.timeout_s > 0 && up_ms + slack_ms >= w.timeout_s * 1_000 {
                codes.insert(124);
            }
        }
        codes
    }

    /// Is there a reason, by the book, for this outcome at this moment?
    fn explain(&self, machine: &MachineRecord) -> Result<(), String> {
        let code = machine.retcode.ok_or("without a code")?;
        if self.reported(machine.id).contains(&i64::from(code)) {
            return Ok(());
        }
        let nothing = View::default();
        let view = self.checker.views.get(&machine.id).unwrap_or(&nothing);
        let awake = self.awake();
        let slack = 100 + 2_100 * self.checker.stall_count.min(4) + if self.life > 1 { 1_500 } else { 0 };
        let since = |moment: Option<i64>| moment.map(|m| awake - m + slack);
        let for_s = |moment: Option<i64>, s: i64| since(moment).is_some_and(|ms| ms >= s * 1_000);
        let run = self.checker.runs.get(&machine.run).ok_or("of no run")?;
        let failure = self.checker.launch_failures.get(&machine.id);
        match code {
            0 if machine.dispatched.is_none() => Ok(()),
            143 if self.kill_of(&run.instance, &machine.machine, false).is_none() => {
                Err("nobody asked for a kill".into())
            }
            143 if view.started.is_none() || machine.started.is_none() => Ok(()),
            143 if for_s(view.kill_asked, 30) => Ok(()),
            143 => Err("killed, but neither reported nor 30 s passed".into()),
            124 if run.spec.timeout_s == 0 => Err("no timeout was set".into()),
            124 if for_s(view.started, run.spec.timeout_s as i64 + 30) => Ok(()),
            124 => Err("its time plus 30 s is not over".into()),
            253 if for_s(view.sign_low, 15) => Ok(()),
            // read behind the question whether there was one, and on its way to the engine
            253 if self.now_ms < view.sign_ms + 100 && for_s(view.sign_before, 15) => Ok(()),
            253 => Err("the last sign of life is not 15 s old".into()),
            _ if failure == Some(&code) => Ok(()),
            254 if machine.dispatched.is_none() => self.may_be_given_up(run, machine),
            254 if view.started.is_some() && machine.started.is_some() => Err("but it was started".into()),
            254 if for_s(view.answered, 15) => Ok(()),
            254 if view.answered.is_some() => Err("its connect was answered less than 15 s ago".into()),
            254 if view.connected > Some(self.checker.listening_at) && self.storage.full == Full::ForAll => {
                Err("its connect was never answered, and that is the daemon's own trouble".into())
            }
            254 if for_s(view.launched, 30) => Ok(()),
            // a word of the launch may have been lost with the daemon before
            254 if view.launched.is_none() && self.life > 1 && for_s(Some(self.checker.listening_at), 30) => {
                Ok(())
            }
            254 => Err("30 s since the launch are not over".into()),
            255 if self.checker.errors_read.contains(&machine.id) => Ok(()),
            255 if view.launched < view.dispatched && for_s(view.dispatched, 60) => Ok(()),
            255 if self.checker.disk_trouble_until == u64::MAX => Ok(()),
            255 if machine.dispatched.is_none() => self.may_be_down(machine),
            _ => Err("nobody reported that".into()),
        }
    }

    fn kill_of(&self, instance: &str, machine: &str, confirmed: bool) -> Option<&KillAsked> {
        self.checker.kills.iter().find(|k| {
            k.instance == instance
                && k.machine.as_ref().is_none_or(|m| m == machine)
                && (k.is_confirmed || !confirmed)
        })
    }

    fn may_be_given_up(&self, run: &RunRecord, machine: &MachineRecord) -> Result<(), String> {
        let failed = self.failures(run.id, machine.id);
        match run.spec.max_failures {
            Some(most) if failed > most || self.checker.disk_trouble_until != 0 => Ok(()),
            _ => Err(format!("only {failed} others have failed")),
        }
    }

    /// Machines of the run that failed, as the engine has said last, without those that were given up for them.
    fn failures(&self, run: RunId, except: MachineRunId) -> usize {
        let said = self
            .checker
            .machines
            .values()
            .filter(|m| m.run == run && m.id != except);
        let is_given_up = |m: &MachineRecord| m.retcode == Some(254) && m.dispatched.is_none();
        let failed =
            said.filter(|m| m.retcode.is_some_and(|code| code != 0) && !m.not_counted && !is_given_up(m));
        failed.count()
    }

    fn may_be_down(&self, machine: &MachineRecord) -> Result<(), String> {
        let resolved = self.checker.resolved.get(&machine.run);
        let down = resolved.is_some_and(|(_, down)| down.contains(&machine.machine));
        if down || self.checker.executor_errors.contains(&machine.run) {
            Ok(())
        } else {
            Err("it is up".into())
        }
    }

    /// Looks for machine runs that should have ended by now.
    fn overdue(&mut self) {
        if self.daemon.as_ref().is_none_or(|d| !d.listening) {
            return;
        }
        let awake = self.awake();
        let mut late = None;
        for machine in self.checker.machines.values() {
            if machine.stage == MachineStage::Ended || machine.stage == MachineStage::Waiting {
                continue;
            }
            let Some(view) = self.checker.views.get(&machine.id) else {
                continue;
            };
            let Some(run) = self.checker.runs.get(&machine.run) else {
                continue;
            };
            let slack = 1_500 + 1_500 * self.checker.stall_count.min(2);
            // after a restart, and when it was reopened, its windows may run anew
            let base = self.checker.listening_at.max(view.reopened_at);
            let since = |moment: Option<i64>| moment.map_or(0, |m| awake - m.max(base));
            let over = |moment: Option<i64>, ms: i64| since(moment) > ms + slack;
            let drained = |moment: Option<i64>| moment.map(|m| m.max(view.last_output.unwrap_or(m)));
            let timeout_ms = run.spec.timeout_s as i64 * 1_000;
            let why = if view.complete_read {
                continue;
            } else if machine.started.is_some() && over(view.sign_high, 17_000 + view.stalls * 1_500) {
                "P1: no sign of life for more than 17 s, and not 253"
            } else if over(view.kill_asked, 31_000) && over(drained(view.kill_asked), 31_000) {
                "P1: a kill was asked for more than 30 s ago"
            } else if timeout_ms > 0
                && over(view.started, timeout_ms + 31_000)
                && over(drained(view.started), 61_000)
                && machine.started.is_some()
            {
                "P1: its timeout is over for more than 30 s"
            } else if machine.stage == MachineStage::Dispatched
                && over(view.dispatched, 62_000)
                && self.executor.dispatched.contains_key(&(machine.run, machine.id))
            {
                "P1: no word of its launch for more than 60 s"
            } else if machine.stage == MachineStage::Launched && over(view.launched, 32_000) {
                "P1: launched more than 30 s ago, and no wrapper"
            } else {
                continue;
            };
            late = Some(format!("{why}: {machine:?} {view:?} awake {awake} base {base}"));
            break;
        }
        if let Some(text) = late {
            self.fail("P1", text);
        }
    }

    // -- what leaves the daemon

    /// A frame for a connection leaves the daemon.
    pub fn checker_frame_out(&mut self, connection: ConnectionId, frame: &DaemonFrame, after_commit: bool) {
        // an answer to what came before the end of its connection reaches nobody, and harms nobody
        if !after_commit && matches!(frame, DaemonFrame::Kill { .. }) {
            self.checker.kill_frames += 1;
            self.checker_addressed(connection, "Send");
        }
        let Some(conn) = self.conns.get(&connection.0) else {
            return;
        };
        let wrapper = match conn.owner {
            Owner::Wrapper(wrapper) => wrapper,
            Owner::Intruder(kind) => {
                if let DaemonFrame::ConnectAck(ack) = frame
                    && ack.job.is_some()
                {
                    self.fail("P4", format!("a job order for an intruder of kind {kind}"));
                }
                return;
            }
        };
        let awake = self.awake();
        let w = &self.wrappers[wrapper];
        let id = w.machine_run;
        if matches!(frame, DaemonFrame::ConnectAck(_)) {
            let view = self.checker.views.entry(id).or_default();
            view.answered.get_or_insert(awake);
        }
        let stored = self.storage.machines.get(&id);
        match frame {
            DaemonFrame::ConnectAck(ack) if ack.job.is_some() => {
                let permitted = stored.is_some_and(|m| {
                    m.wrapper_id.as_deref() == Some(&w.wrapper_id)
                        && !matches!(
                            m.stage,
                            MachineStage::Waiting | MachineStage::Dispatched | MachineStage::Launched
                        )
                });
                let ended = stored.is_some_and(|m| m.stage == MachineStage::Ended);
                // one whose permission was under way is told of the kill right behind it
                if stored.is_none_or(|m| m.kill_asked.is_none())
                    && let Some(kill) = self.kill_of(&w.key.instance, &w.key.machine, true)
                {
                    let text = format!("w{wrapper} is given the permission after {kill:?}");
                    self.fail("kill", text);
                    return;
                }
                if !permitted || ended {
                    let text = format!("w{wrapper} is given the permission, stored is {stored:?}");
                    self.fail("P3", text);
                }
            }
            DaemonFrame::OutputAck { seq } if stored.is_some() => {
                let covered = self.storage.covered(id);
                let gone = stored.is_some_and(|m| m.stage == MachineStage::Ended && !m.presumed);
                if covered < *seq as i64 && !gone {
                    self.fail(
                        "P2",
                        format!("seq {seq} of w{wrapper} is acked, stored is up to {covered}"),
                    );
                }
            }
            DaemonFrame::CompleteAck { .. } => {
                let code = stored.and_then(|m| m.retcode).map(i64::from);
                let reported = self.reported(id);
                if !code.is_some_and(|c| reported.contains(&c)) {
                    let text = format!("the end of w{wrapper} ({reported:?}) is acked, stored is {code:?}");
                    self.fail("P2", text);
                }
            }
            _ => {}
        }
    }

    pub fn checker_addressed(&mut self, connection: ConnectionId, what: &str) {
        // a close is taken up when the output before it is
        let has_output = self
            .daemon
            .as_ref()
            .is_some_and(|daemon| daemon.has_output_of(connection));
        let is_late = has_output || self.checker.late_output_of == Some(connection);
        if what != "Close" && !self.is_live(connection) && !is_late {
            self.fail("live", format!("{what} for {connection:?}, which is closed"));
        }
    }

    pub fn checker_commit(&mut self, write: &Write) {
        for row in &write.output {
            if row.data.bytes().windows(8).any(|w| w == b"INTRUDER") {
                self.fail("P4", "an intruder's output is stored".into());
            }
        }
        for fact in &write.facts {
            if let Fact::Machine(machine) = fact
                && (machine.retcode == Some(77)
                    || machine.pid == Some(666)
                    || machine.wrapper_id.as_deref() == Some("intruder"))
            {
                self.fail("P4", format!("an intruder's word is stored: {machine:?}"));
            }
        }
        self.dues_commit(write);
    }

    /// Storage refused a start: that run never was.
    pub fn checker_refused(&mut self, write: &Write) {
        for fact in &write.facts {
            if let Fact::Start(run) = fact {
                self.checker.runs.remove(&run.id);
            }
        }
    }

    pub fn checker_resolve(&mut self, run: RunId) {
        if !self.storage.runs.contains_key(&run) {
            self.fail("P3", format!("{run:?} is resolved before it is stored"));
        }
    }

    pub fn checker_dispatch(&mut self, dispatch: &Dispatch) {
        let awake = self.awake();
        if !self.storage.runs.contains_key(&dispatch.run) {
            self.fail(
                "P3",
                format!("{} is dispatched before it is stored", dispatch.instance),
            );
        }
        for (id, machine) in &dispatch.machines {
            let stage = self.storage.machines.get(id).map(|m| m.stage);
            // where the permission decides, a dispatch that a crash forgets starts nothing
            let is_stored = matches!(stage, Some(MachineStage::Dispatched | MachineStage::Launched));
            if dispatch.handover == Handover::InDispatch && !is_stored {
                self.fail(
                    "P3",
                    format!("{machine} is dispatched, stored stage is {stage:?}"),
                );
            }
            let times = self
                .executor
                .dispatched
                .get(&(dispatch.run, *id))
                .copied()
                .unwrap_or(0);
            if dispatch.handover == Handover::InDispatch && times > 0 {
                self.fail("P3", format!("a second dispatch with command to {machine}"));
            }
            let view = self.checker.views.entry(*id).or_default();
            view.dispatched = Some(awake);
            let maintenance = self.config.maintenance.machines.contains(machine);
            if maintenance && self.checker.keep_all {
                self.fail("maintenance", format!("{machine} is in maintenance"));
            }
        }
        if let Some(most) = dispatch.spec.max_failures
            && dispatch.handover == Handover::OverSocket
            && !dispatch.again
            && let failed = self.failures(dispatch.run, MachineRunId(0))
            && failed > most
        {
            let text = format!("{} goes on after {failed} failures", dispatch.instance);
            self.fail("max_failures", text);
        }
        let wanted = dispatch.spec.number_of_targets;
        let ever = self
            .storage
            .machines_of(dispatch.run)
            .filter(|m| m.dispatched.is_some())
            .count();
        if wanted > 0 && ever > wanted {
            self.fail(
                "number_of_targets",
                format!("{ever} machines were dispatched, {wanted} are wanted"),
            );
        }
    }

    pub fn checker_command_started(&mut self, wrapper: usize) {
        let w = &self.wrappers[wrapper];
        let (id, key) = (w.machine_run, w.key.clone());
        let times = self.checker.starts.entry(id).or_default();
        *times += 1;
        if *times > 1 {
            self.fail("P3", format!("the command of {key:?} starts a second time"));
        }
        if !self.storage.machines.contains_key(&id) {
            self.fail(
                "P3",
                format!("the command of {key:?} starts, and nothing of it is stored"),
            );
        }
    }

    /// The daemon told a wrapper with a started command that it does not know it.
    pub fn checker_disowned(&mut self, wrapper: usize, code: ErrorCode) {
        let w = &self.wrappers[wrapper];
        let stored = self.storage.machines.get(&w.machine_run).cloned();
        if let Some(machine) = stored
            && w.started()
            && (machine.presumed || machine.stage != MachineStage::Ended)
            && self.is_entitled(wrapper)
        {
            self.fail(
                "P2",
                format!("w{wrapper} with a running command is told {code:?}; stored: {machine:?}"),
            );
        }
    }

    pub fn checker_python_waited(&mut self, _wrapper: usize) {
        self.checker.python_waits += 1;
    }

    pub fn checker_python_dropped(&mut self, wrapper: usize) {
        let w = &self.wrappers[wrapper];
        let stored = self.storage.machines.get(&w.machine_run).cloned();
        if let Some(machine) = stored
            && (machine.presumed || machine.stage != MachineStage::Ended)
        {
            self.fail(
                "P2",
                format!("w{wrapper} was told -1 and dropped its output; stored: {machine:?}"),
            );
        }
    }

    // -- people

    pub fn checker_asked(&mut self, request: u64, ask: &Ask) {
        let life = u64::from(self.life);
        self.checker.seen.asked.insert(request, (ask.clone(), life));
    }

    fn kill_handled(&mut self, request: u64, ask: &Ask) {
        if let Ask::Kill {
            job,
            machine,
            instance,
        } = ask
        {
            let open = self
                .checker
                .runs
                .values()
                .filter(|r| r.job == *job && r.stage != RunStage::Ended);
            let wanted = open.filter(|r| instance.as_ref().is_none_or(|i| r.instance == *i));
            let kills: Vec<KillAsked> = wanted
                .map(|r| KillAsked {
                    request,
                    instance: r.instance.clone(),
                    machine: machine.clone(),
                    is_confirmed: false,
                })
                .collect();
            self.checker.kills.extend(kills);
        }
    }

    pub fn checker_answer(&mut self, request: RequestId, answer: Answer) {
        if matches!(answer, Ok(Done::KillSent { .. })) {
            for kill in self.checker.kills.iter_mut().filter(|k| k.request == request.0) {
                kill.is_confirmed = true;
            }
        }
        if self.checker.seen.answers.insert(request.0, answer).is_some() {
            self.fail("answers", format!("{request:?} is answered twice"));
        }
    }
}
