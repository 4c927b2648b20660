//! A registry that misbehaves as told, and Debian's real one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{config, gzip, sha};

/// A request as the fake sees it.
pub struct Seen {
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// What the fake answers instead of the proper answer.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Never finish the body.
    pub hang: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            hang: false,
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Hook = dyn Fn(&Seen) -> Option<Reply> + Send + Sync;

/// A registry in this process.
#[derive(Clone)]
#[expect(
    clippy::type_complexity,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
pub struct Fake {
    pub port: u16,
    pub content: Arc<Mutex<HashMap<String, (String, Vec<u8>)>>>,
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Serves what is put in; the hook may answer first.
    pub async fn start(hook: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let fake = Self {
            port: listener.local_addr().unwrap().port(),
            content: Arc::default(),
            log: Arc::default(),
        };
        let (served, hook): (_, Arc<Hook>) = (fake.clone(), Arc::new(hook));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, served.clone(), Arc::clone(&hook)));
            }
        });
        fake
    }

    pub fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    pub fn put(&self, path: &str, media_type: &str, body: Vec<u8>) {
        self.content
            .lock()
            .unwrap()
            .insert(path.to_owned(), (media_type.to_owned(), body));
    }

    /// Puts an image with compressed layers; gives its manifest's digest in hexadecimal digits.
    pub fn put_image(&self, name: &str, tag: &str, layers: &[Vec<u8>]) -> String {
        let config = config(layers, &format!("{name}:{tag}"));
        let mut listed = Vec::new();
        for layer in layers {
            let blob = gzip(layer);
            listed.push(serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": format!("sha256:{}", sha(&blob)), "size": blob.len(),
            }));
            self.put(
                &format!("/v2/{name}/blobs/sha256:{}", sha(&blob)),
                "application/octet-stream",
                blob,
            );
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{}", sha(&config)), "size": config.len() },
            "layers": listed,
        });
        self.put(
            &format!("/v2/{name}/blobs/sha256:{}", sha(&config)),
            "application/octet-stream",
            config,
        );
        self.put_manifest(
            name,
            tag,
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().into_bytes(),
        )
    }

    pub fn put_manifest(&self, name: &str, tag: &str, media_type: &str, text: Vec<u8>) -> String {
        let digest = sha(&text);
        self.put(
            &format!("/v2/{name}/manifests/{tag}"),
            media_type,
            text.clone(),
        );
        self.put(
            &format!("/v2/{name}/manifests/sha256:{digest}"),
            media_type,
            text,
        );
        digest
    }

    /// How often a path was asked for.
    pub fn asked(&self, part: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|p| p.contains(part))
            .count()
    }
}

async fn serve(mut stream: TcpStream, fake: Fake, hook: Arc<Hook>) {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
        if head.len() == 1 && head[0] == 0x16 {
            // TLS is not spoken here.
            return;
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let path = lines
        .next()
        .unwrap_or_default()
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let headers: HashMap<_, _> = lines
        .filter_map(|l| l.split_once(": "))
        .map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))
        .collect();
    fake.log.lock().unwrap().push(path.clone());
    let seen = Seen { path, headers };
    let reply = hook(&seen).unwrap_or_else(|| proper(&seen, &fake));
    let mut answer = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(n, _)| n == "Content-Length") {
        answer += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        answer += &format!("{name}: {value}\r\n");
    }
    let _ = stream.write_all(format!("{answer}\r\n").as_bytes()).await;
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    let _ = stream.write_all(body).await;
    if reply.hang {
        // Until the client goes away.
        let _ = stream.read(&mut byte).await;
    }
    let _ = stream.shutdown().await;
}

fn proper(seen: &Seen, fake: &Fake) -> Reply {
    if seen.path == "/v2/" {
        return Reply::new(200, "{}");
    }
    let content = fake.content.lock().unwrap();
    let Some((media_type, body)) = content.get(&seen.path) else {
        return Reply::new(
            404,
            r#"{"errors":[{"code":"NOT_FOUND","message":"not here"}]}"#,
        );
    };
    let start = seen.headers.get("range").and_then(|r| {
        r.strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    let reply = match start {
        Some(start) => Reply::new(206, &body[start..]).header(
            "Content-Range",
            format!("bytes {start}-{}/{}", body.len() - 1, body.len()),
        ),
        None => Reply::new(200, body.clone()),
    };
    reply.header("Content-Type", media_type.clone())
}

/// Debian's `docker-registry`, ended when dropped.
pub struct RealRegistry {
    pub port: u16,
    child: Child,
    pub dir: tempfile::TempDir,
}

impl RealRegistry {
    /// Starts it; `extra` is put below `http:` and at top level of its configuration.
    pub async fn start(http: &str, top: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let at = dir.path().display().to_string();
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {at}/data}}\nhttp:\n  addr: 127.0.0.1:{port}\n{}{}",
            http.replace("DIR", &at),
            top.replace("DIR", &at),
        );
        std::fs::write(dir.path().join("config.yml"), text).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let registry = Self { port, child, dir };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(
                std::time::Instant::now() < deadline,
                "the registry did not start"
            );
            // tidy: sleep: pause of a poll loop with a deadline
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        registry
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// Pushes a docker archive with skopeo.
    pub fn push(&self, archive: &[u8], name: &str, options: &[&str]) {
        let file: PathBuf = self
            .dir
            .path()
            .join(format!("{}.tar", sha(name.as_bytes())));
        std::fs::write(&file, archive).unwrap();
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
            .args(options)
            .arg(format!("docker-archive:{}", file.display()))
            .arg(format!("docker://{}", self.reference(name)))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
