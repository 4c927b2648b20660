//! Known content from other hosts, and content for them.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use agent::driver::{BlobSource, ByteStream};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use model::{Digest, Image, Layer};
use tokio::sync::mpsc;

use super::build::{Chunks, Progress, Source, blocking};
use super::driver::Hold;
use super::error::ImagesError;
use super::layer::WantedLayer;
use super::store::{LocalImages, Operation};
use super::streams::{BUFFER, Decoder, digest_of};

/// Chunks read ahead for a stream that goes out: one is sent while the next is read.
const READ_AHEAD: usize = 4;

/// How often the relay is asked for a blob that turned out to be something else: it asks another host each time, and
/// few hosts are damaged or hostile.
const COPIES_TRIED: u32 = 3;

/// The server's relay as a source of blobs.
pub(crate) struct Relay<'a>(pub(crate) &'a dyn BlobSource);

#[async_trait]
impl Source for Relay<'_> {
    async fn open(
        &self,
        digest: &Digest,
        _bytes: u64,
        _offset: u64,
    ) -> Result<(Chunks, u64), ImagesError> {
        let fail = {
            let digest = digest.clone();
            move |reason: String| ImagesError::Source {
                digest: digest.clone(),
                reason,
            }
        };
        let stream = self.0.open(digest).await.map_err(|e| match e.class {
            agent::driver::ErrorClass::NotFound => ImagesError::NotFound {
                what: "blob on any host",
                subject: digest.to_string(),
            },
            _ => fail(e.message),
        })?;
        Ok((
            stream
                .map(move |chunk| chunk.map_err(|e| fail(e.to_string())))
                .boxed(),
            0,
        ))
    }

    fn copies(&self) -> u32 {
        COPIES_TRIED
    }
}

impl LocalImages {
    /// Brings a known image here; `operation` keeps its content from then on.
    pub(crate) async fn fetch(
        &self,
        image: &Image,
        relay: &dyn BlobSource,
        operation: &Arc<Operation>,
        progress: &Progress,
    ) -> Result<(), ImagesError> {
        let content = &image.content;
        if content.layers.is_empty() || content.layers.len() > self.inner.limits.layers {
            return Err(ImagesError::Document {
                what: "image".to_owned(),
                reason: format!(
                    "it has {} layers; 1 to {} are possible",
                    content.layers.len(),
                    self.inner.limits.layers
                ),
            });
        }
        operation.lease(&content.config);
        for layer in &content.layers {
            operation.lease(&layer.diff_id);
            operation.lease(&layer.blob);
        }
        let registry = match &image.source {
            Some(source) => self.registry_source(source).await.ok(),
            None => None,
        };
        let relay = Relay(relay);
        let sources: Vec<&dyn Source> = registry
            .as_ref()
            .map(|r| r as &dyn Source)
            .into_iter()
            .chain([&relay as &dyn Source])
            .collect();
        let config = self
            .fetch_config(&content.config, content.config_bytes, &sources)
            .await?;
        let parsed = super::documents::parse_config(&config, &self.inner.limits)?;
        if !parsed
            .diff_ids
            .iter()
            .eq(content.layers.iter().map(|l| &l.diff_id))
        {
            return Err(ImagesError::Document {
                what: "image".to_owned(),
                reason: "its configuration names other layers than its record".to_owned(),
            });
        }
        let mut work = Vec::new();
        for layer in &content.layers {
            work.push(fetch_layer(operation, layer, &sources, progress));
        }
        let mut done = futures::stream::iter(work)
            .buffer_unordered(self.inner.limits.parallel_downloads.max(1));
        while let Some(result) = done.next().await {
            result?;
        }
        drop(done);
        let (operation, content) = (Arc::clone(operation), content.clone());
        blocking(move || operation.publish(&content, &config))
            .await
            .map(drop)
    }

