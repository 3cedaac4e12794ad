//! The daemon against a real Salt master and three real minions on this host.
//!
//! `SALTPETER_TEST_SALT=off` leaves all of it out, and says so. `SALTPETER_TEST_SALT_VERSION` picks the Salt (default:
//! `lab::VERSION`). Reading order: `lab/` sets Salt up and takes it down, `daemon.rs` is a daemon of ours; then the tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod daemon;
mod lab;

use lab::{bridge, processes, wait};

mod helper;
mod launching;
mod outages;
mod packaging;
mod plain;
mod secrets;
mod storm;
mod targets;
mod wire;
