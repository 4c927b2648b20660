//! Takes an archive of images in: every file into a temporary file, its digest computed on the way. Knows nothing of
//! what the files mean.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use model::Digest;

use super::disk::{Disk, TempFile};
use super::documents::Descriptor;
use super::error::{ImagesError, quoted};
use super::jail::segments;
use super::limits::Limits;
use super::pipe::PipeReader;
use super::streams::{BombGuard, Decoder, HashingReader};
use super::tarentry::EntryKind;
use super::tarstream::TarStream;

/// What an archive held.
#[derive(Default)]
pub(super) struct Intake {
    pub(super) files: BTreeMap<String, TakenFile>,
    /// Older `docker save` links equal layers to each other.
    pub(super) links: HashMap<String, String>,
    pub(super) bytes: u64,
}

pub(super) struct TakenFile {
    pub(super) temp: TempFile,
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

/// Reads a whole archive into temporary files. Blocks.
pub(super) fn take_in(
    reader: PipeReader,
    disk: &Disk,
    limits: &Limits,
) -> Result<Intake, ImagesError> {
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

    pub(super) fn find(&self, path: &str) -> Result<(String, &TakenFile), ImagesError> {
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

    pub(super) fn text(&self, path: &str, max: u64) -> Result<Vec<u8>, ImagesError> {
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

    pub(super) fn blob_text(
        &self,
        descriptor: &Descriptor,
        max: u64,
    ) -> Result<Vec<u8>, ImagesError> {
        self.text(&format!("blobs/sha256/{}", descriptor.digest.hex()), max)
    }
}
