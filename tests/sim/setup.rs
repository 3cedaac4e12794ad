//! What a simulated installation consists of: machines, jobs, how commands behave.
//! Must not know: when anything happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use saltpeter::config::notifiers::{Channel, Notifier, Webhook};
use saltpeter::config::notify::JobNotices;
use saltpeter::config::{Config, Delivery, Job, JobSpec, Maintenance, RawJob, Settings, Success, Targets};
use saltpeter::schedule::{Fields, Schedule, Tz};
use saltpeter::url::HttpUrl;

use crate::rng::Rng;
use crate::world::World;

/// Path of the deployed Python wrapper.
pub const PYTHON_PATH: &str = "/usr/local/bin/sp_wrapper.py";
/// Path of ours.
pub const OUR_PATH: &str = "/usr/bin/sp-wrapper";

/// A machine of the fleet.
#[derive(Clone, Debug)]
pub struct Machine {
    pub name: String,
    pub up: bool,
    /// Its clock is off by that much.
    pub skew_ms: i64,
    /// No connection gets through.
    pub cut_off: bool,
    /// Until then it starts nothing that it is told to start.
    pub frozen_until_ms: u64,
}

/// Which wrapper a job uses, and how its command gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours, the job over the socket.
    OursJob,
    /// Ours, the job in the environment.
    OursEnv,
    /// The deployed one.
    Python,
}

/// A job as the simulation configures it.
#[derive(Clone, Debug)]
pub struct JobSetup {
    pub name: String,
    pub present: bool,
    pub enabled: bool,
    pub sec: String,
    pub min: String,
    pub hour: String,
    pub kind: Kind,
    pub targets: Vec<String>,
    pub timeout_s: u64,
    pub number_of_targets: usize,
    pub batch_size: usize,
    pub success: Success,
    pub max_failures: Option<usize>,
    pub allow_overlap: bool,
    pub output_limit_bytes: u64,
    pub start_deadline_s: Option<i64>,
    pub notices: JobNotices,
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

/// What a command does once started.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    pub duration_ms: u64,
    pub end: End,
    pub chunks: u32,
    pub chunk_every_ms: u64,
    pub chunk_bytes: usize,
    /// Only SIGKILL ends it.
    pub ignores_term: bool,
    /// The wrapper beats, but obeys neither kill nor timeout.
    pub stuck: bool,
}

impl Machine {
    pub fn new(name: &str) -> Machine {
        Machine {
            name: name.into(),
            up: true,
            skew_ms: 0,
            cut_off: false,
            frozen_until_ms: 0,
        }
    }
}

impl JobSetup {
    /// Never due by itself.
    pub fn new(name: &str, kind: Kind) -> JobSetup {
        JobSetup {
            name: name.into(),
            present: true,
            enabled: true,
            sec: "0".into(),
            min: "0".into(),
            hour: "0".into(),
            kind,
            targets: vec!["*".into()],
            timeout_s: 3600,
            number_of_targets: 0,
            batch_size: 0,
            success: Success::All,
            max_failures: None,
            allow_overlap: false,
            output_limit_bytes: 100 << 20,
            start_deadline_s: Some(60),
            notices: JobNotices::default(),
        }
    }

    pub fn job(&self) -> Job {
        let fields = Fields {
            sec: self.sec.clone(),
            min: self.min.clone(),
            hour: self.hour.clone(),
            dom: "*".into(),
            mon: "*".into(),
            dow: "*".into(),
            year: "*".into(),
        };
        let python = self.kind == Kind::Python;
        let spec = JobSpec {
            group: "sim".into(),
            command: format!("run {}", self.name),
            targets: match &self.targets[..] {
                [one] if one == "*" => Targets::Text("*".into()),
                list => Targets::List(list.to_vec()),
            },
            target_type: if self.targets[0] == "*" {
                "glob".into()
            } else {
                "list".into()
            },
            env: BTreeMap::from([("JOB".to_string(), self.name.clone())]),
            timeout_s: self.timeout_s,
            number_of_targets: self.number_of_targets,
            batch_size: self.batch_size,
            success: self.success,
            max_failures: self.max_failures,
            allow_overlap: self.allow_overlap,
            use_wrapper: true,
            wrapper_path: Some(if python { PYTHON_PATH } else { OUR_PATH }.into()),
            output_limit_bytes: self.output_limit_bytes,
            heartbeat_timeout_ms: 15_000,
            start_timeout_ms: 30_000,
            start_deadline_s: self.start_deadline_s,
            delivery: if self.kind == Kind::OursEnv {
                Delivery::Env
            } else {
                Delivery::Auto
            },
            ..JobSpec::default()
        };
        Job {
            name: self.name.clone(),
            group: "sim".into(),
            enabled: self.enabled,
            description: String::new(),
            schedule: Schedule::parse(&fields, Tz::UTC).expect("the simulation's schedules are valid"),
            spec: Arc::new(spec),
            notices: self.notices.clone(),
            raw: RawJob::default(),
        }
    }
}

