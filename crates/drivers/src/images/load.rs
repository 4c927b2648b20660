//! Loads archives: `docker save` in all its forms, and OCI layouts in a tar.
//!
//! What it is: one pass over the stream, every file into a temporary file with its digest computed on the way; then the
//! documents say which of them are layers, and those become blobs by renaming. What it is not: it does not keep
//! anything in memory but the documents.

use std::sync::Arc;

use agent::driver::{ByteStream, ImportedImage};
use futures::StreamExt;
use model::{ImageContent, Layer};

use super::build::{LayerBytes, Progress, blocking};
use super::disk::TempFile;
use super::error::ImagesError;
use super::intake::{Intake, take_in};
use super::loadplan::{LoadPlan, PlannedLayer, plan};
use super::pipe::pipe;
use super::store::{LocalImages, Operation, layer_of};
use super::streams::digest_of;

impl LocalImages {
    /// Loads all images of an archive; they stay while the operation lives. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// When the archive is damaged or none of its forms is known, or an image in it is not what it says.
    pub(crate) async fn load_archive(
        &self,
        archive: ByteStream,
        progress: Progress,
    ) -> Result<(Vec<ImportedImage>, Arc<Operation>), ImagesError> {
        let (operation, gone) = Operation::watched(&self.inner);
        match self.load_all(&operation, archive, &progress).await {
            Ok(loaded) => Ok((loaded, operation)),
            Err(error) => {
                // The answer is given when the disk is as it was.
                drop(operation);
                gone.wait().await;
                Err(error)
            }
        }
    }

    async fn load_all(
        &self,
        operation: &Arc<Operation>,
        archive: ByteStream,
        progress: &Progress,
    ) -> Result<Vec<ImportedImage>, ImagesError> {
        let intake = self.take_in(archive, operation).await?;
        let limits = self.inner.limits.clone();
        let (mut intake, plans) = blocking(move || {
            let plans = plan(&intake, &limits)?;
            Ok((intake, plans))
        })
        .await?;
        for plan in &plans {
            operation.lease(&plan.config);
            for layer in &plan.layers {
                operation.lease(&layer.wanted.diff_id);
                if let Some((blob, _)) = &layer.wanted.blob {
                    operation.lease(blob);
                }
            }
        }
        let mut imported = Vec::new();
        for plan in plans {
            imported.push(load_one(operation, &mut intake, plan, progress).await?);
        }
        Ok(imported)
    }

    async fn take_in(
        &self,
        mut archive: ByteStream,
        operation: &Arc<Operation>,
    ) -> Result<Intake, ImagesError> {
        let (writer, reader) = pipe();
        let operation = Arc::clone(operation);
        let thread = tokio::task::spawn_blocking(move || {
            take_in(reader, &operation.store.disk, &operation.store.limits)
        });
        while let Some(chunk) = archive.next().await {
            // An upload that breaks off is no archive; dropping the writer tells the thread.
            let chunk = chunk.map_err(|e| ImagesError::io("receive", "the archive", e))?;
            if !writer.send(chunk).await {
                break;
            }
        }
        writer.finish().await;
        match thread.await {
            Ok(result) => result,
            Err(_) => Err(ImagesError::Archive(
                "internal error while reading it".to_owned(),
            )),
        }
    }
}

/// Makes one image of what was taken in.
async fn load_one(
    operation: &Arc<Operation>,
    intake: &mut Intake,
    plan: LoadPlan,
    progress: &Progress,
) -> Result<ImportedImage, ImagesError> {
    let mut work = Vec::new();
    let mut unchanged = true;
    for layer in &plan.layers {
        let maker = operation.store.maker(&layer.wanted.diff_id);
        let temp = intake.files.remove(&layer.file).map(|file| file.temp);
        work.push(load_layer(operation, layer.clone(), temp, maker, progress));
    }
    let results = futures::future::join_all(work).await;
    let mut layers: Vec<Layer> = Vec::new();
    let mut size = 0;
    for result in results {
        let (meta, existed) = result?;
        unchanged &= existed;
        size += meta.file_bytes;
        layers.push(layer_of(&meta));
    }
    let mut config = plan.parsed.config;
    config.size_bytes = size;
    let content = ImageContent {
        config: plan.config,
        config_bytes: plan.config_text.len() as u64,
        layers,
    };
    let operation = Arc::clone(operation);
    let (publish, text) = (content.clone(), plan.config_text);
    unchanged &= blocking(move || operation.publish(&publish, &text)).await?;
    Ok(ImportedImage {
        content,
        config,
        tags: plan.tags,
        manifest: None,
        source: None,
        unchanged,
    })
}

async fn load_layer(
    operation: &Arc<Operation>,
    layer: PlannedLayer,
    temp: Option<TempFile>,
    maker: Arc<tokio::sync::Mutex<()>>,
    progress: &Progress,
) -> Result<(Arc<super::disk::LayerMeta>, bool), ImagesError> {
    let turn = maker.lock_owned().await;
    let slot = operation
        .store
        .unpack_slots
        .acquire()
        .await
        .map_err(|_| ImagesError::Cancelled)?;
    let id = layer.wanted.short();
    let there = Arc::clone(operation);
    progress.state(&id, "Loading layer").await;
    let result = blocking(move || {
        let result = match (there.store.layer(&layer.wanted.diff_id), temp) {
            (Some(meta), _) => Ok((meta, true)),
            (None, Some(temp)) => {
                let bytes = LayerBytes::<std::fs::File>::Temp(temp);
                there
                    .build(&layer.wanted, layer.media_type.as_deref(), bytes)
                    .map(|meta| (meta, false))
            }
            // The archive's file became the blob of another image's layer that differs.
            (None, None) => {
                let blob = layer
                    .wanted
                    .blob
                    .as_ref()
                    .map_or(&layer.wanted.diff_id, |(digest, _)| digest)
                    .clone();
                let bytes = LayerBytes::<std::fs::File>::Blob(blob);
                there
                    .build(&layer.wanted, layer.media_type.as_deref(), bytes)
                    .map(|meta| (meta, false))
            }
        };
        drop(turn);
        result
    })
    .await;
    drop(slot);
    if result.is_ok() {
        progress.state(&id, "Loaded layer").await;
    }
    result
}

impl Operation {
    /// Makes an image visible whose layers are all there. Answers whether it was already. Blocks.
    pub(crate) fn publish(
        &self,
        content: &ImageContent,
        config: &[u8],
    ) -> Result<bool, ImagesError> {
        let actual = digest_of(config);
        if actual != content.config {
            return Err(ImagesError::DigestMismatch {
                what: "the image configuration".to_owned(),
                expected: content.config.clone(),
                actual,
            });
        }
        let existed = self.store.record(&content.config).is_ok();
        if !self.store.has_blob(&content.config, content.config_bytes) {
            self.made_blob(&content.config);
            self.store.disk.write_blob(config, &content.config)?;
        }
        self.store.publish_image(content)?;
        Ok(existed)
    }
}
