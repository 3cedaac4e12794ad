//! Who may what: tokens and roles, the login page, other origins, guessing.

use std::io::Read;

use serde_json::{Value, json};

use super::{control, expect, token, with_headers};
use crate::support::daemon::{Daemon, Plan, job_with};
use crate::support::http::Reply;

fn daemon() -> Daemon {
    let fields = json!({"env": {"SECRET": "hunter2"}, "parameters": {"p": "hunter2"}});
    Plan::new(json!({"j": job_with("true", fields)}))
        .setting("api_open", json!(false))
        .setting(
            "api_tokens",
            json!([
                token("see", "read", "r"),
                token("ops", "operate", "o"),
                token("boss", "admin", "a")
            ]),
        )
        .setting("api_allowed_origins", json!(["https://ui.example.com"]))
        .start()
}

fn ask(daemon: &Daemon, secret: &str, method: &str, path: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {secret}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
    ];
    with_headers(daemon, method, path, &headers, body.to_string().as_bytes())
}

#[test]
fn each_role_may_what_is_its_and_no_more() {
    let daemon = daemon();
    let maintenance = json!({"on": true, "reason": "r", "machine": "m1"});
    for (secret, read, run, switch) in [("r", 200, 403, 403), ("o", 200, 200, 403), ("a", 200, 200, 200)] {
        assert_eq!(
            ask(&daemon, secret, "GET", "/api/v1/jobs", &json!({})).status,
            read,
            "{secret}"
        );
        let reply = ask(&daemon, secret, "POST", "/api/v1/jobs/j/run", &json!({}));
        assert_eq!(reply.status, run, "{secret}: {}", reply.text());
        if run == 200 {
            daemon.number("SELECT count(*) FROM runs WHERE job = ?1", "j");
            let instance = reply.json()["instance"].as_str().unwrap().to_string();
            let path = format!("/api/v1/runs/{instance}");
            crate::support::until("its end", || {
                (!ask(&daemon, "r", "GET", &path, &json!({})).json()["ended"].is_null()).then_some(())
            });
        }
        let reply = ask(&daemon, secret, "PUT", "/api/v1/maintenance", &maintenance);
        assert_eq!(reply.status, switch, "{secret}");
    }
    for path in ["/api/v1/jobs", "/status", "/metrics", "/config", "/api/v1/audit"] {
        let reply = daemon.get(path);
        assert_eq!(
            (reply.status, reply.header("www-authenticate")),
            (401, Some("Bearer")),
            "{path}"
        );
    }
    assert_eq!(daemon.get("/healthz").status, 200);
    let who = expect(&ask(&daemon, "o", "GET", "/api/v1/whoami", &json!({})), 200);
    assert_eq!(who["role"], "operate");
    assert!(who["who"].as_str().unwrap().contains("'ops'"));
}

/// Somebody who asks: with which headers, and up to which role he is let in.
struct Asker {
    name: &'static str,
    headers: Vec<(&'static str, String)>,
    may: Option<&'static str>,
    /// What he is told where he is not let in.
    refused: &'static [u16],
}

impl Asker {
    /// Load balancers and monitoring may name this host as they like.
    fn is_probe_at(&self, path: &str) -> bool {
        let has_foreign_host = self.headers.iter().any(|(name, _)| *name == "Host");
        has_foreign_host && ["/healthz", "/readyz", "/metrics"].contains(&path)
    }
}

/// Every route that there is, and the socket of the UI, as the document has them.
fn all_routes(daemon: &Daemon) -> Vec<(String, String, String)> {
    let document = expect(&daemon.get("/api/v1/openapi.json"), 200);
    let mut routes = vec![("GET".into(), "/ws".into(), "read".into())];
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{job}", "j").replace("{instance}", "j_1");
            let role = operation["x-role"].as_str().unwrap_or("none").to_string();
            routes.push((method.to_uppercase(), path.replace("{machine}", "m1"), role));
        }
    }
    // it ends the logins of those who ask
    routes.sort_by_key(|(_, path, _)| path == "/logout");
    routes
}

