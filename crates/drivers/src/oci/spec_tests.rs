//! What a workload asks for becomes the OCI document it should.

use std::path::Path;

use model::HostWorkload;
use serde_json::{Value, json};

use super::*;
use crate::oci::devices::Node;

fn workload(change: impl FnOnce(&mut Value)) -> HostWorkload {
    let digest = format!("sha256:{}", "0".repeat(64));
    let pool = model::PoolId::from_bytes(&[1; 32]);
    let mut value = json!({
        "id": model::WorkloadId::from_bytes(&[2; 32]).as_str(),
        "pool": pool.as_str(), "pool_name": "team", "name": "web",
        "spec": {"task": {"image": "web", "image_id": digest, "entrypoint": ["/bin/sh"], "args": ["-c", "true"]}},
        "image": {
            "id": digest, "pool": pool.as_str(),
            "content": {"config": digest, "config_bytes": 1, "layers": []},
            "config": {"platform": {"architecture": "amd64", "os": "linux"}}, "added_at": 0,
        },
        "desired": {"state": "running"}, "run": 1,
    });
    change(&mut value["spec"]);
    serde_json::from_value(value).unwrap()
}

fn lower(workload: &HostWorkload) -> Result<Value, SpecError> {
    let device = |path: &str| {
        (path == "/dev/fuse").then_some(Node {
            kind: 'c',
            major: 10,
            minor: 229,
            mode: 0o666,
        })
    };
    let around = Surroundings {
        cgroup: "/plimsoll/h/p/w".to_owned(),
        etc: Path::new("/data/etc"),
        volumes: Path::new("/data/volumes"),
        pool_volumes: Path::new("/pool"),
        arch: "x86_64",
        kernel: (6, 1),
        open_files_max: 1 << 20,
        device: &device,
    };
    let mut document = task_spec(workload, &around)?;
    // The filter has a test of its own; here only that there is one.
    if let Some(filter) = document.pointer_mut("/linux/seccomp") {
        *filter = json!("…");
    }
    Ok(document)
}

#[test]
fn a_plain_task() {
    insta::assert_json_snapshot!(lower(&workload(|_| {})).unwrap());
}

#[test]
fn a_task_with_everything() {
    let workload = workload(|spec| {
        spec["hostname"] = json!("web.example");
        spec["domainname"] = json!("example");
        let task = &mut spec["task"];
        task["env"] = json!(["A=1", "PATH=/bin", "A=2", "HOSTNAME"]);
        task["tty"] = json!(true);
        task["working_dir"] = json!("/srv");
        task["resources"] = json!({
            "memory_limit": 1 << 30, "memory_reservation": 1 << 29, "memory_swappiness": 10, "cpu_limit_millis": 250,
            "cpu_shares": 512, "cpuset_cpus": "0-1", "pids_limit": 10, "oom_score_adj": 100, "oom_kill_disable": true,
        });
        task["security"] = json!({
            "cap_add": ["net_admin"], "cap_drop": ["CAP_MKNOD", "CHOWN"], "no_new_privileges": true,
            "readonly_rootfs": true, "masked_paths": ["/proc/secret"], "readonly_paths": [],
        });
        task["mounts"] = json!([
            {"target": "/a", "source": {"type": "host-path", "path": "/srv/a", "propagation": "rslave"}, "read_only": true},
            {"target": "/b", "source": {"type": "volume", "name": "data"}},
            {"target": "/c/d", "source": {"type": "volume", "name": ""}},
            {"target": "/run", "source": {"type": "tmpfs", "size_bytes": 1000, "mode": 448, "options": ["exec", "uid=5"]}},
            {"target": "/etc/hosts", "source": {"type": "host-path", "path": "/srv/hosts"}},
        ]);
        task["devices"] =
            json!([{"host_path": "/dev/fuse", "path": "/dev/fuse", "permissions": "rw"}]);
        task["sysctls"] = json!({"net.core.somaxconn": "100"});
        task["ulimits"] = json!([{"name": "nproc", "soft": 10, "hard": -1}]);
        task["shm_bytes"] = json!(1 << 20);
        task["namespaces"] = json!({"host_pid": true});
        spec["network"] = json!({"mode": "host"});
    });
    insta::assert_json_snapshot!(lower(&workload).unwrap());
}

#[test]
fn a_privileged_task() {
    let workload = workload(|spec| spec["task"]["security"]["privileged"] = json!(true));
    insta::assert_json_snapshot!(lower(&workload).unwrap());
}

#[test]
fn nothing_is_smuggled_in() {
    let refuse = |change: Value| {
        lower(&workload(|spec| {
            for (name, value) in change.as_object().unwrap() {
                spec["task"][name] = value.clone();
            }
        }))
        .unwrap_err()
        .to_string()
    };
    let tmpfs = |option: &str| json!({"mounts": [{"target": "/x", "source": {"type": "tmpfs", "options": [option]}}]});
    for option in ["lowerdir=/", "size=10t", "uid=x", "exec,suid", "mode=777"] {
        assert!(refuse(tmpfs(option)).contains("is not allowed"), "{option}");
    }
    for target in ["", "/", "//", "x", "/a/..", "/../a", "/a\0b"] {
        let mount = json!({"mounts": [{"target": target, "source": {"type": "tmpfs"}}]});
        assert!(refuse(mount).contains("absolute path"), "{target:?}");
    }
    assert!(refuse(json!({"args": [], "entrypoint": []})).contains("no command"));
    let notify = r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x.sock", "syscalls": [{"names": ["open"], "action": "SCMP_ACT_NOTIFY"}]}"#;
    let profile = json!({"security": {"seccomp": {"profile": "custom", "json": notify}}});
    assert!(refuse(profile).contains("SCMP_ACT_NOTIFY is not supported"));
}

