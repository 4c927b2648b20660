//! Whether a workload may exist: form and policy of its specification.
//!
//! Everything is refused unless safe or named by the pool's policy; the decision is made on the lowered specification,
//! the same value that is executed, so that no second decoder can disagree. A refusal names the field.
//!
//! Start at [`admit`]. What the kernel or the runtime of every host would refuse is refused here, before it is stored.

mod form;
mod kernel;
mod mounts;
mod placement;
mod resources;
mod security;
#[cfg(test)]
mod tests;

use model::{PoolPolicy, WorkloadSpec};

/// Why a specification was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which part of the specification.
    pub field: &'static str,
    /// What is wrong, for people.
    pub reason: String,
    /// Whether a policy could allow it (else it can never be right).
    pub policy: bool,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

fn invalid(field: &'static str, reason: impl Into<String>) -> Refusal {
    Refusal {
        field,
        reason: reason.into(),
        policy: false,
    }
}

fn forbidden(field: &'static str, reason: impl Into<String>) -> Refusal {
    Refusal {
        field,
        reason: reason.into(),
        policy: true,
    }
}

/// Checks a specification against form and policy; all in one place, before anything is stored and again at start.
///
/// # Errors
/// The first thing that may not be.
pub fn admit(spec: &WorkloadSpec, policy: &PoolPolicy) -> Result<(), Refusal> {
    form::check(spec)?;
    placement::check(spec)?;
    resources::check(spec)?;
    security::check(spec, policy)?;
    mounts::check(spec, policy)?;
    kernel::check(spec, policy)
}

/// Text of a client, made safe and short for a message.
fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect()
}

/// Absolute, without NUL, control characters, `.` or `..` segments.
fn is_clean_absolute(path: &str) -> bool {
    path.starts_with('/')
        && path.len() < 4096
        && !path.chars().any(char::is_control)
        && !path
            .split('/')
            .any(|segment| segment == ".." || segment == ".")
}
