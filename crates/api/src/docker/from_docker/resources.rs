//! `HostConfig`'s resources, which `POST /containers/{id}/update` shares.

use model::workload::{DeviceMapping, Resources, Ulimit};
use model::{CpuSet, RestartPolicy};

use super::super::failure::{Failure, Result};
use super::super::value::{Fields, Value, shown};
use super::placement::take_gpus;
use super::small::clean_absolute;

/// Billionths of a core in a thousandth.
const NANOS_PER_MILLI: u64 = 1_000_000;

/// What `HostConfig` says about resources.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::docker) struct ResourceDraft {
    pub(in crate::docker) resources: Resources,
    pub(in crate::docker) devices: Vec<DeviceMapping>,
    pub(in crate::docker) gpus: Option<model::GpuRequest>,
    pub(in crate::docker) ulimits: Vec<Ulimit>,
}

/// Takes the resource fields out of `HostConfig` or an update.
pub(in crate::docker) fn take_resources(fields: &mut Fields) -> Result<ResourceDraft> {
    refuse_foreign(fields)?;
    let memory = fields.integer("Memory")?;
    let swap = fields.integer("MemorySwap")?;
    let reservation = fields.integer("MemoryReservation")?;
    let swappiness = match fields.optional_integer("MemorySwappiness")? {
        None | Some(-1) => None,
        Some(value) => Some(
            u8::try_from(value)
                .ok()
                .filter(|value| *value <= 100)
                .ok_or_else(|| {
                    Failure::invalid(format!(
                        "invalid value: {value}, valid memory swappiness range is 0-100"
                    ))
                })?,
        ),
    };
    check_memory(memory, swap, reservation)?;
    let nano_cpus = fields.amount("NanoCpus")?;
    let period = fields.amount("CpuPeriod")?;
    let quota = fields.integer("CpuQuota")?;
    check_cpu(nano_cpus, period, quota)?;
    let oom_score_adj = fields.integer("OomScoreAdj")?;
    let oom_score_adj = i32::try_from(oom_score_adj)
        .ok()
        .filter(|value| (-1000..=1000).contains(value))
        .ok_or_else(|| {
            Failure::invalid(format!(
                "invalid value {oom_score_adj}, range for oom score adj is [-1000, 1000]"
            ))
        })?;
    let weight = fields.integer("BlkioWeight")?;
    let weight = u16::try_from(weight)
        .ok()
        .filter(|value| *value == 0 || (10..=1000).contains(value))
        .ok_or_else(|| Failure::invalid("BlkioWeight: range of blkio weight is from 10 to 1000"))?;
    let pids = pids_limit(fields)?;
    let resources = Resources {
        memory_limit: positive(memory),
        memory_swap: (swap != 0).then_some(swap),
        memory_reservation: positive(reservation),
        memory_swappiness: swappiness,
        oom_kill_disable: fields.bool("OomKillDisable")?,
        oom_score_adj: (oom_score_adj != 0).then_some(oom_score_adj),
        cpu_limit_millis: (nano_cpus > 0).then(|| nano_cpus.div_ceil(NANOS_PER_MILLI)),
        cpu_period_us: (period > 0).then_some(period),
        cpu_quota_us: (quota != 0).then_some(quota),
        cpu_shares: Some(fields.amount("CpuShares")?).filter(|shares| *shares > 0),
        cpuset_cpus: cpu_list(fields, "CpusetCpus")?,
        cpuset_mems: cpu_list(fields, "CpusetMems")?,
        pids_limit: pids,
        blkio_weight: (weight > 0).then_some(weight),
        ..Resources::default()
    };
    Ok(ResourceDraft {
        resources,
        devices: devices(fields)?,
        gpus: take_gpus(fields)?,
        ulimits: ulimits(fields)?,
    })
}

/// What a pool's tenant cannot have, or what only other systems know.
fn refuse_foreign(fields: &mut Fields) -> Result<()> {
    fields.forbidden("CgroupParent", "the place in the cgroup tree is the pool's")?;
    fields.forbidden(
        "DeviceCgroupRules",
        "rules for device classes are not allowed, name devices instead",
    )?;
    for field in ["CpuRealtimePeriod", "CpuRealtimeRuntime"] {
        fields.unsupported(field, "real-time scheduling is not supported")?;
    }
    for field in [
        "BlkioWeightDevice",
        "BlkioDeviceReadBps",
        "BlkioDeviceWriteBps",
        "BlkioDeviceReadIOps",
        "BlkioDeviceWriteIOps",
    ] {
        fields.unsupported(field, "limits per block device are not supported yet")?;
    }
    for field in ["KernelMemory", "KernelMemoryTCP"] {
        fields.unsupported(
            field,
            "limits of kernel memory are not supported (removed from Docker and Linux)",
        )?;
    }
    for field in [
        "CpuCount",
        "CpuPercent",
        "IOMaximumIOps",
        "IOMaximumBandwidth",
    ] {
        fields.unsupported(field, "only Windows containers have it")?;
    }
    Ok(())
}

