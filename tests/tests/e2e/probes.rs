//! What a process finds when it tries to get out of its container.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use e2e::{Cluster, Pool};

/// `EPERM` and `ENOSYS`, the answers of the system call filter and of missing capabilities.
const REFUSED: [i32; 2] = [1, 38];

/// A container that waits; its root is `/proc/PID/root`.
fn waiting(pool: &Pool) -> String {
    let run = ["run", "-d", "--name", "pp", "busybox", "sleep", "1000"];
    pool.docker(&run).ok();
    pool.inspect("pp", "{{.State.Pid}}")
}

fn inside(pool: &Pool, script: &str) -> (Option<i32>, String) {
    let done = pool.docker(&["exec", "pp", "sh", "-c", script]).finish();
    (done.code, format!("{}\n{}", done.stdout, done.stderr))
}

#[test]
fn system_calls_that_reach_the_host_are_refused() {
    let pool = Cluster::shared().pool("calls");
    let root = Path::new("/proc").join(waiting(&pool)).join("root");
    let probe = env!("CARGO_BIN_EXE_probe");
    std::fs::create_dir(root.join("probe")).unwrap();
    // The image has no more libraries than busybox needs.
    let linked = Command::new("ldd").arg(probe).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in libraries.chain([probe]) {
        let name = Path::new(file).file_name().unwrap();
        std::fs::copy(file, root.join("probe").join(name)).unwrap();
    }
    let loader = "exec /probe/ld-linux-* --library-path /probe /probe/probe";
    let (code, output) = inside(&pool, loader);
    assert_eq!(code, Some(0), "{output}");
    let results: BTreeMap<&str, i32> = output
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, error)| (name, error.parse().unwrap()))
        .collect();
    assert!(results.len() > 25, "{output}");
    for (name, error) in results {
        if name.starts_with("control-") {
            assert_eq!(error, 0, "{name}");
        } else {
            assert!(REFUSED.contains(&error), "{name}: {error}");
        }
    }
    pool.docker(&["rm", "-f", "pp"]).ok();
}

#[test]
fn files_of_the_kernel_are_hidden_or_cannot_be_written() {
    let pool = Cluster::shared().pool("kernel");
    waiting(&pool);
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let written = [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/irq/default_smp_affinity",
        "/proc/mtrr",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/module/kernel/parameters/panic",
        "/sys/class/net/eth0/mtu",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/devices/devices.allow",
        "/sys/fs/cgroup/pids/pids.max",
    ];
    for file in written {
        // What is not there in this kernel cannot be made either.
        let (code, output) = inside(&pool, &format!("echo 1 >{file}"));
        assert_ne!(code, Some(0), "{file} could be written: {output}");
    }
    let after = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    assert_eq!(after, before);
    let hidden = "cat /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats \
                  /proc/sched_debug 2>/dev/null; find /proc/acpi /proc/scsi /proc/asound /sys/firmware \
                  /sys/devices/virtual/powercap /sys/devices/system/cpu/cpu*/thermal_throttle \
                  -type f 2>/dev/null";
    let (_, output) = inside(&pool, hidden);
    assert_eq!(output.trim(), "");
    pool.docker(&["rm", "-f", "pp"]).ok();
}

#[test]
fn mounts_devices_and_namespaces_of_the_host_are_out_of_reach() {
    let pool = Cluster::shared().pool("reach");
    waiting(&pool);
    for script in [
        "mount -t proc none /mnt",
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /sys",
        "mount -o remount,rw /proc/sys",
        "mount -o bind / /tmp",
        "umount /proc/sys",
        "unshare -m true",
        "unshare -U true",
        "unshare -n true",
        "nsenter -t 1 -m -p true",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk",
        "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
        "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg",
        "mknod /tmp/fuse c 10 229 && : </tmp/fuse",
        "mknod /tmp/tun c 10 200 && : </tmp/tun",
        "ip link set lo down",
        "ip link add x type bridge",
        "ip route add 192.0.2.0/24 dev eth0",
        "hostname evil",
        "dmesg",
        "swapon /etc/passwd",
        "losetup /dev/loop0 /etc/passwd",
        "reboot -f",
        "echo -1000 >/proc/self/oom_score_adj",
    ] {
        let (code, output) = inside(&pool, script);
        assert_ne!(code, Some(0), "{script} succeeded: {output}");
    }
    // Only its own processes, sockets and files.
    let (_, output) = inside(&pool, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    let foreign = ["plimsoll", "etcd", "cargo"];
    assert!(
        output.contains("sleep 1000") && !foreign.iter().any(|word| output.contains(word)),
        "{output}"
    );
    let (_, output) = inside(&pool, "find / -xdev -type s; tail -n +2 /proc/net/unix");
    assert_eq!(output.trim(), "", "sockets are in reach");
    pool.docker(&["rm", "-f", "pp"]).ok();
}

#[test]
fn the_server_tells_a_container_nothing_without_a_token() {
    let cluster = Cluster::shared();
    let pool = cluster.pool("ask");
    waiting(&pool);
    let server = format!("https://{}:7440", cluster.underlay_address());
    for path in [
        "/api/v1/pools",
        "/api/v1/hosts",
        "/metrics",
        "/v1.41/containers/json",
        "/link",
    ] {
        let get = format!("wget --no-check-certificate -qO- {server}{path}");
        let (code, output) = inside(&pool, &get);
        assert_ne!(code, Some(0), "{path} was answered: {output}");
        assert!(!output.contains(&pool.name), "{path}: {output}");
    }
    pool.docker(&["rm", "-f", "pp"]).ok();
}
