//! The wrapper of one machine run.

fn main() {}
