//! Where a workload goes.
//!
//! A [`Cluster`] is what placement knows: hosts with their free room, ports, labels, zones, images and GPUs, and what
//! is placed on them. It is kept up to date object by object ([`Cluster::host_put`], [`Cluster::workload_put`]) and is
//! a function of what was put: the way there makes no difference.
//!
//! [`place`] answers quickly; [`explain`] looks at every host and says of each the first failing filter or the score.
//! Both judge a host by the same function ([`judge`]), and a property test holds them together. Start at [`search`].
//!
//! What it is not: admission to a pool (that is [`crate::admit`]'s and the ledger's), and it knows no time.

mod block;
mod cluster;
mod explain;
mod fragments;
mod gpus;
mod host;
mod intern;
mod judge;
mod query;
mod search;
mod terms;
mod wanted;

#[cfg(test)]
pub(crate) mod tests;

pub use cluster::Cluster;
pub use explain::{Explanation, HostVerdict, Verdict, explain};
pub use judge::Score;
pub use search::{Placement, gpus_on, place};
pub use wanted::Wanted;
