//! The shutdown of a command from its start to its outcome: time-out, kill, escalation, drain. Pure: time is handed
//! in, what is to be done comes out. Must not know: processes, sockets.

use crate::clock::Mono;
use crate::ending::{Ending, GivenBy, code, error_note};
use crate::limits;
use crate::process::order::Exit;

/// Why a command is ended before its own end. The first one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A user asked for it.
    Kill,
    /// Its time was up.
    Timeout,
    /// The wrapper itself was told to stop.
    Stop,
    /// Something of the wrapper's own broke.
    Fault(String),
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Terminate,
    EndAll,
    /// The pipe is held by others: take what it has and let go of it.
    StopReading,
    NameLeftovers,
    Finish(Ending),
}

/// The shutdown itself.
#[derive(Debug, Default)]
pub struct Shutdown {
    /// 0: none.
    timeout_s: u64,
    started_at: Option<Mono>,
    reason: Option<(Reason, Mono)>,
    exit: Option<(Exit, Mono)>,
    /// When nothing that descends from the command was left, or all was done to end it.
    family_ended_at: Option<Mono>,
    output_ended: bool,
    leftovers: Option<String>,
    terminate_asked: bool,
    end_all_asked_at: Option<Mono>,
    names_asked: bool,
    stop_reading_asked: bool,
    finished: bool,
}

impl Shutdown {
    /// The command runs; `timeout_s` 0: for as long as it likes.
    pub fn started(&mut self, timeout_s: u64, now: Mono) {
        self.timeout_s = timeout_s;
        self.started_at = Some(now);
    }

    /// Ends it. Says nothing against an end that has come already, or against an earlier reason.
    pub fn ask(&mut self, reason: Reason, now: Mono) {
        if self.exit.is_none() && self.reason.is_none() && !self.finished {
            self.reason = Some((reason, now));
        }
    }