impl Behaviour {
    /// Prints a little and ends well.
    pub fn simple(duration_ms: u64, code: i32) -> Behaviour {
        Behaviour {
            duration_ms,
            end: End::Code(code),
            chunks: 3,
            chunk_every_ms: (duration_ms / 4).max(1),
            chunk_bytes: 20,
            ignores_term: false,
            stuck: false,
        }
    }

    /// Prints nothing at all.
    pub fn silent(duration_ms: u64, code: i32) -> Behaviour {
        Behaviour {
            chunks: 0,
            ..Behaviour::simple(duration_ms, code)
        }
    }

    pub fn draw(rng: &mut Rng) -> Behaviour {
        let duration_ms = match rng.below(10) {
            0 => 0,
            1..=3 => rng.range(1, 2_000),
            4..=6 => rng.range(2_000, 30_000),
            7..=8 => rng.range(30_000, 200_000),
            _ => rng.range(200_000, 900_000),
        };
        let end = match rng.below(10) {
            0..=5 => End::Code(0),
            6..=7 => End::Code(rng.range(1, 70) as i32),
            _ => End::Signal(*rng.pick(&[1, 2, 6, 9, 11, 13, 15])),
        };
        let chunks = match rng.below(8) {
            0..=1 => 0,
            2..=5 => rng.range(1, 12),
            6 => rng.range(10, 60),
            _ => rng.range(60, 200),
        } as u32;
        Behaviour {
            duration_ms,
            end,
            chunks,
            chunk_every_ms: match rng.below(4) {
                0 => 1,
                1 => rng.range(5, 200),
                _ => rng.range(200, 15_000),
            },
            chunk_bytes: if rng.chance(100) {
                3_000
            } else {
                rng.range(0, 200) as usize
            },
            ignores_term: rng.chance(150),
            stuck: rng.chance(60),
        }
    }
}

impl World {
    /// Makes the configuration anew from what the jobs are now.
    pub fn rebuild_config(&mut self) {
        let mut config = Config {
            settings: Arc::new(settings(self.has_heartbeat)),
            maintenance: self.config.maintenance.clone(),
            serial: self.config.serial + 1,
            ..Config::default()
        };
        for setup in self.jobs.values().filter(|j| j.present) {
            let job = setup.job();
            let job = match self.config.jobs.get(&setup.name) {
                Some(old) if **old == job => old.clone(),
                _ => Arc::new(job),
            };
            config.jobs.insert(setup.name.clone(), job);
        }
        self.config = Arc::new(config);
    }

    pub fn set_maintenance(&mut self, global: bool, machines: &[String]) {
        let mut config = (*self.config).clone();
        config.serial += 1;
        config.maintenance = Maintenance {
            global,
            machines: machines.iter().cloned().collect::<BTreeSet<_>>(),
        };
        self.config = Arc::new(config);
    }

    pub fn machine_index(&self, name: &str) -> usize {
        self.machines
            .iter()
            .position(|m| m.name == name)
            .unwrap_or(usize::MAX)
    }
}

/// With one destination, `ops`, for the jobs that name it.
fn settings(has_heartbeat: bool) -> Settings {
    let ops = Notifier {
        name: "ops".into(),
        channel: Channel::Webhook(Webhook::default()),
    };
    Settings {
        notifiers: BTreeMap::from([("ops".to_string(), Arc::new(ops))]),
        heartbeat_url: HttpUrl::parse("https://hc/1").ok().filter(|_| has_heartbeat),
        ..Settings::default()
    }
}
