//! Images: OCI images, known by digest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageId, InvalidId, PoolId, Timestamp};

/// An image as one pool knows it. Content is shared between pools; the right to use it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the configuration document.
    pub id: ImageId,
    /// The pool that may use it.
    pub pool: PoolId,
    /// Names with tag it goes by in this pool, for example `docker.io/library/web:1`, in full form.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// Names with digest it was pulled by, `repository@sha256:…`, in full form.
    #[serde(default)]
    pub digests: BTreeSet<String>,
    /// What it is made of.
    pub content: ImageContent,
    /// Defaults for tasks.
    pub config: ImageConfig,
    /// Where a host that lacks it can pull it from: a repository and manifest digest. `None`: only from other hosts.
    #[serde(default)]
    pub source: Option<String>,
    /// When this pool first had it.
    pub added_at: Timestamp,
}

/// Which blobs make an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageContent {
    /// Digest of the configuration document; equals the image's id.
    pub config: Digest,
    /// Length of the configuration document in bytes.
    pub config_bytes: u64,
    /// Layers from bottom to top.
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the uncompressed tar archive (OCI `diff_id`): names the layer on every host.
    pub diff_id: Digest,
    /// Digest of the blob as stored or transferred; may be compressed.
    pub blob: Digest,
    /// Length of that blob in bytes.
    pub blob_bytes: u64,
    /// OCI media type of that blob.
    pub media_type: String,
}

/// CPU architecture and operating system in Go's words, as OCI uses them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// For example `amd64`.
    pub architecture: String,
    /// For example `linux`.
    pub os: String,
}

/// Defaults an image gives to tasks (OCI image configuration, `config`), and what `inspect` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Where it can run.
    pub platform: Platform,
    /// RFC 3339 time of its making, as the image says.
    #[serde(default)]
    pub created: Option<String>,
    /// `NAME=value` pairs.
    #[serde(default)]
    pub env: Vec<String>,
    /// Program and first arguments.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Default arguments.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// User and group to run as.
    #[serde(default)]
    pub user: String,
    /// Folder to start in.
    #[serde(default)]
    pub working_dir: String,
    /// Ports it says it listens on, `80/tcp`.
    #[serde(default)]
    pub exposed_ports: BTreeSet<String>,
    /// Folders it says hold data.
    #[serde(default)]
    pub volumes: BTreeSet<String>,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops it gently.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Unpacked size in bytes over all layers.
    #[serde(default)]
    pub size_bytes: u64,
    /// One line per build step, newest last.
    #[serde(default)]
    pub history: Vec<HistoryEntry>,
}

/// One build step (OCI image configuration, `history`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// RFC 3339 time.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// Free text.
    pub comment: Option<String>,
    /// Whether it made no layer.
    pub empty_layer: bool,
}

/// How an image is named: registry, repository, and tag or digest.
///
/// Grammar and defaults are those of the distribution project's `reference` package: no registry means `docker.io`,
/// one path segment there means `library/`, neither tag nor digest means `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    /// `host` or `host:port`.
    pub registry: String,
    /// Path below it, lower case.
    pub repository: String,
    /// Tag; set unless a digest is.
    pub tag: Option<String>,
    /// Digest of a manifest.
    pub digest: Option<Digest>,
}

/// Longest accepted repository name with registry, in bytes (as the reference grammar has it).
const REPOSITORY_MAX_BYTES: usize = 255;

impl ImageReference {
    /// Parses `[registry/]repository[:tag][@sha256:…]`.
    ///
    /// # Errors
    /// When any part is of another form; the message says which rule.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let bad = |rule| InvalidId {
            kind: "image reference",
            value: text
                .chars()
                .take(80)
                .flat_map(char::escape_default)
                .collect(),
            rule,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(Digest::parse(digest).map_err(|_| {
                    bad("the digest after '@' must be sha256: and 64 hexadecimal digits")
                })?),
            ),
            None => (text, None),
        };
        let (registry, path) = split_registry(rest);
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if let Some(tag) = tag {
            let mut bytes = tag.bytes();
            let first = bytes
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !first
                || tag.len() > 128
                || !bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            {
                return Err(bad("a tag has 1 to 128 letters, digits, '_', '.' or '-'"));
            }
        }
        if let Some(registry) = registry
            && !is_registry(registry)
        {
            return Err(bad(
                "the registry must be a host name with an optional port",
            ));
        }
        if repository.is_empty() || !repository.split('/').all(is_path_component) {
            return Err(bad(
                "repository names are lower-case letters and digits, separated by '/', '.', '_', '__' or '-'",
            ));
        }
        let registry = registry.unwrap_or("docker.io").to_owned();
        let repository = if registry == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if registry.len() + 1 + repository.len() > REPOSITORY_MAX_BYTES {
            return Err(bad("the name is longer than 255 bytes"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }

    /// Registry and repository, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name as people write it: without `docker.io/` and `library/`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry == "docker.io" {
            self.repository
                .strip_prefix("library/")
                .unwrap_or(&self.repository)
                .to_owned()
        } else {
            self.name()
        }
    }

    /// The whole reference as people write it.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = &self.tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = &self.digest {
            text = format!("{text}@{digest}");
        }
        text
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first segment is a registry if it has a dot or colon, or is `localhost`.
fn split_registry(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (Some(first), rest)
        }
        _ => (None, text),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let host_ok = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    host_ok && port.is_none_or(|port| !port.is_empty() && port.parse::<u16>().is_ok())
}

fn is_path_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    let mut run = String::new();
    for &b in bytes {
        if alnum(b) {
            if !separator_ok(&run) {
                return false;
            }
            run.clear();
        } else if matches!(b, b'.' | b'_' | b'-') {
            run.push(char::from(b));
        } else {
            return false;
        }
    }
    true
}

fn separator_ok(run: &str) -> bool {
    run.is_empty() || matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_get_their_defaults() {
        for (text, full, familiar) in [
            ("web", "docker.io/library/web:latest", "web:latest"),
            ("team/web:1.2", "docker.io/team/web:1.2", "team/web:1.2"),
            (
                "localhost:5000/web",
                "localhost:5000/web:latest",
                "localhost:5000/web:latest",
            ),
            (
                "reg.example/a/b__c:v1",
                "reg.example/a/b__c:v1",
                "reg.example/a/b__c:v1",
            ),
        ] {
            let reference = ImageReference::parse(text).unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(ImageReference::parse(full).unwrap(), reference);
        }
        let digest = format!("web@sha256:{}", "a".repeat(64));
        let reference = ImageReference::parse(&digest).unwrap();
        assert_eq!((reference.tag, reference.digest.is_some()), (None, true));
    }

    #[test]
    fn bad_references_are_refused() {
        let long = "a".repeat(300);
        for bad in [
            "",
            "../../etc",
            "Web",
            "a//b",
            ":tag",
            "a:",
            "a@sha256:zz",
            "a\0b",
            "a/",
            "/a",
            "a b",
            "-a",
            "a..b",
            "a___b",
            "reg.example:99999/a",
            "a:b:c",
            &long,
            "a:-x",
        ] {
            assert!(
                ImageReference::parse(bad).is_err(),
                "{bad:?} must be refused"
            );
        }
    }
}
