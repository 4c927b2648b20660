//! The store's folder: names, atomic publication, quarantine.
//!
//! ```text
//! lock                    held by the one process that uses the folder
//! blobs/sha256/HEX        content as it came, named by its digest
//! layers/HEX/fs/          an unpacked layer, named by its diff_id
//! layers/HEX/layer.json   what it was made of; written before the folder gets its name
//! images/HEX.json         what makes an image complete on this host, named by its configuration's digest
//! images/HEX.dropping     the same while it is being deleted
//! quarantine/             what was damaged, kept for people to look at
//! tmp/                    everything unfinished; swept at start
//! ```
//!
//! What always holds: a final name appears by `rename` after its content is on the disk. For a layer that is one
//! `syncfs` instead of an `fsync` per file: thousands of files cost as much as one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use model::{Digest, ImageContent};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::error::ImagesError;
use super::jail::remove_all;

/// Version of `layer.json` and `images/*.json` written by this program.
const VERSION: u32 = 1;

/// Longest `layer.json` or image record read, in bytes: 127 layers of some 400 bytes.
const RECORD_MAX: u64 = 1 << 20;

/// What is known of an unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerMeta {
    pub(crate) version: u32,
    pub(crate) diff_id: Digest,
    /// The blob it was made of, as kept here.
    pub(crate) blob: Digest,
    pub(crate) blob_bytes: u64,
    pub(crate) media_type: String,
    /// Length of the uncompressed archive.
    pub(crate) tar_bytes: u64,
    /// Bytes of all files.
    pub(crate) file_bytes: u64,
    pub(crate) entries: u64,
}

impl LayerMeta {
    pub(crate) fn version() -> u32 {
        VERSION
    }
}

/// An image that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    /// With the blobs its source promised; the layer's own record says which blob is kept.
    pub(crate) content: ImageContent,
}

impl Record {
    pub(crate) fn new(content: ImageContent) -> Self {
        Self {
            version: VERSION,
            content,
        }
    }
}

/// The folder of one store.
pub(crate) struct Disk {
    root: PathBuf,
    root_fd: File,
    sequence: AtomicU64,
    sync: Syncer,
    _lock: Flock<File>,
}

/// A file without a final name; removed unless it gets one.
#[derive(Debug)]
pub(crate) struct TempFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    kept: bool,
}

/// A folder without a final name; removed with its content unless it gets one.
#[derive(Debug)]
pub(crate) struct TempDir {
    pub(crate) path: PathBuf,
    kept: bool,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "temporary file stays until the next start");
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !self.kept {
            remove_tree(&self.path);
        }
    }
}

/// Removes a folder or file in `tmp/`; what cannot be removed is swept at the next start.
pub(crate) fn remove_tree(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let result = File::open(parent).and_then(|parent| {
        remove_all(&parent.into(), name.as_encoded_bytes()).map_err(io::Error::from)
    });
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error, "cannot remove a temporary folder");
    }
}

