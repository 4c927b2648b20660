//! A development cluster on one machine: a server and several hosts, each host a network namespace with an agent of
//! its own, joined by an underlay bridge.
//!
//! What it is not: a way to run in production; nothing here is used by a server or an agent.
//!
//! Start at [`run`]. `plan.rs` says what belongs to a cluster and how it is named, `topology.rs` makes the network,
//! `processes.rs` starts programs and finds them again, `cluster.rs` puts these together, `teardown.rs` removes all.
//!
//! What always holds: everything outside of the cluster's folder carries a name made of the folder's path, so that
//! several clusters live side by side and a cluster is found again without its state file; a pid counts only together
//! with its start time; every step can be repeated.

mod api;
mod cgroups;
mod cluster;
mod commands;
mod follow;
mod output;
mod plan;
mod processes;
mod programs;
mod state;
mod teardown;
#[cfg(test)]
mod tests;
mod topology;

pub(crate) use commands::{DevCommand, run};
