//! TLS between real wrappers and the real daemon: what is heard on the wire, who is believed, what one port serves.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::{ServerConnection, StreamOwned};
use saltpeter::net::identity;
use saltpeter::{clock, limits, thread};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Plan, job, job_with};
use crate::support::peer::Orders;
use crate::support::tap::Tap;
use crate::support::{Scratch, until};

/// A daemon whose job `j` goes over the socket to wrappers that the test starts itself.
fn daemon(command: &str, fields: Value) -> Daemon {
    let daemon = Plan::new(json!({})).start();
    let mut job = overlapping(command, fields);
    job["wrapper_path"] = json!(daemon.told_wrapper());
    job["wrapper_delivery"] = json!("socket");
    daemon.write_jobs("jobs", &json!({"j": job}));
    daemon.wait_jobs(1);
    daemon
}

/// Without a lock: other daemons' jobs have the same name.
fn overlapping(command: &str, fields: Value) -> Value {
    let mut job = job_with(command, fields);
    job["allow_overlap"] = json!("i know what i am doing!");
    job
}

/// What the daemon's log says that dispatches carry.
fn pin(daemon: &Daemon) -> String {
    let said = daemon.said();
    let (_, rest) = said.split_once("SP_TLS_PIN=").unwrap();
    rest.split_whitespace().next().unwrap().to_string()
}

fn token(orders: &Orders) -> &str {
    orders.url.split_once("token=").unwrap().1
}

