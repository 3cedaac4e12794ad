//! Wrong tokens: counted per address, refused faster than they can be guessed, logged without flooding the log.
//! A token of ours has 256 bits and cannot be guessed; this is for those that people made up.
//! Must not know: routes, settings.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use parking_lot::Mutex;

use crate::clock::{self, Mono};
use crate::limits;

/// Addresses that have shown wrong tokens.
#[derive(Debug, Default)]
pub struct Guard {
    addresses: Mutex<HashMap<IpAddr, Address>>,
}

#[derive(Debug)]
struct Address {
    since: Mono,
    failures: u32,
    /// Digests of tokens that were right here: others behind the same proxy are served while one guesses.
    welcome: BTreeSet<[u8; 32]>,
}

impl Guard {
    /// A right token was shown. False: this address is guessing, and the token was never right here before, so it may
    /// be a guess that hit.
    pub fn admit_token(&self, address: IpAddr, token: [u8; 32]) -> bool {
        let mut addresses = self.addresses.lock();
        let now = clock::mono();
        let known = entry(&mut addresses, address, now);
        if known.welcome.contains(&token) {
            return true;
        }
        let may_come = known.failures < limits::AUTH_FAILURES;
        if may_come {
            known.welcome.insert(token);
        }
        may_come
    }

    /// A wrong token was shown. False: too many from there.
    pub fn note_failure(&self, address: IpAddr) -> bool {
        let mut addresses = self.addresses.lock();
        let now = clock::mono();
        let known = entry(&mut addresses, address, now);
        known.failures = known.failures.saturating_add(1);
        match known.failures {
            failures if failures < limits::AUTH_FAILURES => {
                log::warn!("a wrong token from {address}");
                true
            }
            limits::AUTH_FAILURES => {
                log::warn!(
                    "{} wrong tokens from {address} within {} s: more are refused unseen for a while",
                    limits::AUTH_FAILURES,
                    limits::AUTH_WINDOW_MS / 1_000
                );
                true
            }
            _ => false,
        }
    }
}

fn entry(addresses: &mut HashMap<IpAddr, Address>, address: IpAddr, now: Mono) -> &mut Address {
    let is_over = |known: &Address| now.since_ms(known.since) >= limits::AUTH_WINDOW_MS;
    if addresses.len() >= limits::AUTH_ADDRESSES && !addresses.contains_key(&address) {
        addresses.retain(|_, known| !is_over(known));
        if addresses.len() >= limits::AUTH_ADDRESSES {
            // an attacker with very many addresses: forgetting them all bounds the memory
            addresses.clear();
        }
    }
    let known = addresses.entry(address).or_insert_with(|| Address {
        since: now,
        failures: 0,
        welcome: BTreeSet::new(),
    });
    if is_over(known) {
        known.since = now;
        known.failures = 0;
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_guesses_is_refused_and_tokens_that_were_right_there_still_count() {
        let guard = Guard::default();
        let address: IpAddr = [10, 0, 0, 9].into();
        let (ops, guessed) = ([1; 32], [2; 32]);
        assert!(guard.admit_token(address, ops));
        for _ in 0..limits::AUTH_FAILURES {
            assert!(guard.note_failure(address));
        }
        assert!(!guard.note_failure(address));
        assert!(guard.admit_token(address, ops));
        assert!(
            !guard.admit_token(address, guessed),
            "a guess that hits does not count"
        );
        assert!(guard.admit_token([10, 0, 0, 8].into(), guessed));
    }

    #[test]
    fn many_addresses_cost_bounded_memory() {
        let guard = Guard::default();
        for number in 0..3 * limits::AUTH_ADDRESSES as u32 {
            guard.note_failure(IpAddr::from(number.to_be_bytes()));
        }
        assert!(guard.addresses.lock().len() <= limits::AUTH_ADDRESSES);
    }
}
