//! Brings layers into the store, from wherever their bytes are.
//!
//! What always holds: one layer is made by one operation at a time; others wait for it and find it there. A layer
//! that came from the network is verified and unpacked while it is still being downloaded, and its blob is written on
//! the way.

use std::fs::File;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::driver::ImageProgress;
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt};
use model::Digest;
use tokio::sync::mpsc;

use super::disk::{LayerMeta, TempFile};
use super::error::ImagesError;
use super::layer::{WantedLayer, build_layer};
use super::pipe::{PipeWriter, pipe};
use super::store::Operation;

/// Bytes of a blob as they come.
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, ImagesError>> + Send>>;

/// Where blobs come from.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// The bytes of a blob from `offset` on, or from an earlier place: the second value says from where.
    async fn open(
        &self,
        digest: &Digest,
        bytes: u64,
        offset: u64,
    ) -> Result<(Chunks, u64), ImagesError>;

    /// How often a blob that turned out to be something else is asked for: what is behind this may have several copies.
    fn copies(&self) -> u32 {
        1
    }
}

/// Tells what happens, in Docker's words; goes on when nobody listens.
#[derive(Clone)]
pub(crate) struct Progress(pub(crate) Option<mpsc::Sender<ImageProgress>>);

impl Progress {
    /// A change of state: waits for the listener.
    pub(crate) async fn state(&self, id: &str, status: &str) {
        if let Some(to) = &self.0 {
            let line = ImageProgress {
                id: id.to_owned(),
                status: status.to_owned(),
                current: None,
                total: None,
            };
            // Nobody listens any more: the work goes on without telling.
            drop(to.send(line).await);
        }
    }

    /// How far it is: left out when the listener is slow.
    pub(crate) fn amount(&self, id: &str, status: &str, current: u64, total: u64) {
        if let Some(to) = &self.0 {
            let line = ImageProgress {
                id: id.to_owned(),
                status: status.to_owned(),
                current: Some(current),
                total: Some(total),
            };
            drop(to.try_send(line));
        }
    }
}

/// Time between two lines of progress for one layer: people see no more.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// First wait before trying again; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest wait before trying again.
const BACKOFF_MAX: Duration = Duration::from_secs(8);

/// How long to wait before attempt `n + 1`.
pub(crate) fn backoff(n: u32) -> Duration {
    BACKOFF_MIN
        .saturating_mul(1 << n.saturating_sub(1).min(16))
        .min(BACKOFF_MAX)
}

/// Time one blob may take: a registry that sends a byte now and then must not hold a pull for ever.
fn deadline(bytes: u64) -> Duration {
    // Below 16 KiB/s nobody waits for an image.
    Duration::from_secs(300 + bytes / (16 << 10))
}

/// Where the bytes of a layer are.
pub(crate) enum LayerBytes<R> {
    /// Already a blob of the store.
    Blob(Digest),
    /// In a temporary file that becomes the blob.
    Temp(TempFile),
    /// Read here; a blob is written on the way.
    Stream(R),
}

/// Runs blocking work; a panic in it is an error like any other.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImagesError> + Send + 'static,
) -> Result<T, ImagesError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(ImagesError::Archive(
            "internal error while handling it".to_owned(),
        )),
        Err(_) => Err(ImagesError::Cancelled),
    }
}

impl Operation {
    /// Unpacks a layer and gives it its name. Blocks; the caller holds the layer's lock.
    pub(crate) fn build(
        &self,
        wanted: &WantedLayer,
        media_type: Option<&str>,
        bytes: LayerBytes<impl Read>,
    ) -> Result<Arc<LayerMeta>, ImagesError> {
        let disk = &self.store.disk;
        let limits = &self.store.limits;
        let dir = disk.temp_layer()?;
        let root = dir.path.join("fs");
        let open = |path: &std::path::Path| {
            File::open(path).map_err(|e| ImagesError::io("open", path.display().to_string(), e))
        };
        let (built, blob) = match bytes {
            LayerBytes::Blob(digest) => (
                build_layer(open(&disk.blob(&digest))?, None, &root, wanted, limits)?,
                None,
            ),
            LayerBytes::Temp(temp) => (
                build_layer(open(&temp.path)?, None, &root, wanted, limits)?,
                Some(temp),
            ),
            LayerBytes::Stream(reader) => {
                let temp = disk.temp_file()?;
                (
                    build_layer(reader, Some(&temp.file), &root, wanted, limits)?,
                    Some(temp),
                )
            }
        };
        let meta = LayerMeta {
            version: LayerMeta::version(),
            diff_id: wanted.diff_id.clone(),
            blob: built.blob,
            blob_bytes: built.blob_bytes,
            media_type: media_type
                .unwrap_or(built.compression.media_type())
                .to_owned(),
            tar_bytes: built.tar_bytes,
            file_bytes: built.unpacked.bytes,
            entries: built.unpacked.entries,
        };
        if blob.is_some() {
            self.made_blob(&meta.blob);
        }
        self.made_layer(&meta.diff_id);
        disk.publish_layer(dir, blob, &meta)?;
        self.store
            .layer(&wanted.diff_id)
            .ok_or_else(|| ImagesError::NotFound {
                what: "layer",
                subject: wanted.diff_id.to_string(),
            })
    }

