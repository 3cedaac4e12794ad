//! The Salt executor: finds out by a ping which minions are up, and has Salt start the wrapper on them. Keeps one
//! helper process alive; what was asked of a helper that is lost is asked again, under the same Salt job ids.
//! Must not know: runs, what a wrapper does once launched.

mod plain;
mod process;
mod protocol;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use serde_json::{Value, json};

use super::link::Entrance;
use super::local::host_name;
use super::{CurrentSettings, Order, launch};
use crate::clock::{self, Mono};
use crate::config::{JobSpec, Settings, TARGET_TYPES, Targets};
use crate::engine::effect::Dispatch;
use crate::engine::event::Event;
use crate::engine::record::{MachineRunId, RunId};
use crate::limits;
use crate::wake::Waker;
use plain::{Plain, Question};
use process::Process;
use protocol::{Jids, Launch, Request, Said};

/// A machine run whose wrapper could not be started.
const NOT_STARTED: i32 = 254;
/// A machine run whose machine did not answer.
const NO_ANSWER: i32 = 255;
const NO_RESPONSE: &str = "Target did not respond";

/// Before the wrapper's path. The command is a template, the only thing that Salt renders on the minion. One dispatch
/// serves all minions, and each wrapper must know which it is on: `env` sets that whatever the minion's shell is. And
/// a wrapper must outlive the minion's service where systemd kills all of its control group (salt.md 5): then it gets
/// a scope of its own, as Salt does it for package managers, with the same setting to forbid it.
const WRAPPER_PREFIX: &str = "{% if 'file.read' in salt and salt['file.file_exists']('/proc/self/cgroup') \
    and 'salt-minion.service' in salt['file.read']('/proc/self/cgroup') \
    and salt['config.get']('systemd.scope', True) and salt['cmd.which']('systemd-run') \
    %}systemd-run --scope --quiet {% endif %}env SP_MACHINE_ID='{{ grains['id'] }}' ";

/// The executor's thread.
pub struct Salt {
    entrance: Entrance,
    settings: CurrentSettings,
    events: Sender<Event>,
    orders: Receiver<Order>,
    bell: Arc<Waker>,
    helper: Helper,
    /// Counts helpers.
    generation: u64,
    backoff_ms: u64,
    /// Why nothing can be started: no Python that has Salt.
    no_salt: Option<String>,
    /// As shown last.
    trouble: Option<String>,
    is_bus_down: Option<String>,
    /// By request id.
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
    jids: Jids,
}

/// The helper process.
enum Helper {
    /// None runs; the next is started at that moment.
    Down { retry_at: Mono },
    /// Started, has not said hello.
    Starting {
        process: Process,
        python: PathBuf,
        since: Mono,
        /// Pythons not tried yet, and what became of those that were.
        others: Vec<PathBuf>,
        failed: Vec<String>,
    },
    Up {
        process: Process,
        asked: Mono,
        /// Signs of life asked for since its last word.
        unanswered: u32,
    },
}

/// Something that Salt was asked, or will be.
struct Pending {
    jid: String,
    /// It was handed to a helper: it may have been published.
    was_sent: bool,
    /// None: it is with the helper now.
    send_at: Option<Mono>,
    /// When it was handed to the helper last.
    sent: Mono,
    /// Ends without Salt's answer then.
    deadline: Mono,
    /// Why it was not published so far.
    last_error: Option<String>,
    what: What,
}

enum What {
    Ping(Ping),
    Launch(Launching),
    /// A command without a wrapper, on some minions.
    Plain(Plain),
    /// What has become of such a command, or its end.
    Question(Question),
}

/// Which of the matching minions are up?
struct Ping {
    /// Runs that wait for the answer: those due together share it.
    runs: Vec<RunId>,
    tgt: Value,
    tgt_type: String,
    published: Option<Mono>,
    /// Not known to Salt: down.
    unknown: Vec<String>,
    told: Vec<String>,
    seen: HashSet<String>,
    /// Up, not told yet: told together, so that they are started together.
    fresh: Vec<String>,
    fresh_since: Mono,
    last_return: Mono,
    /// The master was away: minions find back to it one by one, and miss what is published meanwhile.
    master_was_away: bool,
    /// Up to then they are pinged again.
    patience: Mono,
}

