//! What ships beside the programs: reference, schema, unit, packages; and what systemd is told.

mod notify;
mod packages;
mod reference;
mod schema;
mod unit;
