//! Verbs on images. Content is on hosts; here are the pools' records.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::Stream;
use model::object::DroppedImage;
use model::{DesiredState, Host, HostId, Image, ImageId, ImageReference, Key, Object, PoolId};
use store::{Row, Snapshot, Transaction};
use tokio::sync::mpsc;
use wire::link::{
    Credentials, Frame, FrameKind, ImageProgress, ImportRecorded, ImportResult, ImportedImage,
    PullRequest, SaveImage, StreamRequest,
};

use crate::caller::{Action, Caller, Grant, Scope};
use crate::core::{Control, now};
use crate::error::{Error, ErrorKind, Result};
use crate::kept::Kept;
use crate::links::{LinkStream, frames, stream_error};

/// A step of a pull or load.
#[derive(Debug)]
pub enum ImportEvent {
    /// Progress.
    Progress(ImageProgress),
    /// The images are in the pool.
    Done(Vec<Imported>),
    /// It failed; nothing was added.
    Failed(Error),
}

/// An image that came in.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The record.
    pub image: Kept<Image>,
    /// Names it now has because of this import, in familiar form.
    pub names: Vec<String>,
    /// Digest of the manifest that was pulled.
    pub manifest: Option<model::Digest>,
    /// Whether the pool and the host had it already.
    pub unchanged: bool,
}

/// Steps of a pull or load; the last one is `Done` or `Failed`.
pub type ImportStream = mpsc::Receiver<ImportEvent>;

/// An upload of archives.
pub struct ImageUpload {
    stream: LinkStream,
    done: ImportTask,
}

struct ImportTask {
    control: Control,
    grant: Grant,
    pool: PoolId,
    host: HostId,
    reference: Option<ImageReference>,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRemoval {
    /// A name was taken away.
    Untagged(String),
    /// The pool no longer has the image.
    Deleted(ImageId),
}

/// Progress events that may wait for a slow client; newer ones then wait in the host.
const PROGRESS_MAX: usize = 256;

impl Control {
    /// Images of a pool.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn image_list(&self, caller: &Caller, pool: &PoolId) -> Result<Vec<Kept<Image>>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::ImageRead, Scope::Pool(pool))?;
        let mut list: Vec<Kept<Image>> = snapshot.images_of(pool).map(Kept::from).collect();
        list.sort_by(|a, b| b.added_at.cmp(&a.added_at).then_with(|| a.id.cmp(&b.id)));
        Ok(list)
    }

