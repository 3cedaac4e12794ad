//! The API port as browsers, scripts and strangers try it.

use saltpeter::secret::sha256;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Plan, every_second, job};
use crate::support::http::{Client, Reply};
use crate::support::until;

fn daemon() -> Daemon {
    Plan::new(json!({"a": job("echo a"), "long": job("exec sleep 60")})).start()
}

/// A request with these headers and no others.
fn bare(daemon: &Daemon, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    daemon.http().ask(method, path, headers, body.as_bytes())
}

#[test]
fn a_web_page_of_another_origin_can_neither_read_nor_act() {
    let daemon = daemon();
    let json_type = ("Content-Type", "application/json");
    let own_host = format!("localhost:{}", daemon.api_port());
    let own = format!("http://{own_host}");
    for (headers, status) in [
        (vec![("Host", "evil.example.org")], 403),
        (vec![("Host", "127.0.0.1.evil.org")], 403),
        (
            vec![("Host", "localhost"), ("Origin", "http://evil.example.org")],
            403,
        ),
        (vec![("Host", "localhost"), ("Origin", "null")], 403),
        (vec![("Host", &own_host), ("Origin", &own)], 200),
        // another port is another origin, whoever listens there
        (
            vec![("Host", &own_host), ("Origin", "http://localhost:3000")],
            403,
        ),
        (vec![("Host", &own_host), ("Origin", "http://localhost")], 403),
        (vec![("Host", "[::1]:8888")], 200),
        (vec![], 400),
    ] {
        let reply = bare(&daemon, "GET", "/status", &headers, "");
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.text());
        let mut acting = headers.clone();
        acting.push(json_type);
        let reply = bare(&daemon, "POST", "/run", &acting, r#"{"job": "a"}"#);
        assert_eq!(
            reply.status == 200,
            status == 200,
            "{headers:?}: {}",
            reply.text()
        );
        if status == 200 {
            until("its end", || {
                (!daemon.status()["running"].to_string().contains("a_")).then_some(())
            });
        }
    }
    // what a form on any page could send
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
    ] {
        let headers = [("Host", "localhost"), ("Content-Type", kind)];
        let reply = bare(&daemon, "POST", "/run", &headers, r#"{"job": "a"}"#);
        assert_eq!(reply.status, 415, "{kind}");
    }
    assert_eq!(
        bare(
            &daemon,
            "POST",
            "/run",
            &[("Host", "localhost")],
            r#"{"job": "a"}"#
        )
        .status,
        415
    );
}

