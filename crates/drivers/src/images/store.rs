//! What is in the store and who needs it.
//!
//! What it is: the set of complete images, the leases that keep content from being deleted, deletion. What it is
//! not: it moves no bytes; that is [`super::build`] and its callers.
//!
//! What always holds: content is deleted only when an image that had it is dropped by name, or by the very operation
//! that brought it and failed; and only if no other image and no lease has it. Unknown content stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use agent::driver::DiskRoom;
use model::{Digest, ImageContent, Layer};
use tokio::sync::{Semaphore, mpsc, watch};

use super::disk::{Disk, LayerMeta, Record, read_json, remove_tree};
use super::documents::{OCI_CONFIG, ParsedConfig, parse_config};
use super::error::ImagesError;
use super::limits::Limits;
use super::registry::{RegistryOptions, Transport};
use super::streams::digest_of;

/// The image store of one host. Cloning gives another handle.
#[derive(Clone)]
pub struct LocalImages {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for LocalImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalImages").finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) disk: Disk,
    pub(crate) limits: Limits,
    pub(crate) transport: Transport,
    pub(crate) unpack_slots: Semaphore,
    state: Mutex<State>,
    commit: Mutex<()>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    images: BTreeMap<Digest, Arc<Record>>,
    /// Layers whose records were read and checked since the start.
    layers: HashMap<Digest, Arc<LayerMeta>>,
    /// Blobs and layers that operations and tasks hold.
    leases: HashMap<Digest, u32>,
    /// Who is making which layer.
    making: HashMap<Digest, Weak<tokio::sync::Mutex<()>>>,
}

/// What an image refers to.
#[derive(Default)]
struct Refs {
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<Digest>,
}

impl State {
    fn refs(&self, content: &ImageContent) -> Refs {
        let mut refs = Refs::default();
        refs.blobs.insert(content.config.clone());
        for layer in &content.layers {
            refs.layers.insert(layer.diff_id.clone());
            refs.blobs.insert(layer.blob.clone());
            if let Some(meta) = self.layers.get(&layer.diff_id) {
                refs.blobs.insert(meta.blob.clone());
            }
        }
        refs
    }

    fn all_refs(&self) -> Refs {
        let mut all = Refs::default();
        for record in self.images.values() {
            let refs = self.refs(&record.content);
            all.blobs.extend(refs.blobs);
            all.layers.extend(refs.layers);
        }
        all
    }

    /// Whether something in progress needs a blob or layer.
    fn leased(&self, digest: &Digest) -> bool {
        self.leases.contains_key(digest)
            || self
                .layers
                .values()
                .any(|l| l.blob == *digest && self.leases.contains_key(&l.diff_id))
    }
}

