//! The store as the agent sees it.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent::driver::{
    BlobSource, ByteStream, DiskRoom, DriverError, ErrorClass, ImageProgress, ImageStore, Imported,
    LayerLease, LoginRequest, PullRequest, SaveImage,
};
use async_trait::async_trait;
use model::{Digest, Image, ImageId};
use tokio::sync::{mpsc, watch};

use super::build::{Progress, blocking};
use super::error::ImagesError;
use super::store::{LocalImages, Operation};

impl From<ImagesError> for DriverError {
    fn from(error: ImagesError) -> Self {
        let class = match &error {
            ImagesError::DiskFull { .. } => ErrorClass::Full,
            ImagesError::Entry { .. }
            | ImagesError::Archive(_)
            | ImagesError::TooLarge { .. }
            | ImagesError::DigestMismatch { .. }
            | ImagesError::SizeMismatch { .. }
            | ImagesError::Document { .. }
            | ImagesError::Unsupported(_)
            | ImagesError::ForbiddenAddress { .. } => ErrorClass::Invalid,
            ImagesError::NotFound { .. } | ImagesError::ManifestUnknown { .. } => {
                ErrorClass::NotFound
            }
            ImagesError::Denied { .. } => ErrorClass::Unauthorized,
            ImagesError::Locked(_) => ErrorClass::Conflict,
            ImagesError::Io { .. }
            | ImagesError::Registry { .. }
            | ImagesError::Source { .. }
            | ImagesError::Cancelled => ErrorClass::Failed,
        };
        Self::new(class, error.to_string()).with_source(error)
    }
}

#[async_trait]
impl ImageStore for LocalImages {
    fn complete(&self) -> BTreeSet<ImageId> {
        self.complete_ids()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.watch_changes()
    }

    fn room(&self) -> Option<DiskRoom> {
        self.disk_room()
    }

    async fn ensure(
        &self,
        image: &Image,
        relay: &dyn BlobSource,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<LayerLease, DriverError> {
        // Leased before anything is looked at: a drop cannot come in between.
        let (lease, gone) = Operation::watched(&self.inner);
        if lease.lease_image(&image.id).is_err() {
            let fetched = self
                .fetch(image, relay, &lease, &Progress(Some(progress)))
                .await;
            if let Err(error) = fetched {
                drop(lease);
                gone.wait().await;
                return Err(error.into());
            }
        }
        let layers = self.lowerdirs(&image.id)?;
        Ok(LayerLease {
            layers,
            lease: Box::new(lease),
        })
    }

    async fn login(&self, request: &LoginRequest) -> Result<(), DriverError> {
        Ok(self.try_login(request).await?)
    }

    async fn pull(
        &self,
        request: &PullRequest,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<Imported, DriverError> {
        let progress = Progress(Some(progress));
        let (image, lease) = self.pull_image(request, &progress).await?;
        Ok(Imported {
            images: vec![image],
            lease: Box::new(lease),
        })
    }

    async fn load(
        &self,
        archive: ByteStream,
        progress: mpsc::Sender<ImageProgress>,
    ) -> Result<Imported, DriverError> {
        let progress = Progress(Some(progress));
        let (images, lease) = self.load_archive(archive, progress).await?;
        Ok(Imported {
            images,
            lease: Box::new(lease),
        })
    }

    async fn save(&self, images: Vec<SaveImage>) -> Result<ByteStream, DriverError> {
        Ok(self.save_archive(images).await?)
    }

    async fn open_blob(&self, digest: &Digest) -> Result<(u64, ByteStream), DriverError> {
        Ok(self.read_blob(digest).await?)
    }

    async fn drop_image(
        &self,
        id: &ImageId,
        in_use: &BTreeSet<ImageId>,
    ) -> Result<(), DriverError> {
        let used = || {
            DriverError::new(
                ErrorClass::Conflict,
                format!("image {id} is in use on this host"),
            )
        };
        if in_use.contains(id) {
            return Err(used());
        }
        let (images, id) = (self.clone(), id.clone());
        if blocking(move || images.drop_local(&id)).await? {
            Ok(())
        } else {
            Err(used())
        }
    }
}

/// Keeps what a stream reads from being deleted while it is read.
pub(crate) type Hold = Arc<Operation>;
