//! What changes something: each handler reads its body, asks the engine and tells its answer.
//! Must not know: how the engine decides.

use serde::de::DeserializeOwned;

use super::auth::Denied;
use super::http::{Response, phrase};
use super::query::{bad, moment};
use super::routes::{Answered, Call};
use super::v1;
use super::views::{
    self, Done, KillBody, KillJobBody, OldRunBody, PauseBody, RunBody, Started, SwitchBody, Verdict,
};
use crate::clock;
use crate::engine::effect::Answer;
use crate::engine::event::{Ask, RunOrder};
use crate::limits;

/// `POST /run`.
pub fn old_run(call: &Call) -> Answered {
    let body: OldRunBody = body(call)?;
    let answer = ask(
        call,
        Ask::Run {
            job: body.job.clone(),
        },
    )?;
    tell_old(call, &body.job, answer)
}

/// `POST /kill`.
pub fn old_kill(call: &Call) -> Answered {
    let body: KillBody = body(call)?;
    let answer = ask(
        call,
        Ask::Kill {
            job: body.job.clone(),
            machine: body.machine,
            instance: body.instance,
        },
    )?;
    tell_old(call, &body.job, answer)
}

/// `POST /api/v1/jobs/{job}/run`.
pub fn run(call: &Call) -> Answered {
    let body: RunBody = body(call)?;
    // a script whose list came out empty does not mean all machines
    if body.targets.as_ref().is_some_and(Vec::is_empty) {
        return Err(bad("'targets' is empty: leave it out for all machines".into()));
    }
    let machines = body.targets.unwrap_or_default();
    if machines.len() > limits::RUN_MACHINES {
        return Err(bad(format!(
            "'targets' has more than {} machines",
            limits::RUN_MACHINES
        )));
    }
    if machines.iter().any(String::is_empty) {
        return Err(bad("'targets' has an empty name".into()));
    }
    let order = RunOrder {
        machines,
        parameters: body.parameters.unwrap_or_default(),
        retry_of: None,
    };
    let job = call.parts[0].clone();
    tell(call, &call.parts[0], ask(call, Ask::RunWith { job, order })?)
}

/// `POST /api/v1/jobs/{job}/kill`.
pub fn kill_job(call: &Call) -> Answered {
    let body: KillJobBody = body(call)?;
    let ask_kill = Ask::Kill {
        job: call.parts[0].clone(),
        machine: body.machine,
        instance: body.instance,
    };
    tell(call, &call.parts[0], ask(call, ask_kill)?)
}

/// `POST /api/v1/runs/{instance}/kill`.
pub fn kill_run(call: &Call) -> Answered {
    let _: serde_json::Map<String, serde_json::Value> = body(call)?;
    kill_instance(call, None)
}

/// `POST /api/v1/runs/{instance}/machines/{machine}/kill`.
pub fn kill_machine(call: &Call) -> Answered {
    let _: serde_json::Map<String, serde_json::Value> = body(call)?;
    kill_instance(call, Some(call.parts[1].clone()))
}

fn kill_instance(call: &Call, machine: Option<String>) -> Answered {
    let instance = call.parts[0].clone();
    let run = v1::find_run(call, &instance)?;
    let ask_kill = Ask::Kill {
        job: run.run.job.clone(),
        machine,
        instance: Some(instance),
    };
    match ask(call, ask_kill)? {
        // the run is known: its job is gone, and so is everything that could be killed
        Answer::UnknownJob => Err(conflict("the run has ended")),
        answer => tell(call, &run.run.job, answer),
    }
}

/// `POST /api/v1/runs/{instance}/retry`: the machines that failed, once more.
pub fn retry(call: &Call) -> Answered {
    let _: serde_json::Map<String, serde_json::Value> = body(call)?;
    let run = v1::find_run(call, &call.parts[0])?;
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
    tell(call, &run.run.job, ask(call, Ask::RunWith { job, order })?)
}

/// `POST /api/v1/jobs/{job}/pause`.
pub fn pause(call: &Call) -> Answered {
    let body: PauseBody = body(call)?;
    let reason = reason(&body.reason)?;
    let now = clock::wall();
    let until = match body.until.as_deref().map(|text| moment(text, now)) {
        None => None,
        Some(None) => {
            return Err(bad(
                "'until' is no time: write 2026-11-21T10:00:00Z or now+1h".into()
            ));
        }
        Some(Some(until)) if until <= now => return Err(bad("'until' is not in the future".into())),
        Some(until) => until,
    };
    let job = call.parts[0].clone();
    tell(
        call,
        &call.parts[0],
        ask(call, Ask::Pause { job, until, reason })?,
    )
}

