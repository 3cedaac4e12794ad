//! The configuration directory as the rest of the daemon sees it: valid jobs, settings, maintenance, problems.
//! `file.rs` reads YAML (`cause.rs` says why it cannot), `job_fields.rs` holds the fields of a job, `timing.rs` takes its
//! schedule and `validate.rs` the rest, which makes a [`Job`]; `settings.rs` reads the daemon's settings; `notify.rs` who is
//! told of what, `notifiers.rs` how they are reached, `quiet.rs` when not. `reading.rs` takes one file and keeps what was
//! last good of it, `load.rs` all files of a directory (`listing.rs` says which), `watch.rs` is the thread that notices
//! changes, `reference.rs` tells people and editors what there is.
//! Must not know: the engine, runs, sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::SecondsFormat;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Wall;
use crate::limits;
use crate::schedule::{Schedule, Tz};
use crate::url::HttpUrl;

mod cause;
mod crontab;
mod file;
pub mod glob;
mod job_fields;
mod last_good;
mod lines;
mod listing;
mod load;
mod node;
pub mod notifiers;
pub mod notify;
pub mod quiet;
mod reading;
pub mod reference;
mod settings;
mod success;
mod timing;
mod validate;
mod value;
pub mod watch;

#[cfg(test)]
mod tests;
mod yaml11;

pub use load::{Loader, last_good_dir};
pub use settings::restart_needed;
pub use success::Success;
pub use validate::TARGET_TYPES;
pub use value::likeliest;

/// Everything that the files of one directory say, after validation. Immutable; a reload makes a new one and
/// shares the jobs that did not change.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub jobs: BTreeMap<String, Arc<Job>>,
    pub settings: Arc<Settings>,
    pub maintenance: Maintenance,
    /// What is wrong with the files, errors and warnings; shown in the log, the API and the UI until mended.
    pub problems: Vec<Problem>,
    /// Counts reloads that changed something.
    pub serial: u64,
}

/// A valid job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub name: String,
    /// The file's name without `.yaml`.
    pub group: String,
    pub enabled: bool,
    pub description: String,
    pub schedule: Schedule,
    /// What a run needs; a run keeps the one that was in force when it fired.
    pub spec: Arc<JobSpec>,
    /// Who is told of its outcomes, and what its runs are expected to be like.
    pub notices: notify::JobNotices,
    /// Every key of the job as its file has it, for the API's `config`.
    pub raw: RawJob,
}

/// The fields of a job as its file has them: JSON values only (dates as text, no NaN). Kept as text, which takes a
/// tenth of the memory: ten thousand jobs are held, and one or the other is looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawJob(Box<str>);

impl RawJob {
    /// Keeps those fields.
    pub fn new(fields: &Map<String, Value>) -> RawJob {
        // keys are texts and numbers are finite: it always serializes
        RawJob(serde_json::to_string(fields).unwrap_or_default().into())
    }

