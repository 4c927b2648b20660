//! The cgroups of pools, as the kernel has them.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::{Cluster, Pool};

/// The pool's cgroups of one controller, one per host; only where the kernel has the hierarchies of cgroup v1.
///
/// # Panics
/// When the pool cannot be shown.
#[expect(
    clippy::unwrap_used,
    reason = "test support: without its id the test fails"
)]
#[must_use]
pub fn groups(cluster: &Cluster, pool: &Pool, controller: &str) -> Vec<PathBuf> {
    let shown = cluster
        .plimsoll(&["pool", "show", &pool.name, "--output", "json"])
        .ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let id = shown["id"].as_str().unwrap();
    let mark = cluster.id().trim_start_matches("plim");
    let root = format!("/sys/fs/cgroup/{controller}/plimsoll");
    let hosts = fs::read_dir(root).into_iter().flatten().flatten();
    hosts
        .filter(|host| host.file_name().to_string_lossy().starts_with(mark))
        .map(|host| host.path().join(id))
        .filter(|path| path.is_dir())
        .collect()
}

/// What a file of each cgroup says; those that are gone or have no number are left out.
#[must_use]
pub fn numbers(groups: &[PathBuf], file: &str) -> Vec<i64> {
    let read = |group: &PathBuf| {
        fs::read_to_string(group.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    groups.iter().filter_map(read).collect()
}
