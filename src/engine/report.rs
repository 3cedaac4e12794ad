//! What wrappers report once they are let in: start, output, heartbeats, completion (wire-protocol.md section 1).
//! Must not know: how they were let in, what a run's end brings.

use chrono::DateTime;
use log::Level;

use crate::clock::{Mono, Wall};
use crate::ending::{Ending, GivenBy, code, error_note};
use crate::engine::effect::{ConnectionOrder, Fact, JobLogLine, Write};
use crate::engine::event::OutputFrame;
use crate::engine::id::ConnectionId;
use crate::engine::id::MachineRunId;
use crate::engine::machine_run::MachineRun;
use crate::engine::record::MachineStage;
use crate::engine::{AwakeMs, Engine, Turn};
use crate::limits;
use crate::protocol::{DaemonFrame, WrapperBody};

impl Engine {
    /// Any frame but connect and output.
    pub(super) fn said(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        body: WrapperBody,
        timestamp: Option<String>,
        read_at: Mono,
    ) {
        match body {
            WrapperBody::Start { pid, version } => {
                self.started(turn, id, connection, pid, version, timestamp)
            }
            WrapperBody::Heartbeat => {
                self.implies_start(turn, id);
                self.beat(turn, id, read_at);
            }
            WrapperBody::SyncRequest { .. } => self.sync(turn, id, connection),
            WrapperBody::Complete {
                retcode,
                seq,
                given_by,
                duration_ms,
            } => {
                let report = Completion {
                    retcode,
                    seq,
                    given_by,
                    duration_ms,
                    timestamp,
                };
                self.complete(turn, id, connection, report);
            }
            WrapperBody::Killed => {}
            WrapperBody::Error { error } => self.wrapper_error(turn, id, &error),
            WrapperBody::Connect { .. } | WrapperBody::Output(_) => {}
        }
    }

    /// A Python wrapper whose `start` was acked but not stored does not send it again; that it beats or sends output
    /// says as much.
    fn implies_start(&mut self, turn: &mut Turn, id: MachineRunId) {
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        let is_before = matches!(
            m.record.stage,
            MachineStage::Dispatched | MachineStage::Launched | MachineStage::Permitted
        );
        if is_before && !m.record.ours {
            self.mark_started(turn, id, None);
        }
    }

    fn started(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        pid: Option<i64>,
        version: Option<String>,
        timestamp: Option<String>,
    ) {
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        let is_ours = m.record.ours;
        if !is_ours {
            turn.send(connection, DaemonFrame::StartAck);
        }
        let ack = is_ours.then_some((connection, DaemonFrame::StartAck));
        let is_open = m.is_open();
        if m.record.started.is_some() || !is_open {
            if let Some(ack) = ack {
                turn.commit(Write {
                    acks: vec![ack],
                    ..Write::default()
                });
            }
            return;
        }
        m.record.pid = pid;
        m.record.wrapper_version = version.or(m.record.wrapper_version.take());
        m.record.wrapper_started = timestamp;
        self.mark_started(turn, id, ack);
    }

    fn mark_started(&mut self, turn: &mut Turn, id: MachineRunId, ack: Option<(ConnectionId, DaemonFrame)>) {
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let m = &mut run.machines[place];
        m.record.stage = MachineStage::Started;
        m.record.started = Some(turn.now.wall);
        m.record.last_heartbeat = m.record.last_heartbeat.max(Some(turn.now.wall));
        m.clocks.started = turn.awake;
        m.refresh(turn.awake);
        let machine = m.record.machine.clone();
        let write = Write {
            facts: vec![Fact::Machine(Box::new(m.record.clone()))],
            acks: ack.into_iter().collect(),
            ..Write::default()
        };
        turn.commit(write);
        let entry = run.log_entry(turn.now.wall, JobLogLine::StartingOn { machine });
        turn.effects.push(entry);
        self.send_kill(turn, id);
        self.touch_machine(id);
    }

    /// Answered after everything before it is committed. A live session that holds nothing does not answer -1, for
    /// a Python wrapper then drops its output (rules.md 20).
    fn sync(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId) {
        self.implies_start(turn, id);
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        let last_seq = match m.output.last_seq() {
            Some(seq) => i64::try_from(seq).unwrap_or(i64::MAX),
            None if m.is_open() => return,
            None => -1,
        };
        turn.commit(Write {
            acks: vec![(connection, DaemonFrame::SyncResponse { last_seq })],
            after_output_of: Some(id),
            ..Write::default()
        });
    }