impl LocalImages {
    /// Opens the store in `root`, or makes it. Blocks for the time of reading the records.
    ///
    /// # Errors
    /// When the folder cannot be used or another process uses it.
    pub fn open(
        root: &Path,
        limits: Limits,
        registries: RegistryOptions,
    ) -> Result<Self, ImagesError> {
        let disk = Disk::open(root)?;
        let inner = Inner {
            disk,
            unpack_slots: Semaphore::new(limits.parallel_unpacks.max(1)),
            limits,
            transport: Transport::new(registries),
            state: Mutex::default(),
            commit: Mutex::default(),
            changes: watch::Sender::new(0),
        };
        inner.recover()?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Room on the disk that the store is on; `None`: it cannot be said.
    pub(crate) fn disk_room(&self) -> Option<DiskRoom> {
        let stat = nix::sys::statvfs::statvfs(self.inner.disk.root()).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        Some(DiskRoom {
            free: bytes(stat.blocks_available()),
            total: bytes(stat.blocks()),
        })
    }

    /// Digests of the configurations of complete images.
    #[must_use]
    pub fn complete_ids(&self) -> BTreeSet<Digest> {
        self.inner.lock().images.keys().cloned().collect()
    }

    /// Counts changes of [`LocalImages::complete_ids`].
    #[must_use]
    pub fn watch_changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The folders of an image's layers, top first, as overlayfs wants them.
    ///
    /// # Errors
    /// When the image is not complete here.
    pub fn lowerdirs(&self, image: &Digest) -> Result<Vec<PathBuf>, ImagesError> {
        let record = self.inner.record(image)?;
        Ok(record
            .content
            .layers
            .iter()
            .rev()
            .map(|l| self.inner.disk.layer_fs(&l.diff_id))
            .collect())
    }

    /// Deletes an image; what other images or running operations need stays. Unknown images are no error. Blocks.
    /// Answers `false` when the image itself is leased and therefore stays.
    ///
    /// # Errors
    /// When the record cannot be removed; the image is whole then.
    pub fn drop_local(&self, image: &Digest) -> Result<bool, ImagesError> {
        let Some(trash) = self.inner.drop_image(image)? else {
            return Ok(false);
        };
        trash.iter().for_each(|path| remove_tree(path));
        Ok(true)
    }

    /// Blobs and layers that belong to no complete image and no running operation: left by a crash. They are used
    /// when an image needs them and are never deleted by themselves.
    ///
    /// # Errors
    /// When the folders cannot be listed.
    pub fn unreferenced(&self) -> Result<BTreeSet<Digest>, ImagesError> {
        let state = self.inner.lock();
        let refs = state.all_refs();
        let mut found = BTreeSet::new();
        for (folder, known) in [("blobs/sha256", &refs.blobs), ("layers", &refs.layers)] {
            for digest in self
                .inner
                .disk
                .list(folder)?
                .iter()
                .filter_map(|path| digest_of_name(path))
            {
                if !known.contains(&digest) && !state.leased(&digest) {
                    found.insert(digest);
                }
            }
        }
        Ok(found)
    }
}

impl LocalImages {
    /// Deletes named content of [`LocalImages::unreferenced`]; what an image or operation has come to need meanwhile
    /// stays. Answers what was deleted. Blocks.
    ///
    /// # Errors
    /// When the folders cannot be listed.
    pub fn reclaim(&self, named: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>, ImagesError> {
        let mut deleted = BTreeSet::new();
        for digest in self.unreferenced()?.intersection(named) {
            let mut trash = Vec::new();
            {
                let mut state = self.inner.lock();
                let refs = state.all_refs();
                if refs.blobs.contains(digest)
                    || refs.layers.contains(digest)
                    || state.leased(digest)
                {
                    continue;
                }
                state.layers.remove(digest);
                trash.extend(self.inner.disk.trash_blob(digest));
                trash.extend(self.inner.disk.trash_layer(digest));
            }
            trash.iter().for_each(|path| remove_tree(path));
            deleted.insert(digest.clone());
        }
        Ok(deleted)
    }
}

fn digest_of_name(path: &Path) -> Option<Digest> {
    Digest::parse(&format!("sha256:{}", path.file_stem()?.to_str()?)).ok()
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one insertion or removal: a panic in between leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all records; rebuilds or moves away what is damaged; ends deletions.
    fn recover(&self) -> Result<(), ImagesError> {
        let mut drops = Vec::new();
        for path in self.disk.list("images")? {
            let Some(config) = digest_of_name(&path) else {
                self.disk.quarantine(&path, "not an image record");
                continue;
            };
            let record = read_json::<Record>(&path)
                .and_then(|r| r.ok_or_else(|| "it vanished".to_owned()))
                .and_then(|r| {
                    if r.content.config == config {
                        Ok(r)
                    } else {
                        Err("it is about another image".to_owned())
                    }
                });
            if path.extension().is_some_and(|e| e == "dropping") {
                drops.push((config, record.ok()));
                continue;
            }
            match record {
                Ok(record) if self.is_whole(&record.content) => {
                    self.lock().images.insert(config, Arc::new(record));
                }
                Ok(_) => self
                    .disk
                    .quarantine(&path, "its content is damaged or missing"),
                Err(reason) => {
                    self.disk.quarantine(&path, &reason);
                    self.rebuild(&config)?;
                }
            }
        }
        for (config, record) in drops {
            let trash = record
                .map(|r| self.trash(&mut self.lock(), &r.content))
                .unwrap_or_default();
            self.disk.end_drop(&config)?;
            trash.iter().for_each(|path| remove_tree(path));
        }
        Ok(())
    }

    /// Makes an image's record anew from its content, if that is whole.
    fn rebuild(&self, config: &Digest) -> Result<(), ImagesError> {
        let Ok(parsed) = self.read_config(config) else {
            return Ok(());
        };
        let mut layers = Vec::new();
        for diff_id in &parsed.diff_ids {
            let Some(meta) = self.layer(diff_id) else {
                return Ok(());
            };
            layers.push(layer_of(&meta));
        }
        let content = ImageContent {
            config: config.clone(),
            config_bytes: self.disk.blob_len(config).unwrap_or(0),
            layers,
        };
        self.publish_image(&content)?;
        tracing::info!(image = %config, "rebuilt a damaged image record from its content");
        Ok(())
    }

    fn is_whole(&self, content: &ImageContent) -> bool {
        let config = self.disk.check_blob(&content.config, content.config_bytes);
        // All of them, so that every damaged layer is moved away.
        content
            .layers
            .iter()
            .filter(|l| self.layer(&l.diff_id).is_none())
            .count()
            == 0
            && config
    }

    /// The record of a complete image.
    pub(crate) fn record(&self, image: &Digest) -> Result<Arc<Record>, ImagesError> {
        self.lock()
            .images
            .get(image)
            .cloned()
            .ok_or_else(|| ImagesError::NotFound {
                what: "image",
                subject: image.to_string(),
            })
    }

    /// A layer that is there, checked when it is first asked for.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Option<Arc<LayerMeta>> {
        if let Some(meta) = self.lock().layers.get(diff_id) {
            return Some(Arc::clone(meta));
        }
        let meta = Arc::new(self.disk.read_layer(diff_id)?);
        self.lock()
            .layers
            .insert(diff_id.clone(), Arc::clone(&meta));
        Some(meta)
    }

