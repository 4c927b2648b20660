//! What a pool may use of its parent, and what its workloads get when they do not say.
//!
//! These are wishes as they were written; `plan::pools` makes absolute numbers of them for the capacity there is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::amount::{self, Amount, Percent, Ratio, Resource};
use crate::placement::GPU_MILLIS;

/// What a pool may use of its parent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slice {
    /// The short way: stands for a reservation, shares and perhaps a limit of CPU and memory, as far as `cpu` and
    /// `memory` do not say otherwise.
    pub size: Option<Percent>,
    /// Whether `size` is also the limit.
    pub hard: bool,
    /// CPU.
    pub cpu: Portion,
    /// Memory.
    pub memory: Portion,
    /// Highest counts; what is not named is not limited.
    pub quotas: BTreeMap<Counted, u64>,
    /// What workloads get that do not say.
    pub defaults: WorkloadDefaults,
    /// How hosts are chosen; `None`: as in the parent.
    pub placement: Option<PlacementPolicy>,
    /// Labels a host must have to be used by the pool and those below it; empty: every host the parent may use.
    pub hosts: BTreeMap<String, String>,
    /// What becomes of workloads whose host is lost; `None`: as in the parent.
    pub on_host_loss: Option<HostLoss>,
    /// Priority of the pool's workloads among each other that do not say; higher is more important.
    pub priority: i32,
}

impl Slice {
    /// What it says of a resource.
    #[must_use]
    pub fn portion(&self, resource: Resource) -> &Portion {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Memory => &self.memory,
        }
    }
}

/// What a pool may use of one resource of its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Portion {
    /// Guaranteed; `None`: what `size` says, else nothing.
    pub reservation: Option<Amount>,
    /// Never exceeded; `None`: what `size` says, else no limit of its own.
    pub limit: Option<Amount>,
    /// Weight against siblings; `None`: in proportion to `size`, else normal.
    pub shares: Option<Shares>,
    /// Whether admission may take from the parent when the own reservation is used up.
    pub expandable: bool,
    /// How much of the unused reservation others may borrow; `None`: all.
    pub lendable: Option<Amount>,
    /// Requests may add up to so many times the limit; `None`: as in the installation.
    pub overcommit: Option<Ratio>,
}

impl Default for Portion {
    fn default() -> Self {
        Self {
            reservation: None,
            limit: None,
            shares: None,
            expandable: true,
            lendable: None,
            overcommit: None,
        }
    }
}

/// Weight against siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shares {
    /// Half of normal.
    Low,
    /// One to one.
    #[default]
    Normal,
    /// Twice normal.
    High,
    /// As a number; normal is [`Shares::NORMAL`].
    Number(u32),
}

impl Shares {
    /// The number that `normal` stands for (as in vSphere: 2000, 4000, 8000).
    pub const NORMAL: u32 = 4000;
    /// Highest number.
    pub const MAX: u32 = 1_000_000;

    /// As a number, at least 1.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Shares::Low => Self::NORMAL / 2,
            Shares::Normal => Self::NORMAL,
            Shares::High => Self::NORMAL * 2,
            Shares::Number(number) => number.max(1),
        }
    }

    /// Parses `low`, `normal`, `high` or a number from 1 to 1000000; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "low" => Some(Shares::Low),
            "normal" => Some(Shares::Normal),
            "high" => Some(Shares::High),
            number => number
                .parse()
                .ok()
                .filter(|number| (1..=Self::MAX).contains(number))
                .map(Shares::Number),
        }
    }
}

impl std::fmt::Display for Shares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Shares::Low => f.write_str("low"),
            Shares::Normal => f.write_str("normal"),
            Shares::High => f.write_str("high"),
            Shares::Number(number) => number.fmt(f),
        }
    }
}

/// What is counted beside CPU and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// Workloads in any state.
    Workloads,
    /// Published ports of workloads in any state.
    PublishedPorts,
    /// GPUs, in thousandths of one, of workloads that take room.
    Gpus,
}

impl Counted {
    /// Everything that is counted.
    pub const ALL: [Counted; 3] = [Counted::Workloads, Counted::PublishedPorts, Counted::Gpus];

    /// As in files and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Counted::Workloads => "workloads",
            Counted::PublishedPorts => "published-ports",
            Counted::Gpus => "gpus",
        }
    }

    /// What one of them counts.
    #[must_use]
    pub fn one(self) -> u64 {
        match self {
            Counted::Workloads | Counted::PublishedPorts => 1,
            Counted::Gpus => u64::from(GPU_MILLIS),
        }
    }

    /// A count in thousandths of one, which is how people and programs outside give it (`2.5` GPUs); saturating.
    #[must_use]
    pub fn to_thousandths(self, count: u64) -> u64 {
        amount::scale(count, 1000, self.one())
    }

    /// The other way; `None`: of these there are only whole ones.
    #[must_use]
    pub fn from_thousandths(self, thousandths: u64) -> Option<u64> {
        let scaled = u128::from(thousandths) * u128::from(self.one());
        scaled
            .is_multiple_of(1000)
            .then(|| u64::try_from(scaled / 1000).unwrap_or(u64::MAX))
    }

    /// A count for people: `2.5`.
    #[must_use]
    pub fn show(self, count: u64) -> String {
        amount::wholes(self.to_thousandths(count))
    }

    /// Reads what [`Counted::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

