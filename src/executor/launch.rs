//! One wrapper's launch on this host: which program, with which environment.
//! Must not know: queues, how its end is awaited.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::endpoint::Route;
use crate::config::{JobSpec, Settings};
use crate::engine::effect::Dispatch;
use crate::engine::record::Handover;
use crate::process::descriptors;
use crate::safe_name::safe_name;

/// What the wrapper keeps of the daemon's own environment: what a command may see of its launcher, and where a
/// wrapper without root has its private directories.
const KEPT: [&str; 11] = [
    "PATH",
    "LANG",
    "LANGUAGE",
    "TZ",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_CACHE_HOME",
];

/// Where our own programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    daemon: PathBuf,
}

/// The program to start, and its name for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub argv0: Option<&'static str>,
}

impl Programs {
    /// Finds this process's own file.
    pub fn find() -> Programs {
        let daemon = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        Programs {
            daemon: without_deleted(daemon),
        }
    }

    /// The wrapper of a job (rules.md 28).
    pub fn wrapper(&self, spec: &JobSpec, settings: &Settings) -> Program {
        let configured = spec
            .wrapper_path
            .as_ref()
            .or(settings.default_wrapper_path.as_ref());
        if let Some(path) = configured {
            return Program {
                path: path.into(),
                argv0: None,
            };
        }
        let beside = self.daemon.with_file_name("sp-wrapper");
        if beside.is_file() {
            return Program {
                path: beside,
                argv0: None,
            };
        }
        // replaced or removed while the daemon runs: the kernel still has what runs
        let path = if self.daemon.is_file() {
            self.daemon.clone()
        } else {
            "/proc/self/exe".into()
        };
        Program {
            path,
            argv0: Some("sp-wrapper"),
        }
    }
}

/// The kernel marks a program that was replaced while it runs.
fn without_deleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(original) => original.into(),
        None => path,
    }
}

/// Starts it. Nothing here may leave std's posix_spawn path (no pre_exec, uid, gid): forking a large daemon takes
/// tens of milliseconds.
pub fn spawn(program: &Program, environment: &BTreeMap<OsString, OsString>) -> io::Result<Child> {
    let mut command = Command::new(&program.path);
    if let Some(argv0) = program.argv0 {
        command.arg0(argv0);
    }
    command
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // a Ctrl-C at the daemon's terminal is not meant for wrappers
        .process_group(0)
        .spawn()
}

/// A path without slash would be looked up in PATH, by the wrapper's environment: refuse it instead.
pub fn check(path: &Path) -> Result<(), String> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(format!(
            "the wrapper '{}' is not an absolute path",
            path.display()
        ))
    }
}

/// The environment of one machine's wrapper on this host.
pub fn environment(
    dispatch: &Dispatch,
    machine: &str,
    program: &Path,
    route: &Route,
    settings: &Settings,
    own: impl Iterator<Item = (OsString, OsString)>,
) -> BTreeMap<OsString, OsString> {
    let mut environment: BTreeMap<OsString, OsString> = own
        .filter(|(name, _)| {
            name.to_str()
                .is_some_and(|name| KEPT.contains(&name) || name.starts_with("LC_"))
        })
        .collect();
    for (name, value) in settings_of(dispatch, route, settings) {
        environment.insert(name.into(), value.into());
    }
    environment.insert("SP_MACHINE_ID".into(), machine.into());
    if let Some(limit) = descriptors::inherited_limit() {
        environment.insert("SP_DESCRIPTOR_LIMIT".into(), limit.to_string().into());
    }
    if let Some(lockfile) = lockfile(dispatch, machine, program, settings) {
        environment.insert("SP_LOCKFILE".into(), lockfile.into());
    }
    environment
}

/// Several machines share this host's file system (rules.md 28). A Python wrapper's own lock is named after the job alone: where
/// the executor plays several machines, each gets a lock file.
fn lockfile(dispatch: &Dispatch, machine: &str, program: &Path, settings: &Settings) -> Option<String> {
    if dispatch.handover != Handover::InDispatch {
        return None;
    }
    if let Some(lockfile) = &dispatch.spec.lockfile {
        return Some(format!("{lockfile}.{machine}"));
    }
    let is_python = program.extension().is_some_and(|extension| extension == "py");
    let plays_several = settings
        .local_machines
        .as_ref()
        .is_some_and(|machines| machines.len() > 1);
    let is_needed = is_python && plays_several && !dispatch.spec.allow_overlap;
    is_needed.then(|| {
        let (job, machine) = (safe_name(&dispatch.job), safe_name(machine));
        format!("/tmp/sp_wrapper_{job}.lock.{machine}")
    })
}

