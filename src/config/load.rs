//! Reads a configuration directory, again and again: what did not change is not read again, and what went bad keeps
//! its last good content (fine-print.md 29).
//! Must not know: who asks for a reload, and what becomes of the jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{self, Node};
use super::last_good::{Good, Store};
use super::lines::Lines;
use super::settings::{self, CONFIG_SECTION, MAINTENANCE_SECTION};
use super::validate::{self, Defaults, Schedules, Source};
use super::value;
use super::{Config, Job, Maintenance, Problem, Settings, Severity};
use crate::{clock, limits};

/// Where a daemon with that state directory keeps what was last good.
pub fn last_good_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("last-good")
}

/// Holds what the files of one directory said when they were last read.
pub struct Loader {
    dir: PathBuf,
    store: Option<Store>,
    files: BTreeMap<String, FileState>,
    defaults: Defaults,
    /// Problems of the directory itself and of entries that are no job files.
    dir_problems: Vec<Problem>,
    hasher: RandomState,
    /// Of one [`Loader::load`].
    schedules: Schedules,
    /// The store was named and the bad files have not been looked at with it: nothing may be written there yet.
    store_is_new: bool,
    current: Option<Arc<Config>>,
}

/// What is known of one file.
struct FileState {
    stamp: Stamp,
    /// Of the content that was read; None: it could not be read.
    hash: Option<u64>,
    /// The defaults its jobs were validated with.
    defaults: Defaults,
    /// What of it is in force.
    good: Good,
    /// The store was asked for what was good before this process started.
    asked_store: bool,
    /// `good` is newer than the store's.
    unsaved: bool,
    /// An error is among its problems: content is missing or old.
    bad: bool,
    problems: Vec<Problem>,
}

/// Tells a changed file from an unchanged one without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// False: so young that a further change might leave the same stamp.
    settled: bool,
}

/// A file's content, or why there is none.
type Content = Result<Vec<u8>, String>;

impl Loader {
    /// For the `*.yaml` files of `dir`. Reads nothing yet.
    pub fn new(dir: PathBuf) -> Loader {
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        Loader {
            dir,
            store: None,
            files: BTreeMap::new(),
            defaults: settings::defaults(&Settings::default()),
            dir_problems: Vec::new(),
            hasher: RandomState::new(),
            schedules: Schedules::default(),
            store_is_new: false,
            current: None,
        }
    }

    /// The directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where last good content is kept over a restart ([`last_good_dir`], made when first needed); None: nowhere. Bad
    /// files are looked at again with the next [`Loader::load`].
    pub fn set_last_good(&mut self, dir: Option<PathBuf>) {
        self.store = dir.map(Store::new);
        self.store_is_new = true;
        for state in self.files.values_mut() {
            state.asked_store = false;
            state.unsaved = true;
            if state.bad {
                state.hash = None;
                state.stamp.settled = false;
            }
        }
    }

    /// Reads what changed since the last time. The same `Arc` comes back if nothing did.
    ///
    /// `Err`: the directory cannot be read and never could. One that becomes unreadable later keeps what was in
    /// force, with a problem.
    pub fn load(&mut self) -> Result<Arc<Config>, String> {
        match list(&self.dir) {
            Ok(found) => {
                self.store_is_new = false;
                let as_before = self.dir_problems == found.problems;
                self.dir_problems = found.problems;
                if !self.take(found.files)
                    && as_before
                    && let Some(current) = &self.current
                {
                    return Ok(current.clone());
                }
            }
            Err(error) if self.current.is_none() => {
                return Err(format!(
                    "reading the configuration directory '{}': {error}",
                    self.dir.display()
                ));
            }
            Err(error) => {
                let reason = format!(
                    "cannot read the directory '{}': {error}; what was in force stays",
                    self.dir.display()
                );
                self.dir_problems = vec![whole_file("", None, reason)];
            }
        }
        Ok(self.publish())
    }

