//! Checks stored content against its digests, on demand.

use std::fs::File;
use std::io::{self, Read};

use model::Digest;

use super::error::ImagesError;
use super::store::{Inner, LocalImages, Operation};
use super::streams::{BUFFER, Decoder, HashingReader};

impl LocalImages {
    /// Reads all blobs of an image and compares their digests; the list of what is wrong is empty if all is well.
    /// Damaged blobs are left where they are. Unpacked files cannot be compared with a digest; a layer with a good
    /// blob can be made anew. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn verify(&self, image: &Digest) -> Result<Vec<ImagesError>, ImagesError> {
        let operation = Operation::new(&self.inner);
        let record = operation.lease_image(image)?;
        let mut wrong = Vec::new();
        let mut check = |result: Result<(), ImagesError>| wrong.extend(result.err());
        check(verify_blob(&self.inner, &record.content.config, None));
        for layer in &record.content.layers {
            match self.inner.layer(&layer.diff_id) {
                Some(meta) => check(verify_blob(&self.inner, &meta.blob, Some(&layer.diff_id))),
                None => check(Err(ImagesError::NotFound {
                    what: "layer",
                    subject: layer.diff_id.to_string(),
                })),
            }
        }
        Ok(wrong)
    }
}

fn verify_blob(
    store: &Inner,
    digest: &Digest,
    diff_id: Option<&Digest>,
) -> Result<(), ImagesError> {
    let path = store.disk.blob(digest);
    let file =
        File::open(&path).map_err(|e| ImagesError::io("open", path.display().to_string(), e))?;
    let blob = HashingReader::<_, io::Sink>::new(file, None, u64::MAX, "blob");
    let found = if let Some(diff_id) = diff_id {
        let (decoder, _) = Decoder::new(blob)?;
        let mut plain =
            HashingReader::<_, io::Sink>::new(decoder, None, store.limits.layer_bytes, "layer");
        let read = read_through(&mut plain);
        let (actual, _, decoder) = plain.finish();
        let (blob, _, _) = decoder.into_drained()?.finish();
        // A damaged blob is named as such, whatever the damage did to its content.
        compare("a stored blob", digest, blob)?;
        read?;
        compare("the content of a stored layer", diff_id, actual)?;
        return Ok(());
    } else {
        let mut blob = blob;
        read_through(&mut blob)?;
        blob.finish().0
    };
    compare("a stored blob", digest, found)
}

fn read_through(reader: &mut impl Read) -> Result<(), ImagesError> {
    let mut scratch = vec![0; BUFFER];
    loop {
        match reader.read(&mut scratch) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(ImagesError::io("read", "blob", e)),
        }
    }
}

fn compare(what: &str, expected: &Digest, actual: Option<Digest>) -> Result<(), ImagesError> {
    match actual {
        Some(actual) if actual == *expected => Ok(()),
        Some(actual) => Err(ImagesError::DigestMismatch {
            what: what.to_owned(),
            expected: expected.clone(),
            actual,
        }),
        None => Err(ImagesError::Archive("no digest was computed".to_owned())),
    }
}