fn positive(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

fn check_memory(memory: i64, swap: i64, reservation: i64) -> Result<()> {
    const MIN_BYTES: i64 = 6 << 20;
    let bad = |text: &str| Err(Failure::invalid(text));
    if memory != 0 && memory < MIN_BYTES {
        return bad("Memory: minimum memory limit allowed is 6MB");
    }
    if reservation != 0 && reservation < MIN_BYTES {
        return bad("MemoryReservation: minimum memory reservation allowed is 6MB");
    }
    if swap < -1 {
        return bad("MemorySwap: must be -1 or a number of bytes");
    }
    if swap > 0 && memory == 0 {
        return bad(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if swap > 0 && swap < memory {
        return bad("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory > 0 && reservation > memory {
        return bad(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    Ok(())
}

fn check_cpu(nano_cpus: u64, period: u64, quota: i64) -> Result<()> {
    let bad = |text: &str| Err(Failure::invalid(text));
    if nano_cpus > 0 && period > 0 {
        return bad("Conflicting options: Nano CPUs and CPU Period cannot both be set.");
    }
    if nano_cpus > 0 && quota != 0 {
        return bad("Conflicting options: Nano CPUs and CPU Quota cannot both be set.");
    }
    if period != 0 && !(1_000..=1_000_000).contains(&period) {
        return bad(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if quota > 0 && quota < 1_000 {
        return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if quota < -1 {
        return bad("CpuQuota: must be -1 or a number of microseconds");
    }
    Ok(())
}

/// Absent or null says nothing, 0 and -1 both mean no limit, as in Docker.
fn pids_limit(fields: &mut Fields) -> Result<Option<i64>> {
    match fields.optional_integer("PidsLimit")? {
        None => Ok(None),
        Some(-1 | 0) => Ok(Some(-1)),
        Some(limit) if limit > 0 => Ok(Some(limit)),
        Some(limit) => Err(Failure::invalid(format!(
            "PidsLimit: {limit} is below -1, which means no limit"
        ))),
    }
}

/// A list as the kernel reads it: numbers and ranges.
fn cpu_list(fields: &mut Fields, field: &str) -> Result<Option<String>> {
    let text = fields.text(field)?;
    if text.is_empty() {
        return Ok(None);
    }
    match CpuSet::parse(&text) {
        Ok(_) => Ok(Some(text)),
        Err(error) => Err(Failure::invalid(format!(
            "Invalid value {} for {}: {error}",
            shown(&text),
            fields.name(field)
        ))),
    }
}

fn devices(fields: &mut Fields) -> Result<Vec<DeviceMapping>> {
    let name = fields.name("Devices");
    let mut devices = Vec::new();
    for (i, value) in fields.list("Devices")?.into_iter().enumerate() {
        let name = format!("{name}[{i}]");
        let mut device = Fields::open(value, &name)?;
        let host_path = device.text("PathOnHost")?;
        let mut path = device.text("PathInContainer")?;
        let mut permissions = device.text("CgroupPermissions")?;
        device.finish()?;
        if path.is_empty() {
            path.clone_from(&host_path);
        }
        if permissions.is_empty() {
            "rwm".clone_into(&mut permissions);
        }
        let (Some(host_path), Some(path)) = (clean_absolute(&host_path), clean_absolute(&path))
        else {
            return Err(Failure::invalid(format!(
                "{name}: paths must be absolute and clean"
            )));
        };
        if !permissions.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
            return Err(Failure::invalid(format!(
                "{name}.CgroupPermissions: only r, w and m are known"
            )));
        }
        devices.push(DeviceMapping {
            host_path,
            path,
            permissions,
        });
    }
    Ok(devices)
}

/// Names of `getrlimit(2)`, as `ulimit` and Docker write them.
const ULIMITS: [&str; 16] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

fn ulimits(fields: &mut Fields) -> Result<Vec<Ulimit>> {
    let path = fields.name("Ulimits");
    let mut ulimits = Vec::new();
    for (i, value) in fields.list("Ulimits")?.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let mut one = Fields::open(value, &path)?;
        let (name, soft, hard) = (
            one.text("Name")?,
            one.integer("Soft")?,
            one.integer("Hard")?,
        );
        one.finish()?;
        if !ULIMITS.contains(&name.as_str()) {
            return Err(Failure::invalid(format!(
                "{path}.Name: invalid ulimit type: {}",
                shown(&name)
            )));
        }
        if soft < -1 || hard < -1 {
            return Err(Failure::invalid(format!(
                "{path}: limits must be -1 or more"
            )));
        }
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(Failure::invalid(format!(
                "{path}: ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            )));
        }
        ulimits.push(Ulimit { name, soft, hard });
    }
    Ok(ulimits)
}

/// Takes `RestartPolicy`; `None`: not given.
pub(in crate::docker) fn take_restart(fields: &mut Fields) -> Result<Option<RestartPolicy>> {
    let given = fields.take("RestartPolicy");
    if given.is_none() {
        return Ok(None);
    }
    let path = fields.name("RestartPolicy");
    let mut fields = Fields::open(given.unwrap_or(Value::Null), &path)?;
    let name = fields.text("Name")?;
    let retries = fields.integer("MaximumRetryCount")?;
    fields.finish()?;
    let retries = u32::try_from(retries).map_err(|_| {
        Failure::invalid("invalid restart policy: maximum retry count cannot be negative")
    })?;
    let policy = match name.as_str() {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => RestartPolicy::OnFailure {
            max_retries: retries,
        },
        other => {
            return Err(Failure::invalid(format!(
                "invalid restart policy: unknown policy '{}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
                shown(other)
            )));
        }
    };
    if retries > 0 && !matches!(policy, RestartPolicy::OnFailure { .. }) {
        return Err(Failure::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    Ok(Some(policy).filter(|_| !name.is_empty()))
}
