//! What a cluster leaves on a machine: processes, mounts, network namespaces, links, cgroups.

use std::path::Path;
use std::process::Command;

use crate::process;

/// Everything on this machine that belongs to the cluster with this data folder, one line each, sorted.
///
/// Namespaces, links and cgroups are known by the cluster's name, which `plimsoll dev down` tells.
#[must_use]
pub fn traces(data: &Path, name: Option<&str>) -> Vec<String> {
    let mut found = processes(data);
    found.extend(mounts(data));
    if let Some(name) = name {
        // A cluster plim123abc names its cgroups 123abc-h1 and so on, below `plimsoll/`.
        let id = name.trim_start_matches("plim");
        found.extend(cgroups(Path::new("/sys/fs/cgroup"), id));
        for (what, arguments) in [
            ("network namespace", ["netns", "list"]),
            ("link", ["-br", "link"]),
        ] {
            let listed = process::read(Command::new("ip").args(arguments)).unwrap_or_default();
            let names = listed
                .lines()
                .filter_map(|line| line.split_whitespace().next());
            found.extend(
                names
                    .filter(|n| n.starts_with(name))
                    .map(|n| format!("{what} {n}")),
            );
        }
    }
    found.sort();
    found
}

fn processes(data: &Path) -> Vec<String> {
    let data = data.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() {
            continue;
        }
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let ours = command.windows(data.len()).any(|window| window == data);
        if ours && name != std::process::id().to_string() {
            let line = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("process {name}: {}", line.trim_end()));
        }
    }
    found
}

fn mounts(data: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let data = data.display().to_string();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    points
        .filter(|point| point.starts_with(&data))
        .map(|point| format!("mount {point}"))
        .collect()
}

/// Cgroups with the cluster's name.
fn cgroups(root: &Path, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with(name) {
                found.push(format!("cgroup {}", path.display()));
            } else {
                open.push(path);
            }
        }
    }
    found
}
