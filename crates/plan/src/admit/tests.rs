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
