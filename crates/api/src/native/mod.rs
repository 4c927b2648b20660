//! The native REST API.

use axum::Router;
use axum::routing::get;
use control::{Caller, Control};

/// Who calls; inserted by a listener that knows.
#[derive(Debug, Clone)]
pub struct Identity(pub Caller);

/// The routes.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .with_state(control)
}
