//! Who this host is: joining an installation, keeping the key, renewing the certificate.
//!
//! What always holds: the private key never leaves the host and is readable by its owner only; the join secret is sent
//! only to a server whose chain ends in the CA that the token names; identity files are replaced at once or not at all.

mod files;
mod renew;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::HostId;
use serde::{Deserialize, Serialize};
use wire::client::http2;
use wire::link::{Identity, JoinRequest, JoinTokenText, MalformedJoinToken};

pub use files::IdentityFolder;
pub(crate) use renew::{Credentials, renew_when_due};

/// Longest wait for an answer to join and renew requests: the server writes its store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer: two certificates.
const ANSWER_MAX_BYTES: usize = 256 << 10;

/// Why joining, loading or renewing an identity failed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The token is not one.
    #[error(transparent)]
    Token(#[from] MalformedJoinToken),
    /// A file cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file is damaged.
    #[error("{} is not a readable identity: remove it and join again", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A key or request could not be made.
    #[error("cannot make a key and certificate request")]
    Request(#[source] rcgen::Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] crate::tls::TlsError),
    /// No server could be reached.
    #[error("cannot connect to the server")]
    Connect(#[from] http2::ConnectError),
    /// The exchange broke.
    #[error("no answer from the server")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server refused.
    #[error("the server refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's reason.
        message: String,
    },
    /// The server's answer makes no sense.
    #[error("the server's answer is not an identity: {0}")]
    Answer(String),
    /// No server was named.
    #[error("no server address was given")]
    NoServer,
}

/// An identity with its key, as kept on the host.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credential {
    /// What the server gave.
    pub identity: Identity,
    /// The private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({})", self.identity.host)
    }
}

/// What a host says of itself when it joins.
#[derive(Debug, Clone, Default)]
pub struct JoinOptions {
    /// Name it would like.
    pub name: String,
    /// Failure domain.
    pub zone: String,
    /// Free key-value pairs.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// A new key and a request to certify it.
fn key_and_request(common_name: &str) -> Result<(String, String), IdentityError> {
    let key = rcgen::KeyPair::generate().map_err(IdentityError::Request)?;
    let mut params = rcgen::CertificateParams::new(Vec::new()).map_err(IdentityError::Request)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, common_name);
    let request = params
        .serialize_request(&key)
        .and_then(|r| r.pem())
        .map_err(IdentityError::Request)?;
    Ok((key.serialize_pem(), request))
}

/// Joins an installation: the first of `servers` that can be reached answers. Writes the identity into the folder.
///
/// # Errors
/// When the token is malformed, no server can be reached, its CA is not the token's, or it refuses.
pub async fn join(
    folder: &IdentityFolder,
    servers: &[String],
    token: &str,
    options: &JoinOptions,
) -> Result<HostId, IdentityError> {
    let parsed = JoinTokenText::parse(token)?;
    let tls = crate::tls::joining(&parsed.ca_sha256)?;
    let (key_pem, csr_pem) = key_and_request(&options.name)?;
    let request = JoinRequest {
        token: parsed.to_string(),
        name: options.name.clone(),
        zone: options.zone.clone(),
        labels: options.labels.clone(),
        csr_pem,
    };
    let mut last = IdentityError::NoServer;
    for server in servers {
        let connection = match http2::connect(server, tls.clone()).await {
            Ok(connection) => connection,
            Err(e) => {
                last = e.into();
                continue;
            }
        };
        let mut sender = connection.sender.clone();
        let identity = ask(&mut sender, server, "join", &request).await?;
        let ca = ca_sha256(&identity)?;
        if ca != parsed.ca_sha256 {
            return Err(IdentityError::Answer(
                "another CA than the token's".to_owned(),
            ));
        }
        let host = identity.host.clone();
        let credential = Credential { identity, key_pem };
        // Refuse a pair that would never work before it is written.
        credential.tls()?;
        folder.store(&credential)?;
        return Ok(host);
    }
    Err(last)
}

impl Credential {
    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, IdentityError> {
        let identity = &self.identity;
        Ok(crate::tls::joined(
            &identity.ca_pem,
            &identity.certificate_pem,
            &self.key_pem,
        )?)
    }
}

fn ca_sha256(identity: &Identity) -> Result<String, IdentityError> {
    use rustls_pki_types::pem::PemObject;
    use sha2::{Digest, Sha256};
    let der = rustls_pki_types::CertificateDer::from_pem_slice(identity.ca_pem.as_bytes())
        .map_err(|e| IdentityError::Answer(format!("CA: {e}")))?;
    Ok(hex::encode(Sha256::digest(der.as_ref())))
}

/// Sends a request for an identity.
async fn ask<T: Serialize>(
    sender: &mut http2::Sender,
    server: &str,
    what: &str,
    request: &T,
) -> Result<Identity, IdentityError> {
    let exchange = async {
        let json = serde_json::to_vec(request).map_err(|e| IdentityError::Exchange(e.into()))?;
        let request = http::Request::post(format!("https://{server}/link/v1/{what}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(http2::full(json))
            .map_err(|e| IdentityError::Exchange(e.into()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| IdentityError::Exchange(e.into()))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_MAX_BYTES);
        let body = http_body_util::BodyExt::collect(body)
            .await
            .map_err(IdentityError::Exchange)?
            .to_bytes();
        if !status.is_success() {
            return Err(IdentityError::Refused {
                status: status.as_u16(),
                message: crate::link::refusal_text(&body),
            });
        }
        serde_json::from_slice(&body).map_err(|e| IdentityError::Answer(e.to_string()))
    };
    tokio::time::timeout(ANSWER_TIMEOUT, exchange)
        .await
        .map_err(|_| IdentityError::Exchange("it took too long".into()))?
}
