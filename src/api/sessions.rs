//! Browsers that are logged in: a cookie stands for a token that was shown once. Sessions outlast a restart: they are
//! kept in `state_dir` as SHA-256 of cookie and token, so that neither can be had from the file.
//! Must not know: routes, what a token allows.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;

use super::http::Request;
use crate::clock::{self, Mono, Now};
use crate::limits;
use crate::secret::sha256;

/// The cookie's name.
pub const COOKIE: &str = "saltpeter_session";

/// A line of the file: two hashes, and a time.
const LINE_BYTES: usize = 160;

/// Browsers that are logged in.
#[derive(Debug)]
pub struct Sessions {
    open: Mutex<Open>,
    /// Held while the file is written.
    path: Mutex<PathBuf>,
}

/// By the SHA-256 of the cookie's value.
type Open = HashMap<[u8; 32], Session>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    /// The token's SHA-256: its role, and whether it still counts, is looked up with each request.
    token: [u8; 32],
    until: Mono,
}

impl Sessions {
    /// The sessions that the last start of the daemon left in `state_dir`.
    pub fn load(state_dir: &Path) -> Sessions {
        let path = state_dir.join("sessions");
        let mut text = String::new();
        let most = (limits::SESSIONS * LINE_BYTES) as u64;
        match File::open(&path).and_then(|file| file.take(most).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => log::warn!(
                "cannot read the web UI's sessions from '{}': {error}; users have to log in again",
                path.display()
            ),
        }
        Sessions {
            open: Mutex::new(read(&text, clock::now())),
            path: Mutex::new(path),
        }
    }

    /// The SHA-256 of the token that the request's cookie stands for.
    pub fn token_of(&self, request: &Request) -> Option<[u8; 32]> {
        let id = sha256(cookie(request)?);
        let mut open = self.open.lock();
        let session = open.get(&id)?;
        if session.until <= clock::mono() {
            open.remove(&id);
            return None;
        }
        Some(session.token)
    }

    /// A new session of that token: the value of its cookie.
    pub fn open(&self, token: [u8; 32]) -> io::Result<String> {
        let mut bytes = [0; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let cookie = HEXLOWER.encode(&bytes);
        let now = clock::mono();
        let mut open = self.open.lock();
        if open.len() >= limits::SESSIONS {
            open.retain(|_, session| session.until > now);
        }
        if open.len() >= limits::SESSIONS {
            let oldest = open.iter().min_by_key(|(_, session)| session.until);
            let oldest = oldest.map(|(id, _)| *id);
            oldest.and_then(|id| open.remove(&id));
        }
        let until = now.plus_ms(limits::SESSION_MS);
        open.insert(sha256(&cookie), Session { token, until });
        drop(open);
        self.save();
        Ok(cookie)
    }

    /// Ends the session of the request's cookie.
    pub fn close(&self, request: &Request) {
        let Some(cookie) = cookie(request) else { return };
        let closed = self.open.lock().remove(&sha256(cookie));
        if closed.is_some() {
            self.save();
        }
    }

    /// Requests go on meanwhile: a disk that hangs delays nobody but those that log in or out.
    fn save(&self) {
        let path = self.path.lock();
        let text = written(&self.open.lock(), clock::now());
        if let Err(error) = replace(&path, &text) {
            log::warn!(
                "cannot store the web UI's sessions in '{}': {error}; a restart will end them",
                path.display()
            );
            // a session that was ended must not come back
            let _ = fs::remove_file(&*path);
        }
    }
}

fn read(text: &str, now: Now) -> Open {
    let hash = |text: &str| -> Option<[u8; 32]> { HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok() };
    let session = |line: &str| {
        let mut parts = line.split(' ');
        let (id, token) = (hash(parts.next()?)?, hash(parts.next()?)?);
        let until_s: i64 = parts.next()?.parse().ok()?;
        let left_s = u64::try_from(until_s.checked_sub(now.wall.secs())?).ok()?;
        // whatever the clock was when it was written
        let left_ms = left_s.saturating_mul(1_000).min(limits::SESSION_MS);
        let until = now.mono.plus_ms(left_ms);
        (left_ms > 0).then_some((id, Session { token, until }))
    };
    text.lines().filter_map(session).take(limits::SESSIONS).collect()
}

fn written(open: &Open, now: Now) -> String {
    let lines = open.iter().map(|(id, session)| {
        let until_s = now.wall.secs() + (session.until.since_ms(now.mono) / 1_000) as i64;
        format!(
            "{} {} {until_s}\n",
            HEXLOWER.encode(id),
            HEXLOWER.encode(&session.token)
        )
    });
    lines.collect()
}

/// Whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&unfinished, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn cookie(request: &Request) -> Option<&str> {
    let all = request.headers.iter().filter(|(name, _)| name == "cookie");
    let mut pairs = all.flat_map(|(_, value)| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;

    fn at(wall_s: i64, mono_ms: u64) -> Now {
        Now {
            wall: Wall::from_secs(wall_s),
            mono: Mono(mono_ms),
        }
    }

    #[test]
    fn sessions_outlast_a_restart_until_their_time_is_over_whatever_the_clock_says() {
        let before = at(1_000_000, 50_000);
        let open = Open::from([(
            [1; 32],
            Session {
                token: [2; 32],
                until: before.mono.plus_ms(limits::SESSION_MS),
            },
        )]);
        let text = written(&open, before);
        let left_ms = |now: Now| {
            let found = read(&text, now);
            found
                .values()
                .next()
                .map(|session| session.until.since_ms(now.mono))
        };
        let hour_s = 3_600;
        assert_eq!(
            left_ms(at(1_000_000 + hour_s, 7)),
            Some(limits::SESSION_MS - hour_s as u64 * 1_000)
        );
        assert_eq!(left_ms(at(1_000_000 + 12 * hour_s, 7)), None);
        // a clock that went back prolongs nothing beyond a login's time
        assert_eq!(left_ms(at(0, 7)), Some(limits::SESSION_MS));
        assert_eq!(read(&text, at(1_000_000, 7))[&[1; 32]].token, [2; 32]);
    }

    #[test]
    fn what_stands_in_the_file_is_bounded_and_rubbish_is_passed_over() {
        let hash = |number: usize| HEXLOWER.encode(&sha256(number.to_string()));
        let line = |number: usize| format!("{} {} 2000000\n", hash(number), hash(0));
        let many: String = (0..3 * limits::SESSIONS).map(line).collect();
        assert_eq!(read(&many, at(1_999_000, 7)).len(), limits::SESSIONS);
        assert!(line(1).len() <= LINE_BYTES);
        for text in [
            "",
            "x",
            "a b c",
            "\u{0}",
            &line(1)[1..],
            &line(1).replace("2000000", "soon"),
        ] {
            assert_eq!(read(text, at(1_999_000, 7)), Open::new(), "{text}");
        }
    }
}
