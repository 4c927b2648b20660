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

/// What was found in a blob.
#[derive(Debug, Clone)]
pub(crate) struct BuiltLayer {
    pub(crate) blob: Digest,
    pub(crate) blob_bytes: u64,
    pub(crate) diff_id: Digest,
    pub(crate) compression: Compression,
    pub(crate) unpacked: Unpacked,
}

/// Unpacks the blob `input` below `root` and copies its bytes to `copy` on the way.
///
/// The digests are what was *found*: the caller compares them before anybody sees the folder.
pub(crate) fn build_layer(
    input: impl Read,
    copy: Option<&File>,
    root: &Path,
    max_blob_bytes: u64,
    limits: &Limits,
) -> Result<BuiltLayer, ImagesError> {
    let blob = HashingReader::new(input, copy, max_blob_bytes, "layer blob");
    let compressed = blob.counter();
    let (decoder, compression) = Decoder::new(blob)?;
    let guard = BombGuard::new(decoder, compressed, limits);
    let mut plain = HashingReader::<_, io::Sink>::new(guard, None, u64::MAX, "layer");
    if compression == Compression::None {
        // The blob's digest is the layer's.
        plain = plain.without_digest();
    }
    let mut archive = TarStream::new(BufReader::with_capacity(BUFFER, plain));
    let unpacked = unpack(&mut archive, root, limits)?;
    archive.drain()?;
    let plain = archive.into_inner().into_inner();
    let (diff_id, _, guard) = plain.finish();
    let blob = guard.into_inner().into_drained()?;
    let (blob, blob_bytes, _) = blob.finish();
    let blob = blob.ok_or_else(|| ImagesError::Archive("no digest was computed".to_owned()))?;
    Ok(BuiltLayer {
        diff_id: diff_id.unwrap_or_else(|| blob.clone()),
        blob,
        blob_bytes,
        compression,
        unpacked,
    })
}