    pub(super) fn output(
        &mut self,
        turn: &mut Turn,
        id: MachineRunId,
        connection: ConnectionId,
        frame: OutputFrame,
    ) {
        self.implies_start(turn, id);
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let run_id = run.record.id;
        let day = run.record.day();
        let m = &mut run.machines[place];
        let mut write = Write {
            after_output_of: Some(id),
            ..Write::default()
        };
        let seq = frame.seq.unwrap_or(m.output.next_seq);
        if seq > m.output.next_seq && !lost_the_rest(m, seq) {
            return self.nack(turn, id, connection, seq);
        }
        if seq > m.output.next_seq {
            let (from, to) = (m.output.next_seq, seq - 1);
            m.output.next_seq = seq;
            let text = format!("[output messages {from}..{to} were lost by the wrapper]");
            turn.notice(m, run.record.started, &text);
        }
        if seq == m.output.next_seq {
            m.nacked = None;
            m.output.next_seq = seq + 1;
            m.clocks.output = turn.awake;
            let placed = m.output.append(id, day, frame.data);
            write.output.extend(placed.rows);
            write.trim.extend(placed.trim);
            m.record.left_out_bytes = m.output.left_out_bytes();
        }
        write.acks.push((connection, DaemonFrame::OutputAck { seq }));
        turn.commit(write);
        m.shown = None;
        self.touch_run(run_id);
    }

    fn nack(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId, received_seq: u64) {
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        let expected_seq = m.output.next_seq;
        // one nack a gap: with a window, everything behind it comes from the future as well
        let is_told = m.record.ours && m.nacked.is_some();
        // the first after the gap: what it offers again after a reconnect begins with that one
        m.nacked = Some(m.nacked.map_or(received_seq, |first| first.min(received_seq)));
        if !is_told {
            let frame = DaemonFrame::NackOutOfOrder {
                expected_seq,
                received_seq,
            };
            turn.send(connection, frame);
        }
    }

    /// Output of that connection was dropped for want of memory, and there is room again.
    pub(super) fn output_dropped(&mut self, turn: &mut Turn, connection: ConnectionId) {
        let Some(id) = self
            .connections
            .get(&connection)
            .and_then(|connection| connection.bound)
        else {
            return turn.order(connection, ConnectionOrder::Close);
        };
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        if m.record.ours {
            m.nacked = None;
            let next = m.output.next_seq;
            self.nack(turn, id, connection, next);
        } else {
            // it does not resend on a nack, but after a reconnect it does
            turn.order(connection, ConnectionOrder::Close);
        }
    }

    fn complete(&mut self, turn: &mut Turn, id: MachineRunId, connection: ConnectionId, report: Completion) {
        let seq = report.seq;
        let Some((run, place)) = self.runs.find_mut(id) else {
            return;
        };
        let m = &mut run.machines[place];
        let ack = (connection, DaemonFrame::CompleteAck { seq });
        if !m.is_open() {
            // said before, or its ack was lost, or storage had no room for it: the ack stands for what is stored
            return turn.commit(Write {
                facts: vec![Fact::Machine(Box::new(m.record.clone()))],
                acks: vec![ack],
                after_output_of: Some(id),
                ..Write::default()
            });
        }
        if let Some(seq) = seq.filter(|seq| *seq > m.output.next_seq) {
            if !lost_the_rest(m, seq) {
                return self.nack(turn, id, connection, seq);
            }
            let text = format!(
                "[output messages {}..{} were lost by the wrapper]",
                m.output.next_seq,
                seq - 1
            );
            m.output.next_seq = seq;
            turn.notice(m, run.record.started, &text);
        }
        let timeout_s = run.record.spec.timeout_s;
        let ran_ms = ran_ms(m, report.timestamp.as_deref(), turn.awake);
        let ending = report.ending(&Circumstances {
            has_started: m.record.started.is_some(),
            kill_asked: m.record.kill_asked.is_some(),
            time_is_up: is_time_up(timeout_s, ran_ms, report.retcode),
        });
        m.record.duration_ms = report
            .duration_ms
            .map(|told| told.min(longest_ms(m, turn.now.wall, turn.awake)));
        m.record.wrapper_ended = report.timestamp;
        let text = format!(
            "WebSocket: Received complete message from {}:{}, retcode={}",
            run.record.instance, m.record.machine, ending.code
        );
        turn.say(Level::Info, text);
        self.end_machine(turn, id, ending, vec![ack]);
    }

    fn wrapper_error(&mut self, turn: &mut Turn, id: MachineRunId, error: &str) {
        let Some(m) = self.runs.machine_mut(id) else {
            return;
        };
        if m.is_open() {
            let note = error_note(&format!("the wrapper reported: {error}"));
            self.end_machine(turn, id, Ending::error(note), Vec::new());
        }
    }
}

/// A wrapper that does not resend on a nack and offers the same future seq again has lost what lies between
/// (rules.md 21).
fn lost_the_rest(m: &MachineRun, seq: u64) -> bool {
    !m.record.ours && m.nacked == Some(seq)
}

/// A wrapper's completion, as it came.
struct Completion {
    retcode: Option<i64>,
    seq: Option<u64>,
    given_by: Option<GivenBy>,
    duration_ms: Option<u64>,
    timestamp: Option<String>,
}

/// What the daemon knows of a machine run when its wrapper reports the end.
struct Circumstances {
    has_started: bool,
    kill_asked: bool,
    time_is_up: bool,
}

