//! Who may do what: every role at every place, for every action, through HTTP.

use http::StatusCode;
use serde_json::{Value, json};

use super::Rig;
use crate::native::table::ROUTES;

const PLACES: [&str; 4] = ["own", "child", "parent", "sibling"];

/// An action on a pool: its name, and a request that needs exactly it and spoils nothing.
type Attempt = (&'static str, &'static str, String, Option<Value>);

fn attempts(pool: &str, unique: &str) -> Vec<Attempt> {
    let at = format!("/api/v1/pools/{pool}");
    let spec = json!({"spec": {"task": {"image": "web:1", "args": ["serve"]}}});
    vec![
        ("PoolRead", "GET", at.clone(), None),
        (
            "PoolCreate",
            "POST",
            "/api/v1/pools".into(),
            Some(json!({"name": unique, "parent": pool})),
        ),
        (
            "PoolUpdate",
            "PATCH",
            at.clone(),
            Some(json!({"description": "x"})),
        ),
        (
            "PoolPolicy",
            "PATCH",
            at.clone(),
            Some(json!({"policy": {"runtimes": ["runc"]}})),
        ),
        (
            "PoolSlice",
            "PATCH",
            at.clone(),
            Some(json!({"slice": {"cpu": {"shares": unique.len()}}})),
        ),
        ("PoolDelete", "DELETE", at.clone(), None),
        ("PoolAccess", "POST", format!("{at}/credentials"), None),
        ("WorkloadRead", "GET", format!("{at}/workloads/w"), None),
        (
            "WorkloadCreate",
            "POST",
            format!("{at}/workloads"),
            Some(spec),
        ),
        (
            "WorkloadControl",
            "POST",
            format!("{at}/workloads/w/resume"),
            None,
        ),
        (
            "WorkloadExec",
            "POST",
            format!("{at}/workloads/w/exec"),
            Some(json!({"args": ["true"]})),
        ),
        (
            "WorkloadDelete",
            "DELETE",
            format!("{at}/workloads/w"),
            None,
        ),
        ("ImageRead", "GET", format!("{at}/images/web:1"), None),
        (
            "ImageImport",
            "POST",
            format!("{at}/images/web:1/tag"),
            Some(json!({"target": "web:2"})),
        ),
        ("ImageDelete", "DELETE", format!("{at}/images/nosuch"), None),
    ]
}

/// What a role bound to the pool `own` may do in that pool and below it.
fn expected(role: &str, action: &str) -> bool {
    match role {
        "pool-admin" => action != "PoolPolicy",
        "developer" => {
            matches!(action, "PoolRead" | "PoolAccess")
                || action.starts_with("Workload")
                || action.starts_with("Image")
        }
        // Credentials are the caller's own: they allow no more than its roles.
        "viewer" => matches!(
            action,
            "PoolRead" | "PoolAccess" | "WorkloadRead" | "ImageRead"
        ),
        _ => false,
    }
}

/// Denied is: not known, not allowed, or a pool that does not exist for this caller.
fn allowed(status: StatusCode, body: &Value) -> bool {
    let message = body["message"].as_str().unwrap_or_default();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => false,
        StatusCode::NOT_FOUND => !message.contains("no such pool"),
        _ => true,
    }
}

