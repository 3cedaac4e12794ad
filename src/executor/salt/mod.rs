//! The Salt executor: finds out by a ping which minions are up, and has Salt start the wrapper on them. Here: what Salt
//! was asked and has not answered, and which runs its answers concern. What a lost helper was asked is asked again, under
//! the same Salt job ids. Must not know: runs, what a wrapper does once launched.

mod supervise;

mod launching;
mod ping;
mod plain;

mod process;
mod protocol;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use serde_json::Value;

use super::CurrentSettings;
use super::endpoint::Endpoint;
use crate::clock::{self, Mono};
use crate::ending::code;
use crate::engine::effect::ExecutorOrder;
use crate::engine::event::Event;
use crate::limits;
use crate::wake::Waker;
use launching::Launching;
use ping::Ping;
use plain::{Plain, Question};
use protocol::{Jids, LaunchReturn, Request, Said};
use supervise::Helper;

/// A machine run whose wrapper could not be started.
const NOT_STARTED: i32 = code::NOT_STARTED;
/// A machine run whose machine did not answer.
const NO_ANSWER: i32 = code::ERROR;
const NO_RESPONSE: &str = "Target did not respond";

/// The executor's thread.
pub struct Salt {
    endpoint: Endpoint,
    settings: CurrentSettings,
    events: Sender<Event>,
    orders: Receiver<ExecutorOrder>,
    waker: Arc<Waker>,
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

/// Something that Salt was asked, or will be.
struct Pending {
    jid: String,
    /// It was handed to a helper: it may have been published.
    was_sent: bool,
    /// None: it is with the helper now.
    send_at: Option<Mono>,
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

impl Salt {
    /// `endpoint`: where wrappers connect to. `waker` is woken when there are orders, or when they end.
    pub fn new(
        endpoint: Endpoint,
        settings: CurrentSettings,
        events: Sender<Event>,
        orders: Receiver<ExecutorOrder>,
        waker: Arc<Waker>,
    ) -> Salt {
        Salt {
            endpoint,
            settings,
            events,
            orders,
            waker,
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
            if let Err(error) = process::wait(&self.waker, self.helper.process(), self.pause_ms()) {
                log::error!("waiting for the salt helper: {error}");
                return;
            }
        }
    }

    /// The daemon was stalled: no deadline came closer (rules.md 3).
    fn forgive(&mut self, stalled_ms: u64) {
        if stalled_ms <= limits::STALL_MS {
            return;
        }
        for pending in self.pending.values_mut() {
            pending.deadline = pending.deadline.plus_ms(stalled_ms);
            if let What::Plain(plain) = &mut pending.what {
                plain.forgive(stalled_ms);
            }
            if let What::Ping(ping) = &mut pending.what {
                ping.patience = ping.patience.plus_ms(stalled_ms);
            }
        }
    }

