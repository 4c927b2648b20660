//! Parts of pools reach the kernel, in an order it takes, and use is measured as it is.

use std::process::{Child, Command};

use serde_json::json;

use super::*;
use crate::oci::cgroup::Version;

fn pool(n: u8) -> PoolId {
    PoolId::from_bytes(&[n; 32])
}

fn member(n: u8, path: &[u8], pool_number: u8, resources: &serde_json::Value) -> Arc<HostWorkload> {
    let id = "a".repeat(64);
    let image = json!({
        "id": format!("sha256:{id}"), "pool": pool(pool_number), "tags": [], "digests": [],
        "config": {"platform": {"architecture": "amd64", "os": "linux"}, "created": null, "env": [], "entrypoint": [],
            "cmd": [], "user": "", "working_dir": "", "exposed_ports": [], "volumes": [], "labels": {},
            "stop_signal": null, "size_bytes": 0, "history": []},
        "content": {"config": format!("sha256:{id}"), "config_bytes": 0, "layers": []},
        "source": null, "added_at": 0
    });
    let workload = json!({
        "id": model::WorkloadId::from_bytes(&[n; 32]), "pool": pool(pool_number),
        "pool_path": path.iter().map(|n| pool(*n)).collect::<Vec<_>>(),
        "pool_name": "p", "name": "w",
        "spec": {"task": {"image": "i", "image_id": format!("sha256:{id}"), "resources": resources}},
        "image": image, "desired": model::DesiredState::Running, "run": 1
    });
    Arc::new(serde_json::from_value(workload).unwrap())
}

fn part(cpu: Option<u64>, memory: Option<u64>) -> HostPool {
    HostPool {
        cpu_limit: cpu.map(CpuMillis),
        memory_limit: memory.map(MemoryBytes),
        ..HostPool::default()
    }
}

/// A subtree of the real hierarchies that goes away with it.
struct Real {
    cgroups: Cgroups,
    pools: Pools,
    children: Vec<Child>,
    members: Vec<HostWorkload>,
}

impl Real {
    fn new(name: &str) -> Self {
        let cgroups = Cgroups::detect(&format!("test-{name}-{}", std::process::id())).unwrap();
        Self {
            pools: Pools::new(cgroups.clone()),
            cgroups,
            children: Vec::new(),
            members: Vec::new(),
        }
    }

    /// Runs a shell script in a task's cgroup.
    fn run(&mut self, member: &HostWorkload, script: &str) {
        let procs: String = self
            .cgroups
            .workload(member)
            .placement()
            .procs
            .iter()
            .map(|file| format!("echo $$ > {}; ", file.display()))
            .collect();
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("{procs} {script}"))
            .spawn()
            .unwrap();
        self.children.push(child);
        self.members.push(member.clone());
    }

    fn read(&self, path: &[u8], controller: &str, file: &str) -> String {
        let ids: Vec<PoolId> = path.iter().map(|n| pool(*n)).collect();
        let dir = self
            .cgroups
            .pool(&ids.iter().collect::<Vec<_>>())
            .dir(controller)
            .unwrap();
        fs::read_to_string(dir.join(file))
            .unwrap()
            .trim()
            .to_owned()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // What a script started is killed with it.
        for member in &self.members {
            let _ = self.cgroups.workload(member).kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
        let begin = Instant::now();
        while self.cgroups.remove_all().is_err() && begin.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
    }
}

/// Asks until it is so.
fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn is_v2(cgroups: &Cgroups) -> bool {
    cgroups.version() == Version::V2
}

#[test]
fn a_quota_below_that_of_a_task_is_taken_and_given_back() {
    let real = Real::new("quota");
    if is_v2(&real.cgroups) {
        // There a quota of a group below may be larger.
        return;
    }
    let task = member(1, &[1], 2, &json!({"cpu_limit_millis": 1500}));
    let members = [task.clone()];
    real.pools.place(&task).unwrap();
    let own = real
        .cgroups
        .workload(&task)
        .dir("cpu")
        .unwrap()
        .join("cpu.cfs_quota_us");
    let quota = || fs::read_to_string(&own).unwrap().trim().to_owned();
    assert_eq!(quota(), "150000");
    let parts = |outer: Option<u64>, inner: Option<u64>| {
        let mut inner = part(inner, None);
        inner.parent = Some(pool(1));
        BTreeMap::from([(pool(1), part(outer, None)), (pool(2), inner)])
    };
    // Down from the outside, and then the inside, and up again.
    real.pools
        .apply(&parts(Some(1000), None), &members)
        .unwrap();
    assert_eq!(real.read(&[1], "cpu", "cpu.cfs_quota_us"), "100000");
    assert_eq!(quota(), "100000");
    real.pools
        .apply(&parts(Some(1000), Some(400)), &members)
        .unwrap();
    assert_eq!(real.read(&[1, 2], "cpu", "cpu.cfs_quota_us"), "40000");
    assert_eq!(quota(), "40000");
    // A task that comes now is not above it either.
    let late = member(3, &[1], 2, &json!({"cpu_limit_millis": 2000}));
    real.pools.place(&late).unwrap();
    real.pools
        .apply(&parts(Some(300), Some(1200)), &members)
        .unwrap();
    assert_eq!(real.read(&[1, 2], "cpu", "cpu.cfs_quota_us"), "30000");
    real.pools.apply(&BTreeMap::new(), &members).unwrap();
    assert_eq!(real.read(&[1], "cpu", "cpu.cfs_quota_us"), "-1");
    assert_eq!(quota(), "150000");
}

