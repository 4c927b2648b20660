//! Counts of things of which there can be parts: whole numbers where they are whole, else with up to three places.

use std::fmt;

use model::amount;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A count in thousandths of one; in JSON a number, such as `3` or `2.5`. Text with such a number is taken as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity(pub u64);

impl Quantity {
    /// So many whole ones, saturating.
    #[must_use]
    pub fn whole(count: u64) -> Self {
        Self(count.saturating_mul(1000))
    }

    /// Parses `3` or `2.5`.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(text: &str) -> Result<Self, amount::InvalidAmount> {
        amount::thousandths(text).map(Self)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&amount::wholes(self.0))
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1000) {
            return to.serialize_u64(self.0 / 1000);
        }
        // A number with so few places is read back as the same, up to some 10¹² whole ones.
        #[expect(clippy::cast_precision_loss, reason = "there are not so many")]
        to.serialize_f64(self.0 as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Whole(u64),
            Broken(f64),
            Text(String),
        }
        let text = match Either::deserialize(from)? {
            Either::Whole(number) => number.to_string(),
            Either::Broken(number) => number.to_string(),
            Either::Text(text) => text,
        };
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn numbers_and_texts_are_read_and_numbers_written() {
        for (text, thousandths, written) in [
            ("3", 3000, "3"),
            ("2.5", 2500, "2.5"),
            ("0.001", 1, "0.001"),
            ("\"0.75\"", 750, "0.75"),
            ("\"4\"", 4000, "4"),
            ("1234567.891", 1_234_567_891, "1234567.891"),
        ] {
            let quantity: Quantity = serde_json::from_str(text).unwrap();
            assert_eq!(quantity, Quantity(thousandths), "{text}");
            assert_eq!(serde_json::to_string(&quantity).unwrap(), written);
        }
        for bad in ["-1", "1.2345", "\"many\"", "1e30", "null"] {
            assert!(serde_json::from_str::<Quantity>(bad).is_err(), "{bad}");
        }
    }
}
