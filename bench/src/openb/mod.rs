//! The packing experiment of "Beware of Fragmentation" (Weng et al., USENIX ATC 2023) through the product's placement.
//!
//! Pods of a list are drawn with replacement until they ask for 1.3 times the GPUs of the hosts, and are placed one by
//! one in an order given by the seed; what does not fit is dropped. The figure is how much of the GPUs is given out at
//! the end. The files have the form of the published trace; a small slice is in `bench/data`.
//!
//! With `--variants` the same is done with pod lists made from the one given ([`lists`]): what is good only for one list
//! is not good.

mod lists;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use model::PlacementPolicy as Policy;
use model::placement::{Gpu, GpuRequest};
use model::resources::host_reserve;
use model::{
    Capacity, CpuMillis, Host, MemoryBytes, Name, PoolId, TaskStatus, Timestamp, Workload,
    WorkloadId, WorkloadSpec,
};
use plan::place::{Cluster, Wanted, place};

use crate::Options;
use crate::csv::{Table, read};
use crate::place::{cpu_time, host, id_bytes, peak_mebibytes};
use crate::report::{Promise, Report};

/// GPUs asked for, as a multiple of those there are.
const OVERLOAD: f64 = 1.3;

/// What the best published policy (FGD) reaches with the published default list, in percent.
const BEST_PUBLISHED: f64 = 95.39;

/// The list that is about; others have no published figure.
const PROMISED_LIST: &str = "openb_pod_list_default.csv";

/// Places a pod list on hosts with several seeds.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let slice = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("data")
            .join(name)
    };
    let hosts_file = options
        .hosts
        .clone()
        .unwrap_or_else(|| slice("openb_hosts.csv"));
    let pods_file = options
        .pods
        .clone()
        .unwrap_or_else(|| slice("openb_pods.csv"));
    let hosts = hosts(&read(&hosts_file)?)?;
    let pods = pods(&read(&pods_file)?)?;
    ensure!(
        !hosts.is_empty() && !pods.is_empty(),
        "there are no hosts or no pods"
    );
    let mut report = Report::new("openb");
    let seeds = options.seeds.unwrap_or(10);
    let (mut placed, mut took) = (0, Duration::ZERO);
    let mut all_seeds = |pods: &[WorkloadSpec]| -> Result<Vec<f64>> {
        let mut parts = Vec::new();
        for seed in 0..seeds {
            let one = experiment(&hosts, pods, u64::from(seed))?;
            parts.push(one.allocated * 100.0);
            placed += one.tried;
            took += one.took;
        }
        Ok(parts)
    };
    let parts = all_seeds(&pods)?;
    for (seed, part) in parts.iter().enumerate() {
        report.add(format!("seed {seed}"), *part, "%");
    }
    let mean = mean(&parts);
    let published = options.pods.as_ref().and_then(|path| path.file_name());
    if published.is_some_and(|name| name == PROMISED_LIST) {
        report.promise(
            "GPUs given out, mean",
            mean,
            "%",
            Promise::AtLeast(BEST_PUBLISHED),
        );
    } else {
        report.add("GPUs given out, mean", mean, "%");
    }
    if options.variants {
        for (name, pods) in lists::variants(&pods) {
            let parts = all_seeds(&pods)?;
            report.add(format!("{name}, mean"), self::mean(&parts), "%");
        }
    }
    report.add("placements", placed as f64 / took.as_secs_f64(), "/s");
    report.add("peak memory", peak_mebibytes()?, "MiB");
    Ok(report)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

struct Outcome {
    /// Part of all GPUs that is given out at the end.
    allocated: f64,
    tried: usize,
    took: Duration,
}

fn experiment(hosts: &[Host], pods: &[WorkloadSpec], seed: u64) -> Result<Outcome> {
    let capacity: u64 = hosts
        .iter()
        .map(|host| 1000 * host.status.facts.gpus.len() as u64)
        .sum();
    let mut dice = Dice(seed.wrapping_add(1));
    let drawn = draw(pods, (capacity as f64 * OVERLOAD) as u64, &mut dice);
    let mut cluster = Cluster::new(hosts);
    let pool = PoolId::from_bytes(&id_bytes(1));
    let (mut allocated, mut took) = (0, Duration::ZERO);
    for (number, spec) in (0_u64..).zip(&drawn) {
        let id = WorkloadId::from_bytes(&id_bytes(number));
        let wanted = Wanted {
            id: Some(&id),
            pool: &pool,
            spec,
            architecture: "",
            image_bytes: 0,
            pinned: None,
            not_on: &[],
            policy: Policy::Pack,
            pool_hosts: &[],
            seed: dice.next(),
        };
        let begun = cpu_time()?;
        let placement = place(&cluster, wanted);
        took += cpu_time()? - begun;
        let Some(host) = placement.host else {
            continue;
        };
        allocated += spec.task.gpus.as_ref().map_or(0, GpuRequest::total_millis);
        let workload = Workload {
            id,
            pool: pool.clone(),
            name: Name::parse(&format!("pod{number}"))?,
            spec: spec.clone(),
            desired: model::DesiredState::Running,
            run: 1,
            host: Some(host),
            placement: None,
            gpus: placement.gpus,
            endpoints: Vec::new(),
            hold: None,
            left: Default::default(),
            displaced: Default::default(),
            status: TaskStatus::default(),
            created_at: Timestamp(0),
        };
        let begun = cpu_time()?;
        cluster.workload_put(&workload);
        took += cpu_time()? - begun;
    }
    Ok(Outcome {
        allocated: allocated as f64 / capacity as f64,
        tried: drawn.len(),
        took,
    })
}

