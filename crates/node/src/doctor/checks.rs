//! The checks, one function each.

use std::path::Path;
use std::time::SystemTime;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;

use super::probes::{self, attempt, attempt_in};
use super::{Check, Level};

/// All of them, in the order in which they are best mended.
pub(super) fn all(data: &Path) -> Vec<Check> {
    let mut checks = vec![
        root(),
        kernel(),
        cgroup(),
        overlay(),
        namespaces(),
        seccomp(),
        openat2(),
        nftables(),
        links(),
        vxlan(),
        forward_policy(),
        forwarding(),
        disk(data),
        open_files(),
        clock(),
        kvm(),
        engines(),
    ];
    checks.extend(programs());
    checks
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check {
        name,
        level: Level::Ok,
        found: found.into(),
        meaning: String::new(),
        mend: String::new(),
    }
}

fn bad(
    level: Level,
    name: &'static str,
    found: impl Into<String>,
    meaning: impl Into<String>,
    mend: impl Into<String>,
) -> Check {
    Check {
        name,
        level,
        found: found.into(),
        meaning: meaning.into(),
        mend: mend.into(),
    }
}

fn root() -> Check {
    if nix::unistd::geteuid().is_root() {
        return ok("root", "running as root");
    }
    bad(
        Level::Fail,
        "root",
        "not running as root",
        "a host makes namespaces, mounts and cgroups, which needs root; several checks below fail for the same reason",
        "sudo plimsoll doctor",
    )
}

fn kernel() -> Check {
    let release = probes::kernel_release();
    let upgrade = "apt-get install -t bookworm-backports linux-image-amd64 && reboot";
    match probes::kernel_version(&release) {
        // openat2(2) came with 5.6, pidfd_open(2) with 5.3, clone3(2) into a cgroup with 5.7.
        (0..=4, _) | (5, 0..=6) => bad(
            Level::Fail,
            "kernel",
            release,
            "older than 5.7: safe path resolution and race-free process handles are missing",
            upgrade,
        ),
        (5, 7..=9) => bad(
            Level::Warn,
            "kernel",
            release,
            "older than 5.10: nothing older is tested",
            upgrade,
        ),
        _ => ok("kernel", release),
    }
}

fn cgroup() -> Check {
    let cgroups = probes::cgroups();
    let found = format!("{} ({})", cgroups.version, cgroups.controllers.join(" "));
    let missing: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|wanted| !cgroups.controllers.iter().any(|name| name == wanted))
        .collect();
    if !missing.is_empty() {
        return bad(
            Level::Fail,
            "cgroup",
            found,
            format!(
                "controllers are missing: {}; limits cannot be kept",
                missing.join(" ")
            ),
            "boot with cgroup_enable=memory systemd.unified_cgroup_hierarchy=1 (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub && reboot)",
        );
    }
    if cgroups.version == "v2" {
        return ok("cgroup", found);
    }
    bad(
        Level::Warn,
        "cgroup",
        found,
        "works, but starting a task waits about 10 ms longer than with v2, and killing one is less exact",
        "boot with systemd.unified_cgroup_hierarchy=1 (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub && reboot)",
    )
}

fn overlay() -> Check {
    let script = "d=$(mktemp -d); trap 'umount -l $d 2>/dev/null; rmdir $d' EXIT
        mount -t tmpfs none $d; mkdir $d/l $d/u $d/w $d/m
        mount -t overlay none -o lowerdir=$d/l,upperdir=$d/u,workdir=$d/w $d/m; umount $d/m";
    match attempt_in(&["--mount"], script) {
        Ok(_) => ok("overlayfs", "can be mounted"),
        Err(error) => bad(
            Level::Fail,
            "overlayfs",
            error,
            "root file systems of tasks cannot be put together",
            "modprobe overlay && echo overlay > /etc/modules-load.d/overlay.conf",
        ),
    }
}

fn namespaces() -> Check {
    let flags = ["--mount", "--net", "--pid", "--ipc", "--uts", "--fork"];
    match attempt_in(&flags, "true") {
        Ok(_) => ok("namespaces", "mount, network, process, IPC and host name"),
        Err(error) => bad(
            Level::Fail,
            "namespaces",
            error,
            "tasks cannot be kept apart",
            "use Debian's own kernel: apt-get install linux-image-amd64 && reboot",
        ),
    }
}

