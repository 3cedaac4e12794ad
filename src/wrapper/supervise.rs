//! The wrapper's owner loop: everything that happens arrives as one [`Event`], and from here go the orders to the
//! guardian, the frames to the link, the output to the session. Must not know: how any of them works inside.

use std::fs::File;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock::{self, Mono};
use crate::ending::{Ending, error_note};
use crate::limits;
use crate::process::guardian::Guardian;
use crate::process::order::{Exit, GuardianOrder, Report};
use crate::protocol::{DaemonFrame, JobOrder, SessionKey};
use crate::wrapper::child::Child;
use crate::wrapper::chunk::Batching;
use crate::wrapper::event::{Event, LinkEvent};
use crate::wrapper::kill::{Reason, Shutdown, Step};
use crate::wrapper::link::Link;
use crate::wrapper::session::{Action, STDERR, STDOUT, Session};
use crate::wrapper::settings::Settings;
use crate::wrapper::spool::{self, Spool};

/// The owner of one run.
pub struct Supervisor {
    settings: Settings,
    key: SessionKey,
    session: Session,
    shutdown: Shutdown,
    batching: Batching,
    spool: Arc<Spool>,
    child: Child,
    link: Link,
    sender: Sender<Event>,
    events: Receiver<Event>,
    /// The connection that stands.
    generation: Option<u64>,
    stage: Stage,
    /// What waits in the spool is sent without gathering more.
    flush: bool,
    /// From here on delivery, or waiting for the permission, is given up.
    patience_ends_at: Mono,
    /// The guardian was told to free the lock: until it has, or this passes, the outcome is held back. Whoever hears of
    /// it may start the next run at once.
    lock_freed_by: Option<Mono>,
    told_to_stop: bool,
    log_file: Option<File>,
}

#[derive(Debug, PartialEq)]
enum Stage {
    /// For the permission to start.
    Waiting,
    /// The guardian has the order.
    Starting {
        timeout_s: u64,
    },
    Running,
    /// No more output comes; the outcome is to be delivered.
    Finishing {
        ending: Ending,
        /// How long the command ran; None: it was not started.
        duration_ms: Option<u64>,
        offered: bool,
    },
    Done,
}

impl Supervisor {
    /// Starts the threads. `machine` is this machine's name for the daemon.
    pub fn new(
        settings: Settings,
        machine: String,
        guardian: Guardian,
        log_file: Option<File>,
    ) -> io::Result<Supervisor> {
        let (sender, events) = bounded(limits::WRAPPER_QUEUE);
        let key = SessionKey {
            job: settings.job.clone(),
            instance: settings.instance.clone(),
            machine,
        };
        let wrapper_id = random_id()?;
        let link = Link::start(
            settings.url.clone(),
            settings.security.clone(),
            key.clone(),
            sender.clone(),
        )?;
        let files = format!("{}.{}", key.instance, &wrapper_id[..8]);
        let spool = Arc::new(Spool::new(
            spool::root(),
            &files,
            settings.tunables.spool_limit_bytes,
        )?);
        let child = Child::new(guardian, spool.clone(), &sender)?;
        Ok(Supervisor {
            session: Session::new(wrapper_id, env!("CARGO_PKG_VERSION"), settings.own_job.is_none()),
            shutdown: Shutdown::default(),
            batching: Batching::new(settings.tunables.output_interval_ms),
            key,
            settings,
            spool,
            child,
            link,
            sender,
            events,
            generation: None,
            stage: Stage::Waiting,
            flush: false,
            patience_ends_at: clock::mono().plus_ms(limits::WRAPPER_PATIENCE_MS),
            lock_freed_by: None,
            told_to_stop: false,
            log_file,
        })
    }

    /// Runs to the outcome and its delivery. A panic in here ends the command and is reported as any other end.
    pub fn run(mut self) {
        for _ in 0..2 {
            let went_well = catch_unwind(AssertUnwindSafe(|| self.serve()));
            if went_well.is_ok() {
                break;
            }
            self.fail("the wrapper failed, so the command was ended; its log says where");
        }
        self.leave();
    }

