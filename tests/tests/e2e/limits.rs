//! Resource limits hold, and running out is told.

use e2e::Cluster;

#[test]
fn memory_is_limited_and_the_kill_is_noticed() {
    let pool = Cluster::shared().pool("oom");
    let eat = "head -c 200m /dev/zero | tail";
    let done = pool
        .docker(&[
            "run",
            "--name",
            "mm",
            "-m",
            "32m",
            "--memory-swap",
            "32m",
            "busybox",
            "sh",
            "-c",
            eat,
        ])
        .finish();
    assert_ne!(done.code, Some(0), "{done:?}");
    assert_eq!(pool.inspect("mm", "{{.State.OOMKilled}}"), "true");
}

#[test]
fn processes_are_limited() {
    let pool = Cluster::shared().pool("pids");
    let fork = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo made";
    let done = pool
        .docker(&[
            "run",
            "--rm",
            "--pids-limit",
            "4",
            "busybox",
            "sh",
            "-c",
            fork,
        ])
        .finish();
    assert!(done.stderr.contains("can't fork"), "{done:?}");
}

#[test]
fn processor_time_is_limited() {
    let pool = Cluster::shared().pool("cpu");
    pool.docker(&[
        "run", "-d", "--name", "cc", "--cpus", "0.25", "busybox", "sleep", "1000",
    ])
    .ok();
    assert_eq!(pool.inspect("cc", "{{.HostConfig.NanoCpus}}"), "250000000");
    let pid = pool.inspect("cc", "{{.State.Pid}}");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let quota = quota(&groups);
    assert_eq!(quota, Some(0.25), "{groups}");
    pool.docker(&["rm", "-f", "cc"]).ok();
}

/// The share of one processor that the kernel grants, from the cgroup's own files (v2, else v1).
fn quota(groups: &str) -> Option<f64> {
    let ratio = |quota: &str, period: &str| -> Option<f64> {
        Some(quota.trim().parse::<f64>().ok()? / period.trim().parse::<f64>().ok()?)
    };
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.split(',').any(|c| c == "cpu") {
            for root in ["cpu", "cpu,cpuacct"] {
                let folder = format!("/sys/fs/cgroup/{root}{path}");
                if let Ok(quota) = std::fs::read_to_string(format!("{folder}/cpu.cfs_quota_us")) {
                    let period =
                        std::fs::read_to_string(format!("{folder}/cpu.cfs_period_us")).ok()?;
                    return ratio(&quota, &period);
                }
            }
        } else if controllers.is_empty()
            && let Ok(max) = std::fs::read_to_string(format!("/sys/fs/cgroup{path}/cpu.max"))
        {
            let (quota, period) = max.split_once(' ')?;
            return ratio(quota, period);
        }
    }
    None
}

#[test]
fn values_no_host_can_set_are_refused_in_words_before_anything_starts() {
    let cluster = Cluster::shared();
    let pool = cluster.pool("values");
    for (option, words) in [
        ("--cpuset-cpus=3-1", "CpusetCpus"),
        ("--cpus=0.001", "0.01"),
        ("--pids-limit=1", "at least 4"),
        ("--ulimit=nofile=2147483648", "2147483584"),
        ("--tmpfs=/proc", "/proc"),
        ("--tmpfs=/dev", "mount below /dev"),
        ("--user=0:0:0", "user:group"),
        ("--user=4294967296", "between 0 and 2147483647"),
        ("--shm-size=2g", "memory limit"),
    ] {
        let done = pool.docker(&["create", option, "busybox", "true"]).finish();
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.stderr.contains(words), "{done:?}");
    }
    assert_eq!(pool.docker(&["ps", "-aq"]).ok(), "");
    // Only the host can know this; it tells nothing of itself.
    let done = pool
        .docker(&["run", "--name", "far", "--cpuset-cpus=0,4000", "busybox"])
        .finish();
    assert_eq!(done.code, Some(125), "{done:?}");
    assert!(done.stderr.contains("4000 is wanted"), "{done:?}");
    for secret in ["/sys/fs", "plimsoll/", cluster.data().to_str().unwrap()] {
        assert!(!done.stderr.contains(secret), "{done:?}");
    }
    pool.docker(&["rm", "far"]).ok();
}
