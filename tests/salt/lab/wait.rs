//! Waiting for a condition, with an end.

use std::time::Duration;

use saltpeter::clock;

/// Looks ten times a second until `look` finds something; panics with `what` after `limit_s`.
pub fn until<T>(what: &str, limit_s: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = clock::mono();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            clock::mono().since_ms(begun) < limit_s * 1_000,
            "{what}: not within {limit_s} s"
        );
        pause(100);
    }
}

/// A pause between two looks.
pub fn pause(ms: u64) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(Duration::from_millis(ms));
}
