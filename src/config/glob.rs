//! Which machine ids a job's targets mean, as Salt reads them: glob, list, pcre. Pure.
//! Must not know: where the ids come from.

use regex_lite::Regex;

use super::{JobSpec, Targets};

/// The ids that match, in the order given. The error is for people: an unknown kind of target, a bad pattern.
pub fn select(targets: &Targets, target_type: &str, ids: &[String]) -> Result<Vec<String>, String> {
    let patterns: Vec<&str> = match (targets, target_type) {
        (Targets::List(list), _) => list.iter().map(String::as_str).collect(),
        (Targets::Text(text), "list") => text.split(',').map(str::trim).collect(),
        (Targets::Text(text), _) => vec![text],
    };
    let is_match: Box<dyn Fn(&str) -> bool> = match target_type {
        "glob" => Box::new(move |id| patterns.iter().any(|pattern| glob(pattern, id))),
        "list" => Box::new(move |id| patterns.contains(&id)),
        "pcre" => {
            let patterns = patterns
                .into_iter()
                .map(anchored)
                .collect::<Result<Vec<_>, _>>()?;
            Box::new(move |id| patterns.iter().any(|pattern| pattern.is_match(id)))
        }
        other => {
            return Err(format!(
                "target_type '{other}' needs Salt: the local executor knows glob, list and pcre"
            ));
        }
    };
    Ok(ids.iter().filter(|id| is_match(id)).cloned().collect())
}

/// Whether the job may run on the machine. What only Salt can decide (grains, compound ...) counts as a match.
pub fn may_match(spec: &JobSpec, machine: &str) -> bool {
    let ids = [machine.to_string()];
    select(&spec.targets, &spec.target_type, &ids).map_or(true, |found| !found.is_empty())
}

/// Like Python's `re.match`: from the start, not necessarily to the end.
fn anchored(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})"))
        .map_err(|error| format!("invalid pattern '{pattern}' in targets: {error}"))
}

/// Like Python's `fnmatch.fnmatchcase`: `*`, `?`, `[seq]`, `[!seq]`; the whole text must match.
pub fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at_pattern, mut at_text) = (0, 0);
    // where to go on when the rest does not match: behind the last star, one character further in the text
    let mut retry: Option<(usize, usize)> = None;
    while at_text < text.len() {
        let step = match pattern.get(at_pattern) {
            Some('*') => {
                at_pattern += 1;
                retry = Some((at_pattern, at_text));
                continue;
            }
            Some(_) => one(&pattern[at_pattern..], text[at_text]),
            None => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                at_pattern += length;
                at_text += 1;
            }
            (None, Some((behind_star, start))) => {
                retry = Some((behind_star, start + 1));
                at_pattern = behind_star;
                at_text = start + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[at_pattern..].iter().all(|rest| *rest == '*')
}

/// Whether the pattern's first element matches `character`; its length.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match pattern[0] {
        '?' => Some(1),
        '[' => match class(pattern) {
            Some((length, is_negated, members)) => (has(members, character) != is_negated).then_some(length),
            // a bracket that nobody closes stands for itself
            None => (character == '[').then_some(1),
        },
        literal => (literal == character).then_some(1),
    }
}

/// Length, negation and members of the class that `pattern` begins with.
fn class(pattern: &[char]) -> Option<(usize, bool, &[char])> {
    let is_negated = pattern.get(1) == Some(&'!');
    let start = 1 + usize::from(is_negated);
    // a bracket right at the beginning is a member
    let end = start
        + 1
        + pattern
            .get(start + 1..)?
            .iter()
            .position(|member| *member == ']')?;
    Some((end + 1, is_negated, &pattern[start..end]))
}

fn has(members: &[char], character: char) -> bool {
    let mut rest = members;
    loop {
        match rest {
            [] => return false,
            [low, '-', high, tail @ ..] => {
                if (*low..=*high).contains(&character) {
                    return true;
                }
                rest = tail;
            }
            [member, tail @ ..] => {
                if *member == character {
                    return true;
                }
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Vec<String> {
        ["web01", "web02", "web10", "db01", "cache[1]"]
            .map(String::from)
            .to_vec()
    }

    fn selected(targets: &str, target_type: &str) -> Vec<String> {
        select(&Targets::Text(targets.into()), target_type, &ids()).unwrap()
    }

    #[test]
    fn globs_match_as_fnmatch_does() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("web*", "web01", true),
            ("web*", "aweb01", false),
            ("web0?", "web01", true),
            ("web0?", "web0", false),
            ("web0[12]", "web02", true),
            ("web0[!12]", "web02", false),
            ("web0[!12]", "web03", true),
            ("web[0-9][0-9]", "web42", true),
            ("*a*b*c", "xxaxxbxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("a[b", "a[b", true),
            ("", "", true),
            ("", "a", false),
            ("a**", "a", true),
            ("WEB*", "web01", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn lists_globs_and_patterns_select_in_the_order_of_the_ids() {
        assert_eq!(selected("web0*", "glob"), ["web01", "web02"]);
        assert_eq!(selected("db01, web10,web99", "list"), ["web10", "db01"]);
        assert_eq!(selected("web0|db", "pcre"), ["web01", "web02", "db01"]);
        assert_eq!(selected("eb01", "pcre"), [""; 0]);
        let list = Targets::List(vec!["db*".into(), "web10".into()]);
        assert_eq!(select(&list, "glob", &ids()).unwrap(), ["web10", "db01"]);
        assert_eq!(select(&list, "list", &ids()).unwrap(), ["web10"]);
    }

    #[test]
    fn what_needs_salt_and_what_is_no_pattern_is_said() {
        let targets = Targets::Text("os:Debian".into());
        let error = select(&targets, "grain", &ids()).unwrap_err();
        assert!(error.contains("'grain' needs Salt"), "{error}");
        assert!(select(&Targets::Text("(".into()), "pcre", &ids()).is_err());
    }
}
