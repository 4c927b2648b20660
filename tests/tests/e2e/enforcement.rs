//! Pools keep their line: what runs is held to it on all hosts together.

use std::path::PathBuf;

use e2e::cgroups::{groups, numbers};
use e2e::{Cluster, Pool, eventually};

#[test]
fn a_pool_s_limit_holds_over_all_hosts_together() {
    let cluster = Cluster::shared();
    if !PathBuf::from("/sys/fs/cgroup/cpu").is_dir() {
        // On cgroup v2 the same is shown on a fake tree (drivers).
        return;
    }
    let pool = cluster.pool("cap");
    let line = [
        "pool",
        "update",
        &pool.name,
        "--limit-cpu",
        "600m",
        "--limit-memory",
        "300MiB",
    ];
    cluster.plimsoll(&line).ok();
    start_hogs(&pool);
    let quotas = |wanted: i64| {
        let groups = groups(cluster, &pool, "cpu");
        let quotas = numbers(&groups, "cpu.cfs_quota_us");
        let sum: i64 = quotas.iter().sum();
        if quotas.len() == 3 && quotas.iter().all(|q| *q > 0) && sum == wanted {
            Ok(groups)
        } else {
            Err(format!("{quotas:?}"))
        }
    };
    let cpu = eventually(
        "600 thousandths of a core are divided among three hosts",
        || quotas(60_000),
    );
    let memory = groups(cluster, &pool, "memory");
    let limits = numbers(&memory, "memory.limit_in_bytes");
    assert!(limits.iter().sum::<i64>() <= 300 << 20, "{limits:?}");

    // What is used is what is allowed, and no more.
    let used = |cpu: &[PathBuf]| numbers(cpu, "cpuacct.usage").iter().sum::<i64>();
    let acct = groups(cluster, &pool, "cpuacct");
    let (begin, before) = (std::time::Instant::now(), used(&acct));
    eventually("three seconds of use", || match begin.elapsed().as_secs() {
        0..3 => Err("not yet"),
        _ => Ok(()),
    });
    let nanos = i64::try_from(begin.elapsed().as_nanos()).unwrap();
    let part = (used(&acct) - before) * 1000 / nanos;
    println!("pool of 600m, six hogs on three hosts: {part}m used");
    // The kernel lets each CPU of each group run up to a millisecond over in every period of a hundred
    // (Documentation/scheduler/sched-bwc), and a period may begin just before and just after the measurement.
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let slack = 30 + 10 * 3 * i64::try_from(cpus).unwrap();
    assert!(part <= 600 + slack, "{part}");

    // The hogs on one host go: what they had goes to the others, and never is the sum above the limit.
    let hosts: Vec<String> = (0..6)
        .map(|n| cluster.host_of(&pool, &format!("hog{n}")))
        .collect();
    for (n, host) in hosts.iter().enumerate() {
        if *host == hosts[0] {
            pool.docker(&["rm", "-f", &format!("hog{n}")]).ok();
        }
    }
    eventually("what was free goes to the hosts that need it", || {
        let sum: i64 = numbers(&cpu, "cpu.cfs_quota_us")
            .iter()
            .filter(|q| **q > 0)
            .sum();
        assert!(sum <= 60_000, "{sum}");
        let busy: Vec<i64> = numbers(&groups(cluster, &pool, "cpu"), "cpu.cfs_quota_us");
        let given: i64 = busy.iter().filter(|q| **q > 0).sum();
        if given >= 59_000 && busy.iter().filter(|q| **q > 0).count() == 2 {
            Ok(())
        } else {
            Err(format!("{busy:?}"))
        }
    });
}

/// Busy loops on every host: more threads than the hosts have CPUs.
fn start_hogs(pool: &Pool) {
    for n in 0..6 {
        let name = format!("hog{n}");
        let hog = "while :; do :; done";
        pool.docker(&["run", "-d", "--name", &name, "busybox", "sh", "-c", hog])
            .ok();
    }
}
