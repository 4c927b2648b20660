//! What a pool may use of its parent, as people write it, and what that comes to.
//!
//! Amounts are text: CPU as cores (`2.5`) or thousandths (`500m`), memory with a unit (`8GiB`), or a part of the
//! parent's (`25%`). In files a plain number is taken as well.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::quantity::Quantity;

/// What a pool may use of its parent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Slice)]
#[serde(default, deny_unknown_fields)]
pub struct Slice {
    /// The short way, for example `25%`: stands for a reservation and shares of CPU and memory.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub size: Option<String>,
    /// Whether `size` is also the limit.
    pub hard: bool,
    /// CPU.
    pub cpu: Portion,
    /// Memory.
    pub memory: Portion,
    /// Highest counts by name: `workloads`, `published-ports`, and `gpus`, of which there are parts (`2.5`).
    #[schema(value_type = BTreeMap<String, f64>)]
    pub quotas: BTreeMap<String, Quantity>,
    /// What workloads get that do not say.
    pub defaults: WorkloadDefaults,
    /// How hosts are chosen, `balance` or `pack`; absent: as in the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// Labels a host must have to be used; empty: every host the parent may use.
    pub hosts: BTreeMap<String, String>,
    /// What becomes of workloads whose host is lost, `restart`, `keep` or `at-most-one`; absent: as in the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_host_loss: Option<String>,
    /// Priority of the pool's workloads among each other that do not say.
    pub priority: i32,
}

/// What a pool may use of one resource of its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Portion)]
#[serde(default, deny_unknown_fields)]
pub struct Portion {
    /// Guaranteed; absent: what `size` says, else nothing.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub reservation: Option<String>,
    /// Never exceeded; absent: what `size` says, else no limit.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub limit: Option<String>,
    /// Weight against siblings: `low`, `normal`, `high` or a number.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub shares: Option<String>,
    /// Whether admission may take from the parent when the own reservation is used up.
    pub expandable: bool,
    /// How much of the unused reservation others may borrow; absent: all.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub lendable: Option<String>,
    /// Requests may add up to so many times the limit; absent: as in the installation.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub overcommit: Option<String>,
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

/// What workloads get that do not say; absent: what the parent says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkloadDefaults)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadDefaults {
    /// CPU they are charged.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub cpu_request: Option<String>,
    /// CPU they may take.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub cpu_limit: Option<String>,
    /// Memory they are charged.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub memory_request: Option<String>,
    /// Memory they may take.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub memory_limit: Option<String>,
}

/// A pool in absolute numbers, for the capacity there is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Standing)]
#[serde(default)]
pub struct Standing {
    /// CPU in thousandths of a core.
    pub cpu: Line,
    /// Memory in bytes.
    pub memory: Line,
    /// What is counted, by name.
    pub counts: BTreeMap<String, Count>,
}

/// A pool's numbers of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Line)]
#[serde(default)]
pub struct Line {
    /// Guaranteed.
    pub reservation: u64,
    /// Never exceeded; absent: no limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The most it could use, by its own limit, those above, and its hosts.
    pub ceiling: u64,
    /// What it and the pools below it are charged.
    pub used: u64,
    /// What its own workloads are charged.
    pub own_used: u64,
    /// If it is over-committed, the missing amount; else 0.
    pub missing: u64,
}

/// A count and its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Count)]
#[serde(default)]
pub struct Count {
    /// In use, with the pools below.
    #[schema(value_type = f64)]
    pub used: Quantity,
    /// The highest; absent: not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub quota: Option<Quantity>,
}

/// What holds for the whole installation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Installation)]
#[serde(default, deny_unknown_fields)]
pub struct Installation {
    /// How far CPU sizes and requests may go beyond what there is, for example `1.5`.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub cpu_overcommit: Option<String>,
    /// How far memory sizes and requests may go beyond what there is.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_number"
    )]
    pub memory_overcommit: Option<String>,
    /// What workloads get that neither say themselves nor by their pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<WorkloadDefaults>,
    /// After how long without a word from a host it is taken as lost, 8 to 86400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_loss_seconds: Option<u32>,
}

/// Text, or a number as it is written.
fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Whole(u64),
        Broken(f64),
        Text(String),
    }
    Ok(
        Option::<Either>::deserialize(from)?.map(|value| match value {
            Either::Whole(number) => number.to_string(),
            Either::Broken(number) => number.to_string(),
            Either::Text(text) => text,
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_as_they_are_written() {
        let slice: Slice = serde_json::from_str(
            r#"{"cpu": {"limit": 2.5, "reservation": 1}, "memory": {"limit": "8GiB"}}"#,
        )
        .unwrap();
        assert_eq!(slice.cpu.limit.as_deref(), Some("2.5"));
        assert_eq!(slice.cpu.reservation.as_deref(), Some("1"));
        assert_eq!(slice.memory.limit.as_deref(), Some("8GiB"));
        assert!(slice.cpu.expandable);
        assert!(serde_json::from_str::<Slice>(r#"{"limits": 1}"#).is_err());
    }
}
