//! `saltpeter serve`: the daemon.
//! Must not know: anything of it but its door.

use std::path::Path;
use std::process::ExitCode;

use crate::{daemon, logging};

pub const HELP: &str = "\
usage: saltpeter [serve] [-c DIR]

Runs the daemon in the foreground; the log goes to stderr. SIGHUP reads the configuration again,
SIGTERM ends the daemon and leaves running jobs running.
";

/// Serves until told to stop.
pub fn run(config_dir: &Path) -> ExitCode {
    logging::start();
    match daemon::serve(config_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
