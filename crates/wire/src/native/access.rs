//! Who may do what.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Reference;

/// A person or program that may act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Principal {
    /// Identity for life.
    pub id: String,
    /// Unique in the installation.
    pub name: String,
    /// Roles it has, and where.
    pub bindings: Vec<Binding>,
    /// When it was made.
    pub created_at: String,
}

/// A role at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Binding {
    /// What it may do there.
    pub role: Role,
    /// The pool, with everything below it; absent: the whole installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Reference>,
}

/// The closed set of roles, from strongest to weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything, including hosts and principals; only effective on the whole installation.
    Admin,
    /// Everything inside a pool, sub-pools and bindings included.
    PoolAdmin,
    /// Workloads and images of a pool.
    Developer,
    /// Reads a pool.
    Viewer,
}

/// A role at a place, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BindingRequest {
    /// What it may do there.
    pub role: Role,
    /// Name or id of the pool; absent: the whole installation.
    #[serde(default)]
    pub pool: Option<String>,
}

/// Asks for a new principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipalCreate {
    /// Unique in the installation.
    pub name: String,
    /// Roles from the start.
    #[serde(default)]
    pub bindings: Vec<BindingRequest>,
}

/// Replaces all bindings of a principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipalBind {
    /// All of them.
    pub bindings: Vec<BindingRequest>,
}

/// An access token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Public part.
    pub id: String,
    /// Whom it stands for.
    pub principal: Reference,
    /// What it is for, in the owner's words.
    pub description: String,
    /// When it was made.
    pub created_at: String,
    /// When it stops working; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Asks for an access token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenCreate {
    /// What it is for.
    pub description: String,
    /// Seconds it works; absent: never ends.
    pub ttl_seconds: Option<u64>,
}

/// An access token with its secret. Shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// The whole token, `plmt.<id>.<secret>`.
    pub secret: String,
    /// The rest.
    pub token: Token,
}

impl std::fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenCreated({}, …)", self.token.id)
    }
}
