//! A client of OCI registries, for one repository on behalf of one caller.
//!
//! What it is: manifests and blobs by the distribution specification. What it is not: `oci-client` does the same, but
//! reads answers without bounds, and connects wherever a registry's token realm or redirect points; both are for the
//! registry to choose, and registries are chosen by tenants.
//!
//! What always holds: every answer is read within a bound; addresses are checked after resolution; credentials go
//! to the registry and its token realm only, and to a realm without TLS only if the registry has none either.

mod address;
mod auth;
mod transport;

use async_trait::async_trait;
use http::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE};
use http::{StatusCode, Uri};
use model::{Digest, ImageReference};
use tokio::sync::Mutex;

use agent::driver::Credentials;

use self::address::Reach;
use self::auth::{Challenge, Token, basic, escape};
pub(super) use self::transport::Transport;
use self::transport::{Answer, Ask, failed};
pub use self::transport::{Patience, RegistryOptions};
use super::build::{Chunks, Source};
use super::documents::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use super::error::{ImagesError, quoted};
use super::streams::digest_of;

/// Longest answer of a token service in bytes: tokens are a few KiB.
const TOKEN_MAX: u64 = 1 << 20;
/// Longest error text read in bytes.
const ERROR_MAX: u64 = 64 << 10;

/// A manifest as fetched.
pub(super) struct Fetched {
    pub(super) digest: Digest,
    pub(super) media_type: Option<String>,
    pub(super) bytes: bytes::Bytes,
}

/// A repository of a registry.
pub(super) struct Registry<'t> {
    transport: &'t Transport,
    reference: ImageReference,
    credentials: Option<Credentials>,
    base: String,
    plain: bool,
    reach: Reach,
    /// `Authorization` header the registry was satisfied with.
    authorization: Mutex<Option<String>>,
}

impl<'t> Registry<'t> {
    /// Finds out how to speak to the registry of `reference`.
    pub(super) async fn connect(
        transport: &'t Transport,
        reference: &ImageReference,
        credentials: Option<Credentials>,
    ) -> Result<Self, ImagesError> {
        let host = match reference.registry.as_str() {
            "docker.io" | "index.docker.io" => "registry-1.docker.io",
            other => other,
        };
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let may_be_plain = name == "localhost"
            || name.starts_with("127.")
            || transport.options.insecure.contains(host);
        let mut registry = Self {
            transport,
            reference: reference.clone(),
            credentials,
            base: format!("https://{host}"),
            plain: false,
            reach: Reach::Public,
            authorization: Mutex::new(None),
        };
        let (answer, reach) = match registry.ask("/v2/", &[], None).await {
            Err(error) if may_be_plain && !certificate_problem(&error) => {
                registry.base = format!("http://{host}");
                registry.plain = true;
                registry.ask("/v2/", &[], None).await?
            }
            other => other?,
        };
        registry.reach = reach;
        if answer.status == StatusCode::UNAUTHORIZED {
            let header = registry.authorize(&answer).await?;
            *registry.authorization.lock().await = header;
        }
        Ok(registry)
    }

    /// Asks the registry whether it accepts credentials; one that wants none accepts any.
    pub(super) async fn login(
        transport: &'t Transport,
        registry: &str,
        credentials: Credentials,
    ) -> Result<(), ImagesError> {
        // No repository: only who it is is asked, not what they may.
        let whole = ImageReference {
            registry: registry.to_owned(),
            repository: String::new(),
            tag: None,
            digest: None,
        };
        let registry = Self::connect(transport, &whole, Some(credentials)).await?;
        // A header with a password was not tried yet.
        registry.get("/v2/", &[], "login").await.map(drop)
    }

    /// What was asked for, in messages.
    fn subject(&self) -> String {
        if self.reference.repository.is_empty() {
            self.reference.registry.clone()
        } else {
            self.reference.familiar()
        }
    }

    async fn ask(
        &self,
        path: &str,
        headers: &[(http::HeaderName, String)],
        authorization: Option<&str>,
    ) -> Result<(Answer, Reach), ImagesError> {
        let uri: Uri = format!("{}{path}", self.base).parse().map_err(|_| {
            failed(
                &self.reference.registry,
                "its name is not that of a host",
                false,
            )
        })?;
        let ask = Ask {
            registry: &self.reference.registry,
            headers,
            authorization,
            sent_by: None,
            plain_allowed: self.plain,
        };
        self.transport.get(&uri, ask).await
    }

    /// Asks, and once more with new authorisation if the first one is not (or no longer) good.
    async fn get(
        &self,
        path: &str,
        headers: &[(http::HeaderName, String)],
        what: &str,
    ) -> Result<Answer, ImagesError> {
        let known = self.authorization.lock().await.clone();
        let (mut answer, _) = self.ask(path, headers, known.as_deref()).await?;
        if answer.status == StatusCode::UNAUTHORIZED
            && let Some(fresh) = self.authorize(&answer).await?
        {
            if known.as_deref() != Some(fresh.as_str()) {
                answer = self.ask(path, headers, Some(&fresh)).await?.0;
            }
            *self.authorization.lock().await = Some(fresh);
        }
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(self.refusal(answer, what).await)
    }

