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
