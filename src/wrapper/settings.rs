//! The `SP_*` environment, read once before anything else, and the launch that follows from it or from the
//! daemon's order. Must not know: sockets, processes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::limits;
use crate::process::order::{CommandSpec, LockRequest};
use crate::protocol::JobOrder;
use crate::wrapper::channel::{Address, Security};

/// What the launcher asked for, validated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// With the run's token: never logged.
    pub url: String,
    /// How the peer at that address is known.
    pub security: Security,
    pub job: String,
    pub instance: String,
    /// None: the minion's id, else the host's full name.
    pub machine: Option<String>,
    /// `SP_COMMAND` and what belongs to it; None: the job comes over the socket.
    pub own_job: Option<OwnJob>,
    pub tunables: Tunables,
    pub log_directory: OsString,
    /// What the launcher had before it raised its own limit.
    descriptors: Option<u64>,
    /// The launcher's environment, for the command's part of it.
    environment: Vec<(OsString, OsString)>,
}

/// The job of a wrapper that was started the classic way.
#[derive(Clone, Debug)]
pub struct OwnJob {
    pub command: OsString,
    pub cwd: Option<OsString>,
    pub user: Option<OsString>,
    pub timeout_s: u64,
    pub allow_overlap: bool,
    pub lockfile: Option<OsString>,
}

/// What a job's environment may change as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunables {
    pub output_interval_ms: u64,
    pub spool_limit_bytes: u64,
    pub log_level: log::LevelFilter,
}

/// A run's launch, and for how long it may run (0: for ever).
#[derive(Clone, Debug)]
pub struct Start {
    pub launch: CommandSpec,
    pub timeout_s: u64,
}

/// Settings of the wrapper that the command must not see.
const PRIVATE: [&str; 14] = [
    "SP_DESCRIPTOR_LIMIT",
    "SP_WEBSOCKET_URL",
    "SP_COMMAND",
    "SP_CWD",
    "SP_USER",
    "SP_OUTPUT_INTERVAL_MS",
    "SP_SPOOL_LIMIT",
    "SP_WRAPPER_LOGLEVEL",
    "SP_WRAPPER_LOGDIR",
    "SP_ALLOW_OVERLAP",
    "SP_LOCKFILE",
    "SP_TLS_PIN",
    "SP_TLS_CA",
    "SP_TEST_PANIC",
];

