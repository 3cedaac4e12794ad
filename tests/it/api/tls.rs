//! The API's port with a certificate of one's own: TLS and plain HTTP on one number, `/ws` over either, a pair that is
//! replaced while the daemon runs, the command line over `https://`.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use saltpeter::net::identity;
use saltpeter::{clock, limits, tls};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;

use super::token;
use crate::support::daemon::{Daemon, Plan, job};
use crate::support::http::{Client, Reply};
use crate::support::{PATIENCE_MS, Scratch, pause, until, until_within};
use crate::tls::own_address;

type Encrypted = StreamOwned<ClientConnection, TcpStream>;

/// Key and certificate, one file, that vouch for `names`.
fn pair(scratch: &Scratch, place: &str, names: &[&str]) -> PathBuf {
    let dir = scratch.path().join(place);
    fs::create_dir_all(&dir).unwrap();
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    identity::own(&dir, &names).unwrap();
    dir.join(identity::OWN_FILE)
}

fn plan(pem: &Path) -> Plan {
    let jobs = json!({"j": job("echo hi"), "big": job("yes a line | head -c 3000000")});
    Plan::new(jobs)
        .setting("tls_cert", json!(pem))
        .setting("tls_key", json!(pem))
}

/// A connection that believes `authority`.
fn connect(address: SocketAddr, authority: &Path) -> std::io::Result<Encrypted> {
    let mut socket = TcpStream::connect(address)?;
    let patience = Some(Duration::from_millis(PATIENCE_MS));
    socket.set_read_timeout(patience)?;
    socket.set_write_timeout(patience)?;
    let config = Arc::new(tls::believing(authority, tls::VERSIONS).unwrap());
    let name = ServerName::from(address.ip());
    let mut side = ClientConnection::new(config, name).unwrap();
    while side.is_handshaking() {
        side.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(side, socket))
}

fn local(daemon: &Daemon) -> SocketAddr {
    ([127, 0, 0, 1], daemon.api_port()).into()
}

fn encrypted(daemon: &Daemon, authority: &Path) -> Client<Encrypted> {
    Client::over(connect(local(daemon), authority).unwrap())
}

fn ask<S: Read + Write>(client: &mut Client<S>, path: &str) -> Reply {
    client.ask("GET", path, &[("Host", "localhost")], b"")
}

