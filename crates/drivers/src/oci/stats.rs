//! Measures and process lists of running tasks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use agent::driver::{DriverError, ErrorClass, ProcessTable, TaskStats};

use super::cgroup::{Cgroup, Version};
use super::observe::now;
use super::runtime::failed;

fn number(dir: &Path, file: &str) -> u64 {
    // "max" and whatever this kernel does not have count as nothing.
    fs::read_to_string(dir.join(file))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

pub(super) fn table(dir: &Path, file: &str) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

pub(super) fn of(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

/// Reads everything; `pid` is a process in the task's network namespace.
pub(super) fn measure(cgroup: &Cgroup, version: Version, pid: i32) -> TaskStats {
    let mut stats = TaskStats {
        read_ms: now().millis(),
        host_cpu_ns: host_cpu(),
        cpus: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
        networks: networks(pid),
        ..TaskStats::default()
    };
    match version {
        Version::V2 => measure_v2(cgroup, &mut stats),
        Version::V1 | Version::Hybrid => measure_v1(cgroup, &mut stats),
    }
    let total = meminfo_total();
    if stats.memory_limit == 0 || stats.memory_limit > total {
        stats.memory_limit = total;
    }
    stats
}

/// One clock tick of `cpuacct.stat` in nanoseconds (USER_HZ is 100 everywhere).
const TICK: u64 = 10_000_000;

fn measure_v1(cgroup: &Cgroup, stats: &mut TaskStats) {
    if let Some(dir) = cgroup.dir("cpuacct") {
        stats.cpu_total_ns = number(&dir, "cpuacct.usage");
        let split = table(&dir, "cpuacct.stat");
        stats.cpu_user_ns = of(&split, "user") * TICK;
        stats.cpu_system_ns = of(&split, "system") * TICK;
    }
    if let Some(dir) = cgroup.dir("cpu") {
        let cpu = table(&dir, "cpu.stat");
        stats.throttling = (
            of(&cpu, "nr_periods"),
            of(&cpu, "nr_throttled"),
            of(&cpu, "throttled_time"),
        );
    }
    if let Some(dir) = cgroup.dir("memory") {
        let detail = table(&dir, "memory.stat");
        stats.memory_usage = number(&dir, "memory.usage_in_bytes");
        stats.memory_max_usage = number(&dir, "memory.max_usage_in_bytes");
        stats.memory_limit = of(&detail, "hierarchical_memory_limit");
        stats.memory_inactive_file = of(&detail, "total_inactive_file");
        stats.memory_failcnt = number(&dir, "memory.failcnt");
        stats.memory_detail = detail;
    }
    if let Some(dir) = cgroup.dir("pids") {
        stats.pids = number(&dir, "pids.current");
        stats.pids_limit = number(&dir, "pids.max");
    }
    if let Some(dir) = cgroup.dir("blkio") {
        let text = fs::read_to_string(dir.join("blkio.throttle.io_service_bytes_recursive"))
            .unwrap_or_default();
        for line in text.lines() {
            let mut fields = line.split(' ').skip(1);
            match (
                fields.next(),
                fields.next().and_then(|value| value.parse::<u64>().ok()),
            ) {
                (Some("Read"), Some(bytes)) => stats.block_io.0 += bytes,
                (Some("Write"), Some(bytes)) => stats.block_io.1 += bytes,
                _ => {}
            }
        }
    }
}

fn measure_v2(cgroup: &Cgroup, stats: &mut TaskStats) {
    let Some(dir) = cgroup.dir("") else { return };
    let cpu = table(&dir, "cpu.stat");
    stats.cpu_total_ns = of(&cpu, "usage_usec") * 1000;
    stats.cpu_user_ns = of(&cpu, "user_usec") * 1000;
    stats.cpu_system_ns = of(&cpu, "system_usec") * 1000;
    stats.throttling = (
        of(&cpu, "nr_periods"),
        of(&cpu, "nr_throttled"),
        of(&cpu, "throttled_usec") * 1000,
    );
    let detail = table(&dir, "memory.stat");
    stats.memory_usage = number(&dir, "memory.current");
    stats.memory_max_usage = number(&dir, "memory.peak");
    stats.memory_limit = number(&dir, "memory.max");
    stats.memory_inactive_file = of(&detail, "inactive_file");
    stats.memory_failcnt = of(&table(&dir, "memory.events"), "max");
    stats.memory_detail = detail;
    stats.pids = number(&dir, "pids.current");
    stats.pids_limit = number(&dir, "pids.max");
    for line in fs::read_to_string(dir.join("io.stat"))
        .unwrap_or_default()
        .lines()
    {
        for field in line.split(' ') {
            if let Some(bytes) = field
                .strip_prefix("rbytes=")
                .and_then(|value| value.parse::<u64>().ok())
            {
                stats.block_io.0 += bytes;
            }
            if let Some(bytes) = field
                .strip_prefix("wbytes=")
                .and_then(|value| value.parse::<u64>().ok())
            {
                stats.block_io.1 += bytes;
            }
        }
    }
}

fn host_cpu() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: u64 = text
        .lines()
        .next()
        .unwrap_or("")
        .split_ascii_whitespace()
        // user to steal; guest time is counted in user already.
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks * TICK
}

fn meminfo_total() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

fn networks(pid: i32) -> BTreeMap<String, agent::driver::NetworkStats> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        let values: Vec<u64> = rest
            .split_ascii_whitespace()
            .filter_map(|value| value.parse().ok())
            .collect();
        if let [rb, rp, re, rd, _, _, _, _, tb, tp, te, td, ..] = values[..]
            && name.trim() != "lo"
        {
            let counters = agent::driver::NetworkStats {
                rx: (rb, rp, re, rd),
                tx: (tb, tp, te, td),
            };
            all.insert(name.trim().to_owned(), counters);
        }
    }
    all
}