    /// The reason to end it, as far as one was given.
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref().map(|(reason, _)| reason)
    }

    /// The command itself has ended; others of its family may live.
    pub fn exited(&mut self, exit: Exit, now: Mono) {
        self.exit.get_or_insert((exit, now));
    }

    /// Nothing of its family lives any more, or what lives cannot be ended.
    pub fn family_ended(&mut self, now: Mono) {
        self.family_ended_at.get_or_insert(now);
    }

    /// Its pipe has ended, or is not read any more.
    pub fn output_ended(&mut self) {
        self.output_ended = true;
    }

    /// The names of what lives on (empty: nothing).
    pub fn leftovers(&mut self, names: String) {
        self.leftovers = Some(names);
    }

    /// True from `started` to the outcome.
    pub fn is_running(&self) -> bool {
        self.started_at.is_some() && !self.finished
    }

    /// How long the command ran, or has run until now.
    pub fn ran_ms(&self, now: Mono) -> Option<u64> {
        let until = self.exit.map_or(now, |(_, at)| at);
        self.started_at.map(|started_at| until.since_ms(started_at))
    }

    /// What is due. Each step is given once.
    pub fn steps(&mut self, now: Mono) -> Vec<Step> {
        let mut steps = Vec::new();
        let Some(started_at) = self.started_at.filter(|_| !self.finished) else {
            return steps;
        };
        if self.timeout_s > 0 && now >= self.times_out_at(started_at) {
            self.ask(Reason::Timeout, now);
        }
        if self.reason.is_some() && !self.terminate_asked {
            self.terminate_asked = true;
            steps.push(Step::Terminate);
        }
        if let Some(at) = self.end_all_due_at()
            && now >= at
        {
            self.end_all_asked_at = Some(now);
            steps.push(Step::EndAll);
        }
        self.let_go(now, &mut steps);
        if self.is_over(now) {
            self.finished = true;
            steps.push(Step::Finish(self.outcome()));
        }
        steps
    }

    /// When `steps` has to be asked again at the latest.
    pub fn deadline(&self) -> Option<Mono> {
        let started_at = self.started_at.filter(|_| !self.finished)?;
        let timeout = (self.timeout_s > 0 && self.reason.is_none() && self.exit.is_none())
            .then(|| self.times_out_at(started_at));
        let drained = self
            .let_go_at()
            .or_else(|| self.drained_at().map(out_of_patience));
        [timeout, self.end_all_due_at(), self.given_up_at(), drained]
            .into_iter()
            .flatten()
            .min()
    }

    fn times_out_at(&self, started_at: Mono) -> Mono {
        started_at.plus_ms(self.timeout_s.saturating_mul(1_000))
    }

    fn end_all_due_at(&self) -> Option<Mono> {
        let (_, asked_at) = self.reason.as_ref()?;
        let over = self.exit.is_some() && self.family_ended_at.is_some();
        (self.end_all_asked_at.is_none() && !over).then(|| asked_at.plus_ms(limits::TERM_TO_KILL_MS))
    }

    /// From here on the end is not waited for, whatever the guardian says.
    fn given_up_at(&self) -> Option<Mono> {
        let at = self.end_all_asked_at?;
        let over = self.exit.is_some() && self.family_ended_at.is_some();
        (!over).then(|| at.plus_ms(limits::END_ALL_MS + limits::GUARDIAN_ANSWER_MS))
    }

    /// When the pipe is let go of: counted from the command's end, or after a kill from its family's.
    fn drained_at(&self) -> Option<Mono> {
        let from = match &self.reason {
            None => self.exit.map(|(_, at)| at),
            Some(_) => match (self.exit, self.family_ended_at) {
                (Some((_, exit)), Some(family)) => Some(exit.max(family)),
                _ => self.given_up_at(),
            },
        };
        from.map(|from| from.plus_ms(limits::PIPE_DRAIN_MS))
    }

    /// Names the processes that hold the pipe first: closing it may kill them.
    fn let_go(&mut self, now: Mono, steps: &mut Vec<Step>) {
        if self.output_ended || self.let_go_at().is_none_or(|at| now < at) {
            return;
        }
        if !std::mem::replace(&mut self.names_asked, true) {
            steps.push(Step::NameLeftovers);
        }
        if self.let_go_at().is_some_and(|at| now >= at) {
            self.stop_reading_asked = true;
            steps.push(Step::StopReading);
        }
    }

    /// When the next step of letting go is due.
    fn let_go_at(&self) -> Option<Mono> {
        let drained_at = self.drained_at().filter(|_| !self.stop_reading_asked)?;
        let unanswered = self.names_asked && self.leftovers.is_none();
        Some(if unanswered {
            drained_at.plus_ms(limits::GUARDIAN_ANSWER_MS)
        } else {
            drained_at
        })
    }

    fn is_over(&self, now: Mono) -> bool {
        let ended = match &self.reason {
            None => self.exit.is_some(),
            Some(_) => {
                let family_ended = self.exit.is_some() && self.family_ended_at.is_some();
                family_ended || self.given_up_at().is_some_and(|at| now >= at)
            }
        };
        let patience_over = self.drained_at().is_some_and(|at| now >= out_of_patience(at));
        ended && (self.output_ended || patience_over)
    }

    fn outcome(&self) -> Ending {
        let mut ending = match (self.reason(), self.exit) {
            (Some(Reason::Kill), _) => Ending::killed(),
            (Some(Reason::Timeout), _) => Ending::timed_out(self.timeout_s),
            (Some(Reason::Stop), _) => Ending::told_to_stop(),
            (Some(Reason::Fault(what)), _) => Ending::error(error_note(what)),
            (None, Some((Exit::Code(code), _))) => Ending::exited(code),
            (None, Some((Exit::Signal(signal), _))) => Ending::signaled(signal),
            (None, None) => Ending::new(code::ERROR, GivenBy::Error),
        };
        if let Some(names) = self.leftovers.as_ref().filter(|names| !names.is_empty()) {
            let how = if self.reason.is_some() {
                "could not be ended"
            } else {
                "left running, output not followed"
            };
            ending.add_note(&format!("[{how}: {names}]"));
        }
        ending
    }
}

