//! The integration tests, on the real binaries.

mod support;
mod wrapper;