    /// An image of the pool by tag, digest, id, or unique beginning of its id.
    ///
    /// # Errors
    /// When there is none.
    pub fn image_find(
        &self,
        caller: &Caller,
        pool: &PoolId,
        reference: &str,
    ) -> Result<Kept<Image>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::ImageRead, Scope::Pool(pool))?;
        find(&snapshot, pool, reference).map(|(row, _)| Kept::from(row))
    }

    /// Pulls an image to one host of the pool and records it.
    ///
    /// # Errors
    /// When the caller may not or no host is ready; later failures come as events.
    #[expect(
        clippy::too_many_arguments,
        reason = "who, where, what, and how: the form of every verb"
    )]
    pub async fn image_pull(
        &self,
        caller: &Caller,
        pool: &PoolId,
        reference: ImageReference,
        platform: Option<String>,
        credentials: Option<Credentials>,
    ) -> Result<ImportStream> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::ImageImport, Scope::Pool(pool))?;
        let known = find(&snapshot, pool, &reference.to_string())
            .ok()
            .map(|(row, _)| row.id.clone());
        let host = import_host(&snapshot, known.as_ref())?;
        let request = PullRequest {
            reference: reference.to_string(),
            platform,
            credentials,
        };
        let stream = self
            .open_stream(&host, StreamRequest::Pull(request))
            .await?;
        let task = ImportTask {
            control: self.clone(),
            grant,
            pool: pool.clone(),
            host,
            reference: Some(reference),
        };
        Ok(task.start(stream))
    }

    /// Begins an upload of archives to one host of the pool.
    ///
    /// # Errors
    /// When the caller may not or no host is ready.
    pub async fn image_load(&self, caller: &Caller, pool: &PoolId) -> Result<ImageUpload> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::ImageImport, Scope::Pool(pool))?;
        let host = import_host(&snapshot, None)?;
        let stream = self.open_stream(&host, StreamRequest::Load).await?;
        let done = ImportTask {
            control: self.clone(),
            grant,
            pool: pool.clone(),
            host,
            reference: None,
        };
        Ok(ImageUpload { stream, done })
    }

    /// Writes images into one archive.
    ///
    /// # Errors
    /// When one is missing, or no reachable host has all of them.
    pub async fn image_save(
        &self,
        caller: &Caller,
        pool: &PoolId,
        references: &[String],
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + 'static> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::ImageRead, Scope::Pool(pool))?;
        let mut images: Vec<SaveImage> = Vec::new();
        for reference in references {
            let (row, tag) = find(&snapshot, pool, reference)?;
            let tags: Vec<String> = tag.into_iter().collect();
            match images.iter_mut().find(|image| image.image.id == row.id) {
                Some(image) => image.tags.extend(tags),
                None => images.push(SaveImage {
                    image: row.value().clone(),
                    tags,
                }),
            }
        }
        if images.is_empty() {
            return Err(Error::invalid("name at least one image"));
        }
        let host = holder_of(&snapshot, images.iter().map(|image| &image.image.id))?;
        let stream = self
            .open_stream(&host, StreamRequest::Save { images })
            .await?;
        Ok(data_of(stream))
    }

    /// Gives an image another name; a name that another image had moves.
    ///
    /// # Errors
    /// When there is no such image, or the target has a digest.
    pub async fn image_tag(
        &self,
        caller: &Caller,
        pool: &PoolId,
        source: &str,
        target: &ImageReference,
    ) -> Result<()> {
        let grant = self.grant(
            &self.snapshot(),
            caller,
            Action::ImageImport,
            Scope::Pool(pool),
        )?;
        if target.digest.is_some() {
            return Err(Error::invalid(
                "refusing to create a tag with a digest reference",
            ));
        }
        let name = target.to_string();
        let id = self
            .change(&grant, |snapshot| {
                let (row, _) = find(snapshot, pool, source)?;
                let mut image = row.value().clone();
                image.tags.insert(name.clone());
                let tx = without_tags(
                    snapshot,
                    Transaction::new(),
                    pool,
                    &row.id,
                    std::slice::from_ref(&name),
                );
                Ok((
                    Some(tx.update(row.revision(), Object::Image(image))),
                    row.id.clone(),
                ))
            })
            .await?;
        if let Some(image) = self.snapshot().image(pool, &id) {
            self.inner.events.image(&image, "tag", &target.familiar());
        }
        Ok(())
    }

    /// Takes a name away, and the image with its last name.
    ///
    /// # Errors
    /// When a workload uses it, or several names remain and `force` is not given.
    pub async fn image_remove(
        &self,
        caller: &Caller,
        pool: &PoolId,
        reference: &str,
        force: bool,
    ) -> Result<Vec<ImageRemoval>> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::ImageDelete, Scope::Pool(pool))?;
        let before = find(&snapshot, pool, reference).map(|(row, _)| row.value().clone())?;
        let removals = self
            .change(&grant, |snapshot| {
                let (row, tag) = find(snapshot, pool, reference)?;
                removal(snapshot, row, tag, force).map(|(tx, removals)| (Some(tx), removals))
            })
            .await?;
        for removal in &removals {
            match removal {
                ImageRemoval::Untagged(name) => self.inner.events.image(&before, "untag", name),
                ImageRemoval::Deleted(id) => {
                    self.inner.events.image(&before, "delete", id.as_str())
                }
            }
        }
        Ok(removals)
    }
}

