//! Images made byte by byte, for layers that no builder would make.

use std::io::Write;

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};

/// A layer as it is shipped.
pub struct Layer {
    /// The bytes that travel.
    pub blob: Vec<u8>,
    /// Digest of the tar archive within, or what is claimed to be it.
    pub diff_id: String,
    /// OCI media type.
    pub media_type: &'static str,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// By gzip.
    Gzip,
    /// By Zstandard.
    Zstd,
}

/// `sha256:…` of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Writes to both: the digest of what comes, and what packs it.
struct Tee<W> {
    hash: Sha256,
    packer: W,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.packer.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.packer.flush()
    }
}

impl Layer {
    /// A layer whose archive `fill` writes; it is never held whole, however much it unpacks to.
    ///
    /// # Errors
    /// When `fill` fails.
    pub fn pack(
        packing: Packing,
        fill: impl FnOnce(&mut tar::Builder<&mut dyn Write>) -> Result<()>,
    ) -> Result<Self> {
        let (blob, diff_id, media_type) = match packing {
            Packing::Plain => {
                let (blob, diff_id) = through(Vec::new(), fill)?;
                (blob, diff_id, "application/vnd.oci.image.layer.v1.tar")
            }
            Packing::Gzip => {
                let packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                let (packer, diff_id) = through(packer, fill)?;
                let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
                (packer.finish()?, diff_id, kind)
            }
            Packing::Zstd => {
                let (packer, diff_id) = through(zstd::Encoder::new(Vec::new(), 1)?, fill)?;
                let kind = "application/vnd.oci.image.layer.v1.tar+zstd";
                (packer.finish()?, diff_id, kind)
            }
        };
        Ok(Self {
            blob,
            diff_id,
            media_type,
        })
    }
}

/// Fills an archive into a packer; gives the packer and the digest of what went in.
fn through<W: Write>(
    packer: W,
    fill: impl FnOnce(&mut tar::Builder<&mut dyn Write>) -> Result<()>,
) -> Result<(W, String)> {
    let mut tee = Tee {
        hash: Sha256::new(),
        packer,
    };
    let mut archive = tar::Builder::new(&mut tee as &mut dyn Write);
    fill(&mut archive)?;
    archive.finish()?;
    drop(archive);
    let digest = format!("sha256:{}", hex::encode(tee.hash.finalize()));
    Ok((tee.packer, digest))
}

/// Adds a file to an archive.
///
/// # Errors
/// When it cannot be written.
pub fn add(
    archive: &mut tar::Builder<&mut dyn Write>,
    name: &str,
    size: u64,
    data: impl std::io::Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    archive.append_data(&mut header, name, data)?;
    Ok(())
}

/// The configuration of an image.
#[must_use]
pub fn config(layers: &[Layer]) -> Vec<u8> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Cmd": ["/x"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes()
}

/// An archive for `docker load`.
///
/// # Errors
/// Only when memory cannot be written to, that is never.
pub fn docker_archive(name: &str, layers: &[Layer]) -> Result<Vec<u8>> {
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}.tar")).collect();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": names }]);
    let manifest = manifest.to_string().into_bytes();
    let mut bytes = Vec::new();
    let mut archive = tar::Builder::new(&mut bytes as &mut dyn Write);
    let mut put = |name: &str, data: &[u8]| add(&mut archive, name, data.len() as u64, data);
    put("manifest.json", &manifest)?;
    put("config.json", &config(layers))?;
    for (name, layer) in names.iter().zip(layers) {
        put(name, &layer.blob)?;
    }
    archive.finish()?;
    drop(archive);
    Ok(bytes)
}
