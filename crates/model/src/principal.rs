//! Who may do what.

use serde::{Deserialize, Serialize};

use crate::{Name, PoolId, PrincipalId, Timestamp, TokenId};

/// A person or program that may act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Identity for life.
    pub id: PrincipalId,
    /// Unique in the installation.
    pub name: Name,
    /// Roles it has, and where.
    pub bindings: Vec<Binding>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A role at a place: on a pool and everything below it, or on the whole installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// What it may do there.
    pub role: Role,
    /// The pool; `None` means the whole installation.
    pub pool: Option<PoolId>,
}

/// The closed set of roles, from strongest to weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything, including hosts, principals and tokens. Only effective when bound to the whole installation.
    Admin,
    /// Everything inside a pool, including its sub-pools, policy within the parent's, and bindings.
    PoolAdmin,
    /// Workloads and images of a pool.
    Developer,
    /// Reads a pool.
    Viewer,
}

impl Role {
    /// Every role, strongest first.
    pub const ALL: [Role; 4] = [Role::Admin, Role::PoolAdmin, Role::Developer, Role::Viewer];
}

/// A secret that stands for a principal; only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    /// Public part of the token.
    pub id: TokenId,
    /// Whom it stands for.
    pub principal: PrincipalId,
    /// SHA-256 of the secret part, hexadecimal. The secret has 256 random bits, so a slow hash adds nothing.
    pub secret_sha256: String,
    /// What it is for, in the owner's words.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working; `None`: never.
    pub expires_at: Option<Timestamp>,
}
