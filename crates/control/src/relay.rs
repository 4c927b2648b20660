//! Blobs of images, relayed from a host that has them to one that needs them.
//!
//! What always holds: a host gets only what belongs to an image that a workload placed on it needs, or that it is to
//! fetch; nothing that is not of the digest asked for looks whole to it. That a host has an image is its own word
//! only: one that turned out not to have it, or to have something else, is asked last from then on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::{Digest, HostId, Image, ImageId};
use sha2::{Digest as _, Sha256};
use store::Snapshot;
use wire::link::{FrameKind, StreamRequest};

use crate::core::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::links::{LinkStream, host_gone, stream_error};

/// Claims that turned out wrong, remembered by a server until it ends: more are made by a hostile host only.
const DOUBTS_MAX: usize = 1024;

/// Hosts that were found not to have something of an image that they should have, newest last.
#[derive(Debug, Default)]
pub(crate) struct Doubts(Mutex<VecDeque<(HostId, ImageId)>>);

impl Doubts {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(HostId, ImageId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about(&self, host: &HostId, images: &BTreeSet<ImageId>) -> bool {
        let doubts = self.lock();
        doubts
            .iter()
            .any(|(of, id)| of == host && images.contains(id))
    }

    fn add(&self, host: &HostId, images: &BTreeSet<ImageId>, why: &str) {
        tracing::warn!(%host, ?images, why, "a host does not have what it says it has: others are asked first");
        if self.about(host, images) {
            return;
        }
        let mut doubts = self.lock();
        for image in images {
            if doubts.len() >= DOUBTS_MAX {
                doubts.pop_front();
            }
            doubts.push_back((host.clone(), image.clone()));
        }
    }
}

/// A blob on its way from one host to another.
pub struct Relayed {
    control: Control,
    holder: HostId,
    digest: Digest,
    /// What it may be of.
    images: BTreeSet<ImageId>,
    stream: LinkStream,
    so_far: Sha256,
    over: bool,
}

impl Relayed {
    /// The next bytes; `None`: that was all, and it was of the digest.
    ///
    /// # Errors
    /// When the host has no more, or it was something else; nothing follows.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        if self.over {
            return None;
        }
        let Some(frame) = self.stream.recv.recv().await else {
            self.over = true;
            return Some(Err(host_gone()));
        };
        let wrong = match frame.kind {
            FrameKind::Data => {
                self.so_far.update(&frame.payload);
                return Some(Ok(frame.payload));
            }
            FrameKind::End if self.is_right() => {
                self.over = true;
                return None;
            }
            FrameKind::End => {
                let why = format!("what it sent is not of digest {}", self.digest);
                Error::new(ErrorKind::Unavailable, why)
            }
            FrameKind::Error => stream_error(&frame),
            FrameKind::Stdin
            | FrameKind::Stdout
            | FrameKind::Stderr
            | FrameKind::EndInput
            | FrameKind::Json => {
                Error::new(ErrorKind::Internal, "the host sent an unexpected frame")
            }
        };
        self.over = true;
        let doubts = &self.control.inner.doubts;
        doubts.add(&self.holder, &self.images, &wrong.message);
        Some(Err(wrong))
    }

    fn is_right(&self) -> bool {
        hex::encode(self.so_far.clone().finalize()) == self.digest.hex()
    }
}

impl Control {
    /// Relays a blob to a host from another host that has it. Only blobs of images that workloads placed on the asking
    /// host need, or that it is to fetch.
    ///
    /// # Errors
    /// When the host needs no such blob, or no connected host has it.
    pub async fn link_blob(&self, host: &HostId, digest: &Digest) -> Result<Relayed> {
        let snapshot = self.snapshot();
        let images = needed(&snapshot, host, digest);
        let doubts = &self.inner.doubts;
        let mut holders: Vec<(bool, HostId)> = snapshot
            .hosts()
            .filter(|it| it.id != *host && !it.status.images.is_disjoint(&images))
            .filter(|it| self.inner.hub.is_connected(&it.id))
            .map(|it| (doubts.about(&it.id, &images), it.id.clone()))
            .collect();
        holders.sort();
        let mut last = Error::not_found("blob", digest.as_str());
        for (_, holder) in holders {
            let request = StreamRequest::Blob {
                digest: digest.clone(),
            };
            match self.open_stream(&holder, request).await {
                Ok(stream) => {
                    return Ok(Relayed {
                        control: self.clone(),
                        holder,
                        digest: digest.clone(),
                        images,
                        stream,
                        so_far: Sha256::new(),
                        over: false,
                    });
                }
                Err(error) => {
                    if error.kind == ErrorKind::NotFound {
                        doubts.add(&holder, &images, &error.message);
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }
}

/// Images with this blob that the host may have: those of workloads placed on it, and those it is to fetch.
fn needed(snapshot: &Snapshot, host: &HostId, digest: &Digest) -> BTreeSet<ImageId> {
    let placed = snapshot
        .workloads_on(host)
        .filter_map(|it| snapshot.image(&it.pool, &it.spec.task.image_id))
        .filter(|it| has_blob(it, digest))
        .map(|it| it.id.clone());
    let mut images: BTreeSet<ImageId> = placed.collect();
    let Some(record) = snapshot.host(host) else {
        return images;
    };
    if !record.fetch_images.is_empty() {
        let wanted = snapshot
            .images()
            .filter(|it| record.fetch_images.contains_key(&it.id) && has_blob(it, digest));
        images.extend(wanted.map(|it| it.id.clone()));
    }
    images
}

fn has_blob(image: &Image, digest: &Digest) -> bool {
    let content = &image.content;
    // A host may have a layer in another form than the image lists: then it is asked for uncompressed.
    let mut layers = content.layers.iter();
    content.config == *digest || layers.any(|it| it.blob == *digest || it.diff_id == *digest)
}