    /// The fields, made anew.
    pub fn fields(&self) -> Map<String, Value> {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// What a run needs to know of its job, as stored with the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobSpec {
    pub group: String,
    pub command: String,
    pub targets: Targets,
    /// Salt's name for the kind of target: glob, list, pcre, grain, compound, ...
    pub target_type: String,
    pub cwd: Option<String>,
    pub user: Option<String>,
    /// Values as the command gets them.
    pub env: BTreeMap<String, String>,
    /// Seconds; 0: none.
    pub timeout_s: u64,
    /// 0: all.
    pub number_of_targets: usize,
    /// 0: all at once.
    pub batch_size: usize,
    /// When a run has succeeded.
    #[serde(skip_serializing_if = "Success::is_all")]
    pub success: Success,
    /// With more failed machines than this, those that still wait are not started; None: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<usize>,
    pub allow_overlap: bool,
    pub lockfile: Option<String>,
    pub use_wrapper: bool,
    /// None: the setting `default_wrapper_path`.
    pub wrapper_path: Option<String>,
    pub wrapper_loglevel: Option<String>,
    pub wrapper_logdir: Option<String>,
    pub saltpeter_server_host: Option<String>,
    /// Bytes kept of one machine run's output; 0: no limit.
    pub output_limit_bytes: u64,
    pub heartbeat_timeout_ms: u64,
    pub start_timeout_ms: u64,
    /// How old a passed-over due time may be to be started late; None with `catch_up: none`.
    pub start_deadline_s: Option<i64>,
    pub delivery: Delivery,
    /// Values of the job's `parameters`: the defaults, or in a run's copy what was given. The command finds them as
    /// `SP_PARAM_<NAME>`, see [`JobSpec::with_order`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// In a run's copy: only these of the machines that the targets match. Empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

impl JobSpec {
    /// The job as one run has it that was asked for with machines and values. The error is for people: a parameter
    /// that the job does not declare, or a value that no environment can hold.
    pub fn with_order(
        &self,
        machines: &[String],
        values: &BTreeMap<String, String>,
    ) -> Result<JobSpec, String> {
        let mut spec = self.clone();
        spec.only = machines.to_vec();
        for (name, value) in values {
            let Some(known) = spec.parameters.get_mut(name) else {
                let names: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
                return Err(if names.is_empty() {
                    "the job declares no parameters".to_string()
                } else {
                    format!(
                        "the job declares no parameter '{}'; it has {}",
                        name.escape_debug(),
                        names.join(", ")
                    )
                });
            };
            if value.contains('\0') || value.len() > limits::PARAMETER_BYTES {
                return Err(format!(
                    "the value of parameter '{name}' has a NUL character or more than {} bytes",
                    limits::PARAMETER_BYTES
                ));
            }
            known.clone_from(value);
        }
        spec.export_parameters();
        Ok(spec)
    }

    /// The job as one run has it: its command finds in `SP_DUE` for which time it runs (RFC 3339, UTC; of a run that no due time
    /// started, the time of its start), and in `SP_TRIGGER` what started it: schedule, catch_up, manual or retry.
    pub fn with_reason(&self, due: Wall, trigger: &str) -> JobSpec {
        let mut spec = self.clone();
        let due = due.utc().to_rfc3339_opts(SecondsFormat::Secs, true);
        spec.env.insert("SP_DUE".into(), due);
        spec.env.insert("SP_TRIGGER".into(), trigger.into());
        spec
    }

    /// Puts the parameters' values into the command's environment. Names of our own, never free ones: a variable
    /// such as `LD_PRELOAD` in somebody else's hand would be that user's rights.
    pub(super) fn export_parameters(&mut self) {
        for (name, value) in &self.parameters {
            let variable = format!("{PARAMETER_PREFIX}{}", name.to_ascii_uppercase());
            self.env.insert(variable, value.clone());
        }
    }
}

/// What the names of parameters' variables begin with.
pub const PARAMETER_PREFIX: &str = "SP_PARAM_";

/// The job's `targets`: one text, or a list of ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    Text(String),
    List(Vec<String>),
}

impl Default for Targets {
    fn default() -> Targets {
        Targets::Text(String::new())
    }
}

/// `wrapper_delivery`: how command and environment reach the wrapper (rules.md 23).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// Over the socket if the wrapper is ours and the link is private, else in the environment.
    #[default]
    Auto,
    Env,
    Socket,
}

/// `saltpeter_maintenance`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// No run starts, running ones go on.
    pub global: bool,
    /// Left out of every run.
    pub machines: BTreeSet<String>,
}

/// `executor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecutorKind {
    #[default]
    Salt,
    Local,
    /// Shadow mode: everything but the dispatch.
    None,
}

/// `saltpeter_config`, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Absolute, as `state_dir` and `default_wrapper_logdir`: what a file gives relative is below the configuration
    /// directory.
    pub logdir: PathBuf,
    pub debug: bool,
    pub api_ws: bool,
    pub api_ws_port: u16,
    pub api_ws_bind_addr: IpAddr,
    pub machines_ws_port: u16,
    pub machines_ws_bind_addr: IpAddr,
    /// None: the host's name.
    pub default_saltpeter_server_host: Option<String>,
    /// None: not set (salt: /usr/local/bin/sp_wrapper.py; local: rules.md 28).
    pub default_wrapper_path: Option<String>,
    pub default_wrapper_loglevel: String,
    pub default_wrapper_logdir: String,
    pub elasticsearch: String,
    pub elasticsearch_index: String,
    pub opensearch: String,
    pub opensearch_index: String,
    pub executor: ExecutorKind,
    /// None: the host's name.
    pub local_machines: Option<Vec<String>>,
    pub state_dir: PathBuf,
    /// `timezone`: of jobs that name none.
    pub zone: Tz,
    pub output_limit_bytes: u64,
    pub heartbeat_timeout_ms: u64,
    pub start_timeout_ms: u64,
    pub delivery: Delivery,
    pub history_days: u32,
    pub salt_python: Option<String>,
    /// Certificate chain and key, PEM, of both ports. None: the daemon makes its own for the machines port, and the API
    /// speaks no TLS.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// Wrappers of ours are sent to the machines port with TLS (rules.md 23a).
    pub wrapper_tls: bool,
    /// Directory (or file) of the Salt master's configuration.
    pub salt_config: String,
    pub api_tokens: Vec<ApiToken>,
    /// Acting over TCP needs no token on loopback (rules.md 32a).
    pub api_open: bool,
    /// Names beyond loopback that a request's `Host` may bear.
    pub api_hosts: Vec<String>,
    /// Origins of web pages elsewhere that may use the API (`https://ui.example.org`).
    pub api_allowed_origins: Vec<String>,
    /// Destinations of notices, by name.
    pub notifiers: BTreeMap<String, Arc<notifiers::Notifier>>,
    /// `notify`: of jobs that say nothing themselves.
    pub notify: notify::NotifyRule,
    /// Asked every minute while the daemon works.
    pub heartbeat_url: Option<HttpUrl>,
    /// Every key as the files have it, secrets replaced by `***`, for the API's `config`.
    pub raw: Arc<Map<String, Value>>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            logdir: "/var/log/saltpeter".into(),
            debug: false,
            api_ws: true,
            api_ws_port: 8888,
            api_ws_bind_addr: [127, 0, 0, 1].into(),
            machines_ws_port: 8889,
            machines_ws_bind_addr: [0, 0, 0, 0].into(),
            default_saltpeter_server_host: None,
            default_wrapper_path: None,
            default_wrapper_loglevel: "normal".into(),
            default_wrapper_logdir: "/var/log/sp_wrapper".into(),
            elasticsearch: String::new(),
            elasticsearch_index: "saltpeter".into(),
            opensearch: String::new(),
            opensearch_index: "saltpeter".into(),
            executor: ExecutorKind::Salt,
            local_machines: None,
            state_dir: "/var/lib/saltpeter".into(),
            zone: Tz::UTC,
            output_limit_bytes: limits::OUTPUT_LIMIT_BYTES,
            heartbeat_timeout_ms: limits::HEARTBEAT_TIMEOUT_MS,
            start_timeout_ms: limits::START_TIMEOUT_MS,
            delivery: Delivery::Auto,
            history_days: limits::HISTORY_DAYS,
            salt_python: None,
            tls_cert: None,
            tls_key: None,
            wrapper_tls: true,
            salt_config: "/etc/salt".into(),
            api_tokens: Vec::new(),
            api_open: false,
            api_hosts: Vec::new(),
            api_allowed_origins: Vec::new(),
            notifiers: BTreeMap::new(),
            notify: notify::NotifyRule::default(),
            heartbeat_url: None,
            raw: Arc::default(),
        }
    }
}

