//! Detach, guardian, command, locks, becoming a user: the only unsafe code there is.
//! Must not know: sockets to the daemon, frames, what an outcome means.
#![allow(unsafe_code)]

pub mod detach;
pub mod guardian;
pub mod order;

pub mod command;
pub mod descriptors;
pub mod drain;
pub mod family;
pub mod host;
pub mod lock;
pub mod old_lock;
pub mod private;
pub mod user;

/// The guardian as `ps` shows it.
pub const GUARDIAN_NAME: &std::ffi::CStr = c"sp-guardian";
