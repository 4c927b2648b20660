//! A pool keeps what is its own beside one that does its worst: CPU and memory hogs and a fork bomb, over three hosts.
//!
//! It is a program of its own because nothing else may run beside it; tests of one program run side by side.
//! What is claimed must hold on a machine that others use, too: each figure is taken again until it is good or the
//! deadline has passed. A pool that is not protected never gets there, since the other one never lets go.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use e2e::cgroups::{groups, numbers};
use e2e::{Cluster, Pool, eventually};

/// Loops of the quiet pool, one on each host, and what each may use at most.
const PROBES: [(&str, &str); 3] = [("p1", "h1"), ("p2", "h2"), ("p3", "h3")];
/// What the quiet pool has reserved and uses, in thousandths of a core.
const ENTITLED: i64 = 300;
/// This much of it is kept at least.
const KEPT_PERCENT: i64 = 95;
/// One look at what is used.
const WINDOW: Duration = Duration::from_millis(1500);
/// One look while a pool wakes up: two periods of the kernel's CPU quotas.
const SHORT: Duration = Duration::from_millis(200);

/// Nanoseconds of CPU time that a pool has used on all hosts.
fn used(acct: &[PathBuf]) -> i64 {
    numbers(acct, "cpuacct.usage").iter().sum()
}

/// What a pool uses for a while, in thousandths of a core.
fn rate(acct: &[PathBuf], window: Duration) -> i64 {
    let (begin, before) = (Instant::now(), used(acct));
    while begin.elapsed() < window {
        // tidy: sleep: the time that is measured passes
        std::thread::sleep(window.saturating_sub(begin.elapsed()));
    }
    let nanos = i64::try_from(begin.elapsed().as_nanos()).unwrap();
    (used(acct) - before) * 1000 / nanos
}

fn median(mut values: Vec<i64>) -> i64 {
    values.sort_unstable();
    values[values.len() / 2]
}

fn start(pool: &Pool, name: &str, host: &str, options: &[&str], script: &str) {
    let rule = format!("constraint:host=={host}");
    let mut run = vec!["run", "-d", "--name", name, "-e", &rule];
    run.extend(options);
    run.extend(["busybox", "sh", "-c", script]);
    pool.docker(&run).ok();
}

/// Everything that hurts, on every host.
fn let_loose(wild: &Pool) {
    for (_, host) in PROBES {
        for n in 0..3 {
            start(
                wild,
                &format!("cpu-{host}-{n}"),
                host,
                &[],
                "while :; do :; done",
            );
        }
        // A process that cannot fork any more goes on trying. Three hosts share this machine's kernel: what a host
        // would bear is too much for all of them together.
        let bomb = "bomb() { while :; do bomb & done; }; bomb & while :; do wait; done";
        start(
            wild,
            &format!("bomb-{host}"),
            host,
            &["--pids-limit", "1000"],
            bomb,
        );
    }
}

/// Bytes of memory that a workload uses where it runs.
fn memory(groups: &[PathBuf], id: &str) -> i64 {
    let inside: Vec<PathBuf> = groups.iter().map(|group| group.join(id)).collect();
    numbers(&inside, "memory.usage_in_bytes").iter().sum()
}

fn parked(cluster: &Cluster, pool: &Pool, name: &str) -> bool {
    let text = cluster
        .plimsoll(&["inspect", "--pool", &pool.name, name])
        .ok();
    let value: Value = serde_json::from_str(&text).unwrap();
    value["items"][0]["hold"]["kind"] == "parked"
}

/// The limit of the wild pool holds over all hosts together, in every look.
fn within_limit(rate: i64, limit: i64) {
    // As in `enforcement`: a millisecond over for each CPU of each group in a period, and a period cut at each end.
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let slack = limit / 10 + 10 * 3 * i64::try_from(cpus).unwrap();
    assert!(rate <= limit + slack, "{rate} of {limit}");
}

