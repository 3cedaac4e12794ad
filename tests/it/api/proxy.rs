//! The web UI and the legacy React UI behind nginx, with the configurations that are shipped; and proxies that cut
//! connections.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use saltpeter::thread;
use serde_json::json;

use super::token;
use crate::support::daemon::{Daemon, Plan, free_port, job, job_with};
use crate::support::http::{Client, Reply};
use crate::support::until;

const SHIPPED: &str = include_str!("../../../packaging/nginx/saltpeter.conf");
const REACT: &str = include_str!("../../../packaging/nginx/react-ui.conf");

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// A shipped configuration with this test's places in it; None, said on the terminal: no nginx here.
fn start(daemon: &Daemon, port: u16, shipped: &str) -> Option<Nginx> {
    let at = |name: &str| daemon.path(name).display().to_string();
    fs::write(at("token.conf"), "proxy_set_header Authorization \"Bearer o\";\n").unwrap();
    fs::create_dir_all(at("react")).unwrap();
    fs::write(at("react/index.html"), "the page").unwrap();
    let api = format!("http://127.0.0.1:{}", daemon.api_port());
    let mut places = vec![
        ("listen 443 ssl;", format!("listen 127.0.0.1:{port};")),
        (
            "    ssl_certificate     /etc/nginx/saltpeter.crt;\n",
            String::new(),
        ),
        (
            "    ssl_certificate_key /etc/nginx/saltpeter.key;\n",
            String::new(),
        ),
        ("http://127.0.0.1:8888", api),
    ];
    if shipped == REACT {
        places.extend([
            ("    auth_basic           \"Saltpeter\";\n", String::new()),
            (
                "    auth_basic_user_file /etc/nginx/saltpeter-users;\n",
                String::new(),
            ),
            (
                "/etc/nginx/saltpeter-token.conf;\n",
                format!("{};\n", at("token.conf")),
            ),
            ("/usr/share/saltpeter-ui", at("react")),
        ]);
    }
    let mut text = shipped.to_string();
    for (from, to) in places {
        assert!(
            text.contains(from),
            "{from} is no longer in the shipped configuration"
        );
        text = text.replace(from, &to);
    }
    let whole = format!(
        "daemon off; pid {}; error_log stderr; worker_processes 1;\nevents {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {t}; proxy_temp_path {t}; fastcgi_temp_path {t}; uwsgi_temp_path {t}; scgi_temp_path {t};\n{text}}}\n",
        at("nginx.pid"),
        t = at("nginx-temp"),
    );
    fs::write(at("nginx.conf"), whole).unwrap();
    let child = Command::new("nginx")
        .args(["-e", "stderr", "-c", &at("nginx.conf")])
        .stdin(Stdio::null())
        .stderr(fs::File::create(at("nginx-said")).unwrap())
        .spawn();
    let Ok(child) = child else {
        // past the harness, which keeps what a test that passes prints
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED the proxy: nginx is not installed (apt-get install nginx)"
        );
        return None;
    };
    until("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    Some(Nginx(child))
}

fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut all = vec![("Host", "saltpeter.example.com"), ("Connection", "close")];
    all.extend_from_slice(headers);
    Client::tcp(port).ask(method, path, &all, body)
}

