//! Placement: how many workloads per second one thread places, one by one, and how much memory that takes.
//!
//! Each case makes a cluster in memory, places through `plan::place` and puts each workload where it was placed. The
//! million-workload case has the size of the C2M challenge (6,100 hosts, 2,000,000 containers).
//!
//! Times are CPU time of the one thread, so that what else runs on the machine is not measured: placement waits for
//! nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use model::PlacementPolicy as Policy;
use model::{
    Capacity, CpuMillis, Host, HostFacts, HostId, HostStatus, MemoryBytes, Name, PoolId,
    TaskStatus, Timestamp, Workload, WorkloadId, WorkloadSpec,
};
use plan::place::{Cluster, Wanted, place};

use crate::Options;
use crate::report::{Promise, Report};

/// Runs all cases.
///
/// # Errors
/// When something has no place that must have one.
pub(crate) fn run(_: &Options) -> Result<Report> {
    let mut report = Report::new("place");
    let plain = spec(10, 16, serde_json::json!({}))?;
    let hosts = hosts(5000, 4000, 32)?;
    let case = fill(&hosts, 100_000, |_| Ok(plain.clone()))?;
    add(&mut report, "5000 hosts, plain", &case, Some(20_000.0));
    let case = fill(&hosts, 50_000, apart_and_spread)?;
    add(
        &mut report,
        "5000 hosts, anti-affinity and zones",
        &case,
        Some(5000.0),
    );
    million(&mut report)?;
    let hosts = self::hosts(10_000, 4000, 32)?;
    let case = fill(&hosts, 100_000, mixed)?;
    add(&mut report, "10000 hosts, all kinds", &case, None);
    report.promise(
        "10000 hosts, all kinds, p99",
        case.p99.as_secs_f64() * 1e3,
        "ms",
        Promise::AtMost(1.0),
    );
    report.add("peak memory", peak_mebibytes()?, "MiB");
    Ok(report)
}

fn million(report: &mut Report) -> Result<()> {
    let hosts = hosts(6100, 32_000, 128)?;
    let before = resident_bytes()?;
    let plain = spec(50, 64, serde_json::json!({}))?;
    let count = 2_000_000;
    let (case, cluster) = fill_keep(&hosts, count, |_| Ok(plain.clone()))?;
    let bytes = (resident_bytes()? - before) / count as f64;
    ensure!(cluster.workload_count() == count, "all of them are placed");
    report.promise(
        "2000000 workloads on 6100 hosts",
        case.took.as_secs_f64(),
        "s",
        Promise::AtMost(20.0),
    );
    report.add(
        "2000000 workloads on 6100 hosts, rate",
        case.per_second(),
        "/s",
    );
    report.promise(
        "memory per workload",
        bytes / 1024.0,
        "KiB",
        Promise::AtMost(1.5),
    );
    Ok(())
}

/// What one case took.
struct Case {
    count: usize,
    took: Duration,
    p50: Duration,
    p99: Duration,
}

impl Case {
    fn per_second(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }
}

fn add(report: &mut Report, name: &str, case: &Case, promised: Option<f64>) {
    match promised {
        Some(bound) => report.promise(name, case.per_second(), "/s", Promise::AtLeast(bound)),
        None => report.add(name, case.per_second(), "/s"),
    }
    report.add(
        format!("{name}, one, p50"),
        case.p50.as_secs_f64() * 1e6,
        "us",
    );
    report.add(
        format!("{name}, one, p99"),
        case.p99.as_secs_f64() * 1e6,
        "us",
    );
}

fn fill(hosts: &[Host], count: usize, spec: impl Fn(u64) -> Result<WorkloadSpec>) -> Result<Case> {
    Ok(fill_keep(hosts, count, spec)?.0)
}

/// Places `count` workloads one by one, each put into the cluster before the next.
fn fill_keep(
    hosts: &[Host],
    count: usize,
    spec: impl Fn(u64) -> Result<WorkloadSpec>,
) -> Result<(Case, Cluster)> {
    let mut cluster = Cluster::new(hosts);
    let pool = PoolId::from_bytes(&id_bytes(1));
    let mut each = Vec::with_capacity(count);
    let mut took = Duration::ZERO;
    for number in 0..count as u64 {
        let mut workload = Workload {
            id: WorkloadId::from_bytes(&id_bytes(number)),
            pool: pool.clone(),
            name: Name::parse(&format!("w{number}"))?,
            spec: spec(number)?,
            desired: model::DesiredState::Running,
            run: 1,
            host: None,
            placement: None,
            gpus: Vec::new(),
            endpoints: Vec::new(),
            hold: None,
            left: Default::default(),
            displaced: Default::default(),
            status: TaskStatus::default(),
            created_at: Timestamp(0),
        };
        let begun = cpu_time()?;
        let placement = place(&cluster, wanted(&workload, number));
        let host = placement.host.context(placement.refusal)?;
        workload.host = Some(host);
        cluster.workload_put(&workload);
        let one = cpu_time()? - begun;
        took += one;
        each.push(u32::try_from(one.as_nanos()).unwrap_or(u32::MAX));
    }
    each.sort_unstable();
    let part = |part: usize| Duration::from_nanos(u64::from(each[each.len() * part / 100]));
    let case = Case {
        count,
        took,
        p50: part(50),
        p99: part(99),
    };
    Ok((case, cluster))
}

