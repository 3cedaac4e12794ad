//! The pages beside the overview: runs, machines, problems, audit.

use serde_json::{Value, json};

use crate::access::{log_in, token};
use crate::browser;
use crate::support::daemon::{Plan, job, job_with};

#[test]
fn what_failed_is_found_by_filters_that_the_address_holds() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({
        "backup": job_with("[ $SP_MACHINE_ID = m2 ] && exit 7; true", json!({"targets": "*"})),
        "report": job("true"),
    }))
    .start();
    let failed = daemon.run("backup");
    daemon.wait_ended(&failed);
    daemon.run_to_end("report");
    daemon.run_to_end("report");

    browser.visit(&daemon, "/");
    browser.click("nav a", "Runs");
    let jobs = "[...document.querySelectorAll('.history tbody td:nth-child(2) a')].map((node) => node.textContent).join()";
    browser.until("all runs", &format!("{jobs} === 'report,report,backup'"));
    assert_eq!(browser.count("nav a[aria-current=page]", "Runs"), 1);
    browser.eval("(() => { const node = named('.filters select', null)[1]; node.value = 'failed'; node.dispatchEvent(new Event('change')); })()");
    browser.until("the failed one", &format!("{jobs} === 'backup'"));
    browser.click("button", "Today");
    browser.until("the day", "location.search.includes('day=')");
    browser.until("still the failed one", &format!("{jobs} === 'backup'"));
    assert!(browser.shows("1 of 3 machines failed"));
    browser.call("Page.reload", json!({}));
    browser.until("the same again", &format!("{jobs} === 'backup'"));
    browser.click("button", "Yesterday");
    browser.until_shown("Nothing in the history matches the filters.");
    browser.click("button", "Any day");
    browser.click(".history a", &failed);
    browser.until_shown("1 of 3 machines failed: exit code 7");
    browser.until("its title", "document.title.startsWith('(1 failed) backup ')");
    browser.is_clean(&[]);
}

#[test]
fn a_due_time_that_did_not_start_is_shown_with_the_reason() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let fields = json!({"year": "*", "sec": "*", "min": "*", "hour": "*"});
    let daemon = Plan::new(json!({"j": job_with("true", fields)})).start();
    daemon.post("/api/v1/jobs/j/pause", &json!({"reason": "disk <b>swap</b>"}));
    browser.visit(&daemon, "/runs?job=j&outcome=not_started");
    browser.until(
        "the verdict",
        "named('.history .badge', null).some((node) => node.textContent.startsWith('paused'))",
    );
    browser.is_clean(&[]);
}

#[test]
fn machines_are_left_out_of_runs_and_taken_in_again() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({"j": job_with("exit 3", json!({"targets": "m2"}))}))
        .setting("api_tokens", json!([token("chief", "admin")]))
        .start();
    let instance = daemon.run("j");
    daemon.wait_ended(&instance);
    browser.visit(&daemon, "/login?next=/machines");
    log_in(&mut browser, "chief");
    let row = "[...document.querySelectorAll('.history tbody tr')].find((row) => row.querySelector('th').textContent === 'm2').innerText";
    browser.until("the last run", &format!("{row}.includes('j_')"));
    browser.click_on("[...document.querySelectorAll('.history tbody tr')].find((row) => row.querySelector('th').textContent === 'm2').querySelector('button')");
    browser.until(
        "the question",
        "document.activeElement?.closest('dialog') !== null",
    );
    browser.write("new disk");
    browser.click("dialog button", "Start maintenance");
    browser.until(
        "it is out",
        &format!("{row}.includes('left out') && {row}.includes('new disk')"),
    );
    browser.until_shown("1 machine left out of every run: m2. new disk");
    browser.click("button", "End maintenance");
    browser.until("it is in", &format!("!{row}.includes('left out')"));
    browser.click("button", "Maintenance of all machines …");
    browser.write("power");
    browser.click("dialog button", "Start maintenance");
    browser.until_shown("No run starts. power");
    browser.click("button", "End maintenance of all machines");
    browser.until("no bar", "!document.body.innerText.includes('No run starts.')");

    // who did it
    browser.click("nav a", "Audit");
    browser.until_shown("power");
    let entries: Value = browser.eval("document.querySelectorAll('.history tbody tr').length");
    assert_eq!(entries, json!(5), "a run, and two switches set and ended");
    browser.is_clean(&[]);
}

#[test]
fn problems_are_counted_in_the_bar_and_told_with_file_and_line() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({"j": job_with("true", json!({"year": "2099"}))})).start();
    browser.visit(&daemon, "/problems");
    browser.until_shown("No problems.");
    daemon.write_file("bad.yaml", "bad:\n  min: 99\n");
    browser.until_shown("bad.yaml:2 bad.min: '99'");
    browser.until(
        "the count",
        "Number(named('nav a .badge', null)[0]?.textContent) > 0",
    );
    browser.is_clean(&[]);
}

