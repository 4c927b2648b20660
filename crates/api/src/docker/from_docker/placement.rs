//! Where a container is to be placed: classic Swarm's `-e constraint:…` and `-e affinity:…`, labels, and `--gpus`.

use std::collections::{BTreeMap, BTreeSet};

use model::placement::{GPU_MILLIS, GpuRequest, Neighbour};
use model::rule::{InvalidRule, Rule};
use model::{HostLoss, ImageId, PlacementSpec, WorkloadId};

use super::super::failure::{Failure, Result};
use super::super::value::{Fields, shown};

/// Host rules, separated by commas.
const CONSTRAINTS: &str = "com.plimsoll.constraints";
/// Rules about neighbours, separated by commas.
const AFFINITIES: &str = "com.plimsoll.affinities";
/// Containers with the same word are spread.
const SPREAD: &str = "com.plimsoll.spread";
/// Thousandths of one GPU.
const GPU_LABEL: &str = "com.plimsoll.gpu-millis";
/// Models of GPUs that will do, separated by commas.
const GPU_MODELS: &str = "com.plimsoll.gpu-models";

/// What becomes of the container when its host is lost.
const HOST_LOSS: &str = "com.plimsoll.on-host-loss";
/// How important it is among the containers of its pool.
const PRIORITY: &str = "com.plimsoll.priority";

/// Placement as the request wants it; other containers and images are named, not yet found.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::docker) struct PlacementDraft {
    spec: PlacementSpec,
    affinities: Vec<Rule>,
}

/// What names in affinities stand for.
pub(in crate::docker) trait Names {
    /// A container of the pool.
    fn container(&self, name: &str) -> Result<WorkloadId>;
    /// An image of the pool.
    fn image(&self, name: &str) -> Result<ImageId>;
}

impl From<InvalidRule> for Failure {
    fn from(error: InvalidRule) -> Self {
        Failure::invalid(error.to_string())
    }
}

/// Takes the rules out of the environment, where classic Swarm has them, and out of labels.
pub(super) fn take_placement(
    env: &mut Vec<String>,
    labels: &BTreeMap<String, String>,
) -> Result<PlacementDraft> {
    let mut draft = PlacementDraft::default();
    let mut kept = Vec::with_capacity(env.len());
    for entry in env.drain(..) {
        if let Some(rule) = entry.strip_prefix("constraint:") {
            draft.spec.hosts.push(Rule::parse(rule)?.about_hosts());
        } else if let Some(rule) = entry.strip_prefix("affinity:") {
            draft.affinities.push(Rule::parse(rule)?);
        } else {
            kept.push(entry);
        }
    }
    *env = kept;
    for rule in listed(labels, CONSTRAINTS) {
        draft.spec.hosts.push(Rule::parse(rule)?.about_hosts());
    }
    for rule in listed(labels, AFFINITIES) {
        draft.affinities.push(Rule::parse(rule)?);
    }
    draft.spec.spread = labels.get(SPREAD).cloned().or_else(|| of_compose(labels));
    Ok(draft)
}

/// What becomes of a container when its host is lost, by its label.
pub(super) fn on_host_loss(labels: &BTreeMap<String, String>) -> Result<Option<HostLoss>> {
    let Some(text) = labels.get(HOST_LOSS) else {
        return Ok(None);
    };
    let answer = HostLoss::parse(text).ok_or_else(|| {
        Failure::invalid(format!(
            "label {HOST_LOSS}: \"{}\" is none of restart, keep and at-most-one",
            shown(text)
        ))
    })?;
    Ok(Some(answer))
}

/// How important a container is in its pool, by its label.
pub(super) fn priority(labels: &BTreeMap<String, String>) -> Result<Option<i32>> {
    let Some(text) = labels.get(PRIORITY) else {
        return Ok(None);
    };
    let number = text.trim().parse().map_err(|_| {
        Failure::invalid(format!(
            "label {PRIORITY}: \"{}\" is not a whole number",
            shown(text)
        ))
    })?;
    Ok(Some(number))
}

fn listed<'a>(labels: &'a BTreeMap<String, String>, label: &str) -> impl Iterator<Item = &'a str> {
    let text = labels.get(label).map_or("", String::as_str);
    text.split(',').map(str::trim).filter(|it| !it.is_empty())
}

/// Containers of one Compose service are alike.
fn of_compose(labels: &BTreeMap<String, String>) -> Option<String> {
    let project = labels.get("com.docker.compose.project")?;
    let service = labels.get("com.docker.compose.service")?;
    Some(format!("{project}/{service}"))
}

