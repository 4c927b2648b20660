//! Single requests.

use axum::body::{Body, Bytes};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use model::Timestamp;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::host::world;
use crate::docker::routes::{Policy, ROUTES};

async fn send(
    router: &axum::Router,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> (StatusCode, Bytes) {
    let mut request = Request::builder().method(method).uri(path);
    let body = match body {
        None => Body::empty(),
        Some(value) => {
            request = request.header("content-type", "application/json");
            Body::from(value.to_string())
        }
    };
    let response = router
        .clone()
        .oneshot(request.body(body).unwrap())
        .await
        .unwrap();
    let status = response.status();
    (
        status,
        response.into_body().collect().await.unwrap().to_bytes(),
    )
}

async fn json_of(router: &axum::Router, path: &str) -> Value {
    let (status, body) = send(router, "GET", path, None).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body:?}");
    serde_json::from_slice(&body).unwrap()
}

async fn create(router: &axum::Router, name: &str, cmd: &[&str]) -> String {
    let body = json!({ "Image": "busybox", "Cmd": cmd });
    let (status, body) = send(
        router,
        "POST",
        &format!("/containers/create?name={name}"),
        Some(body),
    )
    .await;
    assert_eq!(status, StatusCode::CREATED, "{body:?}");
    let value: Value = serde_json::from_slice(&body).unwrap();
    value["Id"].as_str().unwrap().to_owned()
}

async fn status(router: &axum::Router, method: &str, path: &str) -> u16 {
    send(router, method, path, None).await.0.as_u16()
}

#[tokio::test]
async fn every_route_answers_as_the_table_says() {
    let world = world().await;
    let router = world.router();
    for route in ROUTES {
        if route.pattern == "/events" {
            continue;
        }
        let path = route
            .pattern
            .replace("{*}", "no/such")
            .replace("{}", "nosuch");
        for prefix in ["", "/v1.24", "/v1.51"] {
            let got = status(&router, route.method.as_str(), &format!("{prefix}{path}")).await;
            let good = match route.policy {
                // Served: anything but "no such route" and "not supported"; 404 and 400 are about the missing subject.
                Policy::Served(_) => !matches!(got, 405 | 501) && got < 500,
                Policy::Unsupported(_) => got == 501,
                Policy::Refused(_) => got == 403,
                Policy::NoSwarm => got == 503,
                Policy::NoPlugin => got == 404,
            };
            assert!(good, "{} {prefix}{path}: {got}", route.method);
        }
    }
    for path in [
        "/",
        "/nosuch",
        "/debug/pprof/",
        "/metrics",
        "/v1.51/",
        "/vx/info",
    ] {
        assert_eq!(status(&router, "GET", path).await, 404, "{path}");
    }
    assert_eq!(status(&router, "OPTIONS", "/info").await, 404);
    for path in ["/v9.99/info", "/v0.1/info", "/v01.41/info", "/v1.41.0/info"] {
        assert_eq!(status(&router, "GET", path).await, 400, "{path}");
    }
}

#[tokio::test]
async fn a_ping_says_what_clients_read() {
    let world = world().await;
    for method in [Method::GET, Method::HEAD] {
        let request = Request::builder()
            .method(method)
            .uri("/_ping")
            .body(Body::empty())
            .unwrap();
        let response = world.router().oneshot(request).await.unwrap();
        for (name, value) in [
            ("api-version", "1.51"),
            ("builder-version", "1"),
            ("ostype", "linux"),
            ("docker-experimental", "false"),
            ("cache-control", "no-cache, no-store, must-revalidate"),
        ] {
            assert_eq!(response.headers()[name], value);
        }
    }
}

