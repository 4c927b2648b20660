//! Which devices a task may use.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use model::workload::DeviceMapping;

/// One rule of the device controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `c` or `b`.
    pub kind: char,
    /// Major number; `None`: all.
    pub major: Option<u64>,
    /// Minor number; `None`: all.
    pub minor: Option<u64>,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<u64>| value.map_or("*".to_owned(), |value| value.to_string());
        write!(
            f,
            "{} {}:{} {}",
            self.kind,
            number(self.major),
            number(self.minor),
            self.access
        )
    }
}

/// null, zero, full, random, urandom, tty, console, ptmx.
const ALWAYS: [(u64, u64); 8] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
];
/// Pseudo terminals.
const PTS: u64 = 136;

/// The rules for a task: making any node is allowed, using only these.
#[must_use]
pub fn rules(mapped: &[DeviceMapping]) -> Vec<Rule> {
    rules_with(mapped, &Node::of)
}

/// As [`rules`], with another way to look at devices.
#[must_use]
pub fn rules_with(mapped: &[DeviceMapping], look: &dyn Fn(&str) -> Option<Node>) -> Vec<Rule> {
    let rule = |kind, major, minor, access: &str| Rule {
        kind,
        major,
        minor,
        access: access.to_owned(),
    };
    let mut all = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    all.extend(ALWAYS.map(|(major, minor)| rule('c', Some(major), Some(minor), "rwm")));
    all.push(rule('c', Some(PTS), None, "rwm"));
    for device in mapped {
        if let Some(node) = look(&device.host_path) {
            let access: String = device
                .permissions
                .chars()
                .filter(|c| "rwm".contains(*c))
                .collect();
            let access = if access.is_empty() { "rwm" } else { &access };
            all.push(rule(node.kind, Some(node.major), Some(node.minor), access));
        }
    }
    all
}

/// A device node of the host.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
}

impl Node {
    /// Looks at the host's node; `None` when the path is no device.
    #[must_use]
    pub fn of(path: &str) -> Option<Node> {
        let meta = std::fs::metadata(path).ok()?;
        let kind = match meta.file_type() {
            kind if kind.is_char_device() => 'c',
            kind if kind.is_block_device() => 'b',
            _ => return None,
        };
        let number = meta.rdev();
        Some(Node {
            kind,
            major: nix::sys::stat::major(number),
            minor: nix::sys::stat::minor(number),
            mode: meta.mode() & 0o777,
        })
    }
}
