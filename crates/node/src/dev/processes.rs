//! Processes of a cluster: their identity, how they are found again, how they are ended.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::{cgroups, topology};

/// Environment variable that the cluster's programs carry: the cluster's folder.
pub(super) const MARK: &str = "PLIMSOLL_DEV";
/// What a program gets to end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// What the kernel gets to remove a killed process; a process stuck in a dead disk takes longer.
const DEATH: Duration = Duration::from_secs(20);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(10);

/// A process, safe against the reuse of its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Process {
    /// Its pid.
    pub(super) pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub(super) start_time: u64,
}

impl Process {
    /// The living process with a pid.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_time })
    }

    /// Whether it still lives.
    pub(super) fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) {
        if self.alive() {
            // It may have ended since; then there is nothing to do.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// All processes of a cluster, by any of its marks.
pub(super) fn find(plan: &Plan, known: &BTreeSet<Process>) -> BTreeSet<Process> {
    let mut found: BTreeSet<Process> = known.iter().copied().filter(|p| p.alive()).collect();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let namespaces = topology::namespace_inodes(plan);
    let in_cgroups = cgroups::pids(plan);
    for pid in all_pids() {
        if pid == own || pid == 1 {
            continue;
        }
        let marked = in_cgroups.contains(&pid)
            || lives_in(pid, &namespaces)
            || carries_mark(pid, &plan.folder)
            || works_in(pid, &plan.folder);
        if marked && let Some(process) = Process::of(pid) {
            found.insert(process);
        }
    }
    found
}

fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn lives_in(pid: i32, namespaces: &BTreeSet<(u64, u64)>) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net"))
        .is_ok_and(|metadata| namespaces.contains(&(metadata.dev(), metadata.ino())))
}

fn carries_mark(pid: i32, folder: &Path) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| {
        let value = entry.strip_prefix(MARK.as_bytes());
        value.and_then(|value| value.strip_prefix(b"=")) == Some(folder.as_os_str().as_bytes())
    })
}

/// Whether it is one of our programs and was started with the folder, or something in it, as an argument. `plimsoll
/// dev` itself works on the folder, not in it.
fn works_in(pid: i32, folder: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let program = program
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    let mut words = words.peekable();
    if !program.starts_with(b"plimsoll") || words.peek() == Some(&b"dev".as_slice()) {
        return false;
    }
    words.any(|word| Path::new(std::ffi::OsStr::from_bytes(word)).starts_with(folder))
}

/// Ends programs: asks first, then kills.
pub(super) fn stop(programs: &BTreeSet<Process>) -> Result<()> {
    for process in programs {
        process.signal(Signal::SIGTERM);
    }
    let deadline = Instant::now() + GRACE;
    while programs.iter().any(|process| process.alive()) && Instant::now() < deadline {
        std::thread::sleep(LOOK);
    }
    kill_all(|| programs.iter().copied().filter(|p| p.alive()).collect())
}

/// Kills until nothing is found any more.
pub(super) fn kill_all(find: impl Fn() -> BTreeSet<Process>) -> Result<()> {
    let deadline = Instant::now() + DEATH;
    loop {
        let left = find();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let pids: Vec<String> = left.iter().map(|process| process.pid.to_string()).collect();
            bail!("processes {} do not end although killed", pids.join(", "));
        }
        for process in left {
            process.signal(Signal::SIGKILL);
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_only_with_its_start_time() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.alive());
        let other = Process {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(!other.alive());
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        child.kill().unwrap();
        while process.alive() {
            std::thread::yield_now();
        }
        // A zombie is dead.
        child.wait().unwrap();
    }
}
