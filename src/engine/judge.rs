//! What of a job's life is told: each change of its state once (notice.rs remembers), to whom its configuration says.
//! Must not know: how and when notices are delivered.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::clock::Wall;
use crate::config::Job;
use crate::config::notify::{NoticeKind, Notify};
use crate::config::quiet::Quiet;
use crate::ending::{GivenBy, code};
use crate::engine::effect::Fact;
use crate::engine::id::RunId;
use crate::engine::notice::{Change, NoticeFacts, NoticeMachine};
use crate::engine::run::Run;
use crate::engine::{Engine, Turn};
use crate::limits;

/// What the wall clock brings, ordered by its second.
#[derive(Debug, Default)]
pub(super) struct Watches {
    due: BTreeSet<(i64, Arc<str>, Watch)>,
    /// Jobs with a due time that may become late: the earliest one speaks for those behind it.
    late: HashSet<Arc<str>>,
    /// Runs and failures that are watched have been found since the start, or the latest configuration.
    is_planned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Watch {
    /// A run for this due time should have ended.
    Late { due_s: i64 },
    /// The run should have ended.
    Long { run: RunId },
    /// A failure that lasts is told again.
    Remind,
}

impl Watches {
    /// There is a new configuration.
    pub(super) fn replan(&mut self) {
        self.is_planned = false;
    }
}

impl Engine {
    /// The configured job, and whom it tells; None: nobody.
    fn audience(&self, name: &str) -> Option<(Arc<Job>, Notify)> {
        let job = self.jobs.get(name)?.job.clone()?;
        let notify = job.notices.rule.over(&self.config.settings.notify);
        (!notify.to.is_empty()).then_some((job, notify))
    }

    /// A run has ended: what is to be stored with its end.
    pub(super) fn judge_end(&mut self, turn: &Turn, id: RunId) -> Vec<Fact> {
        let Some(run) = self.runs.get(id) else {
            return Vec::new();
        };
        let (Some(is_ok), false) = (run.record.success, was_killed(run)) else {
            return Vec::new();
        };
        let name = run.record.job.clone();
        let Some((job, notify)) = self.audience(&name) else {
            return Vec::new();
        };
        let mut about = facts_of_run(&job, run);
        let covered = run.record.due.unwrap_or(run.record.started).secs();
        let wants_failure = wants(&notify, about.kind);
        let Some(state) = self.jobs.get_mut(name.as_str()) else {
            return Vec::new();
        };
        let state = &mut state.notices;
        let before = state.clone();
        let failing_since = state.failing_since;
        state.missed_told = false;
        state.late_told = false;
        state.covered_s = state.covered_s.max(covered);
        let instance = about.instance.clone().unwrap_or_default();
        let change = state.ended(&instance, is_ok, turn.now.wall, &notify, wants_failure);
        about.failures = state.failures;
        about.failing_since = state.failing_since.or(failing_since);
        let mut told = Vec::new();
        match change {
            Some(Change::Failure) => told.push(about.clone()),
            Some(Change::Recovery { is_revised }) if is_revised || wants(&notify, NoticeKind::Recovery) => {
                told.push(NoticeFacts {
                    kind: NoticeKind::Recovery,
                    is_revised,
                    ..about.clone()
                });
            }
            Some(Change::Success) if wants(&notify, NoticeKind::Success) => {
                told.push(NoticeFacts {
                    kind: NoticeKind::Success,
                    ..about.clone()
                });
            }
            Some(Change::Flapping) if wants_failure || wants(&notify, NoticeKind::Recovery) => {
                told.push(NoticeFacts {
                    kind: NoticeKind::Flapping,
                    ..about.clone()
                });
            }
            _ => {}
        }
        let took_ms = (turn.now.wall.0 - about.started.unwrap_or(turn.now.wall).0) / 1_000;
        let is_short = is_ok && took_ms < job.notices.min_runtime_ms as i64;
        if is_short && !state.short_told && wants(&notify, NoticeKind::Short) {
            told.push(NoticeFacts {
                kind: NoticeKind::Short,
                ..about
            });
        }
        state.short_told = is_short;
        let mut facts = Vec::new();
        if *state != before {
            facts.push(Fact::NoticeState(name.clone(), Box::new(state.clone())));
        }
        self.watch_failure(&name);
        for about in told {
            facts.extend(self.tell(turn, &job, &notify, about));
        }
        facts
    }

    /// Due times of a job were passed over: told once until a run ends.
    pub(super) fn judge_missed(
        &mut self,
        turn: &Turn,
        name: &str,
        due: i64,
        count: u64,
        reason: &str,
    ) -> Vec<Fact> {
        let Some((job, notify)) = self.audience(name) else {
            return Vec::new();
        };
        let Some(state) = self.jobs.get_mut(name) else {
            return Vec::new();
        };
        if !wants(&notify, NoticeKind::Missed) || std::mem::replace(&mut state.notices.missed_told, true) {
            return Vec::new();
        }
        let more = match count {
            1 => String::new(),
            count => format!(" ({count} due times)"),
        };
        let about = NoticeFacts {
            due: Some(Wall::from_secs(due)),
            note: Some(format!("{reason}{more}")),
            ..facts_of_job(&job, NoticeKind::Missed)
        };
        let mut facts = vec![Fact::NoticeState(name.into(), Box::new(state.notices.clone()))];
        facts.extend(self.tell(turn, &job, &notify, about));
        facts
    }

