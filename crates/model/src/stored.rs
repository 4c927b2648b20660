//! The stored form of an object: JSON with a version number in front.
//!
//! A newer program reads what an older one wrote: each version has a function to the next. The reverse is refused
//! with a clear error instead of being misread. A change that only adds a field with a default keeps the version.

use serde::{Deserialize, Serialize};

use crate::Object;

/// Version this program writes, and the highest it reads.
pub const VERSION: u32 = 1;

/// Why stored bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON of the envelope's form.
    #[error("stored object is not readable")]
    Malformed(#[source] serde_json::Error),
    /// Written by a newer program.
    #[error(
        "stored object has version {found}, this program reads up to {VERSION}: start the newer program"
    )]
    TooNew {
        /// The version found.
        found: u32,
    },
    /// The form could not be written; only possible for values that are not JSON, such as NaN.
    #[error("object cannot be written")]
    Encode(#[source] serde_json::Error),
}

#[derive(Serialize)]
struct EnvelopeRef<'a> {
    v: u32,
    object: &'a Object,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

#[derive(Deserialize)]
struct Envelope {
    object: Object,
}

/// The stored form of `object`.
///
/// # Errors
/// When a value in it cannot be JSON.
pub fn encode(object: &Object) -> Result<Vec<u8>, DecodeError> {
    serde_json::to_vec(&EnvelopeRef { v: VERSION, object }).map_err(DecodeError::Encode)
}

/// Reads a stored form of this or an older version.
///
/// # Errors
/// When the bytes are not a stored object, or of a newer version.
pub fn decode(bytes: &[u8]) -> Result<Object, DecodeError> {
    let version: VersionOnly = serde_json::from_slice(bytes).map_err(DecodeError::Malformed)?;
    match version.v {
        VERSION => {
            let envelope: Envelope =
                serde_json::from_slice(bytes).map_err(DecodeError::Malformed)?;
            Ok(envelope.object)
        }
        found => Err(DecodeError::TooNew { found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Name, object::Setting};

    #[test]
    fn objects_read_back_and_newer_versions_are_refused() {
        let object = Object::Setting(Setting {
            name: Name::parse("ca").unwrap(),
            value: "x".into(),
        });
        let bytes = encode(&object).unwrap();
        assert_eq!(decode(&bytes).unwrap(), object);
        let newer = String::from_utf8(bytes)
            .unwrap()
            .replacen("\"v\":1", "\"v\":2", 1);
        assert!(matches!(
            decode(newer.as_bytes()),
            Err(DecodeError::TooNew { found: 2 })
        ));
        assert!(matches!(decode(b"{"), Err(DecodeError::Malformed(_))));
    }
}