fn wanted(workload: &Workload, seed: u64) -> Wanted<'_> {
    Wanted {
        id: Some(&workload.id),
        pool: &workload.pool,
        spec: &workload.spec,
        architecture: "amd64",
        image_bytes: 100 << 20,
        pinned: None,
        not_on: &[],
        policy: Policy::Balance,
        pool_hosts: &[],
        seed: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15),
    }
}

/// Services of 100, each at most once per host and spread over the zones.
fn apart_and_spread(number: u64) -> Result<WorkloadSpec> {
    let app = format!("app-{}", number / 100);
    let apart = serde_json::json!({
        "to": { "what": "label", "key": "app", "value": app }, "direction": "away",
    });
    let rules = serde_json::json!({
        "labels": { "app": app },
        "placement": { "affinities": [apart], "spread": app },
    });
    spec(10, 16, rules)
}

/// Plain ones, some with a host label, some spread, some apart.
fn mixed(number: u64) -> Result<WorkloadSpec> {
    let (cpu, memory) = (5 + number % 7 * 5, 16 + number % 5 * 16);
    match number % 10 {
        0 => {
            let rule = serde_json::json!({
                "attribute": { "of": "label", "key": "disk" }, "values": ["ssd"],
            });
            spec(
                cpu,
                memory,
                serde_json::json!({ "placement": { "hosts": [rule] } }),
            )
        }
        1 | 2 => apart_and_spread(number),
        _ => spec(cpu, memory, serde_json::json!({})),
    }
}

fn spec(cpu: u64, mebibytes: u64, more: serde_json::Value) -> Result<WorkloadSpec> {
    let mut spec = serde_json::json!({
        "task": {
            "image": "web", "image_id": format!("sha256:{}", "a".repeat(64)),
            "resources": { "request": { "cpu_millis": cpu, "memory_bytes": mebibytes << 20 } },
        },
    });
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    Ok(serde_json::from_value(spec)?)
}

/// Hosts alike, in ten zones; every tenth has the label `disk=ssd`.
fn hosts(count: u64, cpu: u64, gibibytes: u64) -> Result<Vec<Host>> {
    (0..count)
        .map(|number| {
            let mut host = host(number, cpu, gibibytes << 30)?;
            host.zone = format!("zone{}", number % 10);
            if number % 10 == 3 {
                host.labels.insert("disk".into(), "ssd".into());
            }
            Ok(host)
        })
        .collect()
}

/// A host that is ready.
///
/// # Errors
/// Never: the name is one.
pub(crate) fn host(number: u64, cpu: u64, memory_bytes: u64) -> Result<Host> {
    Ok(Host {
        id: HostId::from_bytes(&id_bytes(number)),
        name: Name::parse(&format!("host{number}"))?,
        zone: String::new(),
        labels: Default::default(),
        cordoned: false,
        drain: None,
        overcommit: model::host::Overcommit::default(),
        fetch_images: std::collections::BTreeMap::new(),
        certificate_sha256: String::new(),
        previous_certificate_sha256: None,
        status: HostStatus {
            connected: true,
            facts: HostFacts {
                capacity: Capacity {
                    cpu: CpuMillis(cpu),
                    memory: MemoryBytes(memory_bytes),
                },
                architecture: "amd64".into(),
                ..HostFacts::default()
            },
            ..HostStatus::default()
        },
        joined_at: Timestamp(0),
    })
}

pub(crate) fn id_bytes(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// CPU time this thread has used.
///
/// # Errors
/// When the kernel has no such clock.
pub(crate) fn cpu_time() -> Result<Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Memory of this process, resident.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn resident_bytes() -> Result<f64> {
    const PAGE_BYTES: f64 = 4096.0;
    let text = std::fs::read_to_string("/proc/self/statm").context("read /proc/self/statm")?;
    let pages = text
        .split_whitespace()
        .nth(1)
        .context("statm has no field")?;
    Ok(pages.parse::<f64>()? * PAGE_BYTES)
}

/// Most memory this process ever had, in MiB.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn peak_mebibytes() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kibibytes.context("no VmHWM")?.parse::<f64>()? / 1024.0)
}