fn bearer(secret: &str) -> (&'static str, String) {
    ("Authorization", format!("Bearer {secret}"))
}

fn nobody() -> Asker {
    Asker {
        name: "nobody",
        headers: Vec::new(),
        may: Some("none"),
        refused: &[401],
    }
}

fn wrong_token() -> Asker {
    Asker {
        name: "a wrong token",
        headers: vec![bearer("wrong")],
        refused: &[401, 429],
        ..nobody()
    }
}

/// A request that is let in up to that role.
fn holder(name: &'static str, header: (&'static str, String), may: &'static str) -> Asker {
    Asker {
        name,
        headers: vec![header],
        may: Some(may),
        refused: &[403],
    }
}

/// A request that is let in nowhere, whatever it brings.
fn foreigner(name: &'static str, proof: (&'static str, String), mark: (&'static str, &str)) -> Asker {
    Asker {
        name,
        headers: vec![proof, (mark.0, mark.1.to_string())],
        may: None,
        refused: &[403],
    }
}

/// With every kind of proof, where there are tokens.
fn askers_with_tokens(daemon: &Daemon) -> Vec<Asker> {
    let other_site = ("Origin", "https://evil.example.com");
    let cookies = ["r", "o", "a"].map(|secret| ("Cookie", log_in(daemon, secret)));
    let [reader, operator, admin] = cookies;
    vec![
        nobody(),
        wrong_token(),
        holder("a reader", bearer("r"), "read"),
        holder("an operator", bearer("o"), "operate"),
        holder("an admin", bearer("a"), "admin"),
        holder("a reader's browser", reader, "read"),
        holder("an operator's browser", operator, "operate"),
        holder("an admin's browser", admin.clone(), "admin"),
        Asker {
            name: "an admin's token in another scheme",
            headers: vec![("Authorization", "Basic a".into())],
            ..nobody()
        },
        Asker {
            name: "a made-up cookie",
            headers: vec![("Cookie", "saltpeter_session=00ff".into())],
            ..nobody()
        },
        foreigner(
            "a page of another site with an admin's token",
            bearer("a"),
            other_site,
        ),
        foreigner("another site's page in an admin's browser", admin, other_site),
        foreigner(
            "a foreign name for this host with an admin's token",
            bearer("a"),
            ("Host", "evil.example.com"),
        ),
    ]
}

#[test]
fn every_route_lets_in_by_role_whoever_asks_and_however() {
    let with_tokens = daemon();
    let askers = askers_with_tokens(&with_tokens);
    let without = || Plan::new(json!({"j": job_with("true", json!({}))}));
    let is_open = |open: bool| without().setting("api_open", json!(open)).start();
    let reads = Asker {
        may: Some("read"),
        ..nobody()
    };
    let operates = Asker {
        refused: &[401, 403],
        may: Some("operate"),
        ..nobody()
    };
    let cases = [
        (with_tokens, askers),
        (is_open(false), vec![reads, wrong_token()]),
        (is_open(true), vec![operates, wrong_token()]),
    ];
    for (daemon, askers) in &cases {
        for (method, path, role) in all_routes(daemon) {
            // it has no end for who is let in
            let is_stream = path == "/api/v1/stream";
            for asker in askers.iter().filter(|asker| !is_stream || asker.may.is_none()) {
                assert_let_in_by_role(daemon, asker, &method, &path, &role);
            }
            if is_stream {
                continue;
            }
            let reply = control(daemon, &method, &path, &json!([]));
            let refused = [401, 403, 405, 429].contains(&reply.status);
            assert!(!refused, "the socket to {method} {path}: {}", reply.text());
        }
    }
}