    /// Writes the last good content of the files that were read since the last call; slow, so it is apart from
    /// [`Loader::load`]. A failure is logged.
    pub fn save_last_good(&mut self) {
        let Some(store) = self.store.as_ref().filter(|_| !self.store_is_new) else {
            return;
        };
        for (file, state) in &mut self.files {
            if std::mem::take(&mut state.unsaved)
                && let Err(error) = store.save(file, &state.good)
            {
                log::warn!("cannot keep the last good content of '{file}': {error}");
                state.unsaved = true;
            }
        }
        let names: BTreeSet<&str> = self.files.keys().map(String::as_str).collect();
        if self.dir_problems.is_empty() {
            store.forget_others(&names);
        }
    }

    /// The state directory in force after the first [`Loader::load`]. Where the file that names it cannot be read any
    /// more, what stands there as its name counts if it keeps the last good content of that file: a daemon that
    /// took the default instead would know nothing of its runs.
    pub fn state_dir(&self) -> PathBuf {
        let is_named = |state: &FileState| state.good.settings.iter().any(|(key, _)| key == STATE_DIR);
        let bad = self.files.iter().filter(|(_, state)| state.bad);
        let mut remembered = bad.filter_map(|(file, _)| {
            let bytes = read(&self.dir.join(file)).ok()?;
            let dir = self.dir.join(named_in_text(&bytes, STATE_DIR)?);
            Store::new(last_good_dir(&dir)).has(file).then_some(dir)
        });
        match self.files.values().any(is_named) {
            true => None,
            false => remembered.next(),
        }
        .unwrap_or_else(|| self.settings().0.state_dir)
    }

    /// What the last [`Loader::load`] gave.
    pub fn current(&self) -> Option<Arc<Config>> {
        self.current.clone()
    }

    /// Whether a file was so young when it was read that it may have changed again under the same stamp.
    pub(super) fn is_unsettled(&self) -> bool {
        self.files.values().any(|state| !state.stamp.settled)
    }

    /// How many files there are, and which of them are links, whose targets may change unseen.
    pub(super) fn links(&self) -> (usize, Vec<PathBuf>) {
        let paths = self.files.keys().map(|file| self.dir.join(file));
        let links = paths.filter(|path| path.is_symlink()).collect();
        (self.files.len(), links)
    }

    /// Reads what is new or changed and forgets what is gone; false: there was nothing to do.
    fn take(&mut self, found: BTreeMap<String, Stamp>) -> bool {
        let known = self.files.len();
        self.files.retain(|file, _| found.contains_key(file));
        let mut changed = Vec::new();
        for (file, stamp) in found {
            let known = self.files.get_mut(&file);
            if known
                .as_ref()
                .is_some_and(|state| state.stamp == stamp && stamp.settled)
            {
                continue;
            }
            let content = read(&self.dir.join(&file));
            let hash = content.as_ref().ok().map(|bytes| self.hasher.hash_one(bytes));
            match known {
                Some(state) if hash.is_some() && state.hash == hash => state.stamp = stamp,
                _ => changed.push((file, stamp, hash, content)),
            }
        }
        if changed.is_empty() && self.files.len() == known {
            return false;
        }
        // settings first: they lend defaults to the jobs of all files
        let (with_settings, others): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .partition(|(_, _, _, content)| has_settings(content));
        for changed in [with_settings, others] {
            for (file, stamp, hash, content) in changed {
                self.evaluate(file, stamp, hash, content);
            }
            self.defaults = settings::defaults(&self.settings().0);
        }
        self.evaluate_outdated();
        self.schedules = Schedules::default();
        true
    }

    /// Reads again the files whose jobs were validated with other defaults.
    fn evaluate_outdated(&mut self) {
        let defaults = self.defaults;
        let outdated: Vec<(String, Stamp)> = self
            .files
            .iter()
            .filter(|(_, state)| state.defaults != defaults)
            .map(|(file, state)| (file.clone(), state.stamp))
            .collect();
        for (file, stamp) in outdated {
            let content = read(&self.dir.join(&file));
            let hash = content.as_ref().ok().map(|bytes| self.hasher.hash_one(bytes));
            self.evaluate(file, stamp, hash, content);
        }
    }