    /// Reads and checks a configuration that is in the store.
    pub(crate) fn read_config(&self, config: &Digest) -> Result<ParsedConfig, ImagesError> {
        let path = self.disk.blob(config);
        let bytes = self
            .disk
            .blob_len(config)
            .ok_or_else(|| ImagesError::NotFound {
                what: "image configuration",
                subject: config.to_string(),
            })?;
        if bytes > self.limits.config_bytes {
            return Err(ImagesError::TooLarge {
                what: "the image configuration".to_owned(),
                limit: format!("{} bytes", self.limits.config_bytes),
            });
        }
        let text = std::fs::read(&path)
            .map_err(|e| ImagesError::io("read", path.display().to_string(), e))?;
        let actual = digest_of(&text);
        if actual != *config {
            self.disk.quarantine(&path, "its digest is not its name");
            return Err(ImagesError::DigestMismatch {
                what: "the stored image configuration".to_owned(),
                expected: config.clone(),
                actual,
            });
        }
        parse_config(&text, &self.limits)
    }

    /// Whether a blob is there.
    pub(crate) fn has_blob(&self, digest: &Digest, bytes: u64) -> bool {
        self.disk.check_blob(digest, bytes)
    }

    /// Makes an image complete. All its content must be there and leased.
    pub(crate) fn publish_image(&self, content: &ImageContent) -> Result<(), ImagesError> {
        let record = Arc::new(Record::new(content.clone()));
        let _turn = self.commit_turn();
        if self.lock().images.get(&content.config) == Some(&record) {
            return Ok(());
        }
        self.disk.write_record(&record)?;
        self.lock().images.insert(content.config.clone(), record);
        self.changes.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Takes an image back and moves what only it needed to the returned paths, to be deleted without any lock.
    /// `None`: it is leased and stays.
    fn drop_image(&self, image: &Digest) -> Result<Option<Vec<PathBuf>>, ImagesError> {
        let _turn = self.commit_turn();
        let record = {
            let mut state = self.lock();
            if state.leased(image) {
                return Ok(None);
            }
            // Gone from here on for everybody: nobody gets a lease on it while the disk is busy.
            match state.images.remove(image) {
                Some(record) => record,
                None => return Ok(Some(Vec::new())),
            }
        };
        if let Err(error) = self.disk.begin_drop(image) {
            self.lock().images.insert(image.clone(), record);
            return Err(error);
        }
        let trash = self.trash(&mut self.lock(), &record.content);
        self.disk.end_drop(image)?;
        self.changes.send_modify(|n| *n += 1);
        Ok(Some(trash))
    }

    /// One change of the records on the disk at a time; the state's lock is free meanwhile.
    fn commit_turn(&self) -> MutexGuard<'_, ()> {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trash(&self, state: &mut State, content: &ImageContent) -> Vec<PathBuf> {
        let mine = state.refs(content);
        let others = state.all_refs();
        let mut trash = Vec::new();
        for blob in mine
            .blobs
            .difference(&others.blobs)
            .filter(|d| !state.leased(d))
        {
            trash.extend(self.disk.trash_blob(blob));
        }
        let layers: Vec<_> = mine
            .layers
            .difference(&others.layers)
            .filter(|d| !state.leased(d))
            .cloned()
            .collect();
        for layer in layers {
            state.layers.remove(&layer);
            trash.extend(self.disk.trash_layer(&layer));
        }
        trash
    }

