//! The grammar of the seven fields: text to the set of values it stands for, or the reasons why it stands for none.
//! Must not know: calendars, zones, the `cron` crate (its grammar is another one).
//!
//! Rule R7 of the specification is kept to the letter, oddities included: deployed job files rely on it.

use std::ops::RangeInclusive;

/// What one field may hold.
pub(super) struct Rule {
    pub name: &'static str,
    /// Smallest and largest value that `*` covers.
    pub min: u32,
    pub max: u32,
    /// Largest number that may be written; differs from `max` in dow alone, where 7 is Sunday too.
    pub limit: u32,
    /// Three-letter names, the first standing for `min`.
    names: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    DayOfMonth,
    DayOfWeek,
}

pub(super) static SEC: Rule = Rule::plain("sec", 0, 59, &[]);
pub(super) static MIN: Rule = Rule::plain("min", 0, 59, &[]);
pub(super) static HOUR: Rule = Rule::plain("hour", 0, 23, &[]);
pub(super) static DOM: Rule = Rule {
    name: "dom",
    min: 1,
    max: 31,
    limit: 31,
    names: &[],
    kind: Kind::DayOfMonth,
};
pub(super) static MON: Rule = Rule::plain(
    "mon",
    1,
    12,
    &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
);
pub(super) static DOW: Rule = Rule {
    name: "dow",
    min: 0,
    max: 6,
    limit: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    kind: Kind::DayOfWeek,
};
pub(super) static YEAR: Rule = Rule::plain("year", 1970, 2099, &[]);

/// `Zn` and `Ln` count 0 to 7.
const SPECIAL_MAX: u32 = 7;

/// What the text of one field stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub set: Set,
    /// dom: bit n for "n days before the last" (`L` is bit 0). dow: bit n for "the last weekday n of the month".
    pub special: u8,
    /// An item starts with `*`: in min or hour this decides how the job behaves when clocks change.
    pub starred: bool,
    /// What loads but deserves a doubt.
    pub warnings: Vec<String>,
}

/// One item of a list: a doubt, if any, or why it is none.
type ItemResult = Result<Option<String>, String>;

/// A set of field values, kept relative to the field's smallest one. 130 years are the widest field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Set([u64; 3]);

impl Set {
    /// As a short text.
    pub fn mark(&self) -> String {
        let [first, second, third] = self.0;
        format!("{first:x}.{second:x}.{third:x}")
    }

