//! Sets of CPUs or memory nodes in the kernel's list form, `0-1,3`.

use std::collections::BTreeSet;
use std::fmt;

/// Most CPUs that Linux can be built for (`NR_CPUS`, x86 and ARM); memory nodes are fewer.
pub const CPUS_MAX: u16 = 8192;

/// Some CPUs or memory nodes of a host, by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuSet(BTreeSet<u16>);

/// A text that is not such a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a list of numbers below {CPUS_MAX} and ranges, such as 0-1,3")]
pub struct CpuSetError;

impl CpuSet {
    /// Reads a list; blanks around it are allowed, as in the kernel's files.
    ///
    /// # Errors
    /// When it is empty or anything but numbers and ascending ranges below [`CPUS_MAX`].
    pub fn parse(text: &str) -> Result<Self, CpuSetError> {
        let number = |text: &str| match text.parse::<u16>() {
            Ok(number) if number < CPUS_MAX && !text.starts_with('+') => Ok(number),
            Ok(_) | Err(_) => Err(CpuSetError),
        };
        let mut set = BTreeSet::new();
        for part in text.trim().split(',') {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (number(low)?, number(high)?);
            if low > high {
                return Err(CpuSetError);
            }
            set.extend(low..=high);
        }
        Ok(Self(set))
    }

    /// What of this is not in `available`; empty if all of it is.
    #[must_use]
    pub fn missing_from(&self, available: &Self) -> Self {
        Self(self.0.difference(&available.0).copied().collect())
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(low) = rest.next() {
            let mut high = low;
            while let Some(next) = rest.next_if(|next| *next == high + 1) {
                high = next;
            }
            match low == high {
                true => write!(f, "{separator}{low}")?,
                false => write!(f, "{separator}{low}-{high}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, shown) in [
            ("0", "0"),
            ("0-1,3\n", "0-1,3"),
            ("3,0,1,2", "0-3"),
            ("8191", "8191"),
        ] {
            assert_eq!(CpuSet::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "a", "1-", "-1", "3-1", "0,", "0,,1", "8192", "+1", "0 1", "65536",
        ] {
            assert_eq!(CpuSet::parse(text), Err(CpuSetError), "{text}");
        }
    }

    #[test]
    fn what_a_host_lacks_is_named() {
        let host = CpuSet::parse("0-1").unwrap();
        let missing = |text: &str| CpuSet::parse(text).unwrap().missing_from(&host).to_string();
        assert_eq!(missing("1,99"), "99");
        assert_eq!(missing("0-3"), "2-3");
        assert_eq!(missing("0-1"), "");
    }
}
