//! Entry points for fuzzing: every decoder that takes bytes from outside, without any effect.

use std::io::Read;

use super::documents::{parse_config, parse_manifest};
use super::jail::segments;
use super::limits::Limits;
use super::registry::challenge_is_known;
use super::streams::{BombGuard, Decoder, HashingReader};
use super::tarstream::TarStream;

/// Bounds small enough for a fuzzer.
fn limits() -> Limits {
    Limits {
        layer_bytes: 16 << 20,
        layer_entries: 10_000,
        ..Limits::default()
    }
}

/// Reads a layer, compressed or not, up to the point where files would be made. Answers the number of entries.
#[must_use]
pub fn layer(bytes: &[u8]) -> Option<u64> {
    let limits = limits();
    let blob = HashingReader::<_, std::io::Sink>::new(bytes, None, u64::MAX, "fuzz");
    let count = blob.counter();
    let (decoder, _) = Decoder::new(blob).ok()?;
    let mut archive = TarStream::new(BombGuard::new(decoder, count, &limits));
    let mut entries = 0;
    let mut scratch = [0; 4096];
    while let Some(entry) = archive.next().ok()? {
        entries += 1;
        if entries > limits.layer_entries {
            return None;
        }
        if let Ok(path) = segments(&entry.path, limits.depth) {
            assert!(
                path.iter()
                    .all(|s| !matches!(s.as_slice(), b"" | b"." | b"..")
                        && !s.contains(&b'/')
                        && !s.contains(&0))
            );
        }
        while archive.read(&mut scratch).ok()? > 0 {}
    }
    Some(entries)
}

/// Reads manifests, indexes and configurations.
pub fn documents(bytes: &[u8]) {
    let limits = limits();
    drop(parse_manifest(bytes, None, &limits));
    drop(parse_config(bytes, &limits));
}

/// Reads a registry's challenge.
pub fn challenge(text: &str) {
    challenge_is_known(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_break_the_decoders(bytes in proptest::collection::vec(any::<u8>(), 0..4096), text in ".{0,200}") {
            let _ = super::layer(&bytes);
            super::documents(&bytes);
            super::documents(text.as_bytes());
            super::challenge(&text);
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
            assert_eq!(super::layer(&bytes), Some(1));
            bytes[at] = value;
            // A right check sum lets the damage get further.
            let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
            bytes.truncate(cut);
            let _ = super::layer(&bytes);
        }
    }
}
