//! Who may do what: tokens, the peer of `control.sock`, and the checks that keep web pages out (rules.md 32a, 33).
//! Must not know: routes; tokens never leave this file.

use std::net::{IpAddr, SocketAddr};

use sha2::{Digest, Sha256};

use super::http::Request;
use crate::address::is_loopback;
use crate::config::{ApiToken, Role, Settings};

/// Of a name that a proxy tells.
const USER_CHARS: usize = 100;

/// The way a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Tcp {
        peer: SocketAddr,
    },
    /// `control.sock`; the peer's user by the kernel's word.
    Unix {
        uid: u32,
    },
}

/// Somebody, and what he may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub role: Role,
    /// For logs and history.
    pub who: String,
    /// He has shown who he is: a refusal is final. Else a token may help.
    pub is_known: bool,
    /// The SHA-256 of the token, if one was shown.
    pub token: Option<[u8; 32]>,
}

/// A refusal: HTTP status and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub status: u16,
    pub message: String,
}

/// Finds out who asks. `own_uid` is the daemon's user.
pub fn identify(request: &Request, via: Via, settings: &Settings, own_uid: u32) -> Result<Caller, Denied> {
    let peer = match via {
        Via::Unix { uid } if uid == 0 || uid == own_uid => {
            return Ok(Caller {
                role: Role::Admin,
                who: format!("user {uid} through control.sock"),
                is_known: true,
                token: None,
            });
        }
        Via::Unix { uid } => {
            let message = format!("user {uid} may not use this socket: only root and the daemon's user may");
            return Err(Denied { status: 403, message });
        }
        Via::Tcp { peer } => peer,
    };
    check_place(request, settings)?;
    if let Some(token) = bearer(request) {
        return by_token(token, peer, settings).ok_or(Denied {
            status: 401,
            message: "the token is not one of 'api_tokens'".into(),
        });
    }
    let role = match (
        is_loopback(peer.ip()),
        settings.api_open,
        settings.api_tokens.is_empty(),
    ) {
        (true, true, _) => Role::Operate,
        (true, false, true) => Role::Read,
        _ => {
            return Err(Denied {
                status: 401,
                message: "a token is needed: 'Authorization: Bearer TOKEN'".into(),
            });
        }
    };
    Ok(Caller {
        role,
        who: format!("somebody at {}", peer.ip()),
        is_known: false,
        token: None,
    })
}

/// Lets through who may do what needs `role`.
pub fn require(caller: &Caller, role: Role) -> Result<(), Denied> {
    if caller.role >= role {
        return Ok(());
    }
    Err(if caller.is_known {
        Denied {
            status: 403,
            message: format!("{} may not do this", caller.who),
        }
    } else {
        Denied {
        status: 401,
        message: "this needs a token ('Authorization: Bearer TOKEN', see 'api_tokens'), or the socket control.sock in \
                  state_dir; 'api_open: true' lets every local user act"
            .into(),
    }
    })
}

/// Keeps out what a web page of somebody else's makes a browser ask (rules.md 33).
pub fn check_place(request: &Request, settings: &Settings) -> Result<(), Denied> {
    check_host(request, settings)?;
    check_origin(request, settings)
}

/// The request's `Origin`, if it is another one and configured: its page may read the answer.
pub fn foreign_origin<'r>(request: &'r Request, settings: &Settings) -> Option<&'r str> {
    let origin = request.header("origin")?;
    is_allowed(origin, settings).then_some(origin)
}

/// A proxy on this host that shows a token says for whom it asks: that is noted beside the token, which answers for it.
pub fn on_behalf(mut caller: Caller, request: &Request, peer: SocketAddr) -> Caller {
    if caller.token.is_none() || !is_loopback(peer.ip()) {
        return caller;
    }
    let is_plain = |user: &&str| {
        let is_short = (1..=USER_CHARS).contains(&user.chars().count());
        is_short && !user.chars().any(|c| c.is_control() || c == '\'')
    };
    let all = |wanted: &str| -> Vec<&str> {
        let lines = request.headers.iter().filter(|(name, _)| name == wanted);
        lines.map(|(_, value)| value.as_str()).collect()
    };
    // two of them: one may be the client's own
    let user = match all("x-forwarded-user")[..] {
        [user] => Some(user).filter(is_plain),
        _ => None,
    };
    // the last one is what the proxy itself has seen; some proxies give it a line of its own
    let address = all("x-forwarded-for").last().copied();
    let address = address.and_then(|all| all.rsplit(',').next()?.trim().parse::<IpAddr>().ok());
    caller.who += &match (user, address) {
        (None, None) => String::new(),
        (Some(user), None) => format!(", for '{user}'"),
        (None, Some(address)) => format!(", for {address}"),
        (Some(user), Some(address)) => format!(", for '{user}' at {address}"),
    };
    caller
}