/// The wrapper's start on some minions.
struct Launching {
    dispatch: Dispatch,
    kwarg: BTreeMap<&'static str, Value>,
    /// Those that have not answered.
    open: HashMap<String, MachineRunId>,
}

impl Salt {
    /// `entrance`: where wrappers connect to. `bell` rings when there are orders, or they end.
    pub fn new(
        entrance: Entrance,
        settings: CurrentSettings,
        events: Sender<Event>,
        orders: Receiver<Order>,
        bell: Arc<Waker>,
    ) -> Salt {
        Salt {
            entrance,
            settings,
            events,
            orders,
            bell,
            helper: Helper::Down { retry_at: Mono(0) },
            generation: 0,
            backoff_ms: limits::HELPER_BACKOFF_MIN_MS,
            no_salt: None,
            trouble: None,
            is_bus_down: None,
            pending: BTreeMap::new(),
            next_id: 1,
            jids: Jids::default(),
        }
    }

    /// Serves until the orders end.
    pub fn run(mut self) {
        let mut last_turn = clock::mono();
        loop {
            let now = clock::mono();
            self.forgive(now.since_ms(last_turn).saturating_sub(self.pause_ms()));
            last_turn = now;
            if !self.take_orders() {
                // the daemon ends; what Salt was asked goes on
                return;
            }
            self.supervise(clock::mono());
            self.listen();
            let now = clock::mono();
            self.look_at_times(now);
            self.send(now);
            if let Err(error) = process::wait(&self.bell, self.process(), self.pause_ms()) {
                log::error!("waiting for the salt helper: {error}");
                return;
            }
        }
    }

    /// The daemon was stalled: nobody's time has run (fine-print.md 3).
    fn forgive(&mut self, stalled_ms: u64) {
        if stalled_ms <= limits::STALL_MS {
            return;
        }
        for pending in self.pending.values_mut() {
            pending.deadline = pending.deadline.plus_ms(stalled_ms);
            if let What::Plain(plain) = &mut pending.what {
                plain.forgive(stalled_ms);
            }
        }
    }

