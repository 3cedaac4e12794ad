//! `saltpeter check`: the problems that the daemon would show.
//! Must not know: how they are found.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::surroundings;
use crate::config::{Config, Loader, Severity};

pub const HELP: &str = "\
usage: saltpeter check [-c DIR] [--json]

Reads the configuration as the daemon would and prints what is wrong, a line each:
FILE:LINE: error|warning: JOB.FIELD: reason. An error keeps something from being in force.
For /etc/saltpeter also what on this host shadows the installed daemon.

  --json   [{\"file\", \"line\", \"field\", \"reason\", \"severity\"}]; line is null where it is not known

exit codes: 0 no errors (warnings do not count), 1 errors, 2 a command line that cannot be understood
";

/// Checks the directory; nothing is written anywhere.
pub fn run(config_dir: &Path, json: bool) -> ExitCode {
    let config = match Loader::new(config_dir.to_path_buf()).load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("saltpeter: {error}");
            return ExitCode::FAILURE;
        }
    };
    let config = with_surroundings(config, config_dir);
    super::print(&if json { as_json(&config) } else { as_text(&config) });
    if count(&config, Severity::Error) > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The installed configuration is checked with what is around it; any other directory by itself.
fn with_surroundings(config: Arc<Config>, config_dir: &Path) -> Arc<Config> {
    if config_dir != Path::new(super::DEFAULT_CONFIG_DIR) {
        return config;
    }
    let path = std::env::var_os("PATH");
    let found = surroundings::problems(Path::new("/"), path.as_deref(), &config);
    let mut config = Config::clone(&config);
    config.problems.extend(found);
    Arc::new(config)
}

fn as_json(config: &Config) -> String {
    format!("{:#}\n", serde_json::json!(config.problems))
}

fn as_text(config: &Config) -> String {
    let mut text = String::new();
    for problem in &config.problems {
        text.push_str(&format!("{problem}\n"));
    }
    let (errors, warnings) = (count(config, Severity::Error), count(config, Severity::Warning));
    text + &format!(
        "{} jobs, {errors} errors, {warnings} warnings\n",
        config.jobs.len()
    )
}

fn count(config: &Config, severity: Severity) -> usize {
    config
        .problems
        .iter()
        .filter(|problem| problem.severity == severity)
        .count()
}