/// Lists processes as the host's `ps` prints them, of this task only.
pub(super) async fn top(cgroup: &Cgroup, ps_args: &str) -> Result<ProcessTable, DriverError> {
    let args: Vec<&str> = ps_args.split_ascii_whitespace().collect();
    let args = if args.is_empty() { vec!["-ef"] } else { args };
    let mut command = tokio::process::Command::new("ps");
    command
        .args(&args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .kill_on_drop(true);
    let output = command
        .output()
        .await
        .map_err(|error| failed("ps", error))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        let reason = reason.lines().next().unwrap_or("failed");
        return Err(DriverError::new(
            ErrorClass::Invalid,
            format!("ps {}: {reason}", args.join(" ")),
        ));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    filter(&text, &cgroup.processes()).ok_or_else(|| {
        DriverError::new(ErrorClass::Invalid, "couldn't find PID field in ps output")
    })
}

fn filter(text: &str, pids: &[i32]) -> Option<ProcessTable> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines
        .next()?
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect();
    let column = titles.iter().position(|title| title == "PID")?;
    let rows = lines
        .filter_map(|line| {
            let mut fields: Vec<&str> = Vec::new();
            let mut rest = line.trim_start();
            // The last column holds the rest of the line.
            while fields.len() + 1 < titles.len() {
                let (field, after) = rest.split_once(char::is_whitespace)?;
                fields.push(field);
                rest = after.trim_start();
            }
            fields.push(rest);
            let pid: i32 = fields.get(column)?.parse().ok()?;
            pids.contains(&pid)
                .then(|| fields.iter().map(|field| (*field).to_owned()).collect())
        })
        .collect();
    Some(ProcessTable { titles, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_processes_are_listed_with_whole_commands() {
        let text = "UID          PID    PPID CMD\nroot           1       0 init\nroot          42       1 sleep 10 20\n";
        let table = filter(text, &[42]).unwrap();
        assert_eq!(table.titles, ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(table.rows, [["root", "42", "1", "sleep 10 20"]]);
        assert!(filter("USER CMD\nroot x\n", &[1]).is_none());
    }
}
