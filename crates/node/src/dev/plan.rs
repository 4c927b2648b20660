//! What belongs to a cluster and how it is named. Pure.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use drivers::network::Subnet;
use sha2::{Digest, Sha256};

/// Highest number of hosts: each costs an agent's memory, and nobody needs more on one machine.
pub(super) const HOSTS_MAX: u32 = 64;
/// Port of the server's link and API on the underlay.
pub(super) const SERVER_PORT: u16 = 7440;
/// Begins every name outside of the cluster's folder.
const PREFIX: &str = "plim";
/// Underlay addresses come from here; each cluster takes one of its 256 parts.
const BLOCK: [u8; 2] = [10, 213];

/// Names and places of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The cluster's folder, absolute.
    pub(super) folder: PathBuf,
    /// Six digits made of the folder's path.
    pub(super) id: String,
}

impl Plan {
    /// The names of the cluster in a folder, which need not exist.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let folder = match folder.canonicalize() {
            Ok(folder) => folder,
            Err(_) => match (folder.parent(), folder.file_name()) {
                (Some(parent), Some(name)) => {
                    let parent = if parent.as_os_str().is_empty() {
                        Path::new(".")
                    } else {
                        parent
                    };
                    let parent = parent.canonicalize();
                    parent.unwrap_or(std::path::absolute(folder)?).join(name)
                }
                _ => bail!("{} cannot be a cluster's folder", folder.display()),
            },
        };
        if folder.parent().is_none() {
            bail!("the root folder cannot be a cluster's folder");
        }
        let hash = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let id = hex::encode(&hash[..3]);
        Ok(Self { folder, id })
    }

    /// Name of the bridge, the nftables table, and the beginning of all other names.
    pub(super) fn name(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    /// Name of a host.
    pub(super) fn host(index: u32) -> String {
        format!("h{index}")
    }

    /// Name of a host's network namespace.
    pub(super) fn namespace(&self, index: u32) -> String {
        format!("{}-h{index}", self.name())
    }

    /// Name of the bridge's end of a host's link.
    pub(super) fn link(&self, index: u32) -> String {
        format!("{}-{index}", self.name())
    }

    /// Name of a host in the cgroup tree.
    pub(super) fn cgroup(&self, index: u32) -> String {
        format!("{}-h{index}", self.id)
    }

    /// Beginning of the names of all hosts of this cluster in the cgroup tree.
    pub(super) fn cgroup_prefix(&self) -> String {
        format!("{}-h", self.id)
    }

    /// Folder of a host.
    pub(super) fn host_folder(&self, index: u32) -> PathBuf {
        self.folder.join("hosts").join(Self::host(index))
    }

    /// The server's own socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("server.sock")
    }

    /// Log of a program.
    pub(super) fn log(&self, program: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{program}.log"))
    }

    /// Subnets to be tried for the underlay, the cluster's own favourite first.
    pub(super) fn underlays(&self) -> impl Iterator<Item = Subnet> {
        let first = u8::from_str_radix(&self.id[..2], 16).unwrap_or(0);
        let [a, b] = BLOCK;
        (0..=255_u8).filter_map(move |step| {
            let third = first.wrapping_add(step);
            Subnet::containing(Ipv4Addr::new(a, b, third, 0), 24)
        })
    }
}

/// The server's address.
pub(super) fn server_address(underlay: Subnet) -> Ipv4Addr {
    underlay.gateway()
}

/// A host's address.
pub(super) fn host_address(underlay: Subnet, index: u32) -> Ipv4Addr {
    /// Room for things that are not hosts.
    const FIRST: u32 = 10;
    underlay.nth(FIRST + index).unwrap_or(underlay.gateway())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_folder_and_fit_the_kernel() {
        let a = Plan::of(Path::new("/tmp/no-such/a")).unwrap();
        let same = Plan::of(Path::new("/tmp/../tmp/no-such/a")).unwrap_or_else(|_| a.clone());
        let b = Plan::of(Path::new("/tmp/no-such/b")).unwrap();
        assert_ne!(a.id, b.id);
        assert_eq!(a.id.len(), same.id.len());
        assert!(a.link(HOSTS_MAX).len() <= 15);
        assert!(a.namespace(1).starts_with(&a.name()));
        assert!(a.cgroup(3).starts_with(&a.cgroup_prefix()));
        assert!(Plan::of(Path::new("/")).is_err());
        assert_eq!(a.underlays().count(), 256);
    }

    #[test]
    fn a_folder_has_the_same_names_before_and_after_it_exists() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("cluster");
        let before = Plan::of(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(Plan::of(&folder).unwrap(), before);
        std::os::unix::fs::symlink(&folder, outer.path().join("link")).unwrap();
        assert_eq!(Plan::of(&outer.path().join("link")).unwrap(), before);
    }
}