    fn take_orders(&mut self) -> bool {
        while self.pending.len() < limits::SALT_REQUESTS {
            match self.orders.try_recv() {
                Ok(Order::Resolve { run, spec }) => self.resolve(run, &spec),
                Ok(Order::Dispatch(dispatch)) => self.dispatch(*dispatch),
                Ok(Order::Terminate { machine_run }) => self.terminate(machine_run),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn process(&self) -> Option<&Process> {
        match &self.helper {
            Helper::Down { .. } => None,
            Helper::Starting { process, .. } | Helper::Up { process, .. } => Some(process),
        }
    }

    /// Without anything to wait for it sleeps long; windows are looked at in quarters of a second.
    fn pause_ms(&self) -> u64 {
        match (&self.helper, self.pending.is_empty()) {
            (Helper::Up { .. }, true) => limits::HELPER_STATUS_MS,
            (Helper::Up { .. }, false) => limits::PING_QUIET_MS / 2,
            _ => 500,
        }
    }

    // -- what is asked of it

    fn resolve(&mut self, run: RunId, spec: &JobSpec) {
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
                let event = resolved(run, &ping.told, &[], false, None);
                return self.report(event);
            }
        }
        let ping = Ping {
            runs: vec![run],
            tgt,
            tgt_type,
            published: None,
            unknown: Vec::new(),
            told: Vec::new(),
            seen: HashSet::new(),
            fresh: Vec::new(),
            fresh_since: now,
            last_return: now,
            master_was_away: false,
            patience: now.plus_ms(limits::PING_PATIENCE_MS),
        };
        let jid = self.jids.next(clock::wall());
        self.add(
            jid,
            false,
            now.plus_ms(limits::PING_PATIENCE_MS),
            What::Ping(ping),
        );
    }

    fn dispatch(&mut self, dispatch: Dispatch) {
        let settings = self.settings.read().clone();
        let refusal = self.no_salt.clone().or_else(|| unfit(&dispatch.spec.env));
        if let Some(text) = refusal {
            for (machine_run, _) in dispatch.machines {
                self.report(failed(machine_run, NOT_STARTED, text.clone()));
            }
            return;
        }
        if dispatch.plain {
            return self.run_plain(dispatch);
        }
        let kwarg = wrapper_call(&dispatch, &settings, &self.entrance);
        let open = dispatch
            .machines
            .iter()
            .map(|(id, machine)| (machine.clone(), *id))
            .collect();
        let (jid, again) = (protocol::jid(dispatch.at), dispatch.again);
        let deadline = clock::mono().plus_ms(limits::LAUNCH_PATIENCE_MS);
        let launching = Launching {
            dispatch,
            kwarg,
            open,
        };
        self.add(jid, again, deadline, What::Launch(launching));
    }

    fn add(&mut self, jid: String, was_sent: bool, deadline: Mono, what: What) {
        let pending = Pending {
            jid,
            was_sent,
            send_at: Some(Mono(0)),
            sent: Mono(0),
            deadline,
            last_error: None,
            what,
        };
        self.pending.insert(self.next_id, pending);
        self.next_id += 1;
    }

    /// Hands the helper what is ready for it.
    fn send(&mut self, now: Mono) {
        let Helper::Up { process, .. } = &mut self.helper else {
            return;
        };
        for (id, pending) in &mut self.pending {
            if process.is_full() {
                break;
            }
            if pending.send_at.is_some_and(|at| at <= now) {
                process.say(&pending.request(*id, now).line());
                pending.send_at = None;
                pending.sent = now;
                pending.was_sent = true;
            }
        }
        if let Err(error) = process.write() {
            self.lost(&error.to_string());
        }
    }

    /// Says a line to the helper, if there is one; the next one knows without it.
    fn tell(&mut self, line: &[u8]) {
        if let Helper::Up { process, .. } = &mut self.helper {
            process.say(line);
        }
    }

    // -- the helper's life

    fn supervise(&mut self, now: Mono) {
        match &mut self.helper {
            Helper::Down { retry_at } if *retry_at <= now => {
                let mut pythons = process::pythons(self.settings.read().salt_python.as_deref());
                pythons.reverse();
                self.try_next(pythons, Vec::new());
            }
            Helper::Down { .. } => {}
            Helper::Starting { process, since, .. } => {
                if now.since_ms(*since) > limits::HELPER_HELLO_MS {
                    self.lost("it did not say hello in time");
                } else if let Err(error) = process.write() {
                    self.lost(&error.to_string());
                }
            }
            Helper::Up {
                process,
                asked,
                unanswered,
            } => {
                if now.since_ms(*asked) < limits::HELPER_STATUS_MS {
                    return;
                }
                if *unanswered >= limits::HELPER_UNANSWERED {
                    return self.lost("it hangs");
                }
                *asked = now;
                *unanswered += 1;
                process.say(&protocol::status(0));
            }
        }
    }

    /// Starts it with the next Python of the list (best last). With none left there is no Salt.
    fn try_next(&mut self, mut pythons: Vec<PathBuf>, mut failed: Vec<String>) {
        let config = self.settings.read().salt_config.clone();
        while let Some(python) = pythons.pop() {
            match Process::start(&python, Path::new(&config)) {
                Ok(process) => {
                    self.generation += 1;
                    self.helper = Helper::Starting {
                        process,
                        python,
                        since: clock::mono(),
                        others: pythons,
                        failed,
                    };
                    return;
                }
                Err(error) => failed.push(format!("{}: {error}", python.display())),
            }
        }
        let tried = match failed.is_empty() {
            true => "there is no python3".to_string(),
            false => failed.join("; "),
        };
        self.no_salt = Some(format!(
            "no Python with a working Salt was found ({tried}): install the Salt master here, or set salt_python or \
             salt_config in saltpeter_config"
        ));
        self.retry_later();
        self.show_trouble();
        self.give_up();
    }

    fn retry_later(&mut self) {
        self.helper = Helper::Down {
            retry_at: clock::mono().plus_ms(self.backoff_ms),
        };
        self.backoff_ms = (self.backoff_ms * 2).min(limits::HELPER_BACKOFF_MAX_MS);
    }

    /// The helper is gone, or has to go. What it was asked is asked again of the next.
    fn lost(&mut self, why: &str) {
        let helper = std::mem::replace(&mut self.helper, Helper::Down { retry_at: Mono(0) });
        match helper {
            Helper::Starting {
                mut process,
                python,
                others,
                mut failed,
                ..
            } => {
                let mut lines = Vec::new();
                // its standard error tells more than its end
                let _ = process.read(&mut lines);
                if process.was_killed() {
                    log::warn!("salt helper was killed while it started; it is started again");
                    return self.retry_later();
                }
                let said = match process.last_words.as_str() {
                    "" => why.to_string(),
                    words => words.to_string(),
                };
                failed.push(format!("{}: {said}", python.display()));
                self.try_next(others, failed);
            }
            Helper::Up { .. } => {
                log::warn!(
                    "salt helper lost: {why}; it is started again in {} s",
                    self.backoff_ms / 1_000
                );
                for pending in self.pending.values_mut() {
                    if pending.send_at.is_none() {
                        pending.send_at = Some(Mono(0));
                    }
                }
                self.retry_later();
            }
            Helper::Down { .. } => {}
        }
    }

    /// There is no Salt: everything that waits for it ends, and says why. What it was asked already may go on, as while
    /// Salt is being upgraded.
    fn give_up(&mut self) {
        let Some(reason) = self.no_salt.clone() else {
            return;
        };
        let (sent, waiting): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(_, pending)| pending.was_sent);
        self.pending = sent;
        for pending in waiting.into_values() {
            self.end_failed(pending, NOT_STARTED, &reason);
        }
    }