/// What every wrapper of a dispatch is told, whichever machine it is on.
pub fn settings_of(dispatch: &Dispatch, route: &Route, settings: &Settings) -> BTreeMap<String, String> {
    let spec = &dispatch.spec;
    let mut environment = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        environment.insert(name.to_string(), value.to_string());
    };
    if dispatch.handover == Handover::InDispatch {
        for (name, value) in &spec.env {
            set(name, value);
        }
        set("SP_COMMAND", &spec.command);
        if let Some(cwd) = &spec.cwd {
            set("SP_CWD", cwd);
        }
        if let Some(user) = &spec.user {
            set("SP_USER", user);
        }
        // a Python wrapper takes 0 for "at once" (rules.md 22)
        if spec.timeout_s > 0 {
            set("SP_TIMEOUT", &spec.timeout_s.to_string());
        }
        set(
            "SP_ALLOW_OVERLAP",
            if spec.allow_overlap { "true" } else { "false" },
        );
        if let Some(lockfile) = &spec.lockfile {
            set("SP_LOCKFILE", lockfile);
        }
    }
    set(
        "SP_WEBSOCKET_URL",
        &format!("{}?token={}", route.url, dispatch.token),
    );
    if let Some(pin) = &route.pin {
        set("SP_TLS_PIN", &pin.to_string());
    }
    set("SP_JOB_NAME", &dispatch.job);
    set("SP_JOB_INSTANCE", &dispatch.instance);
    set("SP_JOB_INSTANCE_NAME", &dispatch.instance);
    let loglevel = spec.wrapper_loglevel.as_ref();
    set(
        "SP_WRAPPER_LOGLEVEL",
        loglevel.unwrap_or(&settings.default_wrapper_loglevel),
    );
    let logdir = spec.wrapper_logdir.as_ref();
    set(
        "SP_WRAPPER_LOGDIR",
        logdir.unwrap_or(&settings.default_wrapper_logdir),
    );
    environment
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn dispatch(handover: Handover) -> Dispatch {
        Dispatch {
            run: Default::default(),
            job: "backup".into(),
            instance: "backup_1".into(),
            token: "abcd".into(),
            spec: Arc::new(JobSpec {
                command: "secret command".into(),
                env: [("KEY", "v"), ("SP_MACHINE_ID", "forged")]
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .into(),
                lockfile: Some("/run/lock/b".into()),
                ..JobSpec::default()
            }),
            machines: Vec::new(),
            handover,
            at: Default::default(),
            again: false,
        }
    }

    fn environment_of(handover: Handover) -> BTreeMap<String, String> {
        let own = [("PATH", "/bin"), ("LC_ALL", "C"), ("DAEMON_SECRET", "x")];
        let own = own
            .into_iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        environment(
            &dispatch(handover),
            "web01",
            Path::new("/usr/bin/sp-wrapper"),
            &Route {
                url: "ws://127.0.0.1:1/".into(),
                pin: None,
            },
            &Settings::default(),
            own,
        )
        .into_iter()
        .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
        .collect()
    }

    #[test]
    fn with_job_delivery_the_dispatch_carries_no_command_and_no_env() {
        let environment = environment_of(Handover::OverSocket);
        let names: Vec<&str> = environment.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "LC_ALL",
                "PATH",
                "SP_JOB_INSTANCE",
                "SP_JOB_INSTANCE_NAME",
                "SP_JOB_NAME",
                "SP_MACHINE_ID",
                "SP_WEBSOCKET_URL",
                "SP_WRAPPER_LOGDIR",
                "SP_WRAPPER_LOGLEVEL"
            ]
        );
        assert_eq!(environment["SP_WEBSOCKET_URL"], "ws://127.0.0.1:1/?token=abcd");
    }

    #[test]
    fn with_env_delivery_the_job_travels_but_cannot_forge_who_it_is() {
        let environment = environment_of(Handover::InDispatch);
        assert_eq!(environment["SP_COMMAND"], "secret command");
        assert_eq!(environment["KEY"], "v");
        assert_eq!(environment["SP_MACHINE_ID"], "web01");
        assert_eq!(environment["SP_LOCKFILE"], "/run/lock/b.web01");
        assert_eq!(environment["SP_ALLOW_OVERLAP"], "false");
        assert!(
            !environment.contains_key("SP_TIMEOUT"),
            "0 means none, and must not be sent"
        );
    }

    #[test]
    fn python_wrappers_of_several_local_machines_have_a_lock_file_each() {
        let lockfile_of = |machine: &str, program: &str, machines: &[&str], given: Option<&str>| {
            let mut dispatch = dispatch(Handover::InDispatch);
            Arc::make_mut(&mut dispatch.spec).lockfile = given.map(str::to_string);
            let settings = Settings {
                local_machines: Some(machines.iter().map(|id| id.to_string()).collect()),
                ..Settings::default()
            };
            lockfile(&dispatch, machine, Path::new(program), &settings)
        };
        let (python, ours) = ("/usr/local/bin/sp_wrapper.py", "/usr/bin/sp-wrapper");
        let both = ["web01", "web02"];
        for machine in both {
            let expected = format!("/tmp/sp_wrapper_backup.lock.{machine}");
            assert_eq!(lockfile_of(machine, python, &both, None), Some(expected));
            assert_eq!(lockfile_of(machine, ours, &both, None), None);
        }
        // one machine: the lock that every Python wrapper of the job takes
        assert_eq!(lockfile_of("web01", python, &["web01"], None), None);
        let given = lockfile_of("web01", python, &both, Some("/run/lock/b"));
        assert_eq!(given.as_deref(), Some("/run/lock/b.web01"));
    }

    #[test]
    fn a_replaced_daemon_still_finds_its_wrapper() {
        let path = without_deleted("/usr/bin/saltpeter (deleted)".into());
        assert_eq!(path, Path::new("/usr/bin/saltpeter"));
        let programs = Programs {
            daemon: "/nowhere/saltpeter".into(),
        };
        let program = programs.wrapper(&JobSpec::default(), &Settings::default());
        assert_eq!(program.path, Path::new("/proc/self/exe"));
        assert_eq!(program.argv0, Some("sp-wrapper"));
    }
}
