//! The React UI behind nginx, with the configuration that is shipped.

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::token;
use crate::support::daemon::{Daemon, Plan, free_port, job};
use crate::support::http::{Client, Reply};
use crate::support::until;

const SHIPPED: &str = include_str!("../../../packaging/nginx/saltpeter.conf");

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// The shipped configuration with this test's places in it; None: no nginx here.
fn start(daemon: &Daemon, port: u16) -> Option<Nginx> {
    let at = |name: &str| daemon.path(name).display().to_string();
    fs::write(at("token.conf"), "proxy_set_header Authorization \"Bearer o\";\n").unwrap();
    fs::create_dir_all(at("ui")).unwrap();
    fs::write(at("ui/index.html"), "the page").unwrap();
    let mut text = SHIPPED.to_string();
    for (from, to) in [
        ("listen 443 ssl;", format!("listen 127.0.0.1:{port};")),
        (
            "    ssl_certificate     /etc/nginx/saltpeter.crt;\n",
            String::new(),
        ),
        (
            "    ssl_certificate_key /etc/nginx/saltpeter.key;\n",
            String::new(),
        ),
        ("    auth_basic           \"Saltpeter\";\n", String::new()),
        (
            "    auth_basic_user_file /etc/nginx/saltpeter-users;\n",
            String::new(),
        ),
        (
            "http://127.0.0.1:8888",
            format!("http://127.0.0.1:{}", daemon.api_port()),
        ),
        (
            "/etc/nginx/saltpeter-token.conf;\n",
            format!("{};\n", at("token.conf")),
        ),
        ("/usr/share/saltpeter-ui", at("ui")),
    ] {
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
    child.ok().map(Nginx)
}

fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut all = vec![("Host", "saltpeter.example.com"), ("Connection", "close")];
    all.extend_from_slice(headers);
    Client::tcp(port).ask(method, path, &all, body)
}

#[test]
fn the_ui_works_behind_the_shipped_proxy_and_other_sites_stay_out() {
    let daemon = Plan::new(json!({"proxied": job("echo hi")}))
        .setting("api_open", json!(false))
        .setting("api_tokens", json!([token("ui", "operate", "o")]))
        .setting("api_allowed_origins", json!(["https://saltpeter.example.com"]))
        .start();
    let port = free_port();
    let Some(_nginx) = start(&daemon, port) else {
        return eprintln!("SKIPPED the proxy: nginx is not installed");
    };
    until("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    assert_eq!(ask(port, "GET", "/", &[], b"").text(), "the page");
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