fn assert_let_in_by_role(daemon: &Daemon, asker: &Asker, method: &str, path: &str, role: &str) {
    let roles = ["none", "read", "operate", "admin"];
    let rank = |role: &str| roles.iter().position(|known| *known == role).unwrap();
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(asker.headers.iter().map(|(name, value)| (*name, value.as_str())));
    if path == "/ws" {
        headers.push(("Upgrade", "websocket"));
    }
    // an array is nowhere what is wanted: who is let in changes nothing
    let reply = with_headers(daemon, method, path, &headers, b"[]");
    let what = format!("{} to {method} {path}: {}", asker.name, reply.text());
    let is_let_in = asker.may.is_some_and(|may| rank(may) >= rank(role)) || asker.is_probe_at(path);
    let is_login = path == "/login" && method == "POST";
    match is_let_in {
        // it has rules of its own, tested below
        true if is_login => assert!([401, 403, 429].contains(&reply.status), "{what}"),
        true => assert!(![401, 403, 405, 429].contains(&reply.status), "{what}"),
        false => assert!(asker.refused.contains(&reply.status), "{} {what}", reply.status),
    }
}

#[test]
fn values_of_env_are_for_those_who_may_operate() {
    let daemon = daemon();
    let run = ask(
        &daemon,
        "o",
        "POST",
        "/api/v1/jobs/j/run",
        &json!({"parameters": {"p": "hunter2"}}),
    );
    let instance = run.json()["instance"].as_str().unwrap().to_string();
    let paths = [
        "/api/v1/jobs",
        "/api/v1/jobs/j",
        "/config",
        &format!("/api/v1/runs/{instance}"),
        "/api/v1/runs",
    ];
    for path in paths {
        let seen = ask(&daemon, "r", "GET", path, &json!({}));
        assert_eq!(seen.status, 200);
        assert!(!seen.text().contains("hunter2"), "{path}: {}", seen.text());
        assert!(
            ask(&daemon, "o", "GET", path, &json!({}))
                .text()
                .contains("hunter2"),
            "{path}"
        );
    }
}

#[test]
fn a_token_that_is_removed_counts_no_more_nor_does_its_login() {
    let daemon = daemon();
    let cookie = log_in(&daemon, "o");
    assert_eq!(with_cookie(&daemon, &cookie).status, 200);
    daemon.set("api_tokens", json!([token("see", "read", "r")]));
    crate::support::until("the new tokens", || {
        (with_cookie(&daemon, &cookie).status == 401).then_some(())
    });
    assert_eq!(ask(&daemon, "o", "GET", "/api/v1/jobs", &json!({})).status, 401);
}

#[test]
fn a_login_outlasts_a_restart_and_ends_with_a_logout_or_with_its_token() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = daemon();
    let cookies = ["o", "r", "o"].map(|secret| log_in(&daemon, secret));
    let file = daemon.state_dir().join("sessions");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 3);
    for cookie in &cookies {
        let (_, value) = cookie.split_once('=').unwrap();
        assert!(!text.contains(value), "what the browser holds is not in the file");
    }
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.stop();
    daemon.start();
    for cookie in &cookies {
        assert_eq!(with_cookie(&daemon, cookie).status, 200);
    }
    with_headers(&daemon, "POST", "/logout", &[("Cookie", &cookies[0])], b"");
    daemon.kill_hard();
    daemon.start();
    assert_eq!(with_cookie(&daemon, &cookies[0]).status, 401, "logged out before");
    assert_eq!(with_cookie(&daemon, &cookies[1]).status, 200);
    assert_eq!(with_cookie(&daemon, &cookies[2]).status, 200);
    daemon.stop();
    let tokens = |all: &[(&str, &str)]| -> Value {
        all.iter()
            .map(|(role, secret)| token(role, role, secret))
            .collect()
    };
    daemon.set("api_tokens", tokens(&[("read", "r")]));
    daemon.start();
    assert_eq!(with_cookie(&daemon, &cookies[1]).status, 200);
    assert_eq!(with_cookie(&daemon, &cookies[2]).status, 401, "its token is gone");
    daemon.set("api_tokens", tokens(&[("read", "r"), ("operate", "o")]));
    crate::support::until("the token again", || {
        (ask(&daemon, "o", "GET", "/api/v1/jobs", &json!({})).status == 200).then_some(())
    });
    assert_eq!(with_cookie(&daemon, &cookies[2]).status, 401, "for good");
}

