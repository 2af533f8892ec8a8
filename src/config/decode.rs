//! Decodes the types of the document from its tree, and says of each failure which node it is.
//!
//! Messages name the type of a wrong value, never the value: a secret may stand where it should
//! not.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use super::node::{Entry, Node, Position, Step, Value};

/// Why a node could not be decoded.
#[derive(Debug)]
pub(super) struct DecodeError {
    /// The way to the node from the one that was decoded, last step first while it is built.
    pub(super) path: Vec<Step>,
    /// Where it is.
    pub(super) at: Option<Position>,
    pub(super) kind: DecodeErrorKind,
}

#[derive(Debug)]
pub(super) enum DecodeErrorKind {
    UnknownField {
        name: String,
        known: &'static [&'static str],
    },
    MissingField(&'static str),
    Other(String),
}

impl DecodeError {
    fn other(message: String) -> Self {
        Self {
            path: Vec::new(),
            at: None,
            kind: DecodeErrorKind::Other(message),
        }
    }

    fn or_at(mut self, at: Position) -> Self {
        self.at.get_or_insert(at);
        self
    }

    fn within(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            DecodeErrorKind::UnknownField { name, known } => {
                write!(f, "unknown field")?;
                // An editing distance of a third of the word is a slip, more is another word.
                let near = known
                    .iter()
                    .map(|field| (strsim::damerau_levenshtein(field, name), field))
                    .filter(|(distance, field)| *distance <= field.len().div_ceil(3))
                    .min();
                let other = other_names(name).iter().find(|other| known.contains(other));
                match (other, near) {
                    (Some(other), _) => write!(f, "; write `{other}`")?,
                    (None, Some((_, field))) => write!(f, "; did you mean `{field}`?")?,
                    (None, None) => {}
                }
                write!(f, " (known here: {})", known.join(", "))
            }
            DecodeErrorKind::MissingField(name) => {
                write!(f, "the field `{name}` is missing; add it")
            }
            DecodeErrorKind::Other(message) => f.write_str(message),
        }
    }
}

/// Returns what a field that other tools know under `name` may be called here.
fn other_names(name: &str) -> &'static [&'static str] {
    match name {
        "endpoint" | "endpointURL" => &["endpointUrl"],
        "anonymous" | "skipSignature" => &["noSignRequest"],
        "bucketName" => &["bucket"],
        "bucket" => &["bucketName"],
        "forcePathStyle" | "virtualHost" => &["pathStyle"],
        "requestPayer" => &["requesterPays"],
        "accessKeyId" | "secretAccessKey" | "sessionToken" | "accessKey" | "secretKey" => {
            &["credentials"]
        }
        "username" => &["auth", "user"],
        "user" | "password" | "token" | "bearer" | "basic" => &["auth", "password"],
        "secretRef" => &["passwordFromSecret"],
        "mountPath" | "target" => &["path"],
        "syncInterval" | "interval" => &["refresh"],
        "directory" => &["dir"],
        _ => &[],
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::other(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::other(mismatch(found, &expected.to_string()))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::other(mismatch(found, &expected.to_string()))
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        let known = known.join(" or ");
        // Only short words are repeated; the choices are short themselves.
        if name.len() <= 40 {
            Self::other(format!("`{name}` is not supported; write {known}"))
        } else {
            Self::other(format!("not supported; write {known}"))
        }
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        let kind = DecodeErrorKind::UnknownField {
            name: name.into(),
            known,
        };
        Self {
            path: Vec::new(),
            at: None,
            kind,
        }
    }

    fn missing_field(name: &'static str) -> Self {
        Self {
            path: Vec::new(),
            at: None,
            kind: DecodeErrorKind::MissingField(name),
        }
    }
}

/// Says that a value is not of the type that is expected, in the words of a person who writes
/// YAML, not of one who writes Rust.
fn mismatch(found: Unexpected<'_>, expected: &str) -> String {
    let expected = match expected {
        "a string" | "path string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "u32" => "a whole number from 0 to 4294967295",
        other => other,
    };
    let quotes = if expected == "text" {
        "; put it in quotes"
    } else {
        ""
    };
    let found = match found {
        Unexpected::Bool(_) => format!("true or false{quotes}"),
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_)
            if expected.contains("number") =>
        {
            "another number".into()
        }
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => {
            format!("a number{quotes}")
        }
        Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "text".into(),
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a map of fields".into(),
        _ => "another kind of value".into(),
    };
    format!("expected {expected}, found {found}")
}