    /// A configuration: from the store, or else from the first source that has it.
    pub(crate) async fn fetch_config(
        &self,
        digest: &Digest,
        bytes: u64,
        sources: &[&dyn Source],
    ) -> Result<Vec<u8>, ImagesError> {
        if bytes > self.inner.limits.config_bytes {
            return Err(ImagesError::TooLarge {
                what: "the image configuration".to_owned(),
                limit: format!("{} bytes", self.inner.limits.config_bytes),
            });
        }
        if let Ok(text) = std::fs::read(self.inner.disk.blob(digest))
            && digest_of(&text) == *digest
        {
            return Ok(text);
        }
        let mut last = None;
        for source in sources {
            match self.read_all(*source, digest, bytes).await {
                Ok(text) => return Ok(text),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(ImagesError::NotFound {
            what: "source for",
            subject: digest.to_string(),
        }))
    }

    async fn read_all(
        &self,
        source: &dyn Source,
        digest: &Digest,
        bytes: u64,
    ) -> Result<Vec<u8>, ImagesError> {
        let what = || "the image configuration".to_owned();
        let mut attempt = 1;
        let text = loop {
            let result = async {
                let (mut chunks, _) = source.open(digest, bytes, 0).await?;
                let mut text = Vec::new();
                while let Some(chunk) = chunks.next().await {
                    text.extend_from_slice(&chunk?);
                    if text.len() as u64 > bytes {
                        return Err(ImagesError::SizeMismatch {
                            what: what(),
                            expected: bytes,
                            actual: text.len() as u64,
                        });
                    }
                }
                Ok(text)
            };
            match result.await {
                Err(error) if error.is_transient() && attempt < self.inner.limits.attempts => {
                    tokio::time::sleep(super::build::backoff(attempt)).await;
                    attempt += 1;
                }
                other => break other?,
            }
        };
        let actual = digest_of(&text);
        if actual != *digest {
            return Err(ImagesError::DigestMismatch {
                what: what(),
                expected: digest.clone(),
                actual,
            });
        }
        Ok(text)
    }

    /// A blob's length and bytes. A layer is also found by the digest of its uncompressed archive.
    pub(crate) async fn read_blob(
        &self,
        digest: &Digest,
    ) -> Result<(u64, ByteStream), ImagesError> {
        let hold = Operation::new(&self.inner);
        hold.lease(digest);
        let digest = digest.clone();
        blocking(move || {
            let disk = &hold.store.disk;
            let open = |d: &Digest| {
                File::open(disk.blob(d)).map_err(|e| ImagesError::io("open", d.to_string(), e))
            };
            if let Some(bytes) = disk.blob_len(&digest) {
                let file = open(&digest)?;
                return Ok((bytes, read_out(file, hold)));
            }
            let missing = || ImagesError::NotFound {
                what: "blob",
                subject: digest.to_string(),
            };
            let meta = hold.store.layer(&digest).ok_or_else(missing)?;
            let blob = disk
                .blob_len(&meta.blob)
                .and_then(|_| open(&meta.blob).ok())
                .ok_or_else(missing)?;
            let (decoder, _) = Decoder::new(blob)?;
            Ok((meta.tar_bytes, read_out(decoder, hold)))
        })
        .await
    }
}

/// Tries the sources one after the other, and the uncompressed form where the compressed one is nowhere.
async fn fetch_layer(
    operation: &Arc<Operation>,
    layer: &Layer,
    sources: &[&dyn Source],
    progress: &Progress,
) -> Result<(), ImagesError> {
    let as_listed = WantedLayer {
        diff_id: layer.diff_id.clone(),
        blob: Some((layer.blob.clone(), layer.blob_bytes)),
    };
    let as_tar = WantedLayer {
        diff_id: layer.diff_id.clone(),
        blob: None,
    };
    let mut first = None;
    for wanted in [&as_listed, &as_tar] {
        let media_type = wanted.blob.is_some().then_some(layer.media_type.as_str());
        for source in sources {
            for _ in 0..source.copies() {
                let error = match operation
                    .obtain(wanted, media_type, *source, progress)
                    .await
                {
                    Ok(_) => return Ok(()),
                    // No other source helps against a full disk or someone giving up.
                    Err(
                        error @ (ImagesError::DiskFull { .. }
                        | ImagesError::Cancelled
                        | ImagesError::Io { .. }),
                    ) => return Err(error),
                    Err(error) => error,
                };
                tracing::debug!(layer = %layer.diff_id, %error, "a source failed");
                let damaged = error.is_other_content();
                first.get_or_insert(error);
                if !damaged {
                    break;
                }
            }
        }
    }
    Err(first.unwrap_or(ImagesError::Cancelled))
}

/// Reads on a thread into a bounded channel; ends when nobody listens.
pub(crate) fn read_out(mut input: impl Read + Send + 'static, hold: Hold) -> ByteStream {
    let (to, from) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = vec![0; BUFFER];
            match input.read(&mut chunk) {
                Ok(0) => break,
                Ok(got) => {
                    chunk.truncate(got);
                    if to.blocking_send(Ok(Bytes::from(chunk))).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    drop(to.blocking_send(Err(error)));
                    break;
                }
            }
        }
        drop(hold);
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(from))
}