    /// Makes a file's state of its content and of what was good of it before.
    fn evaluate(&mut self, file: String, stamp: Stamp, hash: Option<u64>, content: Content) {
        let previous = self.files.remove(&file);
        let asked_store = previous.as_ref().is_some_and(|state| state.asked_store);
        let mut state = FileState {
            stamp,
            hash,
            defaults: self.defaults,
            good: Good::default(),
            asked_store,
            unsaved: previous.as_ref().is_none_or(|state| state.unsaved),
            bad: false,
            problems: Vec::new(),
        };
        let group = file.strip_suffix(SUFFIX).unwrap_or(&file).to_string();
        let mut past = Past {
            good: previous.map(|state| state.good).unwrap_or_default(),
            store: self.store.as_ref().filter(|_| !asked_store),
            file: &file,
            group: &group,
            defaults: &self.defaults,
        };
        let lines = Lines::new(content.as_deref().unwrap_or_default());
        let source = Source {
            file: &file,
            lines: &lines,
        };
        let (schedules, dir) = (&mut self.schedules, self.dir.as_path());
        let mut reading = Reading {
            source,
            dir,
            schedules,
            past: &mut past,
            state: &mut state,
        };
        match &content {
            Ok(bytes) => reading.content(bytes),
            Err(reason) => reading.keep_all(None, reason),
        }
        // in reading order; the sort is stable
        state.problems.sort_by_key(|problem| problem.line);
        state.asked_store |= past.store.is_none() && self.store.is_some();
        state.bad = state
            .problems
            .iter()
            .any(|problem| problem.severity == Severity::Error);
        self.files.insert(file, state);
    }

    fn settings(&self) -> (Settings, Vec<(String, String, String)>) {
        let files = self
            .files
            .iter()
            .map(|(file, state)| (file.as_str(), state.good.settings.as_slice()));
        settings::merge(files, &self.dir)
    }

    /// All files' content as one, in byte order of their names.
    fn publish(&mut self) -> Arc<Config> {
        let mut problems = self.dir_problems.clone();
        let mut jobs: BTreeMap<String, Arc<Job>> = BTreeMap::new();
        let mut maintenance = Maintenance::default();
        for (file, state) in &self.files {
            problems.extend_from_slice(&state.problems);
            for (name, job) in &state.good.jobs {
                if let Some(earlier) = jobs.insert(name.clone(), job.clone()) {
                    let group = &earlier.group;
                    problems.push(Problem {
                        field: name.clone(),
                        ..whole_file(
                            file,
                            None,
                            format!("also defined in '{group}{SUFFIX}': this one counts; rename one"),
                        )
                    });
                }
            }
            maintenance.global |= state.good.maintenance.global;
            maintenance
                .machines
                .extend(state.good.maintenance.machines.iter().cloned());
        }
        let (settings, conflicts) = self.settings();
        for (file, key, earlier) in conflicts {
            problems.push(Problem {
                field: format!("{CONFIG_SECTION}.{key}"),
                severity: Severity::Warning,
                ..whole_file(
                    &file,
                    None,
                    format!("also set in '{earlier}': this one counts; remove one"),
                )
            });
        }
        if let Some((key, reason)) = settings::refused(&settings) {
            let sets = |state: &FileState| state.good.settings.iter().any(|(name, _)| name == key);
            let file = self
                .files
                .iter()
                .rfind(|(_, state)| sets(state))
                .map_or("", |(file, _)| file);
            problems.push(Problem {
                field: format!("{CONFIG_SECTION}.{key}"),
                ..whole_file(file, None, reason.to_string())
            });
        }
        self.publish_if_new(jobs, settings, maintenance, problems)
    }

