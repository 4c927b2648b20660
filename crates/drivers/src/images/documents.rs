//! Manifests, indexes and configurations: bytes to checked values. Pure.
//!
//! What always holds: what is ambiguous is refused (a document that could be read as manifest and as index,
//! CVE-2021-41190), as are digests of another form, which could be paths (CVE-2024-3727).

use std::collections::{BTreeMap, BTreeSet};

use model::image::HistoryEntry;
use model::{Digest, ImageConfig, Platform};
use serde::{Deserialize, Serialize};

use super::error::{ImagesError, quoted};
use super::limits::Limits;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A reference to content (OCI descriptor).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<DescriptorPlatform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// The platform of a manifest in an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DescriptorPlatform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// What a reference may lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Manifest {
    /// One image.
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
    /// One image per platform.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde_json::Value>,
}

/// Parses a manifest or index. `media_type` is what the transport says, if it says anything.
pub(crate) fn parse_manifest(
    bytes: &[u8],
    media_type: Option<&str>,
    limits: &Limits,
) -> Result<Manifest, ImagesError> {
    let fail = |reason: String| ImagesError::Document {
        what: "manifest".to_owned(),
        reason,
    };
    let raw: RawManifest = serde_json::from_slice(bytes).map_err(|e| fail(e.to_string()))?;
    let transport = media_type
        .map(|m| m.split(';').next().unwrap_or(m).trim())
        .filter(|m| m.starts_with("application/vnd."));
    let stated = raw.media_type.as_deref();
    if stated
        .or(transport)
        .is_some_and(|m| m.contains("manifest.v1+"))
        && !is_oci(stated.or(transport))
        || raw.schema_version == Some(1)
        || raw.fs_layers.is_some()
    {
        return Err(ImagesError::Unsupported(
            "image manifests of the old schema 1 are not supported; push the image again with a current program".to_owned(),
        ));
    }
    if raw.schema_version.is_some_and(|v| v != 2) {
        return Err(fail("schemaVersion must be 2".to_owned()));
    }
    if let (Some(stated), Some(transport)) = (stated, transport)
        && stated != transport
    {
        return Err(fail(format!(
            "it says it is {} but came as {}",
            quoted(stated.as_bytes()),
            quoted(transport.as_bytes())
        )));
    }
    let kind = stated.or(transport);
    match (raw.config, raw.layers, raw.manifests) {
        (Some(config), Some(layers), None) if !matches!(kind, Some(OCI_INDEX | DOCKER_INDEX)) => {
            check_image(&config, &layers, limits)?;
            Ok(Manifest::Image { config, layers })
        }
        (None, None, Some(manifests)) if !matches!(kind, Some(OCI_MANIFEST | DOCKER_MANIFEST)) => {
            Ok(Manifest::Index(manifests))
        }
        _ => Err(fail(
            "it is neither an image manifest nor an index".to_owned(),
        )),
    }
}

fn is_oci(media_type: Option<&str>) -> bool {
    media_type.is_some_and(|m| m.starts_with("application/vnd.oci."))
}

fn check_image(
    config: &Descriptor,
    layers: &[Descriptor],
    limits: &Limits,
) -> Result<(), ImagesError> {
    if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG | "") {
        return Err(ImagesError::Unsupported(format!(
            "this is not a container image but an artifact of type {}",
            quoted(config.media_type.as_bytes())
        )));
    }
    if layers.len() > limits.layers {
        return Err(ImagesError::TooLarge {
            what: "the number of layers".to_owned(),
            limit: limits.layers.to_string(),
        });
    }
    if config.size > limits.config_bytes {
        return Err(ImagesError::TooLarge {
            what: "the image configuration".to_owned(),
            limit: format!("{} bytes", limits.config_bytes),
        });
    }
    let mut total = 0_u64;
    for layer in layers {
        total = total.saturating_add(layer.size);
        if layer.media_type.contains("foreign")
            || layer.media_type.contains("nondistributable")
            || layer.media_type.contains("encrypted")
        {
            return Err(ImagesError::Unsupported(format!(
                "layers of type {} are not supported",
                quoted(layer.media_type.as_bytes())
            )));
        }
    }
    if total > limits.image_bytes {
        return Err(ImagesError::TooLarge {
            what: "the image".to_owned(),
            limit: format!("{} bytes", limits.image_bytes),
        });
    }
    Ok(())
}