    /// Makes sure that a layer is in the store. Answers whether it was there already.
    #[expect(
        clippy::too_many_lines,
        reason = "like cases one after the other: longer than it is complex"
    )]
    pub(crate) async fn obtain(
        self: &Arc<Self>,
        wanted: &WantedLayer,
        media_type: Option<&str>,
        source: &dyn Source,
        progress: &Progress,
    ) -> Result<(Arc<LayerMeta>, bool), ImagesError> {
        let id = wanted.short();
        let maker = self.store.maker(&wanted.diff_id);
        // Owned, so that it can go along with the thread that works on when this future is dropped.
        let turn = maker.lock_owned().await;
        let (operation, diff_id) = (Arc::clone(self), wanted.diff_id.clone());
        if let Some(meta) = blocking(move || Ok(operation.store.layer(&diff_id))).await? {
            progress.state(&id, "Already exists").await;
            return Ok((meta, true));
        }
        let operation = Arc::clone(self);
        let (wanted_there, media_type) = (wanted.clone(), media_type.map(str::to_owned));
        let stored = wanted
            .blob
            .as_ref()
            .filter(|(digest, bytes)| self.store.has_blob(digest, *bytes));
        let meta = if let Some((digest, _)) = stored {
            let bytes = LayerBytes::<File>::Blob(digest.clone());
            progress.state(&id, "Extracting").await;
            let slot = self
                .store
                .unpack_slots
                .acquire()
                .await
                .map_err(|_| ImagesError::Cancelled)?;
            let built = blocking(move || {
                let built = operation.build(&wanted_there, media_type.as_deref(), bytes);
                drop(turn);
                built
            })
            .await;
            drop(slot);
            built?
        } else {
            let (writer, reader) = pipe();
            let thread = tokio::task::spawn_blocking(move || {
                let built = operation.build(
                    &wanted_there,
                    media_type.as_deref(),
                    LayerBytes::Stream(reader),
                );
                drop(turn);
                built
            });
            let most = deadline(
                wanted
                    .blob
                    .as_ref()
                    .map_or(self.store.limits.layer_bytes, |b| b.1),
            );
            let pump = self.pump(wanted, source, writer, progress);
            let pumped = match tokio::time::timeout(most, pump).await {
                Ok(pumped) => pumped,
                Err(_) => Err(ImagesError::Source {
                    digest: wanted.diff_id.clone(),
                    reason: format!("it took longer than {} seconds", most.as_secs()),
                }),
            };
            if pumped.is_ok() {
                progress.state(&id, "Extracting").await;
            }
            let built = match thread.await {
                Ok(result) => result,
                Err(_) => Err(ImagesError::Archive(
                    "internal error while unpacking".to_owned(),
                )),
            };
            match (pumped, built) {
                // The pump was the first to fail; the thread only noticed the missing end.
                (Err(error), Err(ImagesError::Cancelled)) => return Err(error),
                (_, built) => built?,
            }
        };
        progress.state(&id, "Pull complete").await;
        Ok((meta, false))
    }

    /// Copies a blob from its source into a pipe, trying again where it stopped.
    async fn pump(
        &self,
        wanted: &WantedLayer,
        source: &dyn Source,
        writer: PipeWriter,
        progress: &Progress,
    ) -> Result<(), ImagesError> {
        let (digest, total) = match &wanted.blob {
            Some((digest, bytes)) => (digest.clone(), Some(*bytes)),
            None => (wanted.diff_id.clone(), None),
        };
        let mut pump = Pump {
            id: wanted.short(),
            total,
            sent: 0,
            said: None,
            writer,
            progress,
        };
        let mut failures = 0;
        loop {
            let before = pump.sent;
            let error = match pump.attempt(&digest, source).await {
                Ok(()) => {
                    progress.state(&pump.id, "Download complete").await;
                    // The reader may be gone because it failed; its own error tells why.
                    pump.writer.finish().await;
                    return Ok(());
                }
                Err(error) => error,
            };
            if pump.sent > before {
                failures = 0;
            }
            failures += 1;
            if !error.is_transient() || failures >= self.store.limits.attempts {
                return Err(error);
            }
            tracing::info!(layer = %digest, at = pump.sent, %error, "trying again");
            progress.state(&pump.id, "Retrying").await;
            tokio::time::sleep(backoff(failures)).await;
        }
    }
}

struct Pump<'a> {
    id: String,
    total: Option<u64>,
    sent: u64,
    said: Option<Instant>,
    writer: PipeWriter,
    progress: &'a Progress,
}

impl Pump<'_> {
    /// One attempt; `Ok` when all was sent or the reader is gone.
    async fn attempt(&mut self, digest: &Digest, source: &dyn Source) -> Result<(), ImagesError> {
        let (mut chunks, from) = source
            .open(digest, self.total.unwrap_or(0), self.sent)
            .await?;
        let mut skip = self.sent.saturating_sub(from);
        while let Some(chunk) = chunks.next().await {
            let mut chunk = chunk?;
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(passed);
            skip -= passed as u64;
            self.sent += chunk.len() as u64;
            if let Some(total) = self.total {
                if self.sent > total {
                    return Err(ImagesError::SizeMismatch {
                        what: format!("the blob of layer {}", self.id),
                        expected: total,
                        actual: self.sent,
                    });
                }
                if self.said.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
                    self.said = Some(Instant::now());
                    self.progress
                        .amount(&self.id, "Downloading", self.sent, total);
                }
            }
            if !self.writer.send(chunk).await {
                return Ok(());
            }
        }
        match self.total {
            Some(total) if self.sent < total => Err(ImagesError::Source {
                digest: digest.clone(),
                reason: format!("it ended after {} of {total} bytes", self.sent),
            }),
            Some(_) | None => Ok(()),
        }
    }
}