#[test]
fn a_pool_keeps_its_part_beside_hogs_and_a_fork_bomb() {
    if !Path::new("/sys/fs/cgroup/cpu").is_dir() {
        // On cgroup v2 the parts are shown on a fake tree (drivers).
        return;
    }
    let options = ["--host-cpus", "0.6", "--host-memory", "768MiB"];
    let cluster = Cluster::start_with(3, &options).unwrap();
    let (quiet, wild) = (cluster.pool("quiet"), cluster.pool("wild"));
    let line = |pool: &Pool, options: &[&str]| {
        let mut update = vec!["pool", "update", &pool.name];
        update.extend(options);
        cluster.plimsoll(&update).ok();
    };
    line(
        &quiet,
        &["--reserve-cpu", "300m", "--reserve-memory", "300MiB"],
    );
    line(&wild, &["--limit-cpu", "1200m", "--limit-memory", "900MiB"]);
    for (name, host) in PROBES {
        start(
            &quiet,
            name,
            host,
            &["--cpus", "0.1"],
            "while :; do :; done",
        );
    }
    let quiet_cpu = eventually("the quiet pool runs on three hosts", || {
        match groups(&cluster, &quiet, "cpuacct") {
            three if three.len() == 3 => Ok(three),
            fewer => Err(fewer.len()),
        }
    });
    let kept = ENTITLED * KEPT_PERCENT / 100;
    let alone = eventually("the quiet pool uses what it may", || {
        match rate(&quiet_cpu, WINDOW) {
            rate if rate >= kept => Ok(rate),
            less => Err(less),
        }
    });

    let_loose(&wild);
    let wild_cpu = eventually("the wild pool runs on three hosts and is bounded", || {
        let quotas = numbers(&groups(&cluster, &wild, "cpu"), "cpu.cfs_quota_us");
        match groups(&cluster, &wild, "cpuacct") {
            three if quotas.iter().filter(|quota| **quota > 0).count() == 3 => Ok(three),
            _ => Err(format!("{quotas:?}")),
        }
    });
    let beside = eventually("the quiet pool keeps its part", || {
        let looks = (0..5).map(|_| {
            let (begin, before) = (Instant::now(), used(&wild_cpu));
            let quiet = rate(&quiet_cpu, WINDOW);
            let nanos = i64::try_from(begin.elapsed().as_nanos()).unwrap();
            within_limit((used(&wild_cpu) - before) * 1000 / nanos, 1200);
            quiet
        });
        match median(looks.collect()) {
            rate if rate >= kept => Ok(rate),
            less => Err(format!("{less} of {ENTITLED}, alone {alone}")),
        }
    });
    let pids: i64 = numbers(&groups(&cluster, &wild, "pids"), "pids.current")
        .iter()
        .sum();
    println!("entitled {ENTITLED}m: alone {alone}m, beside hogs and {pids} processes {beside}m");

    let back = cpu_comes_back(&quiet, &quiet_cpu, kept);
    println!("CPU back {back:?} after the quiet pool woke up");
    let back = memory_comes_back(&cluster, &quiet, &wild);
    println!("memory back {back:?} after the quiet pool asked for it");
}

/// The quiet pool sleeps, so that the other takes what it leaves, and wakes up.
fn cpu_comes_back(quiet: &Pool, acct: &[PathBuf], kept: i64) -> Duration {
    let all = |verb: &str| {
        let mut command = vec![verb];
        command.extend(PROBES.map(|(name, _)| name));
        quiet.docker(&command).ok();
    };
    eventually("CPU is back within a second", || {
        all("pause");
        rate(acct, WINDOW);
        all("unpause");
        let woken = Instant::now();
        while woken.elapsed() < Duration::from_secs(1) {
            if rate(acct, SHORT) >= kept {
                return Ok(woken.elapsed());
            }
        }
        Err("not within a second")
    })
}

/// A hog of the wild pool has borrowed the memory of a host; the quiet pool fills what it has reserved there.
fn memory_comes_back(cluster: &Cluster, quiet: &Pool, wild: &Pool) -> Duration {
    // On that host the pool's CPU is for filling memory.
    let others = ["bomb-h1", "cpu-h1-0", "cpu-h1-1", "cpu-h1-2"];
    wild.docker(&["rm", "-f"]).args(&others).ok();
    let fill = |mib: u32| format!("head -c {mib}m /dev/zero | tail -c {mib}m | sleep 86423");
    start(wild, "memory", "h1", &[], &fill(360));
    let of_wild = groups(cluster, wild, "memory");
    let hog = wild.inspect("memory", "{{.Id}}");
    eventually("the hog has borrowed", || match memory(&of_wild, &hog) {
        bytes if bytes >= 350 << 20 => Ok(()),
        less => Err(less),
    });
    let begin = Instant::now();
    start(
        quiet,
        "mine",
        "h1",
        &["--memory-reservation", "32m"],
        &fill(200),
    );
    let mine = quiet.inspect("mine", "{{.Id}}");
    let of_quiet = groups(cluster, quiet, "memory");
    let back = eventually("the quiet pool has its memory", || {
        match (memory(&of_quiet, &mine), parked(cluster, wild, "memory")) {
            (bytes, true) if bytes >= 195 << 20 => Ok(begin.elapsed()),
            (bytes, parked) => Err(format!("{} MiB, parked: {parked}", bytes >> 20)),
        }
    });
    assert_eq!(cluster.host_of(quiet, "mine"), "h1");
    assert!(back < Duration::from_secs(10), "{back:?}");
    back
}
