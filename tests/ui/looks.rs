//! That everybody can read and reach it.

use serde_json::{Value, json};

use crate::browser;
use crate::support::daemon::{Plan, job, job_with};

/// Text that is hard to tell from what is behind it: less than WCAG's 4.5 to 1.
const FAINT: &str = r#"(() => {
    const parse = (text) => text.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] > 0.99) return colour;
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const node of document.querySelectorAll("body *")) {
        const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!hasText || !node.checkVisibility()) continue;
        const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) faint.push(`${ratio.toFixed(1)} ${node.className} ${node.textContent.slice(0, 40)}`);
    }
    return faint;
})()"#;

/// What a screen reader could not name, and what is no table or heading as it should be.
const NAMELESS: &str = r#"(() => {
    const faults = [];
    for (const node of document.querySelectorAll("a, button, input, select")) {
        if (!node.checkVisibility() || node.type === "hidden") continue;
        const name = node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.[0]?.textContent.trim();
        if (!name) faults.push(node.outerHTML.slice(0, 100));
    }
    if (document.querySelectorAll("h1").length !== 1) faults.push("h1");
    for (const table of document.querySelectorAll("table")) if (!table.querySelector("th[scope=col]")) faults.push("a table without columns");
    const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
    if (new Set(ids).size !== ids.length) faults.push("an id twice");
    for (const node of document.querySelectorAll("[aria-labelledby]")) if (!document.getElementById(node.getAttribute("aria-labelledby"))) faults.push("no label");
    return faults;
})()"#;

/// Every page: its path, and what is true once it is complete.
fn pages(long: &str, instance: &str) -> Vec<(String, &'static str)> {
    let all = [
        ("/", "document.body.innerText.includes('wrong.yaml:2')"),
        ("/jobs/ok", "document.body.innerText.includes('a look')"),
        (
            &format!("/jobs/{long}"),
            "document.body.innerText.includes('It has never run.')",
        ),
        (
            &format!("/runs/{instance}"),
            "document.querySelector('pre.output').textContent === 'no\\n'",
        ),
        (
            "/runs",
            "document.querySelectorAll('.history tbody tr').length === 3",
        ),
        (
            "/runs?outcome=not_started",
            "document.body.innerText.includes('Nothing in the history')",
        ),
        (
            "/machines",
            "document.querySelectorAll('.history tbody tr').length === 3",
        ),
        ("/problems", "document.body.innerText.includes('wrong.yaml:2')"),
        (
            "/audit",
            "document.querySelectorAll('.history tbody tr').length > 0",
        ),
        (
            "/jobs/bad",
            "document.querySelectorAll('.grid tbody .cell').length === 3",
        ),
        (
            "/?view=wall",
            "document.querySelectorAll('.tiles li').length === 1",
        ),
        (
            "/runs/timeline",
            "document.body.innerText.includes('with failures')",
        ),
        ("/login", "true"),
    ];
    all.map(|(path, ready)| (path.to_string(), ready)).into()
}

/// Writes a picture to where people can look at it.
fn keep(path: &str, scheme: &str, width: u32, picture: &[u8]) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    std::fs::create_dir_all(&folder).unwrap();
    let mut name: String = path.chars().take(40).collect();
    name.retain(|c| !c.is_ascii_digit());
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    std::fs::write(folder.join(format!("page{name}-{scheme}-{width}.png")), picture).unwrap();
}

#[test]
fn it_is_legible_in_light_and_dark_and_on_a_phone_and_everything_has_a_name() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let long = "a_name_without_any_end_".repeat(8);
    let daemon = Plan::new(json!({
        "ok": job("echo fine"), "bad": job_with("echo no; exit 3", json!({"targets": "*"})), "runs": job("sleep 600"), &long: job("true"),
        "off": job_with("true", json!({"enabled": false})),
    }))
    .start();
    daemon.run_to_end("ok");
    let (_, _) = daemon.run_to_end("bad");
    daemon.run("runs");
    daemon.post("/api/v1/jobs/ok/pause", &json!({"reason": "a look"}));
    daemon.write_file("wrong.yaml", "wrong:\n  min: 99\n");
    daemon.write_jobs(
        "maintenance",
        &json!({"saltpeter_maintenance": {"global": false, "machines": ["m3"]}}),
    );
    let instance = daemon.get("/api/v1/jobs/bad").json()["last_instance"]
        .as_str()
        .unwrap()
        .to_string();
    for (scheme, width) in [("light", 1440), ("dark", 1440), ("light", 390), ("dark", 390)] {
        browser.appear(scheme, width, 844);
        for (path, ready) in pages(&long, &instance) {
            browser.visit(&daemon, &path);
            browser.until(&path, ready);
            assert_eq!(browser.eval(FAINT), json!([]), "{path} {scheme}");
            assert_eq!(browser.eval(NAMELESS), json!([]), "{path}");
            keep(&path, scheme, width, &browser.picture());
            let wide = browser.number("document.documentElement.scrollWidth - innerWidth");
            assert!(wide <= 0, "{path} is {wide} too wide for {width}");
        }
    }
    browser.visit(&daemon, "/");
    browser.until_shown("wrong.yaml:2");
    // the first stop of the keyboard leads past the frame
    browser.press("Tab", 9);
    assert_eq!(
        browser.text("document.activeElement.textContent"),
        "Skip to the content"
    );
    assert_ne!(
        browser.eval("document.querySelector('[autofocus]')"),
        Value::Bool(true)
    );
    browser.is_clean(&[]);
}
