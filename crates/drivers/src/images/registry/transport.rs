//! One HTTP request to a registry or to where it sends us.
//!
//! What it is: resolve, check the address, connect, TLS, send, read within bounds. What it is not: no pool of
//! connections; a pull makes a handful of requests, most of them for megabytes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{AUTHORIZATION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, BodyStream, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::{Reach, check};
use crate::images::build::Chunks;
use crate::images::error::ImagesError;

/// How long a registry may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// To resolve its name, to connect, and for TLS, each.
    pub connect: Duration,
    /// Until an answer begins, and between two pieces of a body.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
        }
    }
}

/// Redirects followed for one request: registries need one or two.
const REDIRECTS: usize = 5;

/// System files with trusted roots, the first that exists counts (Debian, Fedora, Alpine, SUSE).
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// PEM files of further trusted roots.
    pub extra_roots: Vec<PathBuf>,
    /// Registries (`host` or `host:port`) that may be spoken to without TLS. Those on loopback always may.
    pub insecure: std::collections::BTreeSet<String>,
    /// How long one may be silent.
    pub patience: Patience,
}

/// Makes requests.
pub(crate) struct Transport {
    pub(super) options: RegistryOptions,
    tls: OnceLock<Arc<rustls::ClientConfig>>,
}

/// An open answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    registry: String,
    /// Longest silence between two pieces of the body.
    stall: Duration,
}

/// What to ask, and on whose behalf.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    /// For messages.
    pub(super) registry: &'a str,
    pub(super) headers: &'a [(http::HeaderName, String)],
    pub(super) authorization: Option<&'a str>,
    /// Where the registry is that sent us there; `None` when it is the registry itself.
    pub(super) sent_by: Option<Reach>,
    /// Whether the request may go without TLS.
    pub(super) plain_allowed: bool,
}

impl Transport {
    pub(crate) fn new(options: RegistryOptions) -> Self {
        Self {
            options,
            tls: OnceLock::new(),
        }
    }

    /// Sends a GET and follows redirects. Also tells where the first answer came from.
    pub(super) async fn get(
        &self,
        uri: &Uri,
        ask: Ask<'_>,
    ) -> Result<(Answer, Reach), ImagesError> {
        let mut uri = uri.clone();
        let mut ask = ask;
        let mut origin = None;
        for _ in 0..REDIRECTS {
            let (answer, reach) = self.get_once(&uri, ask).await?;
            let origin = *origin.get_or_insert(reach);
            let redirect = matches!(
                answer.status,
                StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT
            );
            if !redirect {
                return Ok((answer, origin));
            }
            let next = answer
                .headers
                .get(LOCATION)
                .and_then(|l| l.to_str().ok())
                .and_then(|l| join(&uri, l));
            let next =
                next.ok_or_else(|| failed(ask.registry, "it redirects to nowhere", false))?;
            if next.authority() != uri.authority() || next.scheme() != uri.scheme() {
                // Credentials are for the registry alone.
                ask.authorization = None;
            }
            ask.sent_by = Some(ask.sent_by.unwrap_or(origin));
            uri = next;
        }
        Err(failed(ask.registry, "too many redirects", false))
    }

