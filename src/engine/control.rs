//! What people ask for: runs, kills, pauses, maintenance switches; whatever they did is kept (audit).
//! Must not know: authorization, how runs continue.

use std::sync::Arc;

use log::Level;

use crate::clock::Wall;
use crate::config::{JobSpec, glob};
use crate::engine::commits::Waiting;
use crate::engine::effect::{Done, Effect, Fact, Refusal, Write};
use crate::engine::event::{Ask, RunOrder};
use crate::engine::expiry::Ends;
use crate::engine::id::RequestId;
use crate::engine::record::{AuditRecord, Control, PauseRecord, SwitchRecord};
use crate::engine::{Engine, Turn};
use crate::limits;

/// Characters kept of each part of an audit record: what was asked for may be anything.
const AUDIT_PART_CHARS: usize = 400;

/// A run that a user asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub request: RequestId,
    pub who: String,
    /// The job as this run has it.
    pub spec: Arc<JobSpec>,
    pub audit: AuditRecord,
    /// It repeats a run on the machines that failed.
    pub is_retry: bool,
}

impl Engine {
    /// Somebody asks for something.
    pub(super) fn asked(&mut self, turn: &mut Turn, request: RequestId, ask: Ask, who: String) {
        if self.is_shutting_down {
            let answer = Err(Refusal::Unavailable("the daemon is shutting down".into()));
            return turn.effects.push(Effect::Answer { request, answer });
        }
        match ask {
            Ask::Run { job } => self.run_asked(turn, request, &job, RunOrder::default(), who),
            Ask::RunWith { job, order } => self.run_asked(turn, request, &job, order, who),
            Ask::Kill {
                job,
                machine,
                instance,
            } => self.kill_asked(turn, request, &job, machine.as_deref(), instance.as_deref(), &who),
            Ask::Pause { job, until, reason } => {
                let pause = PauseRecord {
                    job,
                    since: turn.now.wall,
                    until,
                    reason,
                    by: who,
                };
                self.pause_asked(turn, request, pause);
            }
            Ask::Seen { job } => self.seen_asked(turn, request, &job, &who),
            Ask::Resume { job } => self.resume_asked(turn, request, &job, who),
            Ask::Switch {
                machine,
                is_on,
                until,
                reason,
            } => {
                let switch = SwitchRecord {
                    machine,
                    is_on,
                    since: turn.now.wall,
                    until,
                    reason,
                    by: who,
                };
                self.switch_asked(turn, request, switch);
            }
            Ask::RetryNotice { notice } => self.retry_notice_asked(turn, request, *notice, &who),
            Ask::TestNotifier { name } => self.test_notifier_asked(turn, request, &name, &who),
            Ask::SwitchBack { machine } => self.switch_back_asked(turn, request, machine, who),
        }
    }

    fn run_asked(&mut self, turn: &mut Turn, request: RequestId, job: &str, order: RunOrder, who: String) {
        let (action, object) = match &order.retry_of {
            Some(instance) => ("retry", instance.as_str()),
            None => ("run", job),
        };
        let mut audit = audit(turn.now.wall, &who, action, object, &run_detail(&order));
        let spec = match self.run_refusal(job, &order) {
            Ok(spec) => spec,
            Err(refusal) => return self.refuse(turn, request, audit, refusal),
        };
        turn.say(Level::Info, format!("{job} started by {who}"));
        audit.outcome = "ok".into();
        let is_retry = order.retry_of.is_some();
        let who = match order.retry_of {
            Some(instance) => format!("{who}, retry of {instance}"),
            None => who,
        };
        let wanted = Wanted {
            request,
            who,
            spec,
            audit,
            is_retry,
        };
        self.start_run(turn, job, None, Some(wanted));
    }

    fn run_refusal(&self, job: &str, order: &RunOrder) -> Result<Arc<JobSpec>, Refusal> {
        let Some(known) = self.config.jobs.get(job) else {
            return Err(Refusal::UnknownJob { job: job.into() });
        };
        if !known.enabled {
            let reason = "is disabled ('enabled: false' in its file): enable it to run it";
            return Err(Refusal::Conflict(format!("{job} {reason}")));
        }
        // one target is enough: each other machine gets an outcome that says that it is not a target
        let is_target = |machine: &String| glob::may_match(&known.spec, machine);
        if !order.machines.is_empty() && !order.machines.iter().any(is_target) {
            let names = order.machines.join(", ").escape_debug().to_string();
            let reason = format!("{job} has no such target: {names}");
            return Err(Refusal::Invalid(reason));
        }
        if self.maintenance.global {
            return Err(Refusal::Conflict("global maintenance: no run starts".into()));
        }
        if self.overlaps(job) {
            return Err(Refusal::Conflict(format!("{job} is running and may not overlap")));
        }
        if order.machines.is_empty() && order.parameters.is_empty() {
            return Ok(known.spec.clone());
        }
        known
            .spec
            .with_order(&order.machines, &order.parameters)
            .map(Arc::new)
            .map_err(Refusal::Invalid)
    }

