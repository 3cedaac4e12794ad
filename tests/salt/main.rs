//! The daemon against a real Salt master and three real minions on this host.
//!
//! `SALTPETER_TEST_SALT=off` leaves all of it out, and says so. `SALTPETER_TEST_SALT_VERSION` picks the Salt (default:
//! `lab::VERSION`). Reading order: `lab.rs` sets Salt up and takes it down, `daemon.rs` is a daemon of ours,
//! `bridge.rs` speaks to the helper alone; then the tests.

mod bridge;
mod daemon;
mod lab;
mod processes;
mod wait;

mod helper;
mod launching;
mod outages;
mod packaging;
mod plain;
mod secrets;
mod storm;
mod targets;