fn saltpeter(daemon: &Daemon, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saltpeter"))
        .args(arguments)
        .arg("-c")
        .arg(daemon.path("conf"))
        .env_remove("SALTPETER_URL")
        .env_remove("SALTPETER_TOKEN")
        .env_remove("SALTPETER_CACERT")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn one_port_speaks_tls_and_on_loopback_plain_http() {
    let scratch = Scratch::new();
    let pem = pair(&scratch, "a", &["127.0.0.1"]);
    let daemon = plan(&pem).start();
    let mut client = encrypted(&daemon, &pem);
    for path in ["/status", "/api/v1/jobs", "/status"] {
        let reply = ask(&mut client, path);
        assert_eq!(reply.status, 200, "{path} on one connection: {}", reply.text());
    }
    assert!(ask(&mut client, "/config").json()["crons"]["j"].is_object());
    assert_eq!(daemon.get("/status").status, 200);
    // an ended connection ends in order: nobody could cut an answer short unseen
    let last = client.ask(
        "GET",
        "/nope",
        &[("Host", "localhost"), ("Connection", "close")],
        b"",
    );
    assert_eq!(last.status, 404);
    assert!(client.is_closed());
}

#[test]
fn without_a_certificate_of_ones_own_the_port_speaks_no_tls() {
    let scratch = Scratch::new();
    let pem = pair(&scratch, "a", &["127.0.0.1"]);
    let daemon = Plan::new(json!({"j": job("true")})).start();
    assert!(connect(local(&daemon), &pem).is_err());
    assert_eq!(daemon.get("/status").status, 200);
}

#[test]
fn a_login_over_tls_has_a_cookie_that_travels_nowhere_else() {
    let scratch = Scratch::new();
    let pem = pair(&scratch, "a", &["127.0.0.1"]);
    let daemon = plan(&pem)
        .setting("api_tokens", json!([token("ui", "read", "secret")]))
        .start();
    let host = format!("127.0.0.1:{}", daemon.api_port());
    let origin = format!("https://{host}");
    let headers = [
        ("Host", host.as_str()),
        ("Origin", &origin),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    let log_in = |reply: Reply| {
        assert_eq!(reply.status, 303, "{}", reply.text());
        reply.header("set-cookie").unwrap().contains("; Secure")
    };
    assert!(log_in(encrypted(&daemon, &pem).ask(
        "POST",
        "/login",
        &headers,
        b"token=secret"
    )));
    assert!(!log_in(daemon.http().ask(
        "POST",
        "/login",
        &headers,
        b"token=secret"
    )));
}

#[test]
fn the_ui_is_served_over_wss() {
    let scratch = Scratch::new();
    let pem = pair(&scratch, "a", &["127.0.0.1"]);
    let daemon = plan(&pem).start();
    let url = format!("wss://127.0.0.1:{}/ws", daemon.api_port());
    let stream = connect(local(&daemon), &pem).unwrap();
    let (mut socket, _) = tungstenite::client(url.into_client_request().unwrap(), stream).unwrap();
    let mut next = || -> Value { serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap() };
    let config = next();
    assert_eq!(config["type"], "config");
    assert_eq!(config["config"]["crons"]["j"]["command"], "echo hi");
    assert_eq!(next()["type"], "status");
    socket
        .send(tungstenite::Message::text(
            json!({"subscribe": ["nope"]}).to_string(),
        ))
        .unwrap();
    until("the refusal", || {
        let frame = socket.read().unwrap();
        frame
            .to_text()
            .unwrap()
            .contains("there is no job 'nope' yet")
            .then_some(())
    });
}

#[test]
fn a_new_pair_is_taken_up_and_a_bad_one_is_not() {
    let scratch = Scratch::new();
    let served = pair(&scratch, "served", &["127.0.0.1"]);
    let first = scratch.path().join("first.pem");
    fs::copy(&served, &first).unwrap();
    let second = pair(&scratch, "second", &["127.0.0.1"]);
    let daemon = plan(&served).start();
    assert_eq!(ask(&mut encrypted(&daemon, &first), "/status").status, 200);
    fs::write(&served, "nonsense").unwrap();
    until("the complaint", || {
        let mut client = encrypted(&daemon, &first);
        assert_eq!(ask(&mut client, "/status").status, 200);
        daemon
            .said()
            .contains("goes on with the pair that it has")
            .then_some(())
    });
    fs::copy(&second, &served).unwrap();
    until("the new pair", || connect(local(&daemon), &second).ok());
    assert!(connect(local(&daemon), &first).is_err(), "the old one is gone");
    let complaints = daemon.said().matches("goes on with the pair").count();
    assert_eq!(complaints, 1, "said once: {}", daemon.said());
}

#[test]
fn the_command_line_asks_over_https_whom_it_can_believe() {
    let scratch = Scratch::new();
    let pem = pair(&scratch, "a", &["127.0.0.1"]);
    let other = pair(&scratch, "b", &["127.0.0.1"]);
    let daemon = plan(&pem).setting("api_open", json!(true)).start();
    let url = format!("https://127.0.0.1:{}", daemon.api_port());
    let with = |verb: &[&str], authority: &Path| {
        let mut all = verb.to_vec();
        all.extend(["--url", &url, "--cacert", authority.to_str().unwrap()]);
        saltpeter(&daemon, &all)
    };
    let status = with(&["status"], &pem);
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert_eq!(status.status.code(), Some(0), "{said}");
    assert!(String::from_utf8_lossy(&status.stdout).contains('j'));
    assert_eq!(with(&["run", "j", "--wait"], &pem).status.code(), Some(0));
    // more than any buffer on the way holds
    assert_eq!(with(&["run", "big", "--wait"], &pem).status.code(), Some(0));
    let text = with(&["logs", "big"], &pem).stdout;
    assert!(text.len() >= 3_000_000, "{} bytes", text.len());
    let unknown = with(&["status"], &other);
    assert_eq!(unknown.status.code(), Some(69));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("certificate"), "{said}");
    assert_eq!(
        with(&["status"], Path::new("/nowhere/ca.pem")).status.code(),
        Some(2)
    );
}

#[test]
fn a_handshake_that_stalls_is_dropped_and_delays_nobody() {
    let scratch = Scratch::new();
    let pem = pair(&scratch, "a", &["127.0.0.1"]);
    let daemon = plan(&pem).start();
    let begun = clock::mono();
    let mut stalled = TcpStream::connect(local(&daemon)).unwrap();
    let patience = Duration::from_millis(PATIENCE_MS + limits::HTTP_REQUEST_MS);
    stalled.set_read_timeout(Some(patience)).unwrap();
    stalled.write_all(&[tls::HANDSHAKE]).unwrap();
    assert_eq!(ask(&mut encrypted(&daemon, &pem), "/status").status, 200);
    assert!(clock::mono().since_ms(begun) < limits::HTTP_REQUEST_MS);
    // nor does a record that comes byte by byte take any longer than one that comes whole
    let mut half = encrypted(&daemon, &pem);
    half.send(b"GET /sta").unwrap();
    let mut dripping = TcpStream::connect(local(&daemon)).unwrap();
    let is_over = |socket: &mut TcpStream| socket.write_all(&[0]).is_err();
    // a record of 512 bytes
    dripping.write_all(&[tls::HANDSHAKE, 3, 1, 2, 0, 1]).unwrap();
    let dripped = clock::mono();
    until_within(PATIENCE_MS + limits::HTTP_REQUEST_MS, "its end", || {
        pause(200);
        is_over(&mut dripping).then_some(())
    });
    let took_ms = clock::mono().since_ms(dripped);
    let wanted = limits::HTTP_REQUEST_MS / 2..3 * limits::HTTP_REQUEST_MS;
    assert!(wanted.contains(&took_ms), "ended after {took_ms} ms");
    assert_eq!(half.reply().expect("an answer").status, 408);
    let result = stalled.read(&mut [0; 64]);
    let timed_out = matches!(&result, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out, "it is kept");
    let took_ms = clock::mono().since_ms(begun);
    assert!(
        took_ms >= limits::HTTP_REQUEST_MS,
        "dropped after {took_ms} ms already"
    );
}

#[test]
fn beyond_loopback_plain_http_is_sent_to_https() {
    let Some(address @ IpAddr::V4(_)) = own_address() else {
        return eprintln!("SKIPPED beyond_loopback: this host has only loopback");
    };
    let scratch = Scratch::new();
    let pem = pair(&scratch, "a", &["127.0.0.1", &address.to_string()]);
    let name = address.to_string();
    let daemon = plan(&pem)
        .setting("api_ws_bind_addr", json!("0.0.0.0"))
        .setting("api_hosts", json!([name]))
        .setting("api_tokens", json!([token("o", "operate", "secret")]))
        .start();
    let far = SocketAddr::new(address, daemon.api_port());
    let headers = [("Host", name.as_str()), ("Authorization", "Bearer secret")];
    let mut plain = Client::over(TcpStream::connect(far).unwrap());
    let refused = plain.ask("GET", "/status", &headers, b"");
    assert_eq!(refused.status, 400);
    let detail = refused.json()["detail"].as_str().unwrap().to_string();
    assert!(detail.contains("use https://"), "{detail}");
    assert!(plain.is_closed());
    let mut client = Client::over(connect(far, &pem).unwrap());
    assert_eq!(client.ask("GET", "/status", &headers, b"").status, 200);
}