impl PlacementDraft {
    pub(super) fn lower(self, names: &dyn Names) -> Result<PlacementSpec> {
        let mut spec = self.spec;
        for rule in &self.affinities {
            let rule = rule.about_neighbours(|key, value| -> Result<Neighbour> {
                Ok(match key {
                    "container" => Neighbour::Workload {
                        id: names.container(value)?,
                    },
                    "image" => Neighbour::Image {
                        id: names.image(value)?,
                    },
                    key => Neighbour::Label {
                        key: key.to_owned(),
                        value: value.to_owned(),
                    },
                })
            })?;
            spec.affinities.push(rule);
        }
        Ok(spec)
    }
}

/// Reads `DeviceRequests`: GPUs, by number or by name.
pub(super) fn take_gpus(fields: &mut Fields) -> Result<Option<GpuRequest>> {
    let path = fields.name("DeviceRequests");
    let requests = fields.list("DeviceRequests")?;
    let mut requests = requests.into_iter();
    let (request, more) = (requests.next(), requests.next());
    let Some(request) = request else {
        return Ok(None);
    };
    let invalid = |why: &str| Failure::invalid(format!("{path}: {why}"));
    if more.is_some() {
        return Err(invalid("one request can be made"));
    }
    let mut fields = Fields::open(request, &path)?;
    let driver = fields.text("Driver")?;
    if !driver.is_empty() && driver != "nvidia" {
        return Err(Failure::unsupported(format!(
            "{path}.Driver: \"{}\" is not supported, only nvidia",
            shown(&driver)
        )));
    }
    let count = fields.integer("Count")?;
    let devices: BTreeSet<String> = fields.texts("DeviceIDs")?.into_iter().collect();
    let capabilities = capabilities(&mut fields, &path)?;
    fields.unsupported("Options", "options of a device driver are not supported")?;
    fields.finish()?;
    let count = match (count, devices.len()) {
        (0, 0) => return Err(invalid("Count or DeviceIDs is needed")),
        (0, named) => u32::try_from(named).unwrap_or(u32::MAX),
        (_, named) if named > 0 => return Err(invalid("Count and DeviceIDs exclude each other")),
        (-1, _) => {
            return Err(invalid(
                "all GPUs of a host are a different number on each: say how many (--gpus 1)",
            ));
        }
        (count, _) => u32::try_from(count).map_err(|_| invalid("Count is out of range"))?,
    };
    Ok(Some(GpuRequest {
        count,
        millis: GPU_MILLIS,
        models: BTreeSet::new(),
        devices,
        capabilities,
    }))
}

/// One of the lists has to contain `gpu`; what else it contains is what the driver is to offer.
fn capabilities(fields: &mut Fields, path: &str) -> Result<BTreeSet<String>> {
    let lists = fields.list("Capabilities")?;
    let path = format!("{path}.Capabilities");
    for list in lists {
        let mut words: BTreeSet<String> = list.into_texts(&path)?.into_iter().collect();
        if words.remove("gpu") || words.contains("nvidia") {
            words.remove("nvidia");
            return Ok(words);
        }
    }
    Err(Failure::unsupported(format!(
        "{path}: only devices with the capability gpu can be requested"
    )))
}

/// What labels say of GPUs: a part of one, and models.
pub(super) fn gpus_of_labels(
    request: Option<GpuRequest>,
    labels: &BTreeMap<String, String>,
) -> Result<Option<GpuRequest>> {
    let models: BTreeSet<String> = listed(labels, GPU_MODELS).map(str::to_owned).collect();
    let Some(text) = labels.get(GPU_LABEL) else {
        return Ok(request.map(|request| GpuRequest { models, ..request }));
    };
    let millis = text.parse().ok().filter(|it| (1..=GPU_MILLIS).contains(it));
    let millis = millis.ok_or_else(|| {
        Failure::invalid(format!(
            "label {GPU_LABEL}: \"{}\" is no number from 1 to {GPU_MILLIS}",
            shown(text)
        ))
    })?;
    let request = request.unwrap_or(GpuRequest {
        count: 1,
        millis,
        models: BTreeSet::new(),
        devices: BTreeSet::new(),
        capabilities: BTreeSet::new(),
    });
    Ok(Some(GpuRequest {
        millis,
        models,
        ..request
    }))
}