#[test]
fn more_open_files_than_the_host_allows_are_refused_with_its_limit() {
    let limit = |hard: i64| {
        lower(&workload(|spec| {
            spec["task"]["ulimits"] = json!([{"name": "nofile", "soft": 10, "hard": hard}]);
        }))
    };
    assert!(limit(1 << 20).is_ok());
    let text = limit((1 << 20) + 1).unwrap_err().to_string();
    assert_eq!(
        text,
        "ulimit nofile 1048577 is above 1048576, the most this host allows (its fs.nr_open)"
    );
}

#[test]
fn a_mount_on_a_folder_does_not_hide_the_mounts_below_it() {
    let document = lower(&workload(|spec| {
        spec["task"]["mounts"] = json!([
            {"target": "/data/a/b", "source": {"type": "volume", "name": "b"}},
            {"target": "/etc", "source": {"type": "volume", "name": "etc"}},
            {"target": "/data", "source": {"type": "tmpfs"}},
        ]);
    }))
    .unwrap();
    let targets: Vec<&str> = document["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|mount| mount["destination"].as_str())
        .collect();
    let place = |target: &str| targets.iter().position(|found| *found == target).unwrap();
    assert!(place("/data") < place("/data/a/b"), "{targets:?}");
    assert!(place("/etc") < place("/etc/hosts"), "{targets:?}");
    assert!(place("/dev") < place("/dev/shm"), "{targets:?}");
}

#[test]
fn a_tmpfs_without_size_is_bounded_by_the_memory_limit_or_by_itself() {
    let size = |resources: Value| {
        let document = lower(&workload(|spec| {
            spec["task"]["resources"] = resources;
            spec["task"]["mounts"] = json!([{"target": "/t", "source": {"type": "tmpfs"}}]);
        }))
        .unwrap();
        let mounts = document["mounts"].as_array().unwrap().clone();
        let mount = mounts
            .iter()
            .find(|mount| mount["destination"] == "/t")
            .unwrap();
        let options = mount["options"].as_array().unwrap().clone();
        options.iter().find_map(|option| {
            option
                .as_str()
                .unwrap()
                .strip_prefix("size=")
                .map(str::to_owned)
        })
    };
    assert_eq!(size(json!({})).as_deref(), Some("67108864"));
    assert_eq!(size(json!({"memory_limit": 1 << 30})), None);
}

#[test]
fn the_shim_numbers_the_very_capabilities_that_are_admitted() {
    assert_eq!(shim::capability::CAPABILITIES, capability::ALL);
}

#[test]
fn capabilities_are_added_and_dropped_as_docker_does() {
    let set = |add: Value, drop: Value| {
        let workload =
            workload(|spec| spec["task"]["security"] = json!({"cap_add": add, "cap_drop": drop}));
        capabilities(&workload.spec.task).unwrap().len()
    };
    assert_eq!(set(json!([]), json!([])), 14);
    assert_eq!(set(json!(["ALL"]), json!([])), 41);
    assert_eq!(set(json!([]), json!(["all"])), 0);
    assert_eq!(set(json!(["NET_ADMIN"]), json!(["ALL"])), 1);
    assert_eq!(set(json!(["ALL"]), json!(["SYS_ADMIN", "CAP_BPF"])), 39);
    assert_eq!(set(json!(["CHOWN"]), json!(["CHOWN"])), 13);
}

#[test]
fn the_filter_depends_on_capabilities_and_architecture() {
    let names = |arch: &str, capabilities: &[&str]| -> Vec<String> {
        let capabilities: Vec<String> =
            capabilities.iter().map(|name| (*name).to_owned()).collect();
        let target = Target {
            arch,
            kernel: (6, 1),
            capabilities: &capabilities,
        };
        let filter = seccomp::lower(seccomp::DEFAULT_PROFILE, &target).unwrap();
        let rules = filter["syscalls"].as_array().unwrap().clone();
        rules
            .iter()
            .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
            .flat_map(|rule| rule["names"].as_array().unwrap().clone())
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    };
    let has = |list: &[String], name: &str| list.iter().any(|known| known == name);
    let plain = names("x86_64", &[]);
    for denied in [
        "mount",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "kexec_load",
        "unshare",
        "clone3",
        "userfaultfd",
        "io_uring_setup",
    ] {
        assert!(!has(&plain, denied), "{denied}");
    }
    assert!(
        has(&plain, "arch_prctl")
            && has(&plain, "openat2")
            && has(&plain, "clone")
            && has(&plain, "ptrace")
    );
    let admin = names("x86_64", &["CAP_SYS_ADMIN"]);
    assert!(has(&admin, "mount") && has(&admin, "clone3") && !has(&admin, "reboot"));
    assert!(
        !has(&names("aarch64", &[]), "arch_prctl")
            && has(&names("aarch64", &[]), "sync_file_range2")
    );
}
