//! What is seen at a glance.

use serde_json::{Value, json};

use crate::browser;
use crate::support::daemon::{Plan, every_second, free_port, job, job_with};

const NAMES: &str =
    "[...document.querySelectorAll('.jobs tbody th > :first-child')].map((node) => node.textContent)";

#[test]
fn failed_jobs_come_first_and_what_is_wrong_cannot_be_missed() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({
        "alpha": job_with("true", json!({"description": "the first letter", "year": "2099"})),
        "zeta": job_with("exit 3", json!({"year": "2099"})),
        "off": job_with("true", json!({"enabled": false, "year": "2099"})),
        "long": job_with("sleep 600", json!({"year": "2099"})),
    }))
    .start();
    daemon.run_to_end("alpha");
    daemon.run_to_end("zeta");
    let instance = daemon.run("long");
    browser.visit(&daemon, "/");
    browser.until("the jobs", &format!("{NAMES}.join() === 'zeta,alpha,long,off'"));
    browser.until_shown("1 of 1 failed");
    assert_eq!(browser.text("document.title"), "(1 failed) Saltpeter");
    assert_eq!(browser.count(".runs a", &instance), 1);
    assert_eq!(browser.count(".jobs .badge", "running"), 1);
    assert!(!browser.shows("problem"));

    // the page goes along with what happens
    daemon.write_file("bad.yaml", "bad:\n  min: 99\n");
    browser.until_shown("bad.yaml:2 bad.min: '99'");
    assert_eq!(
        browser.text("document.querySelector('.problems h2').textContent.slice(2, 9)"),
        "problem"
    );
    daemon.post("/api/v1/jobs/long/kill", &json!({}));
    browser.until_shown("Nothing runs at the moment.");
    browser.until(
        "the killed one among the failed",
        &format!("{NAMES}.join() === 'long,zeta,alpha,off'"),
    );

    // search and choice, by keyboard, kept in the address
    browser.click_on("document.querySelector('input[type=search]')");
    browser.write("letter first");
    browser.until("the one", &format!("{NAMES}.join() === 'alpha'"));
    assert_eq!(browser.text("location.search"), "?q=letter+first");
    browser.eval("document.querySelector('input[type=search]').select()");
    browser.press("Backspace", 8);
    browser.click("button", "Failed 2");
    browser.until("the failed", &format!("{NAMES}.join() === 'long,zeta'"));
    browser.call("Page.reload", json!({}));
    browser.until("the same again", &format!("{NAMES}.join() === 'long,zeta'"));
    assert_eq!(browser.count("button[aria-pressed=true]", "Failed 2"), 1);
    browser.is_clean(&[]);
}

#[test]
fn trouble_and_maintenance_are_on_every_page() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({"j": job("true")}))
        .setting("executor", json!("salt"))
        .setting("salt_python", json!("/nowhere/python3"))
        .start();
    browser.visit(&daemon, "/jobs/j");
    browser.until(
        "the job",
        "named('h1', null).length === 1 && named('button', 'Run now …').length === 1",
    );
    browser
        .until_shown("no machine can be reached: no Python with a working Salt was found (/nowhere/python3");
    let maintenance =
        json!({"saltpeter_maintenance": {"global": true, "machines": ["m2"]}, "bad": {"min": 99}});
    daemon.write_jobs("maintenance", &maintenance);
    browser.until_shown("No run starts. Set in the configuration files.");
    browser.until_shown("1 machine left out of every run: m2.");
    browser.until(
        "the problems",
        "named('#banner .badge', 'job files').length === 1",
    );
    browser.click("button", "Run now …");
    browser.click("dialog button", "Run now");
    browser.until(
        "the refusal",
        "document.getElementById('said').textContent.includes('maintenance')",
    );
    browser.click("#banner a", "Show");
    browser.until_shown("bad.min: '99'");
    // the daemon's refusal is no error of the page
    browser.is_clean(&["409"]);
}

