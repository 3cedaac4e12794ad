//! Requests that change something: each handler reads its body, asks the engine and reports the answer.
//! Must not know: how the engine decides.

use super::call::{Answered, Call};
use super::error::{Denied, bad, conflict, unreadable};
use super::http::Response;
use super::views::{self, KillJobBody, Noticed, PauseBody, RunBody, Started, SwitchBody, Told};
use crate::clock;
use crate::engine::effect::Done;
use crate::engine::event::{Ask, RunOrder};
use crate::limits;
use crate::time_text::moment;

/// `POST /api/v1/jobs/{job}/run`.
pub fn run(call: &Call) -> Answered {
    let body: RunBody = call.body()?;
    // a script whose list came out empty does not mean all machines
    if body.targets.as_ref().is_some_and(Vec::is_empty) {
        return Err(bad("'targets' is empty: leave it out for all machines"));
    }
    let machines = body.targets.unwrap_or_default();
    if machines.len() > limits::RUN_MACHINES {
        return Err(bad(format!(
            "'targets' has more than {} machines",
            limits::RUN_MACHINES
        )));
    }
    if machines.iter().any(String::is_empty) {
        return Err(bad("'targets' has an empty name"));
    }
    let order = RunOrder {
        machines,
        parameters: body.parameters.unwrap_or_default(),
        retry_of: None,
    };
    let job = call.parts[0].clone();
    tell(call.ask(Ask::RunWith { job, order })?)
}

/// `POST /api/v1/jobs/{job}/kill`.
pub fn kill_job(call: &Call) -> Answered {
    let body: KillJobBody = call.body()?;
    let ask_kill = Ask::Kill {
        job: call.parts[0].clone(),
        machine: body.machine,
        instance: body.instance,
    };
    tell(call.ask(ask_kill)?)
}

/// `POST /api/v1/runs/{instance}/kill`.
pub fn kill_run(call: &Call) -> Answered {
    call.no_body()?;
    kill_instance(call, None)
}

/// `POST /api/v1/runs/{instance}/machines/{machine}/kill`.
pub fn kill_machine(call: &Call) -> Answered {
    call.no_body()?;
    kill_instance(call, Some(call.parts[1].clone()))
}

fn kill_instance(call: &Call, machine: Option<String>) -> Answered {
    let instance = call.parts[0].clone();
    let run = call.run(&instance)?;
    let ask_kill = Ask::Kill {
        job: run.run.job.clone(),
        machine,
        instance: Some(instance),
    };
    match call.ask(ask_kill) {
        // the run is known: its job is gone, and so is everything that could be killed
        Err(denied) if denied.status == 404 => Err(conflict("the run has ended")),
        done => tell(done?),
    }
}

/// `POST /api/v1/runs/{instance}/retry`: the machines that failed, once more.
pub fn retry(call: &Call) -> Answered {
    call.no_body()?;
    let run = call.run(&call.parts[0])?;
    if run.run.ended.is_none() {
        return Err(conflict("the run has not ended: wait for it, or kill it first"));
    }
    let failed: Vec<String> = run
        .machines
        .iter()
        .map(|machine| &machine.record)
        .filter(|machine| !machine.not_counted && machine.retcode != Some(0))
        .map(|machine| machine.machine.clone())
        .collect();
    if failed.is_empty() {
        return Err(conflict("no machine of this run has failed"));
    }
    let mut parameters = run.run.spec.parameters.clone();
    if let Some(job) = call.board.config.jobs.get(&run.run.job) {
        // what the job no longer declares cannot be handed on
        parameters.retain(|name, _| job.spec.parameters.contains_key(name));
    }
    let order = RunOrder {
        machines: failed,
        parameters,
        retry_of: Some(run.run.instance.clone()),
    };
    let job = run.run.job.clone();
    tell(call.ask(Ask::RunWith { job, order })?)
}

/// `POST /api/v1/jobs/{job}/pause`.
pub fn pause(call: &Call) -> Answered {
    let body: PauseBody = call.body()?;
    let reason = reason(&body.reason)?;
    let now = clock::wall();
    let until = match body.until.as_deref().map(|text| moment(text, now)) {
        None => None,
        Some(None) => {
            return Err(bad(
                "invalid time in 'until': expected 2026-11-21T10:00:00Z or now+1h",
            ));
        }
        Some(Some(until)) if until <= now => return Err(bad("'until' is not in the future")),
        Some(until) => until,
    };
    let job = call.parts[0].clone();
    tell(call.ask(Ask::Pause { job, until, reason })?)
}