impl Completion {
    /// What the report stands for. Of a wrapper that does not say who gave the code, it is the command's own unless there was
    /// cause for another; a Python wrapper's negative codes are signals (rules.md 7).
    fn ending(&self, known: &Circumstances) -> Ending {
        let Some(reported) = self.retcode.and_then(|code| i32::try_from(code).ok()) else {
            return Ending::new(code::ERROR, GivenBy::Error);
        };
        let given_by = match self.given_by {
            Some(given_by) if reported >= 0 => given_by,
            _ if known.kill_asked && (reported < 0 || reported == code::KILLED) => GivenBy::Kill,
            _ if known.time_is_up && (reported < 0 || reported == code::TIMED_OUT) => GivenBy::Timeout,
            _ if !known.has_started && reported == code::NOT_STARTED => GivenBy::NotStarted,
            _ if !known.has_started && reported == code::ERROR => GivenBy::Error,
            _ => GivenBy::Command,
        };
        let code = match given_by {
            _ if reported >= 0 => reported,
            GivenBy::Kill => code::KILLED,
            GivenBy::Timeout => code::TIMED_OUT,
            _ => code::SIGNALED.saturating_sub(reported),
        };
        Ending::new(code, given_by)
    }
}

/// How long the command has run when it ended. Over a restart the machine's own clock tells: the daemon's may have stepped
/// while nobody looked.
fn ran_ms(m: &MachineRun, ended: Option<&str>, awake: AwakeMs) -> u64 {
    let here = awake.saturating_sub(m.clocks.started);
    if m.clocks.ran_before_ms == 0 {
        return here;
    }
    let instant = |text: &str| DateTime::parse_from_rfc3339(text).ok();
    let own = m.record.wrapper_started.as_deref().zip(ended);
    let own = own.and_then(|(started, ended)| Some(instant(ended)? - instant(started)?));
    own.and_then(|ran| u64::try_from(ran.num_milliseconds()).ok())
        .unwrap_or(here + m.clocks.ran_before_ms)
}

/// The longest that the command can have run until `now`: no command starts before its dispatch.
fn longest_ms(m: &MachineRun, now: Wall, awake: AwakeMs) -> u64 {
    let from = m.record.dispatched.or(m.record.started).unwrap_or(now);
    let by_wall = u64::try_from((now.0 - from.0) / 1_000).unwrap_or(0);
    // a clock that was set back; from before a restart the wall clock alone tells
    let by_awake = m.clocks.dispatched.map_or(0, |from| awake.saturating_sub(from));
    by_wall.max(by_awake)
}

/// Whether a Python wrapper may have ended its command at its `timeout`. It counts from before it connects, so the SIGTERM
/// with which it begins comes a little before the daemon's time is up; its SIGKILL follows later.
fn is_time_up(timeout_s: u64, ran_ms: u64, reported: Option<i64>) -> bool {
    let slack_ms = if matches!(reported, Some(-15 | 124)) {
        limits::TIMEOUT_SLACK_MS
    } else {
        0
    };
    timeout_s > 0 && ran_ms.saturating_add(slack_ms) >= timeout_s.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sigterm_that_nobody_asked_for_is_a_timeout_only_when_the_time_is_up() {
        let code = |signal: i64, kill_asked, timeout_s, ran_ms| {
            let reported = Some(-signal);
            reported_as(reported, kill_asked, is_time_up(timeout_s, ran_ms, reported)).code
        };
        assert_eq!(code(15, false, 10, 8_000), 124);
        assert_eq!(code(15, false, 10, 10_500), 124);
        assert_eq!(code(15, false, 10, 7_999), 143);
        assert_eq!(code(15, false, 0, u64::MAX), 143);
        assert_eq!(code(15, true, 10, 10_000), 143);
        // any other signal is the command's own until the time is up
        assert_eq!(code(9, false, 10, 9_999), 137);
        assert_eq!(code(9, false, 10, 10_000), 124);
    }

    #[test]
    fn a_code_of_ours_is_the_commands_own_where_there_was_no_cause_for_it() {
        for own in [124, 143, 253, 254, 255] {
            let ending = reported_as(Some(own), false, false);
            assert_eq!(ending, Ending::exited(own as i32));
        }
        // a SIGTERM that Saltpeter did not send
        assert_eq!(reported_as(Some(-15), false, false), Ending::signaled(15));
        assert_eq!(reported_as(Some(143), true, false).given_by, GivenBy::Kill);
        assert_eq!(reported_as(Some(124), false, true).given_by, GivenBy::Timeout);
        assert_eq!(reported_as(Some(0), true, true).given_by, GivenBy::Command);
    }

    fn reported_as(retcode: Option<i64>, kill_asked: bool, time_is_up: bool) -> Ending {
        let report = Completion {
            retcode,
            seq: None,
            given_by: None,
            duration_ms: None,
            timestamp: None,
        };
        report.ending(&Circumstances {
            has_started: true,
            kill_asked,
            time_is_up,
        })
    }
}
