//! What would become of everything if something changed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::slice::Slice;

/// What is assumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = WhatIf)]
#[serde(rename_all = "kebab-case", tag = "assume", deny_unknown_fields)]
pub enum WhatIf {
    /// A host is not there.
    WithoutHost {
        /// Name or id.
        host: String,
        /// Emptied in order: what cannot move keeps running. Without it: lost.
        #[serde(default)]
        drained: bool,
    },
    /// A pool has another slice.
    Pool {
        /// Name.
        pool: String,
        /// The slice it has then, as a whole.
        slice: Box<Slice>,
    },
    /// There are more workloads like one.
    Add {
        /// How many.
        count: u32,
        /// The pool of the one.
        pool: String,
        /// Name or id of the one.
        like: String,
    },
}

/// What would become of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WhatIfOutcome)]
#[serde(default)]
pub struct Outcome {
    /// Whether everything would run and every pool would have what it reserved.
    pub fine: bool,
    /// Would be started, elsewhere or for the first time.
    pub placed: Vec<Fate>,
    /// Would stay where they are, because they cannot move.
    pub stay: Vec<Fate>,
    /// Would not run.
    pub refused: Vec<Fate>,
    /// Would be parked to make room.
    pub parked: Vec<Fate>,
    /// Pools whose line would be crossed.
    pub lines: Vec<CrossedLine>,
}

/// One workload's part of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WhatIfFate)]
#[serde(default)]
pub struct Fate {
    /// Name; empty: one of another pool that the caller may not see.
    pub workload: String,
    /// Its pool's name.
    pub pool: String,
    /// The host it is on now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The host it would be on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why.
    pub reason: String,
}

/// A pool whose line would be crossed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WhatIfLine)]
#[serde(default)]
pub struct CrossedLine {
    /// Name; empty: the installation.
    pub pool: String,
    /// `cpu`, `memory`.
    pub key: String,
    /// `over-committed`: so much of what is reserved cannot be kept. `above-limit`: requests are so much above what they
    /// may add up to; what runs goes on, nothing more starts.
    pub what: String,
    /// By how much, for people.
    pub amount: String,
}