    fn show_trouble(&mut self) {
        let bus = self.is_bus_down.as_ref();
        let trouble = self
            .no_salt
            .clone()
            .or_else(|| bus.map(|why| format!("the Salt master is out of reach: {why}")));
        if trouble != self.trouble {
            self.trouble.clone_from(&trouble);
            self.report(Event::ExecutorTrouble { reason: trouble });
        }
    }

    // -- what the helper says

    fn listen(&mut self) {
        let (Helper::Starting { process, .. } | Helper::Up { process, .. }) = &mut self.helper else {
            return;
        };
        let generation = self.generation;
        let mut lines = Vec::new();
        let read = process.read(&mut lines);
        for line in lines {
            match serde_json::from_slice(&line) {
                Ok(said) => self.heard(said),
                // its content may be a minion's output: not for the log
                Err(error) => log::warn!("salt helper: a line that cannot be read: {error}"),
            }
        }
        if let Err(error) = read
            && generation == self.generation
        {
            self.lost(&error.to_string());
        }
    }

    fn heard(&mut self, said: Said) {
        if let Helper::Up { unanswered, .. } = &mut self.helper {
            *unanswered = 0;
        }
        match said {
            Said::Hello {
                proto,
                salt,
                python,
                exe,
            } => self.hello(proto, &salt, &python, &exe),
            Said::Fatal { kind, msg } => {
                let words = if kind == "import" { "" } else { "configuration: " };
                if let Helper::Starting { process, .. } = &mut self.helper {
                    process.last_words = format!("{words}{msg}");
                }
                self.lost("it cannot work");
            }
            Said::Bus { up, msg } => {
                self.is_bus_down = (!up).then_some(msg);
                self.show_trouble();
            }
            Said::Pub { id, unknown, .. } => self.published(id, unknown),
            Said::Ret { id, minion, ret, .. } => self.returned(id, minion, &ret),
            Said::Done { id, missing } => self.done(id, missing),
            Said::Error {
                id,
                kind,
                msg,
                unknown,
            } => self.refused(id, &kind, &msg, unknown),
            Said::Late { minion, ret, .. } => {
                let state = match protocol::launch(&ret) {
                    Launch::Started => "a start",
                    Launch::Failed(_) => "an answer",
                };
                log::info!("salt: {state} from {minion} came after its time was over");
            }
            Said::Other => {}
        }
    }

