//! The reference documents name every field, verb, option and variable, as the code has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use saltpeter::config::Loader;
use saltpeter::config::reference::{self, Field, JOB, Kind, MAINTENANCE, SETTINGS};

fn top() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Compares the part of a file between two markers with the wanted text, or writes it.
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
        "{} differs from src/config/reference.rs: run SALTPETER_WRITE_REFERENCE=1 cargo test --locked --test packaging \
         reference to rewrite it",
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
        "the README links to the reference"
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

fn help(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saltpeter"));
    let output = command.args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A man page's text without the escapes that matter here.
fn man(page: &str) -> String {
    let text = fs::read_to_string(top().join("packaging/man").join(page)).unwrap();
    text.replace("\\-", "-")
}

#[test]
fn man_page_and_overview_name_every_verb_and_every_option() {
    let (man, overview) = (
        man("saltpeter.1"),
        fs::read_to_string(top().join("packaging/doc/http-and-cli.md")).unwrap(),
    );
    let general = help(&[]);
    let (_, verbs) = general.split_once("verbs:\n").unwrap();
    let mut count = 0;
    for verb in verbs.lines().take_while(|line| !line.is_empty()) {
        let (verb, about) = verb.trim().split_once(' ').unwrap();
        let is_named = |line: &str| line.starts_with(&format!(".BR {verb} ")) || line == format!(".B {verb}");
        assert!(man.lines().any(is_named), "{verb}");
        assert!(
            overview.contains(&format!("| `{verb}` | {} |", about.trim())),
            "{verb}"
        );
        let help = help(&[verb]);
        let is_option_or_code = |word: &&str| word.starts_with("--") || word.starts_with("SALTPETER_");
        let words = help.split(|letter: char| !letter.is_ascii_alphanumeric() && !"-_".contains(letter));
        for option in words.filter(is_option_or_code) {
            assert!(man.contains(option), "{verb} {option}");
        }
        for code in ["69", "77"].iter().filter(|code| help.contains(**code)) {
            assert!(
                man.contains(&format!(".B {code}\n")) && overview.contains(&format!(" {code} ")),
                "{verb} {code}"
            );
        }
        count += 1;
    }
    assert!(count > 10);
}

/// The names of the variables are string literals of the one file that reads them.
#[test]
fn the_wrappers_man_page_names_every_variable_that_it_reads() {
    let man = man("sp-wrapper.1");
    let source = fs::read_to_string(top().join("src/wrapper/settings.rs")).unwrap();
    let quoted = source.split('"').skip(1).step_by(2);
    let names: BTreeSet<&str> = quoted
        .filter(|name| name.starts_with("SP_") && *name != "SP_TEST_PANIC" && !name.contains(' '))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(man.contains(name), "{name}");
    }
}

/// One file with every field and its example, except `timezone`, which `utc` excludes; a second job has `schedule`, which the
/// seven fields exclude.
#[test]
fn every_example_loads_without_a_doubt() {
    let lines = |fields: &[Field], but: &str| -> String {
        let with_example = |field: &&Field| {
            let is_excluded = field.name == but || field.name == "schedule";
            field.kind != Kind::Ignored && !is_excluded
        };
        fields
            .iter()
            .filter(with_example)
            .map(|field| format!("  {}: {}\n", field.name, field.example))
            .collect()
    };
    let schedule = JOB.iter().find(|field| field.name == "schedule").unwrap();
    let text = format!(
        "saltpeter_config:\n{}saltpeter_maintenance:\n{}first:\n{}second: {{schedule: {}, targets: a, command: b}}\n",
        lines(SETTINGS, ""),
        lines(MAINTENANCE, ""),
        lines(JOB, "timezone"),
        schedule.example,
    );
    let dir = std::env::temp_dir().join(format!("saltpeter-reference-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.yaml"), &text).unwrap();
    let config = Loader::new(dir.clone()).load().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(config.problems, [], "{text}");
    assert_eq!(config.jobs.len(), 2);
}

/// The links of a document within this repository: `(file, anchor of the heading)`.
fn links(document: &Path) -> Vec<(PathBuf, String)> {
    let text = fs::read_to_string(document).unwrap();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let here = targets.filter(|target| !target.contains("://"));
    here.map(|target| {
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let file = match file {
            "" => document.to_path_buf(),
            file => document.parent().unwrap().join(file),
        };
        (file, anchor.to_string())
    })
    .collect()
}

#[test]
fn every_link_of_the_documents_leads_to_a_file_and_a_heading() {
    let folders = ["packaging/doc", "packaging/doc/design"];
    let pages = folders.map(|folder| fs::read_dir(top().join(folder)).unwrap());
    let pages = pages.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut documents: Vec<PathBuf> = pages
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    documents.push(top().join("README.md"));
    let mut pictures = 0;
    for document in documents {
        for (file, anchor) in links(&document) {
            assert!(file.is_file(), "{}: {}", document.display(), file.display());
            pictures += usize::from(file.extension().is_some_and(|end| end == "png"));
            if anchor.is_empty() {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
            let mut anchors = headings.map(|line| {
                let words = line.trim_start_matches('#').trim().to_lowercase();
                let kept = words
                    .chars()
                    .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                kept.collect::<String>().replace(' ', "-")
            });
            assert!(
                anchors.any(|known| known == anchor),
                "{}: #{anchor}",
                document.display()
            );
        }
    }
    assert!(pictures >= 2, "the documents show the web UI");
}

#[test]
fn the_pictures_are_small() {
    for name in ["page.png", "run.png"] {
        let bytes = fs::metadata(top().join("packaging/doc").join(name))
            .unwrap()
            .len();
        assert!(
            bytes <= 150_000,
            "{name} has {bytes} bytes: run packaging/doc/screenshot, which compresses it"
        );
    }
}