/// `POST /api/v1/jobs/{job}/resume`.
pub fn resume(call: &Call) -> Answered {
    call.no_body()?;
    let job = call.parts[0].clone();
    tell(call.ask(Ask::Resume { job })?)
}

/// `POST /api/v1/jobs/{job}/seen`: its missed due times need no note any more.
pub fn seen(call: &Call) -> Answered {
    call.no_body()?;
    let job = call.parts[0].clone();
    tell(call.ask(Ask::Seen { job })?)
}

/// `PUT /api/v1/maintenance`.
pub fn switch(call: &Call) -> Answered {
    let body: SwitchBody = call.body()?;
    let reason = reason(&body.reason)?;
    let seconds = body.seconds.unwrap_or(limits::SWITCH_S as f64);
    if seconds.fract() != 0.0 || !(1.0..=limits::SWITCH_MAX_S as f64).contains(&seconds) {
        return Err(bad(format!(
            "'seconds' must be a whole number from 1 to {}: set longer maintenance in the configuration files",
            limits::SWITCH_MAX_S
        )));
    }
    let ask_switch = Ask::Switch {
        machine: machine(body.machine)?,
        is_on: body.on,
        until: clock::wall().plus_ms(seconds as i64 * 1_000),
        reason,
    };
    tell(call.ask(ask_switch)?)
}

/// `DELETE /api/v1/maintenance`. An empty `machine` is refused: a script with an empty variable must not lift the
/// global one.
pub fn switch_back(call: &Call) -> Answered {
    let machine = machine(call.query.given("machine").map(str::to_string))?;
    tell(call.ask(Ask::SwitchBack { machine })?)
}

/// `POST /api/v1/notifications/{id}/retry`.
pub fn retry_notification(call: &Call) -> Answered {
    call.no_body()?;
    let id = call.parts[0].parse().ok();
    let found = match id {
        Some(id) => call.shared.reader.lock().notice(id).map_err(unreadable)?,
        None => None,
    };
    let notice = found.ok_or_else(|| Denied::new(404, "no such notification"))?;
    let notice = Box::new(notice);
    tell(call.ask(Ask::RetryNotice { notice })?)
}

/// `POST /api/v1/notifiers/{name}/test`.
pub fn test_notifier(call: &Call) -> Answered {
    call.no_body()?;
    let name = call.parts[0].clone();
    if !call.board.config.settings.notifiers.contains_key(&name) {
        return Err(Denied::new(404, "no such notifier"));
    }
    tell(call.ask(Ask::TestNotifier { name })?)
}

fn tell(done: Done) -> Answered {
    Ok(match done {
        Done::Started { instance } => Response::json(200, &Started { instance }),
        Done::KillSent { machines } => {
            let message = views::kill_sent(machines);
            Response::json(200, &Told { message })
        }
        Done::Noticed { id } => Response::json(200, &Noticed { id }),
        Done::Set(message) => Response::json(200, &Told { message }),
    })
}

fn reason(text: &str) -> Result<String, Denied> {
    let says_something = text.chars().any(|c| !c.is_whitespace() && !c.is_control());
    if !says_something || text.chars().count() > limits::REASON_CHARS {
        return Err(bad(format!(
            "'reason' must say why, in at most {} characters",
            limits::REASON_CHARS
        )));
    }
    Ok(text.trim().to_string())
}

fn machine(name: Option<String>) -> Result<Option<String>, Denied> {
    match &name {
        Some(name) if name.is_empty() || name.chars().count() > limits::REASON_CHARS => {
            Err(bad("'machine' must be a machine's name"))
        }
        _ => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_something() {
        assert_eq!(reason("  disk swap "), Ok("disk swap".into()));
        assert_eq!(reason(" ").unwrap_err().status, 400);
        assert_eq!(
            reason(&"x".repeat(limits::REASON_CHARS + 1)).unwrap_err().status,
            400
        );
    }
}