/// Neither the guardian's names nor the reader's end are waited for past this.
fn out_of_patience(drained_at: Mono) -> Mono {
    drained_at.plus_ms(2 * limits::GUARDIAN_ANSWER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(timeout_s: u64) -> Shutdown {
        let mut shutdown = Shutdown::default();
        shutdown.started(timeout_s, Mono(0));
        shutdown
    }

    fn finish(ending: Ending) -> Vec<Step> {
        vec![Step::Finish(ending)]
    }

    #[test]
    fn a_command_that_ends_by_itself_gives_its_code_once_its_output_has_ended() {
        let mut shutdown = running(10);
        shutdown.exited(Exit::Code(3), Mono(5));
        assert_eq!(shutdown.steps(Mono(5)), []);
        shutdown.output_ended();
        assert_eq!(shutdown.steps(Mono(6)), finish(Ending::exited(3)));
        assert_eq!(shutdown.steps(Mono(7)), []);
        assert_eq!(shutdown.deadline(), None);
    }

    #[test]
    fn output_that_ends_before_the_command_waits_for_the_command() {
        let mut shutdown = running(0);
        shutdown.output_ended();
        assert_eq!(shutdown.steps(Mono(9_000_000)), []);
        shutdown.exited(Exit::Signal(9), Mono(9_000_001));
        assert_eq!(shutdown.steps(Mono(9_000_001)), finish(Ending::signaled(9)));
    }

    #[test]
    fn children_that_hold_the_pipe_are_named_and_left_after_two_seconds() {
        let mut shutdown = running(0);
        shutdown.exited(Exit::Code(0), Mono(1_000));
        assert_eq!(shutdown.deadline(), Some(Mono(3_000)));
        assert_eq!(shutdown.steps(Mono(3_000)), [Step::NameLeftovers]);
        assert_eq!(shutdown.steps(Mono(3_001)), []);
        shutdown.leftovers("sleep (pid 7)".into());
        assert_eq!(shutdown.steps(Mono(3_002)), [Step::StopReading]);
        shutdown.output_ended();
        let note = "[left running, output not followed: sleep (pid 7)]";
        assert_eq!(shutdown.steps(Mono(3_002)), finish(Ending::exited(0).noted(note)));
    }

    #[test]
    fn a_guardian_that_does_not_answer_is_not_waited_for() {
        let mut shutdown = running(0);
        shutdown.exited(Exit::Code(0), Mono(0));
        assert_eq!(shutdown.steps(Mono(2_000)), [Step::NameLeftovers]);
        assert_eq!(shutdown.deadline(), Some(Mono(3_000)));
        assert_eq!(shutdown.steps(Mono(3_000)), [Step::StopReading]);
        assert_eq!(shutdown.deadline(), Some(Mono(4_000)));
        assert_eq!(shutdown.steps(Mono(4_000)), finish(Ending::exited(0)));
    }

    #[test]
    fn a_kill_terminates_then_kills_then_finishes_with_143_whatever_the_command_says() {
        let mut shutdown = running(10);
        shutdown.ask(Reason::Kill, Mono(1_000));
        assert_eq!(shutdown.steps(Mono(1_000)), [Step::Terminate]);
        shutdown.ask(Reason::Kill, Mono(2_000));
        assert_eq!(shutdown.steps(Mono(5_999)), []);
        assert_eq!(shutdown.deadline(), Some(Mono(6_000)));
        assert_eq!(shutdown.steps(Mono(6_000)), [Step::EndAll]);
        shutdown.exited(Exit::Signal(9), Mono(6_010));
        shutdown.family_ended(Mono(6_020));
        shutdown.output_ended();
        assert_eq!(shutdown.steps(Mono(6_020)), finish(Ending::killed()));
    }

    #[test]
    fn a_family_that_obeys_is_not_killed_and_not_waited_for() {
        let mut shutdown = running(0);
        shutdown.ask(Reason::Kill, Mono(0));
        assert_eq!(shutdown.steps(Mono(0)), [Step::Terminate]);
        shutdown.exited(Exit::Code(0), Mono(100));
        shutdown.output_ended();
        assert_eq!(
            shutdown.steps(Mono(100)),
            [],
            "a child of the command still lives"
        );
        shutdown.family_ended(Mono(150));
        assert_eq!(shutdown.steps(Mono(150)), finish(Ending::killed()));
    }

    #[test]
    fn what_cannot_be_ended_does_not_delay_the_outcome_for_ever() {
        let mut shutdown = running(1);
        assert_eq!(shutdown.steps(Mono(1_000)), [Step::Terminate]);
        assert_eq!(shutdown.steps(Mono(6_000)), [Step::EndAll]);
        let given_up = 6_000 + limits::END_ALL_MS + limits::GUARDIAN_ANSWER_MS;
        let drained = given_up + limits::PIPE_DRAIN_MS;
        let mut steps = shutdown.steps(Mono(drained));
        steps.extend(shutdown.steps(Mono(drained + limits::GUARDIAN_ANSWER_MS)));
        steps.extend(shutdown.steps(Mono(drained + 2 * limits::GUARDIAN_ANSWER_MS)));
        assert_eq!(steps[..2], [Step::NameLeftovers, Step::StopReading]);
        assert_eq!(steps[2..], finish(Ending::timed_out(1))[..]);
    }

    #[test]
    fn a_kill_after_the_commands_end_changes_nothing() {
        let mut shutdown = running(0);
        shutdown.exited(Exit::Code(0), Mono(0));
        shutdown.ask(Reason::Kill, Mono(1));
        shutdown.output_ended();
        assert_eq!(shutdown.steps(Mono(1)), finish(Ending::exited(0)));
    }

    #[test]
    fn a_kill_before_the_start_terminates_at_the_start() {
        let mut shutdown = Shutdown::default();
        shutdown.ask(Reason::Stop, Mono(0));
        assert_eq!(shutdown.steps(Mono(0)), []);
        shutdown.started(0, Mono(1));
        assert_eq!(shutdown.steps(Mono(1)), [Step::Terminate]);
    }
}
