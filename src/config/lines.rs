//! A light look at a file's text, to tell on which line a field stands and whether its value is quoted: the parser
//! tells neither. It understands block mappings alone; of anything else it says that it does not know.
//! Must not know: what the keys mean.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;

/// The lines of one file; looked through when first asked, since most files have no problem.
pub struct Lines<'a> {
    text: &'a str,
    index: OnceCell<Index<'a>>,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style<'a> {
    /// In quotes, or as a block of text: surely a text.
    Quoted,
    /// Bare, on one line, without its comment.
    Plain(&'a str),
    /// In a list, in braces, behind an alias or an anchor, over several lines.
    Unknown,
}

struct Index<'a> {
    lines: Vec<&'a str>,
    /// 0-based lines on which a key of the outermost mapping stands, ascending.
    starts: Vec<usize>,
    /// Of a key given twice the last.
    top: HashMap<Cow<'a, str>, usize>,
    /// Columns before the outermost mapping's keys.
    margin: usize,
    /// In braces, as JSON has it: only quotes can be told.
    is_flow: bool,
}

impl<'a> Lines<'a> {
    /// Of a file's content; what is no UTF-8 has no lines.
    pub fn new(bytes: &'a [u8]) -> Lines<'a> {
        Lines {
            text: std::str::from_utf8(bytes).unwrap_or_default(),
            index: OnceCell::new(),
        }
    }

    /// The 1-based line of the field, or of the innermost of its parents that is found.
    pub fn line_of(&self, path: &[&str]) -> Option<usize> {
        (1..=path.len())
            .rev()
            .find_map(|depth| self.find(&path[..depth]))
            .map(|(line, _)| line + 1)
    }

    /// How the value of the field is written.
    pub fn style(&self, path: &[&str]) -> Style<'a> {
        let Some((_, value)) = self.find(path) else {
            return Style::Unknown;
        };
        match value.bytes().next() {
            Some(b'"' | b'\'' | b'|' | b'>') => Style::Quoted,
            None | Some(b'&' | b'*' | b'!' | b'{' | b'[' | b'#') => Style::Unknown,
            Some(_) if self.index().is_flow => Style::Unknown,
            Some(_) => Style::Plain(value.split(" #").next().unwrap_or(value).trim_end()),
        }
    }

    fn index(&self) -> &Index<'a> {
        self.index.get_or_init(|| Index::new(self.text))
    }

    /// The 0-based line of the field and what stands behind its colon.
    fn find(&self, path: &[&str]) -> Option<(usize, &'a str)> {
        let index = self.index();
        let (name, inner) = path.split_first()?;
        let mut at = *index.top.get(*name)?;
        let mut value = entry(index.lines[at].trim_start())?.1;
        let next = index.starts.partition_point(|start| *start <= at);
        let mut end = index.starts.get(next).copied().unwrap_or(index.lines.len());
        let mut outer_indent = index.margin;
        for name in inner {
            let block = at + 1..end;
            let indent = block
                .clone()
                .map(|line| index.lines[line])
                .find(|line| is_content(line))
                .map(indent)?;
            if indent <= outer_indent {
                return None;
            }
            let mut here = block
                .filter(|line| is_content(index.lines[*line]) && self::indent(index.lines[*line]) <= indent);
            let mut found = None;
            while let Some(line) = here.next() {
                if let Some((key, rest)) = entry(index.lines[line].trim_start())
                    && key == *name
                {
                    found = Some((line, rest));
                    end = here.clone().next().unwrap_or(end);
                }
            }
            (at, value) = found?;
            outer_indent = indent;
        }
        Some((at, value))
    }
}