    fn publish_if_new(
        &mut self,
        jobs: BTreeMap<String, Arc<Job>>,
        settings: Settings,
        maintenance: Maintenance,
        problems: Vec<Problem>,
    ) -> Arc<Config> {
        let mut settings = Arc::new(settings);
        let mut serial = 1;
        if let Some(current) = &self.current {
            if current.settings == settings {
                settings = current.settings.clone();
            }
            let same_jobs = current.jobs.len() == jobs.len()
                && current
                    .jobs
                    .values()
                    .zip(jobs.values())
                    .all(|(one, other)| Arc::ptr_eq(one, other));
            if same_jobs
                && Arc::ptr_eq(&current.settings, &settings)
                && current.maintenance == maintenance
                && current.problems == problems
            {
                return current.clone();
            }
            serial = current.serial + 1;
        }
        let config = Arc::new(Config {
            jobs,
            settings,
            maintenance,
            problems,
            serial,
        });
        self.current = Some(config.clone());
        config
    }
}

const SUFFIX: &str = ".yaml";
/// With this both sections' names begin.
const SECTION_PREFIX: &str = "saltpeter";
const STATE_DIR: &str = "state_dir";
const KEPT: &str = "its last good content stays in force";
const NOTHING_KEPT: &str = "nothing of it is in force";

/// What was good of a file before: in memory, else in the store, which is asked when it is first needed.
struct Past<'a> {
    good: Good,
    store: Option<&'a Store>,
    file: &'a str,
    group: &'a str,
    defaults: &'a Defaults,
}

impl Past<'_> {
    fn ask_store(&mut self) {
        if let Some(store) = self.store.take() {
            let kept = store.read(self.file, self.group, self.defaults);
            self.good.add_missing(kept);
        }
    }

    fn job(&mut self, name: &str) -> Option<Arc<Job>> {
        if !self.good.jobs.contains_key(name) {
            self.ask_store();
        }
        self.good.jobs.get(name).cloned()
    }

    fn setting(&mut self, key: &str) -> Option<Node> {
        let find = |good: &Good| {
            good.settings
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, node)| node.clone())
        };
        find(&self.good).or_else(|| {
            self.ask_store();
            find(&self.good)
        })
    }
}

/// One readable file on its way into its state.
struct Reading<'a, 'b> {
    source: Source<'a>,
    dir: &'a Path,
    schedules: &'a mut Schedules,
    past: &'a mut Past<'b>,
    state: &'a mut FileState,
}

impl Reading<'_, '_> {
    fn content(&mut self, bytes: &[u8]) {
        self.state.unsaved = true;
        if file::pieces(bytes, limits::CONFIG_PIECE_BYTES).is_some_and(|pieces| self.pieces(&pieces)) {
            return;
        }
        self.state.good = Good::default();
        self.state.problems.clear();
        match file::read(bytes) {
            Ok(Node::Null) => {}
            Ok(Node::Map(entries)) => self.entries(&entries),
            Ok(other) => {
                self.keep_all(
                    Some(1),
                    &format!("a job file is a mapping of jobs, not {}", other.kind()),
                );
            }
            Err(why) => self.keep_all(why.line, &format!("cannot be read: {}", why.reason)),
        }
    }

    /// Takes a large file piece by piece; false: it has to be taken whole.
    fn pieces(&mut self, pieces: &[&[u8]]) -> bool {
        let mut seen = BTreeSet::new();
        for piece in pieces {
            let Ok(Node::Map(entries)) = file::read(piece) else {
                return false;
            };
            // a key given twice, or one that needs a word, is told with the whole file in view
            let is_simple = |(key, _): &(Node, Node)| key.key_text().is_some_and(|name| seen.insert(name));
            if !entries.iter().all(is_simple) {
                return false;
            }
            self.entries(&entries);
        }
        true
    }

    fn entries(&mut self, entries: &[(Node, Node)]) {
        let mut last: BTreeMap<String, usize> = BTreeMap::new();
        for (index, (key, _)) in entries.iter().enumerate() {
            let Some(name) = key.key_text() else {
                let reason = format!("a job's name is {}; name it with a text", key.kind());
                self.state
                    .problems
                    .push(whole_file(self.source.file, None, reason));
                continue;
            };
            if last.insert(name.clone(), index).is_some() {
                let reason = "given twice in this file: the later one counts; rename one";
                self.state
                    .problems
                    .push(self.source.problem(&[&name], reason, Severity::Error));
            }
        }
        for (index, (key, node)) in entries.iter().enumerate() {
            match key.key_text() {
                Some(name) if last.get(&name) == Some(&index) => self.entry(&name, node),
                _ => {}
            }
        }
    }

