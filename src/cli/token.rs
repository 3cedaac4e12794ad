//! `saltpeter token`: makes a token for the API. The token goes to stderr, once; what is configured is only its hash.
//! Must not know: the daemon.

use std::process::ExitCode;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use super::Arguments;
use crate::secret::sha256;

pub const HELP: &str = "\
usage: saltpeter token NAME read|operate|admin [--json]

Makes a token. Its entry for api_tokens in saltpeter_config goes to stdout; the token itself, which is stored
nowhere, goes to stderr (with --json both are in the answer).

  read      sees everything but values of env and parameters
  operate   also runs, kills, retries, pauses
  admin     also switches maintenance

exit codes: 0 success, 1 failure, 2 a command line that cannot be understood
";

const ROLES: [&str; 3] = ["read", "operate", "admin"];

/// Makes one.
pub fn run(arguments: &Arguments) -> ExitCode {
    let (name, role) = (&arguments.words[0], &arguments.words[1]);
    if !ROLES.contains(&role.as_str()) {
        eprintln!("saltpeter: the role must be read, operate or admin; see saltpeter token --help");
        return ExitCode::from(super::USAGE);
    }
    if name.is_empty() || name.contains(char::is_control) {
        eprintln!("saltpeter: the name must say whose token it is");
        return ExitCode::from(super::USAGE);
    }
    let mut bytes = [0; 32];
    if let Err(error) = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        eprintln!("saltpeter: the kernel gives no random bytes: {error}");
        return ExitCode::FAILURE;
    }
    let token = format!("sp_{}", BASE64URL_NOPAD.encode(&bytes));
    let hash = HEXLOWER.encode(&sha256(&token));
    if arguments.json {
        let shown = serde_json::json!({"name": name, "role": role, "token": token, "sha256": hash});
        super::print(&format!("{shown:#}\n"));
        return ExitCode::SUCCESS;
    }
    // JSON's quoting is YAML's too
    let quoted = serde_json::Value::from(name.as_str());
    super::print(&format!(
        "saltpeter_config:\n  api_tokens:\n  - name: {quoted}\n    role: {role}\n    sha256: {hash}\n"
    ));
    eprintln!("the token, shown this once: {token}");
    ExitCode::SUCCESS
}