    fn pause_asked(&mut self, turn: &mut Turn, request: RequestId, pause: PauseRecord) {
        let name = pause.job.clone();
        let until = pause.until.map_or("resumed".to_string(), Wall::iso);
        let detail = format!("until {until}: {}", pause.reason);
        let audit = audit(turn.now.wall, &pause.by, "pause", &name, &detail);
        let paused = self.jobs.values().filter(|state| state.paused.is_some()).count();
        let Some(state) = self
            .jobs
            .get_mut(name.as_str())
            .filter(|state| state.job.is_some())
        else {
            return self.refuse(turn, request, audit, Refusal::UnknownJob { job: name });
        };
        if paused >= limits::CONTROLS {
            return self.refuse(
                turn,
                request,
                audit,
                Refusal::Conflict("too many jobs are paused".into()),
            );
        }
        state.end_pause(turn.now.wall);
        state.paused = Some(Arc::new(pause.clone()));
        self.expiry.set(Ends::Pause(name.as_str().into()), pause.until);
        self.shown.jobs.insert(name.as_str().into());
        self.settle(
            turn,
            request,
            Control::Pause(pause),
            audit,
            format!("{name} is paused"),
        );
    }

    fn resume_asked(&mut self, turn: &mut Turn, request: RequestId, name: &str, who: String) {
        let audit = audit(turn.now.wall, &who, "resume", name, "");
        let Some(state) = self.jobs.get_mut(name) else {
            return self.refuse(turn, request, audit, Refusal::UnknownJob { job: name.into() });
        };
        if !state.end_pause(turn.now.wall) {
            return self.refuse(
                turn,
                request,
                audit,
                Refusal::Conflict(format!("{name} is not paused")),
            );
        }
        self.expiry.set(Ends::Pause(name.into()), None);
        self.shown.jobs.insert(name.into());
        let control = Control::Resume { job: name.into() };
        self.settle(
            turn,
            request,
            control,
            audit,
            format!("{name} goes on at its next due time"),
        );
    }

