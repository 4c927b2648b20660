//! What a hostile or broken client sends: a clear refusal, no panic, nothing left behind.

use e2e::{Cluster, Pool, send, send_late_body};
use serde_json::json;

/// Creates with this body; the answer must be one of `statuses` with a message, and nothing must be left.
#[track_caller]
fn refused(pool: &Pool, body: &str, statuses: &[u16]) -> String {
    let answer = pool.http("POST", "/v1.41/containers/create?name=bad", Some(body));
    assert!(
        statuses.contains(&answer.status),
        "{body:.300}: {} {}",
        answer.status,
        answer.text()
    );
    let message = answer.json()["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        !message.is_empty(),
        "{body:.300}: no message: {}",
        answer.text()
    );
    assert_eq!(
        pool.docker(&["ps", "-aq"]).ok(),
        "",
        "{body:.300}: something is left"
    );
    message
}

#[test]
fn malformed_bodies() {
    let pool = Cluster::shared().pool("json");
    for body in [
        "{",
        "[]",
        "null",
        "\"x\"",
        "{\"Image\":5}",
        "{\"Image\":\"busybox\",\"Cmd\":{}}",
        "{\"Image\":\"busybox\"} x",
        "",
    ] {
        refused(&pool, body, &[400]);
    }
    let deep = format!(
        "{{\"Labels\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    refused(&pool, &deep, &[400]);
    refused(
        &pool,
        "{\"Image\":\"busybox\",\"Env\":[\"A=\\u0000\"]}",
        &[400],
    );
    refused(&pool, "{\"Image\":\"../../etc\"}", &[400, 404]);
}

#[test]
fn fields_that_would_give_the_host_away() {
    let pool = Cluster::shared().pool("policy");
    let cases = [
        json!({ "Privileged": true }),
        json!({ "Binds": ["/:/host"] }),
        json!({ "Binds": ["/proc:/p"] }),
        json!({ "Mounts": [{ "Type": "bind", "Source": "/root", "Target": "/x" }] }),
        json!({ "PidMode": "host" }),
        json!({ "IpcMode": "host" }),
        json!({ "UTSMode": "host" }),
        json!({ "NetworkMode": "host" }),
        json!({ "CgroupnsMode": "host" }),
        json!({ "UsernsMode": "host" }),
        json!({ "CapAdd": ["ALL"] }),
        json!({ "CapAdd": ["SYS_ADMIN"] }),
        json!({ "CapDrop": ["ALL"], "CapAdd": ["SYS_PTRACE"] }),
        json!({ "Devices": [{ "PathOnHost": "/dev/mem", "PathInContainer": "/dev/mem", "CgroupPermissions": "rwm" }] }),
        json!({ "DeviceCgroupRules": ["a *:* rwm"] }),
        json!({ "SecurityOpt": ["seccomp=unconfined"] }),
        json!({ "SecurityOpt": ["systempaths=unconfined"] }),
        json!({ "Sysctls": { "kernel.core_pattern": "|/x" } }),
        json!({ "CgroupParent": "/../../x" }),
        json!({ "CgroupParent": "system.slice" }),
    ];
    for host_config in cases {
        let body = json!({ "Image": "busybox", "HostConfig": host_config }).to_string();
        refused(&pool, &body, &[400, 403]);
    }
}

#[test]
fn numbers_out_of_range() {
    let pool = Cluster::shared().pool("range");
    for host_config in [
        json!({ "Memory": -5 }),
        json!({ "Memory": 1 }),
        json!({ "Memory": 1e30 }),
        json!({ "NanoCpus": -1 }),
        json!({ "PidsLimit": -7 }),
        json!({ "MemorySwappiness": 500 }),
        json!({ "RestartPolicy": { "Name": "sometimes" } }),
        json!({ "OomScoreAdj": 5000 }),
    ] {
        let body = json!({ "Image": "busybox", "HostConfig": host_config }).to_string();
        refused(&pool, &body, &[400, 403]);
    }
    refused(
        &pool,
        "{\"Image\":\"busybox\",\"WorkingDir\":\"relative\"}",
        &[400],
    );
}

#[test]
fn smuggled_keys_are_not_accepted() {
    let pool = Cluster::shared().pool("smuggle");
    for body in [
        "{\"Image\":\"busybox\",\"HostConfig\":{\"Privileged\":false,\"Privileged\":true}}",
        "{\"Image\":\"busybox\",\"HostConfig\":{\"Privileged\":true,\"Privileged\":false}}",
        "{\"Image\":\"busybox\",\"HostConfig\":{},\"HostConfig\":{\"Privileged\":true}}",
        "{\"Image\":\"busybox\",\"hostconfig\":{\"Privileged\":true}}",
        "{\"Image\":\"busybox\",\"HostConfig\":{\"PRIVILEGED\":true}}",
        "{\"Image\":\"busybox\",\"HostConfig\":{\"\\u0050rivileged\":true}}",
    ] {
        refused(&pool, body, &[400, 403]);
    }
}

#[test]
fn huge_bodies_are_cut_off() {
    let pool = Cluster::shared().pool("huge");
    let padding = "x".repeat(20 << 20);
    let body = format!(
        "{{\"Image\":\"busybox\",\"Labels\":{{\"a\":\"{padding}\"}},\"HostConfig\":{{\"Privileged\":true}}}}"
    );
    refused(&pool, &body, &[400, 403, 413]);
}

#[test]
fn unknown_versions_and_routes() {
    let pool = Cluster::shared().empty_pool("routes");
    for version in [
        "v0.1",
        "v1.11",
        "v9.99",
        "v1.99999999999",
        "v01.41",
        "v1.41.0",
        "v1.",
        "v",
    ] {
        let answer = pool.http("GET", &format!("/{version}/containers/json"), None);
        assert!(
            [400, 404].contains(&answer.status),
            "{version}: {}",
            answer.status
        );
    }
    for target in [
        "/",
        "/v1.41/",
        "/v1.41/nothing",
        "/debug/pprof/",
        "/v1.41/../../etc/passwd",
        "/v1.41/containers/%00/json",
        "/v1.41/containers/%2e%2e/json",
    ] {
        let answer = pool.http("GET", target, None);
        assert!(
            (400..500).contains(&answer.status),
            "{target}: {}",
            answer.status
        );
    }
    let answer = pool.http("DELETE", "/v1.41/_ping", None);
    assert!([404, 405].contains(&answer.status), "{}", answer.status);
}

#[test]
fn broken_http() {
    let pool = Cluster::shared().empty_pool("http");
    for bytes in [
        &b"NONSENSE\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"Image\":",
    ] {
        // A closed connection is an answer as well.
        if let Ok(answer) = send(pool.socket(), bytes) {
            assert!(answer.status >= 400, "{:?}: {}", String::from_utf8_lossy(bytes), answer.status);
        }
    }
    let many: String = (0..10_000).map(|i| format!("X-{i}: y\r\n")).collect();
    let request = format!("GET /_ping HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    if let Ok(answer) = send(pool.socket(), request.as_bytes()) {
        assert!(answer.status >= 400, "{}", answer.status);
    }
    assert_eq!(
        pool.http("GET", "/_ping", None).text(),
        "OK",
        "the server does not answer any more"
    );
}

#[test]
fn a_refusal_does_not_break_a_client_that_still_writes() {
    let pool = Cluster::shared().empty_pool("late");
    let body = b"{\"Image\":\"busybox\"}";
    let head = format!(
        "POST /v1.41/containers/create?name=- HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = send_late_body(pool.socket(), head.as_bytes(), body).unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
}

#[test]
fn archives_that_are_none_or_reach_out() {
    let pool = Cluster::shared().empty_pool("archives");
    let image = std::fs::read(e2e::archive("busybox")).unwrap();
    for bytes in [
        Vec::new(),
        b"not a tar".to_vec(),
        vec![0; 1 << 20],
        image[..image.len() / 2].to_vec(),
    ] {
        let length = bytes.len();
        let error = pool.docker(&["load"]).input(bytes).fails();
        assert!(
            !error.is_empty() && !error.contains("panic"),
            "{length} bytes: {error}"
        );
    }
    // A half-sent upload: the client goes away in the middle.
    let head = format!(
        "POST /v1.41/images/load HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        image.len()
    );
    let _ = send(
        pool.socket(),
        &[head.as_bytes(), &image[..image.len() / 3]].concat(),
    );
    assert_eq!(pool.docker(&["images", "-q"]).ok(), "");
    pool.load("busybox");
}

#[test]
fn images_that_are_named_badly() {
    let pool = Cluster::shared().empty_pool("refs");
    for name in [
        "..%2f..%2fetc",
        "UPPER",
        "a%2f%2fb",
        ":tag",
        "%40sha256:zz",
        "a%00b",
    ] {
        let answer = pool.http(
            "POST",
            &format!("/v1.41/images/create?fromImage={name}&tag=x"),
            None,
        );
        assert!(
            [400, 404].contains(&answer.status),
            "{name}: {} {}",
            answer.status,
            answer.text()
        );
    }
}
