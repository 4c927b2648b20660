//! Pulls images from registries.

use std::sync::Arc;

use agent::driver::{ImportedImage, PullRequest};
use futures::StreamExt;
use model::{ImageContent, ImageReference, Layer};

use super::build::{Progress, Source, blocking};
use super::documents::{
    Descriptor, Manifest, WantedPlatform, choose_platform, parse_config, parse_manifest,
};
use super::error::ImagesError;
use super::layer::WantedLayer;
use super::registry::{Fetched, Registry, Wanted};
use super::store::{LocalImages, Operation};

/// Attempts for a manifest: it is small, and somebody waits.
const MANIFEST_ATTEMPTS: u32 = 4;

/// What a reference turned out to be.
struct Resolved {
    /// The digest the reference has: of the index, if there is one.
    top: model::Digest,
    /// The manifest of the platform.
    manifest: model::Digest,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl LocalImages {
    /// Pulls an image. Layers that are here are not downloaded, but the manifest always is, with the caller's
    /// credentials: having the content is no right to it. The image stays while the operation lives. Dropping the future
    /// leaves nothing behind.
    pub(crate) async fn pull_image(
        &self,
        request: &PullRequest,
        progress: &Progress,
    ) -> Result<(ImportedImage, Arc<Operation>), ImagesError> {
        let reference = parse_reference(&request.reference)?;
        let platform = match &request.platform {
            Some(text) => WantedPlatform::parse(text)?,
            None => WantedPlatform::host(),
        };
        let registry = self
            .connect(&reference, request.credentials.clone())
            .await?;
        let resolved = self.resolve(&registry, &reference, &platform).await?;
        let manifest = resolved.manifest.clone();
        let (operation, gone) = Operation::watched(&self.inner);
        let pulled = self
            .pull_resolved(&operation, &registry, resolved, progress)
            .await;
        match pulled {
            Ok(mut imported) => {
                imported.source = Some(format!("{}@{manifest}", reference.name()));
                Ok((imported, operation))
            }
            Err(error) => {
                // The answer is given when the disk is as it was.
                drop(operation);
                gone.wait().await;
                Err(error)
            }
        }
    }

    /// Brings here what a manifest lists.
    async fn pull_resolved(
        &self,
        operation: &Arc<Operation>,
        registry: &Registry<'_>,
        resolved: Resolved,
        progress: &Progress,
    ) -> Result<ImportedImage, ImagesError> {
        operation.lease(&resolved.config.digest);
        let config = self
            .fetch_config(
                &resolved.config.digest,
                resolved.config.size,
                &[registry as &dyn Source],
            )
            .await?;
        let parsed = parse_config(&config, &self.inner.limits)?;
        if parsed.diff_ids.len() != resolved.layers.len() {
            return Err(ImagesError::Document {
                what: "image".to_owned(),
                reason: format!(
                    "its manifest has {} layers, its configuration names {}",
                    resolved.layers.len(),
                    parsed.diff_ids.len()
                ),
            });
        }
        let layers: Vec<Layer> = resolved
            .layers
            .iter()
            .zip(&parsed.diff_ids)
            .map(|(blob, diff_id)| Layer {
                diff_id: diff_id.clone(),
                blob: blob.digest.clone(),
                blob_bytes: blob.size,
                media_type: blob.media_type.clone(),
            })
            .collect();
        for layer in &layers {
            operation.lease(&layer.diff_id);
            operation.lease(&layer.blob);
        }
        let (size, layers_there) = self
            .pull_layers(operation, &layers, registry, progress)
            .await?;
        let content = ImageContent {
            config: resolved.config.digest,
            config_bytes: config.len() as u64,
            layers,
        };
        let (publish, operation) = (content.clone(), Arc::clone(operation));
        let existed = blocking(move || operation.publish(&publish, &config)).await?;
        let mut config = parsed.config;
        config.size_bytes = size;
        Ok(ImportedImage {
            content,
            config,
            tags: Vec::new(),
            manifest: Some(resolved.top),
            source: None,
            unchanged: existed && layers_there,
        })
    }

    async fn connect(
        &self,
        reference: &ImageReference,
        credentials: Option<agent::driver::Credentials>,
    ) -> Result<Registry<'_>, ImagesError> {
        let mut attempt = 1;
        loop {
            match Registry::connect(&self.inner.transport, reference, credentials.clone()).await {
                Err(error) if error.is_transient() && attempt < MANIFEST_ATTEMPTS => {
                    tokio::time::sleep(super::build::backoff(attempt)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Asks a registry whether it accepts credentials.
    pub(super) async fn try_login(
        &self,
        request: &agent::driver::LoginRequest,
    ) -> Result<(), ImagesError> {
        // One attempt: somebody waits at a terminal and can try again.
        Registry::login(
            &self.inner.transport,
            &request.registry,
            request.credentials.clone(),
        )
        .await
    }

    /// The registry an image was once pulled from, without credentials.
    pub(super) async fn registry_source(&self, source: &str) -> Result<Registry<'_>, ImagesError> {
        // One attempt: the relay is there as well.
        Registry::connect(&self.inner.transport, &parse_reference(source)?, None).await
    }

    async fn resolve(
        &self,
        registry: &Registry<'_>,
        reference: &ImageReference,
        platform: &WantedPlatform,
    ) -> Result<Resolved, ImagesError> {
        let wanted = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => Wanted::Digest(digest),
            (None, Some(tag)) => Wanted::Tag(tag),
            (None, None) => Wanted::Tag("latest"),
        };
        let limits = &self.inner.limits;
        let mut fetched = self.manifest(registry, &wanted).await?;
        let top = fetched.digest.clone();
        let mut manifest = parse_manifest(&fetched.bytes, fetched.media_type.as_deref(), limits)?;
        if let Manifest::Index(variants) = &manifest {
            let chosen = choose_platform(variants, platform)?.digest.clone();
            fetched = self.manifest(registry, &Wanted::Digest(&chosen)).await?;
            manifest = parse_manifest(&fetched.bytes, fetched.media_type.as_deref(), limits)?;
        }
        match manifest {
            Manifest::Image { config, layers } => Ok(Resolved {
                top,
                manifest: fetched.digest,
                config,
                layers,
            }),
            Manifest::Index(_) => Err(ImagesError::Document {
                what: "index".to_owned(),
                reason: "indexes are nested".to_owned(),
            }),
        }
    }

    async fn manifest(
        &self,
        registry: &Registry<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<Fetched, ImagesError> {
        let mut attempt = 1;
        loop {
            match registry
                .manifest(wanted, self.inner.limits.manifest_bytes)
                .await
            {
                Err(error) if error.is_transient() && attempt < MANIFEST_ATTEMPTS => {
                    tokio::time::sleep(super::build::backoff(attempt)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Brings all layers here, a few at a time; the sum of their unpacked bytes, and whether all were here already.
    async fn pull_layers(
        &self,
        operation: &Arc<Operation>,
        layers: &[Layer],
        registry: &Registry<'_>,
        progress: &Progress,
    ) -> Result<(u64, bool), ImagesError> {
        let wanted: Vec<_> = layers
            .iter()
            .map(|l| {
                (
                    WantedLayer {
                        diff_id: l.diff_id.clone(),
                        blob: Some((l.blob.clone(), l.blob_bytes)),
                    },
                    l,
                )
            })
            .collect();
        for (layer, _) in &wanted {
            progress.state(&layer.short(), "Pulling fs layer").await;
        }
        let mut work = Vec::new();
        for (layer, listed) in &wanted {
            work.push(operation.obtain(layer, Some(&listed.media_type), registry, progress));
        }
        let mut running = futures::stream::iter(work)
            .buffer_unordered(self.inner.limits.parallel_downloads.max(1));
        let (mut size, mut all_there) = (0, true);
        while let Some(result) = running.next().await {
            let (meta, was_there) = result?;
            size += meta.file_bytes;
            all_there &= was_there;
        }
        Ok((size, all_there))
    }
}

fn parse_reference(text: &str) -> Result<ImageReference, ImagesError> {
    ImageReference::parse(text).map_err(|e| ImagesError::Document {
        what: "image reference".to_owned(),
        reason: e.to_string(),
    })
}
