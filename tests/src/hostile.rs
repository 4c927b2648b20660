//! A registry that sends what it is told to, however wrong.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::image::{Layer, config, digest};

/// What is answered for one digest.
#[derive(Debug, Clone)]
pub enum Blob {
    /// These bytes at once, whatever their digest is.
    Whole(Vec<u8>),
    /// Their length, the first byte, and never another one.
    Stalled(Vec<u8>),
    /// Their length, and a byte per second.
    Dripping(Vec<u8>),
}

/// A running registry; it ends when dropped.
pub struct HostileRegistry {
    /// `address:port` as hosts reach it.
    pub address: String,
    answers: Arc<Answers>,
}

/// Media type and bytes by path.
type Answers = Mutex<HashMap<String, (String, Blob)>>;

/// Time between two bytes of [`Blob::Dripping`].
const DRIP: Duration = Duration::from_secs(1);

impl HostileRegistry {
    /// Starts one that listens on `address`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(address: &str) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).context("listen as a registry")?;
        let address = listener.local_addr()?.to_string();
        let answers = Arc::new(Answers::default());
        let shared = Arc::downgrade(&answers);
        // The thread ends with the process: a listener cannot be woken, and holds nothing but its port.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answers = Weak::clone(&shared);
                std::thread::spawn(move || {
                    // A client that goes away is no failure of the registry.
                    let _ = serve(&stream, &answers);
                });
            }
        });
        Ok(Self { address, answers })
    }

    /// Puts an image, with `blob` in place of each layer's bytes and `size` in place of their length.
    pub fn put(
        &self,
        name: &str,
        layer: Layer,
        size: Option<u64>,
        blob: impl FnOnce(Vec<u8>) -> Blob,
    ) {
        let digest_of_layer = digest(&layer.blob);
        let size = size.unwrap_or(layer.blob.len() as u64);
        let layers = [layer];
        let config = config(&layers);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config),
                "size": config.len(),
            },
            "layers": layers.iter().map(|layer| json!({
                "mediaType": layer.media_type,
                "digest": digest_of_layer,
                "size": size,
            })).collect::<Vec<_>>(),
        });
        let [layer] = layers;
        let bytes = "application/octet-stream";
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = |path: String, kind: &str, blob: Blob| {
            answers.insert(path, (kind.to_owned(), blob));
        };
        answer(
            format!("/v2/{name}/manifests/1"),
            "application/vnd.oci.image.manifest.v1+json",
            Blob::Whole(manifest.to_string().into_bytes()),
        );
        let blobs = format!("/v2/{name}/blobs");
        answer(
            format!("{blobs}/{}", digest(&config)),
            bytes,
            Blob::Whole(config),
        );
        answer(
            format!("{blobs}/{digest_of_layer}"),
            bytes,
            blob(layer.blob),
        );
    }

    /// How the image is named by a client.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}:1", self.address)
    }
}

/// Answers one request; every answer closes its connection.
fn serve(stream: &TcpStream, answers: &Weak<Answers>) -> Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().context("no request")??;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let alive = answers.upgrade().context("the registry has ended")?;
    let found = alive
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&path)
        .cloned();
    drop(alive);
    let mut out = stream;
    let Some((kind, blob)) = found else {
        let status = if path == "/v2/" {
            "200 OK"
        } else {
            "404 Not Found"
        };
        write!(
            out,
            "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        return Ok(());
    };
    let (Blob::Whole(bytes) | Blob::Stalled(bytes) | Blob::Dripping(bytes)) = &blob;
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        bytes.len()
    )?;
    match &blob {
        Blob::Whole(bytes) => out.write_all(bytes)?,
        Blob::Stalled(bytes) => {
            out.write_all(&bytes[..1])?;
            while answers.strong_count() > 0 {
                // tidy: sleep: nothing is ever sent; looks whether the registry has ended
                std::thread::sleep(DRIP);
            }
        }
        Blob::Dripping(bytes) => {
            for byte in bytes.iter().take_while(|_| answers.strong_count() > 0) {
                out.write_all(&[*byte])?;
                // tidy: sleep: the slowness is what is tested
                std::thread::sleep(DRIP);
            }
        }
    }
    Ok(())
}
