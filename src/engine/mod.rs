//! The one owner of state: decides what happens. Pure: no file, socket, process, thread, channel, lock, random
//! source or clock inside. `event.rs` and `effect.rs` are its whole surface.

pub mod board;
pub mod effect;
pub mod event;
pub mod record;

use std::sync::Arc;

use board::Board;
use effect::Effect;
use event::Event;
use record::Recovered;

use crate::clock::Now;
use crate::config::Config;

/// What the engine is told at birth.
#[derive(Clone, Debug, Default)]
pub struct EngineSettings {
    /// Seed of draws, shuffles and tokens: fresh from the kernel in the daemon, fixed in tests.
    pub seed: [u8; 32],
    /// The link between wrapper and daemon is private (loopback), so that jobs may travel over it.
    pub private_link: bool,
    /// Without a `wrapper_path` or `default_wrapper_path` the executor starts our own wrapper (local executor).
    pub own_wrapper_by_default: bool,
}

/// The state owner.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Takes up what storage has kept. Nothing is done before the first event.
    pub fn new(_settings: EngineSettings, _config: Arc<Config>, _recovered: Recovered, _now: Now) -> Engine {
        Engine {}
    }

    /// One turn. Effects are appended in the order in which they are to be done.
    pub fn handle(&mut self, _now: Now, _event: Event, _effects: &mut Vec<Effect>) {}

    /// The board, if anything on it has changed since the last call.
    pub fn take_board(&mut self, _now: Now) -> Option<Arc<Board>> {
        None
    }
}
