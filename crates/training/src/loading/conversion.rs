//! From TOML values to Rust values, with errors that say what a key may be and what was given.
//!
//! serde's own messages name Rust types ("expected u32", "tuple of size 2"). Here they arrive as data, by
//! way of [`serde::de::Error`], and are put into a user's words in one place.

use std::fmt::{self, Display};

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::{Table, Value};

/// Converts a table.
pub(crate) fn convert<T: DeserializeOwned>(table: Table) -> Result<T, Mismatch> {
    T::deserialize(Input(Value::Table(table)))
}

/// Why a table cannot be converted.
#[derive(Clone, Debug)]
pub(crate) struct Mismatch {
    /// Where, the innermost part first.
    path: Vec<Part>,
    problem: Problem,
    /// The value there.
    given: Option<Value>,
}

/// One step of the way to a value.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Key(String),
    /// Of a list, counted from 0.
    Entry(usize),
}

#[derive(Clone, Debug)]
enum Problem {
    Type(Type),
    MissingKey(&'static str),
    UnknownKey(String, &'static [&'static str]),
}

/// What a value must be.
#[derive(Clone, Debug)]
enum Type {
    /// A whole number from 0 to this.
    Whole(u64),
    OneOf(&'static [&'static str]),
    /// One of some names, which serde does not say.
    Name,
    /// In words.
    Words(String),
}

impl Mismatch {
    fn new(problem: Problem) -> Self {
        Mismatch { path: Vec::new(), problem, given: None }
    }

    /// The same, for a value that lies one part further inside; `given` is that value.
    fn inside(mut self, part: Part, given: Value) -> Self {
        self.given.get_or_insert(given);
        self.path.push(part);
        self
    }

    /// The same for the value of `key`, which may lie in sections (`batch.patience`). Errors of flattened
    /// keys do not say which key it is.
    pub fn of_key(mut self, key: &str, value: &Value) -> Self {
        let parts: Vec<Part> = key.split('.').rev().map(|key| Part::Key(key.into())).collect();
        if !self.path.ends_with(&parts) {
            (self.path, self.given) = (parts, Some(value.clone()));
        }
        self
    }

    /// The same with another description of what the value of `key` may be, unless the mismatch is about a key
    /// inside it.
    pub fn expecting(mut self, key: &str, words: &str, value: &Value) -> Self {
        let inner = self.path.len().saturating_sub(key.split('.').count());
        let about_type = matches!(self.problem, Problem::Type(_));
        if about_type && self.path[..inner].iter().all(|part| matches!(part, Part::Entry(_))) {
            self.path.drain(..inner);
            self.given = Some(value.clone());
            self.problem = Problem::Type(Type::Words(words.into()));
        }
        self
    }

    /// Whether the value must be one of some names, but the names are not known.
    pub fn lacks_names(&self) -> bool {
        matches!(self.problem, Problem::Type(Type::Name))
    }

    /// The same with the names that `other` knows.
    pub fn with_names_of(mut self, other: Mismatch) -> Self {
        self.problem = other.problem;
        self
    }
}

impl Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut place = String::new();
        let mut after_entry = false;
        for part in self.path.iter().rev() {
            match part {
                Part::Key(key) => {
                    place += match (place.is_empty(), after_entry) {
                        (true, _) => "",
                        (false, true) => ": ",
                        (false, false) => ".",
                    };
                    place += key;
                    after_entry = false;
                }
                Part::Entry(index) => {
                    place += &format!(", entry {}", index + 1);
                    after_entry = true;
                }
            }
        }
        let prefix = if place.is_empty() { String::new() } else { format!("{place}: ") };
        match &self.problem {
            Problem::MissingKey(key) => write!(f, "{prefix}the key {key} is missing"),
            Problem::UnknownKey(key, known) => {
                write!(f, "{prefix}there is no key {key}; the keys are {}", known.join(", "))
            }
            Problem::Type(expected) => {
                let given = self.given.as_ref();
                let expected = match expected {
                    // The range matters only to somebody who gave a number.
                    Type::Whole(max) if given.is_some_and(is_whole) => {
                        format!("a whole number from 0 to {max}")
                    }
                    Type::Whole(_) => "a whole number".into(),
                    Type::OneOf(names) => format!("one of {}", names.join(", ")),
                    Type::Name => "a name".into(),
                    Type::Words(words) => words.clone(),
                };
                let place = if place.is_empty() { "this" } else { &place };
                write!(f, "{place} must be {expected}")?;
                given.map_or(Ok(()), |given| write!(f, ", but it is {}", shown(given)))
            }
        }
    }
}

