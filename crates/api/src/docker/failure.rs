//! What goes wrong, in Docker's form: a status and `{"message": …}`.

use axum::response::{IntoResponse, Response};
use http::StatusCode;

/// A refused or failed request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// HTTP status.
    pub status: StatusCode,
    /// For the person at the other end; names the field if one is at fault.
    pub message: String,
}

/// Outcome of handling a request.
pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The request cannot be right.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Nobody may do this through a pool's endpoint.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// Docker can do it, this endpoint cannot (yet).
    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// No such thing in this pool.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The thing is not in a state that allows it.
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Something that should not happen.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Docker's words for an unknown container.
    pub(super) fn no_such_container(reference: &str) -> Self {
        Self::not_found(format!(
            "No such container: {}",
            super::value::shown(reference)
        ))
    }

    /// Docker's words for an unknown image.
    pub(super) fn no_such_image(reference: &str) -> Self {
        Self::not_found(format!("No such image: {}", super::value::shown(reference)))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        super::reply::json(self.status, &serde_json::json!({ "message": self.message }))
    }
}

/// The one table from control's classes to Docker's status codes.
fn status_of(kind: control::ErrorKind) -> StatusCode {
    use control::ErrorKind as K;
    match kind {
        K::NotFound => StatusCode::NOT_FOUND,
        // No room now: a conflict with what is there, as for a port or name that is taken.
        K::Conflict | K::Exhausted => StatusCode::CONFLICT,
        K::Invalid => StatusCode::BAD_REQUEST,
        K::Forbidden => StatusCode::FORBIDDEN,
        K::Unauthenticated => StatusCode::UNAUTHORIZED,
        K::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        K::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        K::Full => StatusCode::INSUFFICIENT_STORAGE,
        K::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<control::Error> for Failure {
    fn from(error: control::Error) -> Self {
        if let Some(context) = &error.context {
            tracing::debug!(kind = ?error.kind, %context, "docker request failed: {}", error.message);
        }
        Self::new(status_of(error.kind), error.message)
    }
}
