//! Commands without a wrapper: Salt runs them, and their outcome is a minion's return. The minion is asked now and then
//! whether it still runs the command, and the master's job cache for returns that were missed.
//! Must not know: the helper process.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use super::protocol::{self, Request};
use super::{NO_ANSWER, NO_RESPONSE, Pending, Salt, What};
use crate::clock::{self, Mono};
use crate::ending::{Ending, GivenBy, code};
use crate::engine::effect::Dispatch;
use crate::engine::event::Event;
use crate::engine::id::MachineRunId;
use crate::limits;

const GONE_NOTE: &str = "[SALTPETER ERROR: the minion no longer runs the command, and returned nothing]";

/// A command on some minions.
pub(super) struct Plain {
    dispatch: Dispatch,
    /// Those that have not returned.
    open: HashMap<String, MachineRunId>,
    /// How often in a row a minion did not know the command.
    gone: HashMap<String, u32>,
    /// When a minion was last heard of.
    heard: HashMap<String, Mono>,
    killed: HashMap<String, Killed>,
    /// None: not published.
    next_look: Option<Mono>,
}

/// A command that is being ended.
struct Killed {
    asked: Mono,
    is_hard: bool,
}

/// Something asked of minions about a command.
pub(super) struct Question {
    /// The request that it is about.
    pub(super) of: u64,
    function: &'static str,
    jid: String,
    machines: Vec<String>,
}

impl Plain {
    fn new(dispatch: Dispatch) -> Plain {
        let machines = dispatch.machines.iter();
        Plain {
            open: machines.map(|(id, machine)| (machine.clone(), *id)).collect(),
            gone: HashMap::new(),
            heard: HashMap::new(),
            killed: HashMap::new(),
            next_look: None,
            dispatch,
        }
    }

    pub(super) fn published(&mut self, now: Mono) -> Vec<Event> {
        self.next_look = Some(now.plus_ms(limits::PLAIN_LOOK_MS));
        for machine in self.open.keys() {
            self.heard.insert(machine.clone(), now);
        }
        vec![Event::PlainStarted {
            machine_runs: self.open.values().copied().collect(),
        }]
    }

    pub(super) fn returned(&mut self, machine: &str, ret: &Value) -> Option<Event> {
        let machine_run = self.open.remove(machine)?;
        let (ending, mut output) = outcome(ret, self.dispatch.spec.timeout_s);
        if !output.is_empty() && !output.ends_with('\n') {
            // Salt takes away the last line's end
            output.push('\n');
        }
        let is_killed = self.killed.contains_key(machine);
        Some(Event::Returned {
            machine_run,
            output: output.into_bytes(),
            ending: if is_killed { Ending::killed() } else { ending },
        })
    }

    /// The daemon was stalled: no deadline came closer.
    pub(super) fn forgive(&mut self, stalled_ms: u64) {
        let killed = self.killed.values_mut().map(|killed| &mut killed.asked);
        for moment in self.heard.values_mut().chain(killed) {
            *moment = moment.plus_ms(stalled_ms);
        }
    }

    /// Marks those of them that run here as being ended.
    fn terminate(&mut self, machine_runs: &HashSet<MachineRunId>, now: Mono) -> Vec<String> {
        let open = self.open.iter();
        let machines: Vec<String> = open
            .filter(|(_, open)| machine_runs.contains(open))
            .map(|(machine, _)| machine.clone())
            .collect();
        for machine in &machines {
            let killed = Killed {
                asked: now,
                is_hard: false,
            };
            self.killed.insert(machine.clone(), killed);
        }
        machines
    }

    /// Machines of which nothing was heard for long, whether they or Salt are away.
    fn away(&self, now: Mono) -> Vec<String> {
        let is_away = |machine: &&String| {
            let heard = self.heard.get(*machine);
            heard.is_some_and(|heard| now.since_ms(*heard) >= limits::PLAIN_AWAY_MS)
        };
        self.open.keys().filter(is_away).cloned().collect()
    }