/// The token that the request shows in its header.
pub fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The bearer of that token.
pub fn by_token(token: &str, peer: SocketAddr, settings: &Settings) -> Option<Caller> {
    by_digest(Sha256::digest(token.as_bytes()).into(), peer, settings)
}

/// The bearer of the token with that SHA-256. Every token is compared, and each in constant time: how long it takes tells
/// nothing.
pub fn by_digest(presented: [u8; 32], peer: SocketAddr, settings: &Settings) -> Option<Caller> {
    let mut found = None;
    for known in &settings.api_tokens {
        let difference = known
            .sha256
            .iter()
            .zip(presented)
            .fold(0, |sum, (left, right)| sum | (left ^ right));
        if std::hint::black_box(difference) == 0 {
            found = Some(known);
        }
    }
    found.map(|token| of_token(token, peer))
}

fn of_token(token: &ApiToken, peer: SocketAddr) -> Caller {
    Caller {
        role: token.role,
        who: format!("token '{}' from {}", token.name, peer.ip()),
        is_known: true,
        token: Some(token.sha256),
    }
}

fn is_allowed(origin: &str, settings: &Settings) -> bool {
    settings
        .api_allowed_origins
        .iter()
        .any(|known| known.eq_ignore_ascii_case(origin))
}

/// A name that somebody else's DNS points at us is not ours: a web page could otherwise read and act through a
/// browser on this host.
fn check_host(request: &Request, settings: &Settings) -> Result<(), Denied> {
    let Some(host) = request.header("host") else {
        // a browser speaks HTTP/1.1; what speaks HTTP/1.0 need not name a host
        if request.is_old_http {
            return Ok(());
        }
        return Err(Denied {
            status: 400,
            message: "the request has no Host".into(),
        });
    };
    let hosts = request.headers.iter().filter(|(name, _)| name == "host");
    if hosts.count() > 1 {
        return Err(Denied {
            status: 400,
            message: "the request has more than one Host".into(),
        });
    }
    if is_ours(without_port(host), settings) || may_have_any_host(request, host) {
        Ok(())
    } else {
        Err(Denied {
            status: 403,
            message: "the request's Host is neither loopback nor listed in 'api_hosts'".into(),
        })
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
        Err(Denied {
            status: 403,
            message: "the request comes from a web page of another origin: list it in 'api_allowed_origins'"
                .into(),
        })
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

    const LOCAL: Via = Via::Tcp {
        peer: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5),
    };

    fn remote() -> Via {
        Via::Tcp {
            peer: "10.0.0.9:5".parse().unwrap(),
        }
    }

    fn request(headers: &[(&str, &str)]) -> Request {
        Request {
            headers: headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            ..Request::default()
        }
    }

    fn with_token(role: Role) -> Settings {
        Settings {
            api_tokens: vec![ApiToken {
                name: "ops".into(),
                role,
                sha256: Sha256::digest(b"secret").into(),
            }],
            ..Settings::default()
        }
    }

    fn status(request: &Request, via: Via, settings: &Settings, role: Role) -> u16 {
        match identify(request, via, settings, 1_000).and_then(|caller| require(&caller, role)) {
            Ok(()) => 200,
            Err(denied) => denied.status,
        }
    }

    #[test]
    fn on_loopback_without_tokens_reading_is_open_and_acting_is_not() {
        let plain = request(&[("host", "127.0.0.1:8888")]);
        let settings = Settings::default();
        assert_eq!(status(&plain, LOCAL, &settings, Role::Read), 200);
        assert_eq!(status(&plain, LOCAL, &settings, Role::Operate), 401);
        assert_eq!(status(&plain, remote(), &settings, Role::Read), 401);
        let open = Settings {
            api_open: true,
            ..Settings::default()
        };
        assert_eq!(status(&plain, LOCAL, &open, Role::Operate), 200);
        assert_eq!(status(&plain, remote(), &open, Role::Read), 401);
    }

    #[test]
    fn with_tokens_nobody_reads_without_one_and_each_has_its_role() {
        let none = request(&[("host", "localhost")]);
        let good = request(&[("host", "localhost"), ("authorization", "bearer secret")]);
        let wrong = request(&[("host", "localhost"), ("authorization", "Bearer secreT")]);
        let settings = with_token(Role::Read);
        assert_eq!(status(&none, LOCAL, &settings, Role::Read), 401);
        assert_eq!(status(&wrong, LOCAL, &settings, Role::Read), 401);
        assert_eq!(status(&good, remote(), &settings, Role::Read), 200);
        assert_eq!(status(&good, LOCAL, &settings, Role::Operate), 403);
        assert_eq!(
            status(&good, LOCAL, &with_token(Role::Operate), Role::Operate),
            200
        );
        assert_eq!(status(&good, LOCAL, &with_token(Role::Operate), Role::Admin), 403);
    }

    #[test]
    fn a_wrong_token_is_refused_even_where_none_is_needed() {
        let wrong = request(&[("host", "localhost"), ("authorization", "Bearer x")]);
        let open = Settings {
            api_open: true,
            ..Settings::default()
        };
        assert_eq!(status(&wrong, LOCAL, &open, Role::Read), 401);
    }

    #[test]
    fn a_proxy_on_this_host_says_for_whom_it_asks_and_nobody_else() {
        let settings = with_token(Role::Operate);
        let who = |headers: &[(&str, &str)], via: Via| {
            let all = [
                &[("host", "localhost"), ("authorization", "Bearer secret")],
                headers,
            ]
            .concat();
            let (request, Via::Tcp { peer }) = (request(&all), via) else {
                unreachable!()
            };
            on_behalf(identify(&request, via, &settings, 1).unwrap(), &request, peer).who
        };
        let proxy = [
            ("x-forwarded-for", "6.6.6.6, 10.0.0.7"),
            ("x-forwarded-user", "ann"),
        ];
        assert_eq!(
            who(&proxy, LOCAL),
            "token 'ops' from 127.0.0.1, for 'ann' at 10.0.0.7"
        );
        assert_eq!(
            who(&proxy[..1], LOCAL),
            "token 'ops' from 127.0.0.1, for 10.0.0.7"
        );
        assert_eq!(who(&proxy, remote()), "token 'ops' from 10.0.0.9");
        let twice = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-user", "root"),
            ("x-forwarded-for", "10.0.0.7"),
            ("x-forwarded-user", "ann"),
        ];
        assert_eq!(who(&twice, LOCAL), "token 'ops' from 127.0.0.1, for 10.0.0.7");
        let odd = [("x-forwarded-for", "me"), ("x-forwarded-user", "a\nb")];
        assert_eq!(who(&odd, LOCAL), "token 'ops' from 127.0.0.1");
    }

    #[test]
    fn the_socket_is_for_root_and_the_daemons_user() {
        let bare = request(&[]);
        let settings = with_token(Role::Read);
        for (uid, expected) in [(0, 200), (1_000, 200), (1_001, 403)] {
            assert_eq!(
                status(&bare, Via::Unix { uid }, &settings, Role::Admin),
                expected,
                "{uid}"
            );
        }
    }

    #[test]
    fn foreign_hosts_and_origins_are_kept_out() {
        let settings = Settings {
            api_hosts: vec!["cron.example.org".into()],
            api_open: true,
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
            assert_eq!(
                status(&request, LOCAL, &settings, Role::Operate),
                expected,
                "{host}"
            );
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
            assert_eq!(
                status(&request, LOCAL, &settings, Role::Operate),
                expected,
                "{origin}"
            );
        }
        assert_eq!(
            status(&request(&[]), LOCAL, &settings, Role::Read),
            400,
            "no Host at all"
        );
    }
}
