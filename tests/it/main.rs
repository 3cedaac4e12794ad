//! The integration tests, on the real binaries.

mod api;
mod cli;
mod daemon;
mod endpoint;
mod support;
mod tls;
mod ui;
mod wrapper;