fn seccomp() -> Check {
    let path = "/proc/sys/kernel/seccomp/actions_avail";
    let actions = std::fs::read_to_string(path).unwrap_or_default();
    if actions
        .split_ascii_whitespace()
        .any(|action| action == "errno")
    {
        return ok("seccomp", actions.trim());
    }
    bad(
        Level::Fail,
        "seccomp",
        "no filters",
        "system calls of tasks cannot be filtered",
        "use Debian's own kernel: apt-get install linux-image-amd64 && reboot",
    )
}

fn openat2() -> Check {
    use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag};
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    match nix::fcntl::openat2(AT_FDCWD, "/", how) {
        Ok(_) => ok("openat2", "paths can be resolved inside a root"),
        Err(errno) => bad(
            Level::Fail,
            "openat2",
            errno.to_string(),
            "paths inside root file systems of tasks cannot be resolved safely",
            "allow openat2(2): a seccomp filter of this machine's own container or an old kernel forbids it",
        ),
    }
}

fn nftables() -> Check {
    if probes::program("nft").is_none() {
        return bad(
            Level::Fail,
            "nftables",
            "nft is missing",
            "workloads have no network",
            "apt-get install nftables",
        );
    }
    let rules = drivers::network::trial_rules();
    match attempt("unshare", &["--net", "nft", "-f", "-"], &rules) {
        Ok(_) => ok("nftables", "all rules of the network driver are accepted"),
        Err(error) => bad(
            Level::Fail,
            "nftables",
            error,
            "the kernel refuses rules that the network of workloads is made of",
            "modprobe -a nf_tables nft_chain_nat nft_fib_inet nft_masq nf_tables_bridge (Debian's own kernel has them all)",
        ),
    }
}

fn links() -> Check {
    let script = "ip link add b0 type bridge; ip link add v0 type veth peer name v1; ip link set v0 master b0";
    match attempt_in(&["--net"], script) {
        Ok(_) => ok("veth and bridge", "can be made"),
        Err(error) => bad(
            Level::Fail,
            "veth and bridge",
            error,
            "workloads cannot be connected",
            "apt-get install iproute2; modprobe -a veth bridge",
        ),
    }
}

fn vxlan() -> Check {
    match attempt_in(&["--net"], "ip link add x0 type vxlan id 7 dstport 4789") {
        Ok(_) => ok("VXLAN", "can be made"),
        Err(error) => bad(
            Level::Warn,
            "VXLAN",
            error,
            "networks over several hosts will not work here",
            "modprobe vxlan",
        ),
    }
}

/// Base chains that drop what is forwarded, other than ours.
fn forward_policy() -> Check {
    let name = "forward policy";
    let Ok(text) = attempt("nft", &["-j", "list", "chains"], "") else {
        return bad(
            Level::Warn,
            name,
            "cannot be read",
            "another program's firewall may drop what workloads send",
            "nft list ruleset",
        );
    };
    let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let entries = document["nftables"].as_array().cloned().unwrap_or_default();
    let dropping: Vec<String> = entries
        .iter()
        .map(|entry| &entry["chain"])
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop")
        .filter_map(|chain| {
            let (family, table) = (chain["family"].as_str()?, chain["table"].as_str()?);
            Some(format!("{family} {table} {}", chain["name"].as_str()?))
        })
        .collect();
    let Some(first) = dropping.first() else {
        return ok(name, "nobody drops forwarded packets by default");
    };
    let mend = match first.as_str() {
        "ip filter FORWARD" => {
            "iptables -I FORWARD -i plimsoll0 -j ACCEPT; iptables -I FORWARD -o plimsoll0 -j ACCEPT"
                .to_owned()
        }
        chain => format!(
            "nft insert rule {chain} iifname plimsoll0 accept; nft insert rule {chain} oifname plimsoll0 accept"
        ),
    };
    bad(
        Level::Warn,
        name,
        format!("DROP in {}", dropping.join(", ")),
        "another program (dockerd, ufw, firewalld) drops forwarded packets: workloads reach nothing outside of their host",
        mend,
    )
}

fn forwarding() -> Check {
    let path = "/proc/sys/net/ipv4/ip_forward";
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim() == "1" => ok("ip_forward", "on"),
        Ok(_) => ok("ip_forward", "off; an agent switches it on"),
        Err(error) => bad(
            Level::Fail,
            "ip_forward",
            format!("{path}: {error}"),
            "workloads reach nothing outside of their host",
            "mount -t proc proc /proc",
        ),
    }
}

