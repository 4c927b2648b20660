//! The fake host as image store.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Weak;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use model::{Digest, Image, ImageId};
use tokio::sync::{mpsc, watch};

use super::host::{FakeHost, Op};
use crate::driver::{
    BlobSource, ByteStream, DiskRoom, DriverError, ErrorClass, ImageProgress, ImageStore, Imported,
    ImportedImage, LayerLease, LoginRequest, PullRequest, SaveImage,
};

/// Images that came in and must stay for now.
struct Lease {
    host: Weak<FakeHost>,
    images: Vec<ImageId>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(host) = self.host.upgrade() else {
            return;
        };
        host.with(|s| {
            for id in &self.images {
                let left = s.leases.get(id).map_or(0, |count| count - 1);
                if left == 0 {
                    s.leases.remove(id);
                } else {
                    s.leases.insert(id.clone(), left);
                }
            }
        });
    }
}

fn leased(id: &ImageId) -> DriverError {
    DriverError::new(ErrorClass::Conflict, format!("image {id} is in use"))
}

impl FakeHost {
    /// Leases images and makes them complete.
    fn imported(&self, images: Vec<ImportedImage>) -> Imported {
        let lease = Lease {
            host: self.me.clone(),
            images: images.iter().map(|it| it.content.config.clone()).collect(),
        };
        self.with(|s| {
            for id in &lease.images {
                *s.leases.entry(id.clone()).or_default() += 1;
            }
        });
        for id in &lease.images {
            self.image_added(id.clone());
        }
        Imported {
            images,
            lease: Box::new(lease),
        }
    }

    fn image_added(&self, id: ImageId) {
        if self.with(|s| s.images.insert(id)) {
            self.image_changes.send_modify(|n| *n += 1);
        }
    }

    /// What a blob holds that will come in by a load; others hold the text of their digest.
    pub fn add_content(&self, digest: Digest, bytes: Bytes) {
        self.with(|s| s.contents.insert(digest, bytes));
    }

    /// Says how much room is on its disk; before, it cannot be said.
    pub fn set_room(&self, room: DiskRoom) {
        self.with(|s| s.room = Some(room));
    }

    /// Puts a blob on the host.
    pub fn add_blob(&self, digest: Digest, bytes: Bytes) {
        self.with(|s| s.blobs.insert(digest, bytes));
    }
}

#[async_trait]
impl ImageStore for FakeHost {
    fn complete(&self) -> BTreeSet<ImageId> {
        self.look(|s| s.images.clone())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.image_changes.subscribe()
    }

    fn room(&self) -> Option<DiskRoom> {
        self.look(|s| s.room)
    }

    async fn ensure(
        &self,
        image: &Image,
        relay: &dyn BlobSource,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<LayerLease, DriverError> {
        let there = self.look(|s| s.images.contains(&image.id));
        let missing: Vec<Digest> = if there || image.source.is_some() {
            Vec::new()
        } else {
            let layers = image.content.layers.iter().map(|l| l.blob.clone());
            layers
                .filter(|d| self.look(|s| !s.blobs.contains_key(d)))
                .collect()
        };
        for digest in missing {
            let line = ImageProgress {
                id: digest.hex().chars().take(12).collect(),
                status: "Downloading".to_owned(),
                ..ImageProgress::default()
            };
            let _ = progress.send(line).await;
            let mut blob = relay.open(&digest).await?;
            let mut bytes = Vec::new();
            while let Some(piece) = blob.next().await {
                let piece =
                    piece.map_err(|e| DriverError::new(ErrorClass::Failed, e.to_string()))?;
                bytes.extend_from_slice(&piece);
            }
            self.add_blob(digest, bytes.into());
        }
        self.operation(Op::Ensure, image.id.as_str(), |_| Ok(()))
            .await?;
        self.image_added(image.id.clone());
        Ok(LayerLease {
            layers: vec![PathBuf::from("/fake/layer")],
            lease: Box::new(()),
        })
    }

    async fn login(&self, request: &LoginRequest) -> Result<(), DriverError> {
        let known = self.look(|s| s.registries.get(&request.registry).cloned());
        if known.as_ref() == Some(&request.credentials) {
            return Ok(());
        }
        Err(DriverError::new(
            ErrorClass::Unauthorized,
            format!(
                "{}: the registry does not accept the credentials",
                request.registry
            ),
        ))
    }

    async fn pull(
        &self,
        request: &PullRequest,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<Imported, DriverError> {
        let known = self.look(|s| s.pulls.get(&request.reference).cloned());
        let image = known.ok_or_else(|| {
            DriverError::new(
                ErrorClass::NotFound,
                format!("manifest for {} not found", request.reference),
            )
        })?;
        let line = ImageProgress {
            status: "Pull complete".to_owned(),
            ..ImageProgress::default()
        };
        let _ = progress.send(line).await;
        Ok(self.imported(vec![image]))
    }

    async fn load(
        &self,
        mut archive: ByteStream,
        _progress: mpsc::Sender<ImageProgress>,
    ) -> Result<Imported, DriverError> {
        // A fake archive is the JSON of what it brings.
        let mut bytes = Vec::new();
        while let Some(piece) = archive.next().await {
            let piece = piece.map_err(|e| DriverError::new(ErrorClass::Failed, e.to_string()))?;
            bytes.extend_from_slice(&piece);
        }
        let images: Vec<ImportedImage> = serde_json::from_slice(&bytes).map_err(|e| {
            DriverError::new(ErrorClass::Invalid, format!("not a fake archive: {e}"))
        })?;
        for image in &images {
            for layer in &image.content.layers {
                let known = self.look(|s| s.contents.get(&layer.blob).cloned());
                let bytes = known.unwrap_or_else(|| Bytes::from(layer.blob.to_string()));
                self.add_blob(layer.blob.clone(), bytes);
            }
        }
        Ok(self.imported(images))
    }

    async fn save(&self, images: Vec<SaveImage>) -> Result<ByteStream, DriverError> {
        let json = serde_json::to_vec(&images)
            .map_err(|e| DriverError::new(ErrorClass::Failed, e.to_string()))?;
        Ok(Box::pin(futures::stream::iter([Ok(Bytes::from(json))])))
    }

    async fn open_blob(&self, digest: &Digest) -> Result<(u64, ByteStream), DriverError> {
        let blob = self.look(|s| s.blobs.get(digest).cloned()).ok_or_else(|| {
            DriverError::new(
                ErrorClass::NotFound,
                format!("no blob {digest} on this host"),
            )
        })?;
        let length = blob.len() as u64;
        Ok((length, Box::pin(futures::stream::iter([Ok(blob)]))))
    }

    async fn drop_image(
        &self,
        id: &ImageId,
        in_use: &BTreeSet<ImageId>,
    ) -> Result<(), DriverError> {
        if in_use.contains(id) {
            return Err(leased(id));
        }
        self.operation(Op::DropImage, id.as_str(), |s| {
            if s.leases.contains_key(id) {
                return Err(leased(id));
            }
            s.images.remove(id);
            Ok(())
        })
        .await?;
        self.image_changes.send_modify(|n| *n += 1);
        Ok(())
    }
}
