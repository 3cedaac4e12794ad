//! Saltpeter: cron for a fleet. See `src/lib.rs` for the map once the rooms are furnished.

pub mod clock;
pub mod limits;
pub mod process;
pub mod protocol;
pub mod thread;
pub mod wake;

#[cfg(feature = "daemon")]
pub mod budget;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod engine;
#[cfg(feature = "daemon")]
pub mod logfile;
#[cfg(feature = "daemon")]
pub mod schedule;
#[cfg(feature = "daemon")]
pub mod storage;

#[cfg(feature = "daemon")]
pub mod api;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod executor;
#[cfg(feature = "daemon")]
pub mod machines;
#[cfg(feature = "daemon")]
pub mod net;

pub mod wrapper;
