//! Errors as answers: the one table from `control`'s classes to the API's.

use axum::Json;
use axum::response::{IntoResponse, Response};
use control::{Error, ErrorKind};
use http::StatusCode;
use wire::native::{Problem, ProblemKind};

use super::access_log::request_id;

/// A failed request.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: ProblemKind,
    message: String,
    hint: Option<String>,
}

/// Result of a handler.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Invalid, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The body of the answer; must be made while the request is served, since it carries its id.
    pub(crate) fn into_problem(self) -> Problem {
        Problem {
            kind: self.kind,
            message: self.message,
            hint: self.hint,
            request_id: request_id(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::NotFound => ProblemKind::NotFound,
            ErrorKind::Conflict => ProblemKind::Conflict,
            ErrorKind::Invalid => ProblemKind::Invalid,
            ErrorKind::Forbidden => ProblemKind::Forbidden,
            ErrorKind::Unauthenticated => ProblemKind::Unauthenticated,
            ErrorKind::Exhausted => ProblemKind::Exhausted,
            ErrorKind::Unavailable => ProblemKind::Unavailable,
            ErrorKind::TooLarge => ProblemKind::TooLarge,
            ErrorKind::Full => ProblemKind::Full,
            ErrorKind::Internal => ProblemKind::Internal,
        };
        if let Some(context) = &error.context {
            tracing::info!(request = request_id(), kind = ?error.kind, %context, "{}", error.message);
        }
        let message = in_own_words(&error.message);
        match advice_at(&message) {
            Some(at) => Self::new(kind, &message[..at]).hint(&message[at + 2..]),
            None => Self::new(kind, message),
        }
    }
}

/// Where the advice begins that `control` puts behind a colon, `what failed and why: what to do`.
fn advice_at(message: &str) -> Option<usize> {
    const VERBS: [&str; 17] = [
        "add", "ask", "choose", "drain", "free", "give", "look", "make", "name", "remove",
        "rename", "see", "start", "stop", "try", "use", "wait",
    ];
    message.match_indices(": ").map(|(at, _)| at).find(|at| {
        let first = message[at + 2..].split(' ').next().unwrap_or_default();
        VERBS.contains(&first)
    })
}

/// `control` speaks to Docker's users where both read the same message; here a container is a workload
/// and its name has no slash.
pub(crate) fn in_own_words(message: &str) -> String {
    message
        .replace("container", "workload")
        .replace("Container", "Workload")
        .replace("workload \"/", "workload \"")
        .replace("name \"/", "name \"")
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let problem = self.into_problem();
        let status = StatusCode::from_u16(problem.kind.status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(problem)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_told_apart() {
        let split = |message: &'static str| {
            advice_at(message).map(|at| (&message[..at], &message[at + 2..]))
        };
        assert_eq!(
            split("bob may not see hosts: ask an administrator"),
            Some(("bob may not see hosts", "ask an administrator"))
        );
        assert_eq!(
            split("mounts.host_path: the policy does not allow it"),
            None
        );
    }

    #[test]
    fn every_class_has_a_valid_status() {
        for kind in ProblemKind::ALL {
            assert!(StatusCode::from_u16(kind.status()).is_ok_and(|status| status.as_u16() >= 400));
        }
    }
}
