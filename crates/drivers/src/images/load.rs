//! Loads archives: `docker save` in all its forms, and OCI layouts in a tar.
//!
//! What it is: one pass over the stream, every file into a temporary file with its digest computed on the way; then the
//! documents say which of them are layers, and those become blobs by renaming. What it is not: it does not keep
//! anything in memory but the documents.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

use agent::driver::{ByteStream, ImportedImage};
use futures::StreamExt;
use model::{Digest, ImageContent, ImageReference, Layer};
use serde::Deserialize;

use super::build::{LayerBytes, Progress, blocking};
use super::disk::{Disk, TempFile};
use super::documents::{
    Descriptor, Manifest, ParsedConfig, WantedPlatform, choose_platform, parse_config,
    parse_manifest,
};
use super::error::{ImagesError, quoted};
use super::jail::segments;
use super::layer::WantedLayer;
use super::limits::Limits;
use super::pipe::{PipeReader, pipe};
use super::store::{LocalImages, Operation, layer_of};
use super::streams::{BombGuard, Decoder, HashingReader, digest_of};
use super::tarstream::{EntryKind, TarStream};

/// Tags of one image in an archive: more is a mistake or an attack.
const TAGS_MAX: usize = 1000;

/// What an archive held.
#[derive(Default)]
pub(crate) struct Intake {
    files: BTreeMap<String, TakenFile>,
    /// Older `docker save` links equal layers to each other.
    links: HashMap<String, String>,
    bytes: u64,
}

struct TakenFile {
    temp: TempFile,
    digest: Digest,
    bytes: u64,
}

/// One image to be made of an intake.
#[derive(Debug)]
pub(crate) struct LoadPlan {
    config: Digest,
    config_text: Vec<u8>,
    parsed: ParsedConfig,
    layers: Vec<PlannedLayer>,
    tags: Vec<String>,
}

#[derive(Debug, Clone)]
struct PlannedLayer {
    wanted: WantedLayer,
    media_type: Option<String>,
    file: String,
}

