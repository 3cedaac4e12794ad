//! The session against daemons of every sort, without a socket. Time is a number.

use super::*;
use crate::protocol::SessionKey;

const ALL: [&str; 4] = [FEATURE_JOB, FEATURE_DATA_BASE64, FEATURE_WINDOW, FEATURE_RESUME];

fn ack(features: Option<&[&str]>, job: bool, last_seq: Option<i64>) -> DaemonFrame {
    DaemonFrame::ConnectAck(Box::new(ConnectAck {
        features: features.map(|features| features.iter().map(|feature| feature.to_string()).collect()),
        job: job.then(JobOrder::default),
        last_seq,
    }))
}

/// All frames that are due, as short words.
fn due(session: &mut Session, now: u64) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(frame) = session.next(Mono(now)) {
        words.push(match frame {
            Outgoing::Control(WrapperBody::Connect { .. }) => "connect".to_string(),
            Outgoing::Control(WrapperBody::Start { pid, .. }) => format!("start {}", pid.unwrap()),
            Outgoing::Control(WrapperBody::Heartbeat) => "beat".to_string(),
            Outgoing::Control(WrapperBody::Killed) => "killed".to_string(),
            Outgoing::Control(WrapperBody::SyncRequest {
                last_acked_seq,
                next_seq,
            }) => format!("sync {} {}", last_acked_seq.unwrap(), next_seq.unwrap()),
            Outgoing::Control(WrapperBody::Complete { retcode, seq, .. }) => {
                format!("complete {} {}", retcode.unwrap(), seq.unwrap())
            }
            Outgoing::Control(other) => panic!("{other:?}"),
            Outgoing::Output { chunk, .. } => {
                format!("{} {}", chunk.seq, String::from_utf8_lossy(&chunk.data))
            }
        });
    }
    words
}

/// Connected, permitted, started with pid 7, everything acknowledged.
fn running() -> Session {
    let mut session = Session::new("id".into(), "1", true);
    session.connected(Mono(0), true);
    assert_eq!(due(&mut session, 0), ["connect"]);
    let action = session.receive(Mono(0), ack(Some(&ALL), true, Some(-1)));
    assert!(matches!(action, Some(Action::Start(Some(_)))));
    session.started(7);
    assert_eq!(due(&mut session, 0), ["start 7"]);
    session.receive(Mono(0), DaemonFrame::StartAck);
    session
}

fn running_with_old_daemon() -> Session {
    let mut session = Session::new("id".into(), "1", false);
    session.connected(Mono(0), false);
    due(&mut session, 0);
    assert_eq!(
        session.receive(Mono(0), ack(None, false, None)),
        Some(Action::Start(None))
    );
    session.started(7);
    session
}

fn offer(session: &mut Session, texts: &[&str]) {
    for text in texts {
        session.offer(STDOUT, text.as_bytes().to_vec());
    }
}

#[test]
fn a_run_goes_from_permission_to_delivery() {
    let mut session = running();
    offer(&mut session, &["a", "b"]);
    session.complete(3, None, None);
    assert_eq!(due(&mut session, 1), ["0 a", "1 b", "complete 3 2"]);
    assert_eq!(session.receive(Mono(2), DaemonFrame::OutputAck { seq: 1 }), None);
    assert_eq!(session.unacked().count(), 0);
    let done = session.receive(Mono(3), DaemonFrame::CompleteAck { seq: Some(2) });
    assert_eq!(done, Some(Action::Delivered));
    assert_eq!(due(&mut session, 99_000), [""; 0]);
    assert_eq!(session.deadline(), None);
}

#[test]
fn it_never_starts_twice_in_its_life() {
    let mut session = running();
    for at in 1..4 {
        session.disconnected();
        session.connected(Mono(at), true);
        assert_eq!(due(&mut session, at), ["connect"]);
        assert_eq!(session.receive(Mono(at), ack(Some(&ALL), true, Some(-1))), None);
    }
}

