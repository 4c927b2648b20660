//! Reads the documents of an archive: which files make which images.

use model::{Digest, ImageReference};
use serde::Deserialize;

use super::documents::{
    Descriptor, Manifest, ParsedConfig, WantedPlatform, choose_platform, parse_config,
    parse_manifest,
};
use super::error::ImagesError;
use super::intake::Intake;
use super::layer::WantedLayer;
use super::limits::Limits;
use super::streams::digest_of;

/// Tags of one image in an archive: more is a mistake or an attack.
const TAGS_MAX: usize = 1000;

/// One image to be made of an intake.
#[derive(Debug)]
pub(super) struct LoadPlan {
    pub(super) config: Digest,
    pub(super) config_text: Vec<u8>,
    pub(super) parsed: ParsedConfig,
    pub(super) layers: Vec<PlannedLayer>,
    pub(super) tags: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct PlannedLayer {
    pub(super) wanted: WantedLayer,
    pub(super) media_type: Option<String>,
    pub(super) file: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct OciIndex {
    manifests: Vec<Descriptor>,
}

/// Reads an archive's documents.
pub(super) fn plan(intake: &Intake, limits: &Limits) -> Result<Vec<LoadPlan>, ImagesError> {
    let plans = if intake.files.contains_key("manifest.json") {
        plan_docker(intake, limits)?
    } else if intake.files.contains_key("index.json") {
        plan_oci(intake, limits)?
    } else if intake.files.contains_key("repositories") {
        return Err(ImagesError::Unsupported(
            "archives of Docker before 1.10 are not supported; save the image again with a current program".to_owned(),
        ));
    } else {
        return Err(ImagesError::Document {
            what: "archive".to_owned(),
            reason: "it has neither manifest.json (docker save) nor index.json (OCI)".to_owned(),
        });
    };
    if plans.is_empty() {
        return Err(ImagesError::Document {
            what: "archive".to_owned(),
            reason: "it names no image".to_owned(),
        });
    }
    Ok(plans)
}

fn plan_docker(intake: &Intake, limits: &Limits) -> Result<Vec<LoadPlan>, ImagesError> {
    let text = intake.text("manifest.json", limits.manifest_bytes)?;
    let items: Vec<DockerItem> =
        serde_json::from_slice(&text).map_err(|e| ImagesError::Document {
            what: "manifest.json".to_owned(),
            reason: e.to_string(),
        })?;
    let mut plans = Vec::new();
    for item in items {
        let config_text = intake.text(&item.config, limits.config_bytes)?;
        let parsed = parse_config(&config_text, limits)?;
        let files = item.layers.unwrap_or_default();
        check_layer_count(files.len(), &parsed)?;
        let mut layers = Vec::new();
        for (file, diff_id) in files.iter().zip(&parsed.diff_ids) {
            let (name, taken) = intake.find(file)?;
            let wanted = WantedLayer {
                diff_id: diff_id.clone(),
                blob: Some((taken.digest.clone(), taken.bytes)),
            };
            layers.push(PlannedLayer {
                wanted,
                media_type: None,
                file: name,
            });
        }
        let tags = check_tags(item.repo_tags.unwrap_or_default())?;
        plans.push(LoadPlan {
            config: digest_of(&config_text),
            config_text,
            parsed,
            layers,
            tags,
        });
    }
    Ok(plans)
}

fn check_layer_count(files: usize, parsed: &ParsedConfig) -> Result<(), ImagesError> {
    if files == parsed.diff_ids.len() {
        return Ok(());
    }
    Err(ImagesError::Document {
        what: "image".to_owned(),
        reason: format!(
            "it has {files} layers, but its configuration names {}",
            parsed.diff_ids.len()
        ),
    })
}

fn check_tags(tags: Vec<String>) -> Result<Vec<String>, ImagesError> {
    if tags.len() > TAGS_MAX {
        return Err(ImagesError::TooLarge {
            what: "the number of tags".to_owned(),
            limit: TAGS_MAX.to_string(),
        });
    }
    tags.iter()
        .map(|tag| {
            let reference = ImageReference::parse(tag).map_err(|e| ImagesError::Document {
                what: "tag".to_owned(),
                reason: e.to_string(),
            })?;
            Ok(reference.to_string())
        })
        .collect()
}

fn plan_oci(intake: &Intake, limits: &Limits) -> Result<Vec<LoadPlan>, ImagesError> {
    let text = intake.text("index.json", limits.manifest_bytes)?;
    let index: OciIndex = serde_json::from_slice(&text).map_err(|e| ImagesError::Document {
        what: "index.json".to_owned(),
        reason: e.to_string(),
    })?;
    let mut plans: Vec<LoadPlan> = Vec::new();
    for entry in &index.manifests {
        let mut manifest = parse_manifest(
            &intake.blob_text(entry, limits.manifest_bytes)?,
            None,
            limits,
        )?;
        // An index may hold one index per image, but nothing deeper makes sense.
        if let Manifest::Index(variants) = &manifest {
            let chosen = choose_platform(variants, &WantedPlatform::host())?;
            manifest = parse_manifest(
                &intake.blob_text(chosen, limits.manifest_bytes)?,
                None,
                limits,
            )?;
        }
        let Manifest::Image { config, layers } = manifest else {
            return Err(ImagesError::Document {
                what: "index".to_owned(),
                reason: "indexes are nested too deep".to_owned(),
            });
        };
        let config_text = intake.blob_text(&config, limits.config_bytes)?;
        let parsed = parse_config(&config_text, limits)?;
        check_layer_count(layers.len(), &parsed)?;
        let mut planned = Vec::new();
        for (layer, diff_id) in layers.iter().zip(&parsed.diff_ids) {
            let (file, _) = intake.find(&format!("blobs/sha256/{}", layer.digest.hex()))?;
            let wanted = WantedLayer {
                diff_id: diff_id.clone(),
                blob: Some((layer.digest.clone(), layer.size)),
            };
            planned.push(PlannedLayer {
                wanted,
                media_type: Some(layer.media_type.clone()),
                file,
            });
        }
        let tags = check_tags(oci_name(entry).into_iter().collect())?;
        match plans.iter_mut().find(|p| p.config == config.digest) {
            Some(known) => known.tags.extend(tags),
            None => plans.push(LoadPlan {
                config: config.digest,
                config_text,
                parsed,
                layers: planned,
                tags,
            }),
        }
    }
    Ok(plans)
}

/// The name of an image in an OCI layout. A bare tag, which the specification allows too, names nothing.
fn oci_name(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations.as_ref()?;
    let full = annotations.get("io.containerd.image.name");
    let name = full.or_else(|| {
        annotations
            .get("org.opencontainers.image.ref.name")
            .filter(|n| n.contains([':', '/']))
    })?;
    Some(name.clone())
}