#[test]
fn the_grid_of_a_job_leads_to_what_failed_on_which_machine() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let command = "[ $SP_MACHINE_ID = m2 ] && exit 7; sleep 0.1";
    let daemon = Plan::new(json!({"backup": job_with(command, json!({"targets": "*"}))})).start();
    for _ in 0..3 {
        let instance = daemon.run("backup");
        daemon.wait_ended(&instance);
    }
    let grid = daemon.get("/api/v1/jobs/backup/grid?runs=2").json();
    assert_eq!(grid["machines"], json!(["m2", "m1", "m3"]));
    assert_eq!(grid["runs"].as_array().unwrap().len(), 2);
    assert_eq!(
        grid["runs"][0]["outcomes"],
        json!(["failed", "success", "success"])
    );
    assert!(grid["runs"][0]["durations_ms"][1].as_u64().unwrap() >= 100);
    assert_eq!(daemon.get("/api/v1/jobs/backup/grid?runs=61").status, 400);
    assert_eq!(daemon.get("/api/v1/jobs/other/grid").status, 404);

    browser.visit(&daemon, "/jobs/backup");
    browser.until(
        "three runs",
        "document.querySelectorAll('.grid thead .cell').length === 3",
    );
    assert_eq!(
        browser.number("document.querySelectorAll('.grid tbody .cell.bad').length"),
        3
    );
    assert_eq!(
        browser.number("document.querySelectorAll('.grid rect').length"),
        3
    );
    browser.click_on("document.querySelector('.grid tbody .cell.bad')");
    browser.until_shown("1 of 3 machines failed: exit code 7");
    browser.until("the machine", "location.search === '?machine=m2'");
    browser.is_clean(&[]);
}

#[test]
fn the_keyboard_is_enough() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({"alpha": job("true"), "beta": job("exit 1")})).start();
    daemon.run_to_end("beta");
    browser.visit(&daemon, "/");
    browser.until(
        "the jobs",
        "document.querySelectorAll('.jobs tbody tr').length === 2",
    );
    browser.until(
        "the icon",
        "document.querySelector('link[rel=icon]').href.endsWith('/ui/icon-failed.svg')",
    );
    browser.type_key("/");
    assert_eq!(browser.text("document.activeElement.type"), "search");
    browser.press("Escape", 27);
    browser.type_key("j");
    assert_eq!(browser.text("document.activeElement.textContent"), "beta");
    browser.type_key("j");
    assert_eq!(browser.text("document.activeElement.textContent"), "alpha");
    browser.type_key("k");
    browser.press("Enter", 13);
    browser.until("the job", "location.pathname === '/jobs/beta'");
    for (letter, path) in [
        ("a", "/audit"),
        ("m", "/machines"),
        ("p", "/problems"),
        ("r", "/runs"),
    ] {
        browser.type_key("g");
        browser.type_key(letter);
        browser.until(path, &format!("location.pathname === '{path}'"));
    }
    browser.type_key("?");
    browser.until_shown("previous row");
    browser.press("Escape", 27);
    browser.until("no list", "document.querySelector('dialog') === null");
    // the first stop leads to the search
    browser.visit(&daemon, "/");
    browser.until(
        "the jobs",
        "document.querySelectorAll('.jobs tbody tr').length === 2",
    );
    browser.press("Tab", 9);
    browser.press("Enter", 13);
    browser.until("the search", "document.activeElement.type === 'search'");
    // for a screen on the wall
    browser.visit(&daemon, "/?view=wall");
    browser.until_shown("1 job of 2 failed");
    assert_eq!(browser.count(".tiles a", "beta"), 1);
    assert_eq!(browser.count("nav a", "Runs"), 0);
    browser.is_clean(&[]);
}

#[test]
fn a_change_is_seen_within_a_second_and_times_are_shown_in_utc_on_request() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({"j": job("true")})).start();
    browser.call(
        "Emulation.setTimezoneOverride",
        json!({"timezoneId": "Asia/Tokyo"}),
    );
    browser.visit(&daemon, "/");
    browser.until_shown("times in Asia/Tokyo");
    browser.until(
        "the job",
        "document.querySelectorAll('.jobs tbody tr').length === 1",
    );
    browser.until("the stream", "document.body.dataset.live === 'yes'");
    browser.eval(
        "window.seen = new Promise((resolve) => new MutationObserver(() => { \
        if (document.querySelector('.jobs .badge')?.textContent === 'ok') resolve(Date.now()); }) \
        .observe(document.body, { subtree: true, childList: true, characterData: true })); 0",
    );
    daemon.run_to_end("j");
    let ended = daemon.get("/api/v1/jobs/j").json()["recent"][0]["ended"].clone();
    let late = browser.number(&format!("(async () => await seen - Date.parse({ended}))()"));
    assert!(late < 1_500, "{late} ms");
    let local = browser.text("document.querySelector('.last time').textContent.slice(0, 5)");
    browser.click("button", "times in Asia/Tokyo");
    browser.until_shown("times in UTC");
    let utc = browser.text("document.querySelector('.last time').textContent.slice(0, 5)");
    assert_ne!(local, utc);
    browser.call("Page.reload", json!({}));
    browser.until_shown("times in UTC");
    browser.is_clean(&[]);
}
