//! What pools use and may use now.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Reference;

/// What a pool does and may do now, over all hosts; with everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolUse {
    /// The pool.
    pub pool: Reference,
    /// The pool it is a slice of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Reference>,
    /// CPU in thousandths of a core.
    pub cpu: ResourceUse,
    /// Memory in bytes.
    pub memory: ResourceUse,
    /// Processes and threads.
    pub pids: u64,
}

/// One resource of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResourceUse {
    /// Guaranteed.
    pub reservation: u64,
    /// Never exceeded; absent: no limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The most it could use, by its own limit, those above, and its hosts.
    pub ceiling: u64,
    /// What it may use now: its part by reservation, shares and demand of all pools.
    pub entitled: u64,
    /// What it would use if nobody held it back.
    pub demand: u64,
    /// What it uses, as its hosts measured it last; memory without page cache that lies idle.
    pub used: u64,
    /// Of that, what is beyond its reservation.
    pub borrowed: u64,
}