/// Draws pods with replacement until they ask for so many thousandths of GPUs, and shuffles them.
fn draw(pods: &[WorkloadSpec], millis: u64, dice: &mut Dice) -> Vec<WorkloadSpec> {
    let mut drawn: Vec<WorkloadSpec> = Vec::new();
    let mut asked = 0;
    while asked < millis {
        let pod = &pods[dice.below(pods.len())];
        asked += pod.task.gpus.as_ref().map_or(0, GpuRequest::total_millis);
        drawn.push(pod.clone());
    }
    for at in (1..drawn.len()).rev() {
        drawn.swap(at, dice.below(at + 1));
    }
    drawn
}

/// A generator that gives the same numbers everywhere (SplitMix64; Steele et al., OOPSLA 2014).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of the numbers below `bound`; 0 if there are none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }
}

/// The trace says what pods may use: what a host has is as much more as is kept back of it.
fn hosts(table: &Table) -> Result<Vec<Host>> {
    let rows = table.rows.iter().zip(0_u64..);
    rows.map(|(row, number)| {
        let cpu: u64 = table.number(row, "cpu_milli")?;
        let memory = table.number::<u64>(row, "memory_mib")? << 20;
        let mut host = host(number, 0, 0)?;
        host.status.facts.capacity = Capacity {
            cpu: CpuMillis(whole(cpu, |whole| {
                let capacity = Capacity {
                    cpu: CpuMillis(whole),
                    ..Capacity::default()
                };
                host_reserve(capacity).cpu.0
            })),
            memory: MemoryBytes(whole(memory, |whole| {
                let capacity = Capacity {
                    memory: MemoryBytes(whole),
                    ..Capacity::default()
                };
                host_reserve(capacity).memory.0
            })),
        };
        let model = table.text(row, "model")?;
        let gpu = |index| Gpu {
            index,
            uuid: format!("GPU-{number}-{index}"),
            model: model.to_owned(),
            ..Gpu::default()
        };
        let count: u32 = table.number(row, "gpu")?;
        host.status.facts.gpus = (0..count).map(gpu).collect();
        Ok(host)
    })
    .collect()
}

/// The amount of which `part` is left when `reserve` of it is kept back.
fn whole(part: u64, reserve: impl Fn(u64) -> u64) -> u64 {
    let mut whole = part;
    loop {
        let left = whole.saturating_sub(reserve(whole));
        if left >= part {
            return whole;
        }
        whole += part - left;
    }
}

fn pods(table: &Table) -> Result<Vec<WorkloadSpec>> {
    let rows = table.rows.iter();
    rows.map(|row| {
        let count: u32 = table.number(row, "num_gpu")?;
        // Some published lists have no such column: any model will do.
        let models = table.text(row, "gpu_spec").unwrap_or("").split('|');
        let models: BTreeSet<String> = models
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect();
        let millis: u32 = table.number(row, "gpu_milli")?;
        let gpus = (count > 0).then(|| GpuRequest {
            count,
            millis: if count > 1 { 1000 } else { millis },
            models,
            devices: BTreeSet::new(),
            capabilities: BTreeSet::new(),
        });
        let request = serde_json::json!({
            "cpu_millis": table.number::<u64>(row, "cpu_milli")?,
            "memory_bytes": table.number::<u64>(row, "memory_mib")? << 20,
        });
        Ok(serde_json::from_value(serde_json::json!({
            "task": {
                "image": "pod", "image_id": format!("sha256:{}", "a".repeat(64)),
                "gpus": gpus, "resources": { "request": request },
            },
        }))?)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str) -> Table {
        read(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("data")
                .join(name),
        )
        .unwrap()
    }

    #[test]
    fn the_slice_packs_nearly_all_gpus_and_the_same_each_time() {
        let hosts = hosts(&slice("openb_hosts.csv")).unwrap();
        let pods = pods(&slice("openb_pods.csv")).unwrap();
        let first = experiment(&hosts, &pods, 3).unwrap();
        assert!(first.allocated > 0.9, "{}", first.allocated);
        assert!(first.allocated <= 1.0);
        assert_eq!(
            experiment(&hosts, &pods, 3).unwrap().allocated,
            first.allocated
        );
    }

    #[test]
    fn hosts_give_what_the_trace_says() {
        let table = slice("openb_hosts.csv");
        for (host, row) in hosts(&table).unwrap().iter().zip(&table.rows) {
            let (cpu, memory) = (
                table.number::<u64>(row, "cpu_milli").unwrap(),
                table.number::<u64>(row, "memory_mib").unwrap() << 20,
            );
            let room = host.room();
            // Rounding may give a little more, never less.
            assert!((cpu..=cpu + 1).contains(&room.cpu.0), "{}", host.name);
            assert!(
                (memory..=memory + 1).contains(&room.memory.0),
                "{}",
                host.name
            );
        }
    }
}
