//! A typed client of the native API.
//!
//! What it is not: it retries nothing and caches nothing; a request that may have been carried out is never sent
//! twice.
//!
//! Start at [`Client`]. Requests that answer at once have a time limit ([`ANSWER_TIMEOUT`]); those that wait for
//! something to happen (start, stop, wait, streams) have none of their own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::endpoint::{Endpoint, InvalidEndpoint};
pub use super::streams::{Download, Duplex, FrameReader, FrameWriter, Frames, Lines};
use super::trust::TrustError;
use crate::native::stream::UPGRADE_PROTOCOL;
use crate::native::{Problem, ProblemKind};

/// Longest time for an answer that needs nothing to happen first.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest plain answer, in bytes: a list of 10,000 workloads is about 30 MB.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// A request body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is of no known form.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
    /// No trust could be set up.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Nothing answers there.
    #[error("cannot reach {endpoint}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection to {endpoint} broke")]
    Broken {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{endpoint} did not answer within {seconds} s")]
    Timeout {
        /// Where.
        endpoint: String,
        /// The bound.
        seconds: u64,
    },
    /// The server refused.
    #[error("{}", .0.message)]
    Refused(Box<Problem>),
    /// The answer is not of the API: most often something else listens there.
    #[error("{endpoint} gave an answer that is not of this API: {what}")]
    Unreadable {
        /// Where.
        endpoint: String,
        /// What was wrong with it.
        what: String,
    },
    /// The request cannot be written down.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

/// How long to wait for the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// At most [`ANSWER_TIMEOUT`].
    Short,
    /// Until it comes: something must happen first.
    Long,
}

/// A client of one server; cheap to clone. Each request has a connection of its own.
#[derive(Clone)]
pub struct Client {
    endpoint: Endpoint,
    tls: Option<Arc<rustls::ClientConfig>>,
    token: Option<Arc<str>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.endpoint)
    }
}

