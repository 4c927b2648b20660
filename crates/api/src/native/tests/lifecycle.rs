//! Every kind of answer once, compared with the document; and the streams that need no connection of their own.

use axum::body::Body;
use bytes::BytesMut;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use wire::link::{Frame, FrameKind};

use super::Rig;
use super::schema::assert_documented;

#[expect(clippy::too_many_lines, reason = "a list of requests, one per line")]
#[tokio::test]
async fn answers_are_as_documented() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    rig.running("a", "w").await;
    let pool = "/api/v1/pools/{pool}";
    let workload = "/api/v1/pools/{pool}/workloads/{workload}";
    let image = "/api/v1/pools/{pool}/images/{image}";
    let principal = "/api/v1/principals/{principal}";
    let steps: Vec<(&str, String, Option<Value>)> = vec![
        ("get", "/api/v1/version".into(), None),
        ("get", "/api/v1/info".into(), None),
        ("get", "/api/v1/whoami".into(), None),
        ("get", "/api/v1/pools".into(), None),
        (
            "post",
            "/api/v1/pools".into(),
            Some(json!({"name": "b", "parent": "a", "labels": {"k": "v"}})),
        ),
        ("get", pool.into(), None),
        ("patch", pool.into(), Some(json!({"description": "text"}))),
        ("post", format!("{pool}/credentials"), None),
        ("get", "/api/v1/hosts".into(), None),
        ("get", "/api/v1/hosts/{host}".into(), None),
        ("post", "/api/v1/hosts/{host}/cordon".into(), None),
        ("post", "/api/v1/hosts/{host}/uncordon".into(), None),
        (
            "patch",
            "/api/v1/hosts/{host}".into(),
            Some(
                json!({"labels": {"disk": "ssd"}, "labels_removed": ["rack"], "cpu_overcommit_percent": 150}),
            ),
        ),
        ("get", "/api/v1/hosts/{host}/drain".into(), None),
        (
            "post",
            "/api/v1/hosts/{host}/drain".into(),
            Some(json!({"stop_rest": true, "force": true})),
        ),
        ("get", "/api/v1/hosts/{host}/drain".into(), None),
        ("get", "/api/v1/hosts/{host}".into(), None),
        ("post", "/api/v1/hosts/{host}/uncordon".into(), None),
        ("get", "/api/v1/installation".into(), None),
        (
            "patch",
            "/api/v1/installation".into(),
            Some(json!({"host_loss_seconds": 20})),
        ),
        (
            "post",
            "/api/v1/join-tokens".into(),
            Some(json!({"ttl_seconds": 60})),
        ),
        ("get", "/api/v1/workloads".into(), None),
        ("get", format!("{pool}/workloads"), None),
        ("get", workload.into(), None),
        ("get", format!("{workload}/explain"), None),
        (
            "patch",
            workload.into(),
            Some(json!({"restart": {"policy": "on-failure", "max_retries": 3}})),
        ),
        (
            "post",
            format!("{workload}/start"),
            Some(json!({"queue": true})),
        ),
        ("get", format!("{workload}/top"), None),
        (
            "post",
            format!("{workload}/exec"),
            Some(json!({"args": ["true"]})),
        ),
        (
            "post",
            format!("{workload}/stop"),
            Some(json!({"grace_seconds": 1})),
        ),
        ("post", format!("{workload}/wait"), None),
        ("get", format!("{pool}/images"), None),
        ("get", image.into(), None),
        (
            "post",
            format!("{image}/tag"),
            Some(json!({"target": "web:2"})),
        ),
        (
            "post",
            "/api/v1/principals".into(),
            Some(json!({"name": "alice", "bindings": [{"role": "viewer", "pool": "a"}]})),
        ),
        ("get", "/api/v1/principals".into(), None),
        ("get", principal.into(), None),
        (
            "put",
            format!("{principal}/bindings"),
            Some(json!({"bindings": [{"role": "developer", "pool": "a"}]})),
        ),
        (
            "post",
            format!("{principal}/tokens"),
            Some(json!({"description": "ci", "ttl_seconds": 60})),
        ),
        ("get", "/api/v1/tokens".into(), None),
        ("delete", principal.into(), None),
        (
            "post",
            format!("{workload}/rename"),
            Some(json!({"name": "w"})),
        ),
        ("delete", workload.into(), None),
        ("delete", image.into(), None),
    ];
    for (method, route, body) in steps {
        let path = route
            .replace("{pool}", "a")
            .replace("{workload}", "w")
            .replace("{host}", "host-1")
            .replace("{image}", "web:1")
            .replace("{principal}", "alice");
        let (status, answer) = rig.admin(&method.to_uppercase(), &path, body).await;
        // Renaming to the same name is the one step that is refused.
        assert!(
            status.is_success() || path.ends_with("/rename"),
            "{method} {path}: {status} {answer}"
        );
        assert_documented(method, &route, status.as_u16(), &answer);
    }
}

