//! The page: a web UI of a few files that are compiled in. They tell nothing; what they show comes from `/api/v1`.
//! Must not know: what the page shows, authorization.

use std::sync::OnceLock;

use data_encoding::HEXLOWER;

use crate::api::call::{Answered, Call};
use crate::api::error::missing;
use crate::api::http::{Body, Request, Response, with_policy};
use crate::secret::sha256;

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
    text: include_str!("index.html"),
};

const FILES: &[File] = &[
    style("page.css", include_str!("page.css")),
    script("main.js", include_str!("main.js")),
    script("api.js", include_str!("api.js")),
    script("dom.js", include_str!("dom.js")),
    script("time.js", include_str!("time.js")),
    script("dialog.js", include_str!("dialog.js")),
    script("overview.js", include_str!("overview.js")),
    script("job.js", include_str!("job.js")),
    script("grid.js", include_str!("grid.js")),
    script("keys.js", include_str!("keys.js")),
    script("timeline.js", include_str!("timeline.js")),
    script("wall.js", include_str!("wall.js")),
    script("run.js", include_str!("run.js")),
    script("output.js", include_str!("output.js")),
    script("pages.js", include_str!("pages.js")),
    script("runs.js", include_str!("runs.js")),
    script("machines.js", include_str!("machines.js")),
    script("problems.js", include_str!("problems.js")),
    script("audit.js", include_str!("audit.js")),
    File {
        name: "icon-failed.svg",
        content_type: "image/svg+xml",
        text: include_str!("icon-failed.svg"),
    },
    File {
        name: "icon.svg",
        content_type: "image/svg+xml",
        text: include_str!("icon.svg"),
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
    Ok(send(&call.visitor.request, &INDEX))
}

/// `GET /ui/{file}`.
pub fn file(call: &Call) -> Answered {
    let found = FILES.iter().find(|file| file.name == call.parts[0]);
    found
        .map(|file| send(&call.visitor.request, file))
        .ok_or_else(|| missing("not found"))
}

/// All files in one short word: it changes when one of them does.
pub fn fingerprint() -> &'static str {
    static FINGERPRINT: OnceLock<String> = OnceLock::new();
    FINGERPRINT.get_or_init(|| {
        let files = FILES.iter().chain([&INDEX]);
        let all: String = files.flat_map(|file| [file.name, file.text]).collect();
        HEXLOWER.encode(&sha256(all)[..8])
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
