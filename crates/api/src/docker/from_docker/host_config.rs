//! `HostConfig`: everything about a container that is not in its image's realm.

use std::collections::BTreeMap;

use model::RestartPolicy;
use model::user::check_group;
use model::workload::{DnsSpec, LogSpec, NamespaceModes, PortMapping, Seccomp, Security};

use super::super::failure::{Failure, Result};
use super::super::value::{Fields, Value, shown};
use super::mounts::MountDraft;
use super::ports::take_bindings;
use super::resources::{ResourceDraft, take_resources, take_restart};
use super::small::size_bytes;

/// How the request wants to be attached to the network; other containers are named, not yet found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::docker) enum NetworkWish {
    /// The default bridge.
    Bridge,
    /// Only loopback.
    None,
    /// The host's network.
    Host,
    /// The network of another container, by name or id.
    Container(String),
}

/// A namespace of another container, named but not yet found, which is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::docker) struct Join {
    /// Where the request says so.
    pub(in crate::docker) field: String,
    /// The other container, by name or id.
    pub(in crate::docker) container: String,
}

impl Join {
    /// Why it cannot be had although the other container is there.
    pub(in crate::docker) fn unsupported(&self) -> Failure {
        Failure::unsupported(format!(
            "{}: sharing with other containers is not supported yet",
            self.field
        ))
    }
}

/// What `HostConfig` says.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::docker) struct HostDraft {
    pub(in crate::docker) resources: ResourceDraft,
    pub(in crate::docker) mounts: MountDraft,
    pub(in crate::docker) network: NetworkWish,
    pub(in crate::docker) ports: Vec<PortMapping>,
    pub(in crate::docker) publish_all: bool,
    pub(in crate::docker) dns: DnsSpec,
    pub(in crate::docker) extra_hosts: Vec<(String, String)>,
    pub(in crate::docker) restart: RestartPolicy,
    pub(in crate::docker) auto_remove: bool,
    pub(in crate::docker) groups: Vec<String>,
    pub(in crate::docker) security: Security,
    pub(in crate::docker) namespaces: NamespaceModes,
    pub(in crate::docker) joins: Vec<Join>,
    pub(in crate::docker) sysctls: BTreeMap<String, String>,
    pub(in crate::docker) shm_bytes: Option<u64>,
    pub(in crate::docker) log: LogSpec,
    pub(in crate::docker) runtime: Option<String>,
    pub(in crate::docker) init: bool,
}

