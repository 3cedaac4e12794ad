//! Hostile input: bounded, refused with a fitting status, and others notice nothing.

use std::io::Read;
use std::net::TcpStream;

use serde_json::json;

use super::{control, expect, with_headers};
use crate::support::daemon::{Daemon, Plan, job};
use crate::support::until;
use saltpeter::clock;

fn daemon() -> Daemon {
    Plan::new(json!({"j": job("true")})).start()
}

/// Sends bytes as they are; the status of the answer, if one comes before the end.
fn raw(daemon: &Daemon, bytes: &[u8]) -> Option<u16> {
    let mut client = daemon.http();
    // it may be refused before all of it is sent
    let _ = client.send(bytes);
    client.reply().map(|reply| reply.status)
}

#[test]
fn probes_are_answered_under_any_host_and_nothing_else_is() {
    let daemon = daemon();
    let status = |path: &str, host: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        raw(&daemon, request.as_bytes()).unwrap()
    };
    for path in ["/healthz", "/readyz"] {
        for host in ["10.1.2.3:8888", "[fd00::1]:8888", "saltpeter.monitoring.svc"] {
            assert_eq!(status(path, host), 200, "{path} of {host}");
        }
    }
    // an address is nothing that somebody's DNS could point here; but a token is needed, where there are some
    assert!(matches!(status("/metrics", "10.1.2.3:8888"), 200 | 401));
    assert_eq!(status("/metrics", "evil.example.com"), 403);
    assert_eq!(status("/api/v1/jobs", "10.1.2.3:8888"), 403);
}

