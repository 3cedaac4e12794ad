//! The start of a run: it is stored before it has any effect.
//! Must not know: frames, schedules, what follows once machines are known.

use std::sync::Arc;

use log::Level;

use crate::clock::Wall;
use crate::config::{ExecutorKind, JobSpec};
use crate::engine::commits::{Waiting, why};
use crate::engine::control::{Wanted, control_fact, say_audit};
use crate::engine::effect::{Done, Effect, ExecutorOrder, Fact, JobLogLine, Refusal, Write};
use crate::engine::event::StoreOutcome;
use crate::engine::id::{RequestId, RunId};
use crate::engine::record::{Control, RunRecord, Verdict, VerdictRecord};
use crate::engine::run::Run;
use crate::engine::{Engine, Turn};
use crate::limits;

impl Engine {
    /// Fires a job: reserves its instance and asks storage; nothing else happens before the commit
    /// (rules.md 11).
    pub(super) fn start_run(
        &mut self,
        turn: &mut Turn,
        job: &str,
        due: Option<Wall>,
        wanted: Option<Wanted>,
    ) {
        let configured = self.jobs.get(job).and_then(|state| state.job.as_ref());
        let Some(spec) = configured.map(|job| job.spec.clone()) else {
            return;
        };
        let trigger = trigger(turn.now.wall, due, wanted.as_ref());
        let (request, asked_by, spec, audit) = match wanted {
            Some(wanted) => (
                Some(wanted.request),
                Some(wanted.who),
                wanted.spec,
                Some(wanted.audit),
            ),
            None => (None, None, spec, None),
        };
        let spec = self.with_wrapper(spec);
        let spec = Arc::new(spec.with_reason(due.unwrap_or(turn.now.wall), trigger));
        let id = self.runs.next_id();
        let mut record = RunRecord {
            id,
            job: job.to_string(),
            due,
            asked_by,
            started: turn.now.wall,
            token: self.random.token(),
            spec,
            ..RunRecord::default()
        };
        let mut tries = 0;
        record.instance = self.free_instance(job, turn.now.wall, &mut tries);
        let handover = self.handover(&record.spec);
        let mut run = Run::new(record, Vec::new(), turn.awake);
        run.handover = handover;
        run.is_stored = false;
        run.name_tries = tries;
        run.audit = audit;
        self.runs.insert(run);
        if let Some(state) = self.jobs.get_mut(job) {
            state.open.push(id);
        }
        self.store_start(turn, id, request);
    }

    /// The local executor always has a wrapper (rules.md 28).
    fn with_wrapper(&self, spec: Arc<JobSpec>) -> Arc<JobSpec> {
        if spec.use_wrapper || self.config.settings.executor == ExecutorKind::Salt {
            spec
        } else {
            Arc::new(JobSpec {
                use_wrapper: true,
                ..JobSpec::clone(&spec)
            })
        }
    }

    /// The instance name of a job that fires now, with `_2`... until it is free.
    pub(super) fn free_instance(&self, job: &str, at: Wall, tries: &mut u32) -> String {
        loop {
            *tries += 1;
            let name = match *tries {
                1 => format!("{job}_{}", at.secs()),
                number => format!("{job}_{}_{number}", at.secs()),
            };
            if !self.runs.is_named(&name) {
                return name;
            }
        }
    }

