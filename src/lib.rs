//! Saltpeter: cron for a fleet. See `src/lib.rs` for the map once the rooms are furnished.

pub mod clock;
pub mod limits;
pub mod process;
pub mod protocol;
pub mod thread;
pub mod wake;

#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod logging;
#[cfg(feature = "daemon")]
pub mod schedule;

pub mod wrapper;
