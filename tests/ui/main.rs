//! The page in a real browser, in front of a real daemon.
//!
//! Chromium comes from Debian (`apt-get install chromium`, done here when it is missing and we are root).
//! `SALTPETER_TEST_BROWSER=off` leaves all of it out, and says so; another value is the browser to take. Reading order:
//! `browser.rs` starts one and speaks to it, then the tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod browser;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros)] // made for the tests of the daemon
mod support;

mod access;
mod looks;
mod output;
mod overview;
mod pages;
mod picture;
mod runs;
mod timeline;
