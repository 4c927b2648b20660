//! Amounts as people write them: CPU (`2.5`, `500m`), memory (`8GiB`), or a part of the parent (`25%`).
//!
//! What always holds: whole numbers only (thousandths of a core, bytes, hundredths of a percent, thousandths of a
//! ratio), so that sums are exact; what [`Amount::text`] writes, [`Amount::parse`] reads back.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a pool divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// CPU, in thousandths of a core.
    Cpu,
    /// Memory, in bytes.
    Memory,
}

impl Resource {
    /// Every resource.
    pub const ALL: [Resource; 2] = [Resource::Cpu, Resource::Memory];

    /// `cpu` or `memory`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
        }
    }

    /// An absolute amount for people: `2.5 cores`, `8GiB`.
    #[must_use]
    pub fn show(self, units: u64) -> String {
        match self {
            Resource::Cpu if units == 1000 => "1 core".into(),
            Resource::Cpu => format!("{} cores", cores(units)),
            Resource::Memory => rounded_bytes(units),
        }
    }
}

/// A text that is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {wanted}")]
pub struct InvalidAmount {
    /// What was given, shortened and escaped.
    pub text: String,
    /// What it should be, with an example.
    pub wanted: &'static str,
}

fn invalid(text: &str, wanted: &'static str) -> InvalidAmount {
    let text = text
        .chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect();
    InvalidAmount { text, wanted }
}

/// Hundredths of a percent.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Percent(pub u32);

impl Percent {
    /// All of it.
    pub const WHOLE: Percent = Percent(10_000);

    /// So much of `whole`, rounded down.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        scale(whole, u64::from(self.0), u64::from(Self::WHOLE.0))
    }

    /// Parses `25%` or `12.5%`; at most 10000 %.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(text: &str) -> Result<Self, InvalidAmount> {
        const WANTED: &str = "a percentage: write for example 25% or 12.5%, at most 10000%";
        let bad = || invalid(text, WANTED);
        let number = text.trim().strip_suffix('%').ok_or_else(bad)?;
        let hundredths = decimal(number.trim_end(), 2).ok_or_else(bad)?;
        u32::try_from(hundredths)
            .ok()
            .filter(|it| *it <= 1_000_000)
            .map(Self)
            .ok_or_else(bad)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", fixed(u64::from(self.0), 2))
    }
}

/// A ratio in thousandths, for overcommitting: 1000 is one to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(pub u32);

impl Default for Ratio {
    fn default() -> Self {
        Self::ONE
    }
}

impl Ratio {
    /// One to one.
    pub const ONE: Ratio = Ratio(1000);

    /// `amount` times the ratio, rounded down, saturating.
    #[must_use]
    pub fn of(self, amount: u64) -> u64 {
        scale(amount, u64::from(self.0), 1000)
    }

    /// `amount` divided by the ratio, rounded down, saturating.
    #[must_use]
    pub fn divide(self, amount: u64) -> u64 {
        scale(amount, 1000, u64::from(self.0.max(1)))
    }

    /// Parses `1.5`; from 1 to 100.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(text: &str) -> Result<Self, InvalidAmount> {
        let bad = || {
            invalid(
                text,
                "a ratio: write a number from 1 to 100, for example 1.5",
            )
        };
        let thousandths = decimal(text.trim(), 3).ok_or_else(bad)?;
        u32::try_from(thousandths)
            .ok()
            .filter(|it| (1000..=100_000).contains(it))
            .map(Self)
            .ok_or_else(bad)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&fixed(u64::from(self.0), 3))
    }
}

/// So much, or a part of the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// Thousandths of a core, or bytes.
    Absolute(u64),
    /// A part of the parent's; follows it when it changes.
    Percent(Percent),
}

impl Amount {
    /// The absolute amount, given what 100 % are.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Amount::Absolute(units) => units,
            Amount::Percent(percent) => percent.of(whole),
        }
    }

    /// Parses `2.5`, `500m` (CPU), `8GiB`, `512m` (memory; units count in 1024) or `25%`.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(resource: Resource, text: &str) -> Result<Self, InvalidAmount> {
        if text.trim_end().ends_with('%') {
            return Percent::parse(text).map(Amount::Percent);
        }
        match resource {
            Resource::Cpu => cpu_millis(text),
            Resource::Memory => memory_bytes(text),
        }
        .map(Amount::Absolute)
    }

    /// The shortest text that reads back as this.
    #[must_use]
    pub fn text(self, resource: Resource) -> String {
        match (self, resource) {
            (Amount::Percent(percent), _) => percent.to_string(),
            (Amount::Absolute(units), Resource::Cpu) => cores(units),
            (Amount::Absolute(units), Resource::Memory) => exact_bytes(units),
        }
    }
}

/// Parses `2.5` or `500m` into thousandths of a core.
///
/// # Errors
/// When the text is something else.
pub fn cpu_millis(text: &str) -> Result<u64, InvalidAmount> {
    let bad = || {
        invalid(
            text,
            "an amount of CPU: write cores (2.5), thousandths (500m) or a percentage (25%)",
        )
    };
    let trimmed = text.trim();
    let millis = match trimmed.strip_suffix('m') {
        Some(millis) => decimal(millis, 0),
        None => decimal(trimmed, 3),
    };
    millis.ok_or_else(bad)
}

