//! Scenarios from outside: a real cluster, the unmodified docker client, raw HTTP.
//!
//! All tests share one cluster of three hosts and make pools of their own; those that kill servers or agents start a
//! cluster of their own ([`crash`]).

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod agent_killed;
mod bad_input;
mod basics;
mod crash;
mod disk_full;
mod enforcement;
mod host_loss;
mod hostile_images;
mod images;
mod isolation;
mod limits;
mod maintenance;
mod pools;
mod probes;
mod reclaim;
mod restart;
mod resume;
mod streams;
mod two_servers;
