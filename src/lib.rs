//! Saltpeter: cron for a fleet.
//!
//! ```text
//! YAML dir ──> config ──┐                                      ┌──> storage (SQLite) ──acks──> machine connections
//! wall clock ─> ticker ─┤                                      ├──> executor (salt | local) ──> sp-wrapper on machines
//! sp-wrapper <─> machine connections ─┤ one inbox ─> ENGINE ─> effects ├──> job log files
//! HTTP, CLI  <─> api connections ──┘  (state owner)            └──> board: the read model that the API serves
//! ```
//!
//! One thread owns the state. Everything that happens arrives in its inbox as an [`engine::event::Event`]; everything
//! it wants done leaves as an [`engine::effect::Effect`]. The other threads do I/O and make no decisions. There is no
//! async runtime, no lock around the state, and no queue without a bound.
//!
//! | thread | what it does |
//! |---|---|
//! | `main` | the engine: turns events into effects |
//! | `publisher` | publishes boards and answers once storage has committed everything before them |
//! | `ticker` | sends one tick per second, on the wall clock's second, with the heartbeats read since the last |
//! | `accept`, `handshake` | accept wrapper connections, perform their TLS and WebSocket handshakes |
//! | one per connection | reads frames, forwards them as events, writes what is in its outbox |
//! | `storage` | commits what is queued, then releases the acks |
//! | `executor` | starts wrappers: through Salt, with one helper process in Python, or on this host |
//! | `log`, `signals` | write the daemon's log, so that a blocked stderr blocks no other thread; handle SIGTERM and SIGHUP |
//! | `job-log` | writes `logdir/<job>.log` |
//! | one per destination of notices | delivers messages: webhook, mail or command |
//! | `config` | watches and reads job files |
//! | `compat` | wakes the legacy React UI's connections when there is a new board, ten times a second at most |
//! | `api-accept`, one per API connection | HTTP, served from the board and storage |
//!
//! No files import each other in a circle; a test holds that, and takes an exception from a line here only with its reason.
//!
//! The modules in reading order: shared by both binaries, decisions, connections and storage, command line, the wrapper.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test that cannot go on fails where it stands"
    )
)]

// -- shared by both binaries
pub mod address;
pub mod clock;
pub mod ending;
pub mod limits;
pub mod process;
pub mod protocol;
pub mod safe_name;
pub mod thread;
#[cfg(feature = "tls")]
pub mod tls;
pub mod url;
pub mod wake;

// -- decisions, without I/O
#[cfg(feature = "daemon")]
pub mod budget;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod engine;
#[cfg(feature = "daemon")]
pub mod schedule;
#[cfg(feature = "daemon")]
pub mod secret;
#[cfg(feature = "daemon")]
pub mod time_text;

// -- threads, sockets, files
#[cfg(feature = "daemon")]
pub mod api;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod executor;
#[cfg(feature = "daemon")]
pub mod logfile;
#[cfg(feature = "daemon")]
pub mod machines;
#[cfg(feature = "daemon")]
pub mod metrics;
#[cfg(feature = "daemon")]
pub mod net;
#[cfg(feature = "daemon")]
pub mod notify;
#[cfg(feature = "daemon")]
pub mod storage;

// -- command line and log
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod logging;

// -- the other binary
pub mod wrapper;
