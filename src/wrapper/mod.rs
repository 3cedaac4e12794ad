//! The wrapper of one machine run: detaches, asks for the permission, starts the command through its guardian,
//! delivers output and outcome. Entry point and reading order. Must not know: anything of the daemon's rooms.

mod supervise;

mod event;

mod channel;
mod child;
mod chunk;
mod kill;
mod link;
mod local_log;
mod session;
mod settings;
mod spool;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod trust;

use std::io::Write;
use std::process::ExitCode;

use crate::limits;
use crate::process::detach::{Detached, detach};
use crate::process::{guardian, host};
use settings::Settings;
use supervise::Supervisor;

/// Plays the wrapper: all it needs is in the environment. Returns in the launcher within milliseconds, and in the
/// detached process when the run's outcome has been delivered. Must be called before any thread is started.
pub fn main() -> ExitCode {
    let settings = match Settings::from_environment(std::env::vars_os().collect()) {
        Ok(settings) => settings,
        Err(reason) => return refuse(&reason),
    };
    match detach() {
        Ok(Detached::Launcher) => {
            // a launcher that does not listen is none of our business
            let _ = writeln!(
                std::io::stdout(),
                "sp-wrapper {}\nWrapper started successfully",
                env!("CARGO_PKG_VERSION")
            );
            ExitCode::SUCCESS
        }
        Ok(Detached::Wrapper) => run(settings),
        Err(error) => refuse(&format!("detaching: {error}")),
    }
}

fn refuse(reason: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "sp-wrapper: {reason}");
    ExitCode::FAILURE
}

fn run(settings: Settings) -> ExitCode {
    // before any thread, so that guardian and command may do all that a fresh process may
    let guardian = guardian::fork_guardian(limits::OUTPUT_PIPE_BYTES);
    let log_file = local_log::open(
        &settings.log_directory,
        &settings.job,
        settings.tunables.log_level,
    );
    std::panic::set_hook(Box::new(|panic| log::error!("panic: {panic}")));
    let machine = settings.machine.clone().unwrap_or_else(machine_id);
    log::info!(
        "sp-wrapper {} for {} on {machine}",
        env!("CARGO_PKG_VERSION"),
        settings.instance
    );
    let supervisor = guardian.and_then(|guardian| Supervisor::new(settings, machine, guardian, log_file));
    match supervisor {
        Ok(supervisor) => supervisor.run(),
        Err(error) => {
            log::error!("starting guardian and threads: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The id in Salt's own file, else the host's full name.
fn machine_id() -> String {
    let minion = std::fs::read_to_string("/etc/salt/minion_id").unwrap_or_default();
    match minion.trim() {
        "" => host::full_name(),
        id => id.to_string(),
    }
}
