//! The native REST API as types: what is sent to and answered by `/api/v1`.
//!
//! What it is not: these are not the nouns of `model`. They are a published form that changes only by addition; the
//! conversion lives in `api::native`.
//!
//! Start at [`workload`], then [`stream`] for what travels in streams. The paths are in the OpenAPI document.
//!
//! What always holds: times are RFC 3339 text in UTC, sizes are bytes, units are the last word of a field's name;
//! every list is `{"items": […]}`; every error is a [`Problem`]; servers refuse fields they do not know by name,
//! clients skip them.

pub mod access;
pub mod event;
pub mod host;
pub mod image;
pub mod pool;
pub mod pool_use;
pub mod problem;
pub mod quantity;
pub mod slice;
pub mod stream;
pub mod system;
pub mod what_if;
pub mod workload;

pub use problem::{Problem, ProblemKind};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Path every versioned route begins with.
pub const BASE_PATH: &str = "/api/v1";

/// A list of things.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// Them, ordered by name.
    pub items: Vec<T>,
}

/// An id with the name it has now, so that people need not look it up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Reference {
    /// Identity for life.
    pub id: String,
    /// Its name now; empty if it no longer exists.
    pub name: String,
}

/// An amount of CPU and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Amount {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory_bytes: u64,
}