/// Parses `8GiB`, `512m` or `1048576` into bytes; units count in 1024.
///
/// # Errors
/// When the text is something else.
pub fn memory_bytes(text: &str) -> Result<u64, InvalidAmount> {
    let bad = || {
        invalid(
            text,
            "an amount of memory: write a number and KiB, MiB, GiB or TiB (8GiB), or a percentage (25%)",
        )
    };
    let lower = text.trim().to_ascii_lowercase();
    let at = lower
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(at);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let millionths = decimal(number, 6).ok_or_else(bad)?;
    let bytes = (u128::from(millionths) << shift) / 1_000_000;
    u64::try_from(bytes).map_err(|_| bad())
}

/// `amount * factor / divisor` without overflow in between, saturating.
#[must_use]
pub fn scale(amount: u64, factor: u64, divisor: u64) -> u64 {
    let product = u128::from(amount) * u128::from(factor) / u128::from(divisor.max(1));
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// Digits with at most `places` behind the point, as a whole number of the last place.
fn decimal(text: &str, places: u32) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let length = u32::try_from(part.len()).ok()?;
    if whole.is_empty() || !digits(whole) || !digits(part) || length > places {
        return None;
    }
    if part.is_empty() && text.ends_with('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let part: u64 = if part.is_empty() {
        0
    } else {
        part.parse().ok()?
    };
    whole
        .checked_mul(10u64.pow(places))?
        .checked_add(part * 10u64.pow(places - length))
}

/// A whole number of the last of `places` places, without superfluous zeros.
fn fixed(value: u64, places: u32) -> String {
    let unit = 10u64.pow(places);
    let (whole, part) = (value / unit, value % unit);
    if part == 0 {
        return whole.to_string();
    }
    let digits = format!("{part:0width$}", width = places as usize);
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Thousandths of a core as cores: `2.5`.
#[must_use]
pub fn cores(millis: u64) -> String {
    wholes(millis)
}

/// Thousandths as a number with up to three places: `2.5`.
#[must_use]
pub fn wholes(thousandths: u64) -> String {
    fixed(thousandths, 3)
}

/// Reads what [`wholes`] writes.
///
/// # Errors
/// When the text is something else.
pub fn thousandths(text: &str) -> Result<u64, InvalidAmount> {
    decimal(text.trim(), 3)
        .ok_or_else(|| invalid(text, "a number with at most three places behind the point"))
}

const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];

fn exact_bytes(bytes: u64) -> String {
    let exact = UNITS
        .iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    match exact {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// For people: exact if that is short, else with one place behind the point.
fn rounded_bytes(bytes: u64) -> String {
    let Some((shift, unit)) = UNITS.iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} bytes");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    let tenths = u64::try_from(tenths).unwrap_or(u64::MAX);
    format!("{}{unit}", fixed(tenths, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cpu(text: &str) -> Result<Amount, InvalidAmount> {
        Amount::parse(Resource::Cpu, text)
    }

    fn memory(text: &str) -> Result<Amount, InvalidAmount> {
        Amount::parse(Resource::Memory, text)
    }

    #[test]
    fn cpu_is_cores_thousandths_or_a_percentage() {
        assert_eq!(cpu("2.5"), Ok(Amount::Absolute(2500)));
        assert_eq!(cpu("500m"), Ok(Amount::Absolute(500)));
        assert_eq!(cpu("25%"), Ok(Amount::Percent(Percent(2500))));
        assert_eq!(cpu("12.5%"), Ok(Amount::Percent(Percent(1250))));
        for bad in [
            "", "x", "1.2345", "-1", "1.", ".5", "1.5m", "%", "20001%", "1e3",
        ] {
            assert!(cpu(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_bytes_with_a_unit_or_a_percentage() {
        assert_eq!(memory("8GiB"), Ok(Amount::Absolute(8 << 30)));
        assert_eq!(memory("512m"), Ok(Amount::Absolute(512 << 20)));
        assert_eq!(memory("1.5g"), Ok(Amount::Absolute(3 << 29)));
        assert_eq!(memory("1048576"), Ok(Amount::Absolute(1 << 20)));
        for bad in ["8 apples", "GiB", "99999999999999TiB", "-1g"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
        assert_eq!(
            cpu("a lot").unwrap_err().to_string(),
            "\"a lot\" is not an amount of CPU: write cores (2.5), thousandths (500m) or a percentage (25%)"
        );
    }

    #[test]
    fn people_read_rounded_amounts() {
        assert_eq!(Resource::Memory.show(3 << 29), "1.5GiB");
        assert_eq!(Resource::Memory.show(100), "100 bytes");
        assert_eq!(Resource::Cpu.show(1500), "1.5 cores");
        assert_eq!(Resource::Cpu.show(1000), "1 core");
    }

    #[test]
    fn ratios_are_from_one_to_a_hundred() {
        assert_eq!(Ratio::parse("2"), Ok(Ratio(2000)));
        assert_eq!(Ratio::parse("1.25").unwrap().to_string(), "1.25");
        assert!(Ratio::parse("0.5").is_err());
        assert_eq!(Ratio(2000).divide(1000), 500);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(units in 0..u64::MAX / 1_000_000, percent in 0..=1_000_000u32) {
            for resource in Resource::ALL {
                for amount in [Amount::Absolute(units), Amount::Percent(Percent(percent))] {
                    prop_assert_eq!(Amount::parse(resource, &amount.text(resource)), Ok(amount));
                }
            }
            prop_assert_eq!(thousandths(&wholes(units)), Ok(units));
        }
    }
}