impl Settings {
    /// Whether the wrapper of that job is ours, by its file's name (rules.md 23). `by_default`: it is where no
    /// wrapper is configured.
    pub fn is_wrapper_ours(&self, spec: &JobSpec, by_default: bool) -> bool {
        let path = spec.wrapper_path.as_ref().or(self.default_wrapper_path.as_ref());
        path.map_or(by_default, |path| {
            let program = path.split_whitespace().next();
            program.is_some_and(|word| word.rsplit('/').next() == Some("sp-wrapper"))
        })
    }

    /// Whether the wrapper of that job is told to connect with TLS. One that is to take its
    /// job from the socket is taken for ours under any name.
    pub fn is_wrapper_tls(&self, spec: &JobSpec, by_default: bool) -> bool {
        let is_ours = spec.delivery == Delivery::Socket || self.is_wrapper_ours(spec, by_default);
        self.wrapper_tls && is_ours
    }

    /// The name under which wrappers of that job reach the daemon; None: the host's name.
    pub fn server_host<'a>(&'a self, spec: &'a JobSpec) -> Option<&'a str> {
        let host = spec.saltpeter_server_host.as_ref();
        host.or(self.default_saltpeter_server_host.as_ref())
            .map(String::as_str)
    }
}

/// An entry of `api_tokens`: the token itself is never configured, only its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// For logs and the audit. Who may what goes by the digest alone: two tokens may share a name while one takes the other's place.
    pub name: String,
    pub role: Role,
    pub sha256: [u8; 32],
}

/// What a token's bearer may do; each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Read,
    Operate,
    Admin,
}

/// Something wrong in a job file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// File name within the directory; empty: the directory itself, or the daemon's own trouble.
    pub file: String,
    /// 1-based; None where the parser cannot tell.
    pub line: Option<usize>,
    /// Job or section, and field: `backup.min`; empty: the whole file.
    pub field: String,
    pub reason: String,
    pub severity: Severity,
}

/// How bad a [`Problem`] is: an error keeps something from being in force, a warning does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Warning,
    Error,
}

impl Problem {
    /// An error that concerns a file as a whole.
    fn of_file(file: &str, line: Option<usize>, reason: String) -> Problem {
        Problem {
            file: file.to_string(),
            line,
            field: String::new(),
            reason,
            severity: Severity::Error,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match (self.file.as_str(), self.line) {
            ("", _) => String::new(),
            (file, Some(line)) => format!("{file}:{line}: "),
            (file, None) => format!("{file}: "),
        };
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let field = if self.field.is_empty() {
            String::new()
        } else {
            format!("{}: ", self.field.escape_debug())
        };
        write!(f, "{}{severity}: {field}{}", place.escape_debug(), self.reason)
    }
}

/// Logs each problem that is new, and that files were mended. Told once: a problem that stays is not repeated.
pub fn log_problems(before: &[Problem], now: &[Problem]) {
    // the line moves when something above is edited: that makes no new problem
    let told = |problem: &Problem| {
        Problem {
            line: None,
            ..problem.clone()
        }
        .to_string()
    };
    let known: std::collections::HashSet<String> = before.iter().map(told).collect();
    for problem in now.iter().filter(|problem| !known.contains(&told(problem))) {
        let text = problem.to_string();
        match problem.severity {
            Severity::Error => log::error!("configuration: {text}"),
            Severity::Warning => log::warn!("configuration: {text}"),
        }
    }
    if now.is_empty() && !before.is_empty() {
        log::info!("configuration: every problem is mended");
    }
}