    fn serve(&mut self) {
        loop {
            let now = clock::mono();
            self.turn(now);
            // nothing may ever happen again that would end a wait
            if self.stage == Stage::Done {
                return;
            }
            let wait_ms = self.deadline().map_or(u64::MAX, |at| at.since_ms(now));
            let Ok(event) = self
                .events
                .recv_timeout(Duration::from_millis(wait_ms.min(3_600_000)))
            else {
                continue;
            };
            self.handle(event);
            // a bounded number, so that beats and deadlines are looked at in between
            for _ in 0..limits::WRAPPER_QUEUE {
                match self.events.try_recv() {
                    Ok(event) => self.handle(event),
                    Err(_) => break,
                }
            }
        }
    }

    /// Signals first, then output, then frames.
    fn turn(&mut self, now: Mono) {
        for step in self.shutdown.steps(now) {
            self.perform(step, now);
        }
        self.spool.set_may_leave_out(!self.session.is_open());
        self.feed(now);
        if self.session.tick(now) == Some(Action::Reconnect) {
            log::warn!("the daemon acknowledges nothing: connecting anew");
            self.link.reconnect();
        }
        if let Some(generation) = self.generation {
            while let Some(frame) = self.session.next(now) {
                self.link.push(generation, frame);
            }
        }
        self.look_at_patience(now);
    }

    fn deadline(&self) -> Option<Mono> {
        let patience =
            matches!(self.stage, Stage::Waiting | Stage::Finishing { .. }).then_some(self.patience_ends_at);
        let output = self.batching.due_at().filter(|_| self.session.has_room());
        let deadlines = [
            self.session.deadline(),
            self.shutdown.deadline(),
            output,
            patience,
            self.lock_freed_by,
        ];
        deadlines.into_iter().flatten().min()
    }

    fn handle(&mut self, event: Event) {
        let now = clock::mono();
        match event {
            Event::Link(event) => self.handle_link(event, now),
            Event::Guardian(report) => self.handle_report(report, now),
            Event::GuardianGone => self.guardian_gone(now),
            Event::OutputWaits => self.batching.arrived(now),
            Event::OutputEnded => self.shutdown.output_ended(),
            Event::ToldToStop => self.told_to_stop(now),
            Event::Panicked(name) if name == "sp-link" => self.restart_link(),
            Event::Panicked(name) => self.fail(&format!(
                "the wrapper's thread {name} failed, so the command was ended"
            )),
        }
    }

    fn handle_link(&mut self, event: LinkEvent, now: Mono) {
        match event {
            LinkEvent::Up { generation, trusted } => {
                self.generation = Some(generation);
                self.session.connected(now, trusted);
            }
            LinkEvent::Down { generation } if self.generation == Some(generation) => {
                self.generation = None;
                self.session.disconnected();
            }
            LinkEvent::Frame { generation, frame } if self.generation == Some(generation) => {
                if self.is_for_somebody_else(&frame) {
                    return log::warn!("ignored a kill that is meant for another run");
                }
                if self.told_to_stop {
                    // it takes what we have: as long as it does, there is a point in staying
                    self.patience_ends_at = now.plus_ms(limits::STOP_PATIENCE_MS);
                }
                if let Some(action) = self.session.receive(now, frame) {
                    self.act(action, now);
                }
            }
            _ => {}
        }
    }

    fn is_for_somebody_else(&self, frame: &DaemonFrame) -> bool {
        match frame {
            DaemonFrame::Kill { key } => {
                let differs = |theirs: &str, ours: &str| !theirs.is_empty() && theirs != ours;
                differs(&key.instance, &self.key.instance) || differs(&key.machine, &self.key.machine)
            }
            _ => false,
        }
    }