    /// Those will not answer.
    pub(super) fn lost(&mut self, machines: &[String]) -> Vec<Event> {
        machines
            .iter()
            .filter_map(|machine| self.end(machine, failed(NO_ANSWER, NO_RESPONSE)))
            .collect()
    }

    pub(super) fn end_all(&mut self, retcode: i32, note: &str) -> Vec<Event> {
        let machines: Vec<String> = self.open.keys().cloned().collect();
        machines
            .iter()
            .filter_map(|machine| self.end(machine, failed(retcode, note)))
            .collect()
    }

    fn end(&mut self, machine: &str, ending: Ending) -> Option<Event> {
        Some(Event::Returned {
            machine_run: self.open.remove(machine)?,
            output: Vec::new(),
            ending,
        })
    }

    pub(super) fn fill_in(&self, request: &mut Request) {
        request.tgt = json!(self.open.keys().collect::<Vec<_>>());
        request.kwarg = call(&self.dispatch);
        request.follow = self.dispatch.again;
        // its own timeout ends it, or the minion's word that it is gone
        request.timeout = f64::from(u32::MAX);
        request.ret_limit = limits::PLAIN_OUTPUT_CHARS;
    }
}

impl Question {
    pub(super) fn fill_in(&self, request: &mut Request) {
        request.tgt = json!(self.machines);
        request.fun = self.function;
        request.arg = vec![self.jid.clone()];
        request.timeout = limits::PLAIN_ANSWER_MS as f64 / 1_000.0;
    }

    /// Whether the answer says that the minion does not know the command; None: it says nothing of that.
    pub(super) fn is_gone(&self, answer: &Value) -> Option<bool> {
        (self.function == "saltutil.find_job").then(|| answer.as_object().is_some_and(|job| job.is_empty()))
    }
}

impl Salt {
    pub(super) fn run_plain(&mut self, dispatch: Dispatch) {
        let plain = Plain::new(dispatch);
        let jid = protocol::jid(plain.dispatch.at);
        let again = plain.dispatch.again;
        let deadline = clock::mono().plus_ms(limits::LAUNCH_PATIENCE_MS);
        self.add(jid, again, deadline, What::Plain(plain));
    }

    /// SIGTERM now, SIGKILL later; Salt does not tell when it is over.
    pub(super) fn terminate(&mut self, machine_runs: &HashSet<MachineRunId>) {
        let now = clock::mono();
        let mut questions = Vec::new();
        for (id, pending) in &mut self.pending {
            let Some(plain) = pending.plain().filter(|_| !machine_runs.is_empty()) else {
                continue;
            };
            let machines = plain.terminate(machine_runs, now);
            questions.push((*id, "saltutil.term_job", machines));
        }
        self.ask(questions);
    }

    pub(super) fn look_after_plain(&mut self, now: Mono) {
        let mut questions = Vec::new();
        let mut events = Vec::new();
        let mut ended = Vec::new();
        for (id, pending) in &mut self.pending {
            let Some(plain) = pending.plain() else { continue };
            let (mut hard, mut over) = (Vec::new(), Vec::new());
            for (machine, killed) in &mut plain.killed {
                let since_ms = now.since_ms(killed.asked);
                if !killed.is_hard && since_ms >= limits::TERM_TO_KILL_MS {
                    killed.is_hard = true;
                    hard.extend(plain.open.contains_key(machine).then(|| machine.clone()));
                }
                if since_ms >= limits::TERM_TO_KILL_MS + limits::PLAIN_KILLED_MS {
                    over.push(machine.clone());
                }
            }
            questions.push((*id, "saltutil.kill_job", hard));
            for machine in over {
                events.extend(plain.end(&machine, Ending::killed()));
            }
            let away = plain.away(now);
            events.extend(plain.lost(&away));
            if plain.next_look.is_some_and(|at| at <= now) {
                plain.next_look = Some(now.plus_ms(limits::PLAIN_LOOK_MS));
                questions.push((*id, "saltutil.find_job", plain.open.keys().cloned().collect()));
            }
            if plain.open.is_empty() {
                ended.push(*id);
            }
        }
        for id in ended {
            self.pending.remove(&id);
        }
        self.report_all(events);
        self.ask(questions);
    }

