//! Listeners: accept, bound, hand to a router.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections a listener serves at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;

/// How long a client may take for a request's head, or for a TLS handshake.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// HTTP/2 window of a stream: a blob flows at full speed over a round trip of some milliseconds.
const STREAM_WINDOW: u32 = 1 << 20;

/// Serves one connection until it ends or `shutdown` is cancelled.
async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    shutdown: CancellationToken,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(128);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 8)
        .max_concurrent_streams(4096)
        .keep_alive_interval(Duration::from_secs(20));
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::select! {
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = shutdown.cancelled() => {}
    }
}

/// Listens on a Unix socket that only root (and its group) can open. A socket left by a server that is gone is
/// replaced; the socket's file goes when the listener ends.
pub(crate) async fn unix(path: PathBuf, router: Router, shutdown: CancellationToken) -> Result<()> {
    let listener = bind_unix(&path).await?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                break;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (router, shutdown) = (router.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        serve(stream, router, shutdown).await;
                        drop(slot);
                    });
                }
                Err(error) => accept_failed(&error).await,
            }
        }
        let _ = std::fs::remove_file(&path);
    });
    Ok(())
}

async fn bind_unix(path: &Path) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    if path.exists() {
        anyhow::ensure!(
            tokio::net::UnixStream::connect(path).await.is_err(),
            "{} is served by another server: stop it first",
            path.display()
        );
        std::fs::remove_file(path)
            .with_context(|| format!("remove the old socket {}", path.display()))?;
    }
    // A path that is too long for a socket gets a clear message from here, not from the client later.
    let listener = UnixListener::bind(path)
        .with_context(|| format!("listen on {} (at most 107 bytes long)", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("protect {}", path.display()))?;
    Ok(listener)
}

/// What a TLS connection is served by, chosen once its client's certificate is known.
pub(crate) type RouterOf = Arc<dyn Fn(Option<Arc<[u8]>>) -> Router + Send + Sync>;

/// Listens with TLS.
pub(crate) async fn tls(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    router_of: RouterOf,
    shutdown: CancellationToken,
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(error) => {
                accept_failed(&error).await;
                continue;
            }
        };
        // Small messages must not wait for acknowledgements of earlier ones.
        let _ = stream.set_nodelay(true);
        let (acceptor, router_of, shutdown) =
            (acceptor.clone(), Arc::clone(&router_of), shutdown.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HEAD_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificate = stream
                        .get_ref()
                        .1
                        .peer_certificates()
                        .and_then(<[_]>::first);
                    let router = router_of(certificate.map(|der| Arc::from(der.as_ref())))
                        .layer(axum::Extension(api::native::PeerAddress(peer)));
                    serve(stream, router, shutdown).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
            drop(slot);
        });
    }
}

/// Out of file descriptors or the like: wait for connections to end instead of spinning.
async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