#[test]
fn a_lost_permission_is_asked_for_again() {
    let mut session = Session::new("id".into(), "1", true);
    session.connected(Mono(0), true);
    due(&mut session, 0);
    session.disconnected();
    session.connected(Mono(2_000), true);
    assert_eq!(due(&mut session, 2_000), ["connect"]);
    let action = session.receive(Mono(2_000), ack(Some(&ALL), true, Some(-1)));
    assert!(matches!(action, Some(Action::Start(Some(_)))));
}

#[test]
fn a_job_is_taken_only_from_a_trusted_peer() {
    let mut session = Session::new("id".into(), "1", true);
    session.connected(Mono(0), false);
    let Some(Outgoing::Control(WrapperBody::Connect { accepts, .. })) = session.next(Mono(0)) else {
        panic!("no connect");
    };
    assert!(!accepts.unwrap().contains(&FEATURE_JOB.to_string()));
    let action = session.receive(Mono(0), ack(Some(&ALL), true, Some(-1)));
    assert!(matches!(action, Some(Action::NoJob(_))));
}

#[test]
fn an_ack_without_job_ends_without_a_start() {
    let mut session = Session::new("id".into(), "1", true);
    session.connected(Mono(0), true);
    due(&mut session, 0);
    let action = session.receive(Mono(0), ack(None, false, None));
    assert!(matches!(action, Some(Action::NoJob(_))));
    session.offer(STDERR, b"no job\n".to_vec());
    session.complete(254, None, None);
    assert_eq!(due(&mut session, 0), ["0 no job\n"]);
    session.receive(Mono(0), DaemonFrame::OutputAck { seq: 0 });
    assert_eq!(due(&mut session, 0), ["complete 254 1"]);
}

#[test]
fn after_a_cut_exactly_what_is_missing_is_sent_again() {
    let mut session = running();
    offer(&mut session, &["a", "b", "c"]);
    assert_eq!(due(&mut session, 1), ["0 a", "1 b", "2 c"]);
    session.receive(Mono(2), DaemonFrame::OutputAck { seq: 0 });
    session.disconnected();
    assert_eq!(due(&mut session, 3), [""; 0]);
    offer(&mut session, &["d"]);
    session.connected(Mono(4), true);
    assert_eq!(due(&mut session, 4), ["connect"]);
    session.receive(Mono(5), ack(Some(&ALL), true, Some(1)));
    assert_eq!(due(&mut session, 5), ["2 c", "3 d"]);
}

#[test]
fn a_lost_start_ack_and_a_lost_complete_ack_are_asked_for_again() {
    let mut session = Session::new("id".into(), "1", true);
    session.connected(Mono(0), true);
    due(&mut session, 0);
    session.receive(Mono(0), ack(Some(&ALL), true, Some(-1)));
    session.started(7);
    offer(&mut session, &["a"]);
    session.complete(0, None, None);
    assert_eq!(due(&mut session, 0), ["start 7", "0 a", "complete 0 1"]);
    session.connected(Mono(1), true);
    due(&mut session, 1);
    session.receive(Mono(1), ack(Some(&ALL), true, Some(0)));
    assert_eq!(due(&mut session, 1), ["start 7", "complete 0 1"]);
}

#[test]
fn a_nack_goes_back_once_however_many_follow() {
    let mut session = running();
    offer(&mut session, &["a", "b", "c"]);
    session.complete(0, None, None);
    due(&mut session, 1);
    let nack = |received_seq| DaemonFrame::NackOutOfOrder {
        expected_seq: 1,
        received_seq,
    };
    session.receive(Mono(2), nack(2));
    assert_eq!(due(&mut session, 2), ["1 b", "2 c", "complete 0 3"]);
    session.receive(Mono(3), nack(3));
    assert_eq!(due(&mut session, 3), [""; 0]);
    session.receive(Mono(4), DaemonFrame::OutputAck { seq: 2 });
    assert_eq!(session.unacked().count(), 0);
}

