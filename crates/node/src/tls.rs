//! The server's TLS: its own certificate, renewed in time, and clients' certificates checked against the CA.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use control::Control;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

/// How often the server's certificate is made anew: a third of its lifetime.
const RENEW_EVERY: Duration = Duration::from_secs(30 * 86_400);

/// Hands out the newest certificate.
#[derive(Debug)]
struct Newest(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Newest {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().ok().map(|key| Arc::clone(&key))
    }
}

/// Configuration for a listener valid under `names` (host names and addresses clients dial).
pub(crate) fn server_config(control: &Control, names: Vec<String>) -> Result<Arc<ServerConfig>> {
    let newest = Arc::new(Newest(RwLock::new(issue(control, &names)?)));
    let (control_again, held) = (control.clone(), Arc::clone(&newest));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            match issue(&control_again, &names) {
                Ok(key) => {
                    if let Ok(mut slot) = held.0.write() {
                        *slot = key;
                    }
                }
                Err(error) => tracing::error!(%error, "could not renew the server's certificate"),
            }
        }
    });
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from(control.authority().ca_der().to_vec());
    roots.add(ca).context("use the installation's CA")?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .context("make the verifier of client certificates")?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(newest);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn issue(control: &Control, names: &[String]) -> Result<Arc<CertifiedKey>> {
    let issued = control.authority().issue_server(names, control::now())?;
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())
        .context("read the server's key")?;
    let signer =
        rustls::crypto::ring::sign::any_supported_type(&key).context("use the server's key")?;
    let chain = vec![
        CertificateDer::from(issued.certificate_der),
        CertificateDer::from(control.authority().ca_der().to_vec()),
    ];
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}
