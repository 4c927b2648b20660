//! What the network driver is told at its start.

use std::path::PathBuf;

use super::Subnet;

/// Settings of the network driver of one host.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Folder for its state; made if missing.
    pub state_dir: PathBuf,
    /// Name of the bridge, at most 15 bytes.
    pub bridge: String,
    /// Subnet of this host's workloads; `None`: one that overlaps no route is chosen once and kept.
    pub subnet: Option<Subnet>,
    /// Spreads hosts over the default block, for example a number made from the host's id.
    pub seed: u64,
    /// Name of the driver's nftables tables (one each of the families `inet` and `bridge`).
    pub table: String,
    /// First letters of the names of its links on the host side, at most 7 bytes; eight digits follow.
    pub link_prefix: String,
    /// How long an address is not given out again after its release, in seconds. Long enough for neighbours and peers
    /// to forget it (ARP entries live up to a minute, TCP's TIME_WAIT one).
    pub quarantine_seconds: u64,
    /// The host's resolver settings.
    pub resolv_conf: PathBuf,
    /// Where the real settings are if the former only name a resolver of the host's loopback.
    pub resolv_conf_upstream: PathBuf,
}

impl NetworkConfig {
    /// The usual settings with state in a folder.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            bridge: "plimsoll0".to_owned(),
            subnet: None,
            seed: 0,
            table: "plimsoll".to_owned(),
            link_prefix: "plw".to_owned(),
            quarantine_seconds: 120,
            resolv_conf: "/etc/resolv.conf".into(),
            resolv_conf_upstream: "/run/systemd/resolve/resolv.conf".into(),
        }
    }
}
