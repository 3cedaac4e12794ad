//! What ships beside the programs: reference, schema, unit, packages; and what systemd is told.

mod notify;
mod reference;
mod schema;
mod unit;
