//! Browsers that are logged in: a cookie stands for a token that was shown once.
//! Must not know: routes, what a token allows.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use parking_lot::Mutex;

use super::http::Request;
use crate::clock::{self, Mono};
use crate::limits;

/// The cookie's name.
pub const COOKIE: &str = "saltpeter_session";

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

    /// A new session of that token: the value of its cookie.
    pub fn open(&self, token: [u8; 32]) -> std::io::Result<String> {
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

    /// Ends the session of the request's cookie.
    pub fn close(&self, request: &Request) {
        if let Some(id) = cookie(request) {
            self.open.lock().remove(id);
        }
    }
}

fn cookie(request: &Request) -> Option<&str> {
    let all = request.headers.iter().filter(|(name, _)| name == "cookie");
    let mut pairs = all.flat_map(|(_, value)| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}
