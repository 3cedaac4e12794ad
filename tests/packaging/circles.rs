//! Files that import each other in a circle can only be read all at once: there are none but those that `src/lib.rs`
//! names with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use regex_lite::Regex;

use super::rails::{sources, top};

/// Module names, as `engine::board`.
type Modules = BTreeSet<String>;

/// Modules by name, with their text: no comments, and no tests.
fn modules() -> BTreeMap<String, String> {
    let comment = Regex::new(r"//[^\n]*").unwrap();
    let mut modules = BTreeMap::new();
    for source in sources("src") {
        let path = source.strip_prefix(top().join("src")).unwrap();
        let name = path.with_extension("").display().to_string().replace('/', "::");
        let name = name.strip_suffix("::mod").unwrap_or(&name).to_string();
        let is_test = name.ends_with("tests") || name == "schedule::simulation";
        if is_test || name == "lib" || name.starts_with("bin::") {
            continue;
        }
        let text = comment
            .replace_all(&fs::read_to_string(&source).unwrap(), "")
            .into_owned();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        modules.insert(name, text.to_string());
    }
    modules
}

/// The paths of a `use` line's tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![path.trim().to_string()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut branches) = (0, vec![String::new()]);
    for letter in inner.chars() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if letter == ',' && depth == 0 {
            branches.push(String::new());
        } else if let Some(branch) = branches.last_mut() {
            branch.push(letter);
        }
    }
    let branches = branches.iter().filter(|branch| !branch.trim().is_empty());
    branches
        .flat_map(|branch| paths(&format!("{before}{}", branch.trim())))
        .collect()
}

/// The module of ours that a path names something in, as seen from the module `here`.
fn target(path: &str, here: &str, known: &Modules) -> Option<String> {
    let parts: Vec<&str> = path.split("::").map(str::trim).collect();
    let own: Vec<&str> = here.split("::").collect();
    let ups = parts.iter().take_while(|part| **part == "super").count();
    let full = match parts[0] {
        "crate" => parts[1..].to_vec(),
        "self" => [&own[..], &parts[1..]].concat(),
        "super" => [&own[..own.len() - ups], &parts[ups..]].concat(),
        child if known.contains(&format!("{here}::{child}")) => [&own[..], &parts[..]].concat(),
        _ => return None,
    };
    (1..=full.len())
        .rev()
        .map(|count| full[..count].join("::"))
        .find(|name| known.contains(name))
}

/// What each module imports. What a module takes from the one that it is in does not count: a room's own types stand in
/// its mod.rs, which also names the files in it.
fn imports() -> BTreeMap<String, Modules> {
    let line = Regex::new(r"(?m)^\s*(?:pub(?:\([^)]*\))? )?use ([^;]*);").unwrap();
    let modules = modules();
    let known: Modules = modules.keys().cloned().collect();
    let imported = |name: &String, text: &String| -> Modules {
        let trees = line.captures_iter(text).map(|found| found[1].replace('\n', " "));
        let paths = trees.flat_map(|tree| paths(&tree));
        let targets = paths.filter_map(|path| target(&path, name, &known));
        targets
            .filter(|other| other != name && !name.starts_with(&format!("{other}::")))
            .collect()
    };
    modules
        .iter()
        .map(|(name, text)| (name.clone(), imported(name, text)))
        .collect()
}

fn reached(from: &str, imports: &BTreeMap<String, Modules>) -> Modules {
    let mut reached = Modules::new();
    let mut open = vec![from.to_string()];
    while let Some(name) = open.pop() {
        for next in &imports[&name] {
            if reached.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    reached
}

/// Sets of modules each of which leads to all others of its set.
fn circles(imports: &BTreeMap<String, Modules>) -> BTreeSet<Modules> {
    let reached: BTreeMap<&String, Modules> = imports
        .keys()
        .map(|name| (name, reached(name, imports)))
        .collect();
    let circle = |name: &String| -> Modules {
        let members = reached[name]
            .iter()
            .filter(|other| reached[*other].contains(name));
        members.cloned().collect()
    };
    imports
        .keys()
        .map(circle)
        .filter(|circle| circle.len() > 1)
        .collect()
}

/// The circles that lib.rs names: lines as "- `a`, `b`: reason".
fn excused() -> Vec<(Modules, String)> {
    let text = fs::read_to_string(top().join("src/lib.rs")).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! - `")?.split_once("`: "));
    lines
        .map(|(names, reason)| {
            let names = names.split("`, `").map(str::to_string).collect();
            (names, reason.to_string())
        })
        .collect()
}

fn is_within(circle: &Modules, names: &Modules) -> bool {
    let is_named = |module: &String| {
        let is_in_folder = |name: &String| {
            name.strip_suffix('*')
                .is_some_and(|folder| module.starts_with(folder))
        };
        names.contains(module) || names.iter().any(is_in_folder)
    };
    circle.iter().all(is_named)
}

#[test]
fn files_import_each_other_in_no_circle_that_lib_rs_does_not_name() {
    let imports = imports();
    let count: usize = imports.values().map(Modules::len).sum();
    assert!(count > 300, "{count} imports");
    let excused = excused();
    for circle in circles(&imports) {
        assert!(
            excused.iter().any(|(names, _)| is_within(&circle, names)),
            "a circle of imports: {circle:?}; move what they share, or name it in src/lib.rs with the reason"
        );
    }
    for (names, reason) in excused {
        assert!(reason.split(' ').count() > 3, "{names:?}: {reason}");
    }
}

#[test]
fn a_circle_is_found_through_every_form_of_import() {
    let known: Modules = ["a", "a::b", "a::c", "d"].map(str::to_string).into();
    let to = |path: &str, here: &str| target(path, here, &known).unwrap_or_default();
    assert_eq!(to("crate::a::b::Type", "d"), "a::b");
    assert_eq!(to("super::c", "a::b"), "a::c");
    assert_eq!(to("b::Type", "a"), "a::b");
    assert_eq!(to("std::fmt", "a"), "");
    assert_eq!(
        paths("crate::{a::{b, c as x}, d}"),
        ["crate::a::b", "crate::a::c", "crate::d"]
    );
    let imports = [("a", ["b"]), ("b", ["c"]), ("c", ["a"]), ("d", ["a"])];
    let imports = imports.map(|(name, others)| (name.to_string(), others.map(str::to_string).into()));
    let found = circles(&imports.into());
    assert_eq!(
        found,
        BTreeSet::from([["a", "b", "c"].map(str::to_string).into()])
    );
}
