//! Refuses requests that a foreign web page makes a browser send: checks `Host` and `Origin` (rules.md 33).
//! Must not know: routes, tokens' values.

use std::net::IpAddr;

use super::error::{Denied, bad};
use super::http::Request;
use crate::address::is_loopback;
use crate::config::Settings;

/// Refuses requests that a foreign web page makes a browser send (rules.md 33).
pub fn check_place(request: &Request, settings: &Settings) -> Result<(), Denied> {
    check_host(request, settings)?;
    check_origin(request, settings)
}

/// The request's `Origin`, if it is another one and configured: its page may read the answer.
pub fn foreign_origin<'r>(request: &'r Request, settings: &Settings) -> Option<&'r str> {
    let origin = request.header("origin")?;
    is_allowed(origin, settings).then_some(origin)
}

/// The token that the request shows in its header.
pub fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn is_allowed(origin: &str, settings: &Settings) -> bool {
    settings
        .api_allowed_origins
        .iter()
        .any(|known| known.eq_ignore_ascii_case(origin))
}

/// A name that a foreign DNS points at this host is not one of its names: a web page could otherwise read and act through a
/// browser on this host.
fn check_host(request: &Request, settings: &Settings) -> Result<(), Denied> {
    let Some(host) = request.header("host") else {
        // a browser speaks HTTP/1.1; what speaks HTTP/1.0 need not name a host
        if request.is_old_http {
            return Ok(());
        }
        return Err(bad("the request has no Host"));
    };
    let hosts = request.headers.iter().filter(|(name, _)| name == "host");
    if hosts.count() > 1 {
        return Err(bad("the request has more than one Host"));
    }
    if is_ours(without_port(host), settings) || may_have_any_host(request, host) {
        Ok(())
    } else {
        Err(Denied::new(
            403,
            "the request's Host is neither loopback nor listed in 'api_hosts'",
        ))
    }
}

/// Load balancers and kubelets ask how the daemon is, and by its address: that tells a web page nothing. Figures of jobs
/// are told under a name that somebody's DNS points here only to callers with a token.
fn may_have_any_host(request: &Request, host: &str) -> bool {
    match request.path.as_str() {
        "/healthz" | "/readyz" => true,
        "/metrics" => without_port(host).parse::<IpAddr>().is_ok() || bearer(request).is_some(),
        _ => false,
    }
}

fn check_origin(request: &Request, settings: &Settings) -> Result<(), Denied> {
    let Some(origin) = request.header("origin") else {
        return Ok(());
    };
    if is_allowed(origin, settings) {
        return Ok(());
    }
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let host = request.header("host").unwrap_or_default();
    // another port of the same host is another origin
    let is_own = |authority: &str| {
        is_ours(without_port(authority), settings)
            && (port(authority) == port(host)
                || settings
                    .api_hosts
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(authority)))
    };
    if authority.is_some_and(is_own) {
        Ok(())
    } else {
        Err(Denied::new(
            403,
            "the request comes from a web page of another origin: list it in 'api_allowed_origins'",
        ))
    }
}

fn is_ours(name: &str, settings: &Settings) -> bool {
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    if let Ok(address) = name.parse::<IpAddr>()
        && (is_loopback(address) || (address == settings.api_ws_bind_addr && !address.is_unspecified()))
    {
        return true;
    }
    settings
        .api_hosts
        .iter()
        .any(|known| without_port(known).eq_ignore_ascii_case(name))
}

/// `host:port`, `[::1]:port` or a bare name, without port and brackets; whole where it is none of these.
fn without_port(authority: &str) -> &str {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((name, rest)) = authority
        .strip_prefix('[')
        .and_then(|inner| inner.split_once(']'))
    {
        let is_plain = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return if is_plain { name } else { authority };
    }
    match authority.split_once(':') {
        // a bare IPv6 address has more than one colon
        Some((name, port)) if is_port(port) => name,
        _ => authority,
    }
}

/// The port that an authority names; None: the scheme's own.
fn port(authority: &str) -> Option<&str> {
    let (_, port) = authority.rsplit_once(':')?;
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && without_port(authority) != authority && !matches!(port, "80" | "443")).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        Request {
            headers: headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            ..Request::default()
        }
    }

    fn status(request: &Request, settings: &Settings) -> u16 {
        match check_place(request, settings) {
            Ok(()) => 200,
            Err(denied) => denied.status,
        }
    }

    #[test]
    fn foreign_hosts_and_origins_are_kept_out() {
        let settings = Settings {
            api_hosts: vec!["cron.example.org".into()],
            ..Settings::default()
        };
        for (host, expected) in [
            ("localhost:8888", 200),
            ("LOCALHOST", 200),
            ("127.0.0.1", 200),
            ("[::1]:8888", 200),
            ("cron.example.org:8888", 200),
            ("evil.example.org", 403),
            ("127.0.0.1.evil.org", 403),
            ("[::1]evil.org", 403),
            ("localhost:evil.org", 403),
            ("evil.org@localhost", 403),
            ("10.0.0.1", 403),
            ("", 403),
        ] {
            let request = request(&[("host", host)]);
            assert_eq!(status(&request, &settings), expected, "{host}");
        }
        for (host, origin, expected) in [
            ("localhost:8888", "http://localhost:8888", 200),
            ("localhost", "http://localhost", 200),
            ("localhost:80", "http://localhost", 200),
            // a page on another port of this host is somebody else's
            ("localhost:8888", "http://localhost:3000", 403),
            ("localhost:8888", "http://localhost", 403),
            ("localhost", "http://localhost:3000", 403),
            ("[::1]:8888", "http://[::1]:8888", 200),
            ("[::1]:8888", "http://[::1]:88", 403),
            // a proxy may have rewritten the Host
            ("127.0.0.1:8888", "https://cron.example.org", 200),
            ("127.0.0.1:8888", "https://cron.example.org:8443", 403),
            ("localhost", "http://evil.example.org", 403),
            ("localhost", "null", 403),
            ("localhost", "http://localhost.evil.org", 403),
        ] {
            let request = request(&[("host", host), ("origin", origin)]);
            assert_eq!(status(&request, &settings), expected, "{origin}");
        }
        assert_eq!(status(&request(&[]), &settings), 400, "no Host at all");
    }
}