#[test]
fn the_react_ui_works_behind_its_shipped_proxy_and_other_sites_stay_out() {
    let daemon = Plan::new(json!({"proxied": job("echo hi")}))
        .setting("api_open", json!(false))
        .setting("api_tokens", json!([token("ui", "operate", "o")]))
        .setting("api_allowed_origins", json!(["https://saltpeter.example.com"]))
        .start();
    let port = free_port();
    let Some(_nginx) = start(&daemon, port, REACT) else {
        return;
    };
    assert_eq!(ask(port, "GET", "/", &[], b"").text(), "the page");
    for path in ["/ui/main.js", "/jobs/proxied", "/runs/proxied_1", "/login"] {
        let reply = ask(port, "GET", path, &[], b"");
        assert!(reply.status == 200 && reply.text() != "the page", "{path}");
    }
    assert_eq!(
        ask(port, "GET", "/api/v1/whoami", &[], b"").json()["role"],
        "operate"
    );
    let ours = ("Origin", "https://saltpeter.example.com");
    let run = |origin| {
        let headers = [origin, ("Content-Type", "application/json")];
        ask(port, "POST", "/api/v1/jobs/proxied/run", &headers, b"{}")
    };
    assert_eq!(run(("Origin", "https://evil.example.com")).status, 403);
    let started = run(ours);
    assert_eq!(started.status, 200, "{}", started.text());
    let audit = ask(port, "GET", "/api/v1/audit?limit=1", &[], b"").json();
    assert_eq!(
        audit["audit"][0]["by"],
        "token 'ui' from 127.0.0.1, for 127.0.0.1"
    );
    let path = format!("/api/v1/runs/{}", started.json()["instance"].as_str().unwrap());
    until("its end", || {
        let run = ask(port, "GET", &path, &[], b"").json();
        (run["outcome"] == "succeeded").then_some(())
    });
    let upgrade = |origin: &str| {
        let mut client = Client::tcp(port);
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: saltpeter.example.com\r\nOrigin: {origin}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.send(request.as_bytes()).unwrap();
        client.reply().unwrap().status
    };
    assert_eq!(upgrade("https://saltpeter.example.com"), 101);
    assert_eq!(upgrade("https://evil.example.com"), 403);
}