    /// The file tells nothing: all that was good of it stays.
    fn keep_all(&mut self, line: Option<usize>, reason: &str) {
        self.past.ask_store();
        let kept = if self.past.good.is_empty() {
            NOTHING_KEPT
        } else {
            KEPT
        };
        self.state
            .problems
            .push(whole_file(self.source.file, line, format!("{reason}; {kept}")));
        self.state.good = std::mem::take(&mut self.past.good);
    }

    fn entry(&mut self, name: &str, node: &Node) {
        match name {
            CONFIG_SECTION => self.settings(node),
            MAINTENANCE_SECTION => self.maintenance(node),
            _ => self.job(name, node),
        }
    }

    fn job(&mut self, name: &str, node: &Node) {
        let from = self.state.problems.len();
        let beginning = name.get(..SECTION_PREFIX.len()).unwrap_or_default();
        if beginning.eq_ignore_ascii_case(SECTION_PREFIX)
            && let Some(section) = value::likeliest(name, [CONFIG_SECTION, MAINTENANCE_SECTION])
        {
            let reason = format!("is taken for a job; did you mean '{section}'?");
            self.state
                .problems
                .push(self.source.problem(&[name], reason, Severity::Warning));
        }
        let defaults = self.state.defaults;
        let job = validate::job(
            self.source,
            self.past.group,
            name,
            node,
            &defaults,
            self.schedules,
            &mut self.state.problems,
        );
        let in_force = match job {
            Some(job) => match self.past.good.jobs.get(name) {
                Some(known) if **known == job => Some(known.clone()),
                _ => Some(Arc::new(job)),
            },
            None => {
                let kept = self.past.job(name);
                let note = if kept.is_some() {
                    "the job's last good version stays in force"
                } else {
                    "no job is made"
                };
                for problem in &mut self.state.problems[from..] {
                    if problem.severity == Severity::Error {
                        problem.reason = format!("{}; {note}", problem.reason);
                    }
                }
                kept
            }
        };
        if let Some(job) = in_force {
            self.state.good.jobs.insert(name.to_string(), job);
        }
    }

    fn settings(&mut self, node: &Node) {
        let entries = match node {
            Node::Null => return,
            Node::Map(entries) => entries,
            other => {
                let reason = format!("must be a mapping of settings, not {}; {KEPT}", other.kind());
                self.state
                    .problems
                    .push(self.source.problem(&[CONFIG_SECTION], reason, Severity::Error));
                self.past.ask_store();
                self.state.good.settings = std::mem::take(&mut self.past.good.settings);
                return;
            }
        };
        validate::doubled_keys(self.source, CONFIG_SECTION, entries, &mut self.state.problems);
        let mut scratch = Settings::default();
        for (key, node) in entries {
            let Some(key) = key.key_text() else { continue };
            let path = [CONFIG_SECTION, key.as_str()];
            let mut in_force = Some(node.clone());
            match settings::apply(&mut scratch, &key, node, self.dir) {
                Ok(None) => {}
                Ok(Some(doubt)) => {
                    self.state
                        .problems
                        .push(self.source.problem(&path, doubt, Severity::Warning));
                }
                Err(reason) => {
                    in_force = self.past.setting(&key);
                    let note = if in_force.is_some() {
                        "the last good value"
                    } else {
                        "the default"
                    };
                    let reason = format!("{reason}; {note} is in force");
                    self.state
                        .problems
                        .push(self.source.problem(&path, reason, Severity::Error));
                }
            }
            if let Some(node) = in_force {
                self.state.good.settings.retain(|(name, _)| *name != key);
                self.state.good.settings.push((key, node));
            }
        }
    }

