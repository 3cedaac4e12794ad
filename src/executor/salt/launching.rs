//! The wrapper's start on some minions: what Salt is asked to run there, and what their answers mean.
//! Must not know: the helper process, what a wrapper does once launched.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::protocol::{self, LaunchReturn, Request};
use super::{NO_ANSWER, NO_RESPONSE, NOT_STARTED, Salt, What};
use crate::clock::{self, Mono};
use crate::config::Settings;
use crate::engine::effect::Dispatch;
use crate::engine::event::Event;
use crate::engine::id::MachineRunId;
use crate::engine::record::Handover;
use crate::executor::endpoint::Endpoint;
use crate::executor::launch;
use crate::limits;
use crate::process::host::short_name;

/// Before the wrapper's path. The command is a template, the only thing that Salt renders on the minion. One dispatch
/// serves all minions, and each wrapper must know which it is on: `env` sets that whatever the minion's shell is. And
/// a wrapper must outlive the minion's service where systemd kills all of its control group: then it gets
/// a scope of its own, as Salt does it for package managers, with the same setting to forbid it.
const WRAPPER_PREFIX: &str = "{% if 'file.read' in salt and salt['file.file_exists']('/proc/self/cgroup') \
    and 'salt-minion.service' in salt['file.read']('/proc/self/cgroup') \
    and salt['config.get']('systemd.scope', True) and salt['cmd.which']('systemd-run') \
    %}systemd-run --scope --quiet {% endif %}env SP_MACHINE_ID='{{ grains['id'] }}' ";

/// The wrapper's start on some minions.
pub(super) struct Launching {
    dispatch: Dispatch,
    kwarg: BTreeMap<&'static str, Value>,
    /// Those that have not answered.
    open: HashMap<String, MachineRunId>,
    /// When the engine was told last that minions still have it. None: it is not published.
    told: Option<Mono>,
}

impl Salt {
    pub(super) fn dispatch(&mut self, dispatch: Dispatch) {
        let settings = self.settings.read().clone();
        let refusal = self.no_salt.clone().or_else(|| unfit(&dispatch.spec.env));
        if let Some(text) = refusal {
            for (machine_run, _) in dispatch.machines {
                self.report(failed(machine_run, NOT_STARTED, text.clone()));
            }
            return;
        }
        if dispatch.handover == Handover::Plain {
            return self.run_plain(dispatch);
        }
        let kwarg = wrapper_call(&dispatch, &settings, &self.endpoint);
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
            told: None,
        };
        self.add(jid, again, deadline, What::Launch(launching));
    }
}

impl Launching {
    pub(super) fn published(&mut self, now: Mono, unknown: &[String]) -> Vec<Event> {
        let mut events = vec![self.tell(now)];
        events.extend(self.lost(unknown));
        events
    }

    /// Those will not answer.
    pub(super) fn lost(&mut self, machines: &[String]) -> Vec<Event> {
        let lost = machines.iter().filter_map(|machine| self.open.remove(machine));
        lost.map(|id| failed(id, NO_ANSWER, NO_RESPONSE.to_string()))
            .collect()
    }

    /// It is Salt's word that ends it: until then the engine must not.
    pub(super) fn still_waits(&mut self, now: Mono) -> Option<Event> {
        let is_time = |told| now.since_ms(told) >= limits::WAITING_TOLD_MS;
        self.told.is_some_and(is_time).then(|| self.tell(now))
    }

    fn tell(&mut self, now: Mono) -> Event {
        self.told = Some(now);
        Event::LaunchPending {
            machine_runs: self.open.values().copied().collect(),
        }
    }

    pub(super) fn returned(&mut self, machine: &str, ret: &Value) -> Option<Event> {
        let machine_run = self.open.remove(machine)?;
        Some(match protocol::launch(ret) {
            LaunchReturn::Started => Event::Launched { machine_run },
            LaunchReturn::Failed(text) => failed(machine_run, NOT_STARTED, text),
        })
    }

    /// Those that have not answered will not be heard any more.
    pub(super) fn end_all(&mut self, retcode: i32, text: &str) -> Vec<Event> {
        let open = self.open.drain();
        open.map(|(_, machine_run)| failed(machine_run, retcode, text.to_string()))
            .collect()
    }

    pub(super) fn fill_in(&self, request: &mut Request, left_ms: u64) {
        let machines = self.dispatch.machines.iter().map(|(_, machine)| machine);
        let open: Vec<&String> = machines
            .filter(|machine| self.open.contains_key(*machine))
            .collect();
        request.tgt = json!(open);
        request.kwarg = self.kwarg.clone();
        request.timeout = limits::LAUNCH_PATIENCE_MS.min(left_ms) as f64 / 1_000.0;
        request.patience = limits::LAUNCH_BUSY_MS as f64 / 1_000.0;
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
pub(super) fn wrapper_call(
    dispatch: &Dispatch,
    settings: &Settings,
    endpoint: &Endpoint,
) -> BTreeMap<&'static str, Value> {
    let path = dispatch
        .spec
        .wrapper_path
        .as_ref()
        .or(settings.default_wrapper_path.as_ref());
    let path = path.map_or(limits::SALT_WRAPPER_PATH, String::as_str);
    let host = settings
        .server_host(&dispatch.spec)
        .map_or_else(short_name, str::to_string);
    let route = endpoint.route(&host, &dispatch.spec, settings);
    let env = launch::settings_of(dispatch, &route, settings);
    let command = format!("{WRAPPER_PREFIX}{path}");
    [
        ("cmd", json!(command)),
        ("template", json!("jinja")),
        ("env", json!(env)),
        ("reset_system_locale", json!(false)),
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_told_of_a_launch_that_still_waits_until_it_is_answered() {
        let machines = ["a", "b"].map(String::from);
        let mut launching = Launching {
            dispatch: Dispatch {
                run: Default::default(),
                job: "j".into(),
                instance: "j_1".into(),
                token: "t".into(),
                spec: Default::default(),
                machines: (1..).map(MachineRunId).zip(machines.clone()).collect(),
                handover: Handover::OverSocket,
                at: Default::default(),
                again: false,
            },
            kwarg: BTreeMap::new(),
            open: machines.into_iter().zip((1..).map(MachineRunId)).collect(),
            told: None,
        };
        // before it is published its time is the executor's own matter
        assert!(launching.still_waits(Mono(600_000)).is_none());
        launching.published(Mono(0), &[]);
        launching.returned("a", &json!({"retcode": 0}));
        let told_every_ms: Vec<u64> = (0..=25_000)
            .filter(|ms| launching.still_waits(Mono(*ms)).is_some())
            .collect();
        assert_eq!(told_every_ms, [10_000, 20_000]);
        let again = launching.still_waits(Mono(30_000));
        assert!(
            matches!(&again, Some(Event::LaunchPending { machine_runs }) if machine_runs[..] == [MachineRunId(2)]),
            "{again:?}"
        );
    }
}