#[test]
fn a_daemon_that_lost_its_state_gets_what_is_left_and_is_told_of_the_gap() {
    let mut session = running();
    offer(&mut session, &["a", "b", "c"]);
    due(&mut session, 1);
    session.receive(Mono(1), DaemonFrame::OutputAck { seq: 1 });
    session.connected(Mono(2), true);
    due(&mut session, 2);
    session.receive(Mono(2), ack(Some(&ALL), false, Some(-1)));
    let lost = "0 [output messages 0..1 were lost by the daemon]\n";
    assert_eq!(due(&mut session, 2), [lost, "1 c"]);
    session.complete(0, None, None);
    assert_eq!(due(&mut session, 2), ["complete 0 2"]);
}

#[test]
fn beats_go_from_the_connect_to_the_completion_and_before_output() {
    let mut session = running();
    offer(&mut session, &["a"]);
    assert_eq!(session.deadline(), Some(Mono(5_000)));
    assert_eq!(due(&mut session, 5_000), ["beat", "0 a"]);
    session.receive(Mono(5_000), DaemonFrame::OutputAck { seq: 0 });
    session.complete(0, None, None);
    assert_eq!(due(&mut session, 10_000), ["beat", "complete 0 1"]);
    assert_eq!(due(&mut session, 15_000), ["beat"]);
    session.receive(Mono(15_000), DaemonFrame::CompleteAck { seq: Some(1) });
    assert_eq!(due(&mut session, 20_000), [""; 0]);
}

#[test]
fn a_peer_that_acknowledges_nothing_is_left() {
    let mut session = running();
    assert_eq!(session.tick(Mono(900_000)), None, "nothing is owed");
    offer(&mut session, &["a"]);
    due(&mut session, 900_000);
    assert_eq!(session.tick(Mono(919_999)), None);
    assert_eq!(session.tick(Mono(920_000)), Some(Action::Reconnect));
}

#[test]
fn the_window_bounds_frames_and_bytes() {
    let mut session = running();
    while session.has_room() {
        session.offer(STDOUT, vec![b'x'; limits::OUTPUT_CHUNK_BYTES]);
    }
    assert_eq!(
        session.unacked().count(),
        limits::WINDOW_BYTES / limits::OUTPUT_CHUNK_BYTES
    );
    session.receive(Mono(1), DaemonFrame::OutputAck { seq: 99 });
    while session.has_room() {
        session.offer(STDOUT, vec![b'x']);
    }
    assert_eq!(session.unacked().count(), limits::WINDOW_FRAMES);
}

#[test]
fn an_old_daemon_gets_one_frame_at_a_time_and_only_text() {
    let mut session = running_with_old_daemon();
    session.offer(STDOUT, vec![0xff]);
    offer(&mut session, &["b"]);
    session.complete(0, None, None);
    assert_eq!(due(&mut session, 0), ["start 7"]);
    session.receive(Mono(1), DaemonFrame::StartAck);
    let Some(Outgoing::Output { chunk, only_text }) = session.next(Mono(1)) else {
        panic!("no output");
    };
    assert!(chunk.seq == 0 && only_text);
    assert_eq!(due(&mut session, 1), [""; 0]);
    session.receive(Mono(2), DaemonFrame::OutputAck { seq: 0 });
    assert_eq!(due(&mut session, 2), ["1 b"]);
    session.receive(Mono(3), DaemonFrame::OutputAck { seq: 1 });
    assert_eq!(due(&mut session, 3), ["complete 0 2"]);
}

/// Two chunks, of which the first is acknowledged and the second on its way when the connection is cut.
fn cut_with_old_daemon() -> Session {
    let mut session = running_with_old_daemon();
    due(&mut session, 0);
    session.receive(Mono(0), DaemonFrame::StartAck);
    offer(&mut session, &["a", "b"]);
    due(&mut session, 0);
    session.receive(Mono(0), DaemonFrame::OutputAck { seq: 0 });
    assert_eq!(due(&mut session, 0), ["1 b"]);
    session.disconnected();
    session.connected(Mono(1_000), false);
    assert_eq!(due(&mut session, 1_000), ["sync 0 2"]);
    session
}

