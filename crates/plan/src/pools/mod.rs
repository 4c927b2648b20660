//! The pool tree: absolute numbers, who is charged what, and whether one more fits.
//!
//! What it is: [`tree`] makes absolute numbers of what pools say, for the capacity there is; [`ledger`] keeps what every
//! pool is charged; [`admit`] says whether a claim may be added; [`change`] whether a pool may be made or changed. What
//! it is not: it does not say what a pool may use at this moment by demand; that is [`crate::entitle`].
//!
//! What always holds: the ledger is a function of the tree and the claims, whatever the order they came in; a refusal
//! has no side effect; every walk is bounded by the depth of the tree.

pub mod admit;
pub mod change;
pub mod ledger;
pub mod tree;

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod testing;

pub use admit::{Admitted, Refusal};
pub use ledger::Ledger;
pub use tree::{HostRoom, Line, Node, ROOT, Tree};
