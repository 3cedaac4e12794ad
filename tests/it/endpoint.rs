//! The machines port on real sockets, with the test in the engine's place.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use saltpeter::budget::Budget;
use saltpeter::clock::{self, Wall};
use saltpeter::engine::effect::ConnectionOrder;
use saltpeter::engine::event::{Arrival, Arrived, Event};
use saltpeter::engine::id::ConnectionId;
use saltpeter::limits;
use saltpeter::machines::{self, Connections, Lanes};
use saltpeter::net::{self, accept::Acceptor, identity};
use saltpeter::protocol::{
    self, DaemonFrame, ErrorCode, OutputBody, SessionKey, WrapperBody, decode_daemon_frame,
};
use tungstenite::{Message, WebSocket};

use crate::support::Scratch;

const PATIENCE: Duration = Duration::from_secs(120);

struct Endpoint {
    port: u16,
    control: Receiver<Event>,
    bulk: Receiver<Event>,
    budget: Arc<Budget>,
    connections: Arc<Connections>,
    _acceptor: Acceptor,
}

fn endpoint(cap: usize, budget_bytes: usize) -> Endpoint {
    let listener = net::listen(([127, 0, 0, 1], 0).into(), "machines", "machines_ws_port").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (control, control_events) = bounded(limits::CONTROL_QUEUE);
    let (bulk, bulk_events) = bounded(limits::BULK_QUEUE);
    let budget = Budget::new(budget_bytes);
    let connections = Arc::new(Connections::default());
    let lanes = Lanes { control, bulk };
    let acceptor = machines::start(
        listener,
        saltpeter::net::capacity::Capacity::new(cap),
        tls_config(),
        lanes,
        budget.clone(),
        connections.clone(),
    )
    .unwrap();
    Endpoint {
        port,
        control: control_events,
        bulk: bulk_events,
        budget,
        connections,
        _acceptor: acceptor,
    }
}

/// A key of this test run's own.
fn tls_config() -> Arc<rustls::ServerConfig> {
    let scratch = Scratch::new();
    identity::own(scratch.path(), &[]).unwrap().config
}

impl Endpoint {
    fn connect(&self, path: &str) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let url = format!("ws://127.0.0.1:{}{path}", self.port);
        tungstenite::client(url, stream).unwrap().0
    }

    /// Connects and says so, as every wrapper does; the connection's number.
    fn wrapper(&self) -> (WebSocket<TcpStream>, ConnectionId) {
        let mut socket = self.connect("/?token=t");
        say(&mut socket, &WrapperBody::Killed);
        match self.next() {
            Event::Wrapper(Arrival {
                connection,
                what: Arrived::Frame { .. },
                ..
            }) => (socket, connection),
            other => panic!("{other:?}"),
        }
    }

    fn next(&self) -> Event {
        self.control.recv_timeout(PATIENCE).unwrap()
    }
}

fn is_closed(event: &Event) -> bool {
    matches!(
        event,
        Event::Wrapper(Arrival {
            what: Arrived::Closed,
            ..
        })
    )
}

fn key() -> SessionKey {
    SessionKey {
        job: "j".into(),
        instance: "j_1".into(),
        machine: "web01".into(),
    }
}

fn say(socket: &mut WebSocket<TcpStream>, body: &WrapperBody) {
    let text = protocol::encode_wrapper_frame(&key(), body, Wall(0));
    socket.send(Message::text(text)).unwrap();
}

fn output(seq: u64, bytes: usize) -> WrapperBody {
    WrapperBody::Output(OutputBody {
        data: vec![b'x'; bytes],
        is_text: true,
        stream: None,
        seq: Some(seq),
    })
}