    /// Somebody has seen a job's note of missed due times.
    fn seen_asked(&mut self, turn: &mut Turn, request: RequestId, name: &str, who: &str) {
        let mut audit = audit(turn.now.wall, who, "seen", name, "");
        let job: Arc<str> = name.into();
        if !self.jobs.contains_key(&job) {
            return self.refuse(turn, request, audit, Refusal::UnknownJob { job: name.into() });
        }
        let mut facts = Vec::new();
        let missed = self.forget_missed(&job, &mut facts);
        self.expiry.set(Ends::Missed(job), None);
        audit.detail = format!("{missed} missed");
        audit.outcome = "ok".into();
        say_audit(turn, &audit);
        facts.push(control_fact(Control::Audit(audit)));
        let answer = Ok(Done::Set(format!(
            "the missed due times of {name} are marked as seen"
        )));
        let ticket = self.ticket(Waiting::Answer { request, answer });
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        });
    }

    fn switch_asked(&mut self, turn: &mut Turn, request: RequestId, switch: SwitchRecord) {
        let word = if switch.is_on { "on" } else { "off" };
        let object = switch.machine.clone().unwrap_or_else(|| "global".into());
        let detail = format!("{word} until {}: {}", switch.until.iso(), switch.reason);
        let audit = audit(turn.now.wall, &switch.by, "maintenance", &object, &detail);
        let is_new = !self.switches.contains_key(&switch.machine);
        if is_new && self.switches.len() >= limits::CONTROLS {
            let refusal = Refusal::Conflict("too many machines are switched".into());
            return self.refuse(turn, request, audit, refusal);
        }
        let mut told = format!("maintenance ({object}) is {word} until {}", switch.until.iso());
        if let Some(machine) = &switch.machine
            && !self.is_targeted(machine)
        {
            told.push_str("; warning: no job has this machine among its targets, check its name");
        }
        if let Some(old) = self.switches.insert(switch.machine.clone(), switch.clone()) {
            self.maintenance_is_over(&old, turn.now.wall);
        }
        let ends = Ends::Switch(switch.machine.clone());
        self.expiry.set(ends, Some(switch.until));
        self.apply_switches();
        self.settle(turn, request, Control::Switch(switch), audit, told);
    }

    /// Whether a job may run on the machine.
    fn is_targeted(&self, machine: &str) -> bool {
        let mut jobs = self.config.jobs.values();
        jobs.any(|job| glob::may_match(&job.spec, machine))
    }

    fn switch_back_asked(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        machine: Option<String>,
        who: String,
    ) {
        let object = machine.clone().unwrap_or_else(|| "global".into());
        let audit = audit(turn.now.wall, &who, "maintenance", &object, "back to the files");
        let Some(switch) = self.switches.remove(&machine) else {
            let refusal = Refusal::Conflict(format!("maintenance ({object}) is not switched"));
            return self.refuse(turn, request, audit, refusal);
        };
        self.maintenance_is_over(&switch, turn.now.wall);
        self.expiry.set(Ends::Switch(machine.clone()), None);
        self.apply_switches();
        let told = format!("maintenance ({object}) is as the files say");
        self.settle(turn, request, Control::SwitchBack { machine }, audit, told);
    }

    /// Stores what was asked for together with its audit record; the answer follows the commit.
    fn settle(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        control: Control,
        mut audit: AuditRecord,
        told: String,
    ) {
        audit.outcome = "ok".into();
        say_audit(turn, &audit);
        let answer = Ok(Done::Set(told));
        let ticket = self.ticket(Waiting::Answer { request, answer });
        turn.commit(Write {
            facts: vec![control_fact(control), control_fact(Control::Audit(audit))],
            ticket: Some(ticket),
            ..Write::default()
        });
    }

    /// Refuses a request, and records it in the audit.
    pub(super) fn refuse(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        mut audit: AuditRecord,
        refusal: Refusal,
    ) {
        audit.outcome = match &refusal {
            Refusal::UnknownJob { .. } => "there is no such job".into(),
            Refusal::Conflict(why) | Refusal::Invalid(why) | Refusal::Unavailable(why) => cut(why),
        };
        self.keep_audit(turn, audit);
        let answer = Err(refusal);
        turn.effects.push(Effect::Answer { request, answer });
    }

    /// Stores and logs what a user did.
    pub(super) fn keep_audit(&mut self, turn: &mut Turn, audit: AuditRecord) {
        say_audit(turn, &audit);
        turn.store(vec![control_fact(Control::Audit(audit))]);
    }

    /// What is in force: the files', with the switches on top.
    pub(super) fn apply_switches(&mut self) {
        let mut maintenance = self.config.maintenance.clone();
        for (machine, switch) in &self.switches {
            match (machine, switch.is_on) {
                (None, is_on) => maintenance.global = is_on,
                (Some(machine), true) => drop(maintenance.machines.insert(machine.clone())),
                (Some(machine), false) => drop(maintenance.machines.remove(machine)),
            }
        }
        self.maintenance = maintenance;
        self.shown.is_changed = true;
    }

    /// Pauses and switches from storage, before the first configuration. What is over ends with the first tick.
    pub(super) fn recover_controls(&mut self, controls: Vec<Control>) {
        for control in controls {
            match control {
                Control::Pause(pause) => {
                    let name: Arc<str> = pause.job.as_str().into();
                    self.expiry.set(Ends::Pause(name.clone()), pause.until);
                    let state = self.jobs.entry(name).or_default();
                    state.record.job.clone_from(&pause.job);
                    state.paused = Some(Arc::new(pause));
                }
                Control::Switch(switch) => {
                    let ends = Ends::Switch(switch.machine.clone());
                    self.expiry.set(ends, Some(switch.until));
                    self.switches.insert(switch.machine.clone(), switch);
                }
                Control::Resume { .. } | Control::SwitchBack { .. } | Control::Audit(_) => {}
            }
        }
    }
}

/// An audit record whose outcome is still to come.
pub(super) fn audit(at: Wall, by: &str, action: &str, object: &str, detail: &str) -> AuditRecord {
    AuditRecord {
        at,
        by: by.into(),
        action: action.into(),
        object: cut(object),
        detail: cut(detail),
        outcome: String::new(),
    }
}

/// As storage takes it.
pub(super) fn control_fact(control: Control) -> Fact {
    Fact::Control(Box::new(control))
}

/// The line in the daemon's log.
pub(super) fn say_audit(turn: &mut Turn, audit: &AuditRecord) {
    let AuditRecord {
        by,
        action,
        object,
        detail,
        outcome,
        ..
    } = audit;
    let text = format!("audit: {by}: {action} {object} ({detail}): {outcome}");
    // what was asked for may be anything: it must not make lines of its own
    let text = text.replace(|c: char| c.is_control(), " ");
    turn.say(Level::Info, text);
}

/// Names of what was asked for; never a parameter's value.
fn run_detail(order: &RunOrder) -> String {
    let mut parts = Vec::new();
    if !order.machines.is_empty() {
        parts.push(format!("machines {}", order.machines.join(" ")));
    }
    if !order.parameters.is_empty() {
        let names: Vec<&str> = order.parameters.keys().map(String::as_str).collect();
        parts.push(format!("parameters {}", names.join(" ")));
    }
    parts.join(", ")
}

fn cut(text: &str) -> String {
    text.chars().take(AUDIT_PART_CHARS).collect()
}