impl<'a> Index<'a> {
    fn new(text: &'a str) -> Index<'a> {
        let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().collect();
        let mut starts = Vec::new();
        let mut top = HashMap::new();
        let mut content = lines
            .iter()
            .filter(|line| is_content(line) && !line.starts_with("---"));
        let is_flow = content.clone().next().is_some_and(|line| line.trim() == "{");
        let margin = content.find(|line| entry(line.trim_start()).is_some());
        let margin = margin.map_or(0, |line| indent(line));
        for (number, line) in lines.iter().enumerate() {
            if is_content(line)
                && indent(line) == margin
                && let Some((key, _)) = entry(&line[margin..])
            {
                starts.push(number);
                top.insert(key, number);
            }
        }
        Index {
            lines,
            starts,
            top,
            margin,
            is_flow,
        }
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn is_content(line: &str) -> bool {
    let text = line.trim();
    !text.is_empty() && !text.starts_with('#')
}

/// Key and rest of `key: rest`, both trimmed; None where the line has no key in an easy shape.
pub(super) fn entry(line: &str) -> Option<(Cow<'_, str>, &str)> {
    let quote = line.chars().next()?;
    if quote == '"' || quote == '\'' {
        let inner = &line[1..];
        let close = inner.find(quote)?;
        let (key, rest) = (
            &inner[..close],
            inner[close + 1..].trim_start().strip_prefix(':')?,
        );
        return (!key.contains('\\')).then_some((Cow::Borrowed(key), rest.trim()));
    }
    let colon = line
        .find(": ")
        .or_else(|| line.trim_end().strip_suffix(':').map(str::len))?;
    Some((Cow::Borrowed(line[..colon].trim_end()), line[colon + 1..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"# first\nbackup:\n  min: 010 # ten\n  env:\n    A: yes\n    B: 'no'\n  command: |\n    env:\n      A: never\n'odd name': {min: 1}\nbackup2:\n\n    hour: \"5\"\n";

    #[test]
    fn a_field_is_found_on_its_line() {
        let lines = Lines::new(TEXT);
        assert_eq!(lines.line_of(&["backup"]), Some(2));
        assert_eq!(lines.line_of(&["backup", "min"]), Some(3));
        assert_eq!(lines.line_of(&["backup", "env", "B"]), Some(6));
        assert_eq!(lines.line_of(&["backup", "hour"]), Some(2));
        assert_eq!(lines.line_of(&["odd name", "min"]), Some(10));
        assert_eq!(lines.line_of(&["backup2", "hour"]), Some(13));
        assert_eq!(lines.line_of(&["nobody"]), None);
    }

    #[test]
    fn a_field_of_an_indented_mapping_or_of_json_is_found_too() {
        let indented = b"---\n\n  backup:\n    min: 010\n  other:\n    hour: 5\n";
        let lines = Lines::new(indented);
        assert_eq!(lines.line_of(&["backup", "min"]), Some(4));
        assert_eq!(lines.line_of(&["other", "hour"]), Some(6));
        assert_eq!(lines.style(&["backup", "min"]), Style::Plain("010"));
        let json = b"{\n  \"backup\": {\n    \"min\": \"010\",\n    \"env\": {\n      \"A\": 5\n    }\n  },\n  \"other\": {\n    \"hour\": 5\n  }\n}\n";
        let lines = Lines::new(json);
        assert_eq!(lines.line_of(&["backup", "min"]), Some(3));
        assert_eq!(lines.line_of(&["backup", "env", "A"]), Some(5));
        assert_eq!(lines.line_of(&["other", "hour"]), Some(9));
        assert_eq!(lines.line_of(&["other", "min"]), Some(8));
        assert_eq!(lines.style(&["backup", "min"]), Style::Quoted);
        assert_eq!(lines.style(&["other", "hour"]), Style::Unknown);
    }

    #[test]
    fn quotes_are_told_from_bare_words() {
        let lines = Lines::new(TEXT);
        assert_eq!(lines.style(&["backup", "min"]), Style::Plain("010"));
        assert_eq!(lines.style(&["backup", "env", "A"]), Style::Plain("yes"));
        assert_eq!(lines.style(&["backup", "env", "B"]), Style::Quoted);
        assert_eq!(lines.style(&["backup", "command"]), Style::Quoted);
        assert_eq!(lines.style(&["odd name", "min"]), Style::Unknown);
    }
}
