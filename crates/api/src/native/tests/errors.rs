//! Bad input: a clear answer, always in the same form.

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::Rig;
use super::schema::assert_documented;

#[expect(clippy::too_many_lines, reason = "a list of requests, one per line")]
#[tokio::test]
async fn every_error_is_a_problem_with_the_requests_id() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    let name = "n".repeat(300);
    for (method, path, body, status, kind) in [
        ("GET", "/api/v1/nothing", None, 404, "not-found"),
        ("PUT", "/api/v1/pools", None, 404, "not-found"),
        ("GET", "/api/v1/pools/nosuch", None, 404, "not-found"),
        ("GET", "/api/v1/pools?wach=true", None, 400, "invalid"),
        ("GET", "/api/v1/pools/%ff", None, 400, "invalid"),
        ("POST", "/api/v1/pools", None, 400, "invalid"),
        (
            "POST",
            "/api/v1/pools",
            Some(json!({"name": "a"})),
            409,
            "conflict",
        ),
        (
            "POST",
            "/api/v1/pools",
            Some(json!({"name": "a/b"})),
            400,
            "invalid",
        ),
        (
            "POST",
            "/api/v1/pools",
            Some(json!({"name": name})),
            400,
            "invalid",
        ),
        (
            "POST",
            "/api/v1/pools",
            Some(json!({"name": "b", "colour": "red"})),
            400,
            "invalid",
        ),
        (
            "POST",
            "/api/v1/pools/a/workloads",
            Some(json!({"spec": {"task": {"image": "nosuch"}}})),
            404,
            "not-found",
        ),
        (
            "POST",
            "/api/v1/pools/a/workloads/nosuch/start",
            None,
            404,
            "not-found",
        ),
        (
            "POST",
            "/api/v1/pools/a/workloads/nosuch/attach",
            None,
            400,
            "invalid",
        ),
        (
            "POST",
            "/api/v1/pools/a/pull",
            Some(json!({"reference": "../../etc"})),
            400,
            "invalid",
        ),
        ("DELETE", "/api/v1/tokens/zzz", None, 404, "not-found"),
    ] {
        let (got, answer) = rig.admin(method, path, body).await;
        assert_eq!(got.as_u16(), status, "{method} {path}: {answer}");
        assert_eq!(answer["kind"], kind, "{method} {path}: {answer}");
        assert!(
            !answer["request_id"].as_str().unwrap().is_empty(),
            "{method} {path}: {answer}"
        );
        assert_documented("get", "/api/v1/pools", status, &answer);
    }
}

#[tokio::test]
async fn unknown_fields_are_named() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    let body = json!({"spec": {"task": {"image": "web:1", "securty": {}}}});
    let (status, answer) = rig
        .admin("POST", "/api/v1/pools/a/workloads", Some(body))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("spec.task.securty"),
        "{answer}"
    );
}

#[tokio::test]
async fn long_bodies_are_refused() {
    let rig = Rig::new().await;
    let body = Body::from(format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20)));
    let request = Request::post("/api/v1/pools").body(body).unwrap();
    let response = rig.raw(request).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(problem["kind"], "too-large");
}

#[tokio::test]
async fn what_the_policy_refuses_is_said_by_name() {
    let rig = Rig::new().await;
    rig.pool("a").await;
    for (field, task) in [
        (
            "privileged",
            json!({"image": "web:1", "security": {"privileged": true}}),
        ),
        (
            "host_path",
            json!({"image": "web:1", "mounts": [{"target": "/x", "source": {"type": "host-path", "path": "/etc"}}]}),
        ),
        ("runc", json!({"image": "web:1", "runtime": "runc"})),
    ] {
        let body = json!({"spec": {"task": task}});
        let (status, answer) = rig
            .admin("POST", "/api/v1/pools/a/workloads", Some(body))
            .await;
        assert!(status.is_client_error(), "{field}: {status} {answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(field),
            "{field}: {answer}"
        );
    }
}