impl ImageUpload {
    /// Sends bytes; waits while the host is busy.
    ///
    /// # Errors
    /// When the host ended the upload; [`ImageUpload::finish`] then says why.
    pub async fn write(&mut self, bytes: &Bytes) -> Result<()> {
        for frame in frames(FrameKind::Data, bytes) {
            if self.stream.send.send(frame).await.is_err() {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the host ended the upload",
                ));
            }
        }
        Ok(())
    }

    /// Says that this was all; gives the steps of the import.
    pub async fn finish(self) -> ImportStream {
        let _ = self
            .stream
            .send
            .send(Frame::new(FrameKind::EndInput, Bytes::new()))
            .await;
        self.done.start(self.stream)
    }
}

impl ImportTask {
    /// Passes progress on and records what came. A client that goes away ends the import.
    fn start(self, mut stream: LinkStream) -> ImportStream {
        let (send, events) = mpsc::channel(PROGRESS_MAX);
        tokio::spawn(async move {
            let last = loop {
                let frame = tokio::select! {
                    frame = stream.recv.recv() => frame,
                    () = send.closed() => return,
                };
                match frame {
                    Some(frame) if frame.kind == FrameKind::Json => {
                        if let Ok(result) = frame.parse::<ImportResult>() {
                            break self
                                .conclude(result.images, &mut stream)
                                .await
                                .map_or_else(ImportEvent::Failed, ImportEvent::Done);
                        }
                        if let Ok(progress) = frame.parse::<ImageProgress>()
                            && send.send(ImportEvent::Progress(progress)).await.is_err()
                        {
                            return;
                        }
                    }
                    Some(frame) if frame.kind == FrameKind::Error => {
                        break ImportEvent::Failed(stream_error(&frame));
                    }
                    Some(_) => {}
                    None => break ImportEvent::Failed(crate::links::host_gone()),
                }
            };
            let _ = send.send(last).await;
        });
        events
    }

    /// Records what came and makes sure that the host knows it: from then on no earlier order to delete it counts.
    async fn conclude(
        &self,
        images: Vec<ImportedImage>,
        stream: &mut LinkStream,
    ) -> Result<Vec<Imported>> {
        let done = self.record(images).await?;
        let revision = self.control.snapshot().revision.0;
        let recorded = Frame::json(&ImportRecorded { revision }).map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot answer the host").with_context(e)
        })?;
        // A host of an earlier version does not listen any more, and has ended its side.
        let _ = stream.send.send(recorded).await;
        match stream.recv.recv().await {
            Some(frame) if frame.kind == FrameKind::End => Ok(done),
            Some(frame) if frame.kind == FrameKind::Error => Err(stream_error(&frame)),
            Some(_) | None => Err(Error::new(
                ErrorKind::Unavailable,
                "the host was lost before it knew that the image is to stay: load or pull it again",
            )),
        }
    }

    async fn record(&self, images: Vec<ImportedImage>) -> Result<Vec<Imported>> {
        let mut done = Vec::new();
        for imported in images {
            let names = self.names(&imported)?;
            let id = imported.content.config.clone();
            let had = self
                .control
                .snapshot()
                .image(&self.pool, &id)
                .is_some_and(|image| names.iter().all(|n| image.tags.contains(n)));
            self.control
                .change(&self.grant, |snapshot| {
                    self.decide(snapshot, &imported, &names)
                })
                .await?;
            let snapshot = self.control.snapshot();
            let row = snapshot
                .image(&self.pool, &id)
                .ok_or_else(|| Error::conflict("the image was removed meanwhile"))?;
            let familiar: Vec<String> = names
                .iter()
                .filter_map(|name| ImageReference::parse(name).ok())
                .map(|r| r.familiar())
                .collect();
            let action = if self.reference.is_some() {
                "pull"
            } else {
                "load"
            };
            let shown = familiar.first().cloned().unwrap_or_else(|| id.to_string());
            self.control.inner.events.image(&row, action, &shown);
            done.push(Imported {
                image: Kept::from(row),
                names: familiar,
                manifest: imported.manifest.clone(),
                unchanged: had && imported.unchanged,
            });
        }
        Ok(done)
    }

    /// Tags the import gives; what a host claims is checked like what a user writes.
    fn names(&self, imported: &ImportedImage) -> Result<Vec<String>> {
        if let Some(reference) = &self.reference {
            return Ok(if reference.digest.is_some() {
                Vec::new()
            } else {
                vec![reference.to_string()]
            });
        }
        imported
            .tags
            .iter()
            .map(|tag| {
                ImageReference::parse(tag)
                    .map(|reference| reference.to_string())
                    .map_err(|e| Error::invalid(format!("the archive names an image badly: {e}")))
            })
            .collect()
    }

    fn decide(
        &self,
        snapshot: &Snapshot,
        imported: &ImportedImage,
        names: &[String],
    ) -> Result<(Option<Transaction>, ())> {
        let id = imported.content.config.clone();
        let mut tx = without_tags(snapshot, Transaction::new(), &self.pool, &id, names);
        let existing = snapshot.image(&self.pool, &id);
        let mut image = match &existing {
            Some(row) => row.value().clone(),
            None => Image {
                id: id.clone(),
                pool: self.pool.clone(),
                tags: BTreeSet::new(),
                digests: BTreeSet::new(),
                content: imported.content.clone(),
                config: imported.config.clone(),
                source: None,
                added_at: now(),
            },
        };
        image.tags.extend(names.iter().cloned());
        if imported.source.is_some() {
            image.source.clone_from(&imported.source);
            image.content.clone_from(&imported.content);
        }
        if let (Some(reference), Some(manifest)) = (&self.reference, &imported.manifest) {
            image
                .digests
                .insert(format!("{}@{manifest}", reference.name()));
        }
        tx = match existing {
            Some(row) => tx.update(row.revision(), Object::Image(image)),
            None => tx.create(Object::Image(image)),
        };
        if snapshot.dropped_image(&id).is_some() {
            tx = tx.delete(Key::DroppedImage(id.clone()));
        }
        if let Some(host) = snapshot.host(&self.host)
            && !host.status.images.contains(&id)
        {
            let mut changed: Host = host.value().clone();
            changed.status.images.insert(id);
            tx = tx.update(host.revision(), Object::Host(changed));
        }
        Ok((Some(tx), ()))
    }
}

