//! From the bytes of a layer blob to an unpacked folder with verified digests, in one pass.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use model::Digest;

use super::error::ImagesError;
use super::limits::Limits;
use super::streams::{BUFFER, BombGuard, Compression, Decoder, HashingReader};
use super::tarstream::TarStream;
use super::unpack::{Unpacked, unpack};

/// What a layer must turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedLayer {
    /// Digest of the uncompressed archive, from the image's configuration.
    pub(crate) diff_id: Digest,
    /// Digest and length of the blob, from the manifest; `None` in archives without one.
    pub(crate) blob: Option<(Digest, u64)>,
}

impl WantedLayer {
    /// What people see of it.
    pub(crate) fn short(&self) -> String {
        let digest = self
            .blob
            .as_ref()
            .map_or(&self.diff_id, |(digest, _)| digest);
        digest.hex()[..12].to_owned()
    }
}

/// What was found in a blob.
#[derive(Debug, Clone)]
pub(crate) struct BuiltLayer {
    pub(crate) blob: Digest,
    pub(crate) blob_bytes: u64,
    pub(crate) tar_bytes: u64,
    pub(crate) compression: Compression,
    pub(crate) unpacked: Unpacked,
}

/// Unpacks the blob `input` below `root` and copies its bytes to `copy` on the way.
///
/// # Errors
/// When the blob or what is in it is not what was wanted; `root` and `copy` are to be thrown away then.
pub(crate) fn build_layer(
    input: impl Read,
    copy: Option<&File>,
    root: &Path,
    wanted: &WantedLayer,
    limits: &Limits,
) -> Result<BuiltLayer, ImagesError> {
    let max = wanted
        .blob
        .as_ref()
        .map_or(limits.image_bytes, |(_, bytes)| *bytes);
    let blob = HashingReader::new(input, copy, max, BLOB);
    let compressed = blob.counter();
    let (decoder, compression) = Decoder::new(blob).map_err(|e| too_long(e, wanted, max))?;
    let guard = BombGuard::new(decoder, compressed, limits);
    let mut plain = HashingReader::<_, io::Sink>::new(guard, None, u64::MAX, "layer");
    if compression == Compression::None {
        // The blob's digest is the layer's.
        plain = plain.without_digest();
    }
    let mut archive = TarStream::new(BufReader::with_capacity(BUFFER, plain));
    let unpacked =
        unpack(&mut archive, root, limits).and_then(|done| archive.drain().map(|()| done));
    // Damage in transfer shows as all kinds of nonsense: the digest is the better message.
    let worth_draining = matches!(
        unpacked,
        Ok(_) | Err(ImagesError::Archive(_) | ImagesError::Entry { .. })
    );
    if !worth_draining {
        return unpacked
            .map_err(|e| too_long(e, wanted, max))
            .and(Err(ImagesError::Cancelled));
    }
    let (diff_id, tar_bytes, guard) = archive.into_inner().into_inner().finish();
    let blob = guard
        .into_inner()
        .into_drained()
        .map_err(|e| too_long(e, wanted, max))?;
    let (blob, blob_bytes, _) = blob.finish();
    let blob = blob.ok_or_else(|| ImagesError::Archive("no digest was computed".to_owned()))?;
    if let Some((expected, bytes)) = &wanted.blob {
        let what = || format!("the blob of layer {}", wanted.short());
        if blob_bytes != *bytes {
            return Err(ImagesError::SizeMismatch {
                what: what(),
                expected: *bytes,
                actual: blob_bytes,
            });
        }
        if blob != *expected {
            return Err(ImagesError::DigestMismatch {
                what: what(),
                expected: expected.clone(),
                actual: blob,
            });
        }
    }
    let unpacked = unpacked?;
    let diff_id = diff_id.unwrap_or_else(|| blob.clone());
    if diff_id != wanted.diff_id {
        return Err(ImagesError::DigestMismatch {
            what: format!("the content of layer {}", wanted.short()),
            expected: wanted.diff_id.clone(),
            actual: diff_id,
        });
    }
    Ok(BuiltLayer {
        blob,
        blob_bytes,
        tar_bytes,
        compression,
        unpacked,
    })
}

const BLOB: &str = "the blob of a layer";

/// A blob longer than promised is stopped by its bound; say so in those words.
fn too_long(error: ImagesError, wanted: &WantedLayer, max: u64) -> ImagesError {
    match error {
        ImagesError::TooLarge { what, .. } if what == BLOB && wanted.blob.is_some() => {
            ImagesError::SizeMismatch {
                what: format!("the blob of layer {}", wanted.short()),
                expected: max,
                actual: max.saturating_add(1),
            }
        }
        other => other,
    }
}
