//! The page: a web UI of a few files that are compiled in. They tell nothing; what they show comes from `/api/v1`.
//! Must not know: what the page shows, who may what.

use std::sync::OnceLock;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::auth::Denied;
use super::http::{Body, Request, Response};
use super::routes::{Answered, Call};

/// What the page may load and do: its own files and the API, nothing inline, nothing of anybody else's, and text
/// that comes from a job never becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

struct File {
    /// Within `/ui/`.
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

/// The page itself, for every path that it has.
const INDEX: File = File {
    name: "index.html",
    content_type: "text/html; charset=utf-8",
    text: include_str!("ui/index.html"),
};

const FILES: &[File] = &[
    style("page.css", include_str!("ui/page.css")),
    script("main.js", include_str!("ui/main.js")),
    script("api.js", include_str!("ui/api.js")),
    script("dom.js", include_str!("ui/dom.js")),
    script("time.js", include_str!("ui/time.js")),
    script("dialog.js", include_str!("ui/dialog.js")),
    script("overview.js", include_str!("ui/overview.js")),
    script("job.js", include_str!("ui/job.js")),
    script("run.js", include_str!("ui/run.js")),
    script("output.js", include_str!("ui/output.js")),
    File {
        name: "icon.svg",
        content_type: "image/svg+xml",
        text: include_str!("ui/icon.svg"),
    },
];

const fn script(name: &'static str, text: &'static str) -> File {
    File {
        name,
        content_type: "text/javascript; charset=utf-8",
        text,
    }
}

const fn style(name: &'static str, text: &'static str) -> File {
    File {
        name,
        content_type: "text/css; charset=utf-8",
        text,
    }
}

/// The page's own paths.
pub fn index(call: &Call) -> Answered {
    Ok(send(call.request, &INDEX))
}

/// `GET /ui/{file}`.
pub fn file(call: &Call) -> Answered {
    let found = FILES.iter().find(|file| file.name == call.parts[0]);
    found.map(|file| send(call.request, file)).ok_or_else(|| Denied {
        status: 404,
        message: "there is nothing at this path".into(),
    })
}

/// The headers of every page of ours that a browser shows.
pub fn with_policy(response: Response) -> Response {
    response
        .with("Content-Security-Policy", POLICY.into())
        .with("Referrer-Policy", "same-origin".into())
}

/// All files in one short word: it changes when one of them does.
pub fn fingerprint() -> &'static str {
    static FINGERPRINT: OnceLock<String> = OnceLock::new();
    FINGERPRINT.get_or_init(|| {
        let mut digest = Sha256::new();
        for file in FILES.iter().chain([&INDEX]) {
            digest.update(file.name);
            digest.update(file.text);
        }
        HEXLOWER.encode(&digest.finalize()[..8])
    })
}

/// A browser asks each time whether it has the newest: after an upgrade, files of two versions never meet.
fn send(request: &Request, file: &File) -> Response {
    let tag = format!("\"{}\"", fingerprint());
    let known = request.header("if-none-match").unwrap_or_default();
    // a proxy that compresses makes the tag a weak one
    let mut known = known
        .split(',')
        .map(|known| known.trim().trim_start_matches("W/"));
    let is_known = known.any(|known| known == tag || known == "*");
    let (status, text) = if is_known { (304, "") } else { (200, file.text) };
    let response = Response {
        status,
        content_type: file.content_type,
        headers: vec![("ETag", tag), ("Cache-Control", "no-cache".into())],
        body: Body::Bytes(text.as_bytes().to_vec()),
    };
    with_policy(response)
}
