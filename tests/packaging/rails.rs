//! Documents and rules that comments cite exist, and modules import only what the architecture allows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder of the repository.
pub fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![top().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

/// The document of that name, in any of the folders for documents.
fn document(name: &str) -> Option<String> {
    ["packaging/doc/design", "packaging/doc", "."]
        .iter()
        .find_map(|folder| fs::read_to_string(top().join(folder).join(name)).ok())
}

/// The numbers of a document's rules, such as `23a` of a line that begins with `23a. `.
fn rules(text: &str) -> BTreeSet<String> {
    let number = Regex::new(r"(?m)^([0-9]+[a-z]?)\. ").unwrap();
    number
        .captures_iter(text)
        .map(|found| found[1].to_string())
        .collect()
}

#[test]
fn every_document_and_rule_that_a_comment_cites_exists() {
    let cited = Regex::new(
        r"([A-Za-z][A-Za-z-]*\.md)(?: ([0-9]+[a-z]?)(?:-([0-9]+[a-z]?))?((?:, [0-9]+[a-z]?\b)*))?",
    )
    .unwrap();
    let (mut documents, mut numbers) = (0, 0);
    for source in sources("src").into_iter().chain(sources("tests")) {
        let text = fs::read_to_string(&source).unwrap();
        for found in cited.captures_iter(&text) {
            let place = format!("{}: {}", source.display(), &found[0]);
            let text = document(&found[1]).unwrap_or_else(|| panic!("{place}: no such document"));
            documents += 1;
            let rules = rules(&text);
            let more = found.get(4).map_or("", |more| more.as_str());
            let first = found.get(2).map(|number| number.as_str());
            let last = found.get(3).map(|number| number.as_str());
            let more = more.split(", ").filter(|number| !number.is_empty());
            for number in first.into_iter().chain(last).chain(more) {
                assert!(rules.contains(number), "{place}: no rule {number}");
                numbers += 1;
            }
        }
    }
    assert!(
        documents > 50 && numbers > 50,
        "{documents} documents, {numbers} rules"
    );
}

/// Folders of `src`, and the modules that they must not import.
const WALLS: [(&str, &[&str]); 4] = [
    (
        "src/engine",
        &[
            "api", "cli", "daemon", "executor", "logfile", "machines", "net", "storage", "wrapper",
        ],
    ),
    (
        "src/config",
        &[
            "api", "cli", "daemon", "engine", "executor", "logfile", "machines", "net", "storage", "wrapper",
        ],
    ),
    (
        "src/schedule",
        &[
            "api", "cli", "config", "daemon", "engine", "executor", "logfile", "machines", "net", "storage",
            "wrapper",
        ],
    ),
    (
        "src/wrapper",
        &[
            "api", "budget", "cli", "config", "daemon", "engine", "executor", "logfile", "logging",
            "machines", "metrics", "net", "schedule", "storage",
        ],
    ),
];

#[test]
fn no_module_imports_what_it_must_not_know() {
    let single = Regex::new(r"\bcrate::([a-z_0-9]+)").unwrap();
    let group = Regex::new(r"\buse crate::\{([^;]*)\};").unwrap();
    let name = Regex::new(r"(?:^|,)\s*([a-z_0-9]+)").unwrap();
    let mut imports = 0;
    for (folder, forbidden) in WALLS {
        for source in sources(folder) {
            let text = fs::read_to_string(&source).unwrap();
            let singles = single.captures_iter(&text).map(|found| found[1].to_string());
            let groups = group.captures_iter(&text).flat_map(|found| {
                let names = name.captures_iter(found.get(1).unwrap().as_str());
                names.map(|found| found[1].to_string()).collect::<Vec<_>>()
            });
            for module in singles.chain(groups) {
                imports += 1;
                assert!(
                    !forbidden.contains(&module.as_str()),
                    "{} imports crate::{module}: {folder} must not know it",
                    source.display()
                );
            }
        }
    }
    assert!(imports > 100, "{imports} imports");
}