impl Settings {
    /// Reads the environment. The error is the line for stderr.
    pub fn from_environment(environment: Vec<(OsString, OsString)>) -> Result<Settings, String> {
        let raw = |name: &str| {
            let found = environment.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value).filter(|value| !value.is_empty())
        };
        let text = |name: &str| raw(name).map(|value| value.to_string_lossy().into_owned());
        let required = |name: &str| {
            text(name).ok_or_else(|| format!("{name} is not set: the daemon's dispatch sets it"))
        };
        let url = required("SP_WEBSOCKET_URL")?;
        let security = Security::of(
            &url,
            text("SP_TLS_PIN").as_deref(),
            raw("SP_TLS_CA").map(OsString::as_os_str),
        )?;
        Address::of(&url)?;
        let job = required("SP_JOB_NAME")?;
        let instance = text("SP_JOB_INSTANCE")
            .or_else(|| text("SP_JOB_INSTANCE_NAME"))
            .ok_or("SP_JOB_INSTANCE is not set: the daemon's dispatch sets it")?;
        let own_job = raw("SP_COMMAND").map(|command| OwnJob {
            command: command.clone(),
            cwd: raw("SP_CWD").cloned(),
            user: raw("SP_USER").cloned(),
            timeout_s: text("SP_TIMEOUT").map_or(0, |value| seconds(&value)),
            allow_overlap: text("SP_ALLOW_OVERLAP").is_none_or(|value| is_true(&value)),
            lockfile: raw("SP_LOCKFILE").cloned(),
        });
        let mut tunables = Tunables::default();
        for (name, value) in &environment {
            tunables.apply(&name.to_string_lossy(), &value.to_string_lossy());
        }
        let machine = text("SP_MACHINE_ID");
        let descriptors = text("SP_DESCRIPTOR_LIMIT").and_then(|limit| limit.parse().ok());
        let log_directory = raw("SP_WRAPPER_LOGDIR")
            .cloned()
            .unwrap_or_else(|| "/var/log/sp_wrapper".into());
        Ok(Settings {
            url,
            security,
            job,
            instance,
            machine,
            own_job,
            tunables,
            log_directory,
            descriptors,
            environment,
        })
    }

    /// What to start the classic way. None: the job comes over the socket.
    pub fn own_start(&self, machine: &str) -> Option<Start> {
        let own = self.own_job.as_ref()?;
        let inherited = self
            .environment
            .iter()
            .filter(|(name, _)| !PRIVATE.iter().any(|private| name == private))
            .cloned();
        let mut launch = CommandSpec {
            command: own.command.clone(),
            cwd: own.cwd.clone(),
            user: own.user.clone(),
            inherited: inherited.collect(),
            own: self.names_of_the_run(machine),
            lock: self.lock(own.allow_overlap, own.lockfile.as_ref(), machine),
            descriptors: self.descriptors,
        };
        if !launch
            .inherited
            .iter()
            .any(|(name, _)| name == "PYTHONUNBUFFERED")
        {
            launch.own.push(("PYTHONUNBUFFERED".into(), "1".into()));
        }
        Some(Start {
            launch,
            timeout_s: own.timeout_s,
        })
    }

    /// What to start by the daemon's order.
    pub fn ordered_start(&self, order: &JobOrder, machine: &str) -> Start {
        let mut own = vec![("PYTHONUNBUFFERED".into(), "1".into())];
        own.extend(self.names_of_the_run(machine));
        own.push(("SP_TIMEOUT".into(), order.timeout.to_string().into()));
        own.extend(order.env.iter().map(|(name, value)| (name.into(), value.into())));
        let lockfile = order.lockfile.as_ref().map(OsString::from);
        let inherited = self
            .environment
            .iter()
            .filter(|(name, _)| is_inherited(name))
            .cloned();
        Start {
            launch: CommandSpec {
                command: order.command.clone().into(),
                cwd: order
                    .cwd
                    .as_ref()
                    .filter(|cwd| !cwd.is_empty())
                    .map(OsString::from),
                user: order
                    .user
                    .as_ref()
                    .filter(|user| !user.is_empty())
                    .map(OsString::from),
                inherited: inherited.collect(),
                own,
                lock: self.lock(order.allow_overlap, lockfile.as_ref(), machine),
                descriptors: self.descriptors,
            },
            timeout_s: order.timeout,
        }
    }

    fn names_of_the_run(&self, machine: &str) -> Vec<(OsString, OsString)> {
        vec![
            ("SP_JOB_NAME".into(), (&self.job).into()),
            ("SP_JOB_INSTANCE".into(), (&self.instance).into()),
            ("SP_JOB_INSTANCE_NAME".into(), (&self.instance).into()),
            ("SP_MACHINE_ID".into(), machine.into()),
        ]
    }

    fn lock(&self, allow_overlap: bool, path: Option<&OsString>, machine: &str) -> Option<LockRequest> {
        (!allow_overlap).then(|| LockRequest {
            path: path.filter(|path| !path.is_empty()).cloned(),
            job: (&self.job).into(),
            machine: machine.into(),
        })
    }
}

impl Default for Tunables {
    fn default() -> Tunables {
        Tunables {
            output_interval_ms: limits::OUTPUT_INTERVAL_MS,
            spool_limit_bytes: limits::SPOOL_DISK_BYTES,
            log_level: log::LevelFilter::Info,
        }
    }
}

impl Tunables {
    /// Takes one variable, if it is one of its own and makes sense.
    pub fn apply(&mut self, name: &str, value: &str) {
        match name {
            "SP_OUTPUT_INTERVAL_MS" => {
                if let Ok(interval) = value.trim().parse() {
                    self.output_interval_ms = interval;
                }
            }
            "SP_SPOOL_LIMIT" => {
                if let Ok(limit) = value.trim().parse() {
                    self.spool_limit_bytes = limit;
                }
            }
            "SP_WRAPPER_LOGLEVEL" => {
                self.log_level = match value.trim().to_ascii_lowercase().as_str() {
                    "off" => log::LevelFilter::Off,
                    "debug" => log::LevelFilter::Debug,
                    _ => log::LevelFilter::Info,
                }
            }
            _ => {}
        }
    }
}

fn is_inherited(name: &OsStr) -> bool {
    matches!(name.as_bytes(), b"PATH" | b"LANG" | b"LANGUAGE" | b"TZ") || name.as_bytes().starts_with(b"LC_")
}

/// Whole seconds, fractions rounded up; no timeout where it is not a number.
fn seconds(value: &str) -> u64 {
    let seconds: f64 = value.trim().parse().unwrap_or(0.0);
    // a cast of a float saturates; NaN becomes 0
    seconds.ceil().max(0.0) as u64
}

