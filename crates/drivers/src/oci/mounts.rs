//! What is mounted into a task: the kernel's file systems, files of `/etc`, volumes and memory.

use std::path::{Path, PathBuf};

use model::HostWorkload;
use model::workload::{Mount, MountSource, TaskSpec};
use serde_json::{Value, json};

use super::spec::{SpecError, Surroundings};

/// Folder of a volume mounted at a target.
#[must_use]
pub(super) fn volume_dir(name: &str, target: &str, around: &Surroundings<'_>) -> PathBuf {
    if name.is_empty() {
        // The target as one file name; two targets never give the same.
        let encoded: String = target
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("_{byte:02x}")
                }
            })
            .collect();
        return around.volumes.join(encoded);
    }
    around.pool_volumes.join(name)
}

pub(super) fn check_target(target: &str) -> Result<(), SpecError> {
    let parts_ok = target.split('/').all(|part| part != "..");
    if target.starts_with('/')
        && parts_ok
        && !target.contains('\0')
        && !target.trim_matches('/').is_empty()
    {
        return Ok(());
    }
    Err(SpecError::Target(target.to_owned()))
}

fn of_the_kernel(task: &TaskSpec) -> Vec<Value> {
    let shm = task.shm_size();
    let sys = if task.security.privileged { "rw" } else { "ro" };
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", sys],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", sys],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &[
                "nosuid",
                "noexec",
                "nodev",
                "mode=1777",
                &format!("size={shm}"),
            ],
        ),
    ]
}

/// All mounts in their order.
pub(super) fn all(
    workload: &HostWorkload,
    around: &Surroundings<'_>,
) -> Result<Vec<Value>, SpecError> {
    let task = &workload.spec.task;
    let mut list = of_the_kernel(task);
    let taken = |target: &str| task.mounts.iter().any(|mount| mount.target == target);
    // What the user mounts there replaces ours.
    list.retain(|mount| !mount["destination"].as_str().is_some_and(taken));
    for name in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{name}");
        if !taken(&target) {
            let source = around.etc.join(name);
            list.push(json!({
                "destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"],
            }));
        }
    }
    for mount in &task.mounts {
        list.push(user_mount(mount, task, around)?);
    }
    // What is mounted on a folder must not hide what is mounted below it.
    list.sort_by_key(|mount| {
        let target = mount["destination"].as_str().unwrap_or_default();
        target.split('/').filter(|part| !part.is_empty()).count()
    });
    Ok(list)
}

fn user_mount(
    mount: &Mount,
    task: &TaskSpec,
    around: &Surroundings<'_>,
) -> Result<Value, SpecError> {
    check_target(&mount.target)?;
    let access = if mount.read_only { "ro" } else { "rw" };
    let bind = |source: &Path, propagation: &str| {
        json!({
            "destination": mount.target, "type": "bind", "source": source,
            "options": ["rbind", propagation, access],
        })
    };
    Ok(match &mount.source {
        MountSource::HostPath {
            path,
            propagation,
            create: _,
        } => bind(
            Path::new(path),
            if propagation.is_empty() {
                "rprivate"
            } else {
                propagation
            },
        ),
        MountSource::Volume { name, no_copy: _ } => {
            bind(&volume_dir(name, &mount.target, around), "rprivate")
        }
        MountSource::Tmpfs {
            size_bytes,
            mode,
            options,
        } => {
            let mut all = vec![
                "nosuid".to_owned(),
                "nodev".to_owned(),
                "noexec".to_owned(),
                access.to_owned(),
            ];
            if let Some(size) = task.tmpfs_size(*size_bytes) {
                all.push(format!("size={size}"));
            }
            // Docker's default mode is that of /tmp.
            all.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
            for option in options {
                tmpfs_option(option, &mut all)?;
            }
            json!({"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": all})
        }
    })
}

/// A closed list: anything else could reach another file system's options.
fn tmpfs_option(option: &str, all: &mut Vec<String>) -> Result<(), SpecError> {
    let opposite = match option {
        "exec" => "noexec",
        "noexec" => "exec",
        "suid" => "nosuid",
        "nosuid" => "suid",
        "dev" => "nodev",
        "nodev" => "dev",
        other => {
            let number = other
                .strip_prefix("uid=")
                .or_else(|| other.strip_prefix("gid="));
            if number.is_some_and(|number| number.parse::<u32>().is_ok()) {
                all.push(other.to_owned());
                return Ok(());
            }
            return Err(SpecError::TmpfsOption(option.to_owned()));
        }
    };
    all.retain(|old| old != opposite && old != option);
    all.push(option.to_owned());
    Ok(())
}
