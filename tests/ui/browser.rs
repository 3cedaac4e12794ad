//! A headless Chromium of its own for each test, driven over its DevTools socket; it goes with the test.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::support::daemon::Daemon;
use crate::support::{PATIENCE_MS, Scratch, until};

/// Runs in the page before its own scripts: what must never happen is written down, and a few ways to look.
const PRELUDE: &str = r#"
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) => violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sample}`));
    // visible elements with this text (or label), whole
    window.named = (selector, text) => [...document.querySelectorAll(selector)].filter((node) =>
        node.checkVisibility() && (text === null || [node.textContent.trim(), node.getAttribute("aria-label")].includes(text)));
"#;

/// One window.
pub struct Browser {
    socket: WebSocket<TcpStream>,
    session: String,
    next: u64,
    /// Errors on the console, and exceptions.
    pub errors: Vec<String>,
    child: Child,
    _profile: Scratch,
    _alone: MutexGuard<'static, ()>,
}

/// A browser, unless it was asked to leave these tests out.
pub fn open() -> Option<Browser> {
    let program = program()?;
    // two at a time would starve each other on a small machine
    static ONE: Mutex<()> = Mutex::new(());
    let alone = ONE.lock();
    let profile = Scratch::new();
    // dies with the test's thread, however that ends
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-default-browser-check",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-extensions",
            "--disable-sync",
            "--disable-features=PasswordManager,AutofillServerCommunication",
            "--force-color-profile=srgb",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
            "--window-size=1280,900",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("about:blank")
        .env("TZ", "UTC")
        .env("HOME", profile.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let file = profile.path().join("DevToolsActivePort");
    let (port, path) = until("the browser", || {
        let text = fs::read_to_string(&file).ok()?;
        let (port, path) = text.split_once('\n')?;
        Some((port.parse::<u16>().ok()?, path.trim().to_string()))
    });
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let patience = Some(Duration::from_millis(PATIENCE_MS));
    stream.set_read_timeout(patience).unwrap();
    let (socket, _) = tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), stream).unwrap();
    let mut browser = Browser {
        socket,
        session: String::new(),
        next: 0,
        errors: Vec::new(),
        child,
        _profile: profile,
        _alone: alone,
    };
    let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
    let attached = browser.call(
        "Target.attachToTarget",
        json!({"targetId": target, "flatten": true}),
    );
    browser.session = attached["sessionId"].as_str().unwrap().into();
    for domain in ["Page", "Runtime", "Log", "Network"] {
        browser.call(&format!("{domain}.enable"), json!({}));
    }
    browser.call(
        "Page.addScriptToEvaluateOnNewDocument",
        json!({"source": PRELUDE}),
    );
    Some(browser)
}

impl Browser {
    /// Goes to a path of that daemon's page.
    pub fn visit(&mut self, daemon: &Daemon, path: &str) {
        let url = format!("http://localhost:{}{path}", daemon.api_port());
        // what the page before still asked for fails with it
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert!(answer.get("errorText").is_none(), "{answer}");
        self.until("the page", "document.readyState === 'complete'");
    }

    /// A call of the DevTools protocol.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.ask(method, params);
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The same; a page that is just left answers with an error.
    fn ask(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().expect("the browser answers") else {
                continue;
            };
            let heard: Value = serde_json::from_str(&text).unwrap();
            if heard["id"] == self.next {
                return match heard.get("error") {
                    Some(error) => Err(error.clone()),
                    None => Ok(heard["result"].clone()),
                };
            }
            self.note(&heard);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.errors.push(params["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => {
                self.errors.push(params["args"].to_string());
            }
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                let entry = &params["entry"];
                self.errors.push(format!("{} {}", entry["text"], entry["url"]));
            }
            // nothing of ours asks in such a box: it would wait for ever
            Some("Page.javascriptDialogOpening") => self.errors.push(params["message"].to_string()),
            _ => {}
        }
    }

    /// The value of an expression, awaited if it is a promise.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", params);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    pub fn text(&mut self, expression: &str) -> String {
        self.eval(expression).as_str().unwrap_or_default().to_string()
    }

    pub fn number(&mut self, expression: &str) -> i64 {
        let value = self.eval(expression);
        value.as_f64().unwrap_or_else(|| panic!("{expression}: {value}")) as i64
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, what: &str, expression: &str) {
        // between two pages there may be nobody to ask
        let asked =
            format!("(() => {{ try {{ return Boolean({expression}); }} catch {{ return false; }} }})()");
        let ends_at = saltpeter::clock::mono().plus_ms(PATIENCE_MS);
        loop {
            let params = json!({"expression": asked, "returnByValue": true});
            let answer = self.ask("Runtime.evaluate", params);
            if answer.is_ok_and(|answer| answer["result"]["value"] == true) {
                return;
            }
            if saltpeter::clock::mono() >= ends_at {
                let shown = self.text("document.body.innerText");
                panic!(
                    "waited in vain for {what}: {expression}\n{:?}\n{shown}",
                    self.errors
                );
            }
            crate::support::pause(20);
        }
    }

    /// Waits for a text on the page.
    pub fn until_shown(&mut self, text: &str) {
        self.until(
            text,
            &format!("document.body.innerText.includes({})", json!(text)),
        );
    }

    pub fn shows(&mut self, text: &str) -> bool {
        self.eval(&format!("document.body.innerText.includes({})", json!(text))) == true
    }

    /// How many visible elements have this text.
    pub fn count(&mut self, selector: &str, text: &str) -> i64 {
        self.number(&format!("named({}, {}).length", json!(selector), json!(text)))
    }

    /// Waits for the one visible element with this text, and clicks where it is.
    pub fn click(&mut self, selector: &str, text: &str) {
        let found = format!("named({}, {})", json!(selector), json!(text));
        self.until(&format!("'{text}'"), &format!("{found}.length > 0"));
        self.click_on(&format!("{found}[0]"));
    }

    /// Clicks in the middle of the element that an expression gives (of its first line).
    pub fn click_on(&mut self, element: &str) {
        let at = self.eval(&format!(
            "(() => {{ const node = {element}; node.scrollIntoView({{block: 'nearest'}}); const box = node.getClientRects()[0];
             return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    /// Types into what has the focus.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    pub fn press(&mut self, key: &str, code: i64) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let params =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// A key that is a character.
    pub fn type_key(&mut self, key: &str) {
        for (kind, text) in [("keyDown", key), ("keyUp", "")] {
            self.call(
                "Input.dispatchKeyEvent",
                json!({"type": kind, "key": key, "text": text}),
            );
        }
    }

    /// Light or dark, and the window's size.
    pub fn appear(&mut self, scheme: &str, width: u32, height: u32) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", params);
    }

    /// What the window shows, as PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        let answer = self.call("Page.captureScreenshot", json!({"format": "png"}));
        data_encoding::BASE64
            .decode(answer["data"].as_str().unwrap().as_bytes())
            .unwrap()
    }

    /// Nothing was done that the policy forbids, and nothing went wrong but what a test names.
    #[track_caller]
    pub fn is_clean(&mut self, but: &[&str]) {
        assert_eq!(self.eval("violations"), json!([]));
        assert_eq!(self.eval("window.pwned ?? null"), Value::Null);
        let unexpected: Vec<&String> = self
            .errors
            .iter()
            .filter(|error| !but.iter().any(|known| error.contains(known)))
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:#?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // one that went or hangs is why the test failed, perhaps: no second panic, which would end all tests
            let shown = catch_unwind(AssertUnwindSafe(|| self.text("document.body.innerText")));
            let shown = shown.unwrap_or_else(|_| "nothing: the browser does not answer".into());
            eprintln!(
                "-- the page shows:\n{shown}\n-- and its console: {:#?}",
                self.errors
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Chromium, installed if need be.
fn program() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || match std::env::var("SALTPETER_TEST_BROWSER").as_deref() {
        Ok("off") => {
            // not captured by the test harness
            let _ = writeln!(
                std::io::stderr(),
                "LEFT OUT: the tests of the page in a browser (SALTPETER_TEST_BROWSER=off)"
            );
            None
        }
        Ok(path) => Some(path.into()),
        Err(_) => Some(installed().unwrap_or_else(install)),
    };
    PROGRAM.get_or_init(find).clone()
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path);
    places
        .map(|place| place.join("chromium"))
        .find(|file| file.exists())
}

fn install() -> PathBuf {
    // somebody else may be installing something
    const PATIENT: &str = "-oDPkg::Lock::Timeout=300";
    let steps: [&[&str]; 2] = [
        &["update", "-q", PATIENT],
        // with a font: the pictures show text
        &[
            "install",
            "-y",
            "-q",
            PATIENT,
            "--no-install-recommends",
            "chromium",
            "fonts-dejavu-core",
        ],
    ];
    for arguments in steps {
        let output = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output();
        let said = match &output {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        panic!(
            "the tests of the page need Chromium: 'apt-get {}' failed: {said}\n\
             (install it as root, name one in SALTPETER_TEST_BROWSER, or leave them out with SALTPETER_TEST_BROWSER=off)",
            arguments.join(" ")
        );
    }
    installed().expect("apt-get has installed it")
}
