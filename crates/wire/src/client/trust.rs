//! Whom a client believes.
//!
//! An installation has a CA of its own. A client that does not know it yet looks at the server's chain with
//! [`show_authority`], sends nothing, and lets a person (or a hash got elsewhere) decide; from then on
//! [`authority_config`] checks every connection in the ordinary way, host name included.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

use super::endpoint::Endpoint;

/// Why no trust could be set up.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The PEM text holds no certificate.
    #[error("the CA's file holds no readable certificate")]
    Pem,
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// The server was not reached.
    #[error("cannot reach {endpoint}")]
    Dial {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server showed no chain.
    #[error("{endpoint} does not show its CA")]
    NoChain {
        /// Where.
        endpoint: String,
    },
}

/// The CA at the end of a server's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Certificate, PEM.
    pub pem: String,
    /// SHA-256 of the certificate (DER), 64 hexadecimal digits.
    pub sha256: String,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A configuration that accepts servers with a certificate of this CA (PEM) for the host name that is dialled.
///
/// # Errors
/// When the PEM is not readable.
pub fn authority_config(ca_pem: &str) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|_| TrustError::Pem)?;
        roots.add(certificate).map_err(TrustError::Setup)?;
    }
    if roots.is_empty() {
        return Err(TrustError::Pem);
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Setup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Dials, reads the server's chain, and hangs up without having sent anything.
///
/// # Errors
/// When the server cannot be reached or shows no chain.
pub async fn show_authority(endpoint: &Endpoint) -> Result<Authority, TrustError> {
    let provider = provider();
    let looker = Arc::new(Looker {
        algorithms: provider.signature_verification_algorithms,
        last: Mutex::new(None),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&looker) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let dialled = endpoint.dial(Some(&Arc::new(config))).await;
    let seen = looker.last.lock().ok().and_then(|mut last| last.take());
    match (seen, dialled) {
        (Some(der), _) => Ok(Authority {
            pem: pem(&der),
            sha256: hex::encode(Sha256::digest(&der)),
        }),
        (None, Err(source)) => Err(TrustError::Dial {
            endpoint: endpoint.to_string(),
            source,
        }),
        (None, Ok(_)) => Err(TrustError::NoChain {
            endpoint: endpoint.to_string(),
        }),
    }
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// Remembers the last certificate of a chain. It accepts any chain, so nothing may be sent on such a connection.
#[derive(Debug)]
struct Looker {
    algorithms: WebPkiSupportedAlgorithms,
    last: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let (Some(last), Ok(mut slot)) = (intermediates.last(), self.last.lock()) {
            *slot = Some(last.to_vec());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