    fn act(&mut self, action: Action, now: Mono) {
        match action {
            Action::Start(order) => self.start(order, now),
            Action::NoJob(reason) => self.finish(Ending::not_started(error_note(reason))),
            Action::Kill => self.kill(now),
            Action::Delivered => {
                log::info!("outcome delivered");
                self.stage = Stage::Done;
            }
            Action::Refused { code, message } => {
                log::warn!("the daemon refuses this run: {} {message}", code.as_str());
                self.link.stop();
                if self.stage == Stage::Waiting {
                    self.stage = Stage::Done;
                }
            }
            Action::Reconnect => self.link.reconnect(),
        }
    }

    fn start(&mut self, order: Option<Box<JobOrder>>, now: Mono) {
        if self.stage != Stage::Waiting {
            return;
        }
        let start = match &order {
            Some(order) => Some(self.settings.ordered_start(order, &self.key.machine)),
            None => self.settings.own_start(&self.key.machine),
        };
        let Some(start) = start else {
            return self.finish(Ending::not_started(error_note("there is no command to run")));
        };
        if let Some(order) = &order {
            self.tune(order);
        }
        self.stage = Stage::Starting {
            timeout_s: start.timeout_s,
        };
        // a directory on a hung mount takes for ever: kill and timeout hold from here on
        self.shutdown.started(start.timeout_s, now);
        if let Err(error) = self.child.start(start.launch) {
            let what = format!("cannot start the command: {error}");
            self.finish(Ending::error(error_note(&what)));
        }
    }

    fn tune(&mut self, order: &JobOrder) {
        let mut tunables = self.settings.tunables.clone();
        for (name, value) in &order.env {
            tunables.apply(name, value);
        }
        self.batching.set_interval_ms(tunables.output_interval_ms);
        self.spool.set_limit_bytes(tunables.spool_limit_bytes);
        log::set_max_level(tunables.log_level);
    }

    fn kill(&mut self, now: Mono) {
        match self.stage {
            Stage::Waiting => self.finish(Ending::killed_before()),
            Stage::Starting { .. } | Stage::Running => {
                log::info!("kill received");
                self.flush = true;
                self.shutdown.ask(Reason::Kill, now);
            }
            Stage::Finishing { .. } | Stage::Done => {}
        }
    }

    fn told_to_stop(&mut self, now: Mono) {
        log::warn!("told to stop");
        self.told_to_stop = true;
        match self.stage {
            Stage::Waiting => self.finish(Ending::told_to_stop()),
            Stage::Starting { .. } | Stage::Running => {
                self.flush = true;
                self.shutdown.ask(Reason::Stop, now);
            }
            Stage::Finishing { .. } | Stage::Done => {
                self.patience_ends_at = self.patience_ends_at.min(now.plus_ms(limits::STOP_PATIENCE_MS));
            }
        }
    }

    fn handle_report(&mut self, report: Report, now: Mono) {
        match report {
            Report::Started { pid } => {
                log::info!("command started, pid {pid}");
                self.child.started(pid);
                self.session.started(pid);
                if let Stage::Starting { timeout_s } = self.stage {
                    self.shutdown.started(timeout_s, now);
                }
                self.stage = Stage::Running;
                panic_for_tests("start");
            }
            Report::Locked { .. } | Report::NotStarted { .. } if self.shutdown.reason().is_some() => {
                // it was to be ended anyway: that is its outcome
                self.shutdown.exited(Exit::Signal(9), now);
                self.shutdown.family_ended(now);
                self.shutdown.leftovers(String::new());
            }
            Report::Locked { message } => self.not_started(Ending::locked(&message)),
            Report::NotStarted { message } => self.not_started(Ending::error(error_note(&message))),
            Report::Exited(exit) => {
                log::info!("command ended: {exit:?}");
                self.shutdown.exited(exit, now);
            }
            Report::Empty => self.shutdown.family_ended(now),
            Report::AllEnded { clean } => {
                if !clean {
                    log::error!("not all of the command's processes could be ended");
                }
                self.shutdown.family_ended(now);
            }
            Report::Leftovers { names } => self.shutdown.leftovers(names),
        }
    }

