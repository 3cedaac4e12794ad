//! Who is told when a job fails: the real daemon, and receivers that take notices, refuse them, hang, or die with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use data_encoding::BASE64;
use ring::hmac;
use saltpeter::net::identity;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Plan, job, job_with};
use crate::support::receiver::{DRIP, OK, Received, Receiver};
use crate::support::{Scratch, is_alive, never_within, until};

const FAILS: &str = "echo the disk is full; exit 3";

/// A daemon with one job that fails, and tells `ops`.
fn telling(ops: Value) -> Daemon {
    telling_all(json!({"ops": ops}), json!(["ops"]))
}

fn telling_all(notifiers: Value, to: Value) -> Daemon {
    let notify = json!({"to": to, "on": ["failure", "recovery"]});
    Plan::new(json!({"backup": job_with(FAILS, json!({"notify": notify, "targets": "*"}))}))
        .setting("notifiers", notifiers)
        .start()
}

fn saltpeter(daemon: &Daemon, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saltpeter"))
        .args(arguments)
        .arg("-c")
        .arg(daemon.path("conf"))
        .env_remove("SALTPETER_URL")
        .env_remove("SALTPETER_TOKEN")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The stages of all notices, in their order.
fn stages(daemon: &Daemon) -> Vec<String> {
    let reply = daemon.get("/api/v1/notifications");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut notices = reply.json()["notifications"].as_array().unwrap().clone();
    notices.reverse();
    notices
        .iter()
        .map(|notice| notice["stage"].as_str().unwrap().to_string())
        .collect()
}

fn wait_stages(daemon: &Daemon, wanted: &[&str]) {
    until(&format!("{wanted:?}"), || {
        (stages(daemon) == wanted).then_some(())
    });
}

#[test]
fn a_failed_job_is_told_with_its_last_lines_and_a_signature_and_its_recovery_too() {
    let receiver = Receiver::new();
    let scratch = Scratch::new();
    let secret = scratch.path().join("secret");
    fs::write(
        &secret,
        format!("whsec_{}\n", BASE64.encode(b"a key of twenty-four bytes")),
    )
    .unwrap();
    let daemon = telling(json!({"webhook": receiver.url("/hook"), "secret_file": secret}));
    let instance = daemon.run("backup");
    let request = receiver.wait(1).remove(0);
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("POST", "/hook")
    );
    let (id, at) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a key of twenty-four bytes");
    let signed = [format!("{id}.{at}.").as_bytes(), &request.body].concat();
    let signature = request.header("webhook-signature").strip_prefix("v1,").unwrap();
    let signature = BASE64.decode(signature.as_bytes()).unwrap();
    hmac::verify(&key, &signed, &signature).unwrap();
    let body = request.json();
    assert_eq!(body["type"], "saltpeter.notices");
    let notice = &body["data"]["notices"][0];
    assert_eq!(
        (&notice["kind"], &notice["job"]),
        (&json!("failure"), &json!("backup"))
    );
    assert_eq!(notice["instance"], instance.as_str());
    assert_eq!(notice["machines"].as_array().unwrap().len(), 3);
    let machine = &notice["machines"][0];
    assert_eq!(
        (&machine["retcode"], &machine["output_tail"]),
        (&json!(3), &json!("the disk is full"))
    );
    daemon.write_jobs(
        "jobs",
        &json!({"backup": job_with("true", json!({"notify": {"to": "ops"}, "targets": "*"}))}),
    );
    until("a success", || {
        let instance = daemon.run("backup");
        daemon.wait_ended(&instance);
        (daemon.state("backup")["result_ok"] == true || daemon.retcode(&instance, "m1") == 0).then_some(())
    });
    let bodies = receiver.wait(2);
    let notice = &bodies[1].json()["data"]["notices"][0];
    assert_eq!(notice["kind"], "recovery");
    wait_stages(&daemon, &["sent", "sent"]);
}

