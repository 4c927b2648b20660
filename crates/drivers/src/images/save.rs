//! Writes archives that are both what `docker save` writes and an OCI layout.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use agent::driver::{ByteStream, SaveImage};
use bytes::Bytes;
use model::{Digest, ImageContent, ImageReference, Layer};
use serde_json::json;
use tokio::sync::mpsc;

use super::build::blocking;
use super::documents::{OCI_INDEX, OCI_MANIFEST};
use super::error::ImagesError;
use super::store::{CONFIG_TYPE, Inner, LocalImages, Operation, layer_of};
use super::streams::{BUFFER, digest_of};

/// Chunks written ahead of the network.
const AHEAD: usize = 4;

/// An archive's content, known before its first byte is written.
#[derive(Default)]
struct Plan {
    /// Documents and small blobs with their names in the archive.
    texts: Vec<(String, Vec<u8>)>,
    /// Layer blobs.
    layers: BTreeMap<Digest, u64>,
}

impl LocalImages {
    /// Writes images into one archive.
    ///
    /// # Errors
    /// When an image is not complete here. Later errors come through the stream.
    pub(crate) async fn save_archive(
        &self,
        images: Vec<SaveImage>,
    ) -> Result<ByteStream, ImagesError> {
        let operation = Operation::new(&self.inner);
        let (operation, plan) = blocking(move || {
            let plan = plan(&operation, &images)?;
            Ok((operation, plan))
        })
        .await?;
        let (to, from) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            let mut out = BufWriter::with_capacity(BUFFER, ChannelWriter(to.clone()));
            let written = write(&operation, &plan, &mut out).and_then(|()| out.flush());
            if let Err(error) = written {
                // Nobody may be listening any more, which is the usual reason for the error.
                drop(to.blocking_send(Err(error)));
            }
        });
        Ok(Box::pin(tokio_stream::wrappers::ReceiverStream::new(from)))
    }
}

/// Documents under construction.
#[derive(Default)]
struct Drafts {
    docker: Vec<serde_json::Value>,
    oci: Vec<serde_json::Value>,
    repositories: BTreeMap<String, BTreeMap<String, String>>,
    written: BTreeSet<Digest>,
    plan: Plan,
}

