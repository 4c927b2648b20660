//! Binds, volumes, mounts and tmpfs.

use std::collections::{BTreeMap, BTreeSet};

use model::workload::{Mount, MountSource};

use super::super::failure::{Failure, Result};
use super::super::value::{Fields, Value, shown};
use super::small::{clean_absolute, size_bytes};

/// Where mounts come from in a request; merged by [`MountDraft::merge`].
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::docker) struct MountDraft {
    mounts: Vec<Mount>,
    anonymous: BTreeSet<String>,
}

impl MountDraft {
    /// Takes `Binds`, `Mounts` and `Tmpfs` out of `HostConfig`.
    pub(in crate::docker) fn take(fields: &mut Fields) -> Result<Self> {
        let mut mounts = Vec::new();
        let path = fields.name("Binds");
        for bind in fields.texts("Binds")? {
            mounts.push(bind_text(&bind, &path)?);
        }
        let path = fields.name("Mounts");
        for (i, value) in fields.list("Mounts")?.into_iter().enumerate() {
            mounts.push(mount(value, &format!("{path}[{i}]"))?);
        }
        let path = fields.name("Tmpfs");
        for (target, options) in fields.text_map("Tmpfs")? {
            mounts.push(tmpfs_text(&target, &options, &path)?);
        }
        let mut seen = BTreeSet::new();
        for mount in &mounts {
            if !seen.insert(mount.target.as_str()) {
                return Err(Failure::invalid(format!(
                    "Duplicate mount point: {}",
                    shown(&mount.target)
                )));
            }
        }
        Ok(Self {
            mounts,
            anonymous: BTreeSet::new(),
        })
    }

    /// Adds `Volumes` of the container's configuration: anonymous ones.
    pub(in crate::docker) fn add_volumes(&mut self, targets: Vec<String>) -> Result<()> {
        for text in targets {
            self.anonymous.insert(target(&text, "Volumes")?);
        }
        Ok(())
    }

    /// The mounts with an anonymous volume for each path of request and image that has no mount of its own.
    pub(in crate::docker) fn merge(mut self, of_image: &BTreeSet<String>) -> Result<Vec<Mount>> {
        for text in of_image {
            self.anonymous.insert(target(text, "the image's volumes")?);
        }
        let taken: BTreeSet<String> = self.mounts.iter().map(|m| m.target.clone()).collect();
        self.mounts.extend(
            self.anonymous
                .into_iter()
                .filter(|target| !taken.contains(target))
                .map(|target| Mount {
                    target,
                    read_only: false,
                    source: MountSource::Volume {
                        name: String::new(),
                        no_copy: false,
                    },
                }),
        );
        Ok(self.mounts)
    }
}

/// A path inside, clean.
fn target(text: &str, path: &str) -> Result<String> {
    match clean_absolute(text) {
        Some(clean) if clean == "/" => Err(Failure::invalid(format!(
            "{path}: invalid specification: destination can't be '/'"
        ))),
        Some(clean) => Ok(clean),
        None => Err(Failure::invalid(format!(
            "{path}: invalid mount path: '{}' mount path must be absolute, without '..' and control characters",
            shown(text)
        ))),
    }
}

