//! Debian's `etcd`, started for one test, on free ports.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::wait::eventually;

/// A running etcd of one member.
pub struct Etcd {
    child: Child,
    folder: TempDir,
    /// `host:port` for clients.
    pub address: String,
}

impl Etcd {
    /// Starts one that listens on loopback.
    ///
    /// # Errors
    /// When the program is missing or does not get ready.
    pub fn start() -> Result<Self> {
        // Between the choice of a port and its use somebody else may take it.
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            if let Some(etcd) = Self::try_start()? {
                return Ok(etcd);
            }
        }
        bail!("etcd ended {TRIES} times at its start")
    }

    fn try_start() -> Result<Option<Self>> {
        let folder = tempfile::Builder::new()
            .prefix("plimsoll-etcd-")
            .tempdir()?;
        let (client, peer) = (free_address()?, free_address()?);
        let log = std::fs::File::create(folder.path().join("log"))?;
        let url = |address: &str| format!("http://{address}");
        let child = Command::new("etcd")
            .args(["--name", "one", "--data-dir"])
            .arg(folder.path().join("data"))
            .args(["--listen-client-urls", &url(&client)])
            .args(["--advertise-client-urls", &url(&client)])
            .args(["--listen-peer-urls", &url(&peer)])
            .args(["--initial-advertise-peer-urls", &url(&peer)])
            .args(["--initial-cluster", &format!("one={}", url(&peer))])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start etcd (Debian package etcd-server)")?;
        let mut etcd = Self {
            child,
            folder,
            address: client,
        };
        let ready = eventually("etcd serves", || etcd.look());
        Ok(ready.then_some(etcd))
    }

    /// Whether it serves (`true`) or has ended (`false`); its log while neither is known.
    fn look(&mut self) -> Result<bool, String> {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        if log.contains("ready to serve client requests") {
            Ok(true)
        } else if matches!(self.child.try_wait(), Ok(Some(_))) {
            Ok(false)
        } else {
            Err(log)
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.to_string())
}
