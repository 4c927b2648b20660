//! The body of `POST /containers/create`.

use std::collections::{BTreeMap, BTreeSet};

use model::image::{ImageConfig, Platform};
use model::workload::NetworkMode;
use model::{ImageId, TaskSpec, WorkloadId, WorkloadSpec};

use super::super::failure::{Failure, Result};
use super::super::value::{Fields, Value, shown};
use super::host_config::{HostDraft, Join, NetworkWish, host_config};
use super::placement::{
    Names, PlacementDraft, gpus_of_labels, on_host_loss, priority, take_placement,
};
use super::ports::take_exposed;
use super::small::signal;

/// A container as the request wants it, before its image's defaults are known.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::docker) struct ContainerDraft {
    /// The image as the request names it.
    pub(in crate::docker) image: String,
    /// The name, where clients repeat it beside the query.
    pub(in crate::docker) name: String,
    /// Whose network it wants to share.
    pub(in crate::docker) network: NetworkWish,
    /// Whose other namespaces it wants to share.
    pub(in crate::docker) joins: Vec<Join>,
    placement: PlacementDraft,
    labels: BTreeMap<String, String>,
    hostname: String,
    domainname: String,
    entrypoint: Option<Vec<String>>,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: String,
    user: String,
    tty: bool,
    stdin_open: bool,
    stdin_once: bool,
    stop_signal: String,
    stop_grace_seconds: Option<u32>,
    exposed_ports: BTreeSet<String>,
    host: HostDraft,
}

/// What the draft's names were resolved to.
#[derive(Clone)]
pub(in crate::docker) struct Resolved<'a> {
    /// The image.
    pub(in crate::docker) image: &'a ImageId,
    /// Its defaults.
    pub(in crate::docker) config: &'a ImageConfig,
    /// The container whose network is shared.
    pub(in crate::docker) network: Option<WorkloadId>,
    /// Finds what affinities name.
    pub(in crate::docker) names: &'a dyn Names,
}

impl ContainerDraft {
    /// Reads a body.
    pub(in crate::docker) fn decode(body: &[u8]) -> Result<Self> {
        let value = Value::parse(body)?;
        if value == Value::Null {
            return Err(Failure::invalid(
                "config cannot be empty in order to create a container",
            ));
        }
        let mut fields = Fields::open(value, "")?;
        refuse_foreign(&mut fields)?;
        let mut host = host_config(fields.object("HostConfig")?)?;
        host.mounts.add_volumes(fields.set("Volumes")?)?;
        let network = networking(&mut fields, &host)?;
        let labels = fields.text_map("Labels")?;
        let mut env = fields.texts("Env")?;
        let draft = Self {
            placement: take_placement(&mut env, &labels)?,
            image: fields.text("Image")?,
            name: fields.text("name")?,
            network,
            joins: std::mem::take(&mut host.joins),
            labels,
            hostname: fields.text("Hostname")?,
            domainname: fields.text("Domainname")?,
            entrypoint: fields.words("Entrypoint")?,
            cmd: fields.words("Cmd")?.unwrap_or_default(),
            env,
            working_dir: fields.text("WorkingDir")?,
            user: user(&mut fields)?,
            tty: fields.bool("Tty")?,
            stdin_open: fields.bool("OpenStdin")?,
            stdin_once: fields.bool("StdinOnce")?,
            stop_signal: fields.text("StopSignal")?,
            stop_grace_seconds: stop_timeout(&mut fields)?,
            exposed_ports: take_exposed(&mut fields)?,
            host,
        };
        fields.finish()?;
        if draft.image.is_empty() {
            return Err(Failure::invalid("Image: no image specified"));
        }
        Ok(draft)
    }

