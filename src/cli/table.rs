//! Tables and colours for people: columns as wide as they need, colours only on a terminal.
//! Must not know: what stands in them.

use std::io::IsTerminal;

use serde_json::Value;

/// Lines of cells; the first is the heading.
#[derive(Default)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// With these headings.
    pub fn new(headings: &[&str]) -> Table {
        Table(vec![
            headings.iter().map(|heading| (*heading).to_string()).collect(),
        ])
    }

    /// One more line.
    pub fn line(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// As text.
    pub fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let is_coloured = has_colours();
        let mut text = String::new();
        for (number, line) in self.0.iter().enumerate() {
            let mut shown = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                let padding = " ".repeat(width - cell.chars().count() + 2);
                shown.push_str(&if is_coloured {
                    coloured(cell, number == 0)
                } else {
                    cell.clone()
                });
                shown.push_str(&padding);
            }
            text.push_str(shown.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Nothing that a terminal would obey: names and notes may come from anywhere.
pub fn plain(text: &str) -> String {
    let shown = |c: char| {
        if is_obeyed(c) {
            c.escape_unicode().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(shown).collect()
}

/// Whether a terminal, or whatever lays out a line, acts on the character instead of showing it: controls, and the marks
/// that turn the direction of text.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A value as a cell: texts as they are, nothing for null.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// How many of a run's machines failed, of how many.
pub fn failed(run: &Value) -> String {
    format!("{}/{}", cell(&run["failed_count"]), cell(&run["total_count"]))
}

/// An outcome; of a kill with who asked for it.
pub fn outcome(of: &Value) -> String {
    match (of["outcome"].as_str(), of["killed_by"].as_str()) {
        (Some("killed"), Some(who)) => format!("killed by {who}"),
        _ => cell(&of["outcome"]),
    }
}

/// How long something took, from milliseconds.
pub fn lasted(value: &Value) -> String {
    let Some(ms) = value.as_u64() else {
        return "-".into();
    };
    let s = ms / 1_000;
    match s {
        0..10 => format!("{}.{} s", s, ms % 1_000 / 100),
        10..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
    }
}

/// A time to the second; the daemon tells UTC.
pub fn time(value: &Value) -> String {
    match value.as_str() {
        None => "-".into(),
        Some(text) => text.split('.').next().unwrap_or(text).replace('T', " ") + "Z",
    }
}

/// Colours are for terminals, and for people who want them (no-color.org).
pub fn has_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn coloured(cell: &str, is_heading: bool) -> String {
    let code = match cell {
        _ if is_heading => "1",
        "ok" | "succeeded" | "success" => "32",
        _ if cell.starts_with("killed by ") => "31",
        "failed" | "error" | "lost" | "timeout" | "killed" | "not_started" => "31",
        "running" | "connected" | "launched" | "dispatched" => "36",
        "paused" | "disabled" | "skipped" | "waiting" => "33",
        _ => return cell.to_string(),
    };
    format!("\x1b[{code}m{cell}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_reaches_the_terminal_raw() {
        let mut table = Table::new(&["A", "B"]);
        table.line(["\x1b[2Jlong".to_string(), "x".to_string()]);
        assert_eq!(table.text(), "A              B\n\\u{1b}[2Jlong  x\n");
        assert_eq!(plain("ab\u{202e}cd\u{2066}\n€"), "ab\\u{202e}cd\\u{2066}\\u{a}€");
    }
}