impl LocalImages {
    /// Loads all images of an archive. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// When the archive is damaged or none of its forms is known, or an image in it is not what it says.
    pub(crate) async fn load_archive(
        &self,
        archive: ByteStream,
        progress: Progress,
    ) -> Result<Vec<ImportedImage>, ImagesError> {
        let operation = Operation::new(&self.inner);
        let mut intake = self.take_in(archive, &operation).await?;
        let limits = self.inner.limits.clone();
        let (mut intake, plans) = blocking(move || {
            let plans = plan(&mut intake, &limits)?;
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
            imported.push(load_one(&operation, &mut intake, plan, &progress).await?);
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

/// Reads a whole archive into temporary files. Blocks.
fn take_in(reader: PipeReader, disk: &Disk, limits: &Limits) -> Result<Intake, ImagesError> {
    let mut limits_here = limits.clone();
    limits_here.layer_bytes = limits.image_bytes;
    let raw =
        HashingReader::<_, std::io::Sink>::new(reader, None, limits.image_bytes, "the archive")
            .without_digest();
    let count = raw.counter();
    let (decoder, _) = Decoder::new(raw)?;
    let guard = BombGuard::new(decoder, count, &limits_here);
    let mut archive = TarStream::new(std::io::BufReader::with_capacity(
        super::streams::BUFFER,
        guard,
    ));
    let mut intake = Intake::default();
    let mut entries = 0;
    while let Some(entry) = archive.next()? {
        entries += 1;
        if entries > limits.archive_entries {
            return Err(ImagesError::TooLarge {
                what: "the number of files in the archive".to_owned(),
                limit: limits.archive_entries.to_string(),
            });
        }
        let path = segments(&entry.path, limits.depth)?.join(&b'/');
        let path = String::from_utf8(path)
            .map_err(|_| ImagesError::Archive("a file name is not UTF-8".to_owned()))?;
        match entry.kind {
            EntryKind::Directory => {}
            EntryKind::File => intake.file(path, &mut archive, disk)?,
            EntryKind::Symlink => {
                let target = lexical(&path, &entry.link)?;
                intake.links.insert(path, target);
            }
            EntryKind::HardLink => {
                let target = segments(&entry.link, limits.depth)?.join(&b'/');
                intake
                    .links
                    .insert(path, String::from_utf8_lossy(&target).into_owned());
            }
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                return Err(ImagesError::Entry {
                    entry: quoted(&entry.path),
                    reason: "an archive of images has only files".to_owned(),
                });
            }
        }
    }
    archive.drain()?;
    Ok(intake)
}

/// The target of a link inside an archive, as a name in the archive.
fn lexical(path: &str, target: &[u8]) -> Result<String, ImagesError> {
    let fail = || ImagesError::Entry {
        entry: quoted(path.as_bytes()),
        reason: "the link leads out of the archive".to_owned(),
    };
    let target = std::str::from_utf8(target).map_err(|_| fail())?;
    if target.starts_with('/') {
        return Err(fail());
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(fail)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

impl Intake {
    fn file<R: Read>(
        &mut self,
        path: String,
        archive: &mut TarStream<R>,
        disk: &Disk,
    ) -> Result<(), ImagesError> {
        let temp = disk.temp_file()?;
        let mut reader =
            HashingReader::new(archive, Some(&temp.file), u64::MAX, "file of the archive");
        let mut scratch = vec![0; super::streams::BUFFER];
        loop {
            let got = reader
                .read(&mut scratch)
                .map_err(|e| ImagesError::io("read", "archive", e))?;
            if got == 0 {
                break;
            }
        }
        let (digest, bytes, _) = reader.finish();
        let digest =
            digest.ok_or_else(|| ImagesError::Archive("no digest was computed".to_owned()))?;
        if let Some(hex) = path.strip_prefix("blobs/sha256/")
            && hex != digest.hex()
        {
            let expected = Digest::parse(&format!("sha256:{hex}"))
                .map_err(|_| ImagesError::Archive("a blob's name is not a digest".to_owned()))?;
            return Err(ImagesError::DigestMismatch {
                what: "a blob of the archive".to_owned(),
                expected,
                actual: digest,
            });
        }
        self.bytes += bytes;
        self.files.insert(
            path,
            TakenFile {
                temp,
                digest,
                bytes,
            },
        );
        Ok(())
    }

    /// The name a path leads to over links.
    fn resolve<'a>(&'a self, path: &'a str) -> Option<&'a str> {
        let mut path = path;
        for _ in 0..8 {
            match self.links.get(path) {
                Some(target) => path = target,
                None => return self.files.contains_key(path).then_some(path),
            }
        }
        None
    }

    fn find(&self, path: &str) -> Result<(String, &TakenFile), ImagesError> {
        let clean: Vec<&str> = path
            .split('/')
            .filter(|p| !matches!(*p, "" | "."))
            .collect();
        let clean = clean.join("/");
        let missing = || ImagesError::Document {
            what: "archive".to_owned(),
            reason: format!("it has no file \"{}\"", quoted(path.as_bytes())),
        };
        let name = self.resolve(&clean).ok_or_else(missing)?.to_owned();
        let file = self.files.get(&name).ok_or_else(missing)?;
        Ok((name, file))
    }

    fn text(&self, path: &str, max: u64) -> Result<Vec<u8>, ImagesError> {
        let (name, file) = self.find(path)?;
        if file.bytes > max {
            return Err(ImagesError::TooLarge {
                what: format!("\"{}\"", quoted(name.as_bytes())),
                limit: format!("{max} bytes"),
            });
        }
        std::fs::read(&file.temp.path)
            .map_err(|e| ImagesError::io("read", file.temp.path.display().to_string(), e))
    }

    fn blob_text(&self, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>, ImagesError> {
        self.text(&format!("blobs/sha256/{}", descriptor.digest.hex()), max)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct OciIndex {
    manifests: Vec<Descriptor>,
}

/// Reads an archive's documents.
fn plan(intake: &mut Intake, limits: &Limits) -> Result<Vec<LoadPlan>, ImagesError> {
    let plans = if intake.files.contains_key("manifest.json") {
        plan_docker(intake, limits)?
    } else if intake.files.contains_key("index.json") {
        plan_oci(intake, limits)?
    } else if intake.files.contains_key("repositories") {
        return Err(ImagesError::Unsupported(
            "archives of Docker before 1.10 are not supported; save the image again with a current program".to_owned(),
        ));
    } else {
        return Err(ImagesError::Document {
            what: "archive".to_owned(),
            reason: "it has neither manifest.json (docker save) nor index.json (OCI)".to_owned(),
        });
    };
    if plans.is_empty() {
        return Err(ImagesError::Document {
            what: "archive".to_owned(),
            reason: "it names no image".to_owned(),
        });
    }
    Ok(plans)
}

fn plan_docker(intake: &Intake, limits: &Limits) -> Result<Vec<LoadPlan>, ImagesError> {
    let text = intake.text("manifest.json", limits.manifest_bytes)?;
    let items: Vec<DockerItem> =
        serde_json::from_slice(&text).map_err(|e| ImagesError::Document {
            what: "manifest.json".to_owned(),
            reason: e.to_string(),
        })?;
    let mut plans = Vec::new();
    for item in items {
        let config_text = intake.text(&item.config, limits.config_bytes)?;
        let parsed = parse_config(&config_text, limits)?;
        let files = item.layers.unwrap_or_default();
        check_layer_count(files.len(), &parsed)?;
        let mut layers = Vec::new();
        for (file, diff_id) in files.iter().zip(&parsed.diff_ids) {
            let (name, taken) = intake.find(file)?;
            let wanted = WantedLayer {
                diff_id: diff_id.clone(),
                blob: Some((taken.digest.clone(), taken.bytes)),
            };
            layers.push(PlannedLayer {
                wanted,
                media_type: None,
                file: name,
            });
        }
        let tags = check_tags(item.repo_tags.unwrap_or_default())?;
        plans.push(LoadPlan {
            config: digest_of(&config_text),
            config_text,
            parsed,
            layers,
            tags,
        });
    }
    Ok(plans)
}

fn check_layer_count(files: usize, parsed: &ParsedConfig) -> Result<(), ImagesError> {
    if files == parsed.diff_ids.len() {
        return Ok(());
    }
    Err(ImagesError::Document {
        what: "image".to_owned(),
        reason: format!(
            "it has {files} layers, but its configuration names {}",
            parsed.diff_ids.len()
        ),
    })
}

fn check_tags(tags: Vec<String>) -> Result<Vec<String>, ImagesError> {
    if tags.len() > TAGS_MAX {
        return Err(ImagesError::TooLarge {
            what: "the number of tags".to_owned(),
            limit: TAGS_MAX.to_string(),
        });
    }
    tags.iter()
        .map(|tag| {
            let reference = ImageReference::parse(tag).map_err(|e| ImagesError::Document {
                what: "tag".to_owned(),
                reason: e.to_string(),
            })?;
            Ok(reference.to_string())
        })
        .collect()
}

fn plan_oci(intake: &Intake, limits: &Limits) -> Result<Vec<LoadPlan>, ImagesError> {
    let text = intake.text("index.json", limits.manifest_bytes)?;
    let index: OciIndex = serde_json::from_slice(&text).map_err(|e| ImagesError::Document {
        what: "index.json".to_owned(),
        reason: e.to_string(),
    })?;
    let mut plans: Vec<LoadPlan> = Vec::new();
    for entry in &index.manifests {
        let mut manifest = parse_manifest(
            &intake.blob_text(entry, limits.manifest_bytes)?,
            None,
            limits,
        )?;
        // An index may hold one index per image, but nothing deeper makes sense.
        if let Manifest::Index(variants) = &manifest {
            let chosen = choose_platform(variants, &WantedPlatform::host())?;
            manifest = parse_manifest(
                &intake.blob_text(chosen, limits.manifest_bytes)?,
                None,
                limits,
            )?;
        }
        let Manifest::Image { config, layers } = manifest else {
            return Err(ImagesError::Document {
                what: "index".to_owned(),
                reason: "indexes are nested too deep".to_owned(),
            });
        };
        let config_text = intake.blob_text(&config, limits.config_bytes)?;
        let parsed = parse_config(&config_text, limits)?;
        check_layer_count(layers.len(), &parsed)?;
        let mut planned = Vec::new();
        for (layer, diff_id) in layers.iter().zip(&parsed.diff_ids) {
            let (file, _) = intake.find(&format!("blobs/sha256/{}", layer.digest.hex()))?;
            let wanted = WantedLayer {
                diff_id: diff_id.clone(),
                blob: Some((layer.digest.clone(), layer.size)),
            };
            planned.push(PlannedLayer {
                wanted,
                media_type: Some(layer.media_type.clone()),
                file,
            });
        }
        let tags = check_tags(oci_name(entry).into_iter().collect())?;
        match plans.iter_mut().find(|p| p.config == config.digest) {
            Some(known) => known.tags.extend(tags),
            None => plans.push(LoadPlan {
                config: config.digest,
                config_text,
                parsed,
                layers: planned,
                tags,
            }),
        }
    }
    Ok(plans)
}

/// The name of an image in an OCI layout. A bare tag, which the specification allows too, names nothing.
fn oci_name(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations.as_ref()?;
    let full = annotations.get("io.containerd.image.name");
    let name = full.or_else(|| {
        annotations
            .get("org.opencontainers.image.ref.name")
            .filter(|n| n.contains([':', '/']))
    })?;
    Some(name.clone())
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
