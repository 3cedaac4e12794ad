//! sp-wrapper against a scripted daemon.

mod ending;
mod family;
mod inherits;
mod locks;
mod output;
mod starting;
mod throughput;
