//! What a YAML file says, with nothing lost: every key in order, twice given ones too, keys that are no texts.
//! The one place that touches serde_yaml, which alone would drop duplicates and leave merge keys unapplied.
//! Must not know: what the keys mean.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::cause::{self, Unreadable};
use super::node::Node;
use crate::limits;

/// Before UTF-8 text, as some editors put it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads one YAML document. An empty file is [`Node::Null`].
pub fn read(bytes: &[u8]) -> Result<Node, Unreadable> {
    // the parser would count the mark as a column, and take the next key for another document's
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    if let Some(why) = cause::not_utf8(bytes) {
        return Err(why);
    }
    let budget = Cell::new(limits::CONFIG_NODES);
    let seed = NodeSeed { budget: &budget };
    seed.deserialize(serde_yaml::Deserializer::from_slice(bytes))
        .map_err(|error| cause::explain(bytes, &error))
}

/// Cuts the text of a large block mapping into pieces of about `piece_bytes` that hold whole entries, so that not all
/// of it is in memory as parsed values at once: that takes 40 MB for 10,000 jobs. None: it is small, or not surely
/// cut right (anchors, directives, several documents, anything at the margin that is no plain key). A cut inside
/// quotes or braces leaves a piece that [`read`] refuses; then the file must be read whole.
pub fn pieces(bytes: &[u8], piece_bytes: usize) -> Option<Vec<&[u8]>> {
    if bytes.len() < 2 * piece_bytes {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let (mut pieces, mut start, mut at) = (Vec::new(), 0, 0);
    let mut is_inside = false;
    for line in text.split_inclusive('\n') {
        let margin = line.as_bytes()[0];
        let marker = line.starts_with("---") || line.starts_with("...");
        if may_anchor(line) || marker || b"-%?{}[]|>@`!&*,:<\t".contains(&margin) {
            return None;
        }
        if !matches!(margin, b' ' | b'#' | b'\n' | b'\r') {
            super::lines::entry(line)?;
            is_inside = true;
            if at - start >= piece_bytes {
                pieces.push(&bytes[start..at]);
                start = at;
            }
        } else if margin == b' ' && !is_inside && !line.trim().is_empty() {
            // the outermost mapping is indented
            return None;
        }
        at += line.len();
    }
    pieces.push(&bytes[start..]);
    Some(pieces)
}

/// Whether the line might define an anchor, which a later piece could refer to.
fn may_anchor(line: &str) -> bool {
    let bytes = line.as_bytes();
    bytes.iter().enumerate().any(|(at, byte)| {
        let before = at.checked_sub(1).map_or(b' ', |at| bytes[at]);
        let after = bytes.get(at + 1).copied().unwrap_or(b' ');
        *byte == b'&'
            && matches!(before, b' ' | b'[' | b'{' | b',' | b':')
            && !matches!(after, b' ' | b'&' | b'\n' | b'>')
    })
}

/// Reads one node and takes it from the file's budget: aliases could otherwise make a small file endless.
#[derive(Clone, Copy)]
struct NodeSeed<'a> {
    budget: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.budget.get().checked_sub(1) {
            Some(left) => self.budget.set(left),
            None => return Err(D::Error::custom("too many values, counting what aliases repeat")),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(i128::try_from(value).map_or_else(|_| Node::Text(value.to_string()), Node::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_string()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        let mut merges = Vec::new();
        while let Some(key) = entries.next_key_seed(self)? {
            let value = entries.next_value_seed(self)?;
            if key == Node::Text("<<".to_string()) {
                merges.push(value);
            } else {
                list.push((key, value));
            }
        }
        if merges.is_empty() {
            return Ok(Node::Map(list));
        }
        merge(list, merges).map(Node::Map).map_err(A::Error::custom)
    }

    /// A tagged value (`!thing value`): the tag means nothing here.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Node, A::Error> {
        let (_tag, value) = tagged.variant::<String>()?;
        value.newtype_variant_seed(self)
    }
}

/// The entries that `<<` brings go before the mapping's own, which win; of several merged mappings of one list
/// the first wins, of several `<<` the last (as YAML 1.1 readers do).
fn merge(own: Vec<(Node, Node)>, merges: Vec<Node>) -> Result<Vec<(Node, Node)>, &'static str> {
    let mut seen: HashSet<Option<String>> = own.iter().map(|(key, _)| key.key_text()).collect();
    let mut brought = Vec::new();
    for merged in merges.into_iter().rev() {
        let maps = match merged {
            Node::List(maps) => maps,
            single => vec![single],
        };
        for map in maps {
            let Node::Map(entries) = map else {
                return Err("'<<' needs a mapping or a list of mappings");
            };
            for (key, value) in entries {
                if seen.insert(key.key_text()) {
                    brought.push((key, value));
                }
            }
        }
    }
    brought.extend(own);
    Ok(brought)
}