/// Whether it is a whole number, or the text of one that is too large for TOML.
fn is_whole(value: &Value) -> bool {
    match value {
        Value::Integer(_) => true,
        Value::String(text) => text.parse::<i128>().is_ok(),
        _ => false,
    }
}

/// A value as TOML, on one line, and not all of it if it is long.
fn shown(value: &Value) -> String {
    const LENGTH: usize = 60;
    let text = value.to_string().lines().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What serde expected, which it says in terms of Rust or of its data model.
fn expected_type(expected: &dyn Expected) -> Type {
    let text = expected.to_string();
    let words = match text.as_str() {
        "u8" => return Type::Whole(u8::MAX.into()),
        "u16" => return Type::Whole(u16::MAX.into()),
        "u32" => return Type::Whole(u32::MAX.into()),
        // TOML has no larger numbers.
        "u64" | "usize" => return Type::Whole(i64::MAX as u64),
        "string or map" => return Type::Name,
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string" | "str" => "text in quotes",
        "a sequence" => "a list",
        "a map" => "a table",
        text if text.starts_with("struct ") => "a table",
        text if text.contains("tuple") || text.contains("array") => "a list of another length",
        // The words of an `expecting` attribute.
        text => text,
    };
    Type::Words(words.into())
}

impl de::Error for Mismatch {
    fn custom<T: Display>(message: T) -> Self {
        // The words of the `expecting` attribute of an untagged enum.
        Mismatch::new(Problem::Type(Type::Words(message.to_string())))
    }

    fn invalid_type(_: Unexpected, expected: &dyn Expected) -> Self {
        Mismatch::new(Problem::Type(expected_type(expected)))
    }

    fn invalid_value(_: Unexpected, expected: &dyn Expected) -> Self {
        Mismatch::new(Problem::Type(expected_type(expected)))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Mismatch::new(Problem::Type(expected_type(expected)))
    }

    fn unknown_variant(_: &str, names: &'static [&'static str]) -> Self {
        Mismatch::new(Problem::Type(Type::OneOf(names)))
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Mismatch::new(Problem::UnknownKey(key.into(), known))
    }

    fn missing_field(key: &'static str) -> Self {
        Mismatch::new(Problem::MissingKey(key))
    }
}

impl std::error::Error for Mismatch {}

/// A value that is to be converted.
struct Input(Value);

impl<'de> Deserializer<'de> for Input {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(truth) => visitor.visit_bool(truth),
            Value::Datetime(_) => {
                Err(de::Error::invalid_type(Unexpected::Other("a date"), &visitor))
            }
            Value::Array(list) => {
                let mut entries = Entries { values: list.into_iter(), done: 0 };
                let converted = visitor.visit_seq(&mut entries)?;
                match entries.values.len() {
                    0 => Ok(converted),
                    _ => Err(Mismatch::new(Problem::Type(Type::Words(format!(
                        "a list of {} values",
                        entries.done
                    ))))),
                }
            }
            Value::Table(table) => visitor.visit_map(Keys { pairs: table.into_iter(), next: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let one_of = || Mismatch::new(Problem::Type(Type::OneOf(names)));
        let converted = match self.0 {
            Value::String(name) => visitor.visit_enum(name.into_deserializer()),
            Value::Table(table) if table.len() == 1 => {
                let pairs = Keys { pairs: table.into_iter(), next: None };
                visitor.visit_enum(MapAccessDeserializer::new(pairs))
            }
            _ => Err(one_of()),
        };
        converted.map_err(|error: Mismatch| if error.path.is_empty() { one_of() } else { error })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The entries of a list.
struct Entries {
    values: std::vec::IntoIter<Value>,
    done: usize,
}

impl<'de> SeqAccess<'de> for &mut Entries {
    type Error = Mismatch;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Mismatch> {
        let Some(value) = self.values.next() else { return Ok(None) };
        let part = Part::Entry(self.done);
        self.done += 1;
        let converted = seed.deserialize(Input(value.clone()));
        converted.map(Some).map_err(|error| error.inside(part, value))
    }
}

/// The keys of a table, with their values.
struct Keys {
    pairs: toml::map::IntoIter<String, Value>,
    next: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Keys {
    type Error = Mismatch;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Mismatch> {
        self.next = self.pairs.next();
        let Some((key, _)) = &self.next else { return Ok(None) };
        seed.deserialize(key.clone().into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mismatch> {
        let (key, value) = self.next.take().expect("a key comes before its value");
        let converted = seed.deserialize(Input(value.clone()));
        converted.map_err(|error| error.inside(Part::Key(key), value))
    }
}
