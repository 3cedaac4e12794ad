//! Tables of the documents that name tests and variables: what they name exists, and what exists is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use regex_lite::Regex;

use super::rails::{sources, top};

fn document(name: &str) -> String {
    fs::read_to_string(top().join("packaging/doc").join(name)).unwrap()
}

/// Names of the tests in a folder, wherever they are in it.
fn tests_of(folder: &str) -> BTreeSet<String> {
    let test = Regex::new(r"#\[test\]\s*(?:#\[[^\]]*\]\s*)*fn ([a-z0-9_]+)\(").unwrap();
    let mut names = BTreeSet::new();
    for source in sources(folder) {
        let text = fs::read_to_string(source).unwrap();
        names.extend(test.captures_iter(&text).map(|found| found[1].to_string()));
    }
    names
}

/// The tests that a document names, as `it a_name`: the kind of test and the function.
fn named_tests(text: &str) -> BTreeSet<(String, String)> {
    let name = Regex::new(r"`(lib|it|sim|ui|salt|packaging) ([a-z0-9_]+)`").unwrap();
    name.captures_iter(text)
        .map(|found| (found[1].to_string(), found[2].to_string()))
        .collect()
}

/// Names that exist nowhere, one a line.
fn missing(document_name: &str) -> String {
    let mut missing = String::new();
    for (kind, name) in named_tests(&document(document_name)) {
        let folder = if kind == "lib" {
            "src".to_string()
        } else {
            format!("tests/{kind}")
        };
        if !top().join(&folder).is_dir() || !tests_of(&folder).contains(&name) {
            missing.push_str(&format!("{document_name}: no test {name} in {folder}\n"));
        }
    }
    missing
}

#[test]
fn every_test_that_a_document_names_exists() {
    let missing = missing("development.md") + &missing("security.md");
    assert!(
        missing.is_empty(),
        "{missing}where a test was renamed, rename it in the document as well"
    );
}

#[test]
fn each_promise_has_tests_of_its_own() {
    let text = document("development.md");
    let (_, table) = text.split_once("## The promises and their tests").unwrap();
    for promise in 1..=5 {
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| {promise}. ")));
        let tests = named_tests(row.unwrap_or_else(|| panic!("no row for promise {promise}")));
        assert!(tests.len() >= 3, "promise {promise}: {tests:?}");
    }
}

#[test]
fn each_threat_names_a_test() {
    let text = document("security.md");
    let mut rows = 0;
    for (heading, section) in text
        .split("\n## ")
        .skip(1)
        .filter_map(|part| part.split_once('\n'))
    {
        if heading == "Ports and sockets" {
            continue;
        }
        let rows_of_table = section.lines().filter(|line| line.starts_with("| "));
        for row in rows_of_table.skip(1) {
            assert!(!named_tests(row).is_empty(), "{heading}: no test in {row}");
            rows += 1;
        }
    }
    assert!(rows > 20, "{rows} rows");
}

/// Every file of a folder, with its text; what is not text is left out.
fn texts(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_document = path.extension().is_some_and(|end| end == "md");
        if path.is_dir() {
            texts(&path, into);
        } else if !is_document && let Ok(text) = fs::read_to_string(&path) {
            into.push(text);
        }
    }
}

#[test]
fn the_table_of_environment_variables_has_each_and_no_other() {
    let variable = Regex::new(r"\b(?:LC_)?SALTPETER_[A-Z]+(?:_[A-Z]+)*\b").unwrap();
    let mut files = Vec::new();
    for folder in ["src", "tests", "packaging", ".ci"] {
        texts(&top().join(folder), &mut files);
    }
    let found = files.iter().flat_map(|text| variable.find_iter(text));
    let used: BTreeSet<&str> = found.map(|found| found.as_str()).collect();
    let page = document("development.md");
    let (_, table) = page.split_once("## Environment variables").unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: BTreeSet<&str> = rows.map(|(name, _)| name).collect();
    assert_eq!(
        used, listed,
        "used in the tree (left), listed in development.md (right)"
    );
}
