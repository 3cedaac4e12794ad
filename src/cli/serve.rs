//! `saltpeter serve`: the daemon.
//! Must not know: anything of it but its door.

use std::path::Path;
use std::process::ExitCode;

use crate::{daemon, logging};

pub const HELP: &str = "\
usage: saltpeter [serve] [-c DIR] [--log-format FORMAT]

Runs the daemon in the foreground; the log goes to stderr. SIGHUP reads the configuration again,
SIGTERM ends the daemon and leaves running jobs running.

  --log-format FORMAT   plain, journal (no times, syslog's priority in front) or json;
                        default: journal where stderr leads to the journal, else plain

environment:
  SALTPETER_LOG         levels, for all and for single modules: warn,engine=debug,storage=trace
";

/// Serves until told to stop.
pub fn run(config_dir: &Path, log_format: Option<logging::Format>) -> ExitCode {
    logging::start(log_format);
    match daemon::serve(config_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