    /// Puts the image's defaults under it, as Docker does, and makes the specification.
    pub(in crate::docker) fn lower(self, resolved: &Resolved<'_>) -> Result<WorkloadSpec> {
        let config = resolved.config;
        if let Some(join) = self.joins.first() {
            return Err(join.unsupported());
        }
        let (entrypoint, args) = command(self.entrypoint, self.cmd, config)?;
        let stop_signal = match (&self.stop_signal, &config.stop_signal) {
            (own, _) if !own.is_empty() => Some(signal(own)?),
            (_, Some(of_image)) if !of_image.is_empty() => Some(signal(of_image)?),
            _ => None,
        };
        let or = |own: String, of_image: &String| {
            if own.is_empty() {
                of_image.clone()
            } else {
                own
            }
        };
        let placement = self.placement.lower(resolved.names)?;
        let gpus = gpus_of_labels(self.host.resources.gpus.clone(), &self.labels)?;
        let on_host_loss = on_host_loss(&self.labels)?;
        let priority = priority(&self.labels)?;
        let mut labels = config.labels.clone();
        labels.extend(self.labels);
        let exposed_ports = exposed(self.exposed_ports, config, &self.host);
        let host = self.host;
        let network = network_mode(self.network, resolved.network.as_ref())?;
        Ok(WorkloadSpec {
            labels,
            hostname: self.hostname,
            domainname: self.domainname,
            network,
            networks: Vec::new(),
            ports: host.ports,
            publish_all: host.publish_all,
            dns: host.dns,
            extra_hosts: host.extra_hosts,
            restart: host.restart,
            auto_remove: host.auto_remove,
            placement,
            on_host_loss,
            priority,
            task: TaskSpec {
                image: self.image,
                image_id: resolved.image.clone(),
                entrypoint,
                args,
                env: merge_env(self.env, &config.env),
                working_dir: or(self.working_dir, &config.working_dir),
                user: or(self.user, &config.user),
                groups: host.groups,
                tty: self.tty,
                stdin_open: self.stdin_open,
                stdin_once: self.stdin_once,
                init: host.init,
                stop_signal,
                stop_grace_seconds: self.stop_grace_seconds,
                resources: host.resources.resources,
                security: host.security,
                mounts: host.mounts.merge(&config.volumes)?,
                devices: host.resources.devices,
                gpus,
                sysctls: host.sysctls,
                ulimits: host.resources.ulimits,
                shm_bytes: host.shm_bytes,
                log: host.log,
                runtime: host.runtime,
                namespaces: host.namespaces,
                exposed_ports,
            },
        })
    }
}

/// Ports the request, the image and published ports name.
fn exposed(own: BTreeSet<String>, config: &ImageConfig, host: &HostDraft) -> BTreeSet<String> {
    let mut all = own;
    all.extend(config.exposed_ports.iter().cloned());
    let published = host.ports.iter();
    all.extend(published.map(|m| format!("{}/{}", m.port, m.protocol.as_str())));
    all
}

/// What cannot be expressed, and what concerns only the client.
fn refuse_foreign(fields: &mut Fields) -> Result<()> {
    for field in ["AttachStdin", "AttachStdout", "AttachStderr"] {
        // What the client will attach to; it says so again when it attaches.
        fields.bool(field)?;
    }
    fields.bool("ArgsEscaped")?;
    fields.unsupported(
        "MacAddress",
        "choosing the hardware address is not supported yet",
    )?;
    fields.unsupported("OnBuild", "only images have build triggers")?;
    fields.unsupported("Shell", "only builds and health checks use it")?;
    health_check(fields)
}

/// Health checks are not there yet; switching one off is what happens anyway.
fn health_check(fields: &mut Fields) -> Result<()> {
    let mut check = fields.object("Healthcheck")?;
    let test = check.texts("Test")?;
    if test.is_empty() || test == ["NONE"] {
        for field in [
            "Interval",
            "Timeout",
            "StartPeriod",
            "StartInterval",
            "Retries",
        ] {
            check.unsupported(field, "health checks are not supported yet")?;
        }
        return check.finish();
    }
    Err(Failure::unsupported(
        "Healthcheck: health checks are not supported yet (docker run --no-healthcheck)",
    ))
}

/// `User`, in a form that some image can have.
pub(in crate::docker) fn user(fields: &mut Fields) -> Result<String> {
    let user = fields.text("User")?;
    model::user::check_user(&user).map_err(|reason| Failure::invalid(format!("User: {reason}")))?;
    Ok(user)
}

fn stop_timeout(fields: &mut Fields) -> Result<Option<u32>> {
    match fields.optional_integer("StopTimeout")? {
        None => Ok(None),
        // Docker: wait for ever.
        Some(seconds) if seconds < 0 => Ok(Some(u32::MAX)),
        Some(seconds) => u32::try_from(seconds)
            .map(Some)
            .map_err(|_| Failure::invalid("StopTimeout: too large")),
    }
}