fn disk(data: &Path) -> Check {
    const GIB: u64 = 1 << 30;
    let name = "disk";
    let existing = data
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let Ok(stat) = statvfs(existing) else {
        return bad(
            Level::Warn,
            name,
            format!("{} cannot be looked at", existing.display()),
            "it is unknown whether images fit",
            format!("ls -ld {}", existing.display()),
        );
    };
    let free = stat.blocks_available() * stat.fragment_size();
    let found = format!("{} GiB free in {}", free / GIB, existing.display());
    let mend = format!(
        "free space there, or use another folder with --data (now {})",
        data.display()
    );
    match free / GIB {
        0 => bad(
            Level::Fail,
            name,
            found,
            "images and logs have no room",
            mend,
        ),
        1..=9 => bad(Level::Warn, name, found, "a few large images fill it", mend),
        _ => ok(name, found),
    }
}

fn open_files() -> Check {
    /// A host with 1,000 tasks has about ten open files for each.
    const WANTED: u64 = 16_384;
    let name = "open files";
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return bad(
            Level::Warn,
            name,
            "unknown",
            "many tasks may fail",
            "ulimit -n",
        );
    };
    if hard >= WANTED {
        return ok(name, format!("up to {hard}"));
    }
    bad(
        Level::Warn,
        name,
        format!("up to {hard}"),
        format!(
            "fewer than {WANTED}: about {} tasks fit on this host",
            hard / 16
        ),
        "LimitNOFILE=1048576 in the service's unit, or `ulimit -Hn 1048576` before the start",
    )
}

fn clock() -> Check {
    /// When this was written (2025): a clock before it is wrong.
    const WRITTEN_SECONDS: u64 = 1_735_689_600;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    let install = "apt-get install systemd-timesyncd";
    if seconds < WRITTEN_SECONDS {
        return bad(
            Level::Fail,
            "clock",
            "before 2025",
            "certificates are not valid yet: hosts cannot join",
            install,
        );
    }
    let keepers = ["systemd-timesyn", "chronyd", "ntpd", "openntpd"];
    if probes::running()
        .iter()
        .any(|name| keepers.contains(&name.as_str()))
    {
        return ok("clock", "kept right by a time service");
    }
    bad(
        Level::Warn,
        "clock",
        "plausible, but no time service runs",
        "it will drift; times in logs and events then disagree between hosts",
        install,
    )
}

fn kvm() -> Check {
    if Path::new("/dev/kvm").exists() {
        return ok("KVM", "/dev/kvm is there");
    }
    bad(
        Level::Warn,
        "KVM",
        "no /dev/kvm",
        "virtual machines will be emulated, many times slower; containers do not need it",
        "modprobe kvm_intel || modprobe kvm_amd (and allow virtualisation in the firmware, or nested virtualisation)",
    )
}

fn engines() -> Check {
    let known = [
        "dockerd",
        "containerd",
        "podman",
        "crio",
        "kubelet",
        "k3s-server",
        "lxd",
        "incusd",
    ];
    let running = probes::running();
    let mut here: Vec<&str> = known
        .into_iter()
        .filter(|name| running.iter().any(|other| other == name))
        .collect();
    here.dedup();
    if here.is_empty() {
        return ok("other engines", "none runs");
    }
    bad(
        Level::Warn,
        "other engines",
        here.join(", "),
        "their containers take CPU and memory that pools count as free, and their firewall rules may get in the way",
        format!(
            "systemctl disable --now {} (if nothing else needs them)",
            here.join(" ")
        ),
    )
}

/// Programs: whether hosts need them, name, Debian package, what is missing without them.
const PROGRAMS: [(&str, Level, &str, &str); 5] = [
    (
        "nsenter",
        Level::Warn,
        "util-linux",
        "`plimsoll dev` does not work",
    ),
    (
        "ip",
        Level::Warn,
        "iproute2",
        "`plimsoll dev` does not work",
    ),
    (
        "runc",
        Level::Warn,
        "runc",
        "`--runtime runc` does not work; the built-in runtime does",
    ),
    (
        "etcd",
        Level::Warn,
        "etcd-server",
        "several servers with one store need it; one server does not",
    ),
    (
        "docker",
        Level::Warn,
        "docker.io",
        "the docker client; any other client of Docker's API does as well",
    ),
];

fn programs() -> Vec<Check> {
    let check =
        |(name, level, package, without): (&'static str, Level, &str, &str)| match probes::program(
            name,
        ) {
            Some(path) => ok(name, path.display().to_string()),
            None => bad(
                level,
                name,
                "missing",
                without,
                format!("apt-get install {package}"),
            ),
        };
    PROGRAMS.into_iter().map(check).collect()
}