/// A name of a volume, as Docker allows them.
fn volume_name(text: &str, path: &str) -> Result<String> {
    model::Name::parse(text)
        .map(|name| name.as_str().to_owned())
        .map_err(|_| {
            Failure::invalid(format!(
                "{path}: \"{}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path",
                shown(text)
            ))
        })
}

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// `source:target[:mode]` of `HostConfig.Binds`.
fn bind_text(text: &str, path: &str) -> Result<Mount> {
    let bad = || {
        Failure::invalid(format!(
            "{path}: invalid volume specification: '{}'",
            shown(text)
        ))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, inside, mode) = match parts[..] {
        [source, inside] => (source, inside, ""),
        [source, inside, mode] => (source, inside, mode),
        _ => return Err(bad()),
    };
    if source.is_empty() {
        return Err(bad());
    }
    let (mut read_only, mut no_copy, mut propagation) = (false, false, String::new());
    for word in mode.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" => read_only = true,
            // Labels of SELinux and hints for macOS mean nothing on these hosts, for Docker neither.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "nocopy" => no_copy = true,
            word if PROPAGATIONS.contains(&word) => word.clone_into(&mut propagation),
            _ => {
                return Err(Failure::invalid(format!(
                    "{path}: invalid mode: {}",
                    shown(mode)
                )));
            }
        }
    }
    let source = if source.starts_with('/') {
        MountSource::HostPath {
            path: clean_absolute(source).ok_or_else(bad)?,
            propagation,
            create: true,
        }
    } else {
        if !propagation.is_empty() {
            return Err(Failure::invalid(format!(
                "{path}: invalid mode: {}",
                shown(mode)
            )));
        }
        MountSource::Volume {
            name: volume_name(source, path)?,
            no_copy,
        }
    };
    Ok(Mount {
        target: target(inside, path)?,
        read_only,
        source,
    })
}

/// An entry of `HostConfig.Mounts`.
fn mount(value: Value, path: &str) -> Result<Mount> {
    let mut fields = Fields::open(value, path)?;
    let kind = fields.text("Type")?;
    let source = fields.text("Source")?;
    let inside = fields.text("Target")?;
    let read_only = fields.bool("ReadOnly")?;
    let consistency = fields.text("Consistency")?;
    if !matches!(
        consistency.as_str(),
        "" | "default" | "consistent" | "cached" | "delegated"
    ) {
        return Err(Failure::invalid(format!(
            "{path}.Consistency: unknown value"
        )));
    }
    let source = match kind.as_str() {
        "bind" => bind_source(&mut fields, &source, path)?,
        "volume" => volume_source(&mut fields, &source, path)?,
        "tmpfs" => tmpfs_source(&mut fields, &source, path)?,
        "image" | "npipe" | "cluster" => {
            return Err(Failure::unsupported(format!(
                "{path}.Type: mounts of type {kind} are not supported"
            )));
        }
        other => {
            return Err(Failure::invalid(format!(
                "{path}.Type: mount type unknown: \"{}\"",
                shown(other)
            )));
        }
    };
    fields.finish()?;
    Ok(Mount {
        target: target(&inside, &format!("{path}.Target"))?,
        read_only,
        source,
    })
}

fn bind_source(fields: &mut Fields, source: &str, path: &str) -> Result<MountSource> {
    let mut options = fields.object("BindOptions")?;
    let propagation = options.text("Propagation")?;
    let create = options.bool("CreateMountpoint")?;
    for field in [
        "NonRecursive",
        "ReadOnlyNonRecursive",
        "ReadOnlyForceRecursive",
    ] {
        options.unsupported(field, "is not supported")?;
    }
    options.finish()?;
    if !propagation.is_empty() && !PROPAGATIONS.contains(&propagation.as_str()) {
        return Err(Failure::invalid(format!(
            "{path}.BindOptions.Propagation: invalid propagation mode: {}",
            shown(&propagation)
        )));
    }
    let clean = clean_absolute(source).ok_or_else(|| {
        Failure::invalid(format!(
            "{path}.Source: invalid mount path: '{}' mount path must be absolute, without '..' and control characters",
            shown(source)
        ))
    })?;
    Ok(MountSource::HostPath {
        path: clean,
        propagation,
        create,
    })
}