async fn lines(rig: &Rig, method: &str, path: &str, body: Option<Value>) -> Vec<Value> {
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .unwrap();
    let response = rig.raw(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[tokio::test]
async fn pulls_report_progress_and_end() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    let pull = "/api/v1/pools/a/pull";
    let events = lines(
        &rig,
        "POST",
        pull,
        Some(json!({"reference": "registry.example/new:1"})),
    )
    .await;
    for event in &events {
        assert_documented("post", "/api/v1/pools/{pool}/pull", 200, event);
    }
    let last = events.last().unwrap();
    assert_eq!(last["type"], "done", "{events:#?}");
    assert_eq!(last["images"][0]["tags"][0], "registry.example/new:1");
    let missing = json!({"reference": "registry.example/missing:1"});
    let (status, answer) = rig.admin("POST", pull, Some(missing)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
}

#[tokio::test]
async fn output_comes_as_frames() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    let spec = json!({"name": "hello", "spec": {"task": {"image": "web:1", "entrypoint": [], "args": ["echo", "hi"]}}});
    rig.admin("POST", "/api/v1/pools/a/workloads", Some(spec))
        .await;
    let (status, answer) = rig
        .admin("POST", "/api/v1/pools/a/workloads/hello/start", None)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, outcome) = rig
        .admin("POST", "/api/v1/pools/a/workloads/hello/wait", None)
        .await;
    assert_eq!(outcome["exit_code"], 0);
    let request = Request::get("/api/v1/pools/a/workloads/hello/logs")
        .body(Body::empty())
        .unwrap();
    let response = rig.raw(request).await;
    assert_eq!(
        response.headers()["content-type"],
        "application/vnd.plimsoll.frames"
    );
    let mut buffer = BytesMut::from(&response.into_body().collect().await.unwrap().to_bytes()[..]);
    let mut output = Vec::new();
    let mut last = None;
    while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
        if frame.kind == FrameKind::Stdout {
            output.extend_from_slice(&frame.payload);
        }
        last = Some(frame.kind);
    }
    assert_eq!(
        (output.as_slice(), last),
        (&b"hi\n"[..], Some(FrameKind::End))
    );
}

#[tokio::test]
async fn watches_say_what_is_and_what_changes() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    let request = Request::get("/api/v1/pools?watch=true")
        .body(Body::empty())
        .unwrap();
    let mut body = rig.raw(request).await.into_body();
    let mut next = async || -> Value {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        serde_json::from_slice(&frame).unwrap()
    };
    let first = next().await;
    assert_eq!(
        (&first["type"], &first["value"]["name"]),
        (&json!("added"), &json!("a"))
    );
    assert_eq!(next().await["type"], "synced");
    rig.pool("b").await;
    let added = next().await;
    assert_eq!(
        (&added["type"], &added["value"]["name"]),
        (&json!("added"), &json!("b"))
    );
}