    fn maintenance(&mut self, node: &Node) {
        let (source, problems) = (self.source, &mut self.state.problems);
        let read = settings::maintenance(node, |key, doubt| {
            problems.push(source.problem(&[MAINTENANCE_SECTION, key], doubt, Severity::Warning));
        });
        self.state.good.maintenance = read.unwrap_or_else(|(key, reason)| {
            let path: &[&str] = if key.is_empty() {
                &[MAINTENANCE_SECTION]
            } else {
                &[MAINTENANCE_SECTION, key.as_str()]
            };
            let reason = format!("{reason}; the file's last good maintenance is in force");
            self.state
                .problems
                .push(self.source.problem(path, reason, Severity::Error));
            self.past.ask_store();
            self.past.good.maintenance.clone()
        });
    }
}

/// What a directory holds.
struct Found {
    files: BTreeMap<String, Stamp>,
    problems: Vec<Problem>,
}

/// Looks at every `*.yaml`; reads none. Hidden ones are editors' and other programs' business.
fn list(dir: &Path) -> io::Result<Found> {
    let mut found = Found {
        files: BTreeMap::new(),
        problems: Vec::new(),
    };
    let now_us = clock::wall().0;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !is_job_file(&name) {
            continue;
        }
        match name.into_string() {
            Ok(name) => {
                let path = dir.join(&name);
                let stamp = match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => Stamp::new(&metadata, now_us),
                    // gone since
                    Err(_) if fs::symlink_metadata(&path).is_err() => continue,
                    // a link to nowhere, a directory: reading it says why it is none
                    _ => Stamp::unknown(),
                };
                found.files.insert(name, stamp);
            }
            Err(name) => found.problems.push(whole_file(
                &name.to_string_lossy(),
                None,
                "its name is no UTF-8, not read; rename it".into(),
            )),
        }
    }
    found.problems.sort_by(|one, other| one.file.cmp(&other.file));
    Ok(found)
}

/// Whether a directory entry is a job file by its name.
pub(super) fn is_job_file(name: &OsString) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.ends_with(SUFFIX.as_bytes()) && !bytes.starts_with(b".")
}

impl Stamp {
    fn new(metadata: &Metadata, now_us: i64) -> Stamp {
        let changed_us = metadata.ctime().saturating_mul(1_000_000) + metadata.ctime_nsec() / 1_000;
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            settled: now_us.saturating_sub(changed_us) > limits::CONFIG_UNSETTLED_MS * 1_000,
        }
    }

    /// Of a file that cannot be looked at: tried again every time.
    fn unknown() -> Stamp {
        Stamp {
            device: 0,
            inode: 0,
            bytes: 0,
            modified: (0, 0),
            changed: (0, 0),
            settled: false,
        }
    }
}

fn read(path: &Path) -> Content {
    let told = |error: io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    // looked at first: to open a device may do things, to open a pipe may wait for ever
    if !fs::metadata(path).map_err(told)?.is_file() {
        return Err("is no regular file".to_string());
    }
    let file = File::open(path).map_err(told)?;
    file.take(limits::CONFIG_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(told)?;
    if bytes.len() as u64 > limits::CONFIG_FILE_BYTES {
        return Err(format!(
            "is larger than {} bytes; split it",
            limits::CONFIG_FILE_BYTES
        ));
    }
    Ok(bytes)
}

fn has_settings(content: &Content) -> bool {
    let needle = CONFIG_SECTION.as_bytes();
    content
        .as_ref()
        .is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
}

/// What seems to stand behind `key:` in a text that is no YAML.
fn named_in_text(bytes: &[u8], key: &str) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut values = text.lines().filter_map(|line| {
        let (before, rest) = line.split_once(key)?;
        let value = rest
            .trim_start_matches(['"', '\''])
            .trim_start()
            .strip_prefix(':')?;
        let value = value
            .split([',', '}', '#'])
            .next()?
            .trim()
            .trim_matches(['"', '\'']);
        (!before.contains('#') && !value.is_empty()).then(|| value.to_string())
    });
    values.next()
}

fn whole_file(file: &str, line: Option<usize>, reason: String) -> Problem {
    Problem {
        file: file.to_string(),
        line,
        field: String::new(),
        reason,
        severity: Severity::Error,
    }
}