impl Disk {
    /// Its folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Opens or makes the folder, takes its lock and sweeps `tmp/`.
    pub(crate) fn open(root: &Path) -> Result<Self, ImagesError> {
        // Layers hold setuid programs and device nodes: nobody but root may enter.
        for folder in ["", "blobs/sha256", "layers", "images", "tmp", "quarantine"] {
            let path = root.join(folder);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|e| ImagesError::io("create", path.display().to_string(), e))?;
        }
        let lock_path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| ImagesError::io("open", lock_path.display().to_string(), e))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| ImagesError::Locked(root.to_owned()))?;
        let root_fd =
            File::open(root).map_err(|e| ImagesError::io("open", root.display().to_string(), e))?;
        let disk = Self {
            root: root.to_owned(),
            root_fd,
            sequence: AtomicU64::new(0),
            sync: Syncer::default(),
            _lock: lock,
        };
        for path in disk.list("tmp")? {
            remove_tree(&path);
        }
        Ok(disk)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// The folder overlayfs mounts.
    pub(crate) fn layer_fs(&self, diff_id: &Digest) -> PathBuf {
        self.layer(diff_id).join("fs")
    }

    fn record(&self, config: &Digest) -> PathBuf {
        self.root
            .join("images")
            .join(format!("{}.json", config.hex()))
    }

    /// The entries of a sub-folder.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<PathBuf>, ImagesError> {
        let path = self.root.join(folder);
        let fail = |e| ImagesError::io("list", path.display().to_string(), e);
        let mut found = Vec::new();
        for entry in fs::read_dir(&path).map_err(fail)? {
            found.push(entry.map_err(fail)?.path());
        }
        found.sort();
        Ok(found)
    }

    fn temp_path(&self) -> PathBuf {
        // The lock makes this process the only one here, and `tmp/` was swept when it was taken.
        self.root
            .join("tmp")
            .join(self.sequence.fetch_add(1, Ordering::Relaxed).to_string())
    }

    pub(crate) fn temp_file(&self) -> Result<TempFile, ImagesError> {
        let path = self.temp_path();
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| ImagesError::io("create", path.display().to_string(), e))?;
        Ok(TempFile {
            path,
            file,
            kept: false,
        })
    }

    /// A new folder for a layer with `fs/` in it.
    pub(crate) fn temp_layer(&self) -> Result<TempDir, ImagesError> {
        let path = self.temp_path();
        let fail = |e| ImagesError::io("create", path.display().to_string(), e);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(fail)?;
        let temp = TempDir {
            path: path.clone(),
            kept: false,
        };
        fs::DirBuilder::new()
            .mode(0o755)
            .create(path.join("fs"))
            .map_err(fail)?;
        // The mode above is subject to the umask, and archives need not have an entry for the root.
        fs::set_permissions(path.join("fs"), fs::Permissions::from_mode(0o755)).map_err(fail)?;
        Ok(temp)
    }

    /// Gives a layer and the blob it was made of their names. Either is there already: it stays as it is.
    pub(crate) fn publish_layer(
        &self,
        layer: TempDir,
        blob: Option<TempFile>,
        meta: &LayerMeta,
    ) -> Result<(), ImagesError> {
        let marker = layer.path.join("layer.json");
        write_json(&marker, meta)?;
        self.sync
            .sync(&self.root_fd)
            .map_err(|e| ImagesError::io("sync", self.root.display().to_string(), e))?;
        if let Some(blob) = blob {
            self.rename_blob(blob, &meta.blob)?;
        }
        let to = self.layer(&meta.diff_id);
        rename_temp_dir(layer, &to)?;
        self.sync_folder("layers")
    }

    /// Gives a blob its name after its content is on the disk.
    pub(crate) fn publish_blob(&self, blob: TempFile, digest: &Digest) -> Result<(), ImagesError> {
        blob.file
            .sync_all()
            .map_err(|e| ImagesError::io("sync", blob.path.display().to_string(), e))?;
        self.rename_blob(blob, digest)
    }

    fn rename_blob(&self, mut blob: TempFile, digest: &Digest) -> Result<(), ImagesError> {
        let to = self.blob(digest);
        fs::rename(&blob.path, &to)
            .map_err(|e| ImagesError::io("rename to", to.display().to_string(), e))?;
        blob.kept = true;
        self.sync_folder("blobs/sha256")
    }

    /// Writes bytes as a blob.
    pub(crate) fn write_blob(&self, bytes: &[u8], digest: &Digest) -> Result<(), ImagesError> {
        let mut temp = self.temp_file()?;
        temp.file
            .write_all(bytes)
            .map_err(|e| ImagesError::io("write", temp.path.display().to_string(), e))?;
        self.publish_blob(temp, digest)
    }

    /// Makes an image visible for this and every later start.
    pub(crate) fn write_record(&self, record: &Record) -> Result<(), ImagesError> {
        let mut temp = self.temp_file()?;
        let to = self.record(&record.content.config);
        let fail = |e| ImagesError::io("write", to.display().to_string(), e);
        serde_json::to_writer(&temp.file, record).map_err(|e| fail(e.into()))?;
        temp.file.sync_all().map_err(fail)?;
        fs::rename(&temp.path, &to).map_err(fail)?;
        temp.kept = true;
        self.sync_folder("images")
    }

    /// Takes an image back; its content is deleted afterwards, also when a crash comes between.
    pub(crate) fn begin_drop(&self, config: &Digest) -> Result<(), ImagesError> {
        let from = self.record(config);
        let to = from.with_extension("dropping");
        fs::rename(&from, &to)
            .map_err(|e| ImagesError::io("rename", from.display().to_string(), e))?;
        self.sync_folder("images")
    }

    /// The content of a dropped image is gone.
    pub(crate) fn end_drop(&self, config: &Digest) -> Result<(), ImagesError> {
        let path = self.record(config).with_extension("dropping");
        fs::remove_file(&path).map_err(|e| ImagesError::io("remove", path.display().to_string(), e))
    }

    /// Moves a blob or layer out of the way; the caller deletes it without holding locks.
    pub(crate) fn to_trash(&self, path: &Path) -> Option<PathBuf> {
        let to = self.temp_path();
        match fs::rename(path, &to) {
            Ok(()) => Some(to),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot delete content");
                None
            }
        }
    }

    pub(crate) fn trash_blob(&self, digest: &Digest) -> Option<PathBuf> {
        self.to_trash(&self.blob(digest))
    }

    pub(crate) fn trash_layer(&self, diff_id: &Digest) -> Option<PathBuf> {
        self.to_trash(&self.layer(diff_id))
    }

    /// Moves something damaged where people can look at it.
    pub(crate) fn quarantine(&self, path: &Path, reason: &str) {
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let now = jiff::Timestamp::now().as_millisecond();
        let to = self.root.join("quarantine").join(format!("{now}-{name}"));
        match fs::rename(path, &to) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), to = %to.display(), reason, "damaged; moved away")
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, reason, "damaged, and cannot be moved away")
            }
        }
    }

    /// Reads and checks a layer's record; a damaged layer is moved away.
    pub(crate) fn read_layer(&self, diff_id: &Digest) -> Option<LayerMeta> {
        let path = self.layer(diff_id);
        match read_json::<LayerMeta>(&path.join("layer.json")) {
            Ok(Some(meta))
                if meta.version <= VERSION
                    && meta.diff_id == *diff_id
                    && path.join("fs").is_dir() =>
            {
                self.check_blob(&meta.blob, meta.blob_bytes);
                Some(meta)
            }
            Ok(None) if !path.exists() => None,
            Ok(_) => {
                self.quarantine(&path, "the layer's record does not fit its folder");
                None
            }
            Err(error) => {
                self.quarantine(&path, &error);
                None
            }
        }
    }

    /// Whether a blob is there with the length it must have; one of another length is moved away.
    pub(crate) fn check_blob(&self, digest: &Digest, bytes: u64) -> bool {
        let path = self.blob(digest);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() && found.len() == bytes => true,
            Ok(_) => {
                self.quarantine(&path, "the blob has the wrong length");
                false
            }
            Err(_) => false,
        }
    }

    /// Length of a blob that is there.
    pub(crate) fn blob_len(&self, digest: &Digest) -> Option<u64> {
        fs::symlink_metadata(self.blob(digest))
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|m| m.len())
    }

    fn sync_folder(&self, folder: &str) -> Result<(), ImagesError> {
        let path = self.root.join(folder);
        File::open(&path)
            .and_then(|f| f.sync_all())
            .map_err(|e| ImagesError::io("sync", path.display().to_string(), e))
    }
}