    fn ask(&mut self, questions: Vec<(u64, &'static str, Vec<String>)>) {
        for (of, function, machines) in questions {
            let Some(about) = self.pending.get(&of).filter(|_| !machines.is_empty()) else {
                continue;
            };
            let question = Question {
                of,
                function,
                jid: about.jid.clone(),
                machines,
            };
            let jid = self.jids.next(clock::wall());
            let deadline = clock::mono().plus_ms(2 * limits::PLAIN_ANSWER_MS);
            self.add(jid, false, deadline, What::Question(question));
            if function == "saltutil.find_job" {
                self.tell(protocol::fill());
            }
        }
    }

    /// A minion has said something about a command.
    pub(super) fn answered(&mut self, of: u64, machine: &str, is_gone: Option<bool>) {
        let (Some(pending), Some(is_gone)) = (self.pending.get_mut(&of), is_gone) else {
            return;
        };
        let Some(plain) = pending.plain() else { return };
        plain.heard.insert(machine.to_string(), clock::mono());
        let times = plain.gone.entry(machine.to_string()).or_default();
        *times = if is_gone { *times + 1 } else { 0 };
        if *times >= limits::PLAIN_GONE {
            let event = plain.end(machine, failed(NO_ANSWER, GONE_NOTE));
            self.report_all(event);
        }
    }
}

impl Pending {
    fn plain(&mut self) -> Option<&mut Plain> {
        match &mut self.what {
            What::Plain(plain) => Some(plain),
            _ => None,
        }
    }
}

/// The arguments of `cmd.run_all` that run the command itself.
fn call(dispatch: &Dispatch) -> BTreeMap<&'static str, Value> {
    let spec = &dispatch.spec;
    let mut env = spec.env.clone();
    for (name, value) in [
        ("SP_JOB_NAME", &dispatch.job),
        ("SP_JOB_INSTANCE", &dispatch.instance),
        ("SP_JOB_INSTANCE_NAME", &dispatch.instance),
    ] {
        env.insert(name.to_string(), value.clone());
    }
    let mut kwarg: BTreeMap<&'static str, Value> = [
        ("cmd", json!(spec.command)),
        ("env", json!(env)),
        ("redirect_stderr", json!(true)),
        ("reset_system_locale", json!(false)),
    ]
    .into();
    if let Some(cwd) = &spec.cwd {
        kwarg.insert("cwd", json!(cwd));
    }
    if let Some(user) = &spec.user {
        kwarg.insert("runas", json!(user));
    }
    if spec.timeout_s > 0 {
        kwarg.insert("timeout", json!(spec.timeout_s));
    }
    kwarg
}

/// An end that no minion told.
fn failed(retcode: i32, note: &str) -> Ending {
    Ending::new(retcode, GivenBy::of_code(retcode)).noted(note.to_string())
}

/// An exit code as a return has it; what no exit code can be must not wrap around to one, 0 least of all.
fn in_range(code: i64) -> Ending {
    i32::try_from(code).map_or_else(|_| no_code(), Ending::exited)
}

fn no_code() -> Ending {
    Ending::new(NO_ANSWER, GivenBy::Error)
}

