//! Builders of layers, archives and stores for the image tests.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several test programs, each of which uses a part"
)]

pub mod fake;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use agent::driver::{ByteStream, ImageStore, ImportedImage};
use bytes::Bytes;
use drivers::images::{ImagesError, Limits, LocalImages, RegistryOptions};
use sha2::{Digest as _, Sha256};

pub fn sha(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A layer archive under construction; every method takes names as they are, however bad.
#[derive(Default)]
pub struct LayerTar(pub Vec<u8>);

impl LayerTar {
    pub fn new() -> Self {
        Self::default()
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one scenario or one table of cases, read from top to bottom"
    )]
    pub fn raw(
        mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        mode: u32,
        owner: (u64, u64),
        data: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        let name = self.long(b'L', name);
        let link = self.long(b'K', link);
        {
            let bytes = header.as_mut_bytes();
            bytes[..name.len()].copy_from_slice(&name);
            bytes[157..157 + link.len()].copy_from_slice(&link);
            bytes[156] = kind;
        }
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.data(data)
    }

    fn long(&mut self, kind: u8, name: &[u8]) -> Vec<u8> {
        if name.len() <= 100 {
            return name.to_vec();
        }
        let mut header = tar::Header::new_gnu();
        header.set_path("././@LongLink").unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(name.len() as u64 + 1);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        let mut text = name.to_vec();
        text.push(0);
        text.resize(text.len().div_ceil(512) * 512, 0);
        self.0.extend_from_slice(&text);
        name[..100].to_vec()
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().div_ceil(512) * 512, 0);
        self
    }

    /// A PAX header for the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            write!(text, "{length} {key}=").unwrap();
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        let mut header = tar::Header::new_ustar();
        header.set_path("PaxHeaders/x").unwrap();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(text.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.data(&text)
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(b'0', name.as_bytes(), b"", 0o644, (0, 0), data)
    }

    pub fn dir(self, name: &str) -> Self {
        self.raw(b'5', name.as_bytes(), b"", 0o755, (0, 0), b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(b'2', name.as_bytes(), target.as_bytes(), 0o777, (0, 0), b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(b'1', name.as_bytes(), target.as_bytes(), 0o644, (0, 0), b"")
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A configuration for layers given as uncompressed archives.
pub fn config(layers: &[Vec<u8>], mark: &str) -> Vec<u8> {
    serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05Z",
        "config": { "Cmd": ["/bin/x"], "Env": ["A=b"], "Labels": { "mark": mark }, "Volumes": null, "ExposedPorts": {"80/tcp": {}} },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| format!("sha256:{}", sha(l))).collect::<Vec<_>>() },
        "history": [ { "created_by": "test" } ],
    })
    .to_string()
    .into_bytes()
}

/// Puts files into a tar archive.
pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    files
        .iter()
        .fold(LayerTar::new(), |tar, (name, data)| tar.file(name, data))
        .end()
}

/// What `docker save` wrote before it wrote OCI layouts.
pub fn docker_archive(images: &[(&str, Vec<Vec<u8>>)]) -> Vec<u8> {
    let mut files = BTreeMap::new();
    let mut manifest = Vec::new();
    for (tag, layers) in images {
        let config = config(layers, tag);
        let config_name = format!("{}.json", sha(&config));
        let mut names = Vec::new();
        for layer in layers {
            let name = format!("{}/layer.tar", sha(layer));
            names.push(name.clone());
            files.insert(name, layer.clone());
        }
        files.insert(config_name.clone(), config);
        manifest
            .push(serde_json::json!({ "Config": config_name, "RepoTags": [tag], "Layers": names }));
    }
    files.insert(
        "manifest.json".to_owned(),
        serde_json::json!(manifest).to_string().into_bytes(),
    );
    archive(&files.into_iter().collect::<Vec<_>>())
}

pub fn stream(bytes: Vec<u8>) -> ByteStream {
    let chunks: Vec<_> = bytes
        .chunks(50_000)
        .map(|c| Ok(Bytes::copy_from_slice(c)))
        .collect();
    Box::pin(futures::stream::iter(chunks))
}

pub fn open(root: &Path) -> LocalImages {
    LocalImages::open(root, Limits::default(), RegistryOptions::default()).unwrap()
}

pub async fn load(
    store: &LocalImages,
    archive: Vec<u8>,
) -> Result<Vec<ImportedImage>, agent::driver::DriverError> {
    let (progress, mut lines) = tokio::sync::mpsc::channel(100);
    let drain = tokio::spawn(async move { while lines.recv().await.is_some() {} });
    let result = store.load(stream(archive), progress).await;
    drain.await.unwrap();
    result.map(|imported| imported.images)
}

/// The kind of a driver error's cause.
pub fn cause(error: &agent::driver::DriverError) -> &ImagesError {
    error.source.as_ref().unwrap().downcast_ref().unwrap()
}

/// Names below a folder of a store.
pub fn names(root: &Path, folder: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root.join(folder))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Waits for a condition, at most ten seconds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        // tidy: sleep: pause between two looks
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Pulls an image, giving the lines of progress as `id status`.
pub async fn pull(
    store: &LocalImages,
    reference: &str,
    credentials: Option<(&str, &str)>,
) -> (
    Result<ImportedImage, agent::driver::DriverError>,
    Vec<String>,
) {
    let (progress, mut lines) = tokio::sync::mpsc::channel::<agent::driver::ImageProgress>(100);
    let collect = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(line) = lines.recv().await {
            all.push(format!("{} {}", line.id, line.status));
        }
        all
    });
    let request = agent::driver::PullRequest {
        reference: reference.to_owned(),
        platform: None,
        credentials: credentials.map(|(username, password)| agent::driver::Credentials {
            username: username.to_owned(),
            password: password.to_owned(),
        }),
    };
    let result = store.pull(&request, progress).await;
    let image = result.map(|mut imported| imported.images.remove(0));
    (image, collect.await.unwrap())
}

/// Checks that a store holds nothing at all.
pub async fn assert_empty(root: &Path) {
    for folder in ["layers", "blobs/sha256", "images", "tmp", "quarantine"] {
        eventually(&format!("{folder} is empty"), || {
            names(root, folder).is_empty()
        })
        .await;
    }
}