    fn hello(&mut self, proto: u32, salt: &str, python: &str, exe: &str) {
        let helper = std::mem::replace(&mut self.helper, Helper::Down { retry_at: Mono(0) });
        let process = match helper {
            Helper::Starting { process, .. } => process,
            // the answer to a status
            other => {
                self.helper = other;
                return;
            }
        };
        if proto != protocol::PROTO {
            // cannot be: the helper is part of this program
            log::error!("salt helper speaks protocol {proto}, not {}", protocol::PROTO);
            return self.retry_later();
        }
        log::info!("salt: version {salt}, {exe} (Python {python})");
        let major = salt.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < limits::SALT_OLDEST) {
            log::warn!(
                "salt: version {salt} was never tried; {} and later were",
                limits::SALT_OLDEST
            );
        }
        self.helper = Helper::Up {
            process,
            asked: clock::mono(),
            unanswered: 0,
        };
        self.no_salt = None;
        self.is_bus_down = None;
        self.show_trouble();
    }

    fn published(&mut self, id: u64, unknown: Vec<String>) {
        let now = clock::mono();
        self.backoff_ms = limits::HELPER_BACKOFF_MIN_MS;
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        pending.last_error = None;
        match &mut pending.what {
            What::Ping(ping) => {
                // a master that took so long has just come up: minions find back to it one by one
                ping.master_was_away |= now.since_ms(pending.sent) >= limits::SALT_SLOW_PUBLISH_MS;
                ping.published = Some(now);
                ping.unknown.extend(unknown);
                pending.deadline = now.plus_ms(limits::PING_TIMEOUT_MS + limits::PING_GRACE_MS);
            }
            What::Launch(launching) => {
                pending.deadline = now.plus_ms(limits::LAUNCH_PATIENCE_MS);
                let machine_runs = launching.open.values().copied().collect();
                self.report(Event::Published { machine_runs });
                self.end_machines(id, &unknown, NO_ANSWER, NO_RESPONSE);
            }
            What::Plain(plain) => {
                pending.deadline = Mono(u64::MAX);
                let mut events = plain.published(now);
                events.extend(plain.lost(&unknown));
                self.report_all(events);
            }
            What::Question(_) => {}
        }
    }

    fn returned(&mut self, id: u64, minion: String, ret: &Value) {
        let now = clock::mono();
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        match &mut pending.what {
            What::Ping(ping) => {
                if ping.fresh.is_empty() {
                    ping.fresh_since = now;
                }
                ping.last_return = now;
                // a lost helper's successor tells again
                if ping.seen.insert(minion.clone()) {
                    ping.fresh.push(minion);
                }
            }
            What::Launch(launching) => {
                let Some(machine_run) = launching.open.remove(&minion) else {
                    return;
                };
                let event = match protocol::launch(ret) {
                    Launch::Started => Event::Launched { machine_run },
                    Launch::Failed(text) => failed(machine_run, NOT_STARTED, text),
                };
                self.report(event);
            }
            What::Plain(plain) => {
                let event = plain.returned(&minion, ret);
                self.report_all(event);
            }
            What::Question(question) => {
                let (of, is_gone) = (question.of, question.is_gone(ret));
                self.answered(of, &minion, is_gone);
            }
        }
    }

    fn done(&mut self, id: u64, missing: Vec<String>) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        match pending.what {
            What::Ping(ping) if ping.should_go_on(&missing) => self.ping_again(ping, missing),
            What::Ping(mut ping) => {
                ping.unknown.extend(missing);
                for run in ping.runs {
                    self.report(resolved(run, &ping.fresh, &ping.unknown, true, None));
                }
            }
            What::Launch(launching) => {
                for (_, machine_run) in launching.open {
                    self.report(failed(machine_run, NO_ANSWER, NO_RESPONSE.to_string()));
                }
            }
            What::Plain(mut plain) => {
                let events = plain.lost(&missing);
                self.report_all(events);
            }
            // a minion that is away for long is noticed by what was heard of it last
            What::Question(_) => {}
        }
    }

    fn ping_again(&mut self, mut ping: Ping, missing: Vec<String>) {
        if !ping.fresh.is_empty() {
            for run in &ping.runs {
                self.report(resolved(*run, &ping.fresh, &[], false, None));
            }
        }
        ping.told.append(&mut ping.fresh);
        ping.tgt = json!(missing);
        ping.tgt_type = "list".to_string();
        let jid = self.jids.next(clock::wall());
        let deadline = ping.patience.plus_ms(limits::PING_GRACE_MS);
        self.add(jid, false, deadline, What::Ping(ping));
    }

    fn refused(&mut self, id: Option<u64>, kind: &str, msg: &str, unknown: Vec<String>) {
        let Some(id) = id else {
            log::error!("salt helper: {kind}: {msg}");
            return;
        };
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        let words = words(kind, msg);
        if may_pass(kind) {
            // a master that restarts is back in seconds; the time window ends this
            pending.last_error = Some(words);
            if let What::Ping(ping) = &mut pending.what {
                ping.master_was_away = true;
            }
            pending.send_at = Some(clock::mono().plus_ms(limits::SALT_RETRY_MS));
            return;
        }
        match (&mut pending.what, kind) {
            (What::Ping(ping), "no_match") => {
                ping.unknown = unknown;
                self.done(id, Vec::new());
            }
            (What::Launch(_) | What::Plain(_) | What::Question(_), "no_match") => self.done(id, Vec::new()),
            _ => {
                if let Some(pending) = self.pending.remove(&id) {
                    self.end_failed(pending, NOT_STARTED, &words);
                }
            }
        }
    }

    // -- time

    fn look_at_times(&mut self, now: Mono) {
        let mut over = Vec::new();
        let mut news = Vec::new();
        self.look_after_plain(now);
        for (id, pending) in &mut self.pending {
            if now >= pending.deadline {
                over.push(*id);
                continue;
            }
            if let What::Ping(ping) = &mut pending.what
                && ping.is_ripe(now)
            {
                for run in &ping.runs {
                    news.push(resolved(*run, &ping.fresh, &[], false, None));
                }
                ping.told.append(&mut ping.fresh);
            }
        }
        for event in news {
            self.report(event);
        }
        for id in over {
            if let Some(pending) = self.pending.remove(&id) {
                let text = match &pending.last_error {
                    Some(error) => error.clone(),
                    None => "Salt's helper process did not answer in time".to_string(),
                };
                // without a word against it, it may have been published: nobody answered
                let retcode = match (&pending.last_error, pending.was_sent) {
                    (None, true) => NO_ANSWER,
                    _ => NOT_STARTED,
                };
                self.end_failed(pending, retcode, &text);
            }
        }
    }

    fn end_failed(&mut self, pending: Pending, retcode: i32, text: &str) {
        match pending.what {
            What::Ping(ping) => {
                for run in ping.runs {
                    let error = Some(text.to_string());
                    self.report(resolved(run, &ping.fresh, &ping.unknown, true, error));
                }
            }
            What::Launch(launching) => {
                for (_, machine_run) in launching.open {
                    self.report(failed(machine_run, retcode, text.to_string()));
                }
            }
            What::Plain(mut plain) => {
                let events = plain.end_all(retcode, text);
                self.report_all(events);
            }
            What::Question(_) => {}
        }
    }

    fn end_machines(&mut self, id: u64, machines: &[String], retcode: i32, text: &str) {
        let Some(Pending {
            what: What::Launch(launching),
            ..
        }) = self.pending.get_mut(&id)
        else {
            return;
        };
        let ended: Vec<MachineRunId> = machines
            .iter()
            .filter_map(|machine| launching.open.remove(machine))
            .collect();
        for machine_run in ended {
            self.report(failed(machine_run, retcode, text.to_string()));
        }
    }

    fn report_all(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.report(event);
        }
    }

    fn report(&self, event: Event) {
        // the engine is gone: the daemon ends
        let _ = self.events.send(event);
    }
}