/// `POST /api/v1/jobs/{job}/resume`.
pub fn resume(call: &Call) -> Answered {
    let _: serde_json::Map<String, serde_json::Value> = body(call)?;
    let job = call.parts[0].clone();
    tell(call, &call.parts[0], ask(call, Ask::Resume { job })?)
}

/// `PUT /api/v1/maintenance`.
pub fn switch(call: &Call) -> Answered {
    let body: SwitchBody = body(call)?;
    let reason = reason(&body.reason)?;
    let seconds = body.seconds.unwrap_or(limits::SWITCH_S as f64);
    if seconds.fract() != 0.0 || !(1.0..=limits::SWITCH_MAX_S as f64).contains(&seconds) {
        return Err(bad(format!(
            "'seconds' must be a whole number from 1 to {}: what lasts longer belongs into the files",
            limits::SWITCH_MAX_S
        )));
    }
    let ask_switch = Ask::Switch {
        machine: machine(body.machine)?,
        is_on: body.on,
        until: clock::wall().plus_ms(seconds as i64 * 1_000),
        reason,
    };
    tell(call, "", ask(call, ask_switch)?)
}

/// `DELETE /api/v1/maintenance`. An empty `machine` is refused: a script with an empty variable must not lift the
/// global one.
pub fn switch_back(call: &Call) -> Answered {
    let machine = machine(call.query.given("machine").map(str::to_string))?;
    tell(call, "", ask(call, Ask::SwitchBack { machine })?)
}

/// Asks the engine in the caller's name.
fn ask(call: &Call, ask: Ask) -> Result<Answer, Denied> {
    Ok(call.shared.asks.ask(ask, call.caller.who.clone()))
}

/// A request's body. Only as JSON: a form on a web page cannot send that.
fn body<T: DeserializeOwned>(call: &Call) -> Result<T, Denied> {
    let content_type = call.request.header("content-type").unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Denied {
            status: 415,
            message: "the request needs 'Content-Type: application/json'".into(),
        });
    }
    let bytes = match call.request.body.as_slice() {
        [] => b"{}",
        bytes => bytes,
    };
    // serde takes an array for a struct, field by field: nobody means that
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(bad("the request's body is not a JSON object".to_string()));
    }
    serde_json::from_slice(bytes)
        .map_err(|problem| bad(format!("the request's body is not what is expected: {problem}")))
}

/// `job` is the one that was asked about, if any.
fn tell(call: &Call, job: &str, answer: Answer) -> Answered {
    Ok(match answer {
        Answer::Started { instance } => Response::json(200, &Started { instance }),
        Answer::KillSent { machines } => Response::json(
            200,
            &Done {
                message: kill_sent(machines),
            },
        ),
        Answer::Done(message) => Response::json(200, &Done { message }),
        refusal => return Err(refused(call, job, refusal)),
    })
}

fn tell_old(call: &Call, job: &str, answer: Answer) -> Answered {
    Ok(match answer {
        Answer::Started { instance } => Response::json(
            200,
            &Verdict {
                instance: Some(&instance),
                ..Verdict::ok(&format!("started {instance}"))
            },
        ),
        Answer::KillSent { machines } => Response::json(200, &Verdict::ok(&kill_sent(machines))),
        Answer::Done(message) => Response::json(200, &Verdict::ok(&message)),
        refusal => return Err(refused(call, job, refusal)),
    })
}

fn kill_sent(machines: usize) -> String {
    let plural = if machines == 1 { "" } else { "s" };
    format!("the kill is on its way to {machines} machine{plural}")
}

fn refused(call: &Call, job: &str, answer: Answer) -> Denied {
    let (status, message) = match answer {
        Answer::UnknownJob => (404, views::no_such_job(&call.board, job)),
        Answer::Conflict(why) => (409, why),
        Answer::Invalid(why) => (400, why),
        Answer::Unavailable(why) => (503, why),
        Answer::Started { .. } | Answer::KillSent { .. } | Answer::Done(_) => (500, phrase(500).into()),
    };
    Denied { status, message }
}

fn conflict(message: &str) -> Denied {
    Denied {
        status: 409,
        message: message.into(),
    }
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
            Err(bad("'machine' must be a machine's name".into()))
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