fn rename_temp_dir(mut from: TempDir, to: &Path) -> Result<(), ImagesError> {
    match fs::rename(&from.path, to) {
        Ok(()) => {
            from.kept = true;
            Ok(())
        }
        // Somebody else made the same layer; this one is thrown away.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => Ok(()),
        Err(e) => Err(ImagesError::io("rename to", to.display().to_string(), e)),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ImagesError> {
    let fail = |e| ImagesError::io("write", path.display().to_string(), e);
    let text = serde_json::to_vec(value).map_err(|e| fail(e.into()))?;
    fs::write(path, text).map_err(fail)
}

/// Reads a record. The error says in words why it is damaged.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let length = match fs::symlink_metadata(path) {
        Ok(found) => found.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    if length > RECORD_MAX {
        return Err(format!("a record of {length} bytes is not one of ours"));
    }
    let text = fs::read(path).map_err(|e| e.to_string())?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| e.to_string())
}

/// Lets threads that want the file system synchronised at the same moment share one `syncfs`.
#[derive(Default)]
struct Syncer {
    state: Mutex<SyncState>,
    done: Condvar,
}

#[derive(Default)]
struct SyncState {
    running: bool,
    started: u64,
    finished: u64,
}

impl Syncer {
    /// Returns after a `syncfs` that began after this call did.
    fn sync(&self, fd: &File) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = state.started + 1;
        while state.finished < wanted {
            if state.running {
                state = self
                    .done
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            state.started += 1;
            let mine = state.started;
            drop(state);
            let result = nix::unistd::syncfs(fd);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            self.done.notify_all();
            result.map_err(io::Error::from)?;
            state.finished = mine;
        }
        Ok(())
    }
}