fn is_true(value: &str) -> bool {
    !matches!(
        value.trim().to_ascii_lowercase().as_str(),
        "false" | "0" | "no" | "off"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        let required = [
            ("SP_WEBSOCKET_URL", "ws://h:1/?token=t"),
            ("SP_JOB_NAME", "j"),
            ("SP_JOB_INSTANCE_NAME", "j_1"),
        ];
        let all = required.iter().chain(pairs);
        all.map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn names(start: &Start) -> Vec<String> {
        let all = start.launch.inherited.iter().chain(&start.launch.own);
        all.map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_missing_setting_is_named() {
        for missing in ["SP_WEBSOCKET_URL", "SP_JOB_NAME", "SP_JOB_INSTANCE_NAME"] {
            let mut all = environment(&[]);
            all.retain(|(name, _)| name != missing);
            let message = Settings::from_environment(all).unwrap_err();
            assert!(message.contains(missing.trim_end_matches("_NAME")), "{message}");
        }
        assert!(Settings::from_environment(environment(&[])).is_ok());
    }

    #[test]
    fn the_token_and_the_settings_do_not_reach_the_command() {
        let extra = [
            ("SP_COMMAND", "secret"),
            ("SP_TIMEOUT", "1.5"),
            ("SP_USER", "nobody"),
            ("A", "1"),
            ("PATH", "/bin"),
        ];
        let settings = Settings::from_environment(environment(&extra)).unwrap();
        let start = settings.own_start("m").unwrap();
        assert_eq!(start.timeout_s, 2);
        let names = names(&start);
        for expected in [
            "A",
            "PATH",
            "SP_TIMEOUT",
            "SP_JOB_NAME",
            "SP_JOB_INSTANCE",
            "SP_MACHINE_ID",
            "PYTHONUNBUFFERED",
        ] {
            assert!(
                names.iter().any(|name| name == expected),
                "{expected} in {names:?}"
            );
        }
        for hidden in ["SP_WEBSOCKET_URL", "SP_COMMAND", "SP_USER"] {
            assert!(!names.iter().any(|name| name == hidden), "{hidden} in {names:?}");
        }
    }

    #[test]
    fn an_ordered_job_gets_path_locale_its_names_and_its_own() {
        let extra = [("PATH", "/bin"), ("LC_ALL", "C"), ("SECRET", "x")];
        let settings = Settings::from_environment(environment(&extra)).unwrap();
        let order = JobOrder {
            command: "true".into(),
            env: [("A".to_string(), "1".to_string())].into(),
            cwd: Some(String::new()),
            ..JobOrder::default()
        };
        let start = settings.ordered_start(&order, "m");
        let expected = [
            "PATH",
            "LC_ALL",
            "PYTHONUNBUFFERED",
            "SP_JOB_NAME",
            "SP_JOB_INSTANCE",
            "SP_JOB_INSTANCE_NAME",
            "SP_MACHINE_ID",
            "SP_TIMEOUT",
            "A",
        ];
        assert_eq!(names(&start), expected);
        assert_eq!(start.launch.cwd, None);
        assert!(start.launch.lock.is_some());
    }

    #[test]
    fn tls_needs_somebody_to_trust() {
        let refusal = |pairs: &[(&str, &str)]| {
            let mut all = environment(pairs);
            all.retain(|(name, _)| name != "SP_WEBSOCKET_URL");
            all.push(("SP_WEBSOCKET_URL".into(), "wss://h:1/?token=t".into()));
            Settings::from_environment(all).err().unwrap_or_default()
        };
        if cfg!(not(feature = "tls")) {
            assert!(refusal(&[]).contains("built without"));
            return;
        }
        assert!(refusal(&[]).contains("SP_TLS_PIN or SP_TLS_CA"));
        assert!(refusal(&[("SP_TLS_PIN", "sha256:oops")]).starts_with("SP_TLS_PIN must be"));
        assert!(refusal(&[("SP_TLS_CA", "/nowhere")]).starts_with("SP_TLS_CA '/nowhere': No such"));
        let pin = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(refusal(&[("SP_TLS_PIN", &pin)]), "");
    }

    #[test]
    fn odd_values_leave_the_defaults() {
        let mut tunables = Tunables::default();
        tunables.apply("SP_OUTPUT_INTERVAL_MS", "fast");
        tunables.apply("SP_WRAPPER_LOGLEVEL", "debug");
        assert_eq!(tunables.output_interval_ms, limits::OUTPUT_INTERVAL_MS);
        assert_eq!(tunables.log_level, log::LevelFilter::Debug);
        assert_eq!(seconds("-3"), 0);
        assert_eq!(seconds("soon"), 0);
        assert!(is_true("i know what i am doing!") && !is_true("False"));
    }
}