/// 16: it waited for ever for a session that was gone with its socket.
#[test]
fn an_old_daemon_that_forgot_the_session_gets_a_new_one_that_counts_from_0() {
    let mut session = cut_with_old_daemon();
    session.receive(Mono(1_001), DaemonFrame::SyncResponse { last_seq: -1 });
    assert_eq!(due(&mut session, 1_001), ["connect"]);
    offer(&mut session, &["c"]);
    assert_eq!(session.receive(Mono(1_002), ack(None, false, None)), None);
    // no start: that daemon discards what it has when it hears one
    assert_eq!(due(&mut session, 1_002), ["0 b"]);
    session.receive(Mono(1_003), DaemonFrame::OutputAck { seq: 0 });
    assert_eq!(due(&mut session, 1_003), ["1 c"]);
    session.receive(Mono(1_004), DaemonFrame::OutputAck { seq: 1 });
    session.complete(0, None, None);
    assert_eq!(due(&mut session, 1_004), ["complete 0 2"]);
}

#[test]
fn an_old_daemon_that_has_not_noticed_the_cut_says_what_it_holds() {
    let mut session = cut_with_old_daemon();
    session.receive(Mono(1_001), DaemonFrame::SyncResponse { last_seq: 1 });
    assert_eq!(session.unacked().count(), 0);
    assert_eq!(due(&mut session, 1_001), ["connect"]);
    session.receive(Mono(1_002), ack(None, false, None));
    offer(&mut session, &["c"]);
    assert_eq!(due(&mut session, 1_002), ["0 c"]);
}

#[test]
fn an_old_daemon_that_never_acknowledged_the_start_gets_it_again() {
    let mut session = running_with_old_daemon();
    assert_eq!(due(&mut session, 0), ["start 7"]);
    session.connected(Mono(1_000), false);
    assert_eq!(due(&mut session, 1_000), ["connect"]);
    session.receive(Mono(1_001), ack(None, false, None));
    assert_eq!(due(&mut session, 1_001), ["start 7"]);
}

#[test]
fn an_old_daemon_that_answers_nothing_after_a_cut_is_left() {
    let mut session = cut_with_old_daemon();
    assert_eq!(session.tick(Mono(21_000)), Some(Action::Reconnect));
}

#[test]
fn a_kill_is_answered_and_handed_on_each_time() {
    let mut session = running();
    let key = SessionKey {
        job: "j".into(),
        instance: "j_1".into(),
        machine: "m".into(),
    };
    for at in 0..2 {
        assert_eq!(
            session.receive(Mono(at), DaemonFrame::Kill { key: key.clone() }),
            Some(Action::Kill)
        );
        assert_eq!(due(&mut session, at), ["killed"]);
    }
}

#[test]
fn a_refusal_ends_the_talking() {
    for code in [ErrorCode::JobNotFound, ErrorCode::NotStartedAgain] {
        let mut session = running();
        let message = "no".to_string();
        let error = DaemonFrame::Error {
            code,
            message: message.clone(),
        };
        assert_eq!(
            session.receive(Mono(1), error),
            Some(Action::Refused { code, message })
        );
        assert!(session.is_closed());
        session.complete(0, None, None);
        assert_eq!(due(&mut session, 60_000), [""; 0]);
    }
}

#[test]
fn told_to_stop_before_the_permission_it_reports_and_never_starts() {
    let mut session = Session::new("id".into(), "1", true);
    session.complete(255, None, None);
    session.connected(Mono(0), true);
    assert_eq!(due(&mut session, 0), ["connect"]);
    assert_eq!(session.receive(Mono(1), ack(Some(&ALL), true, Some(-1))), None);
    assert_eq!(due(&mut session, 1), ["complete 255 0"]);
}
