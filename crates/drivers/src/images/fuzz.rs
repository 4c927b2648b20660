//! The decoders of outside bytes as plain functions, for fuzzing. None may panic.

use std::path::Path;

use super::documents::{parse_config, parse_manifest};
use super::layer::{WantedLayer, build_layer};
use super::limits::Limits;
use super::streams::digest_of;
use super::tarstream::TarStream;

/// An archive; the number of entries read before its end or the first error.
pub fn archive_entries(bytes: &[u8]) -> usize {
    let mut archive = TarStream::new(bytes);
    let mut entries = 0;
    while let Ok(Some(_)) = archive.next() {
        entries += 1;
    }
    entries
}

/// A layer of any compression, unpacked below `root`; true: it was accepted. Nothing may appear outside of `root`.
pub fn layer(bytes: &[u8], root: &Path) -> bool {
    let limits = Limits {
        layer_entries: 1000,
        layer_bytes: 1 << 20,
        ..Limits::default()
    };
    let blob = Some((digest_of(bytes), bytes.len() as u64));
    let wanted = WantedLayer {
        diff_id: digest_of(bytes),
        blob,
    };
    build_layer(bytes, None, root, &wanted, &limits).is_ok()
}

/// A manifest or index; true: it was accepted.
pub fn manifest(bytes: &[u8]) -> bool {
    parse_manifest(bytes, None, &Limits::default()).is_ok()
}

/// An image configuration; true: it was accepted.
pub fn config(bytes: &[u8]) -> bool {
    parse_config(bytes, &Limits::default()).is_ok()
}
