//! The control plane over a memory store, with its host link on a TLS port of this machine.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use control::{Control, ControlConfig};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A server that can be cut off from its hosts.
pub struct Server {
    /// Its control plane.
    pub control: Control,
    /// Where hosts reach it.
    pub address: SocketAddr,
    connections: Arc<Mutex<CancellationToken>>,
}

impl Server {
    /// Starts one with an empty store.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let address = listener.local_addr().context("read the address")?;
        let config = ControlConfig {
            address: address.to_string(),
        };
        let control = Control::open(store::open_memory(), config).await?;
        let acceptor = TlsAcceptor::from(Arc::new(tls(&control)?));
        let connections = Arc::new(Mutex::new(CancellationToken::new()));
        let (served, cut) = (control.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let token = cut.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let connection = serve(stream, acceptor.clone(), served.clone());
                tokio::spawn(async move {
                    // A connection that breaks is what is simulated.
                    let _ = token.run_until_cancelled(connection).await;
                });
            }
        });
        Ok(Self {
            control,
            address,
            connections,
        })
    }

    /// Cuts every connection; hosts dial again.
    pub fn cut(&self) {
        let mut token = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        token.cancel();
        *token = CancellationToken::new();
    }
}

fn tls(control: &Control) -> Result<rustls::ServerConfig> {
    let authority = control.authority();
    let issued = authority.issue_server(&["127.0.0.1".to_owned()], control::now())?;
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).context("read the key")?;
    let ca = CertificateDer::from(authority.ca_der().to_vec());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).context("use the CA")?;
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    )
    .allow_unauthenticated()
    .build()
    .context("verify clients")?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![CertificateDer::from(issued.certificate_der), ca], key)
        .context("use the server's certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, control: Control) -> Result<()> {
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let stream = acceptor.accept(stream).await.context("TLS")?;
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first())
        .map(|c| c.to_vec());
    let peer = certificate.map(|der| api::link::PeerCertificate(der.into()));
    let router = TowerToHyperService::new(api::link::router(control));
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        router.call(request)
    });
    Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(|e| anyhow::anyhow!("connection: {e}"))
}
