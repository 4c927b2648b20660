//! The handlers, one file per noun. Each takes apart the request, calls one verb, puts together the answer.

pub(crate) mod access;
pub(crate) mod events;
pub(crate) mod hosts;
pub(crate) mod images;
pub(crate) mod pools;
pub(crate) mod streams;
pub(crate) mod system;
pub(crate) mod what_if;
pub(crate) mod workloads;

use serde::Deserialize;
use utoipa::IntoParams;

/// How a list is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Answer with the list and then its changes, one JSON document per line (WatchEvent).
    pub(crate) watch: bool,
}
