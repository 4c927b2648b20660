//! Ids of requests, and one line per request in the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;

tokio::task_local! {
    static REQUEST_ID: String;
}

/// Id of the request that is being served; empty outside of one.
pub(crate) fn request_id() -> String {
    REQUEST_ID
        .try_with(String::clone)
        .unwrap_or_else(|_| String::new())
}

fn next_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // The start of this server and a counter: unique in its log, and nothing to guess from.
    static START: std::sync::LazyLock<i64> = std::sync::LazyLock::new(|| control::now().millis());
    format!("{:x}-{:x}", *START, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Gives the request an id and logs how it was answered. Query strings and bodies are not logged: they may carry
/// secrets.
pub(crate) async fn record(request: Request, next: Next) -> Response {
    let id = next_id();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "-".to_owned(), |path| path.as_str().to_owned());
    let began = Instant::now();
    let mut response = REQUEST_ID.scope(id.clone(), next.run(request)).await;
    let caller = response
        .extensions_mut()
        .remove::<super::auth::Identity>()
        .map_or_else(|| "-".to_owned(), |identity| identity.0.name);
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::info!(
        target: "access",
        request = id,
        %method,
        route,
        caller,
        status = response.status().as_u16(),
        micros,
        "request"
    );
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}