fn log_in(daemon: &Daemon, secret: &str) -> String {
    let headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Origin", "http://localhost"),
    ];
    let reply = with_headers(
        daemon,
        "POST",
        "/login",
        &headers,
        format!("token={secret}").as_bytes(),
    );
    assert_eq!(reply.status, 303, "{}", reply.text());
    let cookie = reply.header("set-cookie").unwrap();
    assert!(
        cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict"),
        "{cookie}"
    );
    cookie.split(';').next().unwrap().to_string()
}

fn with_cookie(daemon: &Daemon, cookie: &str) -> Reply {
    with_headers(daemon, "GET", "/api/v1/jobs", &[("Cookie", cookie)], b"")
}

#[test]
fn a_browser_logs_in_with_a_token_and_out_again() {
    let daemon = daemon();
    let page = daemon.get("/login");
    assert!(page.text().contains("<form") && page.status == 200);
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .contains("default-src 'none'")
    );
    let cookie = log_in(&daemon, "r");
    assert!(!cookie.contains("=r"), "the token itself is in no cookie");
    let headers = [("Cookie", cookie.as_str()), ("Content-Type", "application/json")];
    assert_eq!(with_cookie(&daemon, &cookie).status, 200);
    assert_eq!(
        with_headers(&daemon, "POST", "/api/v1/jobs/j/run", &headers, b"{}").status,
        403
    );
    assert_eq!(
        with_headers(&daemon, "POST", "/logout", &headers, b"").status,
        303
    );
    assert_eq!(with_cookie(&daemon, &cookie).status, 401);
    for (origin, secret, status) in [
        (Some("https://evil.example.com"), "r", 403),
        (None, "r", 403),
        (Some("http://localhost"), "x", 401),
    ] {
        let headers: Vec<(&str, &str)> = origin.iter().map(|origin| ("Origin", *origin)).collect();
        let reply = with_headers(
            &daemon,
            "POST",
            "/login",
            &headers,
            format!("token={secret}").as_bytes(),
        );
        assert_eq!(reply.status, status, "{origin:?}");
        assert!(reply.header("set-cookie").is_none());
    }
}

#[test]
fn pages_of_configured_origins_may_read_and_no_others() {
    let daemon = daemon();
    let allowed = ("Origin", "https://ui.example.com");
    let bearer = ("Authorization", "Bearer r");
    let reply = with_headers(&daemon, "GET", "/api/v1/jobs", &[allowed, bearer], b"");
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("access-control-allow-origin"),
        Some("https://ui.example.com")
    );
    let vary = [Some("Origin"), Some("Accept-Encoding")];
    assert!(vary.contains(&reply.header("vary")));
    assert!(reply.header("access-control-allow-credentials").is_none());
    let preflight = [allowed, ("Access-Control-Request-Method", "POST")];
    let reply = with_headers(&daemon, "OPTIONS", "/api/v1/jobs/j/run", &preflight, b"");
    assert_eq!(reply.status, 204);
    assert!(
        reply
            .header("access-control-allow-headers")
            .unwrap()
            .contains("Authorization")
    );
    for origin in [
        "https://evil.example.com",
        "null",
        "https://ui.example.com.evil.com",
        "http://ui.example.com",
    ] {
        for method in ["GET", "OPTIONS"] {
            let reply = with_headers(
                &daemon,
                method,
                "/api/v1/jobs",
                &[("Origin", origin), bearer],
                b"",
            );
            assert_eq!(reply.status, 403, "{origin}");
            assert!(reply.header("access-control-allow-origin").is_none());
        }
    }
}