#[test]
fn without_api_open_acting_needs_the_unix_socket() {
    let daemon = Plan::new(json!({"a": job("echo a")}))
        .setting("api_open", json!(false))
        .start();
    assert_eq!(daemon.get("/status").status, 200);
    for path in ["/run", "/kill"] {
        let reply = daemon.post(path, &json!({"job": "a"}));
        assert_eq!(reply.status, 401, "{path}");
        assert!(reply.text().contains("api_tokens"), "{}", reply.text());
    }
    let headers = [("Content-Type", "application/json")];
    let mut socket = Client::unix(&daemon.state_dir().join("control.sock"));
    let reply = socket.ask("POST", "/run", &headers, br#"{"job": "a"}"#);
    assert_eq!(reply.status, 200, "{}", reply.text());
    daemon.wait_ended(reply.json()["instance"].as_str().unwrap());
    // no restart is needed to open it
    daemon.set("api_open", json!(true));
    until("it to be open", || {
        (daemon.post("/run", &json!({"job": "a"})).status == 200).then_some(())
    });
}

#[test]
fn tokens_let_in_by_role_from_the_moment_they_are_written() {
    let daemon = daemon();
    let token = |name: &str, role: &str| {
        let hash = data_encoding::HEXLOWER.encode(&sha256(format!("secret of {name}")));
        json!({"name": name, "role": role, "sha256": hash})
    };
    daemon.set("api_open", json!(false));
    daemon.set(
        "api_tokens",
        json!([
            token("eye", "read"),
            token("hand", "operate"),
            token("head", "admin")
        ]),
    );
    until("tokens in force", || {
        (daemon.get("/status").status == 401).then_some(())
    });
    let ask = |method: &str, path: &str, secret: &str, body: &str| {
        let authorization = format!("Bearer {secret}");
        let headers = [
            ("Host", "localhost"),
            ("Authorization", &authorization),
            ("Content-Type", "application/json"),
        ];
        bare(&daemon, method, path, &headers, body).status
    };
    let run = r#"{"job": "nobody"}"#;
    for (secret, reads, acts) in [
        ("secret of eye", 200, 403),
        ("secret of hand", 200, 404),
        ("secret of head", 200, 404),
        ("secret of nobody", 401, 401),
        ("", 401, 401),
    ] {
        assert_eq!(ask("GET", "/status", secret, ""), reads, "{secret}");
        assert_eq!(ask("GET", "/version", secret, ""), reads, "{secret}");
        assert_eq!(ask("POST", "/run", secret, run), acts, "{secret}");
        assert_eq!(ask("POST", "/kill", secret, run), acts, "{secret}");
    }
    let said = daemon.said();
    assert!(!said.contains("secret of"), "{said}");
}

#[test]
fn beyond_loopback_without_tokens_it_stays_on_loopback_and_the_crons_run() {
    let daemon = Plan::new(json!({"tick": every_second("true", json!({}))}))
        .setting("api_ws_bind_addr", json!("0.0.0.0"))
        .start();
    assert!(
        daemon.said().contains("listening: api 127.0.0.1:"),
        "{}",
        daemon.said()
    );
    let bad = daemon.status()["bad"].to_string();
    assert!(
        bad.contains("api_ws_bind_addr") && bad.contains("api_tokens"),
        "{bad}"
    );
    let ended = "SELECT count(*) FROM runs WHERE stage = 'ended'";
    until("a run", || (daemon.number(ended, "") > 0).then_some(()));
    // with tokens it goes where it is told
    let hash = "a".repeat(64);
    let open = Plan::new(json!({}))
        .setting("api_ws_bind_addr", json!("0.0.0.0"))
        .setting(
            "api_tokens",
            json!([{"name": "x", "role": "read", "sha256": hash}]),
        )
        .start();
    assert!(open.said().contains("listening: api 0.0.0.0:"), "{}", open.said());
}

#[test]
fn the_api_may_be_off() {
    let daemon = Plan::new(json!({"tick": every_second("true", json!({}))}))
        .setting("api_ws", json!(false))
        .start();
    assert!(
        daemon.said().contains("listening: api off, machines "),
        "{}",
        daemon.said()
    );
    let ended = "SELECT count(*) FROM runs WHERE stage = 'ended'";
    until("a run", || (daemon.number(ended, "") > 0).then_some(()));
}

#[test]
fn one_connection_serves_request_after_request_also_when_they_come_at_once() {
    let daemon = daemon();
    let mut client = daemon.http();
    let host = [("Host", "localhost")];
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/version", &host, b"").status, 200);
        assert_eq!(client.ask("GET", "/status", &host, b"").status, 200);
        assert_eq!(client.ask("GET", "/nowhere", &host, b"").status, 404);
        assert_eq!(client.ask("DELETE", "/run", &host, b"").status, 405);
    }
    let many = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    client.send(many.as_bytes()).unwrap();
    for _ in 0..50 {
        assert!(client.reply().unwrap().json()["version"].is_string());
    }
    let last = "GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    client.send(last.as_bytes()).unwrap();
    assert_eq!(client.reply().unwrap().header("connection"), Some("close"));
    assert!(client.is_closed());
    let mut old = daemon.http();
    old.send(b"GET /version HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_eq!(old.reply().unwrap().status, 200);
    assert!(old.is_closed());
}

#[test]
fn bodies_come_in_chunks_or_with_a_length_and_in_small_pieces() {
    let daemon = daemon();
    let head = "POST /run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut client = daemon.http();
    let chunked =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\n{{\"jo\r\n9;x=y\r\nb\": \"no\"}}\r\n0\r\n\r\n");
    for byte in chunked.as_bytes() {
        client.send(&[*byte]).unwrap();
    }
    assert_eq!(client.reply().unwrap().status, 404);
    // and the connection is still good
    client
        .send(format!("{head}Expect: 100-continue\r\nContent-Length: 13\r\n\r\n").as_bytes())
        .unwrap();
    assert_eq!(client.reply().unwrap().status, 100);
    client.send(br#"{"job": "no"}"#).unwrap();
    assert_eq!(client.reply().unwrap().status, 404);
}

#[test]
fn what_is_too_large_or_unclear_is_refused_and_closed() {
    let daemon = daemon();
    let head = "POST /run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let large_header = format!(
        "GET /status HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    let many_headers = format!(
        "GET /status HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "X: y\r\n".repeat(5_000)
    );
    let cases = [
        ("a large header", large_header, vec![431]),
        ("many headers", many_headers, vec![431]),
        (
            "a long path",
            format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000)),
            vec![414, 431],
        ),
        (
            "a large body",
            format!("{head}Content-Length: 100000000\r\n\r\n{}", "x".repeat(100_000)),
            vec![413],
        ),
        (
            "a length that is none",
            format!("{head}Content-Length: 5, 6\r\n\r\nhello"),
            vec![400],
        ),
        (
            "two lengths",
            format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
            vec![400],
        ),
        (
            "both framings",
            format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            vec![400],
        ),
        (
            "a huge chunk",
            format!("{head}Transfer-Encoding: chunked\r\n\r\nffffffff\r\nx"),
            vec![400, 413],
        ),
        (
            "a bad chunk",
            format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\nx"),
            vec![400],
        ),
        ("no HTTP", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_string(), vec![400]),
        (
            "an unknown version",
            "GET / HTTP/3.0\r\nHost: localhost\r\n\r\n".to_string(),
            vec![400, 505],
        ),
    ];
    for (what, request, statuses) in cases {
        let mut client = daemon.http();
        let _ = client.send(request.as_bytes());
        let reply = client.reply().unwrap_or_else(|| panic!("{what}: no answer"));
        assert!(statuses.contains(&reply.status), "{what}: {}", reply.status);
        assert!(client.is_closed(), "{what}");
    }
    assert_eq!(daemon.get("/status").status, 200);
}