#[test]
fn the_web_ui_works_behind_the_shipped_proxy_with_logins_of_its_users() {
    let daemon = Plan::new(json!({"proxied": job("echo hi")}))
        .setting("api_open", json!(false))
        .setting("api_tokens", json!([token("ann", "operate", "a")]))
        .setting("api_hosts", json!(["saltpeter.example.com"]))
        .start();
    let port = free_port();
    let Some(_nginx) = start(&daemon, port, SHIPPED) else {
        return;
    };
    for path in ["/", "/jobs/proxied", "/runs/proxied_1"] {
        let reply = ask(port, "GET", path, &[], b"");
        assert_eq!(reply.status, 303, "{path}");
        assert!(reply.header("location").unwrap().starts_with("/login"), "{path}");
    }
    assert_eq!(ask(port, "GET", "/api/v1/jobs", &[], b"").status, 401);
    let script = ask(port, "GET", "/ui/main.js", &[], b"");
    assert_eq!(
        script.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    assert!(ask(port, "GET", "/login", &[], b"").text().contains("<form"));
    let log_in = |origin: &str| {
        let headers = [("Origin", origin), ("X-Forwarded-User", "root")];
        ask(port, "POST", "/login", &headers, b"token=a&next=/jobs/proxied")
    };
    assert_eq!(log_in("http://evil.example.com").status, 403);
    let reply = log_in("http://saltpeter.example.com");
    assert_eq!(
        (reply.status, reply.header("location")),
        (303, Some("/jobs/proxied"))
    );
    let cookie = reply.header("set-cookie").unwrap().split(';').next().unwrap();
    let with_cookie = |method: &str, path: &str, more: &[(&str, &str)], body: &[u8]| {
        let headers = [&[("Cookie", cookie), ("X-Forwarded-User", "root")], more].concat();
        ask(port, method, path, &headers, body)
    };
    for path in ["/", "/jobs/proxied", "/runs/proxied_1"] {
        let page = with_cookie("GET", path, &[], b"");
        assert!(
            page.status == 200 && page.text().contains("/ui/main.js"),
            "{path}"
        );
    }
    let headers = [
        ("Origin", "http://saltpeter.example.com"),
        ("Content-Type", "application/json"),
    ];
    let started = with_cookie("POST", "/api/v1/jobs/proxied/run", &headers, b"{}");
    assert_eq!(started.status, 200, "{}", started.text());
    let path = format!(
        "/api/v1/runs/{}/machines/m1/output?follow=1",
        started.json()["instance"].as_str().unwrap()
    );
    until("its output, followed", || {
        (with_cookie("GET", &path, &[], b"").text() == "hi\n").then_some(())
    });
    let audit = with_cookie("GET", "/api/v1/audit?limit=1", &[], b"").json();
    assert_eq!(
        audit["audit"][0]["by"],
        "token 'ann' from 127.0.0.1, for 127.0.0.1"
    );
    assert_eq!(with_cookie("POST", "/logout", &[], b"").status, 303);
    assert_eq!(with_cookie("GET", "/api/v1/jobs", &[], b"").status, 401);
}

/// Passes connections on to `to`, and cuts each that was idle for a moment. Its port; how many it has cut.
fn impatient_proxy(to: u16) -> (u16, Arc<AtomicUsize>) {
    const IDLE: Duration = Duration::from_millis(200);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let cut = Arc::new(AtomicUsize::new(0));
    let counted = cut.clone();
    let pass = move |mut client: TcpStream| {
        let mut daemon = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let mut piece = [0; 4_096];
        // a request of the command line is one small write
        let count = client.read(&mut piece).unwrap_or(0);
        let _ = daemon.write_all(&piece[..count]);
        daemon.set_read_timeout(Some(IDLE)).unwrap();
        loop {
            match daemon.read(&mut piece) {
                Ok(0) => return,
                Ok(count) => {
                    if client.write_all(&piece[..count]).is_err() {
                        return;
                    }
                }
                Err(_) => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
        }
    };
    let accept = move || {
        for client in listener.incoming() {
            let pass = pass.clone();
            thread::spawn("proxied", 1 << 20, move || pass(client.unwrap())).unwrap();
        }
    };
    thread::spawn("proxy", 1 << 20, accept).unwrap();
    (port, cut)
}

#[test]
fn logs_are_followed_to_the_end_through_a_proxy_that_cuts_idle_connections() {
    let talk = "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; while [ ! -e on ]; do sleep 0.05; done; echo three";
    let daemon = Plan::new(json!({})).prepare();
    let talk = job_with(talk, json!({"targets": "*", "cwd": daemon.path("conf")}));
    daemon.write_jobs("jobs", &json!({"talk": talk}));
    daemon.start();
    let instance = daemon.run("talk");
    daemon.wait_output(&instance, "m1", "one");
    let (port, cut) = impatient_proxy(daemon.api_port());
    let url = format!("http://127.0.0.1:{port}");
    let follow = |machine: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saltpeter"));
        command
            .args(["logs", "-f", &instance])
            .args(machine)
            .args(["--url", &url]);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let (one, all) = (follow(&["m1"]), follow(&[]));
    let wait_cut = |more: usize| {
        let before = cut.load(Ordering::SeqCst);
        until("connections to be cut", || {
            (cut.load(Ordering::SeqCst) >= before + more).then_some(())
        });
    };
    wait_cut(8);
    daemon.write_file("go", "");
    wait_cut(8);
    daemon.write_file("on", "");
    let (one, all) = (one.wait_with_output().unwrap(), all.wait_with_output().unwrap());
    assert!(one.status.success(), "{}", String::from_utf8_lossy(&one.stderr));
    assert_eq!(String::from_utf8_lossy(&one.stdout), "one\ntwo\nthree\n");
    assert!(all.status.success(), "{}", String::from_utf8_lossy(&all.stderr));
    let lines: Vec<String> = String::from_utf8_lossy(&all.stdout)
        .lines()
        .map(str::to_string)
        .collect();
    for machine in ["m1", "m2", "m3"] {
        let of_machine: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix(&format!("{machine}: ")))
            .collect();
        assert_eq!(of_machine, ["one", "two", "three"], "{machine}");
    }
}