fn hear(socket: &mut WebSocket<TcpStream>) -> DaemonFrame {
    match socket.read().unwrap() {
        Message::Text(text) => decode_daemon_frame(&text).unwrap().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Waits until it is true.
fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = clock::mono().plus_ms(PATIENCE.as_millis() as u64);
    let (_never, pause) = bounded::<()>(0);
    while !is_true() {
        assert!(clock::mono() < deadline, "{what}");
        let _ = pause.recv_timeout(Duration::from_millis(2));
    }
}

#[test]
fn any_path_is_taken_and_the_token_of_its_query_is_told() {
    let endpoint = endpoint(10, 1 << 20);
    for (path, token) in [
        ("/", None),
        ("/?token=abc", Some("abc")),
        ("/some/where?x=y&token=a%20b", Some("a b")),
    ] {
        let mut socket = endpoint.connect(path);
        say(&mut socket, &WrapperBody::Heartbeat);
        match endpoint.next() {
            Event::Wrapper(Arrival {
                connection,
                peer,
                what: Arrived::Frame { frame, .. },
                ..
            }) => {
                assert_eq!(peer.token.as_deref(), token);
                assert!(peer.is_confidential, "loopback");
                assert_eq!((frame.key, frame.body), (key(), WrapperBody::Heartbeat));
                let ack = DaemonFrame::StartAck;
                endpoint
                    .connections
                    .push(connection, ConnectionOrder::Send(ack.clone()));
                assert_eq!(hear(&mut socket), ack);
                drop(socket);
                match endpoint.next() {
                    Event::Wrapper(Arrival {
                        connection: gone,
                        what: Arrived::Closed,
                        ..
                    }) => assert_eq!(gone, connection),
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(endpoint.connections.count(), 0);
}

#[test]
fn beats_of_the_bound_session_are_stamped_and_do_not_wake_the_engine() {
    let endpoint = endpoint(10, 1 << 20);
    let (mut socket, connection) = endpoint.wrapper();
    let bind = ConnectionOrder::Bind {
        instance: "j_1".into(),
        machine: "web01".into(),
    };
    endpoint.connections.push(connection, bind);
    // what is asked after it is answered after it
    endpoint.connections.push(connection, ConnectionOrder::Probe);
    assert!(matches!(endpoint.next(), Event::Dry { last_beat: None, .. }));
    say(&mut socket, &WrapperBody::Heartbeat);
    let mut beats = Vec::new();
    eventually("the beat is collected", || {
        beats.extend(endpoint.connections.collect_beats());
        !beats.is_empty()
    });
    assert_eq!(beats[0].0, connection);
    assert!(
        endpoint.connections.collect_beats().is_empty(),
        "each is collected once"
    );
    assert!(endpoint.control.is_empty());
    endpoint.connections.push(connection, ConnectionOrder::Probe);
    match endpoint.next() {
        Event::Dry { last_beat, .. } => assert_eq!(last_beat, Some(beats[0].1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_frame_is_answered_with_bad_frame_and_a_close() {
    let endpoint = endpoint(10, 1 << 20);
    let header_of_64_mib = [0x81, 0xff, 0, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4];
    type Offence = Box<dyn Fn(&mut WebSocket<TcpStream>)>;
    let cases: [(&str, Offence); 5] = [
        (
            "no JSON",
            Box::new(|socket| socket.send(Message::text("{")).unwrap()),
        ),
        (
            "missing fields",
            Box::new(|socket| socket.send(Message::text(r#"{"type":"connect"}"#)).unwrap()),
        ),
        (
            "unknown type",
            Box::new(|socket| {
                let text = r#"{"type":"dance","job_name":"j","job_instance":"j_1","machine":"m"}"#;
                socket.send(Message::text(text)).unwrap();
            }),
        ),
        (
            "binary",
            Box::new(|socket| socket.send(Message::binary(vec![1])).unwrap()),
        ),
        (
            "too large, by its header alone",
            Box::new(move |socket| socket.get_mut().write_all(&header_of_64_mib).unwrap()),
        ),
    ];
    for (what, offend) in cases {
        let mut socket = endpoint.connect("/");
        offend(&mut socket);
        match hear(&mut socket) {
            DaemonFrame::Error { code, .. } => assert_eq!(code, ErrorCode::BadFrame, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert!(matches!(socket.read(), Ok(Message::Close(_))), "{what}");
        drop(socket);
        assert!(is_closed(&endpoint.next()), "{what}");
    }
}

#[test]
fn control_frames_tell_how_much_output_came_before_them() {
    let endpoint = endpoint(10, 1 << 20);
    let (mut socket, connection) = endpoint.wrapper();
    for seq in 0..5 {
        say(&mut socket, &output(seq, 10));
    }
    let complete = WrapperBody::Complete {
        retcode: Some(0),
        seq: Some(5),
        given_by: None,
        duration_ms: None,
    };
    say(&mut socket, &complete);
    assert!(matches!(
        endpoint.next(),
        Event::Wrapper(Arrival {
            outputs_before: 5,
            what: Arrived::Frame { .. },
            ..
        })
    ));
    assert_eq!(endpoint.bulk.len(), 5);
    endpoint.connections.push(connection, ConnectionOrder::Close);
    while socket.read().is_ok() {}
    assert!(matches!(
        endpoint.next(),
        Event::Wrapper(Arrival {
            outputs_before: 5,
            what: Arrived::Closed,
            ..
        })
    ));
}

#[test]
fn beyond_the_budget_output_is_dropped_and_asked_for_again_when_there_is_room() {
    let endpoint = endpoint(10, 1_000);
    let (mut socket, connection) = endpoint.wrapper();
    say(&mut socket, &output(0, 900));
    say(&mut socket, &output(1, 200));
    say(&mut socket, &output(2, 50));
    say(&mut socket, &WrapperBody::Killed);
    // seq 2 would fit, but behind a gap it is worth nothing
    assert!(matches!(
        endpoint.next(),
        Event::Wrapper(Arrival {
            outputs_before: 1,
            what: Arrived::Frame { .. },
            ..
        })
    ));
    assert!(
        endpoint.control.is_empty(),
        "there is no room yet, so nothing is asked for"
    );
    assert_eq!(endpoint.budget.left(), 100);
    drop(endpoint.bulk.recv_timeout(PATIENCE).unwrap());
    match endpoint.next() {
        Event::OutputDropped { connection: which } => assert_eq!(which, connection),
        other => panic!("{other:?}"),
    }
    say(&mut socket, &output(1, 200));
    assert!(matches!(
        endpoint.bulk.recv_timeout(PATIENCE).unwrap(),
        Event::Wrapper(Arrival {
            what: Arrived::Output(_),
            ..
        })
    ));
}

#[test]
fn pings_are_answered_while_the_engine_takes_nothing() {
    let endpoint = endpoint(10, 64 << 20);
    let (mut socket, _) = endpoint.wrapper();
    for seq in 0..limits::BULK_QUEUE as u64 + 10 {
        say(&mut socket, &output(seq, 1));
    }
    socket
        .send(Message::Ping(b"still there?".as_slice().into()))
        .unwrap();
    match socket.read().unwrap() {
        Message::Pong(bytes) => assert_eq!(&*bytes, b"still there?"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_probe_is_answered_after_everything_that_had_come() {
    let endpoint = endpoint(10, 1 << 20);
    let (mut socket, connection) = endpoint.wrapper();
    for _ in 0..200 {
        say(&mut socket, &WrapperBody::Killed);
    }
    endpoint.connections.push(connection, ConnectionOrder::Probe);
    let mut frames = 0;
    loop {
        match endpoint.next() {
            Event::Wrapper(_) => frames += 1,
            Event::Dry { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(frames, 200);
}

#[test]
fn a_wrapper_that_never_reads_is_dropped() {
    let endpoint = endpoint(10, 1 << 20);
    let (_socket, connection) = endpoint.wrapper();
    let message = "m".repeat(100_000);
    // far beyond what the kernel, the write buffer and the outbox hold
    eventually("it is dropped", || {
        for _ in 0..100 {
            let frame = DaemonFrame::Error {
                code: ErrorCode::JobNotFound,
                message: message.clone(),
            };
            endpoint
                .connections
                .push(connection, ConnectionOrder::Send(frame));
        }
        endpoint.connections.count() == 0
    });
    assert!(is_closed(&endpoint.next()));
}

#[test]
fn above_the_cap_wrappers_are_refused_politely_and_a_free_place_is_taken_again() {
    let endpoint = endpoint(1, 1 << 20);
    let (socket, _) = endpoint.wrapper();
    let mut second = TcpStream::connect(("127.0.0.1", endpoint.port)).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    second.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(socket);
    assert!(is_closed(&endpoint.next()));
    endpoint.wrapper();
}

#[test]
fn clients_that_dawdle_over_the_handshake_delay_nobody() {
    let endpoint = endpoint(1_000, 1 << 20);
    let dawdlers: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", endpoint.port)).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    let begun = clock::mono();
    endpoint.wrapper();
    assert!(clock::mono().since_ms(begun) < limits::HANDSHAKE_MS / 2);
    drop(dawdlers);
}
