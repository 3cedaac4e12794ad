//! The login page and its sessions: a browser shows a token once and gets a cookie that no script can read.
//! Must not know: what else there is to see.

use super::auth::{self, Via};
use super::call::{Answered, Call};
use super::error::Denied;
use super::http::{Body, Request, Response, with_policy};
use super::query::Query;
use super::sessions::COOKIE;
use crate::limits;
use crate::url::percent_encode;

const TOO_MANY: &str = "Too many wrong tokens from your address: try again in a minute.";

/// `GET /login`.
pub fn page(call: &Call) -> Answered {
    Ok(html(200, "", next(&call.query)))
}

/// Sends a browser to the login, and from there back to where it wanted to go.
pub fn redirect(request: &Request) -> Response {
    let wanted = match request.query.as_str() {
        "" => request.path.clone(),
        query => format!("{}?{query}", request.path),
    };
    match wanted.as_str() {
        "/" => see_other("/login"),
        wanted => see_other(&format!("/login?next={}", percent_encode(wanted))),
    }
}

/// Somebody followed a link from elsewhere: the browser keeps the cookie back until a page of ours asks for itself.
pub fn hides_cookie(request: &Request) -> bool {
    request.header("sec-fetch-site") == Some("cross-site")
}

/// `POST /login`: a form with the token, from the page above.
pub fn log_in(call: &Call) -> Answered {
    let Via::Tcp { peer } = call.visitor.via else {
        return Err(Denied::new(
            400,
            "this is for browsers: the socket needs no login",
        ));
    };
    // without the header the request may come from anywhere: every browser sends it with a form
    if call.visitor.request.header("origin").is_none() {
        return Err(Denied::new(403, "the request has no Origin"));
    }
    let form = Query::parse(&String::from_utf8_lossy(&call.visitor.request.body));
    let token = form.get("token").unwrap_or_default();
    let found = auth::by_token(token, peer, &call.board.config.settings);
    let next = next(&form);
    let Some((token, who)) = found.and_then(|caller| Some((caller.token?, caller.who))) else {
        return Ok(if call.shared.guard.note_failure(peer.ip()) {
            html(401, "Invalid token.", next)
        } else {
            html(429, TOO_MANY, next)
        });
    };
    if !call.shared.guard.admit_token(peer.ip(), token) {
        return Ok(html(429, TOO_MANY, next));
    }
    let id = call
        .shared
        .sessions
        .open(token)
        .map_err(|error| Denied::new(503, format!("cannot start a session: {error}")))?;
    log::info!("{who} logged in");
    let cookie = format!(
        "{COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{}",
        limits::SESSION_MS / 1_000,
        secure(&call.visitor.request)
    );
    Ok(see_other(next).with("Set-Cookie", cookie))
}

/// `POST /logout`.
pub fn log_out(call: &Call) -> Answered {
    call.shared.sessions.close(&call.visitor.request);
    let cookie = format!(
        "{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0{}",
        secure(&call.visitor.request)
    );
    Ok(see_other("/login").with("Set-Cookie", cookie))
}

/// Over TLS, and behind a proxy that speaks it, the cookie must not travel without it. Anybody can send the header, and harms only
/// himself.
fn secure(request: &Request) -> &'static str {
    match request.header("x-forwarded-proto") {
        _ if request.is_tls => "; Secure",
        Some("https") => "; Secure",
        _ => "",
    }
}

fn see_other(path: &str) -> Response {
    Response {
        status: 303,
        content_type: "",
        headers: vec![("Location", path.to_string())],
        body: Body::Bytes(Vec::new()),
    }
}

/// Where to go after the login: a path of ours, nothing that leads elsewhere.
fn next(values: &Query) -> &str {
    let path = values.get("next").unwrap_or("/");
    let is_ours = path.starts_with('/')
        && !path.starts_with("//")
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_ours { path } else { "/" }
}

fn html(status: u16, message: &str, next: &str) -> Response {
    let next = next
        .replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;");
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Saltpeter: log in</title>\n<link rel=\"icon\" href=\"/ui/icon.svg\">\n\
         <link rel=\"stylesheet\" href=\"/ui/page.css\">\n\
         <main class=\"login\">\n<h1>Saltpeter</h1>\n<p role=\"alert\">{message}</p>\n\
         <form method=\"post\" action=\"/login\"><input type=\"hidden\" name=\"next\" value=\"{next}\">\n\
         <label>Token\n<input type=\"password\" name=\"token\" autocomplete=\"current-password\" required autofocus></label>\n\
         <button>Log in</button></form>\n</main>\n</html>\n"
    );
    with_policy(Response {
        status,
        content_type: "text/html; charset=utf-8",
        headers: Vec::new(),
        body: Body::Bytes(body.into_bytes()),
    })
}
