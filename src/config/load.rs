//! Reads a configuration directory, again and again: what did not change is not read again, and what went bad keeps
//! its last good content (rules.md 29).
//! Must not know: who asks for a reload, and what becomes of the jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::last_good::{LastGood, Store};
use super::lines::Lines;
use super::listing::{self, Content, FileStamp, SUFFIX};
use super::reading::{self, FileResult, Previous};
use super::settings::{self, CONFIG_SECTION};
use super::timing::Schedules;
use super::validate::Defaults;
use super::value::likeliest;
use super::{Config, Job, Maintenance, Problem, Settings, Severity};

const STATE_DIR: &str = "state_dir";

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

/// Tells a content from others: its hash, or why there is none.
type Seen = Result<u64, String>;

/// What is known of one file.
struct FileState {
    stamp: FileStamp,
    /// What was read last; None: it is to be evaluated anew, whatever it is.
    seen: Option<Seen>,
    /// The defaults its jobs were validated with.
    defaults: Defaults,
    /// What of it is in force.
    good: LastGood,
    /// The store was asked for what was good before this process started.
    asked_store: bool,
    /// `good` is newer than the store's.
    unsaved: bool,
    /// An error is among its problems: content is missing or old.
    bad: bool,
    problems: Vec<Problem>,
}

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
                state.seen = None;
                state.stamp.settled = false;
            }
        }
    }

    /// Reads what changed since the last time. The same `Arc` comes back if nothing did.
    ///
    /// `Err`: the directory cannot be read and never could. One that becomes unreadable later keeps what was in
    /// force, with a problem.
    pub fn load(&mut self) -> Result<Arc<Config>, String> {
        match listing::list(&self.dir) {
            Ok(mut found) => {
                self.store_is_new = false;
                let known = self.files.len();
                let is_emptied = found.files.is_empty() && self.keeps_what_was_there();
                if is_emptied {
                    found.problems.push(self.emptied());
                }
                let as_before = self.dir_problems == found.problems;
                self.dir_problems = found.problems;
                let has_changed = if is_emptied {
                    self.files.len() != known
                } else {
                    self.take(found.files)
                };
                if !has_changed
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
                self.dir_problems = vec![Problem::of_file("", None, reason)];
            }
        }
        Ok(self.publish())
    }

    /// Whether something is in force, or was before a restart, although the directory holds no job file any more: a mount
    /// that is gone or a copy under way does not mean that all jobs are to go.
    fn keeps_what_was_there(&mut self) -> bool {
        if self.files.is_empty() {
            let kept = self.store.as_ref().map(Store::files).unwrap_or_default();
            for file in kept {
                let content = Err("is missing".to_string());
                let seen = seen(&self.hasher, &content);
                self.evaluate(file, FileStamp::unknown(), seen, content);
            }
            self.defaults = settings::defaults(&self.settings().0);
        }
        self.files.values().any(|state| !state.good.is_empty())
    }

    fn emptied(&self) -> Problem {
        let reason = format!(
            "the directory '{}' holds no job files any more; the last content of {} files stays in force; put the files \
             back, or write '{{}}' into one to drop all jobs",
            self.dir.display(),
            self.files.len()
        );
        Problem::of_file("", None, reason)
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
        if self
            .dir_problems
            .iter()
            .all(|problem| problem.severity == Severity::Warning)
        {
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
            let bytes = listing::read(&self.dir.join(file)).ok()?;
            let dir = self.dir.join(named_in_text(&bytes, STATE_DIR)?);
            Store::new(last_good_dir(&dir)).has(file).then_some(dir)
        });
        if self.files.values().any(is_named) {
            None
        } else {
            remembered.next()
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
    fn take(&mut self, found: BTreeMap<String, FileStamp>) -> bool {
        let known = self.files.len();
        self.files.retain(|file, _| found.contains_key(file));
        let mut changed = Vec::new();
        for (file, stamp) in found {
            let known = self.files.get_mut(&file);
            if known
                .as_ref()
                // what kept it from being read may be gone without a change of the file
                .is_some_and(|state| {
                    state.stamp == stamp && stamp.settled && matches!(state.seen, Some(Ok(_)))
                })
            {
                continue;
            }
            let content = listing::read(&self.dir.join(&file));
            let seen = seen(&self.hasher, &content);
            match known {
                Some(state) if state.seen.as_ref() == Some(&seen) => state.stamp = stamp,
                _ => changed.push((file, stamp, seen, content)),
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
            for (file, stamp, seen, content) in changed {
                self.evaluate(file, stamp, seen, content);
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
        let outdated: Vec<(String, FileStamp)> = self
            .files
            .iter()
            .filter(|(_, state)| state.defaults != defaults)
            .map(|(file, state)| (file.clone(), state.stamp))
            .collect();
        for (file, stamp) in outdated {
            let content = listing::read(&self.dir.join(&file));
            let seen = seen(&self.hasher, &content);
            self.evaluate(file, stamp, seen, content);
        }
    }

    /// Makes a file's state of its content and of what was good of it before.
    fn evaluate(&mut self, file: String, stamp: FileStamp, seen: Seen, content: Content) {
        let previous = self.files.remove(&file);
        let asked_store = previous.as_ref().is_some_and(|state| state.asked_store);
        let unsaved = content.is_ok() || previous.as_ref().is_none_or(|state| state.unsaved);
        let group = file.strip_suffix(SUFFIX).unwrap_or(&file).to_string();
        let mut past = Previous {
            good: previous.map(|state| state.good).unwrap_or_default(),
            store: self.store.as_ref().filter(|_| !asked_store),
            file: &file,
            group: &group,
            defaults: &self.defaults,
        };
        let FileResult { good, problems } =
            reading::take(&content, &mut past, &self.dir, &mut self.schedules);
        let state = FileState {
            stamp,
            seen: Some(seen),
            defaults: self.defaults,
            good,
            asked_store: asked_store || past.store.is_none() && self.store.is_some(),
            unsaved,
            bad: problems.iter().any(|problem| problem.severity == Severity::Error),
            problems,
        };
        self.files.insert(file, state);
    }

    /// The 1-based lines of what stands at these paths (job first) of these files, in their order. No job remembers its line:
    /// each file is read again, once, however many of its lines are asked for.
    fn lines_of(&self, sought: &[(&str, Vec<&str>)]) -> Vec<Option<usize>> {
        let mut by_file: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, (file, _)) in sought.iter().enumerate() {
            by_file.entry(file).or_default().push(index);
        }
        let mut found = vec![None; sought.len()];
        for (file, indexes) in by_file {
            let Ok(bytes) = listing::read(&self.dir.join(file)) else {
                continue;
            };
            let lines = Lines::new(&bytes);
            for index in indexes {
                found[index] = lines.line_of(&sought[index].1);
            }
        }
        found
    }

    /// Jobs of one name in two files: `(name, file that counts, earlier file)`.
    fn defined_twice(&self, twice: &[(String, String, String)]) -> Vec<Problem> {
        let places = twice.iter().flat_map(|(name, file, earlier)| {
            let place = |file| (file, vec![name.as_str()]);
            [place(file.as_str()), place(earlier.as_str())]
        });
        let lines = self.lines_of(&places.collect::<Vec<_>>());
        let problem = |((name, file, earlier), lines): (&(String, String, String), &[Option<usize>])| {
            let earlier = lines[1].map_or_else(|| earlier.clone(), |line| format!("{earlier}:{line}"));
            let reason = format!("also defined in '{earlier}': this one counts; rename one");
            Problem {
                field: name.clone(),
                ..Problem::of_file(file, lines[0], reason)
            }
        };
        twice.iter().zip(lines.chunks(2)).map(problem).collect()
    }

    /// A job, or the default, tells notifiers that do not exist: it is told, and the others are.
    fn unknown_notifiers(
        &self,
        jobs: &BTreeMap<String, Arc<Job>>,
        settings: &Settings,
        problems: &mut Vec<Problem>,
    ) {
        let unknown = |to: &Option<Vec<String>>| -> Vec<String> {
            let names = to.iter().flatten();
            names
                .filter(|name| !settings.notifiers.contains_key(*name))
                .map(|name| {
                    let shown = name.escape_debug();
                    match likeliest(name, settings.notifiers.keys().map(String::as_str)) {
                        Some(known) => format!("unknown notifier '{shown}', did you mean '{known}'?"),
                        None => format!("unknown notifier '{shown}'; add it to saltpeter_config.notifiers"),
                    }
                })
                .collect()
        };
        let told: Vec<(&Job, String, String)> = jobs
            .values()
            .flat_map(|job| {
                let reasons = unknown(&job.notices.rule.to).into_iter();
                reasons.map(|reason| (&**job, format!("{}{SUFFIX}", job.group), reason))
            })
            .collect();
        let places: Vec<(&str, Vec<&str>)> = told
            .iter()
            .map(|(job, file, _)| (file.as_str(), vec![job.name.as_str(), "notify"]))
            .collect();
        for ((job, file, reason), line) in told.iter().zip(self.lines_of(&places)) {
            problems.push(Problem {
                field: format!("{}.notify", job.name),
                ..Problem::of_file(file, line, reason.clone())
            });
        }
        for reason in unknown(&settings.notify.to) {
            let sets = |state: &FileState| state.good.settings.iter().any(|(name, _)| name == "notify");
            let file = self.files.iter().rfind(|(_, state)| sets(state));
            let file = file.map_or("", |(file, _)| file);
            let lines = self.lines_of(&[(file, vec![CONFIG_SECTION, "notify"])]);
            problems.push(Problem {
                field: format!("{CONFIG_SECTION}.notify"),
                ..Problem::of_file(file, lines[0], reason)
            });
        }
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
        let mut twice = Vec::new();
        for (file, state) in &self.files {
            problems.extend_from_slice(&state.problems);
            for (name, job) in &state.good.jobs {
                if let Some(earlier) = jobs.insert(name.clone(), job.clone()) {
                    twice.push((name.clone(), file.clone(), format!("{}{SUFFIX}", earlier.group)));
                }
            }
            maintenance.global |= state.good.maintenance.global;
            maintenance
                .machines
                .extend(state.good.maintenance.machines.iter().cloned());
        }
        problems.extend(self.defined_twice(&twice));
        let (settings, conflicts) = self.settings();
        for (file, key, earlier) in conflicts {
            problems.push(Problem {
                field: format!("{CONFIG_SECTION}.{key}"),
                severity: Severity::Warning,
                ..Problem::of_file(
                    &file,
                    None,
                    format!("also set in '{earlier}': this one counts; remove one"),
                )
            });
        }
        self.unknown_notifiers(&jobs, &settings, &mut problems);
        if let Some((key, reason)) = settings::refused(&settings) {
            let sets = |state: &FileState| state.good.settings.iter().any(|(name, _)| name == key);
            let file = self
                .files
                .iter()
                .rfind(|(_, state)| sets(state))
                .map_or("", |(file, _)| file);
            problems.push(Problem {
                field: format!("{CONFIG_SECTION}.{key}"),
                ..Problem::of_file(file, None, reason.to_string())
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

fn seen(hasher: &RandomState, content: &Content) -> Seen {
    match content {
        Ok(bytes) => Ok(hasher.hash_one(bytes)),
        Err(reason) => Err(reason.clone()),
    }
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
