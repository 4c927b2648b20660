//! What admission refuses, and what a policy allows.

use std::collections::BTreeSet;

use super::*;

fn spec(patch: serde_json::Value) -> WorkloadSpec {
    let mut base = serde_json::json!({
        "task": {"image": "web", "image_id": format!("sha256:{}", "a".repeat(64)), "args": ["true"]}
    });
    merge(&mut base, patch);
    serde_json::from_value(base).unwrap()
}

fn merge(base: &mut serde_json::Value, patch: serde_json::Value) {
    match (base, patch) {
        (serde_json::Value::Object(base), serde_json::Value::Object(patch)) => {
            for (key, value) in patch {
                merge(base.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (base, patch) => *base = patch,
    }
}

/// `expect`: empty = admitted, else `field` with `!` in front if no policy could allow it.
fn check(patch: serde_json::Value, policy: &PoolPolicy, expect: &str) {
    let got = match admit(&spec(patch.clone()), policy) {
        Ok(()) => String::new(),
        Err(refusal) => format!("{}{}", if refusal.policy { "" } else { "!" }, refusal.field),
    };
    assert_eq!(got, expect, "{patch}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn nothing_dangerous_without_a_policy() {
    let none = PoolPolicy::default();
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    for (patch, expect) in [
        (r#"{}"#, ""),
        (r#"{"task":{"security":{"privileged":true}}}"#, "privileged"),
        (
            r#"{"task":{"security":{"cap_add":["CAP_SYS_ADMIN"]}}}"#,
            "cap_add",
        ),
        (r#"{"task":{"security":{"cap_add":["ALL"]}}}"#, "cap_add"),
        (
            r#"{"task":{"security":{"cap_add":["CAP_NO_SUCH"]}}}"#,
            "!capabilities",
        ),
        (
            r#"{"task":{"security":{"cap_drop":["ALL"],"cap_add":["CAP_NET_BIND_SERVICE"]}}}"#,
            "",
        ),
        (
            r#"{"task":{"security":{"seccomp":{"profile":"unconfined"}}}}"#,
            "seccomp",
        ),
        (
            r#"{"task":{"security":{"masked_paths":[]}}}"#,
            "masked_paths",
        ),
        (r#"{"task":{"runtime":"/bin/sh"}}"#, "runtime"),
        (r#"{"network":{"mode":"host"}}"#, "network"),
        (
            r#"{"task":{"namespaces":{"host_pid":true}}}"#,
            "namespaces.pid",
        ),
        (
            r#"{"task":{"mounts":[{"target":"/h","source":{"type":"host-path","path":"/"}}]}}"#,
            "mounts.host_path",
        ),
        (
            r#"{"task":{"mounts":[{"target":"/h","source":{"type":"host-path","path":"/a/../b"}}]}}"#,
            "!mounts.host_path",
        ),
        (
            r#"{"task":{"mounts":[{"target":"/","source":{"type":"tmpfs"}}]}}"#,
            "!mounts.target",
        ),
        (
            r#"{"task":{"mounts":[{"target":"/t","source":{"type":"tmpfs","options":["lowerdir=/"]}}]}}"#,
            "!mounts.tmpfs",
        ),
        (
            r#"{"task":{"mounts":[{"target":"/t","source":{"type":"volume","name":"../x"}}]}}"#,
            "!mounts.volume",
        ),
        (
            r#"{"task":{"devices":[{"host_path":"/dev/mem","path":"/dev/mem","permissions":"rwm"}]}}"#,
            "devices",
        ),
        (
            r#"{"task":{"sysctls":{"kernel.core_pattern":"|/x"}}}"#,
            "sysctls",
        ),
        (
            r#"{"task":{"sysctls":{"net.ipv4.tcp_syncookies":"1"}}}"#,
            "",
        ),
        (r#"{"task":{"resources":{"memory_limit":1}}}"#, "!memory"),
        (r#"{"task":{"resources":{"pids_limit":-7}}}"#, "!pids_limit"),
        (r#"{"hostname":"a b!"}"#, "!hostname"),
        (
            r#"{"dns":{"options":["ndots:1\nnameserver 1.2.3.4"]}}"#,
            "!dns.options",
        ),
    ] {
        check(json(patch), &none, expect);
    }
}

#[test]
fn a_policy_allows_what_it_names_and_nothing_beside_it() {
    let policy = PoolPolicy {
        host_paths: BTreeSet::from(["/srv/data".to_owned()]),
        capabilities: BTreeSet::from(["CAP_NET_ADMIN".to_owned()]),
        ..PoolPolicy::default()
    };
    let mount = |path: &str| serde_json::json!({"task":{"mounts":[{"target":"/h","source":{"type":"host-path","path":path}}]}});
    check(mount("/srv/data"), &policy, "");
    check(mount("/srv/data/a"), &policy, "");
    check(mount("/srv/database"), &policy, "mounts.host_path");
    check(mount("/srv"), &policy, "mounts.host_path");
    check(mount("/srv/data//x"), &policy, "!mounts.host_path");
    check(
        serde_json::json!({"task":{"security":{"cap_add":["CAP_NET_ADMIN"]}}}),
        &policy,
        "",
    );
    check(
        serde_json::json!({"task":{"security":{"cap_add":["CAP_SYS_ADMIN"]}}}),
        &policy,
        "cap_add",
    );
}

#[test]
fn what_no_host_can_do_is_refused_before_it_is_stored() {
    let policy = PoolPolicy {
        host_paths: BTreeSet::from(["/srv".to_owned(), "/sys".to_owned()]),
        ..PoolPolicy::default()
    };
    let resources = |name: &str, value: serde_json::Value| serde_json::json!({"task":{"resources":{name:value}}});
    for (name, value, expect) in [
        ("cpuset_cpus", "0-1,3".into(), ""),
        ("cpuset_cpus", "99".into(), ""),
        ("cpuset_cpus", "0-".into(), "!cpuset_cpus"),
        ("cpuset_cpus", "3-1".into(), "!cpuset_cpus"),
        ("cpuset_cpus", "-".into(), "!cpuset_cpus"),
        ("cpuset_cpus", ",,".into(), "!cpuset_cpus"),
        ("cpuset_cpus", "99999".into(), "!cpuset_cpus"),
        ("cpuset_mems", "0,x".into(), "!cpuset_mems"),
        ("oom_score_adj", (-1000).into(), ""),
        ("oom_score_adj", 1000.into(), ""),
        ("oom_score_adj", 1001.into(), "!oom_score_adj"),
        ("oom_score_adj", (-1001).into(), "!oom_score_adj"),
        ("pids_limit", (-1).into(), ""),
        ("pids_limit", 0.into(), ""),
        ("pids_limit", 1.into(), "!pids_limit"),
        ("pids_limit", 3.into(), "!pids_limit"),
        ("pids_limit", 4.into(), ""),
        ("pids_limit", (1_i64 << 40).into(), "!pids_limit"),
        ("cpu_shares", 1.into(), "!cpu_shares"),
        ("cpu_shares", 262_144.into(), ""),
        ("cpu_shares", 262_145.into(), "!cpu_shares"),
        ("cpu_limit_millis", 9.into(), "!cpus"),
        ("cpu_limit_millis", 10.into(), ""),
        ("cpu_limit_millis", u64::MAX.into(), "!cpus"),
        ("cpu_quota_us", i64::MAX.into(), "!cpu_quota"),
        ("cpu_quota_us", (-2).into(), "!cpu_quota"),
    ] {
        check(resources(name, value), &policy, expect);
    }
    for (user, expect) in [
        ("0:0", ""),
        ("0:0:0", "!user"),
        ("a\nb", "!user"),
        ("4294967296", "!user"),
        ("web", ""),
    ] {
        check(serde_json::json!({"task":{"user":user}}), &policy, expect);
    }
    check(
        serde_json::json!({"task":{"groups":["audio","a:b"]}}),
        &policy,
        "!groups",
    );
    for (name, soft, hard, expect) in [
        ("nofile", 1024_i64, 2048_i64, ""),
        ("nofile", 1024, 1 << 31, "!ulimits"),
        ("nofile", -1, -1, "!ulimits"),
        ("core", -1, -1, ""),
        ("core", -2, -2, "!ulimits"),
        ("core", 2, 1, "!ulimits"),
    ] {
        let limit = serde_json::json!({"task":{"ulimits":[{"name":name,"soft":soft,"hard":hard}]}});
        check(limit, &policy, expect);
    }
    let long = "x".repeat(128 << 10);
    check(
        serde_json::json!({"task":{"args":[long]}}),
        &policy,
        "!args",
    );
}

#[test]
fn mounts_leave_the_kernels_own_file_systems_alone() {
    let policy = PoolPolicy {
        host_paths: BTreeSet::from(["/srv".to_owned(), "/sys".to_owned()]),
        ..PoolPolicy::default()
    };
    let tmpfs = serde_json::json!({"type":"tmpfs"});
    let host = serde_json::json!({"type":"host-path","path":"/srv/x"});
    for (target, source, expect) in [
        ("/dev", &tmpfs, "!mounts.target"),
        ("/dev/", &tmpfs, "!mounts.target"),
        ("/dev/pts", &tmpfs, "!mounts.target"),
        ("/dev/shm", &tmpfs, ""),
        ("/dev/x", &tmpfs, ""),
        ("/devices", &tmpfs, ""),
        ("/proc", &tmpfs, "!mounts.target"),
        ("/proc/x", &tmpfs, "!mounts.target"),
        ("/proc", &host, "!mounts.target"),
        ("/proc/meminfo", &host, ""),
        ("/sys", &tmpfs, "!mounts.target"),
        ("/sys/fs/cgroup", &tmpfs, "!mounts.target"),
        ("/sys/fs/cgroup", &host, ""),
        ("/dev", &host, ""),
        ("/a//b", &tmpfs, "!mounts.target"),
    ] {
        check(
            serde_json::json!({"task":{"mounts":[{"target":target,"source":source}]}}),
            &policy,
            expect,
        );
    }
}

#[test]
fn memory_file_systems_are_bounded_by_a_memory_limit_or_by_size() {
    let policy = PoolPolicy::default();
    let task = |shm: u64, tmpfs: serde_json::Value, limit: Option<u64>| {
        serde_json::json!({"task":{
            "shm_bytes": shm,
            "resources": {"memory_limit": limit},
            "mounts": [{"target":"/t","source":{"type":"tmpfs","size_bytes":tmpfs}}],
        }})
    };
    let none = serde_json::Value::Null;
    check(task(1 << 20, none.clone(), None), &policy, "");
    check(task(512 << 20, (512 << 20).into(), None), &policy, "");
    check(
        task(512 << 20, (513 << 20).into(), None),
        &policy,
        "!shm_size",
    );
    check(task(1 << 30, none.clone(), None), &policy, "!shm_size");
    check(
        task(1 << 40, (1_u64 << 40).into(), Some(64 << 20)),
        &policy,
        "",
    );
    check(
        task(u64::MAX, none.clone(), Some(64 << 20)),
        &policy,
        "!shm_size",
    );
    check(task(0, none, None), &policy, "!shm_size");
    check(task(1 << 20, 0.into(), None), &policy, "!mounts.tmpfs");
}

#[test]
fn gpus_and_rules_are_bounded() {
    let gpus = |gpus: serde_json::Value| serde_json::json!({"task": {"gpus": gpus}});
    let policy = PoolPolicy::default();
    for (request, expect) in [
        (serde_json::json!({"count": 2, "millis": 500}), ""),
        (serde_json::json!({"count": 0}), "!gpus"),
        (serde_json::json!({"count": 1, "millis": 1001}), "!gpus"),
        (serde_json::json!({"count": 2, "devices": ["0"]}), "!gpus"),
    ] {
        check(gpus(request), &policy, expect);
    }
    let rule = serde_json::json!({"attribute": {"of": "zone"}, "values": ["a"]});
    let rules = serde_json::json!({"placement": {"hosts": vec![rule; 33]}});
    check(rules, &policy, "!placement");
}