#[tokio::test]
async fn events_of_the_past_end() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    rig.running("a", "w").await;
    let events = lines(&rig, "GET", "/api/v1/events?follow=false&pool=a", None).await;
    let actions: Vec<&str> = events
        .iter()
        .map(|event| event["action"].as_str().unwrap())
        .collect();
    assert!(
        actions.contains(&"create") && actions.contains(&"start"),
        "{actions:?}"
    );
    for event in &events {
        assert_documented("get", "/api/v1/events", 200, event);
    }
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    rig.running("a", "w").await;
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = rig.raw(request).await;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(
        text.contains("plimsoll_pool_workloads_running{pool=\"a\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("plimsoll_host_connected{host=\"host-1\"} 1\n"),
        "{text}"
    );
    let (_, images) = rig.admin("GET", "/api/v1/pools/a/images", None).await;
    assert_eq!(images["items"][0]["hosts"], 1, "{images}");
    assert!(
        text.contains("plimsoll_images_lacking_copies 0\n"),
        "{text}"
    );
    for (gauge, value) in [
        ("in_maintenance", 0),
        ("lost", 0),
        ("requested_cpu_millis", 10),
    ] {
        let line = format!("plimsoll_host_{gauge}{{host=\"host-1\"}} {value}\n");
        assert!(text.contains(&line), "no {line}: {text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[tokio::test]
async fn what_becomes_of_a_workload_without_its_host_is_kept_and_checked() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    let list = "/api/v1/pools/a/workloads";
    let spec = |loss: &str| {
        json!({"name": "db", "spec": {"on_host_loss": loss, "priority": 7,
            "task": {"image": "web:1", "args": ["serve"]}}})
    };
    let (status, answer) = rig.admin("POST", list, Some(spec("sometimes"))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("spec.on_host_loss") && message.contains("at-most-one"),
        "{message}"
    );
    let (status, made) = rig.admin("POST", list, Some(spec("at-most-one"))).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_documented("post", "/api/v1/pools/{pool}/workloads", 201, &made);
    assert_eq!(made["spec"]["on_host_loss"], "at-most-one");
    assert_eq!(made["spec"]["priority"], 7);
}

#[tokio::test]
async fn hosts_are_labelled_emptied_and_taken_into_use_again() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    rig.running("a", "w").await;
    let host = "/api/v1/hosts/host-1";
    let change = json!({"labels": {"disk": "ssd", "rack": "4"}, "memory_overcommit_percent": 50});
    let (status, changed) = rig.admin("PATCH", host, Some(change)).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!(changed["labels"], json!({"disk": "ssd", "rack": "4"}));
    let (room, capacity, reserve) = (
        changed["room"]["memory_bytes"].as_u64().unwrap(),
        changed["capacity"]["memory_bytes"].as_u64().unwrap(),
        changed["reserve"]["memory_bytes"].as_u64().unwrap(),
    );
    assert_eq!(room, (capacity - reserve) / 2);
    assert_eq!(changed["requested"]["memory_bytes"], 16 << 20);
    let (_, changed) = rig
        .admin("PATCH", host, Some(json!({"labels_removed": ["rack"]})))
        .await;
    assert_eq!(changed["labels"], json!({"disk": "ssd"}));
    assert_eq!(changed["overcommit"]["memory_percent"], 50);
    for (bad, why) in [
        (json!({"labels": {"a b": "x"}}), "cannot be a key"),
        (json!({"cpu_overcommit_percent": 3}), "from 10 %"),
        (json!({"zone": "b"}), "zone"),
    ] {
        let (status, answer) = rig.admin("PATCH", host, Some(bad)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(why), "{message}");
    }

    let drain = format!("{host}/drain");
    let (status, refused) = rig.admin("POST", &drain, None).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    assert!(
        refused["hint"]
            .as_str()
            .unwrap()
            .starts_with("add or uncordon"),
        "{refused}"
    );
    let (status, _) = rig
        .admin("POST", &drain, Some(json!({"force": true})))
        .await;
    assert_eq!(status, StatusCode::OK);
    let (_, outlook) = rig.admin("GET", &drain, None).await;
    assert_eq!(outlook["state"], "draining");
    assert_eq!(outlook["workloads"][0]["workload"]["name"], "w");
    assert_eq!(outlook["workloads"][0]["fate"], "stays");
    let (_, outlook) = rig
        .admin("GET", &format!("{drain}?stop_rest=true"), None)
        .await;
    assert_eq!(outlook["workloads"][0]["fate"], "stops");
    rig.admin("DELETE", "/api/v1/pools/a/workloads/w?force=true", None)
        .await;
    let (_, shown) = rig.admin("GET", host, None).await;
    assert_eq!(shown["state"], "drained", "{shown}");
    let (_, shown) = rig.admin("POST", &format!("{host}/uncordon"), None).await;
    assert_eq!(shown["state"], "ready");
    assert!(shown["drain"].is_null());
}

#[tokio::test]
async fn the_time_until_a_host_is_lost_is_set() {
    let rig = Rig::new().await;
    let path = "/api/v1/installation";
    let (_, before) = rig.admin("GET", path, None).await;
    assert_eq!(before["host_loss_seconds"], 10);
    let (status, after) = rig
        .admin("PATCH", path, Some(json!({"host_loss_seconds": 45})))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(after["host_loss_seconds"], 45);
    assert_eq!(after["cpu_overcommit"], before["cpu_overcommit"]);
    let (status, refused) = rig
        .admin("PATCH", path, Some(json!({"host_loss_seconds": 1})))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
}