#[test]
fn who_guesses_tokens_is_slowed_and_who_has_one_goes_on() {
    let daemon = daemon();
    assert_eq!(ask(&daemon, "r", "GET", "/api/v1/jobs", &json!({})).status, 200);
    let mut statuses = Vec::new();
    for guess in 0..25 {
        statuses.push(
            ask(
                &daemon,
                &format!("guess-{guess}"),
                "GET",
                "/api/v1/jobs",
                &json!({}),
            )
            .status,
        );
    }
    assert_eq!((statuses[0], statuses[24]), (401, 429), "{statuses:?}");
    let last = ask(&daemon, "guess", "GET", "/api/v1/jobs", &json!({}));
    assert!(last.header("retry-after").is_some());
    assert_eq!(
        ask(&daemon, "r", "GET", "/api/v1/jobs", &json!({})).status,
        200,
        "it was right here before"
    );
    assert_eq!(
        ask(&daemon, "a", "GET", "/api/v1/jobs", &json!({})).status,
        429,
        "it may be a guess that hit"
    );
    assert_eq!(control(&daemon, "GET", "/api/v1/jobs", &json!({})).status, 200);
    let told = daemon.said().matches("wrong token").count();
    assert!((1..=21).contains(&told), "{told} lines");
    assert!(!daemon.said().contains("guess-"), "what was tried is in no log");
}

#[test]
fn who_may_not_read_is_sent_to_the_login_and_from_there_to_where_he_wanted() {
    let daemon = daemon();
    let location = |reply: &Reply| reply.header("location").unwrap_or_default().to_string();
    for (path, login) in [
        ("/", "/login"),
        ("/jobs/a%2Fb", "/login?next=%2Fjobs%2Fa%252Fb"),
        (
            "/runs/j_1?machine=m%261",
            "/login?next=%2Fruns%2Fj_1%3Fmachine%3Dm%25261",
        ),
    ] {
        let reply = daemon.get(path);
        assert_eq!(
            (reply.status, location(&reply)),
            (303, login.to_string()),
            "{path}"
        );
        // a link from elsewhere: the browser keeps the cookie back, the page's script finds out
        let linked = with_headers(&daemon, "GET", path, &[("Sec-Fetch-Site", "cross-site")], b"");
        assert_eq!(linked.status, 200);
    }
    assert_eq!(daemon.get("/ui/main.js").status, 200, "its files tell nothing");
    for path in ["/api/v1/overview", "/api/v1/jobs/j"] {
        assert_eq!(
            with_headers(&daemon, "GET", path, &[("Sec-Fetch-Site", "cross-site")], b"").status,
            401
        );
    }
    let page = daemon.get("/login?next=%2Fruns%2Fj_1%3Fmachine%3D%22%3E%3Cb%3E%26amp");
    assert!(
        !page.text().contains("<b>") && page.text().contains("&quot;>&lt;b>"),
        "{}",
        page.text()
    );
    let page = daemon.get("/login?next=%2Fruns%2Fj_1%3Fmachine%3D%2522%26amp");
    assert!(
        page.text().contains("value=\"/runs/j_1?machine=%22&amp;amp\""),
        "{}",
        page.text()
    );
}

