//! The integration tests, on the real binaries.

mod cli;
mod endpoint;
mod support;
mod wrapper;
