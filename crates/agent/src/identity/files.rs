//! The identity on disk: one file with certificate, CA and key, so that they can never be of different ages.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Credential, IdentityError};

/// The folder `identity` of an agent's data: `identity.json`, and `identity-next.json` while a renewed certificate has
/// not yet worked once.
#[derive(Debug, Clone)]
pub struct IdentityFolder {
    folder: PathBuf,
}

impl IdentityFolder {
    /// The identity in an agent's data folder.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join("identity"),
        }
    }

    fn current(&self) -> PathBuf {
        self.folder.join("identity.json")
    }

    fn next(&self) -> PathBuf {
        self.folder.join("identity-next.json")
    }

    /// The identity, if the host has joined.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(&self) -> Result<Option<Credential>, IdentityError> {
        read(&self.current())
    }

    /// A renewed identity that has not worked yet.
    pub(super) fn load_next(&self) -> Result<Option<Credential>, IdentityError> {
        read(&self.next())
    }

    /// Replaces the identity.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, credential: &Credential) -> Result<(), IdentityError> {
        self.write(&self.current(), credential)
    }

    pub(super) fn store_next(&self, credential: &Credential) -> Result<(), IdentityError> {
        self.write(&self.next(), credential)
    }

    /// The renewed identity has worked: it is the identity.
    pub(super) fn promote(&self) -> Result<(), IdentityError> {
        let (next, current) = (self.next(), self.current());
        std::fs::rename(&next, &current).map_err(io("rename", &next))?;
        self.sync()
    }

    /// The renewed identity does not work.
    pub(super) fn discard_next(&self) {
        let _ = std::fs::remove_file(self.next());
    }

    fn write(&self, path: &Path, credential: &Credential) -> Result<(), IdentityError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(io("make", &self.folder))?;
        let temporary = path.with_extension("new");
        // A file from an earlier crash may have other permissions.
        let _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io("make", &temporary))?;
        let json =
            serde_json::to_vec_pretty(credential).map_err(|source| IdentityError::Damaged {
                path: path.to_owned(),
                source,
            })?;
        file.write_all(&json)
            .and_then(|()| file.sync_all())
            .map_err(io("write", &temporary))?;
        std::fs::rename(&temporary, path).map_err(io("rename", &temporary))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), IdentityError> {
        File::open(&self.folder)
            .and_then(|f| f.sync_all())
            .map_err(io("sync", &self.folder))
    }
}

fn read(path: &Path) -> Result<Option<Credential>, IdentityError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| IdentityError::Damaged {
                    path: path.to_owned(),
                    source,
                })
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io("read", path)(e)),
    }
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { what, path, source }
}
