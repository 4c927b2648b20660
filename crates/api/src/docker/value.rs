//! The strict JSON reader of this personality.
//!
//! What it is: request bodies as a tree ([`Value`]) and objects from which every field is taken by name ([`Fields`]).
//! What it is not: serde structs. Go's decoder, which Docker's own server uses, matches keys in any case and lets the
//! last duplicate win, and drops what it does not know; serde differs in all three. Two readers that disagree about
//! one body are how authorisation in front of Docker was bypassed before (CVE-2024-41110 and its neighbours).
//!
//! What always holds: keys of structures are matched in any case, as clients may rely on; two keys that are equal in
//! any case are refused; a field nobody took is refused by name unless it is null, false, zero or empty.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::failure::{Failure, Result};

/// Highest number of entries of one JSON array or object: far above what people write, low enough that a body cannot
/// grow much in memory.
const MAX_ENTRIES: usize = 20_000;

/// A JSON value; object keys keep their order and are unique.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// An object.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Reads one JSON document.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Failure::invalid(
                "the request body is empty, JSON is expected",
            ));
        }
        serde_json::from_slice(bytes)
            .map_err(|e| Failure::invalid(format!("the request body is not valid JSON: {e}")))
    }

    /// Whether this is what Go leaves out or treats as not set.
    pub(super) fn is_default(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Integer(value) => *value == 0,
            Value::Float(value) => *value == 0.0,
            Value::Text(value) => value.is_empty(),
            Value::List(values) => values.iter().all(Value::is_default),
            Value::Object(fields) => fields.iter().all(|(_, value)| value.is_default()),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
        }
    }

    /// Text, or why not.
    pub(super) fn into_text(self, path: &str) -> Result<String> {
        match self {
            Value::Null => Ok(String::new()),
            Value::Text(text) => check_text(text, path),
            other @ (Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Object(_)) => Err(wrong(path, "a string", &other)),
        }
    }

    /// A list of texts, or why not.
    pub(super) fn into_texts(self, path: &str) -> Result<Vec<String>> {
        self.into_list(path)?
            .into_iter()
            .enumerate()
            .map(|(i, item)| item.into_text(&format!("{path}[{i}]")))
            .collect()
    }

    /// A list, or why not.
    pub(super) fn into_list(self, path: &str) -> Result<Vec<Value>> {
        match self {
            Value::Null => Ok(Vec::new()),
            Value::List(items) => Ok(items),
            other @ (Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Object(_)) => Err(wrong(path, "a list", &other)),
        }
    }

    /// A map with free keys, or why not.
    pub(super) fn into_map(self, path: &str) -> Result<Vec<(String, Value)>> {
        match self {
            Value::Null => Ok(Vec::new()),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(key, value)| Ok((check_text(key, path)?, value)))
                .collect(),
            other @ (Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)) => Err(wrong(path, "an object", &other)),
        }
    }

    /// A map of texts, or why not.
    pub(super) fn into_text_map(self, path: &str) -> Result<BTreeMap<String, String>> {
        self.into_map(path)?
            .into_iter()
            .map(|(key, value)| {
                let value = value.into_text(&format!("{path}.{key}"))?;
                Ok((key, value))
            })
            .collect()
    }
}

/// NUL cannot be in any argument, variable, path or label; refusing it here keeps it out of all of them.
fn check_text(text: String, path: &str) -> Result<String> {
    if text.contains('\0') {
        return Err(Failure::invalid(format!(
            "{path}: a NUL byte is not allowed"
        )));
    }
    Ok(text)
}

fn wrong(path: &str, expected: &str, found: &Value) -> Failure {
    Failure::invalid(format!(
        "{path}: {expected} is expected, not {}",
        found.kind()
    ))
}

/// An object being taken apart; [`Fields::finish`] refuses what is left.
#[derive(Debug)]
pub(super) struct Fields {
    path: String,
    left: Vec<(String, Value)>,
}

