//! The real daemon with real wrappers, its storage and its ports: what a user sees, and what a saboteur tries.

mod clock;
mod crash;
mod ending;
mod faults;
mod http;
mod logs;
mod operator;
mod output;
mod port;
mod reload;
mod runs;
mod start;
