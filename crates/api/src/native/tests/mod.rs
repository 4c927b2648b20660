//! Tests of the API through HTTP, over a control with a memory store and scripted hosts.

mod document;
mod errors;
mod lifecycle;
mod roles;
mod schema;

use axum::body::Body;
use axum::{Extension, Router};
use control::testing::TestHost;
use control::{Caller, Control};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{Identity, NativeConfig, router};

/// An installation with one host and the router of its API.
pub(crate) struct Rig {
    pub(crate) control: Control,
    remote: Router,
    local: Router,
    _host: TestHost,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let control = Control::for_tests().await.unwrap();
        let host = control.test_host("host-1").await.unwrap();
        let config = NativeConfig {
            pool_sockets: Some("/run/pools".into()),
        };
        let remote = router(control.clone(), config);
        let local = remote
            .clone()
            .layer(Extension(Identity(Caller::local_admin())));
        Self {
            control,
            remote,
            local,
            _host: host,
        }
    }

    /// A pool with an image `web:1`.
    pub(crate) async fn pool(&self, name: &str) {
        let pool = self.control.test_pool(name).await.unwrap();
        self.control.test_image(&pool, "web:1").await.unwrap();
    }

    /// A running workload.
    pub(crate) async fn running(&self, pool: &str, name: &str) -> Value {
        let spec = json!({"name": name, "spec": {"task": {"image": "web:1", "args": ["serve"]}}});
        let path = format!("/api/v1/pools/{pool}/workloads");
        let (status, made) = self.admin("POST", &path, Some(spec)).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        let (status, _) = self
            .admin("POST", &format!("{path}/{name}/start"), None)
            .await;
        assert_eq!(status, StatusCode::OK);
        made
    }

    pub(crate) async fn admin(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        send(self.local.clone(), method, path, None, body).await
    }

    pub(crate) async fn remote(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        send(self.remote.clone(), method, path, token, body).await
    }

    pub(crate) async fn raw(&self, request: Request<Body>) -> http::Response<Body> {
        self.local.clone().oneshot(request).await.unwrap()
    }
}

async fn send(
    router: Router,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response = router.oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}