#[test]
fn two_thousand_jobs_stay_smooth() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let mut jobs: serde_json::Map<String, Value> = (0..2_000)
        .map(|number| {
            let fields = json!({"description": format!("does what number {number} does"), "year": "2099"});
            (format!("job_{number:04}"), job_with("true", fields))
        })
        .collect();
    jobs.insert("busy".into(), every_second("true", json!({})));
    let daemon = Plan::new(Value::Object(jobs)).start();
    daemon.wait_jobs(2_001);
    browser.visit(&daemon, "/");
    browser.until(
        "the jobs",
        "document.querySelectorAll('.jobs tbody tr').length === 200",
    );
    assert!(browser.shows("All 2,001") && browser.shows("1801 more"));
    assert!(browser.number("document.querySelectorAll('*').length") < 5_000);
    browser.until(
        "a run",
        "document.querySelector('.jobs tbody tr .last a') !== null",
    );
    // all of it came in few bytes
    let first = browser.number(
        "performance.getEntriesByType('resource').find((entry) => entry.name.endsWith('/api/v1/overview')).encodedBodySize",
    );
    assert!((1_000..35_000).contains(&first), "{first} bytes");
    // rows are changed where they are: each element stays what it was
    browser.eval(
        "window.kept = [...document.querySelectorAll('.jobs tbody tr')]; window.asked = []; \
        const send = fetch; window.fetch = async (...all) => { const answer = await send(...all); \
        const text = await answer.clone().text(); asked.push(text.length); return answer; }; 0",
    );
    let before = browser.text("kept[0].querySelector('.last a').textContent");
    browser.until("three more looks", "asked.length >= 3");
    browser.until(
        "the next run",
        &format!(
            "kept[0].querySelector('.last a').textContent !== {}",
            json!(before)
        ),
    );
    assert_eq!(
        browser.eval("[...document.querySelectorAll('.jobs tbody tr')].every((row, at) => row === kept[at])"),
        true
    );
    // a look costs what has changed, not what there is
    let largest = browser.number("Math.max(...asked)");
    assert!(largest < 3_000, "{largest} bytes");
    browser.click_on("document.querySelector('input[type=search]')");
    browser.write("1999");
    browser.until("the last one", &format!("{NAMES}.join() === 'job_1999'"));
    browser.click(".jobs a", "job_1999");
    browser.until_shown("It has never run.");
    browser.eval("history.back()");
    browser.until("the search again", &format!("{NAMES}.join() === 'job_1999'"));
    browser.is_clean(&[]);
}

#[test]
fn a_daemon_that_is_gone_is_said_to_be_and_the_page_goes_on_when_it_is_back() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let release = "while [ ! -e \"$GO\" ]; do sleep 0.05; done; echo and after";
    let plan = Plan::new(json!({}))
        .restarts()
        .setting("api_ws_port", json!(free_port()));
    let daemon = plan.start();
    let go = daemon.path("go");
    let fields = json!({"env": {"GO": go.to_str().unwrap()}});
    daemon.write_jobs(
        "jobs",
        &json!({"j": job_with(&format!("echo before; {release}"), fields)}),
    );
    daemon.wait_jobs(1);
    let instance = daemon.run("j");
    browser.visit(&daemon, &format!("/runs/{instance}"));
    browser.until_shown("before");
    daemon.kill_hard();
    browser.until_shown("the daemon does not answer");
    assert!(browser.shows("before"), "what was seen stays");
    std::fs::write(&go, "").unwrap();
    daemon.start();
    browser.until(
        "the end of the run",
        "named('h1 .badge', 'succeeded').length === 1",
    );
    browser.until(
        "its whole output",
        "document.querySelector('pre.output').textContent === 'before\\nand after\\n'",
    );
    browser.until(
        "no word of it any more",
        "!document.body.innerText.includes('does not answer')",
    );
    browser.is_clean(&[
        "ERR_CONNECTION_REFUSED",
        "ERR_CONNECTION_RESET",
        "ERR_INCOMPLETE_CHUNKED",
        "ERR_EMPTY_RESPONSE",
    ]);
}