    fn not_started(&mut self, ending: Ending) {
        self.dismiss_guardian(clock::mono());
        self.finish(ending);
    }

    fn dismiss_guardian(&mut self, now: Mono) {
        self.child.finish();
        self.lock_freed_by = Some(now.plus_ms(limits::GUARDIAN_ANSWER_MS));
    }

    fn guardian_gone(&mut self, now: Mono) {
        self.lock_freed_by = None;
        if matches!(self.stage, Stage::Finishing { .. } | Stage::Done) {
            return;
        }
        log::error!("the guardian died");
        let what = "the guardian of the command died, so the command was ended";
        self.child.end_orphans();
        if !self.shutdown.is_running() {
            return self.finish(Ending::error(error_note(what)));
        }
        self.shutdown.ask(Reason::Fault(what.to_string()), now);
        self.shutdown.exited(Exit::Signal(9), now);
        self.shutdown.family_ended(now);
        self.shutdown.leftovers(String::new());
    }

    /// Something of our own broke: the command goes, the outcome is delivered as far as that still works.
    fn fail(&mut self, what: &str) {
        log::error!("{what}");
        if matches!(self.stage, Stage::Finishing { .. } | Stage::Done) {
            return;
        }
        self.child.abandon();
        self.child.stop_reading();
        self.finish(Ending::error(error_note(what)));
    }

    fn restart_link(&mut self) {
        log::error!("the thread that speaks to the daemon failed: starting it anew");
        self.generation = None;
        self.session.disconnected();
        match Link::start(
            self.settings.url.clone(),
            self.settings.security.clone(),
            self.key.clone(),
            self.sender.clone(),
        ) {
            Ok(link) => self.link = link,
            Err(error) => log::error!("starting it: {error}"),
        }
    }

    fn perform(&mut self, step: Step, now: Mono) {
        match step {
            Step::Terminate => {
                self.child.order(&GuardianOrder::Terminate);
                log::info!("SIGTERM to the command: {:?}", self.shutdown.reason());
                self.flush = true;
            }
            Step::EndAll => {
                log::info!("SIGKILL to the command");
                self.child.order(&GuardianOrder::EndAll);
            }
            Step::NameLeftovers => self.child.order(&GuardianOrder::NameLeftovers),
            Step::StopReading => {
                self.spool.close();
                self.child.stop_reading();
            }
            Step::Finish(ending) => {
                self.dismiss_guardian(now);
                self.finish(ending);
            }
        }
    }

    fn finish(&mut self, ending: Ending) {
        if matches!(self.stage, Stage::Finishing { .. } | Stage::Done) {
            return;
        }
        log::info!(
            "outcome {} given by {}; {}",
            ending.code,
            ending.given_by.word(),
            ending.note.as_deref().unwrap_or("no notice")
        );
        let has_run = self.stage == Stage::Running;
        let duration_ms = self.shutdown.ran_ms(clock::mono()).filter(|_| has_run);
        self.shutdown = Shutdown::default();
        let patience_ms = if self.told_to_stop {
            limits::STOP_PATIENCE_MS
        } else {
            limits::WRAPPER_PATIENCE_MS
        };
        self.patience_ends_at = clock::mono().plus_ms(patience_ms);
        self.stage = Stage::Finishing {
            ending,
            duration_ms,
            offered: false,
        };
    }