    /// Answers a challenge. `None`: the caller gave no credentials and the registry wants some.
    async fn authorize(&self, answer: &Answer) -> Result<Option<String>, ImagesError> {
        let challenge = answer
            .headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|h| Challenge::parse(h.to_str().ok()?))
            // Bearer first: registries that offer both prefer it.
            .max_by_key(|c| matches!(c, Challenge::Bearer { .. }));
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.credentials.as_ref().map(basic)),
            Some(Challenge::Bearer { realm, service }) => {
                self.token(&realm, service.as_deref()).await.map(Some)
            }
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>) -> Result<String, ImagesError> {
        let registry = &self.reference.registry;
        let mut parameters = Vec::new();
        if !self.reference.repository.is_empty() {
            let scope = format!("repository:{}:pull", self.reference.repository);
            parameters.push(format!("scope={}", escape(&scope)));
        }
        if let Some(service) = service {
            parameters.push(format!("service={}", escape(service)));
        }
        let mut address = realm.to_owned();
        for parameter in parameters {
            address.push(if address.contains('?') { '&' } else { '?' });
            address.push_str(&parameter);
        }
        let uri: Uri = address
            .parse()
            .map_err(|_| failed(registry, "its token realm is not an address", false))?;
        let authorization = self.credentials.as_ref().map(basic);
        let ask = Ask {
            registry,
            headers: &[],
            authorization: authorization.as_deref(),
            sent_by: Some(self.reach),
            plain_allowed: self.plain,
        };
        let (answer, _) = self.transport.get(&uri, ask).await?;
        if !answer.status.is_success() {
            return Err(self.refusal(answer, "token").await);
        }
        let text = answer.read(TOKEN_MAX, "the registry's token").await?;
        let token: Token = serde_json::from_slice(&text)
            .map_err(|_| failed(registry, "its token service answers nonsense", false))?;
        let token = token
            .value()
            .ok_or_else(|| failed(registry, "its token service gives no token", false))?;
        Ok(format!("Bearer {token}"))
    }

    /// Turns an answer that is no success into an error with the registry's own words.
    async fn refusal(&self, answer: Answer, what: &str) -> ImagesError {
        let status = answer.status;
        let reference = self.subject();
        let text = answer
            .read(ERROR_MAX, "the registry's error")
            .await
            .unwrap_or_default();
        let words = error_words(&text);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ImagesError::Denied {
                reference,
                reason: words.unwrap_or_else(|| match self.credentials {
                    Some(_) => "the registry does not accept the credentials".to_owned(),
                    None => "the registry wants credentials; log in first".to_owned(),
                }),
            },
            StatusCode::NOT_FOUND if what == "manifest" => {
                ImagesError::ManifestUnknown { reference }
            }
            StatusCode::NOT_FOUND => ImagesError::NotFound {
                what: "blob in the registry",
                subject: what.to_owned(),
            },
            status => {
                let transient = status.is_server_error()
                    || matches!(
                        status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    );
                let reason = match words {
                    Some(words) => format!("answered {status} for {what}: {words}"),
                    None => format!("answered {status} for {what}"),
                };
                failed(&self.reference.registry, &reason, transient)
            }
        }
    }

    /// Fetches the manifest by tag or digest and checks its digest.
    pub(super) async fn manifest(
        &self,
        wanted: &Wanted<'_>,
        max: u64,
    ) -> Result<Fetched, ImagesError> {
        let (name, expected) = match wanted {
            Wanted::Tag(tag) => (*tag, None),
            Wanted::Digest(digest) => (digest.as_str(), Some(*digest)),
        };
        let path = format!("/v2/{}/manifests/{name}", self.reference.repository);
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let answer = self.get(&path, &[(ACCEPT, accept)], "manifest").await?;
        let header = |name: &str| {
            answer
                .headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        };
        let media_type = header(CONTENT_TYPE.as_str());
        let stated = header("docker-content-digest").and_then(|d| Digest::parse(&d).ok());
        let bytes = answer.read(max, "the manifest").await?;
        let digest = digest_of(&bytes);
        for promised in expected.into_iter().chain(stated.as_ref()) {
            if *promised != digest {
                return Err(ImagesError::DigestMismatch {
                    what: format!("the manifest of {}", self.reference.familiar()),
                    expected: promised.clone(),
                    actual: digest,
                });
            }
        }
        Ok(Fetched {
            digest,
            media_type,
            bytes,
        })
    }
}

/// Which manifest.
pub(super) enum Wanted<'a> {
    Tag(&'a str),
    Digest(&'a Digest),
}

#[async_trait]
impl Source for Registry<'_> {
    async fn open(
        &self,
        digest: &Digest,
        bytes: u64,
        offset: u64,
    ) -> Result<(Chunks, u64), ImagesError> {
        let path = format!("/v2/{}/blobs/{digest}", self.reference.repository);
        let mut headers = Vec::new();
        if offset > 0 && offset < bytes {
            headers.push((RANGE, format!("bytes={offset}-")));
        }
        let answer = self.get(&path, &headers, digest.as_str()).await?;
        let from = match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer
                    .headers
                    .get(CONTENT_RANGE)
                    .and_then(|r| r.to_str().ok());
                let start =
                    range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                start.filter(|s| *s <= offset).ok_or_else(|| {
                    failed(
                        &self.reference.registry,
                        "it sent another part of a blob than asked for",
                        false,
                    )
                })?
            }
            _ => 0,
        };
        Ok((answer.chunks(), from))
    }
}

/// TLS was spoken, but the certificate is not trusted: never fall back to plain text then.
fn certificate_problem(error: &ImagesError) -> bool {
    match error {
        ImagesError::Registry { reason, .. } => reason.contains("certificate"),
        _ => true,
    }
}

#[derive(serde::Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorItem>,
}

#[derive(serde::Deserialize)]
struct ErrorItem {
    #[serde(default)]
    message: String,
}

fn error_words(text: &[u8]) -> Option<String> {
    let body: ErrorBody = serde_json::from_slice(text).ok()?;
    body.errors
        .into_iter()
        .find(|e| !e.message.is_empty())
        .map(|e| quoted(e.message.as_bytes()))
}

/// For fuzzing.
pub(super) fn challenge_is_known(text: &str) -> bool {
    Challenge::parse(text).is_some()
}
