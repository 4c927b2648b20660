//! `make demo`: a real cluster on this machine, shown step by step.

use anyhow::{Result, bail};

use crate::repo::Repo;

/// Starts the demo cluster.
///
/// # Errors
/// When a step fails.
pub fn up(_repo: &Repo) -> Result<()> {
    bail!("the demo needs `plimsoll dev up`, which is not there yet")
}

/// Removes the demo cluster.
///
/// # Errors
/// When a step fails.
pub fn down(_repo: &Repo) -> Result<()> {
    bail!("the demo needs `plimsoll dev down`, which is not there yet")
}