#[tokio::test]
async fn a_login_is_tried_at_the_registry() {
    let router = world().await.router();
    let login = async |password: &str, address: &str| {
        let body = json!({
            "username": "ann", "password": password, "serveraddress": address, "auth": "",
        });
        let (status, body) = send(&router, "POST", "/auth", Some(body)).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        (status.as_u16(), body)
    };
    let (status, body) = login("secret", "https://registry.example/v2/").await;
    assert_eq!((status, &body["Status"]), (200, &json!("Login Succeeded")));
    for (password, address) in [("guess", "registry.example"), ("secret", "")] {
        let (status, body) = login(password, address).await;
        assert_eq!(status, 401, "{body}");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("authentication required"), "{message}");
    }
    assert_eq!(login("secret", "no registry").await.0, 400);
}

#[tokio::test]
async fn a_container_lives_and_dies() {
    let world = world().await;
    let router = world.router();
    let id = create(&router, "web", &["sleep", "9"]).await;
    let inspect = json_of(&router, "/containers/web/json").await;
    assert_eq!(inspect["State"]["Status"], "created");
    assert_eq!(inspect["Config"]["Cmd"], json!(["sleep", "9"]));
    assert_eq!(status(&router, "POST", "/containers/web/start").await, 204);
    assert_eq!(status(&router, "POST", "/containers/web/start").await, 304);
    assert_eq!(status(&router, "DELETE", "/containers/web").await, 409);
    let list = json_of(&router, "/containers/json").await;
    assert_eq!(
        (&list[0]["Id"], &list[0]["State"]),
        (&json!(id), &json!("running"))
    );
    assert_eq!(status(&router, "POST", "/containers/web/pause").await, 204);
    assert_eq!(
        json_of(&router, "/containers/web/json").await["State"]["Paused"],
        true
    );
    assert_eq!(status(&router, "POST", "/containers/web/pause").await, 409);
    assert_eq!(
        status(&router, "POST", "/containers/web/unpause").await,
        204
    );
    assert_eq!(
        status(&router, "POST", "/containers/web/rename?name=other").await,
        204
    );
    assert_eq!(status(&router, "POST", "/containers/other/stop").await, 204);
    assert_eq!(status(&router, "POST", "/containers/other/stop").await, 304);
    assert_eq!(status(&router, "POST", "/containers/other/kill").await, 409);
    let prefix = &id[..6];
    let inspect = json_of(&router, &format!("/containers/{prefix}/json")).await;
    assert_eq!(inspect["State"]["ExitCode"], 143);
    assert_eq!(json_of(&router, "/containers/json").await, json!([]));
    assert_eq!(status(&router, "DELETE", "/containers/other").await, 204);
    assert_eq!(status(&router, "DELETE", "/containers/other").await, 404);
}

#[tokio::test]
async fn namespaces_of_others_are_found_before_they_are_refused() {
    let world = world().await;
    let router = world.router();
    create(&router, "b1", &["true"]).await;
    for (field, mode, expect) in [
        ("PidMode", "container:nosuch", 400),
        ("IpcMode", "container:nosuch", 400),
        ("NetworkMode", "container:nosuch", 400),
        ("PidMode", "container:b1", 501),
        ("IpcMode", "container:b1", 501),
        ("NetworkMode", "container:b1", 201),
    ] {
        let body = json!({ "Image": "busybox", "Cmd": ["true"], "HostConfig": { field: mode } });
        let (status, body) = send(&router, "POST", "/containers/create", Some(body)).await;
        assert_eq!(status.as_u16(), expect, "{field} {mode}: {body:?}");
        if expect == 400 {
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["message"], "No such container: nosuch");
        }
    }
}