    /// Moves output from the spool to the session as far as it has room and is due.
    fn feed(&mut self, now: Mono) {
        let is_last = matches!(self.stage, Stage::Finishing { .. });
        while self.session.has_room() {
            let due = is_last || self.flush || self.batching.due_at().is_some_and(|at| at <= now);
            if !due && self.spool.length() < limits::OUTPUT_CHUNK_BYTES as u64 {
                break;
            }
            match self.spool.take(is_last) {
                Some(data) => self.session.offer(STDOUT, data),
                None => {
                    self.batching.sent(now);
                    self.flush = false;
                    break;
                }
            }
        }
        if is_last {
            if self.lock_freed_by.is_some_and(|by| now >= by) {
                self.lock_freed_by = None;
            }
            if self.spool.is_empty() && self.lock_freed_by.is_none() {
                self.offer_end();
            }
            return;
        }
        let waits = match self.batching.due_at() {
            None => self.spool.ring_when_more(),
            Some(_) if self.session.has_room() => self.spool.wake_at(limits::OUTPUT_CHUNK_BYTES),
            // an acknowledgement makes room, and that is an event of its own
            Some(_) => return,
        };
        if waits {
            self.batching.arrived(now);
            let _ = self.sender.try_send(Event::OutputWaits);
        }
    }

    /// All output is with the session: the notice, on a line of its own, and the outcome.
    fn offer_end(&mut self) {
        let fresh_line = if self.spool.ends_with_newline() { "" } else { "\n" };
        if let Stage::Finishing {
            ending,
            duration_ms,
            offered,
        } = &mut self.stage
            && !std::mem::replace(offered, true)
        {
            if let Some(note) = &ending.note {
                self.session
                    .offer(STDERR, format!("{fresh_line}{note}\n").into_bytes());
            }
            self.session
                .complete(ending.code, Some(ending.given_by), *duration_ms);
        }
    }

    fn look_at_patience(&mut self, now: Mono) {
        let over = now >= self.patience_ends_at;
        match self.stage {
            Stage::Waiting if over => {
                log::error!("no permission to start: nothing was started");
                self.stage = Stage::Done;
            }
            Stage::Finishing { .. } if over || self.session.is_closed() => {
                self.keep_in_log();
                self.stage = Stage::Done;
            }
            _ => {}
        }
    }

    /// What could not be delivered stays in the local log, outcome included.
    fn keep_in_log(&mut self) {
        let Stage::Finishing { ending, .. } = &self.stage else {
            return;
        };
        let retcode = ending.code;
        let Some(file) = &mut self.log_file else {
            return log::error!("nowhere to keep the output that could not be delivered");
        };
        let title = format!("{} on {}", self.key.instance, self.key.machine);
        let mut write = |bytes: &[u8]| file.write_all(bytes);
        let mut kept = write(format!("#### output of {title} that was not delivered ####\n").as_bytes());
        for chunk in self.session.unacked() {
            kept = kept.and_then(|()| write(&chunk.data));
        }
        while let Some(data) = self.spool.take(true) {
            kept = kept.and_then(|()| write(&data));
        }
        kept = kept
            .and_then(|()| write(format!("\n#### end of {title}, exit code {retcode} ####\n").as_bytes()));
        if let Err(error) = kept {
            log::error!("keeping the output that could not be delivered: {error}");
        }
    }

    /// Closes the connection, tidies up and returns; the process exits after this.
    fn leave(self) {
        self.link.stop();
        let until = clock::mono().plus_ms(limits::LINK_CLOSE_MS);
        loop {
            let left = until.since_ms(clock::mono());
            match self.events.recv_timeout(Duration::from_millis(left)) {
                Ok(Event::Link(LinkEvent::Stopped)) | Err(_) => break,
                Ok(_) => {}
            }
        }
        self.spool.discard();
        spool::remove_leftovers(&spool::root());
    }
}

fn random_id() -> io::Result<String> {
    let mut random = [0u8; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(data_encoding::HEXLOWER.encode(&random))
}

/// Lets a test of a debug build break the owner loop, as nothing else can.
fn panic_for_tests(point: &str) {
    if cfg!(debug_assertions) && std::env::var_os("SP_TEST_PANIC").is_some_and(|wanted| wanted == point) {
        panic!("asked to panic at {point}");
    }
}