/// What a workload gets that does not say; `None`: what the parent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkloadDefaults {
    /// Thousandths of a core it is charged.
    pub cpu_request: Option<u64>,
    /// Thousandths of a core it may take.
    pub cpu_limit: Option<u64>,
    /// Bytes it is charged.
    pub memory_request: Option<u64>,
    /// Bytes it may take.
    pub memory_limit: Option<u64>,
}

impl WorkloadDefaults {
    /// These, completed by those of the parent.
    #[must_use]
    pub fn or(self, parent: Self) -> Self {
        Self {
            cpu_request: self.cpu_request.or(parent.cpu_request),
            cpu_limit: self.cpu_limit.or(parent.cpu_limit),
            memory_request: self.memory_request.or(parent.memory_request),
            memory_limit: self.memory_limit.or(parent.memory_limit),
        }
    }
}

/// How hosts are chosen among those that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementPolicy {
    /// The emptier host first.
    #[default]
    Balance,
    /// The fuller host first.
    Pack,
}

/// What becomes of a workload whose host is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostLoss {
    /// It is started elsewhere.
    Restart,
    /// It waits for its host, unless its own restart policy says otherwise.
    #[default]
    Keep,
    /// It is started elsewhere, and never runs twice: a host that is cut off from all servers ends it before they may
    /// start it again.
    AtMostOne,
}

impl HostLoss {
    /// Every answer.
    pub const ALL: [HostLoss; 3] = [HostLoss::Restart, HostLoss::Keep, HostLoss::AtMostOne];

    /// As in files and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            HostLoss::Restart => "restart",
            HostLoss::Keep => "keep",
            HostLoss::AtMostOne => "at-most-one",
        }
    }

    /// Reads what [`HostLoss::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

/// What holds for the whole installation; there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Installation {
    /// How far CPU sizes and requests may go beyond what there is.
    pub cpu_overcommit: Ratio,
    /// How far memory sizes and requests may go beyond what there is.
    pub memory_overcommit: Ratio,
    /// What workloads get that neither say themselves nor by their pools.
    pub defaults: WorkloadDefaults,
    /// After how long without a word from a host it is taken as lost, in seconds.
    pub host_loss_seconds: u32,
}

impl Installation {
    /// Without other word, a host is lost after so many seconds.
    pub const HOST_LOSS_SECONDS: u32 = 10;
    /// The least and the most that can be set: below, a short stall of a healthy host would look like a loss (a link is
    /// taken as gone after 7 s); above, nobody waits.
    pub const HOST_LOSS_RANGE: std::ops::RangeInclusive<u32> = 8..=86_400;
}

impl Default for Installation {
    /// One to one. A workload that says nothing is charged a hundredth of a core and 16 MiB: about what an idle small
    /// service takes, so that nothing is free and hundreds fit on a host.
    fn default() -> Self {
        Self {
            cpu_overcommit: Ratio::ONE,
            memory_overcommit: Ratio::ONE,
            defaults: WorkloadDefaults {
                cpu_request: Some(10),
                memory_request: Some(16 << 20),
                ..WorkloadDefaults::default()
            },
            host_loss_seconds: Self::HOST_LOSS_SECONDS,
        }
    }
}

impl Installation {
    /// The overcommit ratio of a resource.
    #[must_use]
    pub fn overcommit(&self, resource: Resource) -> Ratio {
        match resource {
            Resource::Cpu => self.cpu_overcommit,
            Resource::Memory => self.memory_overcommit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_read_back() {
        for shares in [
            Shares::Low,
            Shares::Normal,
            Shares::High,
            Shares::Number(17),
        ] {
            assert_eq!(Shares::parse(&shares.to_string()), Some(shares));
        }
        for bad in ["", "0", "1000001", "lots"] {
            assert_eq!(Shares::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn counted_things_read_back() {
        for counted in Counted::ALL {
            assert_eq!(Counted::parse(counted.as_str()), Some(counted));
            let json = serde_json::to_string(&counted).unwrap();
            assert_eq!(json, format!("\"{}\"", counted.as_str()));
        }
    }

    #[test]
    fn gpus_are_counted_in_thousandths_and_everything_else_in_whole_ones() {
        assert_eq!(Counted::Gpus.from_thousandths(2500), Some(2500));
        assert_eq!(Counted::Gpus.show(2500), "2.5");
        assert_eq!(Counted::Workloads.from_thousandths(3000), Some(3));
        assert_eq!(Counted::Workloads.from_thousandths(2500), None);
        assert_eq!(Counted::Workloads.show(3), "3");
        for counted in Counted::ALL {
            assert_eq!(counted.from_thousandths(counted.to_thousandths(7)), Some(7));
        }
    }

    #[test]
    fn what_was_stored_before_there_were_slices_reads_as_the_default() {
        let slice: Slice = serde_json::from_str("{}").unwrap();
        assert_eq!(slice, Slice::default());
        assert!(slice.cpu.expandable);
        let installation: Installation = serde_json::from_str("{}").unwrap();
        assert_eq!(installation, Installation::default());
    }
}
