//! What was last good of each file: in memory, and in a directory that outlives the daemon.
//! Must not know: how a file came to be bad.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::job_fields::Source;
use super::lines::Lines;
use super::node::Node;
use super::timing::Schedules;
use super::validate::{self, Defaults};
use super::{Job, Maintenance, settings};

/// The content of one file that is in force.
#[derive(Default)]
pub struct LastGood {
    pub jobs: BTreeMap<String, Arc<Job>>,
    /// Keys of `saltpeter_config` that [`settings::apply`] takes.
    pub settings: Vec<(String, Node)>,
    pub maintenance: Maintenance,
}

/// The directory `last-good`: `FILE.json` for each job file, 0600 since it holds what the job files hold.
pub struct Store {
    dir: PathBuf,
}

impl LastGood {
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.settings.is_empty() && self.maintenance == Maintenance::default()
    }

    /// Takes from `other` what is not here.
    pub fn add_missing(&mut self, other: LastGood) {
        for (name, job) in other.jobs {
            self.jobs.entry(name).or_insert(job);
        }
        for (key, node) in other.settings {
            if !self.settings.iter().any(|(known, _)| *known == key) {
                self.settings.push((key, node));
            }
        }
        if self.maintenance == Maintenance::default() {
            self.maintenance = other.maintenance;
        }
    }

    /// Jobs with their environment as it is in force: how its values were quoted is not known any more.
    fn to_json(&self) -> Value {
        let mut jobs = Map::new();
        for (name, job) in &self.jobs {
            let mut fields = job.raw.fields();
            fields.remove("group");
            if !job.spec.env.is_empty() {
                fields.insert("env".to_string(), json!(job.spec.env));
            }
            jobs.insert(name.clone(), Value::Object(fields));
        }
        let settings: Map<String, Value> = self
            .settings
            .iter()
            .map(|(key, node)| (key.clone(), node.to_json()))
            .collect();
        json!({
            "jobs": jobs,
            settings::CONFIG_SECTION: settings,
            settings::MAINTENANCE_SECTION:
                {"global": self.maintenance.global, "machines": self.maintenance.machines},
        })
    }
}

impl Store {
    pub fn new(dir: PathBuf) -> Store {
        Store { dir }
    }

    /// Whether anything is kept of the file.
    pub fn has(&self, file: &str) -> bool {
        self.path(file).is_file()
    }

    /// The files of which something is kept.
    pub fn files(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let file = name.strip_suffix(SUFFIX)?;
            file.ends_with(".yaml").then(|| file.to_string())
        });
        names.collect()
    }

    /// What is kept of the file; nothing if nothing is, or if it is not readable. Jobs that this version of the
    /// daemon does not take are left out.
    pub fn read(&self, file: &str, group: &str, defaults: &Defaults) -> LastGood {
        let mut good = LastGood::default();
        let Ok(bytes) = fs::read(self.path(file)) else {
            return good;
        };
        let Ok(Value::Object(kept)) = serde_json::from_slice(&bytes) else {
            return good;
        };
        let lines = Lines::new(b"");
        let mut schedules = Schedules::default();
        let source = Source { file, lines: &lines };
        for (name, fields) in kept.get("jobs").and_then(Value::as_object).into_iter().flatten() {
            let node = Node::from_json(fields);
            // its problems are old news
            if let Some(job) = validate::job(
                source,
                group,
                name,
                &node,
                defaults,
                &mut schedules,
                &mut Vec::new(),
            ) {
                good.jobs.insert(name.clone(), Arc::new(job));
            }
        }
        for (key, value) in kept
            .get(settings::CONFIG_SECTION)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            good.settings.push((key.clone(), Node::from_json(value)));
        }
        if let Some(value) = kept.get(settings::MAINTENANCE_SECTION) {
            good.maintenance = settings::maintenance(&Node::from_json(value), |_, _| {}).unwrap_or_default();
        }
        good
    }

    /// Keeps the content, whole or not at all. What is kept already is not written again.
    pub fn save(&self, file: &str, good: &LastGood) -> io::Result<()> {
        let bytes = serde_json::to_vec(&good.to_json())?;
        let path = self.path(file);
        if fs::read(&path).is_ok_and(|kept| kept == bytes) {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let unfinished = self.dir.join(UNFINISHED);
        let mut options = OpenOptions::new();
        let mut target = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        target.write_all(&bytes)?;
        target.sync_data()?;
        fs::rename(&unfinished, &path)
    }

    /// Removes what is kept of files that are gone.
    pub fn forget_others(&self, files: &BTreeSet<&str>) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let gone = name
                .to_str()
                .and_then(|name| name.strip_suffix(SUFFIX))
                .is_some_and(|file| file.ends_with(".yaml") && !files.contains(file));
            if gone && let Err(error) = fs::remove_file(entry.path()) {
                log::warn!("cannot remove '{}': {error}", entry.path().display());
            }
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.join(format!("{file}{SUFFIX}"))
    }
}

const SUFFIX: &str = ".json";
const UNFINISHED: &str = ".unfinished";