#[test]
fn a_destination_that_hangs_holds_up_no_other() {
    let (hung, healthy) = (Receiver::new(), Receiver::new());
    hung.answer(None);
    let notifiers =
        json!({"hung": {"webhook": hung.url("/")}, "ops": {"webhook": healthy.url("/"), "format": "slack"}});
    let daemon = telling_all(notifiers, json!(["hung", "ops"]));
    daemon.run("backup");
    hung.wait(1);
    let request = healthy.wait(1).remove(0);
    let text = request.json()["text"].as_str().unwrap().to_string();
    assert!(
        text.starts_with("backup failed on 3 of 3 machines (m1: exit code 3"),
        "{text}"
    );
    assert!(text.contains("on m1:\nthe disk is full"), "{text}");
    // and not the daemon's end either
    daemon.stop();
}

#[test]
fn kill_9_between_commit_and_delivery_loses_nothing_and_repeats_it_under_the_same_id() {
    let receiver = Receiver::new();
    receiver.answer(None);
    let daemon = telling(json!({"webhook": receiver.url("/")}));
    let instance = daemon.run("backup");
    daemon.wait_ended(&instance);
    // it is known, and not handed out yet
    until("the notice", || (stages(&daemon).len() == 1).then_some(()));
    assert!(receiver.received().is_empty());
    daemon.kill_hard();
    daemon.start();
    receiver.wait(1);
    // handed out, and not answered
    daemon.kill_hard();
    receiver.answer(Some(OK));
    daemon.start();
    let ids: Vec<String> = receiver
        .wait(2)
        .iter()
        .map(|request| request.header("webhook-id").into())
        .collect();
    assert_eq!(ids[0], ids[1]);
    wait_stages(&daemon, &["sent"]);
    // what was delivered is not delivered again
    daemon.kill_hard();
    daemon.start();
    let test = saltpeter(&daemon, &["notifications", "--test", "ops"]);
    assert!(test.status.success(), "{}", said(&test));
    let last = receiver.received();
    assert_eq!(last.len(), 3);
    assert_eq!(last[2].json()["data"]["notices"][0]["kind"], "test");
}