    fn store_start(&mut self, turn: &mut Turn, id: RunId, request: Option<RequestId>) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let mut facts = vec![Fact::Start(Box::new(run.record.clone()))];
        if let Some(state) = self.jobs.get(run.record.job.as_str()) {
            run.job_facts = state.facts;
            facts.push(Fact::Job(state.started(&run.record)));
        }
        if let Some(due) = run.record.due {
            facts.push(Fact::Verdict(VerdictRecord {
                job: run.record.job.clone(),
                due,
                until: due,
                count: 1,
                verdict: Verdict::Started {
                    instance: run.record.instance.clone(),
                },
            }));
        }
        if let Some(audit) = &run.audit {
            let mut audit = audit.clone();
            audit.outcome = format!("ok: {}", run.record.instance);
            facts.push(control_fact(Control::Audit(audit)));
        }
        let ticket = self.ticket(Waiting::Start { run: id, request });
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        });
    }

    /// The start is stored: now it may have effects.
    pub(super) fn start_stored(&mut self, turn: &mut Turn, id: RunId, request: Option<RequestId>) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.is_stored = true;
        run.asked_executor = turn.awake;
        let (instance, job, spec) = (
            run.record.instance.clone(),
            run.record.job.clone(),
            run.record.spec.clone(),
        );
        turn.execute(ExecutorOrder::Resolve { run: id, spec });
        turn.effects
            .push(run.log_entry(run.record.started, JobLogLine::Starting));
        let held_kills = std::mem::take(&mut run.held_kills);
        let due = run.record.due;
        if let Some(mut audit) = run.audit.take() {
            audit.outcome = format!("ok: {instance}");
            say_audit(turn, &audit);
        }
        if let Some(request) = request {
            turn.effects.push(Effect::Answer {
                request,
                answer: Ok(Done::Started { instance }),
            });
        }
        if let Some(state) = self.jobs.get_mut(job.as_str()) {
            state.record = state.started(&run.record);
            if state.facts != run.job_facts {
                // another record of the job went to storage meanwhile, without the start
                turn.store(vec![state.fact()]);
            }
            if let Some(due) = due {
                let started = run.record.started;
                let late_ms = u64::try_from((started.0 - due.0) / 1_000).unwrap_or(0);
                state.counts.starts += 1;
                state.counts.late_ms_sum += late_ms;
                state.counts.late_ms_last = late_ms;
            }
        }
        for (request, machines) in held_kills {
            self.answer_kill(turn, request, &[id], machines);
        }
        self.watch_run(id);
        self.touch_run(id);
    }

    /// Storage holds a run of that name: the next name.
    pub(super) fn start_renamed(&mut self, turn: &mut Turn, id: RunId, request: Option<RequestId>) {
        let Some(run) = self.runs.get(id) else { return };
        let (job, started, mut tries) = (run.record.job.clone(), run.record.started, run.name_tries);
        let name = self.free_instance(&job, started, &mut tries);
        self.runs.rename(id, name);
        if let Some(run) = self.runs.get_mut(id) {
            run.name_tries = tries;
        }
        self.store_start(turn, id, request);
    }

    /// The start could not be stored: that run never was.
    pub(super) fn start_refused(
        &mut self,
        turn: &mut Turn,
        id: RunId,
        request: Option<RequestId>,
        outcome: &StoreOutcome,
    ) {
        let Some(mut run) = self.forget_run(id) else {
            return;
        };
        for (request, _) in run.held_kills.drain(..) {
            let answer = Err(Refusal::Conflict(format!(
                "{} did not start",
                run.record.instance
            )));
            turn.effects.push(Effect::Answer { request, answer });
        }
        let (job, instance) = (run.record.job, run.record.instance);
        if let Some(state) = self.jobs.get_mut(job.as_str()) {
            state.open.retain(|open| *open != id);
        }
        if *outcome == StoreOutcome::AlreadyStarted {
            turn.say(
                Level::Debug,
                format!("{instance} not started: its due time has a verdict already"),
            );
            return;
        }
        let reason = why(outcome);
        turn.say(
            Level::Error,
            format!("{instance} not started: its start could not be stored: {reason}"),
        );
        if let Some(request) = request {
            let answer = Err(Refusal::Unavailable(format!("not started: {reason}")));
            turn.effects.push(Effect::Answer { request, answer });
        }
        if let Some(due) = run.record.due {
            self.missed(
                turn,
                &job,
                due.secs(),
                due.secs(),
                1,
                &format!("not stored: {reason}"),
            );
        }
    }
}

/// Why a run starts, as its command finds it in `SP_TRIGGER`.
fn trigger(now: Wall, due: Option<Wall>, wanted: Option<&Wanted>) -> &'static str {
    match (due, wanted) {
        (Some(due), _) if now > due.plus_ms(limits::STALL_MS as i64) => "catch_up",
        (Some(_), _) => "schedule",
        (None, Some(wanted)) if wanted.is_retry => "retry",
        (None, _) => "manual",
    }
}
