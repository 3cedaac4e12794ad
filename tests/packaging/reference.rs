//! The reference that people read names every field, as the code has it.

use std::fs;
use std::path::{Path, PathBuf};

use saltpeter::config::Loader;
use saltpeter::config::reference::{self, Field, JOB, Kind, MAINTENANCE, SETTINGS};

fn top() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Holds the part of a file between two markers against what it should be, or writes it.
fn hold(path: &Path, begin: &str, end: &str, wanted: &str) {
    let text = fs::read_to_string(path).unwrap();
    let (before, rest) = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("no {begin:?} in {path:?}"));
    let (found, after) = rest.split_once(end).unwrap();
    if found == wanted {
        return;
    }
    if std::env::var_os("SALTPETER_WRITE_REFERENCE").is_some() {
        return fs::write(path, [before, begin, wanted, end, after].concat()).unwrap();
    }
    panic!(
        "{} is not what src/config/reference.rs says; SALTPETER_WRITE_REFERENCE=1 cargo test --locked --test packaging \
         reference writes it anew",
        path.display()
    );
}

const PARTS: [(&str, &[Field]); 3] = [
    ("job fields", JOB),
    ("settings", SETTINGS),
    ("maintenance", MAINTENANCE),
];

#[test]
fn the_reference_names_every_field_with_type_default_and_example() {
    let path = top().join("packaging/doc/reference.md");
    for (part, fields) in PARTS {
        let begin = format!("<!-- {part} -->\n");
        hold(&path, &begin, "<!-- end -->", &reference::markdown(fields));
    }
    let readme = fs::read_to_string(top().join("README.md")).unwrap();
    assert!(
        readme.contains("packaging/doc/reference.md"),
        "the README leads there"
    );
}

#[test]
fn the_man_page_names_every_field() {
    let path = top().join("packaging/man/saltpeter.yaml.5");
    for (part, fields) in PARTS {
        let begin = format!(".\\\" {part}\n");
        hold(&path, &begin, ".\\\" end", &reference::roff(fields));
    }
}

/// Every field with its example, as one file; a second job has what excludes something in the first.
#[test]
fn every_example_loads_without_a_doubt() {
    let lines = |fields: &[Field], but: &str| -> String {
        let with_example = |field: &&Field| field.kind != Kind::Ignored && field.name != but;
        fields
            .iter()
            .filter(with_example)
            .map(|field| format!("  {}: {}\n", field.name, field.example))
            .collect()
    };
    let text = format!(
        "saltpeter_config:\n{}saltpeter_maintenance:\n{}first:\n{}",
        lines(SETTINGS, ""),
        lines(MAINTENANCE, ""),
        lines(JOB, "timezone"),
    );
    let dir = std::env::temp_dir().join(format!("saltpeter-reference-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.yaml"), &text).unwrap();
    let config = Loader::new(dir.clone()).load().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(config.problems, [], "{text}");
    assert_eq!(config.jobs.len(), 1);
}