/// Starts our wrapper under these orders, by another way to the daemon.
fn wrapper(daemon: &Daemon, orders: &Orders, way: &str, trust: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sp-wrapper"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        // so that it goes with the daemon of this test, whatever happens
        .env("LC_SALTPETER_IT", daemon.path(""))
        .env("SP_WEBSOCKET_URL", format!("{way}/?token={}", token(orders)))
        .env("SP_JOB_NAME", &orders.job)
        .env("SP_JOB_INSTANCE", &orders.instance)
        .env("SP_MACHINE_ID", &orders.machine)
        .env("SP_WRAPPER_LOGDIR", daemon.path("log-of-wrapper"))
        .envs(trust.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn wrapper_log(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.path("log-of-wrapper").join("j.log")).unwrap_or_default()
}

/// Bytes that are no text.
fn awkward_bytes(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn who_listens_on_the_wire_finds_neither_command_nor_token_nor_output() {
    let scratch = Scratch::new();
    let mut bytes = awkward_bytes(300_000);
    // enough to travel as text
    bytes.extend_from_slice(&b"marker-in-output\n".repeat(5_000));
    let file = scratch.path().join("bytes");
    std::fs::write(&file, &bytes).unwrap();
    let command = format!("cat {}; true marker-in-command", file.display());
    let daemon = daemon(&command, json!({"env": {"SECRET": "marker-in-env"}}));
    for is_tls in [true, false] {
        let tap = Tap::to(daemon.machines_port());
        let instance = daemon.run("j");
        let orders = daemon.orders(&instance, "m1");
        let pin = pin(&daemon);
        let (way, trust) = if is_tls {
            (
                format!("wss://127.0.0.1:{}", tap.port),
                vec![("SP_TLS_PIN", &*pin)],
            )
        } else {
            (format!("ws://127.0.0.1:{}", tap.port), vec![])
        };
        let launched = wrapper(&daemon, &orders, &way, &trust);
        assert!(launched.status.success(), "{launched:?}");
        daemon.wait_ended(&instance);
        assert_eq!(daemon.retcode(&instance, "m1"), 0);
        assert!(daemon.output(&instance, "m1") == bytes);
        assert!(tap.heard_bytes() > bytes.len());
        let secrets = [
            "marker-in-command",
            "marker-in-env",
            "marker-in-output",
            token(&orders),
            &instance,
            "Sec-WebSocket",
        ];
        for secret in secrets {
            // without TLS they are there: it is the right wire that is listened on
            assert_eq!(tap.heard(secret), !is_tls, "'{secret}', TLS: {is_tls}");
        }
    }
}

/// A daemon with a key of its own. It would let anybody start a command.
struct Impostor {
    port: u16,
    /// What it was told behind a finished handshake.
    told: Arc<Mutex<Vec<u8>>>,
}

impl Impostor {
    fn start() -> Impostor {
        let scratch = Scratch::new();
        let config = identity::own(scratch.path(), &[]).unwrap().config;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = Arc::new(Mutex::default());
        let hearing: Arc<Mutex<Vec<u8>>> = told.clone();
        thread::spawn("impostor", 1 << 20, move || {
            for socket in listener.incoming().flatten() {
                let side = ServerConnection::new(config.clone()).unwrap();
                let mut stream = StreamOwned::new(side, socket);
                let mut piece = [0; 4_096];
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    hearing.lock().extend_from_slice(&piece[..count]);
                }
            }
        })
        .unwrap();
        Impostor { port, told }
    }
}

#[test]
fn a_false_daemon_is_told_nothing_and_the_wrapper_goes_on_looking_for_the_true_one() {
    let daemon = daemon("echo obeyed", json!({}));
    let impostor = Impostor::start();
    let tap = Tap::to(impostor.port);
    let instance = daemon.run("j");
    let orders = daemon.orders(&instance, "m1");
    let way = format!("wss://127.0.0.1:{}", tap.port);
    let launched = wrapper(&daemon, &orders, &way, &[("SP_TLS_PIN", &pin(&daemon))]);
    assert!(launched.status.success(), "{launched:?}");
    until("a second attempt", || (tap.connections() >= 2).then_some(()));
    assert_eq!(*impostor.told.lock(), b"", "not even the request to upgrade");
    assert!(!tap.heard(token(&orders)));
    assert_eq!(daemon.output(&instance, "m1"), b"");
    tap.turn_to(daemon.machines_port());
    daemon.wait_ended(&instance);
    assert_eq!(daemon.output_text(&instance, "m1"), "obeyed\n");
    let log = wrapper_log(&daemon);
    assert!(log.contains("not the one that SP_TLS_PIN names"), "{log}");
    assert_eq!(log.matches("not the one that").count(), 1, "told once: {log}");
    assert!(!log.contains(token(&orders)));
}

/// The local executor's wrappers believed whoever listened on loopback.
#[test]
fn who_binds_the_port_of_a_daemon_that_is_down_is_told_nothing() {
    let daemon = Plan::new(json!({})).start();
    let ours = daemon.script(
        "sp-wrapper",
        &std::fs::read_to_string(daemon.told_wrapper()).unwrap(),
    );
    daemon.write_jobs(
        "jobs",
        &json!({"j": overlapping("echo obeyed", json!({"wrapper_path": ours}))}),
    );
    daemon.wait_jobs(1);
    let instance = daemon.run("j");
    let environment = daemon.environment(&instance, "m1");
    let get = |name: &str| {
        let found = environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    let url = get("SP_WEBSOCKET_URL").unwrap();
    let port = format!(":{}/", daemon.machines_port());
    assert!(
        url.starts_with("wss://127.0.0.1:") && url.contains(&port),
        "{url}"
    );
    // the same dispatch, with a stranger at that address
    let impostor = Impostor::start();
    let tap = Tap::to(impostor.port);
    let orders = daemon.orders(&instance, "m1");
    let way = format!("wss://127.0.0.1:{}", tap.port);
    wrapper(
        &daemon,
        &orders,
        &way,
        &[("SP_TLS_PIN", get("SP_TLS_PIN").unwrap())],
    );
    until("a second attempt", || (tap.connections() >= 2).then_some(()));
    assert_eq!(*impostor.told.lock(), b"");
    assert!(!tap.heard(token(&orders)));
    tap.turn_to(daemon.machines_port());
    daemon.wait_ended(&instance);
    assert_eq!(daemon.output_text(&instance, "m1"), "obeyed\n");
}

#[test]
fn one_port_serves_plain_and_tls_by_pin_and_by_authority_at_once() {
    let daemon = daemon("echo $SP_MACHINE_ID", json!({"targets": "*"}));
    let instance = daemon.run("j");
    let port = daemon.machines_port();
    let pin = pin(&daemon);
    let authority = daemon.state_dir().join(identity::OWN_FILE);
    let authority = authority.to_str().unwrap();
    let ways = [
        ("m1", format!("ws://127.0.0.1:{port}"), None),
        (
            "m2",
            format!("wss://127.0.0.1:{port}"),
            Some(("SP_TLS_PIN", &*pin)),
        ),
        (
            "m3",
            format!("wss://localhost:{port}"),
            Some(("SP_TLS_CA", authority)),
        ),
    ];
    for (machine, way, trust) in &ways {
        let orders = daemon.orders(&instance, machine);
        let launched = wrapper(&daemon, &orders, way, trust.as_slice());
        assert!(launched.status.success(), "{launched:?}");
    }
    daemon.wait_ended(&instance);
    for (machine, _, _) in ways {
        assert_eq!(daemon.output_text(&instance, machine), format!("{machine}\n"));
    }
}

#[test]
fn an_authority_does_not_vouch_for_another_name() {
    let daemon = daemon("echo obeyed", json!({}));
    let instance = daemon.run("j");
    let orders = daemon.orders(&instance, "m1");
    let authority = daemon.state_dir().join(identity::OWN_FILE);
    let trust = [("SP_TLS_CA", authority.to_str().unwrap())];
    // the certificate names the host, not this address
    let way = format!("wss://127.0.0.1:{}", daemon.machines_port());
    wrapper(&daemon, &orders, &way, &trust);
    until("the refusal", || {
        wrapper_log(&daemon)
            .contains("invalid peer certificate")
            .then_some(())
    });
    assert_eq!(daemon.output(&instance, "m1"), b"");
}

#[test]
fn what_begins_like_tls_and_does_not_go_on_is_dropped_and_delays_nobody() {
    let daemon = daemon("echo through", json!({}));
    let connect = |first: &[u8]| {
        let mut socket = TcpStream::connect(("127.0.0.1", daemon.machines_port())).unwrap();
        socket.write_all(first).unwrap();
        let patience = Duration::from_millis(limits::HANDSHAKE_MS + 10_000);
        socket.set_read_timeout(Some(patience)).unwrap();
        socket
    };
    let begun = clock::mono();
    // a record of 512 bytes that never comes, all at once and byte by byte
    let stalled = [0x16, 3, 1, 2, 0, 1];
    let mut stalling: Vec<TcpStream> = (0..50).map(|_| connect(&stalled)).collect();
    let dribbling = connect(&stalled);
    let mut dribble = dribbling.try_clone().unwrap();
    thread::spawn("dribble", 1 << 20, move || {
        let (_never, pause) = crossbeam_channel::bounded::<()>(0);
        while dribble.write_all(&[0]).is_ok() {
            let _ = pause.recv_timeout(Duration::from_millis(100));
        }
    })
    .unwrap();
    stalling.push(dribbling);
    let mut rest = Vec::new();
    let _ = connect(&[&[0x16u8][..], &[b'x'; 500]].concat()).read_to_end(&mut rest);
    assert!(
        rest.is_empty() || rest[0] == 0x15,
        "an alert or nothing: {rest:?}"
    );
    let instance = daemon.run("j");
    let orders = daemon.orders(&instance, "m1");
    let way = format!("wss://127.0.0.1:{}", daemon.machines_port());
    wrapper(&daemon, &orders, &way, &[("SP_TLS_PIN", &pin(&daemon))]);
    daemon.wait_ended(&instance);
    assert!(
        clock::mono().since_ms(begun) < limits::HANDSHAKE_MS,
        "delayed by them"
    );
    for mut socket in stalling {
        // an end or a reset, but no time-out
        let result = socket.read(&mut [0; 64]);
        let timed_out = matches!(&result, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "it is kept");
    }
}

/// An address of this host that is not loopback.
pub fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // nothing is sent
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn a_dispatch_beyond_loopback_carries_the_pin_to_our_wrapper_and_to_no_other() {
    let Some(address) = own_address() else {
        return eprintln!("SKIPPED a_dispatch_beyond_loopback: this host has only loopback");
    };
    let daemon = Plan::new(json!({}))
        .setting("machines_ws_bind_addr", json!(address.to_string()))
        .start();
    let ours = daemon.script(
        "sp-wrapper",
        &std::fs::read_to_string(daemon.told_wrapper()).unwrap(),
    );
    let with = |path: &std::path::Path, delivery: &str| {
        overlapping(
            "true marker",
            json!({"wrapper_path": path, "wrapper_delivery": delivery}),
        )
    };
    daemon.write_jobs(
        "jobs",
        &json!({
            "real": overlapping("echo over TLS", json!({})), "auto": with(&ours, "auto"), "env": with(&ours, "env"),
            "python": with(daemon.told_wrapper(), "auto"),
        }),
    );
    daemon.wait_jobs(4);
    let pin = pin(&daemon);
    for (job, is_tls, has_command) in [
        ("auto", true, false),
        ("env", true, true),
        ("python", false, true),
    ] {
        let instance = daemon.run(job);
        let environment = daemon.environment(&instance, "m1");
        let get = |name: &str| {
            environment
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value)
        };
        let scheme = if is_tls { "wss" } else { "ws" };
        let url = get("SP_WEBSOCKET_URL").unwrap();
        assert!(url.starts_with(&format!("{scheme}://{address}:")), "{job}: {url}");
        assert_eq!(get("SP_TLS_PIN"), is_tls.then_some(&pin), "{job}");
        assert_eq!(get("SP_COMMAND").is_some(), has_command, "{job}");
    }
    assert_eq!(daemon.run_to_end("real"), (0, "over TLS\n".into()));
    // a wrapper without TLS remains possible, and takes its job from the dispatch
    daemon.set("wrapper_tls", json!(false));
    let environment = until("the setting in force", || {
        let environment = daemon.environment(&daemon.run("auto"), "m1");
        environment
            .iter()
            .all(|(name, _)| name != "SP_TLS_PIN")
            .then_some(environment)
    });
    assert!(environment.iter().any(|(name, _)| name == "SP_COMMAND"));
}

#[test]
fn a_given_certificate_is_used_and_a_bad_one_keeps_the_daemon_from_starting() {
    let scratch = Scratch::new();
    let given = identity::own(scratch.path(), &["cron.example.com".into()]).unwrap();
    let file = scratch.path().join(identity::OWN_FILE);
    let with = |key: &str| {
        Plan::new(json!({"j": job("true")}))
            .setting("tls_cert", json!(file))
            .setting("tls_key", json!(key))
    };
    let daemon = with(file.to_str().unwrap()).start();
    assert_eq!(pin(&daemon), given.pin.to_string());
    assert!(!daemon.state_dir().join(identity::OWN_FILE).exists());
    let daemon = with("/nowhere/key.pem").prepare();
    assert_eq!(daemon.start_in_vain().code(), Some(1));
    assert!(
        daemon.said().contains("tls_key: cannot read '/nowhere/key.pem'"),
        "{}",
        daemon.said()
    );
}

#[test]
fn the_key_stays_over_a_restart() {
    let daemon = Plan::new(json!({"j": job("true")})).start();
    let before = pin(&daemon);
    daemon.stop();
    daemon.start();
    assert_eq!(pin(&daemon), before);
}