#[test]
fn a_refused_notice_is_tried_again_after_5_s_shown_as_a_problem_and_can_be_retried_by_hand() {
    let receiver = Receiver::new();
    receiver.answer(Some("HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\nno /token"));
    let scratch = Scratch::new();
    let token = scratch.path().join("token");
    fs::write(&token, "t0k3n-of-ops").unwrap();
    let daemon = telling(json!({"webhook": receiver.url("/s3cret-path"), "token_file": token}));
    daemon.run("backup");
    let first = receiver.wait(1).remove(0);
    assert_eq!(first.header("authorization"), "Bearer t0k3n-of-ops");
    let second = receiver.wait(2).remove(1);
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    let trouble = until("the trouble", || {
        let problems = daemon.get("/api/v1/problems").json();
        problems["troubles"][0].as_str().map(str::to_string)
    });
    assert!(
        trouble.contains("1 notifications to 'ops' cannot be delivered"),
        "{trouble}"
    );
    assert!(trouble.contains("answered 500"), "{trouble}");
    let list = said(&saltpeter(&daemon, &["notifications"]));
    assert!(
        list.contains("backup failed on 3 of 3 machines") && list.contains("waiting"),
        "{list}"
    );
    let metrics = daemon.get("/metrics").text();
    assert!(
        metrics.contains("saltpeter_notifications_waiting{notifier=\"ops\"} 1"),
        "{metrics}"
    );
    // nothing of all this tells the URL's path or the token
    let config = daemon.get("/config").text();
    let shown = [
        daemon.said(),
        list,
        trouble,
        metrics,
        config,
        daemon.get("/api/v1/notifications").text(),
    ]
    .join("\n");
    assert!(
        !shown.contains("s3cret") && !shown.contains("t0k3n-of-ops"),
        "{shown}"
    );
    receiver.answer(Some(OK));
    let retried = saltpeter(&daemon, &["notifications", "--retry", "1"]);
    assert!(retried.status.success(), "{}", said(&retried));
    receiver.wait(3);
    wait_stages(&daemon, &["sent"]);
    until("the end of the trouble", || {
        let problems = daemon.get("/api/v1/problems").json();
        problems["troubles"].as_array()?.is_empty().then_some(())
    });
    let again = saltpeter(&daemon, &["notifications", "--retry", "1"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(
        said(&again).contains("notification 1 was delivered"),
        "{}",
        said(&again)
    );
}

#[test]
fn a_test_says_what_is_wrong_with_a_notifier() {
    let receiver = Receiver::new();
    let missing = json!({"webhook": receiver.url("/"), "secret_file": "/nonexistent/secret"});
    let notifiers = json!({
        "ops": {"webhook": receiver.url("/")}, "no-secret": missing, "nobody": {"webhook": "http://127.0.0.1:1/"},
        "page": {"command": "echo no pager >&2; exit 7"}, "slow": {"command": "sleep 60", "timeout": 0.5},
    });
    let daemon = telling_all(notifiers, json!([]));
    let test = |name: &str| {
        let output = saltpeter(&daemon, &["notifications", "--test", name]);
        (output.status.code().unwrap(), said(&output))
    };
    assert_eq!(test("ops"), (0, "'ops' took the test\n".into()));
    for (answer, words) in [
        (
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
            "redirects are not followed",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone",
            "answered 404: gone",
        ),
        ("nonsense\r\n\r\n", "invalid"),
        ("HTTP/1.1 200 OK\r\n", "not HTTP"),
    ] {
        receiver.answer(Some(answer));
        let (code, told) = test("ops");
        assert_eq!(code, 1, "{told}");
        assert!(told.contains(words), "{words}: {told}");
    }
    for (name, words) in [
        ("no-secret", "cannot read secret_file '/nonexistent/secret'"),
        ("nobody", "http://127.0.0.1:1: Connection refused"),
        ("page", "the command ended with 7: no pager"),
        ("slow", "the command did not end within 1 seconds"),
        ("other", "no such notifier"),
    ] {
        let (code, told) = test(name);
        assert_eq!(code, 1, "{told}");
        assert!(told.contains(words), "{words}: {told}");
    }
    // a failed test is no problem of the daemon
    assert_eq!(daemon.get("/api/v1/problems").json()["troubles"], json!([]));
}

#[test]
fn a_receiver_that_drips_has_30_s_in_all() {
    let receiver = Receiver::new();
    receiver.answer(Some(DRIP));
    let daemon = telling_all(json!({"ops": {"webhook": receiver.url("/")}}), json!([]));
    let output = saltpeter(&daemon, &["notifications", "--test", "ops"]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("did not answer within 30 seconds"), "{told}");
}

#[test]
fn every_format_is_what_its_receiver_reads() {
    let receiver = Receiver::new();
    let scratch = Scratch::new();
    let token = scratch.path().join("token");
    fs::write(&token, "routing-key").unwrap();
    let hook = |path: &str, format: &str| json!({"webhook": receiver.url(path), "format": format});
    let with_token = |mut hook: Value| {
        hook["token_file"] = json!(token);
        hook
    };
    let mut matrix = with_token(hook("/matrix", "matrix"));
    matrix["room"] = json!("!ops:example.org");
    let mut own = hook("/own", "saltpeter");
    own["body"] = json!(r#"{"msg": "{{subject}}", "n": {{count}}, "other": "{{unknown}}"}"#);
    let notifiers = json!({
        "slack": hook("/slack", "slack"), "teams": hook("/teams", "teams"), "ntfy": hook("/ntfy", "ntfy"),
        "pagerduty": with_token(hook("/pagerduty", "pagerduty")), "matrix": matrix, "own": own,
    });
    let names = json!(["slack", "teams", "ntfy", "pagerduty", "matrix", "own"]);
    let daemon = telling_all(notifiers, names);
    daemon.run("backup");
    let requests = receiver.wait(6);
    let of = |path: &str| -> &Received {
        requests
            .iter()
            .find(|request| request.path.starts_with(path))
            .unwrap()
    };
    let failed = "backup failed on 3 of 3 machines";
    assert!(of("/slack").json()["text"].as_str().unwrap().starts_with(failed));
    let card = of("/teams").json();
    assert_eq!(
        card["attachments"][0]["contentType"],
        "application/vnd.microsoft.card.adaptive"
    );
    assert!(
        card["attachments"][0]["content"]["body"][0]["text"]
            .as_str()
            .unwrap()
            .starts_with(failed)
    );
    assert!(of("/ntfy").header("title").starts_with(failed));
    assert_eq!(of("/ntfy").header("priority"), "high");
    let event = of("/pagerduty").json();
    assert_eq!(
        (&event["routing_key"], &event["event_action"]),
        (&json!("routing-key"), &json!("trigger"))
    );
    assert!(event["dedup_key"].as_str().unwrap().ends_with("/backup"));
    assert_eq!(event["payload"]["severity"], "error");
    let message = of("/matrix");
    assert_eq!(message.method, "PUT");
    let path = "/matrix/_matrix/client/v3/rooms/%21ops%3Aexample.org/send/m.room.message/msg_";
    assert!(message.path.starts_with(path), "{}", message.path);
    assert_eq!(message.header("authorization"), "Bearer routing-key");
    let own = of("/own").json();
    assert!(own["msg"].as_str().unwrap().starts_with(failed));
    assert_eq!((&own["n"], &own["other"]), (&json!(1), &json!("{{unknown}}")));
}

#[test]
fn a_command_gets_the_facts_and_its_family_does_not_outlive_its_time() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.path().join(name);
    let record = format!(
        "env > {0}/env; cat > {0}/json.new; id -un > {0}/user; mv {0}/json.new {0}/json",
        scratch.path().display()
    );
    let hang = format!(
        "sh -c 'echo $$ > {0}/pid; exec sleep 600' & wait",
        scratch.path().display()
    );
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = json!({"command": record});
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        command["user"] = json!("nobody");
    }
    let notifiers = json!({"ops": command, "hangs": {"command": hang, "timeout": 1}});
    let daemon = telling_all(notifiers, json!(["ops", "hangs"]));
    let instance = daemon.run("backup");
    let facts: Value = until("the facts", || {
        let text = fs::read_to_string(at("json")).ok()?;
        serde_json::from_str(&text).ok()
    });
    assert_eq!(facts["data"]["notices"][0]["instance"], instance.as_str());
    let environment = fs::read_to_string(at("env")).unwrap();
    let has = |line: &str| environment.lines().any(|known| known == line);
    assert!(
        has("SP_NOTIFY_JOB=backup") && has("SP_NOTIFY_KIND=failure"),
        "{environment}"
    );
    assert!(has(&format!("SP_NOTIFY_INSTANCE={instance}")), "{environment}");
    // nothing of the daemon's own environment
    assert!(!environment.contains("LC_SALTPETER_IT"), "{environment}");
    if is_root {
        assert_eq!(fs::read_to_string(at("user")).unwrap().trim(), "nobody");
    }
    let pid: i32 = until("the pid", || {
        fs::read_to_string(at("pid")).ok()?.trim().parse().ok()
    });
    until("the family's end", || (!is_alive(pid)).then_some(()));
}

#[test]
fn a_mail_cannot_be_given_other_headers_by_what_a_job_is_called_or_prints() {
    let scratch = Scratch::new();
    let place = scratch.path().join("mail");
    let daemon = Plan::new(json!({})).setting("notify", json!(["post"])).start();
    let script = format!(
        r#"echo "$@" > {0}.arguments; cat > {0}.new; mv {0}.new {0}"#,
        place.display()
    );
    let sendmail = daemon.script("sendmail", &script);
    daemon.set(
        "notifiers",
        json!({"post": {"mail": ["ops@example.com", "root"], "from": "cron@example.com", "sendmail": sendmail}}),
    );
    let name = "back\nBcc: x@y\n\nüp";
    daemon.write_jobs(
        "jobs",
        &json!({name: job("printf 'Grüße\\n.\\nBcc: a@b\\n'; exit 3")}),
    );
    daemon.wait_jobs(1);
    let reply = daemon.post("/run", &json!({"job": name}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mail = until("the mail", || fs::read_to_string(&place).ok());
    let (head, body) = mail.split_once("\n\n").unwrap();
    assert_eq!(
        fs::read_to_string(place.with_extension("arguments")).unwrap(),
        "-i -t -f cron@example.com\n"
    );
    assert!(
        head.contains("From: cron@example.com\nTo: ops@example.com,\n root\nSubject: =?UTF-8?B?"),
        "{head}"
    );
    assert!(!head.to_lowercase().contains("\nbcc:"), "{head}");
    assert!(head.contains("\nContent-Transfer-Encoding: base64"), "{head}");
    let text = BASE64.decode(body.replace('\n', "").as_bytes()).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.starts_with("back Bcc: x@y  üp failed on m1: exit code 3\n"),
        "{text}"
    );
    assert!(text.contains("on m1:\nGrüße\n.\nBcc: a@b"), "{text}");
}

#[test]
fn a_receivers_certificate_is_verified() {
    let scratch = Scratch::new();
    let pem = |place: &str| {
        let dir = scratch.path().join(place);
        fs::create_dir_all(&dir).unwrap();
        identity::own(&dir, &["localhost".to_string()]).unwrap();
        dir.join(identity::OWN_FILE)
    };
    let (theirs, other) = (pem("theirs"), pem("other"));
    // any server with TLS will do
    let server = Plan::new(json!({}))
        .setting("tls_cert", json!(theirs))
        .setting("tls_key", json!(theirs))
        .start();
    let url = format!("https://localhost:{}/hook", server.api_port());
    let notifiers = json!({
        "believed": {"webhook": url, "ca_file": theirs}, "foreign": {"webhook": url, "ca_file": other},
        "elsewhere": {"webhook": url.replace("localhost", "127.0.0.1"), "ca_file": theirs},
    });
    let daemon = telling_all(notifiers, json!([]));
    let test = |name: &str| said(&saltpeter(&daemon, &["notifications", "--test", name]));
    let told = test("believed");
    assert!(
        told.contains(&format!("localhost:{} answered 404", server.api_port())),
        "{told}"
    );
    for refused in ["foreign", "elsewhere"] {
        let told = test(refused);
        assert!(told.contains("invalid peer certificate"), "{refused}: {told}");
    }
}

#[test]
fn the_heartbeat_is_requested_while_the_daemon_works() {
    let receiver = Receiver::new();
    let daemon = Plan::new(json!({}))
        .setting("heartbeat_url", json!(receiver.url("/ping/s3cret")))
        .start();
    let beat = receiver.wait(1).remove(0);
    assert_eq!(
        (beat.method.as_str(), beat.path.as_str()),
        ("GET", "/ping/s3cret")
    );
    assert!(!daemon.get("/config").text().contains("s3cret"));
    // and no oftener than once a minute
    never_within(2_000, "a second request", || receiver.received().len() > 1);
}

#[test]
fn a_monitor_gets_one_line_and_a_code() {
    let jobs = json!({"slow": job("exec sleep 60"), "bad": job("exit 1")});
    let daemon = Plan::new(jobs).start();
    let check = |daemon: &Daemon| {
        let output = saltpeter(daemon, &["status", "--check"]);
        (output.status.code().unwrap(), said(&output))
    };
    let (code, line) = check(&daemon);
    assert_eq!(
        (code, line.as_str()),
        (
            0,
            "OK: 2 jobs, 0 running|jobs=2 running=0 failed=0 missed=0 errors=0\n"
        )
    );
    // no alarm for what a user has killed
    let instance = daemon.run("slow");
    daemon.kill("slow");
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);
    let (code, line) = check(&daemon);
    assert_eq!(code, 0, "{line}");
    let instance = daemon.run("bad");
    daemon.wait_ended(&instance);
    let (code, line) = check(&daemon);
    assert_eq!(code, 1, "{line}");
    assert!(line.starts_with("WARNING: 1 job failed (bad)|jobs=2"), "{line}");
    daemon.stop();
    let (code, line) = check(&daemon);
    assert_eq!(code, 2, "{line}");
    assert!(
        line.starts_with("CRITICAL: ") && line.lines().count() == 1,
        "{line}"
    );
}

#[test]
fn every_metric_that_the_dashboard_and_the_alert_rules_name_exists() {
    let daemon = telling(json!({"mail": "root"}));
    let instance = daemon.run("backup");
    daemon.wait_ended(&instance);
    let metrics = daemon.get("/metrics").text();
    let names = regex_lite::Regex::new("saltpeter_[a-z_]+").unwrap();
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let dashboard = fs::read_to_string(top.join("grafana/saltpeter.json")).unwrap();
    let dashboard_json: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard_json["panels"].as_array().unwrap().len() > 10);
    let rules = top.join("prometheus/saltpeter-rules.yaml");
    let text = fs::read_to_string(&rules).unwrap();
    let mut count = 0;
    for name in names.find_iter(&(dashboard + &text)) {
        let name = name.as_str();
        let is_known = metrics.lines().any(|line| {
            let rest = line
                .strip_prefix(name)
                .or_else(|| line.strip_prefix("# TYPE ")?.strip_prefix(name));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        assert!(is_known, "{name}: /metrics has no such metric");
        count += 1;
    }
    assert!(count > 30, "{count}");
    // the rules' own grammar, where Prometheus is installed
    match Command::new("promtool")
        .args(["check", "rules"])
        .arg(&rules)
        .output()
    {
        Ok(output) => assert!(output.status.success(), "{}", said(&output)),
        Err(error) => println!("rules not checked with promtool: {error}"),
    }
}

/// A Python with an SMTP server, below the target directory; None: what is missing is told.
fn smtp_python() -> Option<std::path::PathBuf> {
    let place = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("aiosmtpd");
    let python = place.join("bin/python3");
    let run = |program: &std::path::Path, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    if run(&python, &["-c", "import aiosmtpd"]) {
        return Some(python);
    }
    let directory = place.to_str()?;
    let is_there = run("python3".as_ref(), &["-m", "venv", directory])
        && run(&python, &["-m", "pip", "install", "-q", "aiosmtpd==1.4.6"]);
    is_there.then_some(python)
}

/// Takes one mail and writes it, with its envelope, to the file that its argument names.
const SMTP_SERVER: &str = r#"
import asyncio, os, sys
from aiosmtpd.smtp import SMTP
place = sys.argv[1]
class Sink:
    async def handle_DATA(self, server, session, envelope):
        with open(place + '.new', 'wb') as out:
            out.write(('%s %s\n' % (envelope.mail_from, ' '.join(envelope.rcpt_tos))).encode() + envelope.content)
        os.rename(place + '.new', place)
        return '250 OK'
async def main():
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(Sink()), '127.0.0.1', 0)
    with open(place + '.port.new', 'w') as out:
        out.write(str(server.sockets[0].getsockname()[1]))
    os.rename(place + '.port.new', place + '.port')
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)
asyncio.run(main())
"#;

