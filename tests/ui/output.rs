//! Output of any kind and size.

use serde_json::json;

use crate::browser;
use crate::support::daemon::{Plan, job};

#[test]
fn any_bytes_become_lines_of_text_wherever_they_are_cut() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let daemon = Plan::new(json!({})).start();
    browser.visit(&daemon, "/");
    // a byte at a time, all at once, and in twos and threes
    browser.eval(
        "(async () => { const { Lines } = await import('/ui/output.js'); window.shown = (bytes) => {
            const results = [1, 2, 3, bytes.length || 1].map((size) => {
                const lines = new Lines(); let text = ''; let last = '';
                for (let at = 0; at < bytes.length; at += size) {
                    const { done, line } = lines.push(new Uint8Array(bytes.slice(at, at + size))); text += done; last = line;
                }
                const { done, line } = lines.end();
                return text + done + line;
            });
            return new Set(results).size === 1 ? results[0] : results;
        }; })()",
    );
    for (bytes, wanted) in [
        (b"".as_slice(), ""),
        (b"a\nb", "a\nb"),
        (b"a\r\nb\r\n", "a\nb\n"),
        (b"10%\r20%\r30%\n", "30%\n"),
        (b"10%\r20%", "20%"),
        (b"10%\r", "10%"),
        (b"\r\r\na\r\r\n", "\na\n"),
        (b"\x1b[31mred\x1b[0m \x1b[1;38;5;9mx\x1b[K", "red x"),
        (
            b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1b(Bc\x1b=d\x1b7e",
            "abcde",
        ),
        (b"\x1bPsecret\x1b\\a", "a"),
        (b"a\x1b[", "a\u{241b}["),
        (
            b"bell\x07 nul\0 back\x08 del\x7f tab\t",
            "bell\u{2407} nul\u{2400} back\u{2408} del\u{2421} tab\t",
        ),
        (
            b"\xf0\x9f\x98\x80\xe2\x82\xac \xff\xfe.",
            "\u{1f600}\u{20ac} \u{fffd}\u{fffd}.",
        ),
        (b"<b>&amp;", "<b>&amp;"),
    ] {
        let shown = browser.eval(&format!("shown({})", json!(bytes)));
        assert_eq!(shown, json!(wanted), "{:?}", String::from_utf8_lossy(bytes));
    }
    browser.is_clean(&[]);
}

/// To the beginning, step by step, and to any place by its text.
fn look_around(browser: &mut browser::Browser) {
    browser.click("button", "Beginning");
    browser.until(
        "the first line",
        "document.querySelector('pre.output').textContent.startsWith('line 1 of')",
    );
    browser.click("button", "Later");
    browser.until(
        "the next part",
        "document.querySelector('.follow').innerText.includes('262 KB to 524 KB')",
    );
    browser.eval("named('.follow input[type=search]', null)[0].focus()");
    browser.write("LINE 99999 of");
    browser.press("Enter", 13);
    browser.until("the place", "getSelection().toString() === 'line 99999 of'");
    assert!(browser.number("document.querySelector('pre.output').textContent.length") < 600_000);
    browser.eval("named('.follow input[type=search]', null)[0].select()");
    browser.write("nowhere");
    browser.press("Enter", 13);
    browser.until(
        "its absence",
        "document.querySelector('.follow').innerText.includes('not found')",
    );
    browser.click("button", "End");
    browser.until(
        "the end",
        "document.querySelector('pre.output').textContent.endsWith('\\ndone\\n')",
    );
}

#[test]
fn however_much_is_put_out_the_browser_keeps_the_end_and_follows_it() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    // 6 MB at once, then a line for each file that appears
    let command = "seq -f 'line %.0f of very many, told at some length' 1 150000; i=0; \
                   while [ ! -e \"$SP_WRAPPER_LOGDIR/end\" ] && [ $i -lt 1200 ]; do i=$((i+1)); echo \"more $i\"; sleep 0.1; done; echo done";
    let daemon = Plan::new(json!({})).start();
    let end = daemon.path("end");
    let command = command.replace("$SP_WRAPPER_LOGDIR/end", end.to_str().unwrap());
    daemon.write_jobs("jobs", &json!({"j": job(&command)}));
    daemon.wait_jobs(1);
    browser.visit(&daemon, "/jobs/j");
    browser.click("button", "Run now …");
    browser.click("dialog button", "Run now");
    browser.until(
        "the end of much",
        "/more \\d+\\n$/.test(document.querySelector('pre.output').textContent)",
    );
    let kept = browser.number("document.querySelector('pre.output').textContent.length");
    assert!((100_000..1_200_000).contains(&kept), "{kept}");
    browser.until_shown("Only the end is shown here; the download has all of it.");
    let at_end = "(() => { const pre = document.querySelector('pre.output'); return pre.scrollHeight - pre.scrollTop - pre.clientHeight < 40; })()";
    browser.until("to follow", at_end);
    // who scrolls up stays where he is
    browser.eval("document.querySelector('pre.output').scrollTop = 0");
    browser.until(
        "to follow no more",
        "!document.querySelector('.follow input').checked",
    );
    let length = browser.number("document.querySelector('pre.output').textContent.length");
    browser.until(
        "more",
        &format!("document.querySelector('pre.output').textContent.length !== {length}"),
    );
    assert_eq!(
        browser.number("document.querySelector('pre.output').scrollTop"),
        0
    );
    browser.click_on("document.querySelector('.follow input')");
    browser.until("to follow", at_end);
    std::fs::write(end, "").unwrap();
    browser.until(
        "the end",
        "document.querySelector('pre.output').textContent.endsWith('\\ndone\\n')",
    );
    look_around(&mut browser);
    let link = browser.text("document.querySelector('a[download]').getAttribute('href')");
    let whole = daemon.get(&link);
    assert!(whole.text().starts_with("line 1 of") && whole.text().ends_with("\ndone\n"));
    // an end that is over is shown as well, and its size
    browser.call("Page.reload", json!({}));
    browser.until(
        "the end",
        "document.querySelector('pre.output').textContent.endsWith('\\ndone\\n')",
    );
    browser.is_clean(&[]);
}

#[test]
fn a_terminals_colours_are_shown_and_are_never_markup() {
    let Some(mut browser) = browser::open() else {
        return;
    };
    let command = r#"printf '\033[1;31mbroken\033[0m fine \033[38;5;2mgreen <b>x</b>\033[39m end\n10%%\r\033[32m100%%\033[0m\n'"#;
    let daemon = Plan::new(json!({"j": job(command)})).start();
    let instance = daemon.run("j");
    daemon.wait_ended(&instance);
    browser.visit(&daemon, &format!("/runs/{instance}"));
    browser.until(
        "the text",
        "document.querySelector('pre.output').textContent === 'broken fine green <b>x</b> end\\n100%\\n'",
    );
    let coloured = browser.eval(
        "[...document.querySelectorAll('pre.output [class]')].map((node) => `${node.className}: ${node.textContent}`)",
    );
    assert_eq!(
        coloured,
        json!(["bold ansi1: broken", "ansi2: green <b>x</b>", "ansi2: 100%"])
    );
    browser.is_clean(&[]);
}
