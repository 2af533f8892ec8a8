//! A YAML document as a tree whose every node knows its place.
//!
//! The types of the document are decoded from this tree, not from the text, so that several
//! problems are found in one go: a node that is wrong is set aside and the rest is decoded again.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The largest volume file, in bytes; the largest sensible ones have a few kilobytes.
pub(super) const MAX_FILE: usize = 1 << 20;

/// How deep a document may nest; the format itself needs 7.
const MAX_DEPTH: usize = 32;

/// A line and a column, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: u64,
    pub(super) column: u64,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Was found wrong and is left out.
    Pruned,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Position,
    pub(super) node: Node,
}

/// One step from a node to one in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Writes a path as `spec.layers[1].s3`.
pub(super) fn field(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.push_str(&format!(".{key}")),
        }
    }
    text
}

impl Node {
    /// Returns the node at `path`, where there is one.
    pub(super) fn get(&self, path: &[Step]) -> Option<&Node> {
        path.iter()
            .try_fold(self, |node, step| match (step, &node.value) {
                (Step::Key(key), Value::Map(entries)) => entries
                    .iter()
                    .find(|entry| entry.key == *key)
                    .map(|entry| &entry.node),
                (Step::Index(index), Value::List(items)) => items.get(*index),
                _ => None,
            })
    }

    /// Returns the fields of a map; of anything else none.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Returns the text of the field `name`, where it is there and text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let entry = self.entries().iter().find(|entry| entry.key == name)?;
        match &entry.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the node at `path`, where there is one, to set it aside.
    pub(super) fn get_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        path.iter()
            .try_fold(self, |node, step| match (step, &mut node.value) {
                (Step::Key(key), Value::Map(entries)) => entries
                    .iter_mut()
                    .find(|entry| entry.key == *key)
                    .map(|entry| &mut entry.node),
                (Step::Index(index), Value::List(items)) => items.get_mut(*index),
                _ => None,
            })
    }
}

/// How many values aliases may stand for in all. A layer has some 20, a volume some layers.
const MAX_REPEATED: usize = 20_000;

/// Parses the one YAML document in `text`. The error has the place and a message that repeats no
/// value.
pub(super) fn parse(text: &str) -> Result<Node, (Position, String)> {
    match serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options()) {
        Ok(spanned) => Ok(spanned.into()),
        Err(error) => Err(located(&error)),
    }
}

/// Parses all YAML documents in `text`, without those that are empty.
pub(super) fn parse_all(text: &str) -> Result<Vec<Node>, (Position, String)> {
    match serde_saphyr::from_multiple_with_options::<Spanned<Value>>(text, options()) {
        Ok(all) => Ok(all.into_iter().map(Node::from).collect()),
        Err(error) => Err(located(&error)),
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
        },
        // An alias for a layer's common part is fine; aliases of aliases of aliases are not.
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPEATED,
        },
        // `umask: 022` keeps its digits, and `yes` is not true.
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        strict_booleans: true,
        with_snippet: false,
    }
}

fn located(error: &serde_saphyr::Error) -> (Position, String) {
    let at = error
        .location()
        .map_or(Position { line: 1, column: 1 }, |location| {
            // A place that the parser does not know is the beginning.
            Position {
                line: location.line().max(1),
                column: location.column().max(1),
            }
        });
    (at, explain(error))
}

/// Says what is wrong with the YAML itself.
fn explain(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as Yaml;
    match error.without_snippet() {
        Yaml::MultipleDocuments { .. } => {
            "a second document begins here; a volume file holds one volume, put the other into a \
             file of its own"
                .into()
        }
        Yaml::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the field `{key}` is there twice; keep one")
        }
        Yaml::DuplicateMappingKey { .. } => "a field is there twice; keep one".into(),
        Yaml::Eof { .. } => "the file is empty; write a volume".into(),
        other => {
            let message = other.to_string();
            // The place is printed in front.
            let message = match message.rfind(" at line ") {
                Some(at) => &message[..at],
                None => &message,
            };
            format!("not YAML: {}", message.trim_end_matches([',', ' ']))
        }
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self {
            at: position(spanned.referenced),
            value: spanned.value,
        }
    }
}

fn position(location: serde_saphyr::Location) -> Position {
    Position {
        line: location.line(),
        column: location.column(),
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        // No field takes a number that large: what it is instead does not matter.
        Ok(Value::Float(value as f64))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let node = entries.next_value::<Spanned<Value>>()?.into();
            map.push(Entry {
                key: key.value,
                key_at: position(key.referenced),
                node,
            });
        }
        Ok(Value::Map(map))
    }
}
