//! The login page and its sessions: a browser shows a token once and gets a cookie that no script can read.
//! Must not know: what else there is to see.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use parking_lot::Mutex;

use super::auth::{self, Denied, Via};
use super::http::{Body, Request, Response};
use super::page;
use super::query::Query;
use super::routes::{Answered, Call};
use crate::clock::{self, Mono};
use crate::limits;
use crate::url::percent_encode;

const TOO_MANY: &str = "Too many wrong tokens from your address: try again in a minute.";

/// The cookie's name.
const COOKIE: &str = "saltpeter_session";

/// Browsers that are logged in. Only in memory: a restart logs everybody out.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, Session>>,
}

#[derive(Debug)]
struct Session {
    /// The token's SHA-256: its role, and whether it still counts, is looked up with each request.
    token: [u8; 32],
    until: Mono,
}

impl Sessions {
    /// The SHA-256 of the token that the request's cookie stands for.
    pub fn token_of(&self, request: &Request) -> Option<[u8; 32]> {
        let id = cookie(request)?;
        let mut open = self.open.lock();
        let session = open.get(id)?;
        if session.until <= clock::mono() {
            open.remove(id);
            return None;
        }
        Some(session.token)
    }

    fn open(&self, token: [u8; 32]) -> std::io::Result<String> {
        let mut bytes = [0; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let id = HEXLOWER.encode(&bytes);
        let now = clock::mono();
        let mut open = self.open.lock();
        if open.len() >= limits::SESSIONS {
            open.retain(|_, session| session.until > now);
        }
        if open.len() >= limits::SESSIONS {
            let oldest = open.iter().min_by_key(|(_, session)| session.until);
            let oldest = oldest.map(|(id, _)| id.clone());
            oldest.and_then(|id| open.remove(&id));
        }
        let until = now.plus_ms(limits::SESSION_MS);
        open.insert(id.clone(), Session { token, until });
        Ok(id)
    }

    fn close(&self, request: &Request) {
        if let Some(id) = cookie(request) {
            self.open.lock().remove(id);
        }
    }
}

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
    let Via::Tcp { peer } = call.via else {
        return Err(denied(400, "this is for browsers: the socket needs no login"));
    };
    // without the header the request may come from anywhere: every browser sends it with a form
    if call.request.header("origin").is_none() {
        return Err(denied(403, "the request has no Origin"));
    }
    let form = Query::parse(&String::from_utf8_lossy(&call.request.body));
    let token = form.get("token").unwrap_or_default();
    let found = auth::by_token(token, peer, &call.board.config.settings);
    let next = next(&form);
    let Some((token, who)) = found.and_then(|caller| Some((caller.token?, caller.who))) else {
        return Ok(if call.shared.guard.may_fail(peer.ip()) {
            html(401, "That is not one of the tokens.", next)
        } else {
            html(429, TOO_MANY, next)
        });
    };
    if !call.shared.guard.is_welcome(peer.ip(), token) {
        return Ok(html(429, TOO_MANY, next));
    }
    let id = call
        .shared
        .sessions
        .open(token)
        .map_err(|error| denied(503, &format!("no session can be made: {error}")))?;
    log::info!("{who} logged in");
    let cookie = format!(
        "{COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{}",
        limits::SESSION_MS / 1_000,
        secure(call.request)
    );
    Ok(see_other(next).with("Set-Cookie", cookie))
}

/// `POST /logout`.
pub fn log_out(call: &Call) -> Answered {
    call.shared.sessions.close(call.request);
    let cookie = format!(
        "{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0{}",
        secure(call.request)
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

fn cookie(request: &Request) -> Option<&str> {
    let all = request.headers.iter().filter(|(name, _)| name == "cookie");
    let mut pairs = all.flat_map(|(_, value)| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
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
    page::with_policy(Response {
        status,
        content_type: "text/html; charset=utf-8",
        headers: Vec::new(),
        body: Body::Bytes(body.into_bytes()),
    })
}

fn denied(status: u16, message: &str) -> Denied {
    Denied {
        status,
        message: message.into(),
    }
}