/// Takes tags away from other images of the pool.
fn without_tags(
    snapshot: &Snapshot,
    mut tx: Transaction,
    pool: &PoolId,
    keep: &ImageId,
    tags: &[String],
) -> Transaction {
    for other in snapshot.images_of(pool).filter(|image| image.id != *keep) {
        if tags.iter().any(|tag| other.tags.contains(tag)) {
            let mut changed = other.value().clone();
            changed.tags.retain(|tag| !tags.contains(tag));
            tx = tx.update(other.revision(), Object::Image(changed));
        }
    }
    tx
}

/// Deletes a pool's record; with the last record of an image hosts are told to delete its content.
pub(crate) fn forget_image(
    snapshot: &Snapshot,
    tx: Transaction,
    image: Row<'_, Image>,
) -> Transaction {
    let tx = tx.delete_unchanged(
        image.revision(),
        Key::Image(image.pool.clone(), image.id.clone()),
    );
    let elsewhere = snapshot
        .images()
        .any(|other| other.id == image.id && other.pool != image.pool);
    if elsewhere {
        return tx;
    }
    // Also if there is a record already: this is a new order, and hosts tell orders by their revision.
    tx.put(Object::DroppedImage(DroppedImage {
        id: image.id.clone(),
        dropped_at: now(),
    }))
}