#[test]
fn a_pool_at_its_limit_is_measured_as_wanting_more() {
    let mut real = Real::new("demand");
    let task = member(1, &[], 1, &json!({}));
    let members = [task.clone()];
    real.pools.place(&task).unwrap();
    real.pools
        .apply(
            &BTreeMap::from([(pool(1), part(Some(200), None))]),
            &members,
        )
        .unwrap();
    for _ in 0..2 {
        real.run(&task, "while :; do :; done");
    }
    real.pools.measure(&members);
    wait_for(
        "two hogs are seen to want much more than their fifth of a core",
        || {
            let usage = real.pools.measure(&members)[&pool(1)].clone();
            usage.cpu_throttled > 500
                && usage.cpu_used.0 < 300
                && usage.cpu_demand.0 > 1000
                && usage.pids == 2
        },
    );
}

#[test]
fn memory_in_use_is_not_taken_by_force() {
    let mut real = Real::new("memory");
    let task = member(1, &[], 1, &json!({}));
    let members = [task.clone()];
    real.pools.place(&task).unwrap();
    // Anonymous memory, which cannot be reclaimed without swap: 64 MiB in a shell variable.
    real.run(
        &task,
        "x=$(head -c 67108864 /dev/zero | tr '\\0' x); sleep 1000",
    );
    wait_for("the memory is there", || {
        let usage = real.pools.measure(&members)[&pool(1)].clone();
        usage.memory_working_set.0 > 64 << 20
    });
    let swap = fs::read_to_string("/proc/swaps").unwrap().lines().count() > 1;
    let small = BTreeMap::from([(pool(1), part(None, Some(32 << 20)))]);
    let result = real.pools.apply(&small, &members);
    if !swap {
        assert!(
            matches!(result, Err(PoolsError::InUse { .. })),
            "{result:?}"
        );
    }
    assert!(
        real.children[0].try_wait().unwrap().is_none(),
        "nothing was killed"
    );
    // Once it is free, the same part holds.
    real.children[0].kill().unwrap();
    real.children[0].wait().unwrap();
    wait_for("the part is in force", || {
        real.pools.apply(&small, &members).is_ok()
    });
    let large = BTreeMap::from([(pool(1), part(None, Some(96 << 20)))]);
    real.pools.apply(&large, &members).unwrap();
    if !is_v2(&real.cgroups) {
        assert_eq!(
            real.read(&[1], "memory", "memory.limit_in_bytes"),
            (96 << 20).to_string()
        );
    }
}

#[test]
fn parts_on_v2_are_written_as_the_kernel_wants_them() {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = Cgroups::fake_v2(dir.path(), "h");
    let pools = Pools::new(cgroups);
    let inner = HostPool {
        parent: Some(pool(1)),
        cpu_weight: 300,
        cpu_limit: Some(CpuMillis(2500)),
        memory_limit: Some(MemoryBytes(1 << 30)),
        memory_high: Some(MemoryBytes(900 << 20)),
        memory_low: MemoryBytes(200 << 20),
        pids_limit: Some(4000),
    };
    let parts = BTreeMap::from([(pool(1), part(Some(2000), None)), (pool(2), inner)]);
    pools.apply(&parts, &[]).unwrap();
    let outer = dir.path().join("plimsoll/h").join(pool(1).as_str());
    let inner = outer.join(pool(2).as_str());
    let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap();
    assert_eq!(read(&outer, "cpu.max"), "200000 100000");
    assert_eq!(read(&outer, "memory.max"), "max");
    assert_eq!(read(&inner, "cpu.weight"), "300");
    assert_eq!(
        read(&inner, "cpu.max"),
        "200000 100000",
        "not above the outer one"
    );
    assert_eq!(read(&inner, "memory.max"), (1 << 30).to_string());
    assert_eq!(read(&inner, "memory.high"), (900 << 20).to_string());
    assert_eq!(read(&inner, "memory.low"), (200 << 20).to_string());
    assert_eq!(read(&inner, "pids.max"), "4000");
    // More is in use than the new part: pressed, not killed.
    fs::write(inner.join("memory.current"), (800 << 20).to_string()).unwrap();
    let mut less = parts.clone();
    less.get_mut(&pool(2)).unwrap().memory_limit = Some(MemoryBytes(500 << 20));
    assert!(matches!(
        pools.apply(&less, &[]),
        Err(PoolsError::InUse { .. })
    ));
    assert_eq!(read(&inner, "memory.high"), (500 << 20).to_string());
    assert_eq!(read(&inner, "memory.max"), (1 << 30).to_string());
    fs::write(inner.join("memory.current"), (400 << 20).to_string()).unwrap();
    pools.apply(&less, &[]).unwrap();
    assert_eq!(read(&inner, "memory.max"), (500 << 20).to_string());
}

#[test]
fn a_ring_of_pools_does_not_hang() {
    let mut parts = BTreeMap::from([(pool(1), part(None, None)), (pool(2), part(None, None))]);
    parts.get_mut(&pool(1)).unwrap().parent = Some(pool(2));
    parts.get_mut(&pool(2)).unwrap().parent = Some(pool(1));
    assert_eq!(path_of(&parts, &pool(1)).len(), DEPTH_MAX);
}