#[test]
fn a_login_leads_back_to_a_path_of_this_host_and_nowhere_else() {
    let daemon = daemon();
    let location = |reply: &Reply| reply.header("location").unwrap_or_default().to_string();
    let log_in = |next: &str| {
        let headers = [("Origin", "http://localhost")];
        let body = format!("token=r&next={next}");
        with_headers(&daemon, "POST", "/login", &headers, body.as_bytes())
    };
    for (next, wanted) in [
        ("%2Fjobs%2Fa%252Fb", "/jobs/a%2Fb"),
        ("%2F", "/"),
        ("https%3A%2F%2Fevil.example.com", "/"),
        ("%2F%2Fevil.example.com", "/"),
        ("%2F%5Cevil.example.com", "/"),
        ("%2F%0D%0ASet-Cookie%3A+a%3Db", "/"),
        ("%2F%09%2Fevil.example.com", "/"),
    ] {
        let reply = log_in(next);
        assert_eq!(
            (reply.status, location(&reply)),
            (303, wanted.to_string()),
            "{next}"
        );
    }
    let cookie = log_in("%2F")
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_string();
    let page = with_headers(&daemon, "GET", "/jobs/j", &[("Cookie", &cookie)], b"");
    assert_eq!(page.status, 200);
    let who = with_headers(&daemon, "GET", "/api/v1/whoami", &[("Cookie", &cookie)], b"").json();
    assert_eq!(
        (&who["session"], &who["login"], &who["role"]),
        (&json!(true), &json!(true), &json!("read"))
    );
    assert_eq!(
        ask(&daemon, "r", "GET", "/api/v1/whoami", &json!({})).json()["session"],
        false
    );
}

#[test]
fn a_session_is_its_tokens_not_its_names() {
    let daemon = daemon();
    let log_in = |token: &str| {
        let headers = [("Origin", "http://localhost")];
        let reply = with_headers(
            &daemon,
            "POST",
            "/login",
            &headers,
            format!("token={token}").as_bytes(),
        );
        reply
            .header("set-cookie")
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_string()
    };
    let who = |cookie: &str| with_headers(&daemon, "GET", "/api/v1/whoami", &[("Cookie", cookie)], b"");
    let in_force = |tokens: Value, wanted: &str, status: u16| {
        daemon.set("api_tokens", tokens);
        crate::support::until("the tokens", || {
            (ask(&daemon, wanted, "GET", "/api/v1/jobs", &json!({})).status == status).then_some(())
        });
    };
    // two of one name while one takes the other's place
    in_force(
        json!([token("ann", "admin", "old"), token("ann", "read", "new")]),
        "new",
        200,
    );
    let (old, new) = (log_in("old"), log_in("new"));
    assert_eq!(who(&old).json()["role"], "admin");
    assert_eq!(who(&new).json()["role"], "read");
    in_force(json!([token("ann", "admin", "new")]), "old", 401);
    assert_eq!(who(&old).status, 401, "its token is not there any more");
    assert_eq!(who(&new).json()["role"], "admin");
}

#[test]
fn who_follows_an_output_is_hung_up_on_when_he_may_not_read_it_any_more() {
    let daemon = daemon();
    daemon.write_jobs(
        "more",
        &json!({"slow": job_with("echo first; sleep 600", json!({}))}),
    );
    let started = crate::support::until("the job", || {
        let reply = ask(&daemon, "o", "POST", "/api/v1/jobs/slow/run", &json!({}));
        (reply.status == 200).then(|| reply.json())
    });
    let instance = started["instance"].as_str().unwrap();
    let path = format!("/api/v1/runs/{instance}/machines/m1/output?follow=1");
    crate::support::until("its machine", || {
        let run = ask(
            &daemon,
            "o",
            "GET",
            &format!("/api/v1/runs/{instance}"),
            &json!({}),
        )
        .json();
        let machines = run["machines"].as_array()?;
        (!machines.is_empty()).then_some(())
    });
    let mut client = daemon.http();
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer o\r\n\r\n");
    client.send(head.as_bytes()).unwrap();
    let mut heard = Vec::new();
    let mut piece = [0; 4_096];
    while !heard.ends_with(b"first\n\r\n") {
        let count = client.stream.read(&mut piece).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&piece[..count]);
    }
    daemon.set("api_tokens", json!([token("see", "read", "r")]));
    // the end comes without the last chunk: what he has is not all
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "");
}