impl Ping {
    fn should_go_on(&self, missing: &[String]) -> bool {
        self.master_was_away && !missing.is_empty() && clock::mono() < self.patience
    }

    /// Answers are told when no more come for a moment, or the first has waited long enough: each telling costs a
    /// publish of its own.
    fn is_ripe(&self, now: Mono) -> bool {
        !self.fresh.is_empty()
            && (now.since_ms(self.last_return) >= limits::PING_QUIET_MS
                || now.since_ms(self.fresh_since) >= limits::PING_GATHER_MS)
    }
}

impl Pending {
    fn request(&self, id: u64, now: Mono) -> Request {
        let left_ms = self.deadline.since_ms(now);
        let mut request = Request {
            id,
            op: "run",
            jid: self.jid.clone(),
            tgt: Value::Null,
            tgt_type: "list".to_string(),
            fun: "cmd.run_all",
            arg: Vec::new(),
            kwarg: BTreeMap::new(),
            timeout: left_ms as f64 / 1_000.0,
            again: self.was_sent,
            follow: false,
            ret_limit: limits::LAUNCH_TEXT_BYTES,
        };
        match &self.what {
            What::Ping(ping) => {
                request.tgt = ping.tgt.clone();
                request.tgt_type.clone_from(&ping.tgt_type);
                request.fun = "test.ping";
                let window_ms = match ping.master_was_away {
                    true => limits::PING_AGAIN_MS,
                    false => limits::PING_TIMEOUT_MS,
                };
                request.timeout = window_ms.min(left_ms) as f64 / 1_000.0;
            }
            What::Launch(launching) => {
                let machines = launching.dispatch.machines.iter().map(|(_, machine)| machine);
                let open: Vec<&String> = machines
                    .filter(|machine| launching.open.contains_key(*machine))
                    .collect();
                request.tgt = json!(open);
                request.kwarg = launching.kwarg.clone();
            }
            What::Plain(plain) => plain.fill_in(&mut request),
            What::Question(question) => question.fill_in(&mut request),
        }
        request
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

fn failed(machine_run: MachineRunId, retcode: i32, mut text: String) -> Event {
    let mut end = text.len().min(limits::LAUNCH_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    Event::LaunchFailed {
        machine_run,
        retcode,
        text,
    }
}

/// Why this kind of target cannot be asked for.
fn unknown_kind(target_type: &str) -> Option<String> {
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

/// Whether waiting may help: the master is away, or comes back with another key.
fn may_pass(kind: &str) -> bool {
    matches!(
        kind,
        "master_down" | "master_timeout" | "PublishError" | "AuthenticationError" | "SaltClientError"
    )
}

fn words(kind: &str, msg: &str) -> String {
    match kind {
        "master_down" => "the Salt master is not running on this host".to_string(),
        "master_timeout" => "the Salt master does not answer".to_string(),
        "auth" => format!(
            "Salt refuses: {msg}; the daemon has to run as root, as the master's user, or be allowed by publisher_acl"
        ),
        "AuthenticationError" | "AuthorizationError" => format!("Salt refuses: {msg}"),
        kind => format!("Salt: {kind}: {msg}"),
    }
}

/// Why an environment cannot be handed to a process; a minion's traceback about it would show its values.
fn unfit(env: &BTreeMap<String, String>) -> Option<String> {
    env.iter()
        .find(|(name, value)| name.contains(['\0', '=']) || value.contains('\0'))
        .map(|(name, _)| {
            format!(
                "env '{}' holds a NUL byte or '=' in its name: no process can be given it",
                name.escape_debug()
            )
        })
}

/// The arguments of `cmd.run_all` that start the wrapper.
fn wrapper_call(
    dispatch: &Dispatch,
    settings: &Settings,
    entrance: &Entrance,
) -> BTreeMap<&'static str, Value> {
    let path = dispatch
        .spec
        .wrapper_path
        .as_ref()
        .or(settings.default_wrapper_path.as_ref());
    let path = path.map_or(limits::SALT_WRAPPER_PATH, String::as_str);
    let host = settings
        .server_host(&dispatch.spec)
        .map_or_else(host_name, str::to_string);
    let link = entrance.link(&host, &dispatch.spec, settings);
    let env = launch::settings_of(dispatch, &link, settings);
    let command = format!("{WRAPPER_PREFIX}{path}");
    [
        ("cmd", json!(command)),
        ("template", json!("jinja")),
        ("env", json!(env)),
        ("reset_system_locale", json!(false)),
    ]
    .into()
}
