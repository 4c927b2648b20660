//! An image as an archive that `docker load` reads: `manifest.json`, the configuration, one tar file per layer.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A complete image.
pub(super) struct Image {
    /// With tag.
    pub(super) reference: String,
    /// The `config` object of the image configuration.
    pub(super) config: serde_json::Value,
    /// Bottom first.
    pub(super) layers: Vec<Layer>,
}

/// An uncompressed layer and what made it.
pub(super) struct Layer {
    pub(super) created_by: &'static str,
    pub(super) tar: Vec<u8>,
}

/// Fixed, so that the same packages give the same image id.
const CREATED: &str = "2024-01-01T00:00:00Z";

/// Writes the archive.
pub(super) fn write(image: &Image, path: &Path) -> Result<()> {
    let digests: Vec<String> = image
        .layers
        .iter()
        .map(|layer| hex::encode(Sha256::digest(&layer.tar)))
        .collect();
    let history: Vec<_> = image
        .layers
        .iter()
        .map(|layer| json!({ "created": CREATED, "created_by": layer.created_by }))
        .collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": CREATED,
        "config": image.config,
        "rootfs": {
            "type": "layers",
            "diff_ids": digests.iter().map(|d| format!("sha256:{d}")).collect::<Vec<_>>(),
        },
        "history": history,
    });
    let config = serde_json::to_vec(&config)?;
    let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": [image.reference],
        "Layers": digests.iter().map(|d| format!("{d}/layer.tar")).collect::<Vec<_>>(),
    }]);

    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    append(
        &mut archive,
        "manifest.json",
        &serde_json::to_vec(&manifest)?,
    )?;
    append(&mut archive, &config_name, &config)?;
    for (digest, layer) in digests.iter().zip(&image.layers) {
        append(&mut archive, &format!("{digest}/layer.tar"), &layer.tar)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, name, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_the_same_each_time_and_names_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let layer = Layer {
            created_by: "test",
            tar: vec![0; 1024],
        };
        let image = Image {
            reference: "x:latest".into(),
            config: json!({}),
            layers: vec![layer],
        };
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write(&image, &a).unwrap();
        write(&image, &b).unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());

        let mut names = Vec::new();
        for entry in tar::Archive::new(File::open(&a).unwrap())
            .entries()
            .unwrap()
        {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names[0], "manifest.json");
        assert_eq!(names.len(), 3);
        assert!(names[2].ends_with("/layer.tar"), "{names:?}");
    }
}