    /// A due time has come that starts a run, or finds one running: it is expected to end in time.
    pub(super) fn expect_end(&mut self, name: &Arc<str>, due_s: i64) {
        let Some(job) = self.jobs.get(name).and_then(|state| state.job.as_ref()) else {
            return;
        };
        let within_s = job.notices.expect_within_s as i64;
        if within_s > 0 && self.watches.late.insert(name.clone()) {
            let at = due_s.saturating_add(within_s);
            self.watches.due.insert((at, name.clone(), Watch::Late { due_s }));
        }
    }

    /// A run has started: it may take long.
    pub(super) fn watch_run(&mut self, id: RunId) {
        let Some(run) = self.runs.get(id) else { return };
        let known = self.jobs.get_key_value(run.record.job.as_str());
        let Some((name, job)) = known.and_then(|(name, state)| Some((name, state.job.as_ref()?))) else {
            return;
        };
        let after_s = job.notices.warn_after_s as i64;
        if after_s > 0 {
            let at = run.record.started.secs().saturating_add(after_s);
            self.watches
                .due
                .insert((at, name.clone(), Watch::Long { run: id }));
        }
    }

    /// A failure that was told may have to be told again.
    fn watch_failure(&mut self, name: &str) {
        let Some((_, notify)) = self.audience(name).filter(|(_, notify)| notify.repeat_s > 0) else {
            return;
        };
        if let Some((name, state)) = self.jobs.get_key_value(name)
            && let Some(told) = state.notices.told
        {
            let at = told.secs().saturating_add(notify.repeat_s as i64);
            self.watches.due.insert((at, name.clone(), Watch::Remind));
        }
    }

    /// Looks once a second at what is late, takes long, or still fails.
    pub(super) fn look_at_watches(&mut self, turn: &mut Turn) {
        if !std::mem::replace(&mut self.watches.is_planned, true) {
            self.plan_watches();
        }
        let now_s = self.look.believed(turn.now, turn.awake).secs();
        for _ in 0..limits::TURN_WATCHES {
            if self.watches.due.first().is_none_or(|(at, _, _)| *at > now_s) {
                return;
            }
            let Some((_, name, watch)) = self.watches.due.pop_first() else {
                return;
            };
            let facts = match watch {
                Watch::Late { due_s } => {
                    self.watches.late.remove(&name);
                    self.judge_late(turn, &name, due_s)
                }
                Watch::Long { run } => self.judge_long(turn, &name, run),
                Watch::Remind => self.remind(turn, &name),
            };
            turn.store(facts);
        }
    }

    fn plan_watches(&mut self) {
        self.watches
            .due
            .retain(|(_, _, watch)| matches!(watch, Watch::Late { .. }));
        for id in self.runs.open() {
            self.watch_run(id);
            let due = self
                .runs
                .get(id)
                .and_then(|run| run.record.due.map(|due| (run, due)));
            if let Some((name, due)) = due.and_then(|(run, due)| {
                let (name, _) = self.jobs.get_key_value(run.record.job.as_str())?;
                Some((name.clone(), due))
            }) {
                self.expect_end(&name, due.secs());
            }
        }
        let failing = self.jobs.iter().filter(|(_, state)| state.notices.told.is_some());
        let failing: Vec<Arc<str>> = failing.map(|(name, _)| name.clone()).collect();
        for name in failing {
            self.watch_failure(&name);
        }
    }

    fn judge_late(&mut self, turn: &Turn, name: &Arc<str>, due_s: i64) -> Vec<Fact> {
        let Some((job, notify)) = self.audience(name) else {
            return Vec::new();
        };
        let Some(state) = self.jobs.get_mut(name) else {
            return Vec::new();
        };
        let is_told = state.notices.late_told || !wants(&notify, NoticeKind::Late);
        if state.notices.covered_s >= due_s || state.paused.is_some() || is_told {
            return Vec::new();
        }
        state.notices.late_told = true;
        let about = NoticeFacts {
            due: Some(Wall::from_secs(due_s)),
            ..facts_of_job(&job, NoticeKind::Late)
        };
        let mut facts = vec![Fact::NoticeState(
            name.to_string(),
            Box::new(state.notices.clone()),
        )];
        facts.extend(self.tell(turn, &job, &notify, about));
        facts
    }

