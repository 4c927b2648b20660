//! What can go wrong, one variant per operation.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use agent::driver::{DriverError, ErrorClass};

use super::Subnet;

/// Why the network driver could not do something.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A netlink request was refused by the kernel.
    #[error("kernel refused to {what}")]
    Netlink {
        /// The request in words.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file of the driver's own state, of `/proc` or `/etc` could not be used.
    #[error("failed to {what} {path}")]
    File {
        /// `read`, `write`, …
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `nft` could not be run.
    #[error("failed to run nft (Debian package nftables)")]
    NftRun(#[source] io::Error),
    /// `nft` refused our rules.
    #[error("nft refused the rules: {0}")]
    NftRefused(String),
    /// The process whose namespace was to be connected is gone, or its pid belongs to another one now.
    #[error("process {pid} that holds the network namespace is gone")]
    NamespaceGone {
        /// Its pid.
        pid: u32,
    },
    /// The namespace is the host's own.
    #[error("process {pid} lives in the host's own network namespace")]
    NamespaceIsHost {
        /// Its pid.
        pid: u32,
    },
    /// The thread that works inside a namespace could not be started or ended badly.
    #[error("failed to work inside a network namespace")]
    NamespaceThread(#[source] io::Error),
    /// No namespace was given for a mode that needs one.
    #[error("no network namespace was prepared")]
    NotPrepared,
    /// Every address is taken.
    #[error("no free address in {subnet}: {used} in use")]
    AddressesUsedUp {
        /// Where.
        subnet: Subnet,
        /// How many.
        used: usize,
    },
    /// No free subnet could be found.
    #[error("no free subnet: every candidate overlaps a route of this host; configure one")]
    NoSubnet,
    /// The configured subnet overlaps a route.
    #[error("subnet {subnet} overlaps route {route} of this host; configure another one")]
    SubnetTaken {
        /// Ours.
        subnet: Subnet,
        /// The other.
        route: Subnet,
    },
    /// A host port is taken.
    #[error("bind for {address}:{port}/{protocol} failed: port is already allocated ({owner})")]
    PortTaken {
        /// Address asked for.
        address: Ipv4Addr,
        /// Host port.
        port: u16,
        /// `tcp`, …
        protocol: &'static str,
        /// By whom, as far as the asker may know.
        owner: String,
    },
    /// All ports of the range for random host ports are taken.
    #[error("no free host port for {protocol}")]
    PortsUsedUp {
        /// `tcp`, …
        protocol: &'static str,
    },
    /// A host address that cannot be used.
    #[error("host address \"{0}\" of a published port is not an IPv4 address of this host")]
    HostAddress(String),
    /// The workload whose network is to be shared has none here.
    #[error("workload {0} whose network is to be shared is not attached on this host")]
    OtherNotAttached(String),
    /// Bridge and rules are to go, but are in use.
    #[error("bridge and rules stay: {attached} workloads are attached")]
    InUse {
        /// How many.
        attached: usize,
    },
    /// A resolver setting or an extra host that cannot be written.
    #[error("{what} \"{value}\" is not valid")]
    Setting {
        /// Which.
        what: &'static str,
        /// Its value, escaped.
        value: String,
    },
}

impl NetworkError {
    /// What programs go by.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::PortTaken { .. } | Self::InUse { .. } => ErrorClass::Conflict,
            Self::AddressesUsedUp { .. } | Self::PortsUsedUp { .. } => ErrorClass::Full,
            Self::HostAddress(_) | Self::Setting { .. } => ErrorClass::Invalid,
            Self::OtherNotAttached(_) => ErrorClass::NotFound,
            Self::NamespaceGone { .. }
            | Self::NamespaceIsHost { .. }
            | Self::NotPrepared
            | Self::Netlink { .. }
            | Self::File { .. }
            | Self::NftRun(_)
            | Self::NftRefused(_)
            | Self::NamespaceThread(_)
            | Self::NoSubnet
            | Self::SubnetTaken { .. } => ErrorClass::Failed,
        }
    }

    pub(super) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(super) fn netlink(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Netlink { what, source }
    }
}

impl From<NetworkError> for DriverError {
    fn from(error: NetworkError) -> Self {
        let mut message = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            next = cause.source();
        }
        DriverError::new(error.class(), message)
    }
}
