//! Query strings and forms: names and values.
//! Must not know: what they ask for.

use super::error::{Denied, bad};
use crate::clock::Wall;
use crate::time_text;
use crate::url::percent_decode;

/// Names and values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// `a=b&c=d`, percent-encoded, `+` for a space.
    pub fn parse(text: &str) -> Query {
        let decode = |part: &str| percent_decode(&part.replace('+', " "));
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Query(pairs.collect())
    }

    /// A name's first value; an empty one counts as none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given(name).filter(|value| !value.is_empty())
    }

    /// A name's first value, also an empty one.
    pub fn given(&self, name: &str) -> Option<&str> {
        let mut of_name = self.0.iter().filter(|(known, _)| known == name);
        of_name.next().map(|(_, value)| value.as_str())
    }

    /// [`Query::get`] as an owned text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_string)
    }

    /// A whole number in that range.
    pub fn number(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Denied> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let number = text
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse().ok());
        match number.flatten().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(bad(format!(
                "'{name}' must be a whole number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }

    /// `1`, `true` or nothing for yes.
    pub fn flag(&self, name: &str) -> Result<bool, Denied> {
        match self.given(name) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true" | "") => Ok(true),
            Some(_) => Err(bad(format!("'{name}' must be 1 or 0"))),
        }
    }

    /// A moment, as [`time_text::moment`] reads it.
    pub fn moment(&self, name: &str, now: Wall) -> Result<Option<Wall>, Denied> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        time_text::moment(text, now).map(Some).ok_or_else(|| {
            bad(format!(
                "invalid time in '{name}': expected {}",
                time_text::MOMENTS
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_bounded() {
        let query = Query::parse("job=a%26b+c&limit=7&limit=9&empty=&follow&x=%zz");
        assert_eq!(query.get("job"), Some("a&b c"));
        assert_eq!(query.number("limit", 1..=10).unwrap(), Some(7));
        assert!(query.number("limit", 1..=5).is_err());
        assert!(query.number("job", 1..=5).is_err());
        assert_eq!(query.get("empty"), None);
        assert!(query.flag("follow").unwrap());
        assert!(query.flag("job").is_err());
        assert_eq!(query.get("x"), Some("%zz"));
    }
}
