//! What a cluster's agents leave in the cgroup file systems: `plimsoll/<id>-h<n>` in each hierarchy.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::plan::Plan;

/// Deepest nesting that is looked at: tasks may make cgroups of their own.
const DEPTH_MAX: usize = 16;
/// What the kernel gets until the cgroups of killed processes can be removed.
const RELEASE: Duration = Duration::from_secs(10);

/// The folders of a cluster's hosts in all hierarchies.
fn roots(plan: &Plan) -> Vec<PathBuf> {
    let prefix = plan.cgroup_prefix();
    let mut found = Vec::new();
    for mount in mounts() {
        for entry in fs::read_dir(mount.join("plimsoll"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Mount points of cgroup file systems.
fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let lines = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next()?;
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup") && root == "/").then(|| PathBuf::from(point))
    });
    lines.collect()
}

/// A folder and all below it, deepest first.
fn tree(root: &Path, depth: usize) -> Vec<PathBuf> {
    let mut all = Vec::new();
    if depth < DEPTH_MAX {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.extend(tree(&entry.path(), depth + 1));
            }
        }
    }
    all.push(root.to_owned());
    all
}

/// Pids in the cluster's cgroups. Frozen ones are thawed, because on cgroup v1 they could not be killed.
pub(super) fn pids(plan: &Plan) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for folder in roots(plan).iter().flat_map(|root| tree(root, 0)) {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = folder.join(file);
            if file.exists() {
                // It may vanish at any time.
                let _ = fs::write(file, value);
            }
        }
    }
    found
}

/// Removes the cluster's cgroups, and `plimsoll` itself where nothing else is in it.
pub(super) fn remove(plan: &Plan) -> Result<()> {
    let deadline = Instant::now() + RELEASE;
    loop {
        for folder in roots(plan).iter().flat_map(|root| tree(root, 0)) {
            let _ = fs::remove_dir(folder);
        }
        let left = roots(plan);
        let Some(first) = left.first() else { break };
        if Instant::now() > deadline {
            bail!("cgroup {} cannot be removed", first.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for mount in mounts() {
        let _ = fs::remove_dir(mount.join("plimsoll"));
    }
    Ok(())
}
