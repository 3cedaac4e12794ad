//! Saltpeter: cron for a fleet. See `src/lib.rs` for the map once the rooms are furnished.

pub mod clock;
pub mod limits;
pub mod process;
pub mod protocol;
pub mod safe_name;
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

pub mod wrapper;
