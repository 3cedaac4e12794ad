//! Recognising a text in what went over a wire. Also used by tests/salt.

/// Whether this went by, as it is or under a WebSocket client's mask: four bytes that repeat, so what a byte and the
/// fourth behind it have in common shows through.
pub fn is_in(heard: &[u8], what: &str) -> bool {
    let what = what.as_bytes();
    assert!(what.len() >= 12, "too short to be recognised");
    let looks_like = |window: &[u8]| {
        let last = what.len() - 4;
        (0..last).all(|at| window[at] ^ window[at + 4] == what[at] ^ what[at + 4])
    };
    heard
        .windows(what.len())
        .any(|window| window == what || looks_like(window))
}