impl Fields {
    /// Opens an object; `null` is one without fields.
    pub(super) fn open(value: Value, path: &str) -> Result<Self> {
        let named = if path.is_empty() {
            "the request body"
        } else {
            path
        };
        let left = value.into_map(named)?;
        let mut folded: Vec<String> = left.iter().map(|(key, _)| key.to_lowercase()).collect();
        folded.sort_unstable();
        if let Some(pair) = folded.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Failure::invalid(format!(
                "{}: given more than once",
                join(path, &pair[0])
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            left,
        })
    }

    /// The name of a field for messages.
    pub(super) fn name(&self, field: &str) -> String {
        join(&self.path, field)
    }

    /// Takes a field out; `null` counts as absent.
    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        let at = self
            .left
            .iter()
            .position(|(key, _)| key.eq_ignore_ascii_case(field))?;
        Some(self.left.swap_remove(at).1).filter(|value| *value != Value::Null)
    }

    /// Takes text; absent: empty.
    pub(super) fn text(&mut self, field: &str) -> Result<String> {
        let name = self.name(field);
        self.take(field).unwrap_or(Value::Null).into_text(&name)
    }

    /// Takes a list of texts; absent: empty.
    pub(super) fn texts(&mut self, field: &str) -> Result<Vec<String>> {
        let name = self.name(field);
        self.take(field).unwrap_or(Value::Null).into_texts(&name)
    }

    /// Takes one text or a list of them, as Docker's `strslice`; `None`: absent.
    pub(super) fn words(&mut self, field: &str) -> Result<Option<Vec<String>>> {
        let name = self.name(field);
        match self.take(field) {
            None => Ok(None),
            Some(text @ Value::Text(_)) => Ok(Some(vec![text.into_text(&name)?])),
            Some(other) => other.into_texts(&name).map(Some),
        }
    }

    /// Takes a map of texts; absent: empty.
    pub(super) fn text_map(&mut self, field: &str) -> Result<BTreeMap<String, String>> {
        let name = self.name(field);
        self.take(field).unwrap_or(Value::Null).into_text_map(&name)
    }

    /// Takes a list; absent: empty.
    pub(super) fn list(&mut self, field: &str) -> Result<Vec<Value>> {
        let name = self.name(field);
        self.take(field).unwrap_or(Value::Null).into_list(&name)
    }

    /// Takes a map with free keys; absent: empty.
    pub(super) fn map(&mut self, field: &str) -> Result<Vec<(String, Value)>> {
        let name = self.name(field);
        self.take(field).unwrap_or(Value::Null).into_map(&name)
    }

    /// Takes the keys of a map to empty objects, as Docker writes sets; absent: empty.
    pub(super) fn set(&mut self, field: &str) -> Result<Vec<String>> {
        let name = self.name(field);
        self.map(field)?
            .into_iter()
            .map(|(key, value)| {
                if value.is_default() {
                    Ok(key)
                } else {
                    Err(Failure::invalid(format!("{name}.{key}: must be {{}}")))
                }
            })
            .collect()
    }

    /// Takes an object; absent: one without fields.
    pub(super) fn object(&mut self, field: &str) -> Result<Fields> {
        let name = self.name(field);
        Fields::open(self.take(field).unwrap_or(Value::Null), &name)
    }

    /// Takes a boolean; `None`: absent.
    pub(super) fn optional_bool(&mut self, field: &str) -> Result<Option<bool>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(&self.name(field), "a boolean", &other)),
        }
    }

    /// Takes a boolean; absent: false.
    pub(super) fn bool(&mut self, field: &str) -> Result<bool> {
        Ok(self.optional_bool(field)?.unwrap_or(false))
    }

    /// Takes a whole number; `None`: absent.
    pub(super) fn optional_integer(&mut self, field: &str) -> Result<Option<i64>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Integer(value)) => Ok(Some(value)),
            // Some clients write whole numbers as floats; beyond 2^53 the meaning would be unclear.
            Some(Value::Float(value)) if value.fract() == 0.0 && value.abs() < 9.0e15 =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "checked above")]
                Ok(Some(value as i64))
            }
            Some(other) => Err(wrong(&self.name(field), "a whole number", &other)),
        }
    }

    /// Takes a whole number; absent: zero.
    pub(super) fn integer(&mut self, field: &str) -> Result<i64> {
        Ok(self.optional_integer(field)?.unwrap_or(0))
    }

    /// Takes a whole number that counts something; absent: zero.
    pub(super) fn amount(&mut self, field: &str) -> Result<u64> {
        let value = self.integer(field)?;
        u64::try_from(value)
            .map_err(|_| Failure::invalid(format!("{}: must not be negative", self.name(field))))
    }

    /// Takes a field that is not supported: refused unless it says nothing.
    pub(super) fn unsupported(&mut self, field: &str, why: &str) -> Result<()> {
        match self.take(field) {
            Some(value) if !value.is_default() => {
                Err(Failure::unsupported(format!("{}: {why}", self.name(field))))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes a field that would reach the host and that no pool may use.
    pub(super) fn forbidden(&mut self, field: &str, why: &str) -> Result<()> {
        match self.take(field) {
            Some(value) if !value.is_default() => {
                Err(Failure::forbidden(format!("{}: {why}", self.name(field))))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses what nobody took, by name.
    pub(super) fn finish(self) -> Result<()> {
        match self.left.iter().find(|(_, value)| !value.is_default()) {
            None => Ok(()),
            Some((key, _)) => Err(Failure::invalid(format!(
                "{}: unknown field",
                join(&self.path, &shown(key))
            ))),
        }
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// Text of a client, made safe and short for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        ValueSeed.deserialize(deserializer)
    }
}

#[derive(Clone, Copy)]
struct ValueSeed;

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(Value::Integer(value))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Value, E> {
        i64::try_from(value)
            .map(Value::Integer)
            .map_err(|_| E::custom("a number is too large"))
    }
    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(Value::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(Value::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(ValueSeed)? {
            if items.len() >= MAX_ENTRIES {
                return Err(de::Error::custom("a list has too many entries"));
            }
            items.push(item);
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut fields: BTreeMap<String, usize> = BTreeMap::new();
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.len() >= MAX_ENTRIES {
                return Err(de::Error::custom("an object has too many entries"));
            }
            if fields.insert(key.clone(), entries.len()).is_some() {
                return Err(de::Error::custom(format!(
                    "\"{}\" is given more than once",
                    shown(&key)
                )));
            }
            entries.push((key, map.next_value_seed(ValueSeed)?));
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<Fields> {
        Fields::open(Value::parse(text.as_bytes())?, "")
    }

    #[test]
    fn keys_are_matched_in_any_case_and_escapes_are_resolved() {
        let mut fields = open(r#"{"\u0050rivileged":true,"mEMORY":5}"#).unwrap();
        assert!(fields.bool("Privileged").unwrap());
        assert_eq!(fields.integer("Memory").unwrap(), 5);
        fields.finish().unwrap();
    }

    #[test]
    fn duplicates_are_refused() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"Image":"a","image":"b"}"#,
            r#"{"x":{"y":1,"y":1}}"#,
        ] {
            assert!(open(text).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_fields_are_refused_by_name_unless_they_say_nothing() {
        let fields = open(r#"{"New":[],"Other":{"a":""},"Third":0}"#).unwrap();
        fields.finish().unwrap();
        let failure = open(r#"{"Evil":"x"}"#).unwrap().finish().unwrap_err();
        assert_eq!(failure.message, "Evil: unknown field");
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = "[".repeat(20_000);
        let wide = format!("[{}0]", "0,".repeat(MAX_ENTRIES));
        for text in [
            "",
            "{",
            "[1",
            "{} x",
            &deep,
            &wide,
            "{\"a\":99999999999999999999}",
        ] {
            let refused = Value::parse(text.as_bytes()).is_err()
                || open(text).and_then(|mut f| f.integer("a")).is_err();
            assert!(refused, "{}", shown(text));
        }
    }
}
