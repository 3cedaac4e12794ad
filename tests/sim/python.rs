//! The deployed Python wrapper (0.9.31) as rules.md 19-23 describes it: classic delivery, the next frame is
//! taken for the ack, no connect after a reconnect, a question about the sequence, everything acked one by one,
//! nothing sent again on a nack.
//! Must not know: the engine.

use saltpeter::limits;
use saltpeter::protocol::{DaemonFrame, ErrorCode, WrapperBody};

use crate::trace;
use crate::world::World;
use crate::wrapper::Timer;

/// What it has asked and not heard yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Nothing,
    Connect,
    Start,
    /// At the end: every ack within 5 s.
    Rest,
}

impl World {
    fn python_waits(&mut self, wrapper: usize, wait: Wait, ms: u64) {
        let w = &mut self.wrappers[wrapper];
        w.waits_for = wait;
        w.step += 1;
        if let Some(conn) = w.conn {
            let step = w.step;
            self.wrapper_after(wrapper, ms, Timer::Impatient { conn, step });
        }
    }

    pub fn python_opened(&mut self, wrapper: usize, conn: u64) {
        let w = &mut self.wrappers[wrapper];
        if !w.connect_acked {
            let connect = WrapperBody::Connect {
                accepts: None,
                wrapper_id: None,
                version: None,
            };
            self.wrapper_says(wrapper, connect);
            self.python_waits(wrapper, Wait::Connect, 2_000);
        } else if !w.start_acked {
            self.say_start(wrapper);
            self.python_waits(wrapper, Wait::Start, 2_000);
        } else {
            w.ready = true;
            let next_seq = w.frames.len() as i64;
            let last_acked_seq = w.pending.first().map_or(next_seq - 1, |first| *first as i64 - 1);
            let sync = WrapperBody::SyncRequest {
                last_acked_seq: Some(last_acked_seq),
                next_seq: Some(next_seq),
            };
            self.wrapper_says(wrapper, sync);
            self.python_pump(wrapper, None);
            self.python_finishes(wrapper);
        }
        self.wrapper_after(wrapper, limits::HEARTBEAT_INTERVAL_MS, Timer::Beat { conn });
    }

    pub fn python_impatient(&mut self, wrapper: usize, conn: u64, step: u64) {
        let w = &self.wrappers[wrapper];
        if w.step != step || w.conn != Some(conn) || w.waits_for == Wait::Nothing {
            return;
        }
        trace!(
            self,
            "WRAPPER w{wrapper} (python) has waited in vain for {:?}", w.waits_for
        );
        self.checker_python_waited(wrapper);
        self.wrapper_hangs_up(wrapper);
    }

    /// Sends one frame, or everything that is pending.
    pub fn python_pump(&mut self, wrapper: usize, only: Option<u64>) {
        let w = &self.wrappers[wrapper];
        if !w.ready || w.conn.is_none() {
            return;
        }
        let pending: Vec<u64> = w
            .pending
            .iter()
            .copied()
            .filter(|s| only.is_none_or(|o| o == *s))
            .collect();
        for seq in pending {
            self.say_output(wrapper, seq);
        }
    }

    /// At the end: what is pending, then the completion, then it wants acks.
    pub fn python_finishes(&mut self, wrapper: usize) {
        let w = &mut self.wrappers[wrapper];
        let Some(retcode) = w.complete else { return };
        if !w.ready || w.conn.is_none() || w.complete_sent {
            return;
        }
        w.complete_sent = true;
        let complete = WrapperBody::Complete {
            retcode: Some(retcode),
            seq: Some(w.frames.len() as u64),
            given_by: None,
            duration_ms: None,
        };
        self.wrapper_says(wrapper, complete);
        self.python_waits(wrapper, Wait::Rest, 5_000);
    }

    pub fn python_hears(&mut self, wrapper: usize, frame: DaemonFrame) {
        let waits_for = self.wrappers[wrapper].waits_for;
        match waits_for {
            Wait::Connect => {
                if !matches!(frame, DaemonFrame::ConnectAck(_)) {
                    self.fail(
                        "wire",
                        format!("a Python wrapper that waits for its connect ack was sent {frame:?}"),
                    );
                    return;
                }
                let w = &mut self.wrappers[wrapper];
                w.connect_acked = true;
                if w.command.is_none() {
                    self.start_command(wrapper);
                }
                self.say_start(wrapper);
                self.python_waits(wrapper, Wait::Start, 2_000);
                return;
            }
            Wait::Start => {
                if !matches!(frame, DaemonFrame::StartAck) {
                    self.fail(
                        "wire",
                        format!("a Python wrapper that waits for its start ack was sent {frame:?}"),
                    );
                    return;
                }
                let w = &mut self.wrappers[wrapper];
                w.start_acked = true;
                w.ready = true;
                w.waits_for = Wait::Nothing;
                self.python_pump(wrapper, None);
                self.python_finishes(wrapper);
                return;
            }
            Wait::Nothing | Wait::Rest => {}
        }
        self.python_hears_freely(wrapper, frame);
    }

    fn python_hears_freely(&mut self, wrapper: usize, frame: DaemonFrame) {
        let w = &mut self.wrappers[wrapper];
        match frame {
            DaemonFrame::OutputAck { seq } => {
                if seq >= w.frames.len() as u64 {
                    self.fail(
                        "P2",
                        format!("w{wrapper}: an ack for seq {seq} that was never sent"),
                    );
                    return;
                }
                w.pending.remove(&seq);
                if w.waits_for == Wait::Rest {
                    self.python_waits(wrapper, Wait::Rest, 5_000);
                }
            }
            DaemonFrame::CompleteAck { .. } => {
                w.complete_acked = true;
                if !w.pending.is_empty() {
                    trace!(self, "w{wrapper}: the end is acked before the output");
                }
            }
            DaemonFrame::SyncResponse { last_seq: -1 } => {
                // "the run is gone": it drops its output
                let pending = std::mem::take(&mut w.pending);
                w.lost.extend(&pending);
                trace!(self, "w{wrapper}: is told -1 and drops {pending:?}");
                if !pending.is_empty() {
                    self.checker_python_dropped(wrapper);
                }
            }
            DaemonFrame::SyncResponse { last_seq } => w.pending.retain(|s| *s as i64 > last_seq),
            DaemonFrame::Kill { key } if key == w.key => self.kill_heard(wrapper),
            DaemonFrame::Error {
                code: ErrorCode::JobNotFound,
                ..
            } => {
                w.disowned = true;
                self.checker_disowned(wrapper, ErrorCode::JobNotFound);
                self.wrapper_exits(wrapper);
            }
            // a nack moves it to nothing
            _ => {}
        }
        let w = &self.wrappers[wrapper];
        if w.complete_acked && w.pending.is_empty() && w.alive {
            self.wrapper_exits(wrapper);
        }
    }
}