    /// The lock of a layer: whoever has it is the only one to make that layer.
    pub(crate) fn maker(&self, diff_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.lock();
        if let Some(lock) = state.making.get(diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        // Locks of layers nobody makes any more go here, so the map is as large as the work at hand.
        state.making.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        state.making.insert(diff_id.clone(), Arc::downgrade(&lock));
        lock
    }
}

/// A layer as images refer to it, from what is kept here.
pub(crate) fn layer_of(meta: &LayerMeta) -> Layer {
    Layer {
        diff_id: meta.diff_id.clone(),
        blob: meta.blob.clone(),
        blob_bytes: meta.blob_bytes,
        media_type: meta.media_type.clone(),
    }
}

/// The media type of configurations kept here.
pub(crate) const CONFIG_TYPE: &str = OCI_CONFIG;

/// Something in progress: what it holds is not deleted, and what it made goes again if it fails.
///
/// Shared by everything that works for it, also threads that outlive a cancelled request: it ends with the last one.
pub(crate) struct Operation {
    pub(crate) store: Arc<Inner>,
    held: Mutex<Held>,
    alive: mpsc::Sender<()>,
}

/// Tells when an operation has ended and cleaned up after itself.
pub(crate) struct Gone(mpsc::Receiver<()>);

impl Gone {
    /// Waits for the last thread that works for the operation. The caller has let go of it.
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent: this ends when the last sender is gone.
        while self.0.recv().await.is_some() {}
    }
}

#[derive(Default)]
struct Held {
    leases: Vec<Digest>,
    blobs: Vec<Digest>,
    layers: Vec<Digest>,
}

impl Operation {
    pub(crate) fn new(store: &Arc<Inner>) -> Arc<Self> {
        Self::watched(store).0
    }

    /// An operation whose end can be waited for.
    pub(crate) fn watched(store: &Arc<Inner>) -> (Arc<Self>, Gone) {
        let (alive, gone) = mpsc::channel(1);
        let operation = Self {
            store: Arc::clone(store),
            held: Mutex::default(),
            alive,
        };
        (Arc::new(operation), Gone(gone))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps content from being deleted, whether it is there already or not.
    pub(crate) fn lease(&self, digest: &Digest) {
        *self.store.lock().leases.entry(digest.clone()).or_default() += 1;
        self.held().leases.push(digest.clone());
    }

    /// Leases all of an image, if it is complete.
    pub(crate) fn lease_image(&self, image: &Digest) -> Result<Arc<Record>, ImagesError> {
        let mut state = self.store.lock();
        let record = state
            .images
            .get(image)
            .cloned()
            .ok_or_else(|| ImagesError::NotFound {
                what: "image",
                subject: image.to_string(),
            })?;
        let refs = state.refs(&record.content);
        for digest in refs.blobs.into_iter().chain(refs.layers) {
            *state.leases.entry(digest.clone()).or_default() += 1;
            self.held().leases.push(digest);
        }
        Ok(record)
    }

    pub(crate) fn made_blob(&self, digest: &Digest) {
        self.held().blobs.push(digest.clone());
    }

    pub(crate) fn made_layer(&self, diff_id: &Digest) {
        self.held().layers.push(diff_id.clone());
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let held = std::mem::take(self.held.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut trash = Vec::new();
        {
            let mut state = self.store.lock();
            for digest in &held.leases {
                if let Some(count) = state.leases.get_mut(digest) {
                    *count -= 1;
                    if *count == 0 {
                        state.leases.remove(digest);
                    }
                }
            }
            if !held.blobs.is_empty() || !held.layers.is_empty() {
                // After success an image has all of it, and nothing is found here.
                let refs = state.all_refs();
                for blob in held
                    .blobs
                    .iter()
                    .filter(|d| !refs.blobs.contains(d) && !state.leased(d))
                {
                    trash.extend(self.store.disk.trash_blob(blob));
                }
                for layer in held.layers.iter().filter(|d| !refs.layers.contains(d)) {
                    if !state.leased(layer) {
                        state.layers.remove(layer);
                        trash.extend(self.store.disk.trash_layer(layer));
                    }
                }
            }
        }
        if trash.is_empty() {
            return;
        }
        let alive = self.alive.clone();
        let remove = move || {
            trash.iter().for_each(|path| remove_tree(path));
            drop(alive);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