fn removal(
    snapshot: &Snapshot,
    row: Row<'_, Image>,
    tag: Option<String>,
    force: bool,
) -> Result<(Transaction, Vec<ImageRemoval>)> {
    let familiar =
        |tag: &str| ImageReference::parse(tag).map_or_else(|_| tag.to_owned(), |r| r.familiar());
    if let Some(tag) = &tag
        && row.tags.len() > 1
    {
        let mut image = row.value().clone();
        image.tags.remove(tag);
        let tx = Transaction::new().update(row.revision(), Object::Image(image));
        return Ok((tx, vec![ImageRemoval::Untagged(familiar(tag))]));
    }
    let user = snapshot
        .workloads_of(&row.pool)
        .find(|w| w.spec.task.image_id == row.id && w.desired != DesiredState::Removed);
    if let Some(user) = user {
        return Err(Error::conflict(format!(
            "conflict: unable to delete {}: image is being used by container {}: remove that container first",
            row.id.hex().get(..12).unwrap_or_default(),
            user.id.short()
        )));
    }
    if tag.is_none() && row.tags.len() > 1 && !force {
        return Err(Error::conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            row.id.hex().get(..12).unwrap_or_default()
        )));
    }
    let mut removals: Vec<ImageRemoval> = row
        .tags
        .iter()
        .map(|tag| ImageRemoval::Untagged(familiar(tag)))
        .collect();
    removals.extend(
        row.digests
            .iter()
            .map(|digest| ImageRemoval::Untagged(familiar(digest))),
    );
    removals.push(ImageRemoval::Deleted(row.id.clone()));
    Ok((forget_image(snapshot, Transaction::new(), row), removals))
}

/// Finds an image of the pool, and the tag it was found by, if it was by one.
fn find<'a>(
    snapshot: &'a Snapshot,
    pool: &PoolId,
    reference: &str,
) -> Result<(Row<'a, Image>, Option<String>)> {
    let missing = || Error::not_found("image", reference);
    let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
    if let Ok(id) = ImageId::parse(&format!("sha256:{hex}")) {
        return snapshot
            .image(pool, &id)
            .map(|row| (row, None))
            .ok_or_else(missing);
    }
    if let Ok(parsed) = ImageReference::parse(reference) {
        if let Some(digest) = &parsed.digest {
            let named = format!("{}@{digest}", parsed.name());
            if let Some(row) = snapshot
                .images_of(pool)
                .find(|image| image.digests.contains(&named))
            {
                return Ok((row, None));
            }
        } else {
            let tag = parsed.to_string();
            if let Some(row) = snapshot
                .images_of(pool)
                .find(|image| image.tags.contains(&tag))
            {
                return Ok((row, Some(tag)));
            }
        }
    }
    if hex.len() < 2 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(missing());
    }
    let mut matches = snapshot
        .images_of(pool)
        .filter(|image| image.id.hex().starts_with(hex));
    match (matches.next(), matches.next()) {
        (Some(row), None) => Ok((row, None)),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "ambiguous reference: {hex}: give more digits"
        ))),
        (None, _) => Err(missing()),
    }
}

/// The host an import goes to: one that has the image already, else the one with the fewest workloads.
pub(crate) fn import_host(snapshot: &Snapshot, known: Option<&ImageId>) -> Result<HostId> {
    snapshot
        .hosts()
        .filter(|host| Control::host_ready(host))
        .min_by_key(|host| {
            let has = known.is_some_and(|id| host.status.images.contains(id));
            (
                !has,
                snapshot.workloads_on(&host.id).count(),
                host.id.clone(),
            )
        })
        .map(|host| host.id.clone())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                "no host is ready to take the image: see `plimsoll host ls`",
            )
        })
}

fn holder_of<'a>(
    snapshot: &Snapshot,
    images: impl Iterator<Item = &'a ImageId> + Clone,
) -> Result<HostId> {
    snapshot
        .hosts()
        .find(|host| {
            host.status.connected && images.clone().all(|id| host.status.images.contains(id))
        })
        .map(|host| host.id.clone())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                "no reachable host has all of these images: save them one by one",
            )
        })
}

fn data_of(stream: LinkStream) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    futures::stream::unfold(Some(stream), |stream| async move {
        let mut stream = stream?;
        match stream.recv.recv().await {
            Some(frame) => match frame.kind {
                FrameKind::Data => Some((Ok(frame.payload), Some(stream))),
                FrameKind::End => None,
                FrameKind::Error => Some((Err(stream_error(&frame)), None)),
                FrameKind::Stdin
                | FrameKind::Stdout
                | FrameKind::Stderr
                | FrameKind::EndInput
                | FrameKind::Json => Some((
                    Err(Error::new(
                        ErrorKind::Internal,
                        "the host sent an unexpected frame",
                    )),
                    None,
                )),
            },
            None => Some((Err(crate::links::host_gone()), None)),
        }
    })
}
