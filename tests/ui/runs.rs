//! What is done by a click.

use serde_json::json;

use crate::browser;
use crate::support::daemon::{Plan, job, job_with};
use crate::support::until;

#[test]
fn a_job_is_run_with_values_watched_live_killed_and_tried_again() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let command = r#"echo "hello $SP_PARAM_WHOM from $SP_MACHINE_ID"; sleep 600"#;
    let daemon = Plan::new(json!({"j": job_with(command, json!({
        "targets": "*", "parameters": {"WHOM": "nobody"}, "description": "says hello",
    }))}))
    .start();
    browser.visit(&daemon, "/");
    browser.click("a", "j");
    browser.until_shown("says hello");
    browser.click("button", "Run now …");
    // the first value has the focus, and is what the file says
    browser.until("the question", "document.activeElement.value === 'nobody'");
    browser.eval("document.activeElement.select()");
    browser.write("<you>");
    browser.press("Enter", 13);
    browser.until("the run", "location.pathname.startsWith('/runs/j_')");
    let instance = browser.text("location.pathname.slice(6)");
    browser.until_shown("hello <you> from m1");
    browser.until("all running", "named('.machines .badge', 'running').length === 3");
    browser.click(".machines a", "m3");
    browser.until_shown("hello <you> from m3");
    assert_eq!(browser.text("location.search"), "?machine=m3");
    assert!(daemon.is_running(&instance));

    // a kill is asked about first; Escape leaves it
    browser.click("button", "Kill on this machine …");
    browser.until(
        "the question",
        "named('dialog h2', 'Kill it on m3?').length === 1",
    );
    assert_eq!(browser.text("document.activeElement.textContent"), "Cancel");
    browser.press("Escape", 27);
    browser.until("no question", "document.querySelector('dialog') === null");
    assert_eq!(daemon.fact("kill_asked", &instance, "m3"), None);
    browser.click("button", "Kill on this machine …");
    browser.click("dialog button", "Kill");
    browser.until(
        "m3 killed",
        "named('.machines .badge', 'killed 143').length === 1",
    );
    browser.until_shown("[Job terminated by user request]");
    browser.click("button", "Kill run …");
    browser.click("dialog button", "Kill");
    browser.until(
        "the end",
        "/^killed by /.test(document.querySelector('h1 .badge').textContent)",
    );
    daemon.wait_ended(&instance);
    assert_eq!(daemon.retcode(&instance, "m1"), 143);

    browser.click("button", "Retry failed");
    browser.until(
        "the next run",
        &format!("location.pathname !== '/runs/{instance}'"),
    );
    browser.until_shown("hello <you> from");
    browser.click(".path a", "j");
    browser.until(
        "both runs",
        "document.querySelectorAll('.recent tbody tr').length === 2",
    );
    browser.until_shown("3 killed: m1 (143), m2 (143), m3 (143)");
    browser.click("button", "Kill …");
    browser.click("dialog button", "Kill");
    browser.until(
        "its end",
        "[...document.querySelectorAll('.recent .badge')].filter((badge) => /^killed by /.test(badge.textContent)).length === 2",
    );
    browser.is_clean(&[]);
}

#[test]
fn a_job_is_paused_with_a_reason_and_resumed() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({"j": job_with("true", json!({"year": "*"}))})).start();
    browser.visit(&daemon, "/jobs/j");
    browser.until(
        "the next runs",
        "document.querySelectorAll('.times li').length === 5",
    );
    browser.click("button", "Pause …");
    browser.click("dialog button", "Pause");
    // no reason, no pause
    browser.until(
        "the field",
        "document.querySelector('dialog input:invalid') !== null",
    );
    browser.click_on("document.querySelector('dialog input')");
    browser.write("disk swap");
    browser.eval("document.querySelector('dialog select').value = ''");
    browser.click("dialog button", "Pause");
    browser.until_shown("until it is resumed: disk swap");
    browser.until_shown("None while it is paused.");
    assert_eq!(browser.count("h1 .badge", "paused"), 1);
    assert_eq!(browser.count("button", "Pause …"), 0);
    browser.click("button", "Resume");
    browser.until(
        "the next runs",
        "document.querySelectorAll('.times li').length === 5",
    );
    until("the pause to end", || {
        daemon.get("/api/v1/jobs/j").json()["paused"]
            .is_null()
            .then_some(())
    });
    browser.is_clean(&[]);
}

/// Names, descriptions, values and output as an enemy would have them.
#[test]
fn what_jobs_are_called_and_put_out_is_only_text() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let name = "<script>pwned=1</script>/ü 'a\"b`${pwned=1}` %2F?#&\u{202e}x\u{1f600}";
    let markup = "<img src=x onerror=pwned=1>\"><svg onload=pwned=1>";
    let command = format!("printf '%s\\n' '{markup}' \"$SP_PARAM_A\"; exit 3");
    let fields =
        json!({"description": markup, "targets": "*", "parameters": {"A": markup}, "env": {"E": markup}});
    let daemon = Plan::new(
        json!({name: job_with(&command, fields), "javascript:pwned=1": job("true"), "..": job("true")}),
    )
    .setting("local_machines", json!(["m1", "<b onclick=pwned=1>m%2 &amp;"]))
    .start();
    daemon.write_file(
        "bad.yaml",
        "\"<img src=x onerror=pwned=1>\":\n  min: \"<script>pwned=1</script>\"\n",
    );
    browser.visit(&daemon, "/");
    browser.until_shown("bad.yaml:2");
    assert!(browser.shows(markup));
    assert_eq!(browser.count(".jobs a", ".."), 0, "no path can hold that name");
    browser.click(".jobs a", "javascript:pwned=1");
    browser.until("the job", "named('h1 .name', 'javascript:pwned=1').length === 1");
    browser.until_shown("It has never run.");
    browser.click(".path a", "All jobs");
    browser.click(".jobs a", name);
    browser.until_shown("It has never run.");
    assert_eq!(
        browser.text("document.querySelector('h1 .name').textContent"),
        name
    );
    browser.call("Page.reload", json!({}));
    browser.click("button", "Run now …");
    browser.click("dialog button", "Run now");
    browser.until("the run", "named('h1 .badge', 'failed').length === 1");
    browser.click(".machines a", "<b onclick=pwned=1>m%2 &amp;");
    browser.until(
        "the output",
        &format!(
            "document.querySelector('pre.output').textContent === {}",
            json!(format!("{markup}\n{markup}\n"))
        ),
    );
    assert_eq!(
        browser.text("document.querySelector('#output-title').textContent"),
        "<b onclick=pwned=1>m%2 &amp;"
    );
    browser.call("Page.reload", json!({}));
    browser.until(
        "the output",
        &format!(
            "document.querySelector('pre.output').textContent === {}",
            json!(format!("{markup}\n{markup}\n"))
        ),
    );
    browser.click(".path a", name);
    browser.until_shown("(3)");
    assert_eq!(browser.number("document.querySelectorAll('main script, main img, main svg:not(.grid svg), main b:not(.tiles b), [onclick], [onerror]').length"), 0);
    browser.is_clean(&[]);

    // even if there were a way in, the policy would hold
    browser.eval("(() => { const script = document.createElement('script'); try { script.text = 'pwned = 1'; } catch {} document.body.append(script); })()");
    browser.eval("(() => { try { document.body.innerHTML += '<img src=x onerror=pwned=1>'; } catch {} })()");
    browser.eval("fetch('http://127.0.0.1:9/').catch(() => 0)");
    browser.until("the violations", "violations.length >= 3");
    assert_eq!(browser.eval("window.pwned ?? null"), json!(null));
}
