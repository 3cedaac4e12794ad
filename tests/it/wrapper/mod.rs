//! sp-wrapper against a scripted daemon. Numbers in comments are those of measured.md "What it gets wrong".

mod ending;
mod family;
mod output;
mod starting;
mod throughput;
