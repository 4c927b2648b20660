//! Connects workloads of this host: one bridge, one subnet, address translation by nftables.
//!
//! What it is: the network of issue A. Each workload gets a veth pair: one end on the bridge, the other inside as
//! `eth0`. What leaves the host is masqueraded; published ports are translated to the workload. "Host" is the network
//! namespace the agent lives in, so several agents of one machine do not meet.
//!
//! What it is not: an overlay between hosts, a name server, a user-space proxy.
//!
//! Where to start: [`BridgeNetwork`] in `driver.rs`; `rules.rs` for what is allowed; `ledger.rs` for what is kept.
//!
//! What always holds:
//! - Intent is on disk before the kernel is touched; whatever is half made is undone at the next start.
//! - A workload reaches another directly only if both are of the same pool; without our rules nothing is reachable
//!   that was not (the default of every lookup is to drop).
//! - A workload cannot send with another address (IP or MAC) than its own.
//! - Only our own nftables tables and links with our own prefix are ever changed.
//! - A thread that entered another network namespace never runs anything else afterwards.

mod config;
mod driver;
mod elements;
mod error;
mod files;
mod host;
mod ledger;
mod link;
mod namespace;
mod netlink;
mod ports;
mod reaper;
mod rules;
mod subnet;
#[cfg(test)]
mod tests;
mod watch;

pub use config::NetworkConfig;
pub use driver::BridgeNetwork;
pub use error::NetworkError;
pub use model::{InvalidSubnet, Subnet};
pub use rules::trial_rules;
