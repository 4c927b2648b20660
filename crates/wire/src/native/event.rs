//! What happened.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Reference;

/// Something that happened, one line of the event stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// When.
    pub time: String,
    /// In which pool; absent for hosts and the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Reference>,
    /// What it happened to: `workload`, `image`, `pool` or `host`.
    pub subject: String,
    /// What happened: `create`, `start`, `die`, `pull` and so on.
    pub action: String,
    /// Id of the subject.
    pub id: String,
    /// More about it, `name` among them.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}
