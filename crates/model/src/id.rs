//! Typed identifiers and validated names.
//!
//! Ids are made by the caller (the model has no randomness); parsing checks the form once, so that whoever holds an
//! id can put it into a path or a key without checking again.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An id or name that is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} \"{value}\": {rule}")]
pub struct InvalidId {
    /// What was to be parsed, for example `pool id`.
    pub kind: &'static str,
    /// The offending text, shortened and escaped.
    pub value: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl InvalidId {
    fn new(kind: &'static str, value: &str, rule: &'static str) -> Self {
        let value = value
            .chars()
            .take(80)
            .flat_map(char::escape_default)
            .collect();
        Self { kind, value, rule }
    }
}

/// What an [`Id`] identifies; gives the kind its name and the length of its text.
pub trait IdKind {
    /// For messages.
    const KIND: &'static str;
    /// Number of lower-case hexadecimal digits.
    const DIGITS: usize;
}

/// An identifier of `K::DIGITS` lower-case hexadecimal digits; cloning is cheap.
pub struct Id<K> {
    text: Arc<str>,
    kind: PhantomData<fn() -> K>,
}

impl<K: IdKind> Id<K> {
    /// Parses lower-case hexadecimal text of the kind's length.
    ///
    /// # Errors
    /// When the text has another length or another character.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != K::DIGITS || !hex {
            return Err(InvalidId::new(
                K::KIND,
                text,
                "must be lower-case hexadecimal of the right length",
            ));
        }
        Ok(Self {
            text: text.into(),
            kind: PhantomData,
        })
    }

    /// Makes an id from random (or hashed) bytes; uses the first `DIGITS / 2` of them.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut text = String::with_capacity(K::DIGITS);
        for byte in bytes.iter().take(K::DIGITS / 2) {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        Self {
            text: text.into(),
            kind: PhantomData,
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first twelve digits, as people quote ids.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.text[..12.min(self.text.len())]
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        Self {
            text: Arc::clone(&self.text),
            kind: PhantomData,
        }
    }
}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl<K> Borrow<str> for Id<K> {
    fn borrow(&self) -> &str {
        &self.text
    }
}
impl<K: IdKind> FromStr for Id<K> {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::parse(text)
    }
}
impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}
impl<'de, K: IdKind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

macro_rules! id_kind {
    ($(#[$doc:meta])* $alias:ident, $marker:ident, $kind:literal, $digits:literal) => {
        #[doc = concat!("Marker of a ", $kind, ".")]
        pub enum $marker {}
        impl IdKind for $marker {
            const KIND: &'static str = $kind;
            const DIGITS: usize = $digits;
        }
        $(#[$doc])*
        pub type $alias = Id<$marker>;
    };
}

id_kind!(
    /// Identifies a pool for life; its name may change.
    PoolId, PoolKind, "pool id", 16
);
id_kind!(
    /// Identifies a host for life.
    HostId, HostKind, "host id", 16
);
id_kind!(
    /// Identifies a workload; 64 digits, as Docker clients expect of a container.
    WorkloadId, WorkloadKind, "workload id", 64
);
id_kind!(
    /// Identifies a network; 64 digits, as Docker clients expect.
    NetworkId, NetworkKind, "network id", 64
);
id_kind!(
    /// Identifies a person or program that may act.
    PrincipalId, PrincipalKind, "principal id", 16
);
id_kind!(
    /// Identifies an access token or a join token; not secret.
    TokenId, TokenKind, "token id", 16
);

/// A SHA-256 digest in OCI's notation, `sha256:` and 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Arc<str>);

/// An image is known by the digest of its configuration document (OCI image specification, "ImageID").
pub type ImageId = Digest;

impl Digest {
    /// Parses `sha256:<64 hex>`; no other algorithm is accepted.
    ///
    /// # Errors
    /// When the text is of another form.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let ok = text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        if !ok {
            return Err(InvalidId::new(
                "digest",
                text,
                "must be sha256: and 64 hexadecimal digits",
            ));
        }
        Ok(Self(text.into()))
    }

    /// The digest with its algorithm, `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Only the 64 hexadecimal digits: safe as a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for Digest {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::parse(text)
    }
}
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Longest accepted [`Name`], in bytes: fits a DNS-like label list, a file name and a terminal column.
pub const NAME_MAX_BYTES: usize = 128;

/// A name people chose: a letter or digit, then letters, digits, `_`, `.` or `-`; at most [`NAME_MAX_BYTES`] bytes.
///
/// Never empty, never `.` or `..`, never with a slash: it can be a file name or a part of a key as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// When a character is not allowed or the length is not between 1 and [`NAME_MAX_BYTES`].
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if !first || !rest || text.len() > NAME_MAX_BYTES {
            return Err(InvalidId::new(
                "name",
                text,
                "use 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or digit",
            ));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for Name {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::parse(text)
    }
}
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "-a",
            ".a",
            "a b",
            "a\0b",
            "a\nb",
            "é",
            &"a".repeat(129),
        ] {
            assert!(Name::parse(bad).is_err(), "{bad:?} must be refused");
        }
        for good in ["a", "a1", "A_b.c-d", "0", &"a".repeat(128)] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn ids_are_hexadecimal_of_fixed_length() {
        assert!(PoolId::parse("0123456789abcdef").is_ok());
        assert!(PoolId::parse("0123456789ABCDEF").is_err());
        assert!(PoolId::parse("0123").is_err());
        assert_eq!(PoolId::from_bytes(&[0xab; 32]).as_str(), "abababababababab");
        assert_eq!(WorkloadId::from_bytes(&[0x01; 32]).as_str().len(), 64);
    }

    #[test]
    fn digests_name_their_algorithm() {
        let hex = "a".repeat(64);
        assert_eq!(Digest::parse(&format!("sha256:{hex}")).unwrap().hex(), hex);
        for bad in [
            &hex[..],
            "sha256:zz",
            "sha512:aa",
            &format!("sha256:{hex}0"),
            "sha256:../../etc",
        ] {
            assert!(Digest::parse(bad).is_err());
        }
    }
}
