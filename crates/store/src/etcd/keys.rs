//! Where things are in etcd, and the form of an object's value.

use model::{Key, stored};

use crate::types::NameKey;

/// The mark of a transaction in the objects it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark(u64);

/// Hexadecimal digits of a mark in front of a value.
const MARK_DIGITS: usize = 16;

impl Mark {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        getrandom::u64().map(Self)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
    own: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{}/", prefix.trim_end_matches('/')),
            // Only two stores with the same number would wake each other needlessly.
            own: format!("{:x}", getrandom::u64().unwrap_or_default()),
        }
    }

    /// Below which everything is.
    pub(super) fn all(&self) -> &str {
        &self.prefix
    }

    pub(super) fn objects(&self) -> String {
        format!("{}o/", self.prefix)
    }

    pub(super) fn object(&self, key_text: &str) -> String {
        format!("{}o/{key_text}", self.prefix)
    }

    /// The text of the object's key, if `key` is one of an object.
    pub(super) fn object_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)?.strip_prefix("o/")
    }

    pub(super) fn name(&self, name: &NameKey) -> String {
        let scope = name.scope.as_ref().map_or("-", |pool| pool.as_str());
        let kind = name.kind.prefix();
        format!("{}n/{kind}/{scope}/{}", self.prefix, name.name)
    }

    pub(super) fn form(&self) -> String {
        format!("{}form", self.prefix)
    }

    pub(super) fn sync(&self) -> String {
        format!("{}s/{}", self.prefix, self.own)
    }
}

/// The value of an object: mark, then its stored form.
pub(super) fn encode(mark: Mark, stored: &[u8]) -> Vec<u8> {
    let mut value = format!("{:0width$x}", mark.0, width = MARK_DIGITS).into_bytes();
    value.extend_from_slice(stored);
    value
}

/// Reads a value; the object must belong under `key_text`.
pub(super) fn decode(
    key_text: &str,
    value: &[u8],
) -> Result<(Mark, model::Object), crate::error::Source> {
    let (mark, stored) = value
        .split_at_checked(MARK_DIGITS)
        .ok_or("the value is too short")?;
    let mark = u64::from_str_radix(std::str::from_utf8(mark)?, 16)?;
    let object = stored::decode(stored)?;
    if Key::parse(key_text)? != object.key() {
        return Err("the object belongs under another key".into());
    }
    Ok((Mark(mark), object))
}