fn plan(operation: &Arc<Operation>, images: &[SaveImage]) -> Result<Plan, ImagesError> {
    let mut drafts = Drafts::default();
    for save in images {
        drafts.add(operation, save)?;
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": drafts.oci });
    let layout = json!({ "imageLayoutVersion": "1.0.0" });
    let mut plan = drafts.plan;
    for (name, document) in [
        ("oci-layout", layout),
        ("index.json", index),
        ("manifest.json", drafts.docker.into()),
        ("repositories", json!(drafts.repositories)),
    ] {
        plan.texts
            .push((name.to_owned(), document.to_string().into_bytes()));
    }
    Ok(plan)
}

/// The layers of an image as they are kept here, which must all be there.
fn kept_layers(store: &Inner, content: &ImageContent) -> Result<Vec<Layer>, ImagesError> {
    let mut layers = Vec::new();
    for layer in &content.layers {
        // A blob that was damaged is gone; the image still runs, but cannot be saved.
        let kept = store
            .layer(&layer.diff_id)
            .filter(|meta| store.disk.blob_len(&meta.blob).is_some());
        layers.push(layer_of(&*kept.ok_or_else(|| ImagesError::NotFound {
            what: "layer blob",
            subject: layer.blob.to_string(),
        })?));
    }
    Ok(layers)
}

impl Drafts {
    fn add(&mut self, operation: &Arc<Operation>, save: &SaveImage) -> Result<(), ImagesError> {
        let content = &operation.lease_image(&save.image.id)?.content;
        let path = operation.store.disk.blob(&content.config);
        let config = std::fs::read(&path)
            .map_err(|e| ImagesError::io("read", path.display().to_string(), e))?;
        let layers = kept_layers(&operation.store, content)?;
        let manifest = oci_manifest(&content.config, content.config_bytes, &layers);
        let manifest_digest = digest_of(&manifest);
        let tags: Vec<ImageReference> = save
            .tags
            .iter()
            .filter_map(|t| ImageReference::parse(t).ok())
            .collect();
        self.docker.push(json!({
            "Config": blob_name(&content.config),
            "RepoTags": tags.iter().map(ImageReference::familiar).collect::<Vec<_>>(),
            "Layers": layers.iter().map(|l| blob_name(&l.blob)).collect::<Vec<_>>(),
        }));
        self.oci
            .extend(index_entries(&manifest_digest, manifest.len(), &tags));
        let top = layers.last().map_or("", |l| l.diff_id.hex());
        for tag in &tags {
            let names = self.repositories.entry(tag.familiar_name()).or_default();
            names.insert(tag.tag.clone().unwrap_or_default(), top.to_owned());
        }
        for (digest, text) in [
            (content.config.clone(), config),
            (manifest_digest, manifest),
        ] {
            if self.written.insert(digest.clone()) {
                self.plan.texts.push((blob_name(&digest), text));
            }
        }
        let blobs = layers.into_iter().map(|l| (l.blob, l.blob_bytes));
        self.plan.layers.extend(blobs);
        Ok(())
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn oci_manifest(config: &Digest, config_bytes: u64, layers: &[Layer]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|l| json!({ "mediaType": oci_layer_type(&l.media_type), "digest": l.blob, "size": l.blob_bytes }))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": CONFIG_TYPE, "digest": config, "size": config_bytes },
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// Docker's names for layers are not allowed beside OCI's in one manifest.
fn oci_layer_type(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        other => other,
    }
}

/// One entry per tag, or one without a name.
fn index_entries(
    manifest: &Digest,
    bytes: usize,
    tags: &[ImageReference],
) -> Vec<serde_json::Value> {
    let entry = |annotations: Option<serde_json::Value>| {
        let mut entry = json!({ "mediaType": OCI_MANIFEST, "digest": manifest, "size": bytes });
        if let Some(annotations) = annotations {
            entry["annotations"] = annotations;
        }
        entry
    };
    if tags.is_empty() {
        return vec![entry(None)];
    }
    tags.iter()
        .map(|tag| {
            entry(Some(json!({
                "io.containerd.image.name": tag.to_string(),
                "org.opencontainers.image.ref.name": tag.tag.clone().unwrap_or_default(),
            })))
        })
        .collect()
}

fn write(operation: &Arc<Operation>, plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    for folder in ["blobs/", "blobs/sha256/"] {
        header(out, folder, 0, tar::EntryType::Directory)?;
    }
    for (digest, bytes) in &plan.layers {
        let mut file = File::open(operation.store.disk.blob(digest))?;
        header(out, &blob_name(digest), *bytes, tar::EntryType::Regular)?;
        if io::copy(&mut file, out)? != *bytes {
            return Err(io::Error::other("a layer blob changed while it was read"));
        }
        pad(out, *bytes)?;
    }
    for (name, text) in &plan.texts {
        header(out, name, text.len() as u64, tar::EntryType::Regular)?;
        out.write_all(text)?;
        pad(out, text.len() as u64)?;
    }
    out.write_all(&[0; 1024])
}

fn header(out: &mut impl Write, name: &str, bytes: u64, kind: tar::EntryType) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_entry_type(kind);
    header.set_mode(if kind == tar::EntryType::Directory {
        0o755
    } else {
        0o644
    });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    out.write_all(header.as_bytes())
}

fn pad(out: &mut impl Write, bytes: u64) -> io::Result<()> {
    let rest = usize::try_from((512 - bytes % 512) % 512).unwrap_or(0);
    out.write_all(&[0; 512][..rest])
}

struct ChannelWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for ChannelWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(buf)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