/// End and output of a return.
fn outcome(ret: &Value, timeout_s: u64) -> (Ending, String) {
    let text = |key: &str| ret.get(key).and_then(Value::as_str).unwrap_or_default();
    match ret {
        Value::Object(_) => {
            let output = format!("{}{}", text("stdout"), text("stderr"));
            let words = format!("Timed out after {timeout_s} seconds");
            let ending = match ret.get("retcode").and_then(Value::as_i64) {
                Some(1) if timeout_s > 0 && output.trim_end().ends_with(&words) => {
                    // Salt's own line says so already
                    Ending::new(code::TIMED_OUT, GivenBy::Timeout)
                }
                Some(signal) if signal < 0 => in_range(i64::from(code::SIGNALED).saturating_sub(signal)),
                Some(code) => in_range(code),
                None => no_code(),
            };
            (ending, output)
        }
        Value::String(text) => (no_code(), text.clone()),
        other => (no_code(), format!("the minion returned {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::Handover;

    /// A command on these machines, published at that moment.
    fn published(machines: &[&str], at: Mono) -> Plain {
        let ids = (1..).map(MachineRunId);
        let mut plain = Plain::new(Dispatch {
            run: Default::default(),
            job: "j".into(),
            instance: "j_1".into(),
            token: "t".into(),
            spec: Default::default(),
            machines: ids.zip(machines.iter().map(|id| id.to_string())).collect(),
            handover: Handover::Plain,
            at: Default::default(),
            again: false,
        });
        plain.published(at);
        plain
    }

    #[test]
    fn a_minion_of_which_nothing_is_heard_for_ten_minutes_is_given_up_and_no_other() {
        let minutes = |count: u64| Mono(1_000 + count * 60_000);
        let mut plain = published(&["away", "answers"], minutes(0));
        assert_eq!(plain.away(Mono(minutes(10).0 - 1)), Vec::<String>::new());
        plain.heard.insert("answers".into(), minutes(9));
        assert_eq!(plain.away(minutes(10)), ["away"]);
        let given_up = plain.lost(&plain.away(minutes(10)));
        assert!(
            matches!(
                &given_up[..],
                [Event::Returned {
                    machine_run: MachineRunId(1),
                    ending: Ending { code: NO_ANSWER, .. },
                    ..
                }]
            ),
            "{given_up:?}"
        );
        // given up once, and the other when its own time is over
        assert_eq!(plain.away(minutes(18)), Vec::<String>::new());
        assert_eq!(plain.away(minutes(19)), ["answers"]);
    }

    #[test]
    fn the_time_in_which_the_daemon_itself_stood_still_is_nobodys_silence() {
        let mut plain = published(&["a"], Mono(0));
        plain.forgive(limits::PLAIN_AWAY_MS);
        assert!(plain.away(Mono(2 * limits::PLAIN_AWAY_MS - 1)).is_empty());
        assert_eq!(plain.away(Mono(2 * limits::PLAIN_AWAY_MS)), ["a"]);
    }

    #[test]
    fn a_kill_of_many_machines_is_one_question() {
        let mut plain = published(&["a", "b", "c"], Mono(0));
        let two = HashSet::from([MachineRunId(1), MachineRunId(3), MachineRunId(99)]);
        let mut machines = plain.terminate(&two, Mono(5));
        machines.sort();
        assert_eq!(machines, ["a", "c"]);
        assert!(plain.killed.contains_key("a") && !plain.killed.contains_key("b"));
    }

    #[test]
    fn a_return_gives_code_and_output() {
        let object = |retcode: i64, stdout: &str| json!({"retcode": retcode, "stdout": stdout, "stderr": ""});
        assert_eq!(outcome(&object(3, "x"), 5), (Ending::exited(3), "x".into()));
        assert_eq!(outcome(&object(-9, ""), 5), (Ending::signaled(9), String::new()));
        for impossible in [1 << 32, i64::MAX, i64::MIN] {
            assert_eq!(outcome(&object(impossible, ""), 5).0, no_code());
        }
        let timed_out = "sleep 9 : Timed out after 5 seconds";
        assert_eq!(outcome(&object(1, timed_out), 5).0.given_by, GivenBy::Timeout);
        assert_eq!(outcome(&object(1, timed_out), 0).0, Ending::exited(1));
        assert_eq!(
            outcome(&json!("ERROR: no user"), 0),
            (no_code(), "ERROR: no user".into())
        );
    }
}
