//! What an agent tells of its machine.

use std::fs;
use std::path::Path;

use model::host::HostFacts;
use model::{Capacity, CpuMillis, MemoryBytes};

use super::{gpus, probes};

/// Facts of this machine. `address` is where others reach it; `runtimes` are OCI runtimes that may be named, with
/// their programs: those that are there are told.
#[must_use]
pub(crate) fn facts(address: &str, runtimes: &[(&str, &Path)]) -> HostFacts {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let present = runtimes.iter().filter(|(_, program)| program.is_file());
    HostFacts {
        capacity: Capacity {
            cpu: CpuMillis(cpus * 1000),
            memory: MemoryBytes(memory_bytes()),
        },
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        architecture: architecture().to_owned(),
        kernel: probes::kernel_release(),
        os: os_name(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        cgroup: probes::cgroups().version.to_owned(),
        boot_id: first_line("/proc/sys/kernel/random/boot_id"),
        address: address.to_owned(),
        underlay: address.parse().ok(),
        runtimes: present.map(|(name, _)| (*name).to_owned()).collect(),
        gpus: gpus::gpus(Path::new("/")),
    }
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// In Go's words, as OCI uses them.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn os_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}
