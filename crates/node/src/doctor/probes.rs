//! What is asked of the machine. Trying things out happens in child processes with namespaces of their own, which end
//! with them; each has a time limit, because a sick machine is what this is for.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds a child gets.
const TRY_SECONDS: &str = "10";

/// The kernel's release.
pub(super) fn kernel_release() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

/// Major and minor number of a kernel release.
pub(super) fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || {
        numbers
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    (next(), next())
}

/// How cgroups are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroups {
    /// `v1`, `hybrid`, `v2` or `none`.
    pub(super) version: &'static str,
    /// Controllers that can be used.
    pub(super) controllers: Vec<String>,
}

/// Looks at the mount table of this process.
pub(super) fn cgroups() -> Cgroups {
    cgroups_of(
        &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
        |point| fs::read_to_string(point.join("cgroup.controllers")).unwrap_or_default(),
    )
}

fn cgroups_of(table: &str, unified_controllers: impl Fn(&Path) -> String) -> Cgroups {
    let mut v1 = Vec::new();
    let mut unified = None;
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (left.next(), left.next()) else {
            continue;
        };
        let mut right = right.split(' ');
        match (root, right.next(), right.nth(1)) {
            ("/", Some("cgroup2"), _) => unified = unified.or(Some(PathBuf::from(point))),
            ("/", Some("cgroup"), Some(options)) => {
                let known = [
                    "cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio",
                ];
                let here = options.split(',').filter(|option| known.contains(option));
                v1.extend(here.map(str::to_owned));
            }
            _ => {}
        }
    }
    v1.sort();
    v1.dedup();
    match (v1.is_empty(), unified) {
        (true, None) => Cgroups {
            version: "none",
            controllers: v1,
        },
        (true, Some(point)) => {
            let text = unified_controllers(&point);
            let controllers = text.split_ascii_whitespace().map(str::to_owned).collect();
            Cgroups {
                version: "v2",
                controllers,
            }
        }
        (false, Some(_)) => Cgroups {
            version: "hybrid",
            controllers: v1,
        },
        (false, None) => Cgroups {
            version: "v1",
            controllers: v1,
        },
    }
}

/// Runs a program with a text as its input. `Err` holds the first line of what it complained of.
pub(super) fn attempt(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new("timeout")
        .args([TRY_SECONDS, program])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input is none the worse for it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let line = errors.lines().find(|line| !line.trim().is_empty());
    Err(line.map_or_else(|| format!("{program}: {}", output.status), str::to_owned))
}

/// Runs a shell script in namespaces of its own; `flags` are those of `unshare`.
pub(super) fn attempt_in(flags: &[&str], script: &str) -> Result<String, String> {
    let mut arguments = flags.to_vec();
    arguments.extend(["sh", "-ec", script]);
    attempt("unshare", &arguments, "")
}

/// Where a program is.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Root's own folders, even if the caller's path lacks them.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Names of all running programs.
pub(super) fn running() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_understood() {
        assert_eq!(kernel_version("6.1.0-18-amd64"), (6, 1));
        assert_eq!(kernel_version("5.10"), (5, 10));
        assert_eq!(kernel_version("nonsense"), (0, 0));
    }

    #[test]
    fn mount_tables_are_understood() {
        let v1 = "32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let v2 = "35 31 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let part = "34 31 0:29 /a /elsewhere rw - cgroup cgroup rw,pids\n";
        let read = |table: &str| cgroups_of(table, |_| "cpu memory pids\n".to_owned());
        assert_eq!(read("").version, "none");
        assert_eq!(read(part).version, "none");
        assert_eq!(read(v1).controllers, ["cpu", "cpuacct"]);
        assert_eq!(read(v2).controllers, ["cpu", "memory", "pids"]);
        assert_eq!(read(&format!("{v1}{v2}")).version, "hybrid");
    }
}
