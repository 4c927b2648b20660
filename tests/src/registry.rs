//! Debian's `docker-registry`, started for one test, on a free port.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;
use xtask::process;

use crate::wait::eventually;

/// How a registry is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// HTTP.
    Plain,
    /// HTTPS with a certificate of its own making.
    Tls,
    /// HTTPS and a password.
    TlsAndPassword,
}

/// A running registry.
pub struct Registry {
    child: Child,
    folder: TempDir,
    /// `address:port` as hosts reach it.
    pub address: String,
    /// How it is reached.
    pub security: Security,
}

/// The only user of a registry with a password.
pub const USER: &str = "tester";
/// Its password.
pub const PASSWORD: &str = "correct horse";

impl Registry {
    /// Starts one that listens on `address` (an address that hosts reach).
    ///
    /// # Errors
    /// When a program is missing or fails.
    pub fn start(address: &str, security: Security) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("plimsoll-registry-")
            .tempdir()?;
        if security != Security::Plain {
            certificate(folder.path(), address)?;
        }
        let config = config(folder.path(), address, security)?;
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start docker-registry")?;
        let port = eventually("the registry listens", || {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            port(&log, address).ok_or(log)
        });
        Ok(Self {
            child,
            folder,
            address: format!("{address}:{port}"),
            security,
        })
    }

    /// The certificate hosts must trust.
    #[must_use]
    pub fn certificate(&self) -> std::path::PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// Puts an image archive into it under `name`, by skopeo.
    ///
    /// # Errors
    /// When skopeo fails.
    pub fn push(&self, archive: &Path, name: &str) -> Result<()> {
        let mut skopeo = Command::new("skopeo");
        skopeo.args([
            "copy",
            "--insecure-policy",
            "--quiet",
            "--dest-tls-verify=false",
        ]);
        if self.security == Security::TlsAndPassword {
            skopeo.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        skopeo.arg(format!("docker-archive:{}", archive.display()));
        skopeo.arg(format!("docker://{}/{name}", self.address));
        process::read(&mut skopeo).map(drop)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(folder: &Path, address: &str, security: Security) -> Result<String> {
    let root = folder.join("blobs");
    let mut text = format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}:0\n",
        root.display()
    );
    if security != Security::Plain {
        let folder = folder.display();
        text.push_str(&format!(
            "  tls:\n    certificate: {folder}/cert.pem\n    key: {folder}/key.pem\n"
        ));
    }
    if security == Security::TlsAndPassword {
        let passwords = process::read(Command::new("htpasswd").args(["-nbB", USER, PASSWORD]))?;
        let path = folder.join("htpasswd");
        std::fs::write(&path, passwords)?;
        text.push_str(&format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            path.display()
        ));
    }
    Ok(text)
}

fn certificate(folder: &Path, address: &str) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=registry", "-addext"]);
    openssl.arg(format!("subjectAltName=IP:{address}"));
    // Not an authority: it certifies itself only.
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("cert.pem"));
    process::read(&mut openssl).map(drop)
}

/// The port in the registry's log line `listening on 127.0.0.1:41234`.
fn port(log: &str, address: &str) -> Option<u16> {
    let (_, rest) = log.split_once(&format!("listening on {address}:"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
