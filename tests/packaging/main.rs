//! What ships beside the programs: reference, schema, unit, packages; and what systemd is told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod circles;
mod notify;
mod rails;
mod reference;
mod schema;
mod tables;
mod unit;
