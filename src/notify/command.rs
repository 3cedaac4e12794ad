//! A command of the user's for each message: facts in its environment, and as JSON on its standard input.
//! Must not know: how programs are run.

use super::formats::cut;
use super::program::{self, Program};
use super::text::Letter;
use crate::config::notifiers::NotifyCommand;
use crate::engine::notice::DeliveryError;

/// Runs it.
pub fn run(command: &NotifyCommand, letter: &Letter<'_>) -> Result<(), DeliveryError> {
    let facts = letter.latest();
    let environment = [
        ("ID", letter.id.to_string()),
        ("HOST", letter.host.clone()),
        ("SUBJECT", letter.subject()),
        ("TEXT", cut(&letter.text())),
        ("COUNT", letter.notices.len().to_string()),
        ("KIND", facts.kind.word().to_string()),
        ("JOB", facts.job.clone()),
        ("GROUP", facts.group.clone()),
        ("INSTANCE", facts.instance.clone().unwrap_or_default()),
    ];
    let input = letter.json().to_string();
    program::run(&Program {
        arguments: &["/bin/sh".into(), "-c".into(), command.command.clone().into()],
        environment: environment
            .into_iter()
            .map(|(name, value)| (format!("SP_NOTIFY_{name}"), value))
            .collect(),
        input: input.as_bytes(),
        user: command.user.as_deref(),
        timeout_ms: command.timeout_ms,
    })
    .map_err(|why| DeliveryError {
        reason: format!("the command {why}"),
        ..DeliveryError::default()
    })
}