#[tokio::test]
async fn another_pool_sees_nothing() {
    let world = world().await;
    let id = create(&world.router(), "web", &["sleep", "9"]).await;
    let other = world.router_of_other();
    assert_eq!(json_of(&other, "/containers/json?all=1").await, json!([]));
    assert_eq!(json_of(&other, "/images/json").await, json!([]));
    for reference in [id.as_str(), &id[..12], "web", "nosuch"] {
        for (method, path) in [
            ("GET", "/containers/{}/json"),
            ("GET", "/containers/{}/logs?stdout=1"),
            ("GET", "/containers/{}/stats"),
            ("GET", "/containers/{}/top"),
            ("POST", "/containers/{}/attach"),
            ("POST", "/containers/{}/wait"),
            ("POST", "/containers/{}/start"),
            ("POST", "/containers/{}/kill"),
            ("DELETE", "/containers/{}?force=1"),
        ] {
            let (status, body) = send(&other, method, &path.replace("{}", reference), None).await;
            assert_eq!(status, StatusCode::NOT_FOUND);
            let expected = json!({ "message": format!("No such container: {reference}") });
            assert_eq!(
                serde_json::from_slice::<Value>(&body).unwrap(),
                expected,
                "{path}"
            );
        }
    }
    let body =
        json!({ "Image": "busybox", "HostConfig": { "NetworkMode": format!("container:{id}") } });
    let (status, body) = send(&other, "POST", "/containers/create", Some(body)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let expected = json!({ "message": format!("No such container: {id}") });
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
}

#[tokio::test]
async fn filters_of_lists() {
    let world = world().await;
    let router = world.router();
    for (name, cmd) in [("one", &["exit", "3"][..]), ("two", &["sleep", "9"])] {
        create(&router, name, cmd).await;
        assert_eq!(
            status(&router, "POST", &format!("/containers/{name}/start")).await,
            204
        );
    }
    let body = json!({ "Image": "busybox", "Labels": { "tier": "web" }, "ExposedPorts": { "80/tcp": {} } });
    send(&router, "POST", "/containers/create?name=three", Some(body)).await;
    for (filters, names) in [
        (r#"{"status":["exited"]}"#, &["/one"][..]),
        (r#"{"status":{"running":true}}"#, &["/two"]),
        (r#"{"name":["^/t"]}"#, &["/three", "/two"]),
        (r#"{"label":["tier=web"]}"#, &["/three"]),
        (r#"{"label":["tier=db"]}"#, &[]),
        (r#"{"exited":["3"]}"#, &["/one"]),
        (r#"{"expose":["80/tcp"]}"#, &["/three"]),
        (
            r#"{"ancestor":["busybox"],"status":["created"]}"#,
            &["/three"],
        ),
        (r#"{"ancestor":["nosuch"]}"#, &[]),
        (r#"{"network":["bridge"]}"#, &["/one", "/three", "/two"]),
        (r#"{"network":["host"]}"#, &[]),
    ] {
        let query = filters
            .replace('"', "%22")
            .replace('{', "%7B")
            .replace('}', "%7D")
            .replace('^', "%5E");
        let list = json_of(&router, &format!("/containers/json?all=1&filters={query}")).await;
        let mut found: Vec<&str> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["Names"][0].as_str().unwrap())
            .collect();
        found.sort_unstable();
        assert_eq!(found, names, "{filters}");
    }
    for bad in [
        "x",
        "%7B%22zz%22:[%22a%22]%7D",
        "%7B%22status%22:[%22zz%22]%7D",
    ] {
        assert_eq!(
            status(&router, "GET", &format!("/containers/json?filters={bad}")).await,
            400
        );
    }
    assert_eq!(
        status(&router, "GET", "/containers/json?limit=zz").await,
        400
    );
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
async fn bad_bodies_are_refused() {
    let world = world().await;
    let router = world.router();
    let post = async |body: Vec<u8>, kind: &str| {
        let request = Request::post("/containers/create")
            .header("content-type", kind)
            .body(Body::from(body))
            .unwrap();
        router
            .clone()
            .oneshot(request)
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    for body in [
        "",
        "x",
        "[]",
        "null",
        "{}",
        "{\"Image\":5}",
        "{\"Image\":\"busybox\"} x",
    ] {
        assert_eq!(post(body.into(), "application/json").await, 400, "{body}");
    }
    let good = r#"{"Image":"busybox"}"#;
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json;charset=utf-7",
        "",
    ] {
        assert_eq!(post(good.into(), kind).await, 400, "{kind}");
    }
    assert_eq!(
        post(good.into(), "application/json; charset=utf-8").await,
        201
    );
    let padded = |bytes: usize, tail: &str| {
        // No single variable may be longer than the kernel takes.
        let pair = format!("\"A={}\"", "x".repeat(1 << 16));
        let env = vec![pair; bytes >> 16].join(",");
        format!(r#"{{"Image":"busybox","Env":[{env}]{tail}}}"#)
    };
    assert_eq!(
        post(
            padded(1 << 19, &" ".repeat(1 << 20)).into(),
            "application/json"
        )
        .await,
        201
    );
    let privileged = r#","HostConfig":{"Privileged":true}"#;
    assert_eq!(
        post(padded(1 << 20, privileged).into(), "application/json").await,
        403
    );
    assert_eq!(
        post(padded(8 << 20, privileged).into(), "application/json").await,
        413
    );
    assert_eq!(
        post(r#"{"Image":"nosuch"}"#.into(), "application/json").await,
        404
    );
    for name in ["a", ".a", "-a", "a/b", "..", "a%00", "a%0A"] {
        let request = Request::post(format!("/containers/create?name={name}"))
            .header("content-type", "application/json")
            .body(Body::from(good))
            .unwrap();
        assert_eq!(
            router
                .clone()
                .oneshot(request)
                .await
                .unwrap()
                .status()
                .as_u16(),
            400,
            "{name}"
        );
    }
}

#[tokio::test]
async fn logs_are_framed_or_raw_and_typed_by_version() {
    let world = world().await;
    let router = world.router();
    create(&router, "hello", &["echo", "hi"]).await;
    assert_eq!(
        status(&router, "POST", "/containers/hello/start").await,
        204
    );
    for (version, kind) in [
        ("1.41", "application/vnd.docker.raw-stream"),
        ("1.42", "application/vnd.docker.multiplexed-stream"),
    ] {
        let path = format!("/v{version}/containers/hello/logs?stdout=1&follow=1");
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], kind);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], b"\x01\0\0\0\0\0\0\x03hi\n");
    }
    assert_eq!(status(&router, "GET", "/containers/hello/logs").await, 400);
    let (_, body) = send(
        &router,
        "GET",
        "/containers/hello/logs?stdout=1&timestamps=1",
        None,
    )
    .await;
    assert_eq!(&body[8..], b"2023-11-14T22:13:20.000000000Z hi\n");
}

#[tokio::test]
async fn stats_have_two_samples_unless_one_is_asked_for() {
    let world = world().await;
    let router = world.router();
    create(&router, "busy", &["sleep", "9"]).await;
    let idle = json_of(&router, "/containers/busy/stats?stream=0").await;
    assert_eq!(idle["cpu_stats"]["cpu_usage"]["total_usage"], 0);
    status(&router, "POST", "/containers/busy/start").await;
    let two = json_of(&router, "/containers/busy/stats?stream=0").await;
    assert_eq!(two["precpu_stats"]["cpu_usage"]["total_usage"], 500_000_000);
    assert_eq!(two["cpu_stats"]["cpu_usage"]["total_usage"], 1_000_000_000);
    let one = json_of(&router, "/containers/busy/stats?stream=0&one-shot=1").await;
    assert_eq!(one["precpu_stats"]["cpu_usage"]["total_usage"], 0);
    assert_eq!(
        json_of(&router, "/containers/busy/top").await["Titles"],
        json!(["PID", "CMD"])
    );
}

#[tokio::test]
async fn a_wait_begins_before_the_start() {
    let world = world().await;
    let router = world.router();
    create(&router, "short", &["exit", "3"]).await;
    let request = Request::post("/containers/short/wait?condition=next-exit")
        .body(Body::empty())
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        status(&router, "POST", "/containers/short/start").await,
        204
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({ "StatusCode": 3 })
    );
}

#[tokio::test]
async fn images_by_tag_and_id() {
    let world = world().await;
    let router = world.router();
    let list = json_of(&router, "/images/json").await;
    assert_eq!(list[0]["RepoTags"], json!(["busybox:latest"]));
    let id = list[0]["Id"].as_str().unwrap().to_owned();
    assert_eq!(
        json_of(&router, "/images/busybox/json").await["Id"],
        json!(id)
    );
    assert_eq!(
        json_of(&router, "/images/docker.io/library/busybox:latest/json").await["Id"],
        json!(id)
    );
    assert_eq!(
        status(
            &router,
            "POST",
            "/images/busybox/tag?repo=reg.example/a/b&tag=v1"
        )
        .await,
        201
    );
    assert_eq!(
        json_of(&router, "/images/reg.example/a/b:v1/json").await["Id"],
        json!(id)
    );
    for bad in ["../../etc", "Upper", "a//b", ":t"] {
        let path = format!("/images/busybox/tag?repo={bad}");
        assert_eq!(status(&router, "POST", &path).await, 400, "{bad}");
    }
    let (_, body) = send(&router, "DELETE", "/images/reg.example/a/b:v1", None).await;
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!([{ "Untagged": "reg.example/a/b:v1" }])
    );
    assert_eq!(status(&router, "GET", "/images/nosuch/json").await, 404);
    assert_eq!(
        status(
            &router,
            "POST",
            "/images/create?fromImage=nosuch&tag=latest"
        )
        .await,
        404
    );
    let (_, body) = send(&router, "POST", "/images/load", None).await;
    assert!(
        String::from_utf8_lossy(&body).contains("Loaded image: loaded:1"),
        "{body:?}"
    );
    let (_, body) = send(&router, "GET", "/images/get?names=busybox", None).await;
    assert_eq!(&body[..], b"tartartar");
}

#[tokio::test]
async fn held_containers_say_why_without_a_label() {
    use model::workload::{Hold, HoldKind};
    let world = world().await;
    let router = world.router();
    let id = create(&router, "batch", &["sleep", "60"]).await;
    let workload = model::WorkloadId::parse(&id).unwrap();
    let hold = |kind: HoldKind| {
        world.control.test_workload_edit(&workload, move |it| {
            it.hold = Some(Hold {
                kind: kind.clone(),
                reason: "memory of pool red is used up".into(),
                since: Timestamp(0),
                not_before: Timestamp(0),
                grace_seconds: 10,
            });
        })
    };
    let seen = async || -> (Value, Value) {
        let all = json_of(&router, "/containers/json?all=1").await;
        let shown = json_of(&router, &format!("/containers/{id}/json")).await;
        (all[0].clone(), shown["State"].clone())
    };
    hold(HoldKind::Queued).await.unwrap();
    let (listed, state) = seen().await;
    assert_eq!(
        (&listed["State"], &listed["Status"]),
        (&json!("created"), &json!("Created (queued)"))
    );
    assert_eq!(state["Status"], "created");
    assert_eq!(state["Running"], false);
    assert_eq!(state["Error"], "queued: memory of pool red is used up");

    world
        .control
        .test_workload_edit(&workload, |it| it.hold = None)
        .await
        .unwrap();
    assert_eq!(
        status(&router, "POST", &format!("/containers/{id}/start")).await,
        204
    );
    hold(HoldKind::Moving).await.unwrap();
    let (listed, state) = seen().await;
    let text = listed["Status"].as_str().unwrap();
    assert!(
        text.starts_with("Up ") && text.ends_with(" (moving)"),
        "{text}"
    );
    assert_eq!(state["Running"], true);

    hold(HoldKind::Parked).await.unwrap();
    // Its host ends it, and says so.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while world
        .control
        .snapshot()
        .workload(&workload)
        .unwrap()
        .status
        .phase
        .is_alive()
    {
        assert!(std::time::Instant::now() < deadline, "it is not ended");
        // tidy: sleep: pause of a poll loop
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let (listed, state) = seen().await;
    assert_eq!(listed["State"], "exited");
    let text = listed["Status"].as_str().unwrap();
    assert!(
        text.starts_with("Exited (") && text.ends_with(" (parked)"),
        "{text}"
    );
    assert_eq!(state["Error"], "parked: memory of pool red is used up");
}
