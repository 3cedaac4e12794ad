//! What is shipped besides the programs (documents, schema, unit, packages), the rules of the source tree, and what the
//! daemon tells systemd.

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
