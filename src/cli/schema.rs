//! `saltpeter schema`: the JSON Schema of the job files, for editors.
//! Must not know: how it is made.

use std::process::ExitCode;

use super::Arguments;
use crate::config::reference;

pub const HELP: &str = "\
usage: saltpeter schema

Prints the JSON Schema of the job files. An editor that knows YAML schemas completes and checks fields with it:

  saltpeter schema > saltpeter.schema.json
  # yaml-language-server: $schema=./saltpeter.schema.json    (as the first line of a job file)
";

/// Prints it.
pub fn run(_: &Arguments) -> ExitCode {
    super::print(&format!("{:#}\n", reference::schema()));
    ExitCode::SUCCESS
}