/// The entry of an index for a platform.
pub(crate) fn choose_platform<'a>(
    entries: &'a [Descriptor],
    wanted: &WantedPlatform,
) -> Result<&'a Descriptor, ImagesError> {
    let fits = |d: &&Descriptor| {
        d.platform.as_ref().is_some_and(|p| {
            p.os == wanted.os
                && p.architecture == wanted.architecture
                && (wanted.variant.is_none() || p.variant == wanted.variant)
        })
    };
    if let Some(found) = entries.iter().find(fits) {
        return Ok(found);
    }
    // Indexes of a single image often leave the platform out.
    if let [only] = entries
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let known: BTreeSet<String> = entries
        .iter()
        .filter_map(|d| d.platform.as_ref())
        .filter(|p| p.os != "unknown")
        .map(|p| quoted(format!("{}/{}", p.os, p.architecture).as_bytes()))
        .collect();
    let known: Vec<String> = known.into_iter().take(20).collect();
    Err(ImagesError::Document {
        what: "image".to_owned(),
        reason: format!(
            "no variant for {}/{}; there is {}",
            wanted.os,
            wanted.architecture,
            known.join(", ")
        ),
    })
}

/// Which variant of an image is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedPlatform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

impl WantedPlatform {
    /// That of this program.
    pub(crate) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// Parses `os/arch[/variant]`.
    pub(crate) fn parse(text: &str) -> Result<Self, ImagesError> {
        let mut parts = text.split('/');
        let (Some(os), Some(architecture), variant, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ImagesError::Document {
                what: "platform".to_owned(),
                reason: "must be os/architecture[/variant]".to_owned(),
            });
        };
        if os != "linux" {
            return Err(ImagesError::Unsupported(format!(
                "hosts run linux images, not {}",
                quoted(os.as_bytes())
            )));
        }
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

/// A checked image configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParsedConfig {
    /// One per layer, bottom first.
    pub(crate) diff_ids: Vec<Digest>,
    /// Without `size_bytes`, which the document does not tell.
    pub(crate) config: ImageConfig,
}

#[derive(Deserialize)]
struct RawImage {
    architecture: Option<String>,
    os: Option<String>,
    created: Option<String>,
    config: Option<RawConfig>,
    rootfs: Option<RawRootfs>,
    history: Option<Vec<RawHistory>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize)]
struct RawHistory {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: Option<bool>,
}

/// Go writes `null` for empty lists and maps.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

/// Parses an image configuration.
pub(crate) fn parse_config(bytes: &[u8], limits: &Limits) -> Result<ParsedConfig, ImagesError> {
    let fail = |reason: String| ImagesError::Document {
        what: "image configuration".to_owned(),
        reason,
    };
    let raw: RawImage = serde_json::from_slice(bytes).map_err(|e| fail(e.to_string()))?;
    // Old images name no system; there was only one then.
    let os = raw
        .os
        .filter(|os| !os.is_empty())
        .unwrap_or_else(|| "linux".to_owned());
    if os != "linux" {
        return Err(fail(format!(
            "it is for the operating system \"{}\", hosts run linux",
            quoted(os.as_bytes())
        )));
    }
    let diff_ids = raw.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
    if diff_ids.is_empty() {
        return Err(fail("it names no layers (rootfs.diff_ids)".to_owned()));
    }
    if diff_ids.len() > limits.layers {
        return Err(ImagesError::TooLarge {
            what: "the number of layers".to_owned(),
            limit: limits.layers.to_string(),
        });
    }
    let config = raw.config.unwrap_or_default();
    let history = raw
        .history
        .unwrap_or_default()
        .into_iter()
        .map(|h| HistoryEntry {
            created: h.created,
            created_by: h.created_by,
            comment: h.comment,
            empty_layer: h.empty_layer.unwrap_or(false),
        });
    let config = ImageConfig {
        platform: Platform {
            architecture: raw.architecture.unwrap_or_default(),
            os,
        },
        created: raw.created,
        env: config.env.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        exposed_ports: config
            .exposed_ports
            .unwrap_or_default()
            .into_keys()
            .collect(),
        volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        labels: config.labels.unwrap_or_default(),
        stop_signal: config.stop_signal.filter(|s| !s.is_empty()),
        size_bytes: 0,
        history: history.collect(),
    };
    Ok(ParsedConfig { diff_ids, config })
}