    pub fn insert(&mut self, rule: &Rule, value: u32) {
        let bit = (value - rule.min) as usize;
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    pub fn contains(&self, rule: &Rule, value: u32) -> bool {
        let bit = value.wrapping_sub(rule.min) as usize;
        bit < 192 && self.0[bit / 64] >> (bit % 64) & 1 == 1
    }

    pub fn values<'a>(&'a self, rule: &'a Rule) -> impl DoubleEndedIterator<Item = u32> + 'a {
        (rule.min..=rule.max).filter(|value| self.contains(rule, *value))
    }

    /// The values as the bits of one word, value 0 at bit 0 (for every field but year).
    pub fn bits(&self, rule: &Rule) -> u64 {
        self.0[0] << rule.min
    }
}

/// Reads one field. All of its bad items are reported.
pub(super) fn parse(rule: &Rule, text: &str) -> Result<Parsed, Vec<String>> {
    let text = text.trim();
    if text.is_empty() {
        return Err(vec!["is empty: write '*' to match every value".into()]);
    }
    if text.contains(char::is_whitespace) {
        return Err(vec![format!(
            "{} has white space inside: remove it",
            quoted(text)
        )]);
    }
    let mut parsed = Parsed::default();
    let mut reasons = Vec::new();
    for written in text.split(',') {
        let item = written.to_ascii_lowercase();
        parsed.starred |= item.starts_with('*');
        match parse_item(rule, &item, &mut parsed) {
            Ok(None) => {}
            Ok(Some(warning)) => parsed.warnings.push(format!("{} {warning}", quoted(written))),
            Err(reason) => {
                let object = if item.is_empty() { text } else { written };
                reasons.push(format!("{} {reason}", quoted(object)));
            }
        }
    }
    if !reasons.is_empty() {
        reasons.dedup();
        return Err(reasons);
    }
    if text.contains(',') && text.split(',').any(|item| item == "*" || item == "?") {
        parsed.warnings.push(format!(
            "{} is the same as '*': the other items change nothing",
            quoted(text)
        ));
    }
    Ok(parsed)
}

impl Rule {
    const fn plain(name: &'static str, min: u32, max: u32, names: &'static [&'static str]) -> Rule {
        Rule {
            name,
            min,
            max,
            limit: max,
            names,
            kind: Kind::Plain,
        }
    }
}

/// Adds one item of the list, in lower case. Error and warning continue a sentence that starts with the item.
fn parse_item(rule: &Rule, item: &str, parsed: &mut Parsed) -> ItemResult {
    match (rule.kind, item.as_bytes()) {
        (_, b"") => Err("has an empty item: remove the extra comma".into()),
        (_, b"*") => {
            insert_all(rule, rule.min..=rule.max, 1, parsed);
            Ok(None)
        }
        (Kind::Plain, b"?") => Err("stands for any day, in dom and dow only: write '*'".into()),
        (_, b"?") => {
            insert_all(rule, rule.min..=rule.max, 1, parsed);
            Ok(None)
        }
        (Kind::DayOfMonth, b"l") => {
            parsed.special |= 1;
            Ok(None)
        }
        (Kind::DayOfMonth, [b'z', ..]) => parse_before_last(item, parsed),
        (Kind::DayOfWeek, [b'l', ..]) => parse_last_weekday(item, parsed),
        _ => parse_stepped(rule, item, parsed),
    }
}

/// `Zn` and `Zn-m`: days counted back from the last of the month.
fn parse_before_last(item: &str, parsed: &mut Parsed) -> ItemResult {
    match special_range(&item[1..]) {
        Some((first, None)) => parsed.special |= 1 << first,
        Some((first, Some(last))) if first < last => {
            for days in first..=last {
                parsed.special |= 1 << days;
            }
        }
        _ => {
            return Err(
                "does not count days from the end of the month: write Z and 0-7, or Zn-m with n below m, such as Z1-3".into(),
            );
        }
    }
    Ok(None)
}

/// `Ln` and `Ln-m`: the last such weekdays of the month.
fn parse_last_weekday(item: &str, parsed: &mut Parsed) -> ItemResult {
    let Some((first, last)) = special_range(&item[1..]) else {
        return Err(
            "is no last weekday: write L and 0-7 (0 and 7 are Sunday), such as L5 for the last Friday; \
                    the last day of the month is L in dom"
                .into(),
        );
    };
    let last = last.unwrap_or(first);
    for day in first..=last {
        parsed.special |= 1 << (day % 7);
    }
    Ok((first > last).then(|| "runs backwards and never matches".into()))
}

/// `n` or `n-m`, each 0 to 7.
fn special_range(text: &str) -> Option<(u32, Option<u32>)> {
    let small = |text| number(text).filter(|value| *value <= SPECIAL_MAX);
    match text.split_once('-') {
        None => Some((small(text)?, None)),
        Some((first, last)) => Some((small(first)?, Some(small(last)?))),
    }
}

/// `N`, `N-M`, `N/S`, `N-M/S`, `*/S`.
fn parse_stepped(rule: &Rule, item: &str, parsed: &mut Parsed) -> ItemResult {
    let (base, step) = match item.split_once('/') {
        None => (item, None),
        Some((base, step)) => (base, Some(parse_step(rule, step)?)),
    };
    let (first, last) = if base == "*" {
        (rule.min, rule.max)
    } else if let Some((first, last)) = base.split_once('-') {
        parse_range(rule, first, last)?
    } else {
        let first = parse_value(rule, base)?;
        (first, if step.is_some() { rule.max } else { first })
    };
    if first > last {
        // only `7/S` in dow comes here: `N/S` ends on Saturday
        return Err(format!("starts after {}: write 0 for Sunday", rule.max));
    }
    if let Some(step) = step
        && first + step > rule.limit
    {
        return Err(format!(
            "steps out of the field at once: {first} and {step} are beyond {}; write {first} alone",
            rule.limit
        ));
    }
    insert_all(rule, first..=last, step.unwrap_or(1), parsed);
    let from_sunday_to_sunday = (first, last) == (0, 7) && !base.ends_with('7');
    Ok(from_sunday_to_sunday
        .then(|| "runs from Sunday to the next Sunday, the whole week: write 0 for Sunday alone".into()))
}

fn parse_step(rule: &Rule, text: &str) -> Result<u32, String> {
    match number(text) {
        Some(step) if (1..=rule.limit).contains(&step) => Ok(step),
        Some(_) => Err(format!("has a step out of range: use 1-{}", rule.limit)),
        None => Err("has a step that is not a whole number: write it in digits, such as */5".into()),
    }
}

/// The ends of a range. In dow it may end on Sunday, however that is written.
fn parse_range(rule: &Rule, first: &str, last: &str) -> Result<(u32, u32), String> {
    let (first, mut last) = (parse_value(rule, first)?, parse_value(rule, last)?);
    if rule.kind == Kind::DayOfWeek && last == 0 {
        last = 7;
    }
    if first > last {
        return Err(format!("runs backwards: {}", backwards_hint(rule, first, last)));
    }
    Ok((first, last))
}

/// How to write a range that was meant to run over the field's end.
fn backwards_hint(rule: &Rule, first: u32, last: u32) -> String {
    let part = |from, to| {
        if from == to {
            format!("{from}")
        } else {
            format!("{from}-{to}")
        }
    };
    match rule.kind {
        Kind::DayOfWeek if first == 7 => format!("write {}", part(0, last)),
        _ if rule.name == YEAR.name => format!("write {}", part(last, first)),
        Kind::DayOfWeek => format!("write {},{}", part(first, 7), part(1, last)),
        _ => format!("write {},{}", part(first, rule.max), part(rule.min, last)),
    }
}

/// A number within the field, or a name.
fn parse_value(rule: &Rule, text: &str) -> Result<u32, String> {
    if let Some(value) = number(text) {
        return if (rule.min..=rule.limit).contains(&value) {
            Ok(value)
        } else {
            Err(format!("is out of range: use {}-{}", rule.min, rule.limit))
        };
    }
    match rule.names.iter().position(|name| *name == text) {
        Some(place) => Ok(rule.min + place as u32),
        None => Err(unknown_hint(rule, text)),
    }
}

/// Why this is no value. Other schedulers' dialects are named, as that is where such text comes from.
fn unknown_hint(rule: &Rule, text: &str) -> String {
    let word = !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphabetic());
    let short_name = text.get(..3).filter(|short| word && rule.names.contains(short));
    if let Some(short) = short_name {
        format!("has a name of more than three letters: write {short}")
    } else if text.starts_with('@') {
        "is a nickname, which job files do not have: write the fields out".into()
    } else if text.contains('#') {
        "is not supported: dom and dow must both match, so the second Friday is dow 5 with dom 8-14".into()
    } else if rule.kind == Kind::DayOfWeek && text.len() == 2 && text.ends_with('l') {
        format!(
            "is not supported: the last such weekday is written L{}",
            &text[..1]
        )
    } else if rule.kind == Kind::DayOfMonth && text.starts_with('l') {
        "is not supported: L stands alone, days before the last are written Z1 to Z7".into()
    } else if rule.kind == Kind::DayOfMonth && text.ends_with('w') {
        "is not supported: there is no nearest weekday".into()
    } else if rule.names.is_empty() {
        format!("is not a whole number: use {}-{}", rule.min, rule.limit)
    } else {
        let last = rule.names.len() - 1;
        format!(
            "is neither a number nor a name: use {}-{} or {}-{}",
            rule.min, rule.limit, rule.names[0], rule.names[last]
        )
    }
}

fn insert_all(rule: &Rule, values: RangeInclusive<u32>, step: u32, parsed: &mut Parsed) {
    for value in values.step_by(step as usize) {
        // 7 is Sunday in dow and occurs nowhere else beyond a field's max
        parsed
            .set
            .insert(rule, if value > rule.max { rule.min } else { value });
    }
}

/// Digits only, leading zeros allowed; what no field can hold saturates, to be reported as out of range.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.bytes().fold(0_u32, |value, byte| {
        value.saturating_mul(10).saturating_add(u32::from(byte - b'0'))
    }))
}

/// The user's text in quotes, shortened and without control characters.
fn quoted(text: &str) -> String {
    const SHOWN_CHARS: usize = 40;
    let mut shown = String::new();
    for letter in text.chars().take(SHOWN_CHARS) {
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push_str("...");
    }
    format!("'{shown}'")
}
