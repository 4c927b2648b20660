//! The decoders of outside bytes as plain functions, for fuzzing. None may panic.

use std::path::Path;

use super::documents::{parse_config, parse_manifest};
use super::layer::{WantedLayer, build_layer};
use super::limits::Limits;
use super::registry::challenge_is_known;
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

/// A registry's challenge; true: it is of a known kind.
pub fn challenge(text: &str) -> bool {
    challenge_is_known(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_break_the_decoders(bytes in proptest::collection::vec(any::<u8>(), 0..4096), text in ".{0,200}") {
            let root = tempfile::tempdir().unwrap();
            let _ = super::layer(&bytes, root.path());
            let _ = super::archive_entries(&bytes);
            for text in [&bytes[..], text.as_bytes()] {
                let _ = (super::manifest(text), super::config(text));
            }
            let _ = super::challenge(&text);
        }

        #[test]
        fn no_damage_to_an_archive_breaks_the_reader(at in 0_usize..2560, value in any::<u8>(), cut in 0_usize..2560) {
            let mut header = tar::Header::new_ustar();
            header.set_path("a/b").unwrap();
            header.set_size(600);
            header.set_uid(0);
            header.set_gid(0);
            header.set_cksum();
            let mut bytes = header.as_bytes().to_vec();
            bytes.resize(2560, 0);
            assert_eq!(super::archive_entries(&bytes), 1);
            bytes[at] = value;
            // A right check sum lets the damage get further.
            let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
            bytes.truncate(cut);
            let _ = super::archive_entries(&bytes);
        }
    }
}