/// Reads `HostConfig`.
pub(in crate::docker) fn host_config(mut fields: Fields) -> Result<HostDraft> {
    let fields_ref = &mut fields;
    refuse_foreign(fields_ref)?;
    let mut resources = take_resources(fields_ref)?;
    // In a new container no limit is the same as none said; in an update it takes one away.
    resources.resources.pids_limit = resources.resources.pids_limit.filter(|limit| *limit > 0);
    let auto_remove = fields_ref.bool("AutoRemove")?;
    let restart = take_restart(fields_ref)?.unwrap_or_default();
    if auto_remove && restart != RestartPolicy::No {
        return Err(Failure::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    let (namespaces, joins) = namespaces(fields_ref)?;
    let draft = HostDraft {
        resources,
        mounts: MountDraft::take(fields_ref)?,
        network: network(fields_ref)?,
        ports: take_bindings(fields_ref)?,
        publish_all: fields_ref.bool("PublishAllPorts")?,
        dns: DnsSpec {
            servers: fields_ref.texts("Dns")?,
            search: fields_ref.texts("DnsSearch")?,
            options: fields_ref.texts("DnsOptions")?,
        },
        extra_hosts: extra_hosts(fields_ref)?,
        restart,
        auto_remove,
        groups: groups(fields_ref)?,
        security: security(fields_ref)?,
        namespaces,
        joins,
        sysctls: fields_ref.text_map("Sysctls")?,
        shm_bytes: Some(fields_ref.amount("ShmSize")?).filter(|bytes| *bytes > 0),
        log: log(fields_ref)?,
        runtime: Some(fields_ref.text("Runtime")?).filter(|name| !name.is_empty()),
        init: fields_ref.bool("Init")?,
    };
    fields.finish()?;
    Ok(draft)
}

/// What is not expressed yet, what no tenant may have, and what only concerns the client.
fn refuse_foreign(fields: &mut Fields) -> Result<()> {
    // The client writes the id into that file itself, and follows with a resize: both say nothing to a server.
    fields.text("ContainerIDFile")?;
    fields.list("ConsoleSize")?;
    fields.unsupported(
        "VolumesFrom",
        "mounts of other containers are not supported yet",
    )?;
    fields.unsupported(
        "Links",
        "links are not supported, they are deprecated by Docker",
    )?;
    fields.unsupported("StorageOpt", "storage options are not supported yet")?;
    fields.unsupported("Annotations", "annotations are not supported yet")?;
    fields.unsupported(
        "Cgroup",
        "sharing the cgroup of another container is not supported",
    )?;
    for (field, harmless, why) in [
        (
            "VolumeDriver",
            &["local"][..],
            "only the volume driver local is there",
        ),
        (
            "Isolation",
            &["default"][..],
            "only Windows has other isolations",
        ),
    ] {
        let value = fields.text(field)?;
        if !value.is_empty() && !harmless.contains(&value.as_str()) {
            return Err(Failure::unsupported(format!(
                "{}: {why}",
                fields.name(field)
            )));
        }
    }
    for (field, what) in [
        (
            "CgroupnsMode",
            "the host's cgroup namespace cannot be shared",
        ),
        ("UsernsMode", "the host's user namespace cannot be chosen"),
    ] {
        let value = fields.text(field)?;
        match value.as_str() {
            "" | "private" => {}
            "host" => {
                return Err(Failure::forbidden(format!(
                    "{}: {what}",
                    fields.name(field)
                )));
            }
            other => {
                return Err(Failure::invalid(format!(
                    "{}: invalid mode: {}",
                    fields.name(field),
                    shown(other)
                )));
            }
        }
    }
    Ok(())
}

fn network(fields: &mut Fields) -> Result<NetworkWish> {
    let mode = fields.text("NetworkMode")?;
    Ok(match mode.as_str() {
        "" | "default" | "bridge" => NetworkWish::Bridge,
        "none" => NetworkWish::None,
        "host" => NetworkWish::Host,
        other => match other.strip_prefix("container:") {
            Some("") => {
                return Err(Failure::invalid(
                    "HostConfig.NetworkMode: invalid container format container:<name|id>",
                ));
            }
            Some(name) => NetworkWish::Container(name.to_owned()),
            // 404 would make the client pull the image again.
            None => {
                return Err(Failure::invalid(format!(
                    "HostConfig.NetworkMode: network {} not found",
                    shown(other)
                )));
            }
        },
    })
}

fn extra_hosts(fields: &mut Fields) -> Result<Vec<(String, String)>> {
    let path = fields.name("ExtraHosts");
    fields
        .texts("ExtraHosts")?
        .into_iter()
        .map(|line| {
            line.split_once([':', '='])
                .filter(|(name, address)| !name.is_empty() && !address.is_empty())
                .map(|(name, address)| {
                    let address = address.trim_start_matches('[').trim_end_matches(']');
                    (name.to_owned(), address.to_owned())
                })
                .ok_or_else(|| {
                    Failure::invalid(format!(
                        "{path}: bad format for add-host: \"{}\"",
                        shown(&line)
                    ))
                })
        })
        .collect()
}

fn groups(fields: &mut Fields) -> Result<Vec<String>> {
    let path = fields.name("GroupAdd");
    let groups = fields.texts("GroupAdd")?;
    for group in &groups {
        check_group(group).map_err(|reason| Failure::invalid(format!("{path}: {reason}")))?;
    }
    Ok(groups)
}

fn capabilities(fields: &mut Fields, field: &str) -> Result<Vec<String>> {
    Ok(fields
        .texts(field)?
        .into_iter()
        .map(|name| {
            let upper = name.trim().to_ascii_uppercase();
            if upper == "ALL" || upper.starts_with("CAP_") {
                upper
            } else {
                format!("CAP_{upper}")
            }
        })
        .map(|name| {
            if name == "CAP_ALL" {
                "ALL".to_owned()
            } else {
                name
            }
        })
        .collect())
}

fn paths(fields: &mut Fields, field: &str) -> Result<Option<Vec<String>>> {
    let name = fields.name(field);
    match fields.take(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.into_texts(&name).map(Some),
    }
}

fn security(fields: &mut Fields) -> Result<Security> {
    let mut security = Security {
        privileged: fields.bool("Privileged")?,
        cap_add: capabilities(fields, "CapAdd")?,
        cap_drop: capabilities(fields, "CapDrop")?,
        readonly_rootfs: fields.bool("ReadonlyRootfs")?,
        masked_paths: paths(fields, "MaskedPaths")?,
        readonly_paths: paths(fields, "ReadonlyPaths")?,
        ..Security::default()
    };
    let path = fields.name("SecurityOpt");
    for option in fields.texts("SecurityOpt")? {
        security_option(&option, &mut security, &path)?;
    }
    Ok(security)
}

/// `name`, `name=value` or, as before API 1.23, `name:value`.
fn security_option(option: &str, security: &mut Security, path: &str) -> Result<()> {
    let (name, value) = option
        .split_once('=')
        .or_else(|| option.split_once(':'))
        .unwrap_or((option, ""));
    let refused = || {
        Failure::invalid(format!(
            "{path}: invalid --security-opt: \"{}\"",
            shown(option)
        ))
    };
    match (name, value) {
        ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
        ("no-new-privileges", "false") => security.no_new_privileges = false,
        ("seccomp", "" | "builtin" | "default") => security.seccomp = Seccomp::Default,
        ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
        ("seccomp", json) => {
            Value::parse(json.as_bytes()).map_err(|_| {
                Failure::invalid(format!("{path}: seccomp: the profile is not valid JSON"))
            })?;
            security.seccomp = Seccomp::Custom(json.to_owned());
        }
        ("systempaths", "unconfined") => {
            security.masked_paths = Some(Vec::new());
            security.readonly_paths = Some(Vec::new());
        }
        // No AppArmor profile and no SELinux label is ever applied, so switching them off changes nothing.
        ("apparmor", "unconfined") | ("label", "disable") => {}
        ("apparmor" | "label", _) => {
            return Err(Failure::unsupported(format!(
                "{path}: {name}: AppArmor profiles and SELinux labels are not supported"
            )));
        }
        ("writable-cgroups", "" | "false") => {}
        ("writable-cgroups", _) => {
            return Err(Failure::forbidden(format!(
                "{path}: writable-cgroups is not allowed"
            )));
        }
        _ => return Err(refused()),
    }
    Ok(())
}

fn namespaces(fields: &mut Fields) -> Result<(NamespaceModes, Vec<Join>)> {
    let mut joins = Vec::new();
    let mut host = [false; 3];
    let modes = [
        ("PidMode", &[""][..]),
        // "shareable" only lets others join, which nobody can here.
        ("IpcMode", &["", "private", "shareable"][..]),
        ("UTSMode", &[""][..]),
    ];
    for (shared, (field, private)) in host.iter_mut().zip(modes) {
        let value = fields.text(field)?;
        let name = fields.name(field);
        match value.as_str() {
            "host" => *shared = true,
            mode if private.contains(&mode) => {}
            "none" if field == "IpcMode" => {
                return Err(Failure::unsupported(format!(
                    "{name}: none: a container without /dev/shm is not supported"
                )));
            }
            mode => match mode
                .strip_prefix("container:")
                .filter(|_| field != "UTSMode")
            {
                Some(container) if !container.is_empty() => joins.push(Join {
                    field: name,
                    container: container.to_owned(),
                }),
                Some(_) => {
                    return Err(Failure::invalid(format!(
                        "{name}: invalid container format container:<name|id>"
                    )));
                }
                None => {
                    return Err(Failure::invalid(format!(
                        "{name}: invalid mode: {}",
                        shown(mode)
                    )));
                }
            },
        }
    }
    let modes = NamespaceModes {
        host_pid: host[0],
        host_ipc: host[1],
        host_uts: host[2],
    };
    Ok((modes, joins))
}

fn log(fields: &mut Fields) -> Result<LogSpec> {
    let mut config = fields.object("LogConfig")?;
    let driver = config.text("Type")?;
    let options = config.text_map("Config")?;
    config.finish()?;
    let mut log = LogSpec::default();
    match driver.as_str() {
        "" | "json-file" | "local" => {}
        "none" => log.keep = false,
        "syslog" | "journald" | "gelf" | "fluentd" | "awslogs" | "splunk" | "gcplogs"
        | "etwlogs" => {
            return Err(Failure::unsupported(format!(
                "HostConfig.LogConfig.Type: the log driver {driver} is not supported, use json-file, local or none"
            )));
        }
        other => {
            return Err(Failure::invalid(format!(
                "HostConfig.LogConfig.Type: logger: no log driver named '{}' is registered",
                shown(other)
            )));
        }
    }
    for (name, value) in options {
        let bad = || {
            Failure::invalid(format!(
                "HostConfig.LogConfig.Config.{name}: invalid value \"{}\"",
                shown(&value)
            ))
        };
        match name.as_str() {
            "max-size" => log.max_file_bytes = size_bytes(&value).ok_or_else(bad)?,
            "max-file" => log.max_files = value.parse().map_err(|_| bad())?,
            // Whether old files are compressed and how writes are buffered is the host's business.
            "compress" | "mode" | "max-buffer-size" => {}
            other => {
                return Err(Failure::invalid(format!(
                    "HostConfig.LogConfig.Config: unknown log opt '{}' for json-file log driver",
                    shown(other)
                )));
            }
        }
    }
    Ok(log)
}
