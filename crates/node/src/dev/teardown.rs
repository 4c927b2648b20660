//! Removes a cluster. Nothing here relies on the state file: what belongs to the cluster is found by its marks.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use super::plan::Plan;
use super::processes::{self, Process};
use super::state;
use super::{cgroups, topology};

/// Stops everything and removes every trace outside of the folder, and its content unless it is to be kept.
/// Repeating it changes nothing.
pub(super) fn down(plan: &Plan, keep_data: bool) -> Result<()> {
    let lock = if plan.folder.exists() {
        Some(state::lock(plan)?)
    } else {
        None
    };
    let known = state::read(plan).unwrap_or_default();
    let mut programs = BTreeSet::new();
    if let Some(state) = &known {
        programs.extend(state.programs.values().copied());
    }
    let all = processes::find(plan, &programs);
    if !all.is_empty() {
        eprintln!("  stopping {} processes", all.len());
    }
    // Server and agents first and gently; nobody then starts anything again.
    let first: BTreeSet<Process> = all.iter().copied().filter(|p| is_program(*p)).collect();
    processes::stop(&first)?;
    processes::kill_all(|| processes::find(plan, &programs))?;
    unmount(&plan.folder)?;
    topology::remove(plan)?;
    cgroups::remove(plan)?;
    if state::is_cluster(plan) && !keep_data {
        state::remove(plan)?;
        eprintln!("  removed the content of {}", plan.folder.display());
    }
    drop(lock);
    if !state::is_cluster(plan) {
        // The lock's file is all that a folder without a cluster can have of us.
        let _ = fs::remove_file(plan.folder.join("dev.lock"));
    }
    println!("nothing of {} is left on this machine", plan.name());
    Ok(())
}

fn is_program(process: Process) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    words.any(|word| word == b"server" || word == b"agent")
}

/// Unmounts whatever is mounted below the folder in this mount namespace, the last first.
fn unmount(folder: &Path) -> Result<()> {
    let path = "/proc/self/mountinfo";
    let table = fs::read(path).with_context(|| format!("read {path}"))?;
    let lines: Vec<&[u8]> = table.split(|byte| *byte == b'\n').collect();
    for line in lines.into_iter().rev() {
        let Some(point) = line.split(|byte| *byte == b' ').nth(4) else {
            continue;
        };
        let point = PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(point)));
        if point.starts_with(folder) && point != folder {
            umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .with_context(|| format!("unmount {}", point.display()))?;
        }
    }
    Ok(())
}

/// The kernel writes blanks, tabs, line ends and backslashes as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if *byte == b'\\' => {
                out.push(code);
                rest = &tail[3..];
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_back() {
        assert_eq!(unescape(br"/a\040b\134c"), b"/a b\\c");
        assert_eq!(unescape(br"/plain\x"), br"/plain\x");
        assert_eq!(unescape(br"\04"), br"\04");
    }
}
