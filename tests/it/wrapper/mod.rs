//! sp-wrapper against a scripted daemon.

mod ending;
mod family;
mod output;
mod starting;
mod throughput;
