//! Who sees what.

use saltpeter::secret::sha256;
use serde_json::{Value, json};

use crate::browser::{self, Browser};
use crate::support::daemon::{Daemon, Plan, job_with};

pub fn token(name: &str, role: &str) -> Value {
    let hash = sha256(name);
    json!({"name": name, "role": role, "sha256": data_encoding::HEXLOWER.encode(&hash)})
}

pub fn log_in(browser: &mut Browser, secret: &str) {
    browser.until("the login", "document.activeElement?.name === 'token'");
    browser.write(secret);
    browser.press("Enter", 13);
}

fn daemon() -> Daemon {
    let fields = json!({"env": {"SECRET": "hunter2"}});
    Plan::new(json!({"j": job_with("sleep 600", fields)}))
        .setting("api_open", json!(false))
        .setting(
            "api_tokens",
            json!([token("look", "read"), token("act", "operate")]),
        )
        .start()
}

#[test]
fn the_role_decides_what_can_be_pressed_and_a_session_ends_where_it_began() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = daemon();
    browser.visit(&daemon, "/jobs/j?x=%26");
    assert_eq!(browser.text("location.pathname"), "/login");
    log_in(&mut browser, "wrong");
    browser.until_shown("Invalid token.");
    log_in(&mut browser, "look");
    browser.until(
        "where he wanted",
        "location.pathname + location.search === '/jobs/j?x=%26'",
    );
    browser.until_shown("token 'look'");
    browser.until_shown("It has never run.");
    assert!(browser.shows("***") && !browser.shows("hunter2"));
    let buttons = "[...document.querySelectorAll('button:not(#zone)')].filter((node) => node.checkVisibility()).map((node) => node.textContent)";
    assert_eq!(browser.eval(buttons), json!(["Log out"]));

    browser.click("button", "Log out");
    browser.until("the login", "location.pathname === '/login'");
    browser.visit(&daemon, "/");
    log_in(&mut browser, "act");
    browser.click("a", "j");
    browser.until_shown("hunter2");
    browser.click("button", "Run now …");
    browser.click("dialog button", "Run now");
    browser.until("the run", "named('.machines .badge', 'running').length === 1");
    assert_eq!(
        browser.eval(buttons),
        json!(["Log out", "Kill run …", "Kill on this machine …"])
    );

    // the token is taken away while somebody looks
    let here = browser.text("location.pathname");
    daemon.set("api_tokens", json!([token("look", "read")]));
    browser.until("the login", "location.pathname === '/login'");
    log_in(&mut browser, "look");
    browser.until("the same run", &format!("location.pathname === {}", json!(here)));
    browser.until("the run", "named('.machines .badge', 'running').length === 1");
    assert_eq!(browser.eval(buttons), json!(["Log out"]));
    // the output that was followed broke off
    browser.is_clean(&["401", "ERR_INCOMPLETE_CHUNKED_ENCODING"]);
}

#[test]
fn on_an_open_host_one_may_look_without_a_login() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let fields = json!({});
    let daemon = Plan::new(json!({"j": job_with("true", fields)}))
        .setting("api_open", json!(false))
        .start();
    browser.visit(&daemon, "/jobs/j");
    browser.until_shown("It has never run.");
    browser.until_shown("can view");
    assert_eq!(
        browser.count("button", "Run now …") + browser.count("a", "Log in"),
        0
    );
    browser.is_clean(&[]);
}
