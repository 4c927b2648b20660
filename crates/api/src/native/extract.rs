//! What handlers take out of requests; what does not fit is refused by name.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use control::Caller;
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wire::native::ProblemKind;

use super::auth::Identity;
use super::failure::Failure;

/// Who calls.
pub(crate) struct By(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        // Deny by default: a route that was not put behind authentication has no caller.
        match parts.extensions.get::<Identity>() {
            Some(identity) => Ok(Self(identity.0.clone())),
            None => Err(Failure::new(
                ProblemKind::Unauthenticated,
                "no valid access token was shown",
            )),
        }
    }
}

/// Segments of the path.
pub(crate) struct Segments<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(error) => Err(Failure::invalid(format!(
                "the path cannot be read: {error}"
            ))),
        }
    }
}

/// The query string.
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(Failure::invalid(error.body_text())),
        }
    }
}

/// A JSON body. Fields that are not of the type are refused by name, however deep they are.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Serialize + Send> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(unreadable)?;
        parse(&bytes).map(Self)
    }
}

/// A JSON body that may be missing.
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Serialize + Default + Send> FromRequest<S>
    for OptionalBody<T>
{
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(unreadable)?;
        if bytes.is_empty() {
            Ok(Self(T::default()))
        } else {
            parse(&bytes).map(Self)
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function in map_err"
)]
fn unreadable(error: BytesRejection) -> Failure {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Failure::new(ProblemKind::TooLarge, "the body is longer than 1 MiB")
    } else {
        Failure::invalid(format!("the body cannot be read: {}", error.body_text()))
    }
}

fn parse<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, Failure> {
    let given: Value = serde_json::from_slice(bytes)
        .map_err(|error| Failure::invalid(format!("the body is not JSON: {error}")))?;
    let taken: T = T::deserialize(&given)
        .map_err(|error| Failure::invalid(format!("the body does not fit: {error}")))?;
    // What was taken is written down again: a field that is then missing was not understood.
    let written = serde_json::to_value(&taken)
        .map_err(|error| Failure::new(ProblemKind::Internal, error.to_string()))?;
    match unknown(&given, &written, &mut Vec::new()) {
        Some(path) => Err(Failure::invalid(format!("unknown field \"{path}\""))
            .hint("see docs/openapi.json; server and client may be of different versions")),
        None => Ok(taken),
    }
}

/// Path of the first field of `given` that `known` does not have.
fn unknown<'a>(given: &'a Value, known: &Value, path: &mut Vec<&'a str>) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            path.push(key);
            let found = match known.get(key) {
                Some(known) => unknown(value, known, path),
                // A field left out because it is empty says nothing.
                None if value.is_null() => None,
                None => Some(path.join(".")),
            };
            path.pop();
            found
        }),
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .find_map(|(given, known)| unknown(given, known, path)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::native::workload::WorkloadCreate;

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        for (body, field) in [
            (r#"{"spec":{"task":{"image":"a"}},"nmae":"x"}"#, "nmae"),
            (
                r#"{"spec":{"task":{"image":"a","resources":{"memory":1}}}}"#,
                "spec.task.resources.memory",
            ),
            (
                r#"{"spec":{"ports":[{"port":1,"protocol":"tcp","hostport":2}],"task":{"image":"a"}}}"#,
                "spec.ports.hostport",
            ),
            (
                r#"{"spec":{"restart":{"policy":"always","times":3},"task":{"image":"a"}}}"#,
                "spec.restart.times",
            ),
        ] {
            let failure = parse::<WorkloadCreate>(body.as_bytes()).err().unwrap();
            let message = failure.into_problem().message;
            assert!(message.contains(field), "{message}");
        }
        let labels = r#"{"spec":{"labels":{"any":"thing"},"task":{"image":"a"}}}"#;
        assert!(parse::<WorkloadCreate>(labels.as_bytes()).is_ok());
        assert!(parse::<WorkloadCreate>(b"{").is_err());
    }
}
