//! What reaches machines: finds out which are up, starts wrappers; late, in pieces, not at all, or on a machine
//! that was frozen for minutes.
//! Must not know: what becomes of a wrapper once it runs.

use std::collections::BTreeMap;

use saltpeter::config::{JobSpec, Targets};
use saltpeter::engine::effect::{Dispatch, ExecutorOrder};
use saltpeter::engine::event::Event;
use saltpeter::engine::id::{MachineRunId, RunId};
use saltpeter::engine::record::Handover;

use crate::setup::{Kind, PYTHON_PATH};
use crate::trace;
use crate::world::{Action, World};

/// A wrapper process that will come to be.
#[derive(Clone, Debug)]
pub struct Launch {
    pub machine_run: MachineRunId,
    pub machine: usize,
    pub job: String,
    pub instance: String,
    pub token: String,
    pub kind: Kind,
    pub timeout_s: u64,
}

/// What the executor keeps, and how reliable it is.
#[derive(Default)]
pub struct Executor {
    /// Dispatches per machine run.
    /// A number that a crash forgot may be given again, to another run.
    pub dispatched: BTreeMap<(RunId, MachineRunId), u32>,
    /// In a thousand: launches that fail, never return, or happen on a frozen machine.
    pub chaos: u64,
    /// Scenario: the error text that launches on this machine end with.
    pub launch_error: BTreeMap<String, (i32, String)>,
    /// Scenario: launched, but no wrapper ever comes.
    pub stillborn: bool,
}

impl Executor {
    /// The daemon died: answers under way reach nobody (stale lives are ignored). Machines do what they were told.
    pub fn forget(&mut self) {}
}

impl World {
    /// Does what the engine wants of the executor. Jobs of the simulation all have a wrapper.
    pub fn executor_order(&mut self, order: ExecutorOrder) {
        match order {
            ExecutorOrder::Resolve { run, spec } => self.resolve(run, &spec),
            ExecutorOrder::Dispatch(dispatch) => self.dispatch(&dispatch),
            ExecutorOrder::Terminate { .. } => {}
        }
    }

    fn resolve(&mut self, run: RunId, spec: &JobSpec) {
        self.checker_resolve(run);
        let matched: Vec<usize> = match &spec.targets {
            Targets::Text(text) if text == "*" => (0..self.machines.len()).collect(),
            Targets::Text(text) => (0..self.machines.len())
                .filter(|m| self.machines[*m].name == *text)
                .collect(),
            Targets::List(list) => (0..self.machines.len())
                .filter(|m| list.contains(&self.machines[*m].name))
                .collect(),
        };
        if self.rng.chance(self.executor.chaos / 6) {
            let wait = self.delay(10, 20_000);
            let event = resolved(
                run,
                vec![],
                vec![],
                true,
                Some("salt-master does not answer".into()),
            );
            self.checker.executor_errors.insert(run);
            self.checker.resolved.remove(&run);
            self.control_after(wait, event);
            return;
        }
        let (up, down): (Vec<usize>, Vec<usize>) = matched.into_iter().partition(|m| self.machines[*m].up);
        let names =
            |world: &World, list: &[usize]| list.iter().map(|m| world.machines[*m].name.clone()).collect();
        let (up, down): (Vec<String>, Vec<String>) = (names(self, &up), names(self, &down));
        self.checker.resolved.insert(run, (up.clone(), down.clone()));
        let mut wait = self.delay(5, 400);
        if self.jitter && self.rng.chance(400) {
            for one in &up {
                wait += self.delay(0, 500);
                self.control_after(wait, resolved(run, vec![one.clone()], vec![], false, None));
            }
            wait += self.delay(0, 6_000);
            self.control_after(wait, resolved(run, vec![], down, true, None));
        } else {
            self.control_after(wait, resolved(run, up, down, true, None));
        }
    }

    fn dispatch(&mut self, dispatch: &Dispatch) {
        self.checker_dispatch(dispatch);
        let python = dispatch.spec.wrapper_path.as_deref() == Some(PYTHON_PATH);
        let kind = match (python, dispatch.handover == Handover::InDispatch) {
            (true, _) => Kind::Python,
            (false, true) => Kind::OursEnv,
            (false, false) => Kind::OursJob,
        };
        if python && dispatch.handover != Handover::InDispatch {
            self.fail("P1", "a Python wrapper was dispatched without its command".into());
        }
        for (machine_run, name) in &dispatch.machines {
            *self
                .executor
                .dispatched
                .entry((dispatch.run, *machine_run))
                .or_default() += 1;
            let launch = Launch {
                machine_run: *machine_run,
                machine: self.machine_index(name),
                job: dispatch.job.clone(),
                instance: dispatch.instance.clone(),
                token: dispatch.token.clone(),
                kind,
                timeout_s: dispatch.spec.timeout_s,
            };
            self.launch_on(launch, name);
        }
    }

    fn launch_on(&mut self, launch: Launch, name: &str) {
        let machine_run = launch.machine_run;
        if let Some((retcode, text)) = self.executor.launch_error.get(name).cloned() {
            self.checker.launch_failures.insert(machine_run, retcode);
            let failed = Event::LaunchFailed {
                machine_run,
                retcode,
                text,
            };
            self.control_after(10, failed);
            return;
        }
        let comes_at = self.delay(5, 600);
        let returns_at = comes_at + self.delay(0, 3_000);
        let frozen_until = self.machines[launch.machine].frozen_until_ms;
        if frozen_until > self.now_ms {
            let wait = frozen_until - self.now_ms + comes_at;
            trace!(
                self,
                "machine {name} is frozen: starts {} in {wait} ms", launch.instance
            );
            self.after(wait, Action::Launch(Box::new(launch)));
            return;
        }
        match self.rng.below(1000) {
            n if n < self.executor.chaos / 3 => {
                let text = "Minion did not return".to_string();
                let retcode = 254;
                self.checker.launch_failures.insert(machine_run, retcode);
                let failed = Event::LaunchFailed {
                    machine_run,
                    retcode,
                    text,
                };
                self.control_after(returns_at, failed);
            }
            n if n < self.executor.chaos * 2 / 3 => {
                trace!(self, "the dispatch to {name} is lost");
            }
            n if n < self.executor.chaos => {
                let wait = self.rng.range(20_000, 400_000);
                trace!(self, "{name} starts {} only in {wait} ms", launch.instance);
                self.after(wait, Action::Launch(Box::new(launch)));
            }
            _ => {
                if !self.executor.stillborn {
                    self.after(comes_at, Action::Launch(Box::new(launch)));
                }
                self.control_after(returns_at, Event::Launched { machine_run });
            }
        }
    }
}

fn resolved(run: RunId, up: Vec<String>, down: Vec<String>, finished: bool, error: Option<String>) -> Event {
    Event::Resolved {
        run,
        up,
        down,
        finished,
        error,
    }
}
