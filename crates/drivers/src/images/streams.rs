//! Readers and writers put around blobs: digests, bounds, decompression.
//!
//! Everything is in this process: no outside decompressor ever runs on untrusted bytes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::Digest;
use sha2::{Digest as _, Sha256};

use super::error::ImagesError;
use super::limits::Limits;

/// Buffer between two stages: large enough to make system calls rare, small enough for the cache.
pub(crate) const BUFFER: usize = 128 << 10;

/// The digest of bytes in memory.
#[must_use]
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    finish(Sha256::new_with_prefix(bytes))
}

/// Ends a computation and gives the result its name.
pub(crate) fn finish(hasher: Sha256) -> Digest {
    let text = format!("sha256:{}", hex::encode(hasher.finalize()));
    match Digest::parse(&text) {
        Ok(digest) => digest,
        Err(_) => unreachable!("a SHA-256 sum has 64 hexadecimal digits"),
    }
}

/// Computes the digest and length of what is read through it, and can copy it to a writer.
pub(crate) struct HashingReader<R, W> {
    input: R,
    copy: Option<W>,
    hasher: Option<Sha256>,
    count: Arc<AtomicU64>,
    max: u64,
    what: String,
}

impl<R: Read, W: Write> HashingReader<R, W> {
    /// Fails when more than `max` bytes come.
    pub(crate) fn new(input: R, copy: Option<W>, max: u64, what: impl Into<String>) -> Self {
        Self {
            input,
            copy,
            hasher: Some(Sha256::new()),
            count: Arc::default(),
            max,
            what: what.into(),
        }
    }

    /// Leaves out the digest (when another stage computes the same one).
    pub(crate) fn without_digest(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// A live view of the number of bytes read so far.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.count)
    }

    /// Digest (unless left out) and length of all that was read, and the inner reader.
    pub(crate) fn finish(self) -> (Option<Digest>, u64, R) {
        (
            self.hasher.map(finish),
            self.count.load(Ordering::Relaxed),
            self.input,
        )
    }
}

impl<R: Read, W: Write> Read for HashingReader<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buf)?;
        let total = self.count.load(Ordering::Relaxed) + got as u64;
        if total > self.max {
            let error = ImagesError::TooLarge {
                what: self.what.clone(),
                limit: format!("{} bytes", self.max),
            };
            return Err(error.into_io());
        }
        self.count.store(total, Ordering::Relaxed);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..got]);
        }
        if let Some(copy) = &mut self.copy {
            copy.write_all(&buf[..got])
                .map_err(|e| ImagesError::io("write", self.what.clone(), e).into_io())?;
        }
        Ok(got)
    }
}

/// How a blob is compressed, told by its first bytes (media types lie).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Looks at the first bytes of a blob.
    pub(crate) fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // Skippable frames come first in seekable zstd.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The OCI media type of a layer so compressed.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Forms that are known and refused with their name.
pub(crate) fn refused_compression(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
        _ => None,
    }
}

/// A blob's content without compression.
#[expect(
    clippy::large_enum_variant,
    reason = "one per layer being unpacked, never in a collection"
)]
pub(crate) enum Decoder<R: Read> {
    None(BufReader<R>),
    Gzip(flate2::bufread::MultiGzDecoder<BufReader<R>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<R>>),
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes and chooses.
    pub(crate) fn new(input: R) -> Result<(Self, Compression), ImagesError> {
        let mut input = BufReader::with_capacity(BUFFER, input);
        let head = input
            .fill_buf()
            .map_err(|e| ImagesError::io("read", "blob", e))?;
        if let Some(name) = refused_compression(head) {
            return Err(ImagesError::Unsupported(format!(
                "{name} compression of layers is not supported; use gzip or zstd"
            )));
        }
        let compression = Compression::detect(head);
        let decoder = match compression {
            Compression::None => Self::None(input),
            Compression::Gzip => Self::Gzip(flate2::bufread::MultiGzDecoder::new(input)),
            // The window is at most 128 MiB: zstd's own default bound.
            Compression::Zstd => Self::Zstd(
                zstd::stream::read::Decoder::with_buffer(input)
                    .map_err(|e| ImagesError::io("start", "zstd", e))?,
            ),
        };
        Ok((decoder, compression))
    }

    /// The reader of compressed bytes, read to its end.
    pub(crate) fn into_drained(self) -> Result<R, ImagesError> {
        let mut input = match self {
            Self::None(input) => input,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        loop {
            let got = input
                .fill_buf()
                .map_err(|e| ImagesError::io("read", "blob", e))?
                .len();
            if got == 0 {
                return Ok(input.into_inner());
            }
            input.consume(got);
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(input) => input.read(buf),
            Self::Gzip(input) => input.read(buf),
            Self::Zstd(input) => input.read(buf),
        }
    }
}

/// Stops layer bombs: bounds the unpacked length, absolutely and in proportion to the compressed one.
pub(crate) struct BombGuard<R> {
    input: R,
    compressed: Arc<AtomicU64>,
    unpacked: u64,
    max: u64,
    ratio: u64,
    ratio_free: u64,
}

impl<R: Read> BombGuard<R> {
    pub(crate) fn new(input: R, compressed: Arc<AtomicU64>, limits: &Limits) -> Self {
        Self {
            input,
            compressed,
            unpacked: 0,
            max: limits.layer_bytes,
            ratio: limits.ratio,
            ratio_free: limits.ratio_free_bytes,
        }
    }

    pub(crate) fn into_inner(self) -> R {
        self.input
    }
}

impl<R: Read> Read for BombGuard<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buf)?;
        self.unpacked += got as u64;
        if self.unpacked > self.max {
            let error = ImagesError::TooLarge {
                what: "an unpacked layer".to_owned(),
                limit: format!("{} bytes", self.max),
            };
            return Err(error.into_io());
        }
        let allowed = self
            .compressed
            .load(Ordering::Relaxed)
            .saturating_mul(self.ratio);
        if self.unpacked > self.ratio_free && self.unpacked > allowed {
            let error = ImagesError::TooLarge {
                what: "the compression of a layer".to_owned(),
                limit: format!("{} unpacked bytes per compressed byte", self.ratio),
            };
            return Err(error.into_io());
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_the_known_form() {
        assert_eq!(
            digest_of(b"").as_str(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn a_reader_stops_at_its_bound() {
        let mut reader = HashingReader::<_, io::Sink>::new(&b"12345"[..], None, 4, "test");
        let mut all = Vec::new();
        let error = ImagesError::io("read", "test", reader.read_to_end(&mut all).unwrap_err());
        assert!(matches!(error, ImagesError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn compressions_are_told_apart() {
        assert_eq!(Compression::detect(&[0x1f, 0x8b, 8]), Compression::Gzip);
        assert_eq!(
            Compression::detect(&zstd::encode_all(&b"x"[..], 1).unwrap()),
            Compression::Zstd
        );
        assert_eq!(Compression::detect(b"etc/passwd"), Compression::None);
        assert!(Decoder::new(&b"\xfd7zXZ\0"[..]).is_err());
    }
}
