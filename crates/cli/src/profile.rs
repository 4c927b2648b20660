//! What the program keeps between runs: the login, and certificates of pools, in `~/.plimsoll`.
//!
//! What always holds: files are readable only by their owner from the moment they exist.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Doing as _, Failure, Result};
use crate::exit;

/// A remembered login.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The server's address.
    pub server: String,
    /// The installation's CA, PEM.
    pub ca_pem: String,
    /// The token.
    pub token: String,
}

/// The folder of this user.
pub(crate) fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PLIMSOLL_CONFIG").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let home = std::env::var_os("HOME")
        .filter(|value| !value.is_empty())
        .ok_or_else(|| {
            Failure::new(exit::FAILED, "cannot find your folder")
                .why("HOME is not set")
                .hint("set HOME, or PLIMSOLL_CONFIG to a folder of your own")
        })?;
    Ok(PathBuf::from(home).join(".plimsoll"))
}

fn login_file() -> Result<PathBuf> {
    Ok(folder()?.join("login.json"))
}

/// The login, if there is one.
pub(crate) fn load() -> Result<Option<Login>> {
    let Ok(file) = login_file() else {
        return Ok(None);
    };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).doing(|| format!("cannot read {}", file.display())),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Failure::new(exit::FAILED, format!("cannot read {}", file.display()))
            .why(error.to_string())
            .hint("log in again, or remove the file")
    })
}

/// Remembers a login.
pub(crate) fn save(login: &Login) -> Result<PathBuf> {
    let file = login_file()?;
    let text = serde_json::to_vec_pretty(login).map_err(|error| {
        Failure::new(exit::FAILED, "cannot keep the login").why(error.to_string())
    })?;
    write_private(&file, &text)?;
    Ok(file)
}

/// Forgets the login; tells whether there was one.
pub(crate) fn forget() -> Result<bool> {
    let file = login_file()?;
    match std::fs::remove_file(&file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).doing(|| format!("cannot remove {}", file.display())),
    }
}

/// Writes a file (0600) in a folder (0700), whole or not at all.
pub(crate) fn write_private(file: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let new = file.with_extension(format!("new{}", std::process::id()));
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        std::fs::rename(&new, file)
    };
    write().doing(|| format!("cannot write {}", file.display()))
}
