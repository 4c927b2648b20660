//! Where a workload may be and where it would rather be, beyond the room it needs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{ImageId, WorkloadId};

/// Rules for the choice of a host. Without any, every host with room will do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacementSpec {
    /// What the host must or should be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostRule>,
    /// What must or should be there, or not be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affinities: Vec<Affinity>,
    /// Workloads of one pool with the same word are alike: they are spread over zones first, and hosts second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
}

impl PlacementSpec {
    /// Rules of one workload: more than anybody writes by hand, and each costs time at every placement.
    pub const RULES_MAX: usize = 32;

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.affinities.is_empty() && self.spread.is_none()
    }
}

/// Whether a rule can be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// Never: rather no place at all.
    #[default]
    Must,
    /// When no host fits otherwise. Rules are given up one by one, the last one first: affinities, then host rules.
    Should,
}

/// What the host must or should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRule {
    /// What of the host is looked at.
    pub attribute: HostAttribute,
    /// Whether it has to match, or must not.
    #[serde(default)]
    pub matching: Matching,
    /// One of these; `*` stands for any text.
    pub values: BTreeSet<String>,
    /// Whether the rule can be given up.
    #[serde(default)]
    pub strength: Strength,
}

/// Whether something has to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Matching {
    /// It has to be one of the values.
    #[default]
    In,
    /// It must be none of them; what a host does not have at all is none of them.
    NotIn,
}

/// What of a host a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "of", content = "key")]
pub enum HostAttribute {
    /// Its name or its id.
    Host,
    /// Its zone.
    Zone,
    /// Its CPU architecture, for example `amd64`.
    Architecture,
    /// The name of its distribution.
    Os,
    /// Its kernel's release.
    Kernel,
    /// A label.
    Label(String),
}

impl std::fmt::Display for HostAttribute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostAttribute::Host => f.write_str("host"),
            HostAttribute::Zone => f.write_str("zone"),
            HostAttribute::Architecture => f.write_str("architecture"),
            HostAttribute::Os => f.write_str("operating system"),
            HostAttribute::Kernel => f.write_str("kernel"),
            HostAttribute::Label(key) => write!(f, "label {key}"),
        }
    }
}

impl std::fmt::Display for HostRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        let sign = match self.matching {
            Matching::In => "==",
            Matching::NotIn => "!=",
        };
        write!(f, "{} {sign} {}", self.attribute, values.join("|"))
    }
}

/// What must or should be near, or not be near.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// To what.
    pub to: Neighbour,
    /// Near or away from it. What keeps away is kept away from, too: the rule holds for both sides.
    #[serde(default)]
    pub direction: Direction,
    /// How near.
    #[serde(default)]
    pub within: Within,
    /// Whether the rule can be given up.
    #[serde(default)]
    pub strength: Strength,
}

/// What an affinity is about; workloads of the same pool only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Neighbour {
    /// Workloads with a label of this value.
    Label {
        /// The label.
        key: String,
        /// Its value.
        value: String,
    },
    /// One workload, by id: a name may change hands.
    Workload {
        /// Which.
        id: WorkloadId,
    },
    /// An image that is complete on the host.
    Image {
        /// Which.
        id: ImageId,
    },
}

/// Towards or away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Where it is.
    #[default]
    Near,
    /// Where it is not.
    Away,
}

/// How far near reaches.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Within {
    /// The same host.
    #[default]
    Host,
    /// The same zone.
    Zone,
}

impl std::fmt::Display for Affinity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.direction {
            Direction::Near => "near ",
            Direction::Away => "away from ",
        })?;
        match &self.to {
            Neighbour::Label { key, value } => write!(f, "{key}={value}")?,
            Neighbour::Workload { id } => write!(f, "workload {}", id.short())?,
            Neighbour::Image { id } => write!(f, "image {id}")?,
        }
        f.write_str(match self.within {
            Within::Host => "",
            Within::Zone => " (zone)",
        })
    }
}

/// GPUs a workload asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GpuRequest {
    /// How many devices.
    pub count: u32,
    /// Thousandths of each of them, 1 to 1000.
    #[serde(default = "whole")]
    pub millis: u32,
    /// Models that will do; empty: any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub models: BTreeSet<String>,
    /// These devices only, by UUID or by number on their host; empty: any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub devices: BTreeSet<String>,
    /// What the driver is to offer inside, for example `compute`; empty: what it offers by default.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<String>,
}

/// Thousandths of a whole GPU.
pub const GPU_MILLIS: u32 = 1000;

fn whole() -> u32 {
    GPU_MILLIS
}

impl GpuRequest {
    /// Devices of one workload: the most a host has today, doubled.
    pub const COUNT_MAX: u32 = 32;

    /// Thousandths of a GPU it takes in all.
    #[must_use]
    pub fn total_millis(&self) -> u64 {
        u64::from(self.count) * u64::from(self.millis)
    }
}

/// A GPU of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Gpu {
    /// Number on its host, as in `/dev/nvidia0`.
    pub index: u32,
    /// Identity for life.
    pub uuid: String,
    /// Model, for example `A100`; `10de:20b0` (vendor and device) if no name is known.
    pub model: String,
    /// Address on the bus, for example `0000:3b:00.0`.
    #[serde(default)]
    pub bus: String,
    /// Device nodes to hand in.
    #[serde(default)]
    pub nodes: Vec<String>,
}

/// A part of a GPU that a workload has got.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GpuShare {
    /// Which.
    pub uuid: String,
    /// Thousandths of it.
    pub millis: u32,
    /// Device nodes of the host to hand in.
    #[serde(default)]
    pub nodes: Vec<String>,
}