#[test]
fn a_mail_reaches_a_real_server_through_msmtp() {
    let has_msmtp = Command::new("msmtp").arg("--version").output().is_ok();
    let Some(python) = smtp_python().filter(|_| has_msmtp) else {
        return println!("left out: needs msmtp, Python with venv, and a package index for aiosmtpd");
    };
    let scratch = Scratch::new();
    let place = scratch.path().join("mail");
    // it ends with its standard input, so with this test
    let mut server = Command::new(python)
        .args(["-c", SMTP_SERVER])
        .arg(&place)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let port = until("the server", || {
        fs::read_to_string(place.with_extension("port")).ok()
    });
    let daemon = Plan::new(json!({})).setting("notify", json!(["post"])).start();
    let sendmail = daemon.script(
        "sendmail",
        &format!("exec msmtp --host=127.0.0.1 --port={port} --tls=off --auth=off \"$@\""),
    );
    let mail = json!({"mail": ["ops@example.com", "root@example.com"], "from": "cron@example.com", "sendmail": sendmail});
    daemon.set("notifiers", json!({"post": mail}));
    daemon.write_jobs(
        "jobs",
        &json!({"backup": job("echo '.'; echo 'the disk is full'; exit 3")}),
    );
    daemon.wait_jobs(1);
    daemon.run("backup");
    let mail = until("the mail", || fs::read_to_string(&place).ok());
    let (envelope, mail) = mail.split_once('\n').unwrap();
    assert_eq!(envelope, "cron@example.com ops@example.com root@example.com");
    let mail = mail.replace("\r\n", "\n");
    assert!(mail.contains("\nSubject: [saltpeter "), "{mail}");
    assert!(mail.contains("] backup failed on m1: exit code 3\n"), "{mail}");
    assert!(mail.contains("on m1:\n.\nthe disk is full\n"), "{mail}");
    wait_stages(&daemon, &["sent"]);
    drop(server.stdin.take());
    server.wait().unwrap();
}
