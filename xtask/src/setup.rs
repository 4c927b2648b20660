//! The Debian packages Plimsoll needs, each with its reason, and their installation.
//!
//! The docker client is taken out of its package into the target folder: installing the package would bring a daemon
//! that starts by itself.

use std::process::Command;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::images::Debian;
use crate::process;
use crate::repo::Repo;

/// What packages are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Building the programs.
    Build,
    /// The demo cluster.
    Demo,
    /// The tests.
    Test,
    /// The benchmarks.
    Bench,
    /// Everything.
    All,
}

/// A Debian package and why it is wanted.
pub struct Package {
    /// Debian's name.
    pub name: &'static str,
    /// The first purpose that needs it.
    pub purpose: Purpose,
    /// A file that is there when the package is.
    pub evidence: &'static str,
    /// Why.
    pub reason: &'static str,
}

const fn package(
    name: &'static str,
    purpose: Purpose,
    evidence: &'static str,
    reason: &'static str,
) -> Package {
    Package {
        name,
        purpose,
        evidence,
        reason,
    }
}

/// All packages.
pub const PACKAGES: &[Package] = &[
    package(
        "clang",
        Purpose::Build,
        "clang",
        "links the programs; libFuzzer",
    ),
    package("mold", Purpose::Build, "mold", "links several times faster"),
    package(
        "pkg-config",
        Purpose::Build,
        "pkg-config",
        "finds libseccomp",
    ),
    package(
        "libseccomp-dev",
        Purpose::Build,
        "/usr/include/seccomp.h",
        "the shim's system call filter",
    ),
    package(
        "protobuf-compiler",
        Purpose::Build,
        "protoc",
        "etcd's interface, compiled by its client library",
    ),
    package(
        "libprotobuf-dev",
        Purpose::Build,
        "/usr/include/google/protobuf/descriptor.proto",
        "what etcd's interface includes",
    ),
    package("make", Purpose::Build, "make", "the Makefile"),
    package(
        "git",
        Purpose::Build,
        "git",
        "tidy asks it for the list of files",
    ),
    package(
        "iproute2",
        Purpose::Demo,
        "ip",
        "looking at the hosts' network namespaces",
    ),
    package(
        "nftables",
        Purpose::Demo,
        "nft",
        "address translation and published ports",
    ),
    package(
        "curl",
        Purpose::Demo,
        "curl",
        "asking the demo's web server",
    ),
    package(
        "busybox-static",
        Purpose::Test,
        "/bin/busybox",
        "the root file system of driver and shim tests",
    ),
    package(
        "procps",
        Purpose::Test,
        "ps",
        "the process lists of hosts and containers",
    ),
    package(
        "docker-registry",
        Purpose::Test,
        "docker-registry",
        "the registry images are pulled from",
    ),
    package(
        "etcd-server",
        Purpose::Test,
        "etcd",
        "the store's third backend",
    ),
    package("etcd-client", Purpose::Test, "etcdctl", "looking into etcd"),
    package(
        "runc",
        Purpose::Test,
        "runc",
        "an external OCI runtime by name",
    ),
    package(
        "apache2-utils",
        Purpose::Test,
        "htpasswd",
        "the registry's password file; load for web servers",
    ),
    package(
        "openssl",
        Purpose::Test,
        "openssl",
        "certificates of the test registry",
    ),
    package(
        "skopeo",
        Purpose::Test,
        "skopeo",
        "an independent reader of image archives",
    ),
    package(
        "containerd",
        Purpose::Bench,
        "containerd",
        "dockerd, which the benchmarks compare with, needs it",
    ),
];

/// Installs what is missing for a purpose, or prints the list.
///
/// # Errors
/// When `apt-get` fails or is missing.
pub fn run(purpose: Purpose, list: bool) -> Result<()> {
    if list {
        for package in wanted(purpose) {
            println!("{:16} {}", package.name, package.reason);
        }
        return Ok(());
    }
    install(purpose)
}

fn wanted(purpose: Purpose) -> impl Iterator<Item = &'static Package> {
    PACKAGES.iter().filter(move |package| match purpose {
        Purpose::All => true,
        Purpose::Bench => true,
        Purpose::Test => package.purpose != Purpose::Bench,
        Purpose::Demo => matches!(package.purpose, Purpose::Build | Purpose::Demo),
        Purpose::Build => package.purpose == Purpose::Build,
    })
}

fn there(package: &Package) -> bool {
    if package.evidence.starts_with('/') {
        std::path::Path::new(package.evidence).exists()
    } else {
        process::found(package.evidence)
    }
}

/// Installs the missing packages of a purpose.
///
/// # Errors
/// When `apt-get` fails or is missing.
pub fn install(purpose: Purpose) -> Result<()> {
    let missing: Vec<&str> = wanted(purpose)
        .filter(|package| !there(package))
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !process::found("apt-get") {
        bail!(
            "missing: {}; install them with this system's package manager",
            missing.join(" ")
        );
    }
    println!("installing Debian packages: {}", missing.join(" "));
    let started = quiet_services();
    let result = apt(&missing);
    if let Some(file) = started {
        std::fs::remove_file(file)?;
    }
    result
}

fn apt(packages: &[&str]) -> Result<()> {
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.args(["install", "-y", "-q", "--no-install-recommends"])
            .args(packages);
        apt
    };
    if process::read(&mut install()).is_ok() {
        return Ok(());
    }
    // The lists may be missing or old.
    process::read(Command::new("apt-get").args(["update", "-q"]))?;
    process::read(&mut install()).map(drop)
}

/// The docker client: the machine's own, else Debian's, unpacked into the target folder.
///
/// # Errors
/// When there is none and the package cannot be had.
pub fn docker_client(repo: &Repo) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    if process::found("docker") {
        return Ok("docker".into());
    }
    let folder = repo.target().join("tools");
    let client = folder.join("docker");
    if client.is_file() {
        return Ok(client);
    }
    println!("unpacking Debian's docker client into {}", folder.display());
    let program = Debian::in_target(repo).program("docker.io", "usr/bin/docker")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let partial = folder.join(format!("docker.{}.partial", std::process::id()));
    std::fs::write(&partial, program)
        .and_then(|()| std::fs::set_permissions(&partial, PermissionsExt::from_mode(0o755)))
        .and_then(|()| std::fs::rename(&partial, &client))
        .with_context(|| format!("write {}", client.display()))?;
    Ok(client)
}

/// Keeps Debian from starting the services of the packages (dockerd, etcd, the registry): the tests start their own.
/// The answer is the file to remove afterwards; `None` if the machine has a policy of its own.
fn quiet_services() -> Option<&'static str> {
    use std::os::unix::fs::PermissionsExt;
    const POLICY: &str = "/usr/sbin/policy-rc.d";
    if std::path::Path::new(POLICY).exists() {
        return None;
    }
    std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").ok()?;
    std::fs::set_permissions(POLICY, PermissionsExt::from_mode(0o755)).ok()?;
    Some(POLICY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_named_once_with_a_reason() {
        let mut names: Vec<&str> = PACKAGES.iter().map(|p| p.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(
            PACKAGES
                .iter()
                .all(|p| p.reason.len() > 5 && !p.evidence.is_empty())
        );
    }
}