#[test]
fn a_reader_that_takes_nothing_and_many_idle_ones_disturb_nobody() {
    let daemon = Plan::new(json!({"big": job("yes 0123456789abcdef | head -c 30000000")})).start();
    let instance = daemon.run("big");
    daemon.wait_ended(&instance);
    let path = format!("/api/v1/runs/{instance}/machines/m1/output");
    let mut deaf: Vec<_> = (0..20).map(|_| daemon.http()).collect();
    for client in &mut deaf {
        client
            .send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .unwrap();
    }
    let idle: Vec<_> = (0..200).map(|_| daemon.http()).collect();
    for _ in 0..5 {
        assert_eq!(daemon.get("/status").status, 200);
        assert_eq!(daemon.output(&instance, "m1").len(), 30_000_000);
    }
    drop(idle);
}

#[test]
fn paths_lead_nowhere_but_to_what_they_name() {
    let daemon = daemon();
    let instance = daemon.run("a");
    daemon.wait_ended(&instance);
    for path in [
        "/api/v1/runs/a_1/machines/m1/output".to_string(),
        format!("/api/v1/runs/{instance}/machines/m2/output"),
        format!("/api/v1/runs/{instance}/machines/%00/output"),
        "/api/v1/runs/../../etc/passwd/machines/m1/output".to_string(),
        "/api/v1/runs/%2e%2e%2fstate.db/machines/m1/output".to_string(),
        "/state.db".to_string(),
        "//status".to_string(),
    ] {
        assert_eq!(daemon.get(&path).status, 404, "{path}");
    }
    assert_eq!(daemon.get("/status?x=y").status, 200);
    let head = bare(&daemon, "OPTIONS", "/run", &[("Host", "localhost")], "");
    assert_eq!((head.status, head.body.len()), (204, 0));
}

#[test]
fn what_the_old_daemon_could_not_answer_is_answered() {
    // the Python daemon: `/status` and `/kill` were 405, `/running` failed while a job ran
    let daemon = daemon();
    let instance = daemon.run("long");
    until("the start", || daemon.fact("started", &instance, "m1"));
    let status = daemon.status();
    assert_eq!(status["running"][&instance]["name"], "long");
    let running = daemon.get("/running");
    assert!(running.status != 500, "{}", running.text());
    if running.status == 200 {
        assert_eq!(running.json()[&instance]["name"], "long");
    }
    let version = daemon.get("/version").json();
    assert!(version["version"].is_string() && version["last_build"] != Value::Null);
    let killed = daemon.post(
        "/kill",
        &json!({"job": "long", "machine": "m1", "instance": instance}),
    );
    assert_eq!((killed.status, &killed.json()["status"]), (200, &json!("ok")));
    daemon.wait_ended(&instance);
}
