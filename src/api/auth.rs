//! Callers and their roles: tokens, sessions, and the peer of `control.sock` (rules.md 32a, 33). Tokens are turned into
//! their SHA-256 here and compared as such; they are never stored or logged.
//! Must not know: routes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::error::Denied;
use super::http::Request;
use super::origin::{bearer, check_place};
use super::shared::Shared;
use crate::address::is_loopback;
use crate::clock::{self, Mono};
use crate::config::{ApiToken, Role, Settings};
use crate::limits;
use crate::secret::{self, sha256};

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

/// The caller of a request and its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub role: Role,
    /// For logs and history.
    pub who: String,
    /// The caller has shown an identity: a refusal is final. Otherwise a token may help.
    pub is_known: bool,
    /// The SHA-256 of the token, if one was shown.
    pub token: Option<[u8; 32]>,
}

/// A request and the way it came: all that admission looks at.
#[derive(Clone, Debug)]
pub struct Visitor {
    pub request: Request,
    pub via: Via,
    /// The daemon's user.
    pub own_uid: u32,
}

/// The caller of a connection that lasts. It is admitted again every now and then and when settings change: a token may
/// be taken away, and a session may end, before the connection does.
pub struct Admission {
    visitor: Visitor,
    pub caller: Caller,
    settings: Arc<Settings>,
    again_at: Mono,
}

impl Admission {
    /// A caller that was just admitted under these settings.
    pub fn new(visitor: Visitor, caller: Caller, settings: Arc<Settings>) -> Admission {
        Admission {
            visitor,
            caller,
            settings,
            again_at: clock::mono().plus_ms(limits::ADMIT_AGAIN_MS),
        }
    }

    /// Fails when the caller may no longer read, or has another role than before: what it was shown is not what it may
    /// see now.
    pub fn renew(&mut self, shared: &Shared, settings: &Arc<Settings>) -> Result<(), Denied> {
        let now = clock::mono();
        if Arc::ptr_eq(settings, &self.settings) && now < self.again_at {
            return Ok(());
        }
        self.settings = settings.clone();
        self.again_at = now.plus_ms(limits::ADMIT_AGAIN_MS);
        let caller = admit(shared, &self.visitor, settings)?;
        require(&caller, Role::Read)?;
        if caller.role == self.caller.role {
            Ok(())
        } else {
            Err(Denied::new(403, "the caller's role has changed"))
        }
    }
}

/// Identifies the caller of a request: by socket, header, cookie, or where that is allowed by nothing. Web pages of
/// others and addresses that guess tokens are refused.
pub fn admit(shared: &Shared, visitor: &Visitor, settings: &Settings) -> Result<Caller, Denied> {
    let request = &visitor.request;
    let Via::Tcp { peer } = visitor.via else {
        return identify(visitor, settings);
    };
    check_place(request, settings)?;
    let session = shared.sessions.token_of(request);
    if let Some(token) = session.filter(|_| bearer(request).is_none()) {
        match by_digest(token, peer, settings) {
            Some(caller) => return Ok(on_behalf(caller, request, peer)),
            // its token was removed: the session ends for good, also if the token comes back
            None => shared.sessions.close(request),
        }
    }
    let too_many = || {
        Denied::new(
            429,
            "too many wrong tokens from this address: try again in a minute",
        )
    };
    match identify(visitor, settings) {
        Ok(caller) => match caller.token {
            Some(token) if !shared.guard.admit_token(peer.ip(), token) => Err(too_many()),
            _ => Ok(on_behalf(caller, request, peer)),
        },
        Err(denied) if bearer(request).is_some() && !shared.guard.note_failure(peer.ip()) => {
            log::debug!("{}: {}", peer.ip(), denied.message);
            Err(too_many())
        }
        denied => denied,
    }
}

/// The caller of a request, by socket or token alone.
pub fn identify(visitor: &Visitor, settings: &Settings) -> Result<Caller, Denied> {
    let peer = match visitor.via {
        Via::Unix { uid } if uid == 0 || uid == visitor.own_uid => {
            return Ok(Caller {
                role: Role::Admin,
                who: format!("user {uid} through control.sock"),
                is_known: true,
                token: None,
            });
        }
        Via::Unix { uid } => {
            let message = format!("user {uid} may not use this socket: only root and the daemon's user may");
            return Err(Denied::new(403, message));
        }
        Via::Tcp { peer } => peer,
    };
    check_place(&visitor.request, settings)?;
    if let Some(token) = bearer(&visitor.request) {
        return by_token(token, peer, settings)
            .ok_or_else(|| Denied::new(401, "invalid token: it matches none of 'api_tokens'"));
    }
    let role = match (
        is_loopback(peer.ip()),
        settings.api_open,
        settings.api_tokens.is_empty(),
    ) {
        (true, true, _) => Role::Operate,
        (true, false, true) => Role::Read,
        _ => {
            return Err(Denied::new(
                401,
                "a token is required: 'Authorization: Bearer TOKEN'",
            ));
        }
    };
    Ok(Caller {
        role,
        who: format!("somebody at {}", peer.ip()),
        is_known: false,
        token: None,
    })
}

/// Fails unless the caller has at least `role`.
pub fn require(caller: &Caller, role: Role) -> Result<(), Denied> {
    if caller.role >= role {
        return Ok(());
    }
    Err(if caller.is_known {
        Denied::new(403, format!("{} may not do this", caller.who))
    } else {
        Denied::new(
            401,
            "a token is required ('Authorization: Bearer TOKEN', see 'api_tokens'), or the socket control.sock in \
             state_dir; 'api_open: true' lets every local user act",
        )
    })
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

/// The bearer of that token.
pub fn by_token(token: &str, peer: SocketAddr, settings: &Settings) -> Option<Caller> {
    by_digest(sha256(token), peer, settings)
}

/// The bearer of the token with that SHA-256. Every token is compared, and each in constant time: how long it takes tells
/// nothing.
pub fn by_digest(presented: [u8; 32], peer: SocketAddr, settings: &Settings) -> Option<Caller> {
    let mut found = None;
    for known in &settings.api_tokens {
        if secret::same(known.sha256, presented) {
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
                sha256: sha256("secret"),
            }],
            ..Settings::default()
        }
    }

    fn visitor(request: &Request, via: Via) -> Visitor {
        Visitor {
            request: request.clone(),
            via,
            own_uid: 1_000,
        }
    }

    fn status(request: &Request, via: Via, settings: &Settings, role: Role) -> u16 {
        match identify(&visitor(request, via), settings).and_then(|caller| require(&caller, role)) {
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
            on_behalf(
                identify(&visitor(&request, via), &settings).unwrap(),
                &request,
                peer,
            )
            .who
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
}