    fn judge_long(&mut self, turn: &Turn, name: &Arc<str>, id: RunId) -> Vec<Fact> {
        let Some((job, notify)) = self.audience(name) else {
            return Vec::new();
        };
        let Some(run) = self.runs.get(id).filter(|run| run.is_open()) else {
            return Vec::new();
        };
        let Some(state) = self.jobs.get_mut(name) else {
            return Vec::new();
        };
        let instance = Some(run.record.instance.clone());
        if state.notices.long_told == instance || !wants(&notify, NoticeKind::Long) {
            return Vec::new();
        }
        state.notices.long_told.clone_from(&instance);
        let about = NoticeFacts {
            instance,
            due: run.record.due,
            started: Some(run.record.started),
            ..facts_of_job(&job, NoticeKind::Long)
        };
        let mut facts = vec![Fact::NoticeState(
            name.to_string(),
            Box::new(state.notices.clone()),
        )];
        facts.extend(self.tell(turn, &job, &notify, about));
        facts
    }

    fn remind(&mut self, turn: &Turn, name: &Arc<str>) -> Vec<Fact> {
        let Some((job, notify)) = self.audience(name).filter(|(_, notify)| notify.repeat_s > 0) else {
            return Vec::new();
        };
        let Some(state) = self.jobs.get_mut(name) else {
            return Vec::new();
        };
        let now = turn.now.wall;
        let notices = &mut state.notices;
        let Some(told) = notices.told.filter(|_| !notices.is_flapping) else {
            return Vec::new();
        };
        let mut facts = Vec::new();
        if now.secs() >= told.secs().saturating_add(notify.repeat_s as i64) {
            notices.told = Some(now);
            let about = NoticeFacts {
                instance: state.record.last_instance.clone(),
                failing_since: notices.failing_since,
                failures: notices.failures,
                is_reminder: true,
                ..facts_of_job(&job, NoticeKind::Failure)
            };
            facts.push(Fact::NoticeState(name.to_string(), Box::new(notices.clone())));
            facts.extend(self.tell(turn, &job, &notify, about));
        }
        self.watch_failure(name);
        facts
    }

    /// Makes a notice for each destination of the job.
    fn tell(&mut self, turn: &Turn, job: &Job, notify: &Notify, about: NoticeFacts) -> Vec<Fact> {
        let about = Arc::new(about);
        let quiet_until = Quiet::end_of(&notify.quiet, turn.now.wall, job.schedule.zone());
        let mut facts = Vec::new();
        let mut told = BTreeSet::new();
        for to in &notify.to {
            // one that does not exist is among the problems
            if self.config.settings.notifiers.contains_key(to) && told.insert(to) {
                let (_, stored) = self.outbox.add(to, turn, quiet_until, about.clone());
                facts.extend(stored);
            }
        }
        facts
    }

    /// What is remembered of every job, once more: storage may have refused it.
    pub(super) fn notice_states(&self) -> Vec<Fact> {
        let told = self
            .jobs
            .iter()
            .filter(|(_, state)| state.notices != Default::default());
        told.map(|(name, state)| Fact::NoticeState(name.to_string(), Box::new(state.notices.clone())))
            .collect()
    }
}

/// A failure that is wanted under either name is told.
fn wants(notify: &Notify, kind: NoticeKind) -> bool {
    notify.on.contains(&kind) || kind == NoticeKind::Lost && notify.on.contains(&NoticeKind::Failure)
}

/// Users ended it: every machine that failed was to be killed, or none had started when the run was.
fn was_killed(run: &Run) -> bool {
    if run.record.success != Some(false) {
        return false;
    }
    match run.record.counts.unwrap_or_default() {
        counts if counts.failed > 0 => counts.killed == counts.failed,
        _ => run.record.kill_asked.is_some(),
    }
}

fn failed_machines(run: &Run) -> impl Iterator<Item = &crate::engine::record::MachineRecord> {
    let records = run.machines.iter().map(|m| &m.record);
    records.filter(|m| !m.not_counted && m.retcode != Some(0))
}

fn facts_of_job(job: &Job, kind: NoticeKind) -> NoticeFacts {
    NoticeFacts {
        group: job.group.clone(),
        description: job.description.clone(),
        ..NoticeFacts::about(kind, &job.name)
    }
}

/// Of a run that has ended, as a failure.
fn facts_of_run(job: &Job, run: &Run) -> NoticeFacts {
    let record = &run.record;
    let is_lost = failed_machines(run).any(|m| m.presumed && m.given_by == Some(GivenBy::Lost));
    let machines = failed_machines(run).take(limits::NOTICE_MACHINES).map(|m| {
        let output = record.output_of(m.id);
        NoticeMachine {
            machine: m.machine.clone(),
            retcode: m.retcode.unwrap_or(code::ERROR),
            outcome: m.outcome().unwrap_or_default().to_string(),
            machine_run: m.id.0,
            day: output.day,
            limit_bytes: output.limit_bytes,
        }
    });
    let counts = record.counts.unwrap_or_default();
    NoticeFacts {
        instance: Some(record.instance.clone()),
        due: record.due,
        started: Some(record.started),
        ended: record.ended,
        total: counts.total,
        failed: counts.failed,
        machines: machines.collect(),
        note: record.note.clone(),
        ..facts_of_job(
            job,
            if is_lost {
                NoticeKind::Lost
            } else {
                NoticeKind::Failure
            },
        )
    }
}