async fn rig() -> Rig {
    let rig = Rig::new().await;
    for (name, parent) in [
        ("parent", None),
        ("own", Some("parent")),
        ("child", Some("own")),
        ("sibling", Some("parent")),
    ] {
        let body = json!({"name": name, "parent": parent});
        let (status, body) = rig.admin("POST", "/api/v1/pools", Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        rig.pool(name).await;
        rig.running(name, "w").await;
    }
    rig
}

async fn token(rig: &Rig, name: &str, bindings: Value) -> String {
    let body = json!({"name": name, "bindings": bindings});
    let (status, body) = rig.admin("POST", "/api/v1/principals", Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let path = format!("/api/v1/principals/{name}/tokens");
    let (status, body) = rig
        .admin("POST", &path, Some(json!({"description": "test"})))
        .await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    body["secret"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn roles_reach_their_pool_and_below_and_nothing_else() {
    let rig = rig().await;
    let mut wrong = Vec::new();
    for role in ["pool-admin", "developer", "viewer", "nobody"] {
        let bindings = if role == "nobody" {
            json!([])
        } else {
            json!([{"role": role, "pool": "own"}])
        };
        let token = token(&rig, role, bindings).await;
        for place in PLACES {
            for (action, method, path, body) in attempts(place, &format!("{role}-{place}")) {
                let (status, answer) = rig.remote(Some(&token), method, &path, body).await;
                let given_by_parent = action == "PoolSlice" && place == "own";
                let should =
                    matches!(place, "own" | "child") && expected(role, action) && !given_by_parent;
                if allowed(status, &answer) != should {
                    wrong.push(format!("{role} {action} on {place}: {status} {answer}"));
                }
                if !matches!(place, "own" | "child") && status != StatusCode::NOT_FOUND {
                    wrong.push(format!(
                        "{role} learns from {action} that {place} exists: {status}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn an_admin_of_a_pool_alone_does_not_exist() {
    let rig = rig().await;
    let body = json!({"name": "x", "bindings": [{"role": "admin", "pool": "own"}]});
    let (status, answer) = rig.admin("POST", "/api/v1/principals", Some(body)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
}

#[tokio::test]
async fn the_installation_is_for_its_admins() {
    let rig = rig().await;
    let requests = [
        ("GET", "/api/v1/hosts", None),
        ("GET", "/api/v1/hosts/host-1", None),
        ("GET", "/api/v1/hosts/host-1/drain", None),
        (
            "POST",
            "/api/v1/hosts/host-1/drain",
            Some(json!({"force": true})),
        ),
        (
            "PATCH",
            "/api/v1/hosts/host-1",
            Some(json!({"labels": {"disk": "ssd"}})),
        ),
        ("POST", "/api/v1/hosts/host-1/cordon", None),
        ("POST", "/api/v1/hosts/host-1/uncordon", None),
        ("POST", "/api/v1/join-tokens", None),
        ("GET", "/api/v1/principals", None),
        ("POST", "/api/v1/principals", Some(json!({"name": "x"}))),
        ("GET", "/api/v1/tokens", None),
        ("POST", "/api/v1/pools", Some(json!({"name": "top"}))),
        (
            "PATCH",
            "/api/v1/installation",
            Some(json!({"cpu_overcommit": "2"})),
        ),
        ("GET", "/metrics", None),
    ];
    for role in ["pool-admin", "developer", "viewer"] {
        let token = token(
            &rig,
            &format!("of-own-{role}"),
            json!([{"role": role, "pool": "own"}]),
        )
        .await;
        for (method, path, body) in &requests {
            let (status, answer) = rig.remote(Some(&token), method, path, body.clone()).await;
            assert_eq!(
                status,
                StatusCode::FORBIDDEN,
                "{role} {method} {path}: {answer}"
            );
        }
    }
    let admin = token(&rig, "chief", json!([{"role": "admin"}])).await;
    for (method, path, body) in requests {
        let (status, answer) = rig.remote(Some(&admin), method, path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
    }
}

#[tokio::test]
async fn lists_show_only_what_may_be_seen() {
    let rig = rig().await;
    let token = token(&rig, "dev", json!([{"role": "developer", "pool": "own"}])).await;
    let (_, pools) = rig.remote(Some(&token), "GET", "/api/v1/pools", None).await;
    let names: Vec<&str> = pools["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pool| pool["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["child", "own"]);
    let own = pools["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|pool| pool["name"] == "own")
        .unwrap();
    assert_eq!(
        own["parent"]["name"], "",
        "the name of a pool that may not be seen"
    );
    let (_, all) = rig
        .remote(Some(&token), "GET", "/api/v1/workloads", None)
        .await;
    for workload in all["items"].as_array().unwrap() {
        assert!(["own", "child"].contains(&workload["pool"]["name"].as_str().unwrap()));
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_answered() {
    let rig = rig().await;
    for (method, route) in ROUTES {
        let path = route
            .replace("{pool}", "own")
            .replace("{workload}", "w")
            .replace(['{', '}'], "");
        let (status, body) = rig.remote(None, &method.to_uppercase(), &path, None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {body}");
    }
    let (status, _) = rig.remote(None, "GET", "/healthz", None).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn failed_logins_are_alike_and_limited() {
    let rig = rig().await;
    let good = token(&rig, "alice", json!([{"role": "viewer", "pool": "own"}])).await;
    let (id, _) = good.rsplit_once('.').unwrap();
    let attempts = [
        "nonsense".to_owned(),
        "plmt.0123456789abcdef.0".to_owned(),
        format!("{id}.{}", "0".repeat(64)),
    ];
    let mut answers = Vec::new();
    for attempt in &attempts {
        let (status, mut body) = rig
            .remote(Some(attempt), "GET", "/api/v1/pools", None)
            .await;
        body["request_id"] = Value::Null;
        answers.push((status, body));
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:#?}"
    );
    for _ in 0..20 {
        rig.remote(Some("nonsense"), "GET", "/api/v1/pools", None)
            .await;
    }
    let (status, _) = rig.remote(Some(&good), "GET", "/api/v1/pools", None).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
}
