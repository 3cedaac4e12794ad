//! The integration tests, on the real binaries.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod api;
mod cli;
mod compat;
mod daemon;
mod endpoint;
mod notifications;
mod support;
mod tls;
mod wrapper;
