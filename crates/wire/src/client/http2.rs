//! One HTTP/2 connection over TLS: what a host uses for its link.
//!
//! What it is not: no pool and no retries; the caller decides when to dial again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Longest time for TCP to get through. The kernel asks at once, after one second and after three; while a network drops
/// what it is asked, this is how it is noticed soon that it does so no more: the longest time between two askings of one
/// dial is two seconds, and the next dial begins half a second after the last.
pub const TCP_TIMEOUT: Duration = Duration::from_millis(3_500);
/// Longest time for each of TLS and HTTP/2 to get through; a reachable server needs milliseconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes a stream may have in flight: a megabyte frame and its follower.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes all streams of a connection may have in flight, so that one slow reader does not stop the others at once.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes hyper buffers for a stream that the peer does not read.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// A request body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// The way to send requests; cheap to clone.
pub type Sender = http2::SendRequest<Body>;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not `host:port`.
    #[error("{0:?} is not an address of the form host:port")]
    Address(String),
    /// No TCP connection.
    #[error("cannot reach {address}")]
    Tcp {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// TLS failed: most often one side does not accept the other's certificate.
    #[error("TLS with {address} failed")]
    Tls {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// HTTP/2 failed.
    #[error("HTTP/2 with {address} failed")]
    Http {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// It took too long.
    #[error("{address} did not answer within {} s ({stage})", .limit.as_secs_f32())]
    Timeout {
        /// Where.
        address: String,
        /// How far it got.
        stage: Stage,
        /// The bound.
        limit: Duration,
    },
}

/// Steps of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reaching the server.
    Tcp,
    /// Knowing each other.
    Tls,
    /// Agreeing on HTTP/2.
    Http,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Tcp => "TCP",
            Stage::Tls => "TLS",
            Stage::Http => "HTTP/2",
        })
    }
}

impl ConnectError {
    /// Whether no server was reached: it had no work with the dial.
    #[must_use]
    pub fn is_unreached(&self) -> bool {
        match self {
            ConnectError::Tcp { .. } => true,
            ConnectError::Timeout { stage, .. } => *stage == Stage::Tcp,
            ConnectError::Address(_) | ConnectError::Tls { .. } | ConnectError::Http { .. } => {
                false
            }
        }
    }
}

/// An open connection; closed when dropped.
#[derive(Debug)]
pub struct Connection {
    /// Sends requests on it.
    pub sender: Sender,
    driver: JoinHandle<Result<(), hyper::Error>>,
}

impl Connection {
    /// Closes it at once, with whatever is under way on it.
    pub fn close(&self) {
        self.driver.abort();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

/// An empty body.
#[must_use]
pub fn empty() -> Body {
    Empty::new().boxed_unsync()
}

/// A body of known bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body that carries what is sent on the channel until its sender is dropped.
#[must_use]
pub fn channel(receiver: mpsc::Receiver<Bytes>) -> Body {
    let stream = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|bytes| (bytes, receiver))
    });
    StreamBody::new(stream.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
}

/// The name a server's certificate must carry for an address `host:port`.
///
/// # Errors
/// When the address is of another form.
pub fn server_name(address: &str) -> Result<ServerName<'static>, ConnectError> {
    let malformed = || ConnectError::Address(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
    port.parse::<u16>().map_err(|_| malformed())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| malformed())
}

/// Dials `host:port` and speaks HTTP/2 over TLS; the server's certificate is checked against that very host.
///
/// # Errors
/// When any of TCP, TLS or HTTP/2 fails or takes too long.
pub async fn connect(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
) -> Result<Connection, ConnectError> {
    let name = server_name(address)?;
    let owned = || address.to_owned();
    let timeout = |stage, limit| {
        move |_| ConnectError::Timeout {
            address: owned(),
            stage,
            limit,
        }
    };
    let tcp = tokio::time::timeout(TCP_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(timeout(Stage::Tcp, TCP_TIMEOUT))?
        .map_err(|source| ConnectError::Tcp {
            address: owned(),
            source,
        })?;
    // Latency is a feature; a socket that does not take the option still works.
    let _ = tcp.set_nodelay(true);
    let tls = tokio::time::timeout(CONNECT_TIMEOUT, TlsConnector::from(tls).connect(name, tcp))
        .await
        .map_err(timeout(Stage::Tls, CONNECT_TIMEOUT))?
        .map_err(|source| ConnectError::Tls {
            address: owned(),
            source,
        })?;
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .handshake::<_, Body>(TokioIo::new(tls));
    let (sender, connection) = tokio::time::timeout(CONNECT_TIMEOUT, handshake)
        .await
        .map_err(timeout(Stage::Http, CONNECT_TIMEOUT))?
        .map_err(|source| ConnectError::Http {
            address: owned(),
            source,
        })?;
    Ok(Connection {
        sender,
        driver: tokio::spawn(connection),
    })
}
