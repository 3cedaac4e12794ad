//! One job file's content: what of it is in force, what was good before where it is not, and what is wrong with it
//! (rules.md 29).
//! Must not know: the directory, other files, when the file is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::file;
use super::job_fields::Source;
use super::last_good::{LastGood, Store};
use super::lines::Lines;
use super::listing::Content;
use super::node::Node;
use super::settings::{self, CONFIG_SECTION, MAINTENANCE_SECTION};
use super::timing::Schedules;
use super::validate::{self, Defaults};
use super::{Job, Problem, Settings, Severity, value};
use crate::limits;

/// With this both sections' names begin.
const SECTION_PREFIX: &str = "saltpeter";
const KEPT: &str = "its last good content stays in force";
const NOTHING_KEPT: &str = "nothing of it is in force";

/// What was good of a file before: in memory, else in the store, which is asked when it is first needed.
pub(super) struct Previous<'a> {
    pub(super) good: LastGood,
    pub(super) store: Option<&'a Store>,
    pub(super) file: &'a str,
    pub(super) group: &'a str,
    pub(super) defaults: &'a Defaults,
}

impl Previous<'_> {
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
        let find = |good: &LastGood| {
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

/// What became of a file.
#[derive(Default)]
pub(super) struct FileResult {
    /// What of it is in force.
    pub(super) good: LastGood,
    /// In reading order.
    pub(super) problems: Vec<Problem>,
}

/// Takes a file's content. What directories in it are relative to is `dir`.
pub(super) fn take(
    content: &Content,
    past: &mut Previous<'_>,
    dir: &Path,
    schedules: &mut Schedules,
) -> FileResult {
    let lines = Lines::new(content.as_deref().unwrap_or_default());
    let source = Source {
        file: past.file,
        lines: &lines,
    };
    let mut reading = Reading {
        source,
        dir,
        schedules,
        past,
        taken: FileResult::default(),
    };
    match content {
        Ok(bytes) => reading.content(bytes),
        Err(reason) => reading.keep_all(None, reason),
    }
    let mut taken = reading.taken;
    // the sort is stable
    taken.problems.sort_by_key(|problem| problem.line);
    taken
}

/// One file on its way.
struct Reading<'a, 'b> {
    source: Source<'a>,
    dir: &'a Path,
    schedules: &'a mut Schedules,
    past: &'a mut Previous<'b>,
    taken: FileResult,
}

impl Reading<'_, '_> {
    fn content(&mut self, bytes: &[u8]) {
        if file::pieces(bytes, limits::CONFIG_PIECE_BYTES).is_some_and(|pieces| self.pieces(&pieces)) {
            return;
        }
        self.taken = FileResult::default();
        match file::read(bytes) {
            Ok(Node::Null) => self.emptied(),
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

    /// An editor, a full disk or a copy under way leaves a file without a word: where it held jobs before, that is no wish
    /// to drop them.
    fn emptied(&mut self) {
        self.past.ask_store();
        if !self.past.good.is_empty() {
            self.keep_all(
                None,
                "is empty; remove the file, or write '{}' into it, to drop its jobs",
            );
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
                self.taken
                    .problems
                    .push(Problem::of_file(self.source.file, None, reason));
                continue;
            };
            if last.insert(name.clone(), index).is_some() {
                let reason = "given twice in this file: the later one counts; rename one";
                self.taken
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
        self.taken.problems.push(Problem::of_file(
            self.source.file,
            line,
            format!("{reason}; {kept}"),
        ));
        self.taken.good = std::mem::take(&mut self.past.good);
    }

    fn entry(&mut self, name: &str, node: &Node) {
        match name {
            CONFIG_SECTION => self.settings(node),
            MAINTENANCE_SECTION => self.maintenance(node),
            _ => self.job(name, node),
        }
    }

    fn job(&mut self, name: &str, node: &Node) {
        let from = self.taken.problems.len();
        let beginning = name.get(..SECTION_PREFIX.len()).unwrap_or_default();
        if beginning.eq_ignore_ascii_case(SECTION_PREFIX)
            && let Some(section) = value::likeliest(name, [CONFIG_SECTION, MAINTENANCE_SECTION])
        {
            let reason = format!("is taken for a job; did you mean '{section}'?");
            self.taken
                .problems
                .push(self.source.problem(&[name], reason, Severity::Warning));
        }
        let defaults = *self.past.defaults;
        let job = validate::job(
            self.source,
            self.past.group,
            name,
            node,
            &defaults,
            self.schedules,
            &mut self.taken.problems,
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
                for problem in &mut self.taken.problems[from..] {
                    if problem.severity == Severity::Error {
                        problem.reason = format!("{}; {note}", problem.reason);
                    }
                }
                kept
            }
        };
        if let Some(job) = in_force {
            self.taken.good.jobs.insert(name.to_string(), job);
        }
    }

    fn settings(&mut self, node: &Node) {
        let entries = match node {
            Node::Null => return,
            Node::Map(entries) => entries,
            other => {
                let reason = format!("must be a mapping of settings, not {}; {KEPT}", other.kind());
                self.taken
                    .problems
                    .push(self.source.problem(&[CONFIG_SECTION], reason, Severity::Error));
                self.past.ask_store();
                self.taken.good.settings = std::mem::take(&mut self.past.good.settings);
                return;
            }
        };
        validate::doubled_keys(self.source, CONFIG_SECTION, entries, &mut self.taken.problems);
        let mut scratch = Settings::default();
        for (key, node) in entries {
            let Some(key) = key.key_text() else { continue };
            let path = [CONFIG_SECTION, key.as_str()];
            let mut in_force = Some(node.clone());
            match settings::apply(&mut scratch, &key, node, self.dir) {
                Ok(None) => {}
                Ok(Some(doubt)) => {
                    self.taken
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
                    self.taken
                        .problems
                        .push(self.source.problem(&path, reason, Severity::Error));
                }
            }
            if let Some(node) = in_force {
                self.taken.good.settings.retain(|(name, _)| *name != key);
                self.taken.good.settings.push((key, node));
            }
        }
    }

    fn maintenance(&mut self, node: &Node) {
        let (source, problems) = (self.source, &mut self.taken.problems);
        let read = settings::maintenance(node, |key, doubt| {
            problems.push(source.problem(&[MAINTENANCE_SECTION, key], doubt, Severity::Warning));
        });
        self.taken.good.maintenance = read.unwrap_or_else(|(key, reason)| {
            let path: &[&str] = if key.is_empty() {
                &[MAINTENANCE_SECTION]
            } else {
                &[MAINTENANCE_SECTION, key.as_str()]
            };
            let reason = format!("{reason}; the file's last good maintenance is in force");
            self.taken
                .problems
                .push(self.source.problem(path, reason, Severity::Error));
            self.past.ask_store();
            self.past.good.maintenance.clone()
        });
    }
}
