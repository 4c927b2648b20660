//! Errors as they are answered.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request failed. The body of every answer with a status of 400 or above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Class of the failure.
    pub kind: ProblemKind,
    /// For people: what failed and why.
    pub message: String,
    /// For people: what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Names the request in the server's log.
    pub request_id: String,
}

/// Classes of failures, each with its HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The thing does not exist, or the caller may not know of it (404).
    NotFound,
    /// The thing is not in a state that allows it, or the name is taken (409).
    Conflict,
    /// The request cannot be right (400).
    Invalid,
    /// The caller is known but may not do this (403).
    Forbidden,
    /// The caller is not known (401).
    Unauthenticated,
    /// No host has room, or a quota is used up (409).
    Exhausted,
    /// A host or the store cannot be reached now; trying again later helps (503).
    Unavailable,
    /// The body is longer than allowed (413).
    TooLarge,
    /// No room left where it would be kept (507).
    Full,
    /// Too many attempts; wait (429).
    TooManyRequests,
    /// Took longer than allowed (504).
    Timeout,
    /// A defect of the server; its log has more under the request's id (500).
    Internal,
}

impl ProblemKind {
    /// Every class.
    pub const ALL: [ProblemKind; 12] = [
        ProblemKind::NotFound,
        ProblemKind::Conflict,
        ProblemKind::Invalid,
        ProblemKind::Forbidden,
        ProblemKind::Unauthenticated,
        ProblemKind::Exhausted,
        ProblemKind::Unavailable,
        ProblemKind::TooLarge,
        ProblemKind::Full,
        ProblemKind::TooManyRequests,
        ProblemKind::Timeout,
        ProblemKind::Internal,
    ];

    /// The one table from class to HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            ProblemKind::Invalid => 400,
            ProblemKind::Unauthenticated => 401,
            ProblemKind::Forbidden => 403,
            ProblemKind::NotFound => 404,
            ProblemKind::Conflict | ProblemKind::Exhausted => 409,
            ProblemKind::TooLarge => 413,
            ProblemKind::TooManyRequests => 429,
            ProblemKind::Internal => 500,
            ProblemKind::Unavailable => 503,
            ProblemKind::Timeout => 504,
            ProblemKind::Full => 507,
        }
    }
}