    async fn get_once(&self, uri: &Uri, ask: Ask<'_>) -> Result<(Answer, Reach), ImagesError> {
        let host = uri
            .host()
            .ok_or_else(|| failed(ask.registry, "an address without host", false))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if ask.plain_allowed => false,
            Some("http") => {
                return Err(ImagesError::ForbiddenAddress {
                    address: host.to_owned(),
                    reason: "a registry with TLS must not send its clients where there is none",
                });
            }
            Some(_) | None => {
                return Err(failed(
                    ask.registry,
                    "an address that is not http or https",
                    false,
                ));
            }
        };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let patience = self.options.patience;
        let (stream, reach) = connect(bare, port, ask, patience.connect).await?;
        let mut request = Request::get(uri.path_and_query().map_or("/", |p| p.as_str()))
            .header(
                HOST,
                uri.authority().map_or(bare, http::uri::Authority::as_str),
            )
            .header(USER_AGENT, concat!("plimsoll/", env!("CARGO_PKG_VERSION")));
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = ask.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|_| failed(ask.registry, "the request has a forbidden character", false))?;
        let response = if tls {
            let name = ServerName::try_from(bare.to_owned())
                .map_err(|_| failed(ask.registry, "an invalid host name", false))?;
            let connector = tokio_rustls::TlsConnector::from(self.tls()?);
            let stream = timeout(patience.connect, connector.connect(name, stream))
                .await
                .map_err(|_| failed(ask.registry, "TLS took too long", true))?
                .map_err(|e| failed(ask.registry, &format!("TLS failed: {e}"), false))?;
            send(stream, request, ask.registry, patience.answer).await?
        } else {
            send(stream, request, ask.registry, patience.answer).await?
        };
        let (parts, body) = response.into_parts();
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body,
            registry: ask.registry.to_owned(),
            stall: patience.answer,
        };
        Ok((answer, reach))
    }

    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, ImagesError> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = rustls::RootCertStore::empty();
        if let Some(bundle) = BUNDLES.iter().find(|b| std::path::Path::new(b).exists())
            && let Ok(certificates) = CertificateDer::pem_file_iter(bundle)
        {
            roots.add_parsable_certificates(certificates.flatten());
        }
        for path in &self.options.extra_roots {
            let bad = |e: String| ImagesError::Document {
                what: format!("certificate file {}", path.display()),
                reason: e,
            };
            for certificate in
                CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?
            {
                let certificate = certificate.map_err(|e| bad(e.to_string()))?;
                roots.add(certificate).map_err(|e| bad(e.to_string()))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| failed("", &e.to_string(), false))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

async fn connect(
    host: &str,
    port: u16,
    ask: Ask<'_>,
    patience: Duration,
) -> Result<(TcpStream, Reach), ImagesError> {
    let resolve = timeout(patience, tokio::net::lookup_host((host, port)));
    let addresses: Vec<SocketAddr> = resolve
        .await
        .map_err(|_| failed(ask.registry, "its name could not be resolved in time", true))?
        .map_err(|e| failed(ask.registry, &format!("cannot resolve {host}: {e}"), true))?
        .take(16)
        .collect();
    let mut last = failed(ask.registry, "its name has no address", false);
    for address in addresses {
        let reach = check(host, address.ip(), ask.sent_by)?;
        match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are one small packet; failing to say so costs only time.
                let _ = stream.set_nodelay(true);
                return Ok((stream, reach));
            }
            Ok(Err(e)) => {
                last = failed(
                    ask.registry,
                    &format!("cannot connect to {address}: {e}"),
                    true,
                )
            }
            Err(_) => {
                last = failed(
                    ask.registry,
                    &format!("cannot connect to {address} in time"),
                    true,
                )
            }
        }
    }
    Err(last)
}

async fn send<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Empty<Bytes>>,
    registry: &str,
    patience: Duration,
) -> Result<Response<Incoming>, ImagesError> {
    let broken = |e: hyper::Error| failed(registry, &format!("the connection broke: {e}"), true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // Ends when the answer's body was read or dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "registry connection ended");
        }
    });
    timeout(patience, sender.send_request(request))
        .await
        .map_err(|_| failed(registry, "no answer in time", true))?
        .map_err(broken)
}

impl Answer {
    /// The whole body, if it is not longer than `max`.
    pub(super) async fn read(self, max: u64, what: &str) -> Result<Bytes, ImagesError> {
        let too_large = || ImagesError::TooLarge {
            what: what.to_owned(),
            limit: format!("{max} bytes"),
        };
        let mut chunks = self.chunks();
        let mut all = Vec::new();
        while let Some(chunk) = chunks.next().await {
            all.extend_from_slice(&chunk?);
            if all.len() as u64 > max {
                return Err(too_large());
            }
        }
        Ok(all.into())
    }

    /// The body as it comes; a stalled or broken connection is a transient error.
    pub(super) fn chunks(self) -> Chunks {
        let (registry, stall) = (self.registry, self.stall);
        let body = Box::pin(BodyStream::new(self.body.map_err(std::io::Error::other)));
        futures::stream::unfold(Some(body), move |body| {
            let registry = registry.clone();
            async move {
                let mut body = body?;
                loop {
                    return match timeout(stall, body.next()).await {
                        Ok(None) => None,
                        Ok(Some(Ok(frame))) => match frame.into_data() {
                            Ok(data) => Some((Ok(data), Some(body))),
                            Err(_) => continue,
                        },
                        Ok(Some(Err(e))) => Some((
                            Err(failed(
                                &registry,
                                &format!("the connection broke: {e}"),
                                true,
                            )),
                            None,
                        )),
                        Err(_) => Some((Err(failed(&registry, "it stopped sending", true)), None)),
                    };
                }
            }
        })
        .boxed()
    }
}

pub(super) fn failed(registry: &str, reason: &str, transient: bool) -> ImagesError {
    ImagesError::Registry {
        registry: registry.to_owned(),
        reason: reason.to_owned(),
        transient,
    }
}

/// Resolves a `Location`, which may be relative to the server's root.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let uri: Uri = location.parse().ok()?;
    if uri.scheme().is_some() && uri.authority().is_some() {
        return Some(uri);
    }
    let path = location.strip_prefix('/').map(|rest| format!("/{rest}"))?;
    Uri::builder()
        .scheme(base.scheme()?.clone())
        .authority(base.authority()?.clone())
        .path_and_query(path)
        .build()
        .ok()
}
