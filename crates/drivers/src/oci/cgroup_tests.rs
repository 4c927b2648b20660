//! Mount tables and cgroup files of all kinds are understood.

use model::workload::Resources;

use super::*;
use crate::oci::limits::{cpu_quota, cpu_weight, pids_max};

const V1: &str = "31 24 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n\
    32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
    33 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
    34 31 0:29 /a/b /somewhere/else rw - cgroup cgroup rw,pids\n";
const UNIFIED: &str = "35 31 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

fn fake(version: Version, point: &Path) -> Cgroup {
    let mounts = BTreeMap::from([(String::new(), point.to_owned())]);
    Cgroup {
        version,
        mounts,
        others: Vec::new(),
        path: PathBuf::from("plimsoll/h/p/w"),
    }
}

fn all() -> Resources {
    Resources {
        memory_limit: Some(64 << 20),
        memory_swap: Some(100 << 20),
        memory_reservation: Some(32 << 20),
        cpu_limit_millis: Some(1500),
        cpu_shares: Some(1024),
        cpuset_cpus: Some("0".into()),
        pids_limit: Some(50),
        blkio_weight: Some(500),
        ..Resources::default()
    }
}

#[test]
fn mounts_are_told_apart() {
    let v1 = Cgroups::from_mountinfo(V1, "h").unwrap();
    assert_eq!(v1.version(), Version::V1);
    assert_eq!(
        v1.mounts.keys().map(String::as_str).collect::<Vec<_>>(),
        ["cpu", "cpuacct", "memory"]
    );
    assert_eq!(
        Cgroups::from_mountinfo(&format!("{V1}{UNIFIED}"), "h")
            .unwrap()
            .version(),
        Version::Hybrid
    );
    assert_eq!(
        Cgroups::from_mountinfo(UNIFIED, "h").unwrap().version(),
        Version::V2
    );
    assert!(matches!(
        Cgroups::from_mountinfo("", "h"),
        Err(CgroupError::NotMounted)
    ));
}

#[test]
fn v2_limits_are_written_as_the_kernel_wants_them() {
    let dir = tempfile::tempdir().unwrap();
    let cgroup = fake(Version::V2, dir.path());
    cgroup.create().unwrap();
    let own = dir.path().join("plimsoll/h/p/w");
    for file in ["memory.swap.max", "io.weight"] {
        fs::write(own.join(file), "").unwrap();
    }
    cgroup.limit(&all()).unwrap();
    let read = |file: &str| fs::read_to_string(own.join(file)).unwrap();
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!(read("memory.swap.max"), (36 << 20).to_string());
    assert_eq!(read("memory.low"), (32 << 20).to_string());
    assert_eq!(read("cpu.max"), "150000 100000");
    assert_eq!(read("cpu.weight"), "39");
    assert_eq!(read("cpuset.cpus"), "0");
    assert_eq!(read("pids.max"), "50");
    assert_eq!(read("io.weight"), "default 4950");
    assert_eq!(cgroup.placement().view.len(), 1);
}

#[test]
fn a_real_cgroup_is_made_limited_frozen_killed_and_removed() {
    let host = format!("test-{}", std::process::id());
    let cgroups = Cgroups::detect(&host).unwrap();
    let cgroup = cgroups.pool(&[&PoolId::from_bytes(&[1; 32]), &PoolId::from_bytes(&[2; 32])]);
    cgroup.create().unwrap();
    cgroup.create().unwrap();
    cgroup.limit(&all()).unwrap();
    // Lower and higher again: the order of memory and swap differs.
    for bytes in [16 << 20, 200 << 20] {
        let resources = Resources {
            memory_limit: Some(bytes),
            ..Resources::default()
        };
        cgroup.limit(&resources).unwrap();
    }
    cgroup.allow_devices(&[], false).unwrap();
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    for procs in cgroup.placement().procs {
        fs::write(procs, child.id().to_string()).unwrap();
    }
    assert_eq!(cgroup.processes(), [i32::try_from(child.id()).unwrap()]);
    cgroup.freeze(true).unwrap();
    assert!(cgroup.is_frozen());
    cgroup.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    cgroup.remove().unwrap();
    cgroups.remove_all().unwrap();
    assert!(cgroup.dirs().iter().all(|dir| !dir.exists()));
}

#[test]
fn docker_units_become_kernel_units() {
    let cpu = |millis, quota, period| {
        cpu_quota(&Resources {
            cpu_limit_millis: millis,
            cpu_quota_us: quota,
            cpu_period_us: period,
            ..Resources::default()
        })
    };
    assert_eq!(cpu(Some(1500), None, None), Some((150_000, 100_000)));
    assert_eq!(cpu(Some(1), None, None), Some((1000, 100_000)));
    assert_eq!(
        cpu(None, Some(50_000), Some(25_000)),
        Some((50_000, 25_000))
    );
    assert_eq!(cpu(None, Some(-1), None), Some((-1, 100_000)));
    assert_eq!(cpu(None, None, None), None);
    assert_eq!(
        (cpu_weight(2), cpu_weight(1024), cpu_weight(262_144)),
        (1, 39, 10_000)
    );
    assert_eq!(
        (pids_max(0), pids_max(7)),
        ("max".to_owned(), "7".to_owned())
    );
}
