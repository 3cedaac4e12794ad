//! The timeline: what ran when, and what will.

use serde_json::{Value, json};

use crate::browser;
use crate::support::daemon::{Plan, every_second, job_with};

/// A point of the canvas by time (seconds from now) and row.
const POINT: &str = r#"window.point = (after_s, row) => {
    const box = document.querySelector('canvas').getBoundingClientRect();
    const names = box.width < 600 ? 96 : 190;
    const range = 3600;
    const share = (after_s + range * 0.75) / range;
    return [box.left + names + share * (box.width - names), box.top + 24 + row * 20 + 10];
}; 0"#;

fn click_at(browser: &mut browser::Browser, expression: &str) {
    let at = browser.eval(expression);
    for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
        let params = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
        browser.call("Input.dispatchMouseEvent", params);
    }
}

#[test]
fn a_bar_leads_to_its_run_and_what_did_not_start_is_there_with_its_reason() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({
        "fails": job_with("exit 3", json!({})),
        "later": job_with("true", json!({"year": "*"})),
        "often": every_second("true", json!({})),
    }))
    .start();
    let failed = daemon.run("fails");
    daemon.wait_ended(&failed);
    daemon.post(
        "/api/v1/jobs/often/pause",
        &json!({"reason": "a new <b>disk</b>"}),
    );
    let path = "/api/v1/timeline?from=now-1h&until=now%2B1h&resolution=60";
    let answer = crate::support::until("a due time that did not start", || {
        let answer = daemon.get(path).json();
        (answer["jobs"]["often"]["not_started"][0]["count"].as_u64()? >= 1).then_some(answer)
    });
    assert_eq!(answer["jobs"]["fails"]["spans"][0]["instance"], json!(failed));
    assert_eq!(answer["jobs"]["fails"]["spans"][0]["outcome"], json!("failed"));
    assert_eq!(answer["jobs"]["often"]["not_started"][0]["type"], json!("paused"));
    assert_eq!(answer["jobs"]["often"]["due"], json!([]));
    let due = answer["jobs"]["later"]["due"].as_array().unwrap().len();
    assert!((59..=61).contains(&due), "{due}");
    for wrong in [
        "from=now&until=now-1h",
        "from=now-99d",
        "resolution=0",
        "from=soon",
    ] {
        assert_eq!(
            daemon.get(&format!("/api/v1/timeline?{wrong}")).status,
            400,
            "{wrong}"
        );
    }

    browser.visit(&daemon, "/runs/timeline?range=3600");
    browser.until_shown("3 jobs, 1 with failures");
    browser.eval(POINT);
    let at = "point((Date.parse(answer_at) - Date.now()) / 1000, 0)";
    let started = daemon.get(&format!("/api/v1/runs/{failed}")).json()["started"].clone();
    click_at(&mut browser, &at.replace("answer_at", &started.to_string()));
    browser.until("the run", &format!("location.pathname === '/runs/{failed}'"));
    browser.eval("history.back()");
    browser.until_shown("3 jobs, 1 with failures");
    // the chart moves on with time, and says only what is under the pointer when that moves
    crate::support::until("the reason", || {
        let at = browser.eval("point(-2, 2)");
        let params = json!({"type": "mouseMoved", "x": at[0], "y": at[1]});
        browser.call("Input.dispatchMouseEvent", params);
        browser.shows("a new <b>disk</b>").then_some(())
    });
    // another range, by keyboard, kept in the address
    browser.eval("document.querySelector('.timeline').focus()");
    browser.type_key("-");
    browser.until("twice as much", "location.search.includes('range=7200')");
    browser.click("button", "24 h");
    browser.until("a day", "location.search === ''");
    browser.is_clean(&[]);
}

#[test]
fn a_day_of_two_thousand_jobs_is_drawn_within_a_frame() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let jobs: serde_json::Map<String, Value> = (0..2_000)
        .map(|number| {
            let fields = json!({"year": "*", "min": (number % 60).to_string()});
            (format!("job_{number:04}"), job_with("true", fields))
        })
        .collect();
    let daemon = Plan::new(Value::Object(jobs)).start();
    daemon.wait_jobs(2_000);
    browser.visit(&daemon, "/runs/timeline");
    browser.until_shown("2,000 jobs");
    // dragged by hand, frame by frame
    let times = browser.eval(
        r#"(async () => {
        const canvas = document.querySelector('canvas');
        const box = canvas.getBoundingClientRect();
        const send = (kind, x, buttons) => canvas.dispatchEvent(new PointerEvent(kind, {
            clientX: x, clientY: box.top + 100, buttons, button: 0, pointerId: 1, bubbles: true }));
        canvas.setPointerCapture = () => {};
        const times = [];
        send('pointerdown', box.left + 900, 1);
        for (let step = 0; step < 60; step += 1) {
            send('pointermove', box.left + 900 - step * 5, 1);
            document.querySelector('.timeline').scrollTop = step * 300;
            await new Promise(requestAnimationFrame);
            await new Promise(requestAnimationFrame);
            times.push(Number(canvas.dataset.paint));
        }
        send('pointerup', box.left + 600, 0);
        return times.sort((a, b) => a - b);
    })()"#,
    );
    let median = times[30].as_f64().unwrap();
    assert!(median < 16.0, "a frame takes {median} ms: {times}");
    browser.until("the place in the address", "location.search.includes('end=')");
    let answer = daemon.get("/api/v1/timeline?from=now&until=now%2B1d").body;
    assert!(answer.len() < 1_500_000, "{} bytes", answer.len());
    browser.is_clean(&[]);
}