/// `NetworkingConfig`: only the network that `HostConfig.NetworkMode` names, without wishes.
fn networking(fields: &mut Fields, host: &HostDraft) -> Result<NetworkWish> {
    let disabled = fields.bool("NetworkDisabled")?;
    let mut config = fields.object("NetworkingConfig")?;
    for (name, value) in config.map("EndpointsConfig")? {
        let path = format!("NetworkingConfig.EndpointsConfig.{}", shown(&name));
        if !matches!(name.as_str(), "default" | "bridge" | "none" | "host") {
            return Err(Failure::invalid(format!(
                "NetworkingConfig.EndpointsConfig: network {} not found",
                shown(&name)
            )));
        }
        let mut endpoint = Fields::open(value, &path)?;
        for (field, why) in [
            ("IPAMConfig", "choosing addresses is not supported yet"),
            (
                "Links",
                "links are not supported, they are deprecated by Docker",
            ),
            (
                "Aliases",
                "aliases are not supported on the default network",
            ),
            (
                "MacAddress",
                "choosing the hardware address is not supported yet",
            ),
            (
                "DriverOpts",
                "options of the network driver are not supported yet",
            ),
            ("GwPriority", "gateway priorities are not supported yet"),
        ] {
            endpoint.unsupported(field, why)?;
        }
        endpoint.finish()?;
    }
    config.finish()?;
    Ok(if disabled {
        NetworkWish::None
    } else {
        host.network.clone()
    })
}

/// The network with the other container found.
fn network_mode(wish: NetworkWish, other: Option<&WorkloadId>) -> Result<NetworkMode> {
    Ok(match (wish, other) {
        (NetworkWish::Bridge, _) => NetworkMode::Bridge,
        (NetworkWish::None, _) => NetworkMode::None,
        (NetworkWish::Host, _) => NetworkMode::Host,
        (NetworkWish::Container(_), Some(id)) => NetworkMode::Workload { id: id.clone() },
        (NetworkWish::Container(name), None) => {
            // As when a caller's container is not found: 404 would make the client pull the image again.
            return Err(Failure::invalid(format!(
                "No such container: {}",
                shown(&name)
            )));
        }
    })
}

/// Docker's rule: an own entrypoint hides the image's command; an entrypoint of one empty word hides the image's
/// entrypoint.
fn command(
    entrypoint: Option<Vec<String>>,
    mut cmd: Vec<String>,
    config: &ImageConfig,
) -> Result<(Vec<String>, Vec<String>)> {
    let own_is_empty = entrypoint.as_ref().is_none_or(Vec::is_empty);
    if own_is_empty && cmd.is_empty() {
        cmd.clone_from(&config.cmd);
    }
    let mut entrypoint = entrypoint.unwrap_or_else(|| config.entrypoint.clone());
    if entrypoint.len() == 1 && entrypoint[0].is_empty() {
        entrypoint.clear();
    }
    if entrypoint.is_empty() && cmd.is_empty() {
        return Err(Failure::invalid("no command specified"));
    }
    Ok((entrypoint, cmd))
}

/// The request's variables, then those of the image it does not name; a bare name unsets.
fn merge_env(own: Vec<String>, of_image: &[String]) -> Vec<String> {
    let name = |pair: &str| pair.split('=').next().unwrap_or(pair).to_owned();
    let named: BTreeSet<String> = own.iter().map(|pair| name(pair)).collect();
    let inherited = of_image
        .iter()
        .filter(|pair| !named.contains(&name(pair)))
        .cloned();
    let mut env: Vec<String> = Vec::with_capacity(own.len() + of_image.len());
    env.extend(own.into_iter().filter(|pair| pair.contains('=')));
    env.extend(inherited);
    env
}

/// Whether an image can run where the request wants it (`?platform=linux/arm64`).
pub(in crate::docker) fn platform_matches(wanted: &str, image: &Platform) -> bool {
    let mut parts = wanted.split('/');
    let os = parts.next().unwrap_or_default();
    let architecture = match parts.next() {
        None => return os.eq_ignore_ascii_case(&image.os) || os == image.architecture,
        Some("x86_64") => "amd64",
        Some("aarch64") => "arm64",
        Some(other) => other,
    };
    os.eq_ignore_ascii_case(&image.os) && architecture == image.architecture
}

/// Checks a name as Docker does: without the slash, at least two characters.
pub(in crate::docker) fn container_name(text: &str) -> Result<model::Name> {
    let bare = text.strip_prefix('/').unwrap_or(text);
    match model::Name::parse(bare) {
        Ok(name) if bare.len() >= 2 => Ok(name),
        Ok(_) | Err(_) => Err(Failure::invalid(format!(
            "Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, 2 to 128 characters",
            shown(text)
        ))),
    }
}