/// The choices whose wrong words are repeated; in any other place a secret might stand.
const ECHOED: [&str; 4] = ["ApiVersion", "Kind", "IndexFormat", "ManifestFormat"];

/// Decodes a node.
#[derive(Clone, Copy)]
pub(super) struct NodeDecoder<'a>(pub(super) &'a Node);

impl<'de> Deserializer<'de> for NodeDecoder<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries {
                entries,
                value: None,
            }),
            Value::Pruned => Err(DecodeError::other("left out".into())),
        };
        result.map_err(|error| error.or_at(self.0.at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Map(_) => self.deserialize_any(visitor),
            // serde's own words name the Rust type, and take a list for a struct.
            other => {
                let message = mismatch(unexpected(other), "a map of fields");
                Err(DecodeError::other(message).or_at(self.0.at))
            }
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let result = match &self.0.value {
            Value::Text(text) if ECHOED.contains(&name) || variants.contains(&text.as_str()) => {
                visitor.visit_enum(Choice {
                    name: text,
                    content: None,
                })
            }
            Value::Map(entries) => match entries.as_slice() {
                [entry] if matches!(entry.node.value, Value::Pruned) => {
                    Err(DecodeError::other("its one field was left out".into()))
                }
                [entry] => visitor.visit_enum(Choice {
                    name: &entry.key,
                    content: Some(entry),
                }),
                _ => Err(DecodeError::other(format!(
                    "expected exactly one of {}, found {} fields",
                    variants.join(", "),
                    entries.len()
                ))),
            },
            other => Err(DecodeError::other(mismatch(
                unexpected(other),
                &variants.join(" or "),
            ))),
        };
        result.map_err(|error| error.or_at(self.0.at))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null | Value::Pruned => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Unsigned(value) => Unexpected::Unsigned(*value),
        Value::Signed(value) => Unexpected::Signed(*value),
        Value::Float(value) => Unexpected::Float(*value),
        Value::Text(value) => Unexpected::Str(value),
        Value::List(_) => Unexpected::Seq,
        Value::Map(_) => Unexpected::Map,
    }
}

/// The items of a list, without those that were pruned.
struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        while let Some(item) = self.items.get(self.next) {
            let index = self.next;
            self.next += 1;
            if !matches!(item.value, Value::Pruned) {
                return seed
                    .deserialize(NodeDecoder(item))
                    .map(Some)
                    .map_err(|error| error.or_at(item.at).within(Step::Index(index)));
            }
        }
        Ok(None)
    }
}

/// The entries of a map, without those that were pruned.
struct Entries<'a> {
    entries: &'a [Entry],
    value: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        while let Some((entry, rest)) = self.entries.split_first() {
            self.entries = rest;
            if !matches!(entry.node.value, Value::Pruned) {
                self.value = Some(entry);
                let key: StrDeserializer<'_, DecodeError> = entry.key.as_str().into_deserializer();
                return seed.deserialize(key).map(Some).map_err(|error| {
                    error
                        .or_at(entry.key_at)
                        .within(Step::Key(entry.key.clone()))
                });
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, DecodeError> {
        match self.value.take() {
            Some(entry) => decode_entry(entry, seed),
            None => Err(DecodeError::other(
                "a value was asked for before its key".into(),
            )),
        }
    }
}

fn decode_entry<'de, V: DeserializeSeed<'de>>(
    entry: &'de Entry,
    seed: V,
) -> Result<V::Value, DecodeError> {
    seed.deserialize(NodeDecoder(&entry.node)).map_err(|error| {
        error
            .or_at(entry.node.at)
            .within(Step::Key(entry.key.clone()))
    })
}

/// The one entry of a map that chooses a variant, or the text that does.
struct Choice<'a> {
    name: &'a str,
    content: Option<&'a Entry>,
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), DecodeError> {
        let name: StrDeserializer<'_, DecodeError> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match self.content {
            None => Ok(()),
            Some(_) => Err(DecodeError::other(
                "expected one word, found a map of fields".into(),
            )),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        match self.content {
            Some(entry) => decode_entry(entry, seed),
            None => Err(DecodeError::other(format!(
                "`{0}` needs its fields; write `{0}:` and them below it",
                self.name
            ))),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, DecodeError> {
        Err(DecodeError::other("expected a map of fields".into()))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, DecodeError> {
        Err(DecodeError::other("expected a map of fields".into()))
    }
}