fn volume_source(fields: &mut Fields, source: &str, path: &str) -> Result<MountSource> {
    let mut options = fields.object("VolumeOptions")?;
    let no_copy = options.bool("NoCopy")?;
    options.unsupported("Labels", "labels of volumes are not supported yet")?;
    options.unsupported("Subpath", "is not supported yet")?;
    let mut driver = options.object("DriverConfig")?;
    let name = driver.text("Name")?;
    if !matches!(name.as_str(), "" | "local") {
        return Err(Failure::unsupported(format!(
            "{path}.VolumeOptions.DriverConfig.Name: only the driver local is there"
        )));
    }
    // Docker's local driver mounts anything with them, also folders and disks of the host.
    driver.forbidden("Options", "options of the volume driver are not allowed")?;
    driver.finish()?;
    options.finish()?;
    let name = if source.is_empty() {
        String::new()
    } else {
        volume_name(source, &format!("{path}.Source"))?
    };
    Ok(MountSource::Volume { name, no_copy })
}

fn tmpfs_source(fields: &mut Fields, source: &str, path: &str) -> Result<MountSource> {
    if !source.is_empty() {
        return Err(Failure::invalid(format!(
            "{path}.Source: must be empty for tmpfs"
        )));
    }
    let mut tmpfs = fields.object("TmpfsOptions")?;
    let size = tmpfs.amount("SizeBytes")?;
    let mode = tmpfs.amount("Mode")?;
    let mut options = Vec::new();
    for (i, pair) in tmpfs.list("Options")?.into_iter().enumerate() {
        let at = format!("{path}.TmpfsOptions.Options[{i}]");
        let words = pair.into_texts(&at)?;
        options.push(tmpfs_option(&words.join("="), &at)?);
    }
    tmpfs.finish()?;
    Ok(MountSource::Tmpfs {
        size_bytes: (size > 0).then_some(size),
        mode: tmpfs_mode(mode, path)?,
        options,
    })
}

fn tmpfs_mode(mode: u64, path: &str) -> Result<Option<u32>> {
    match u32::try_from(mode) {
        Ok(0) => Ok(None),
        Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
        Ok(_) | Err(_) => Err(Failure::invalid(format!(
            "{path}: mode must be permission bits"
        ))),
    }
}

/// One of the options that change nothing but the tmpfs itself.
fn tmpfs_option(text: &str, path: &str) -> Result<String> {
    let number = |text: &str| text.parse::<u32>().is_ok();
    let good = match text.split_once('=') {
        None => matches!(
            text,
            "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev"
        ),
        Some(("uid" | "gid", value)) => number(value),
        Some(_) => false,
    };
    if good {
        Ok(text.to_owned())
    } else {
        Err(Failure::invalid(format!(
            "{path}: invalid tmpfs option \"{}\"",
            shown(text)
        )))
    }
}

/// An entry of `HostConfig.Tmpfs`: a path and mount options.
fn tmpfs_text(inside: &str, options: &str, path: &str) -> Result<Mount> {
    let mut read_only = false;
    let (mut size_bytes_, mut mode) = (None, None);
    let mut kept = BTreeMap::new();
    for (i, word) in options
        .split(',')
        .filter(|word| !word.is_empty())
        .enumerate()
    {
        match word.split_once('=') {
            None if word == "ro" => read_only = true,
            None if word == "rw" => {}
            Some(("size", text)) => {
                size_bytes_ = Some(size_bytes(text).filter(|n| *n > 0).ok_or_else(|| {
                    Failure::invalid(format!("{path}: invalid size \"{}\"", shown(text)))
                })?);
            }
            Some(("mode", text)) => {
                let bits = u64::from_str_radix(text, 8).map_err(|_| {
                    Failure::invalid(format!("{path}: invalid mode \"{}\"", shown(text)))
                })?;
                mode = tmpfs_mode(bits, path)?;
            }
            _ => {
                kept.insert(i, tmpfs_option(word, path)?);
            }
        }
    }
    Ok(Mount {
        target: target(inside, path)?,
        read_only,
        source: MountSource::Tmpfs {
            size_bytes: size_bytes_,
            mode,
            options: kept.into_values().collect(),
        },
    })
}