impl Client {
    /// A client; `tls` is needed for [`Endpoint::Tls`], `token` where the server asks for one.
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        tls: Option<Arc<rustls::ClientConfig>>,
        token: Option<&str>,
    ) -> Self {
        Self {
            endpoint,
            tls,
            token: token.map(Arc::from),
        }
    }

    /// Where it sends to.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Reads something.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>, Patience::Short)
            .await
    }

    /// Sends a document (or nothing) and reads the answer; an empty answer reads as `()`.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn call<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        patience: Patience,
    ) -> Result<T, ClientError> {
        let response = self.open(method, path, self.json(body)?, patience).await?;
        let read = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect();
        let bytes = read.await.map_err(|source| self.broken(source))?.to_bytes();
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|error| self.unreadable(error.to_string()))
    }

    /// Sends a document (or nothing) and reads lines of JSON as they come.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn lines<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Lines<T>, ClientError> {
        let response = self
            .open(method, path, self.json(body)?, Patience::Long)
            .await?;
        Ok(self.read_lines(response))
    }

    /// Sends bytes as they come and reads lines of JSON.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        bytes: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Lines<T>, ClientError> {
        let body = StreamBody::new(bytes.map(|bytes| Ok(hyper::body::Frame::data(bytes))));
        let body = (Some("application/x-tar"), body.boxed_unsync());
        let response = self.open(Method::POST, path, body, Patience::Long).await?;
        Ok(self.read_lines(response))
    }

    /// Sends a document (or nothing) and reads bytes as they come.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn download<B: Serialize + Sync>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Download, ClientError> {
        let response = self
            .open(method, path, self.json(body)?, Patience::Long)
            .await?;
        Ok(Download::new(
            self.endpoint.to_string(),
            response.into_body(),
        ))
    }

    /// Reads frames as they come.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn frames(&self, path: &str) -> Result<Frames, ClientError> {
        let download = self.download(Method::GET, path, None::<&()>).await?;
        Ok(Frames::new(download))
    }

    /// Opens a stream of frames in both directions.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn upgrade(&self, path: &str) -> Result<Duplex, ClientError> {
        let request = self
            .head(Method::POST, path)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, UPGRADE_PROTOCOL)
            .body(Empty::new().boxed_unsync())
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let response = self.send(request, Patience::Long).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|source| self.broken(source))?;
        Ok(Duplex::new(self.endpoint.to_string(), upgraded))
    }

    fn json<B: Serialize>(
        &self,
        body: Option<&B>,
    ) -> Result<(Option<&'static str>, Body), ClientError> {
        match body {
            None => Ok((None, Empty::new().boxed_unsync())),
            Some(body) => {
                let json = serde_json::to_vec(body)
                    .map_err(|error| ClientError::Request(error.to_string()))?;
                Ok((
                    Some("application/json"),
                    Full::new(Bytes::from(json)).boxed_unsync(),
                ))
            }
        }
    }

    fn head(&self, method: Method, path: &str) -> http::request::Builder {
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.endpoint.authority())
            .header(ACCEPT, "*/*");
        if let Some(token) = &self.token {
            builder = builder.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        builder
    }

    /// Sends and takes the answer's head; an answer of 400 or above is an error.
    async fn open(
        &self,
        method: Method,
        path: &str,
        (kind, body): (Option<&'static str>, Body),
        patience: Patience,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut builder = self.head(method, path);
        if let Some(kind) = kind {
            builder = builder.header(CONTENT_TYPE, kind);
        }
        let request = builder
            .body(body)
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let response = self.send(request, patience).await?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(response).await)
        }
    }

    async fn send(
        &self,
        request: Request<Body>,
        patience: Patience,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self
            .endpoint
            .dial(self.tls.as_ref())
            .await
            .map_err(|source| ClientError::Unreachable {
                endpoint: self.endpoint.to_string(),
                source,
            })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.broken(source))?;
        // Ends by itself when the answer's body is read or dropped.
        tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(request);
        match patience {
            Patience::Long => answer.await.map_err(|source| self.broken(source)),
            Patience::Short => tokio::time::timeout(ANSWER_TIMEOUT, answer)
                .await
                .map_err(|_| ClientError::Timeout {
                    endpoint: self.endpoint.to_string(),
                    seconds: ANSWER_TIMEOUT.as_secs(),
                })?
                .map_err(|source| self.broken(source)),
        }
    }

    async fn refusal(&self, response: Response<Incoming>) -> ClientError {
        let status = response.status();
        let bytes = match Limited::new(response.into_body(), 1 << 20).collect().await {
            Ok(body) => body.to_bytes(),
            Err(source) => return self.broken(source),
        };
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => ClientError::Refused(Box::new(problem)),
            Err(_) => self.unreadable(format!("status {status} without a readable reason")),
        }
    }

    fn read_lines<T>(&self, response: Response<Incoming>) -> Lines<T> {
        Lines::new(Download::new(
            self.endpoint.to_string(),
            response.into_body(),
        ))
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken {
            endpoint: self.endpoint.to_string(),
            source: source.into(),
        }
    }

    fn unreadable(&self, what: String) -> ClientError {
        ClientError::Unreadable {
            endpoint: self.endpoint.to_string(),
            what,
        }
    }
}

impl ClientError {
    /// The class the server gave, if it was the server that refused.
    #[must_use]
    pub fn kind(&self) -> Option<ProblemKind> {
        match self {
            Self::Refused(problem) => Some(problem.kind),
            Self::Endpoint(_)
            | Self::Trust(_)
            | Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Timeout { .. }
            | Self::Unreadable { .. }
            | Self::Request(_) => None,
        }
    }
}

/// A path with its segments escaped, for example `path(&["pools", "a b"])` gives `/api/v1/pools/a%20b`.
#[must_use]
pub fn path(segments: &[&str]) -> String {
    let mut out = String::from(crate::native::BASE_PATH);
    for segment in segments {
        out.push('/');
        escape(&mut out, segment);
    }
    out
}

/// Adds `name=value` to a path, with `?` or `&`.
#[must_use]
pub fn with_query(mut path: String, name: &str, value: &str) -> String {
    path.push(if path.contains('?') { '&' } else { '?' });
    path.push_str(name);
    path.push('=');
    escape(&mut path, value);
    path
}

fn escape(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped() {
        assert_eq!(
            path(&["pools", "a/b?c", "é"]),
            "/api/v1/pools/a%2Fb%3Fc/%C3%A9"
        );
        assert_eq!(
            with_query(with_query("/x".into(), "a", "1&2"), "b", "3"),
            "/x?a=1%262&b=3"
        );
    }
}