#[test]
fn what_is_too_large_or_malformed_is_refused_with_a_fitting_status() {
    let daemon = daemon();
    let huge = "x".repeat(64 << 10);
    let many: String = (0..200).map(|number| format!("H{number}: x\r\n")).collect();
    for (name, request, status) in [
        ("huge header", format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {huge}\r\n\r\n"), 431),
        ("huge path", format!("GET /{huge} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 431),
        ("many headers", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), 431),
        ("huge body", "POST /run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n".into(), 413),
        (
            "huge chunk",
            "POST /run HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n".into(),
            413,
        ),
        (
            "bad chunk",
            "POST /run HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".into(),
            400,
        ),
        (
            "smuggled",
            "POST /run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            400,
        ),
        ("no host", "GET /status HTTP/1.1\r\n\r\n".into(), 400),
        ("two hosts", "GET /status HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".into(), 400),
        ("binary", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".into(), 400),
        ("http/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 400),
        ("odd method", "BREW /status HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 405),
        ("foreign host", "GET /status HTTP/1.1\r\nHost: evil.example.com\r\n\r\n".into(), 403),
        ("absolute form", "GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 200),
        (
            "absolute form of a foreign host",
            "GET http://evil.example.com/status HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            403,
        ),
        ("HTTP/1.0 without a host", "GET /healthz HTTP/1.0\r\n\r\n".into(), 200),
    ] {
        assert_eq!(raw(&daemon, request.as_bytes()), Some(status), "{name}");
    }
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn tricks_with_paths_lead_nowhere() {
    let daemon = daemon();
    for path in [
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "//api/v1/jobs",
        "/api/v1/jobs/../../status",
        "/api/v1/jobs/",
        "/api/v1//jobs",
        "/API/V1/JOBS",
        "/status/",
        "/api%2fv1%2fjobs",
        "/api/v1/jobs/%00",
        "/api/v1/jobs/%ff%fe",
        "/api/v1/runs/..%2f..%2fstate.db",
        "/api/v1/runs/j_1'%20OR%201=1--",
        "/api/v1/runs/j_1/machines/..%2f..%2f/output",
        "/;/status",
        "ftp://localhost/status",
        "*",
    ] {
        let reply = with_headers(&daemon, "GET", path, &[], b"");
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
    }
}

#[test]
fn bodies_that_are_bombs_or_not_what_they_say_are_refused() {
    let daemon = daemon();
    let json = [("Content-Type", "application/json")];
    let run = |headers: &[(&str, &str)], body: &[u8]| {
        with_headers(&daemon, "POST", "/api/v1/jobs/j/run", headers, body)
    };
    let deep = "[".repeat(500_000);
    let deep_object = "{\"parameters\":".repeat(30_000);
    let many: String = (0..20_001).map(|number| format!("\"m{number}\",")).collect();
    let many = format!("{{\"targets\":[{}\"x\"]}}", many);
    for body in [
        deep.as_bytes(),
        deep_object.as_bytes(),
        many.as_bytes(),
        b"\xff\xfe",
        b"{",
        b"null",
        b"{\"targets\": null} trailing",
        b"{\"parameters\": {\"a\": \"b\"}, \"parameters\": {}}",
    ] {
        expect(&run(&json, body), 400);
    }
    expect(&run(&[], b"{}"), 415);
    expect(&run(&[("Content-Type", "text/plain")], b"{}"), 415);
    expect(
        &run(&[("Content-Type", "application/x-www-form-urlencoded")], b"job=j"),
        415,
    );
    let long = "n".repeat(900_000);
    let reply = daemon.post("/run", &json!({"job": long}));
    assert_eq!(reply.status, 404);
    let stored = daemon.number("SELECT max(length(object)) FROM audit WHERE by <> ?1", "");
    assert!(stored < 2_000, "{stored} characters of a name are kept");
}

#[test]
fn requests_that_follow_each_other_unasked_are_answered_in_order() {
    let daemon = daemon();
    let mut client = daemon.http();
    let mut requests = String::new();
    for number in 0..100 {
        let path = if number % 2 == 0 { "/healthz" } else { "/nope" };
        requests += &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    client.send(requests.as_bytes()).unwrap();
    for number in 0..100 {
        let wanted = if number % 2 == 0 { 200 } else { 404 };
        assert_eq!(client.reply().unwrap().status, wanted, "{number}");
    }
}

#[test]
fn whoever_sends_slowly_is_hung_up_on_and_costs_others_nothing() {
    let daemon = daemon();
    let mut slow = daemon.http();
    slow.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: ")
        .unwrap();
    let begun = clock::mono();
    let mut last = 0;
    let mut status = None;
    // a byte now and then must not prolong it
    until("an end", || {
        let now_ms = clock::mono().since_ms(begun);
        assert!(daemon.get("/healthz").status == 200);
        if now_ms - last > 500 {
            last = now_ms;
            if slow.send(b"x").is_err() {
                return Some(());
            }
        }
        slow.stream.set_nonblocking(true).unwrap();
        let mut byte = [0; 512];
        let read = slow.stream.read(&mut byte);
        slow.stream.set_nonblocking(false).unwrap();
        match read {
            Ok(count) => {
                status = Some(String::from_utf8_lossy(&byte[..count]).into_owned());
                Some(())
            }
            Err(_) => None,
        }
    });
    if let Some(status) = status.filter(|status| !status.is_empty()) {
        assert!(status.starts_with("HTTP/1.1 408 "), "{status}");
    }
    assert!(clock::mono().since_ms(begun) < 20_000);
}

#[test]
fn five_thousand_idle_connections_keep_nobody_out() {
    let daemon = daemon();
    let mut idle = Vec::new();
    for number in 0..5_000 {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", daemon.api_port())) else {
            // this process may have too few descriptors
            assert!(number > 900, "only {number} connections");
            break;
        };
        idle.push(stream);
        if number % 500 == 0 {
            assert_eq!(daemon.get("/healthz").status, 200, "after {number}");
        }
    }
    let instance = daemon.run("j");
    daemon.wait_ended(&instance);
    assert_eq!(daemon.get("/api/v1/jobs").status, 200);
    assert!(idle.len() > 900);
}

#[test]
fn who_takes_every_place_does_not_keep_the_operator_out() {
    let daemon = daemon();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut taken = Vec::new();
    loop {
        let mut client = daemon.http();
        let _ = client.send(upgrade.as_bytes());
        match client.reply().map(|reply| reply.status) {
            Some(101) => taken.push(client),
            // it is told so, if what it sends does not cross that
            refused => break assert!([None, Some(503)].contains(&refused), "{refused:?}"),
        }
    }
    assert_eq!(taken.len(), saltpeter::limits::API_CONNECTIONS);
    let body = json!({"reason": "r"});
    expect(&control(&daemon, "POST", "/api/v1/jobs/j/pause", &body), 200);
}

#[test]
fn upgrades_that_are_none_are_refused() {
    let daemon = daemon();
    for path in ["/status", "/api/v1/jobs", "/nope"] {
        let headers = [
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "x"),
        ];
        let reply = with_headers(&daemon, "GET", path, &headers, b"");
        assert_ne!(reply.status, 101, "{path}");
    }
    let plain = daemon.get("/ws");
    expect(&plain, 426);
    assert_eq!(plain.header("upgrade"), Some("websocket"));
    assert_eq!(plain.json()["title"], "Upgrade Required");
}

#[test]
fn a_method_that_is_not_there_is_told_which_are() {
    let daemon = daemon();
    let allowed = |method: &str, path: &str, status: u16| {
        let reply = with_headers(&daemon, method, path, &[], b"");
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        reply.header("allow").unwrap_or_default().to_string()
    };
    assert_eq!(allowed("DELETE", "/api/v1/jobs", 405), "GET, HEAD, OPTIONS");
    assert_eq!(allowed("GET", "/run", 405), "POST, OPTIONS");
    assert_eq!(
        allowed("PATCH", "/api/v1/maintenance", 405),
        "GET, PUT, DELETE, HEAD, OPTIONS"
    );
    assert_eq!(allowed("OPTIONS", "/api/v1/jobs/j/run", 204), "POST, OPTIONS");
}
