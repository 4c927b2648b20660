//! Where a server listens, and the dialling of it.
//!
//! What it is not: no HTTP here, only bytes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Longest time to get a connection with TLS; a reachable server needs milliseconds.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket of this machine.
    Unix(PathBuf),
    /// TCP with TLS.
    Tls {
        /// Name or address without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// TCP without TLS; only for loopback addresses, since tokens would travel readable.
    Plain {
        /// Name or address without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// An address that is of no known form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a server's address: {rule}")]
pub struct InvalidEndpoint {
    /// What was given.
    pub text: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl Endpoint {
    /// Parses `unix:///path`, `/path`, `https://host:port`, `http://127.0.0.1:port`.
    ///
    /// # Errors
    /// When the text is of another form, or would send tokens readable over a network.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let bad = |rule| InvalidEndpoint {
            text: text
                .chars()
                .take(200)
                .flat_map(char::escape_default)
                .collect(),
            rule,
        };
        if let Some(path) = text
            .strip_prefix("unix://")
            .or(text.starts_with('/').then_some(text))
        {
            return if path.starts_with('/') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(bad(
                    "a socket's path must be absolute, as in unix:///run/plimsoll/server.sock",
                ))
            };
        }
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(bad("write unix:///path or https://host:port")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !port.contains(']') => (
                host,
                port.parse()
                    .map_err(|_| bad("the port must be a number up to 65535"))?,
            ),
            _ => (rest, if tls { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
            return Err(bad("write https://host:port and nothing behind it"));
        }
        let host = host.to_owned();
        if tls {
            return Ok(Self::Tls { host, port });
        }
        let loopback = host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        if loopback {
            Ok(Self::Plain { host, port })
        } else {
            Err(bad(
                "without TLS only this machine's own addresses are accepted: write https://",
            ))
        }
    }

    /// Whether it is on this machine by way of a Unix socket.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tls { .. } | Self::Plain { .. } => None,
        }
    }

    /// The value of the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "plimsoll".into(),
            Self::Tls { host, port } | Self::Plain { host, port } => authority(host, *port),
        }
    }

    /// Dials; with `tls` for [`Endpoint::Tls`].
    ///
    /// # Errors
    /// When nothing listens there, TLS fails, or [`DIAL_TIMEOUT`] passes.
    pub async fn dial(
        &self,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> std::io::Result<Box<dyn Io>> {
        tokio::time::timeout(DIAL_TIMEOUT, self.dial_now(tls))
            .await
            .map_err(|_| {
                std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("no answer within {} s", DIAL_TIMEOUT.as_secs()),
                )
            })?
    }

    async fn dial_now(
        &self,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> std::io::Result<Box<dyn Io>> {
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Plain { host, port } => Ok(Box::new(tcp(host, *port).await?)),
            Self::Tls { host, port } => {
                let config =
                    tls.ok_or_else(|| std::io::Error::other("no CA to check the server against"))?;
                let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
                let stream = tcp(host, *port).await?;
                let stream = TlsConnector::from(Arc::clone(config))
                    .connect(name, stream)
                    .await?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tls { host, port } => write!(f, "https://{}", authority(host, *port)),
            Self::Plain { host, port } => write!(f, "http://{}", authority(host, *port)),
        }
    }
}

/// A connection of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

async fn tcp(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // Latency is a feature; a socket that does not take the option still works.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_back() {
        for (text, shown) in [
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("/run/x.sock", "unix:///run/x.sock"),
            ("https://a.example:7443", "https://a.example:7443"),
            ("https://a.example/", "https://a.example:443"),
            ("https://[::1]:7443", "https://[::1]:7443"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(Endpoint::parse(shown).unwrap(), endpoint);
        }
    }

    #[test]
    fn addresses_that_would_show_tokens_are_refused() {
        for bad in [
            "",
            "a.example:7443",
            "http://a.example:80",
            "https://",
            "https://a:99999",
            "https://user@a:1",
            "https://a:1/path",
            "unix://relative",
            "ftp://a",
        ] {
            assert!(Endpoint::parse(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