    fn take_orders(&mut self) -> bool {
        // a kill of a run comes machine by machine: it is one publish
        let mut terminated = HashSet::new();
        let mut is_open = true;
        while is_open && self.pending.len() < limits::SALT_REQUESTS {
            match self.orders.try_recv() {
                Ok(ExecutorOrder::Resolve { run, spec }) => self.resolve(run, &spec),
                Ok(ExecutorOrder::Dispatch(dispatch)) => self.dispatch(*dispatch),
                Ok(ExecutorOrder::Terminate { machine_run }) => {
                    terminated.insert(machine_run);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => is_open = false,
            }
        }
        self.terminate(&terminated);
        is_open
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

    fn add(&mut self, jid: String, was_sent: bool, deadline: Mono, what: What) {
        let pending = Pending {
            jid,
            was_sent,
            send_at: Some(Mono(0)),
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
            Said::Pub { id, unknown, took_ms } => self.published(id, unknown, took_ms),
            Said::Ret { id, minion, ret, .. } => self.returned(id, minion, &ret),
            Said::Gone { id, minions } => self.gone(id, minions),
            Said::Done { id, missing } => self.done(id, missing),
            Said::Error {
                id,
                kind,
                msg,
                unknown,
            } => self.refused(id, &kind, &msg, unknown),
            Said::Late { minion, ret, .. } => {
                let state = match protocol::launch(&ret) {
                    LaunchReturn::Started => "a start",
                    LaunchReturn::Failed(_) => "an answer",
                };
                log::info!("salt: {state} from {minion} came after its time was over");
            }
            Said::Other => {}
        }
    }

    fn published(&mut self, id: u64, unknown: Vec<String>, took_ms: u64) {
        let now = clock::mono();
        self.backoff_ms = limits::HELPER_BACKOFF_MIN_MS;
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        pending.last_error = None;
        match &mut pending.what {
            What::Ping(ping) => {
                ping.published(now, took_ms, unknown);
                pending.deadline = ping.deadline(now);
            }
            What::Launch(launching) => {
                pending.deadline = now.plus_ms(limits::LAUNCH_BUSY_MS + limits::LAUNCH_GRACE_MS);
                let events = launching.published(now, &unknown);
                self.report_all(events);
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
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        match &mut pending.what {
            What::Ping(ping) => ping.returned(minion, clock::mono()),
            What::Launch(launching) => {
                let event = launching.returned(&minion, ret);
                self.report_all(event);
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

    fn gone(&mut self, id: u64, minions: Vec<String>) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        let events = match &mut pending.what {
            What::Ping(ping) => ping.silent(minions),
            What::Launch(launching) => launching.lost(&minions),
            What::Plain(plain) => plain.lost(&minions),
            What::Question(_) => return,
        };
        self.report_all(events);
    }

    fn done(&mut self, id: u64, missing: Vec<String>) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        match pending.what {
            What::Ping(ping) if ping.should_go_on(&missing) => self.ping_again(ping, missing),
            What::Ping(ping) => self.report_all(ping.end(missing, None)),
            What::Launch(mut launching) => self.report_all(launching.end_all(NO_ANSWER, NO_RESPONSE)),
            What::Plain(mut plain) => {
                let events = plain.lost(&missing);
                self.report_all(events);
            }
            // a minion that is away for long is noticed by what was heard of it last
            What::Question(_) => {}
        }
    }

    fn refused(&mut self, id: Option<u64>, kind: &str, msg: &str, unknown: Vec<String>) {
        let Some(id) = id else {
            log::error!("salt helper: {kind}: {msg}");
            return;
        };
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        let words = protocol::words(kind, msg);
        if protocol::may_pass(kind) {
            // a master that restarts is back in seconds; the time window ends this
            pending.last_error = Some(words);
            if let What::Ping(ping) = &mut pending.what {
                ping.refused();
            }
            pending.send_at = Some(clock::mono().plus_ms(limits::SALT_RETRY_MS));
            return;
        }
        match (&mut pending.what, kind) {
            (What::Ping(ping), "no_match") => {
                ping.matches_nobody(unknown);
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
            match &mut pending.what {
                What::Ping(ping) if ping.is_ripe(now) => news.extend(ping.news()),
                What::Launch(launching) => news.extend(launching.still_waits(now)),
                _ => {}
            }
        }
        self.report_all(news);
        for id in over {
            if let Some(pending) = self.pending.remove(&id) {
                let text = match &pending.last_error {
                    Some(error) => error.clone(),
                    None => "Salt's helper process did not answer in time".to_string(),
                };
                // without an error it may have been published: no minion answered
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
            What::Ping(ping) => self.report_all(ping.end(Vec::new(), Some(text))),
            What::Launch(mut launching) => self.report_all(launching.end_all(retcode, text)),
            What::Plain(mut plain) => self.report_all(plain.end_all(retcode, text)),
            What::Question(_) => {}
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

impl Pending {
    /// The helper is lost: the next has no more time than the first one had.
    fn shorten(&mut self, now: Mono) {
        if let What::Launch(_) = self.what {
            self.deadline = self.deadline.min(now.plus_ms(limits::LAUNCH_PATIENCE_MS));
        }
    }

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
            patience: 0.0,
            again: self.was_sent,
            follow: false,
            ret_limit: limits::LAUNCH_TEXT_BYTES,
        };
        match &self.what {
            What::Ping(ping) => ping.fill_in(&mut request, left_ms),
            What::Launch(launching) => launching.fill_in(&mut request, left_ms),
            What::Plain(plain) => plain.fill_in(&mut request),
            What::Question(question) => question.fill_in(&mut request),
        }
        request
    }
}
