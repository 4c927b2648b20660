//! Entitlements: what every pool may use, and on which host, recomputed from the demand of every workload.
//!
//! 1,000 pools in a tree four deep, 10,000 hosts, 200,000 workloads spread over both; CPU and memory. Measured is one
//! round as a controller makes it: from the samples of all workloads to every pool's part of every host.

use std::time::Instant;

use anyhow::{Context as _, Result};
use model::{
    Amount, Capacity, CpuMillis, Installation, MemoryBytes, Name, Percent, Pool, PoolId,
    PoolPolicy, Portion, Resource, Shares, Slice, Timestamp,
};
use plan::entitle::{self, Demand, Sample};
use plan::pools::{HostRoom, Tree};

use crate::Options;
use crate::report::{Promise, Report, median};

const POOLS: u64 = 1_000;
const HOSTS: u64 = 10_000;
const WORKLOADS: u64 = 200_000;
const ROUNDS: u32 = 9;
const HOST_CPU: u64 = 4_000;
const HOST_MEMORY: u64 = 32 << 30;

/// What is promised of one round.
const PROMISED_MS: f64 = 250.0;

/// Runs the rounds.
///
/// # Errors
/// When a name is not one, which would be a defect.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let pools = (0..POOLS).map(pool).collect::<Result<Vec<Pool>>>()?;
    let labels = std::collections::BTreeMap::new();
    let room = Capacity {
        cpu: CpuMillis(HOST_CPU),
        memory: MemoryBytes(HOST_MEMORY),
    };
    let host = HostRoom {
        labels: &labels,
        room,
    };
    let hosts = vec![host; usize::try_from(HOSTS)?];
    let started = Instant::now();
    let tree = Tree::resolve(&pools, &hosts, &Installation::default());
    let resolved_ms = started.elapsed().as_secs_f64() * 1e3;
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let (mut whole, mut parts) = (Vec::new(), 0);
    for number in 0..u64::from(rounds) {
        let (cpu, memory) = samples(&tree, number)?;
        let started = Instant::now();
        parts = round(&tree, Resource::Cpu, &cpu, HOST_CPU)
            + round(&tree, Resource::Memory, &memory, HOST_MEMORY);
        whole.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let mut report = Report::new("entitle");
    report.add("pools", POOLS as f64, "");
    report.add("hosts", HOSTS as f64, "");
    report.add("workloads", WORKLOADS as f64, "");
    report.add("parts of pools on hosts", parts as f64, "");
    report.add("the tree in absolute numbers", resolved_ms, "ms");
    let slowest = whole.iter().copied().fold(0.0, f64::max);
    report.promise(
        "one round, median",
        median(&mut whole),
        "ms",
        Promise::AtMost(PROMISED_MS),
    );
    report.add("one round, slowest", slowest, "ms");
    Ok(report)
}

/// From samples to parts; returns their number, so that nothing is left out by the compiler.
fn round(tree: &Tree, resource: Resource, samples: &[Sample], room: u64) -> usize {
    let mut own = vec![Demand::default(); tree.nodes.len()];
    for sample in samples {
        let it = &mut own[sample.node as usize];
        it.demand += sample.demand;
        it.requests += sample.demand / 2;
    }
    let given = entitle::pools::entitle(tree, resource, &own);
    let rooms = vec![room; usize::try_from(HOSTS).unwrap_or(usize::MAX)];
    let division = entitle::hosts::divide(tree, resource, &given, &rooms, samples);
    division.nodes.iter().map(Vec::len).sum()
}

/// Every fourth pool is at the top; the others are below one with a quarter of their number. Some have reservations,
/// limits, other shares.
fn pool(number: u64) -> Result<Pool> {
    let top = number < POOLS / 16;
    let portion = |unit: u64| Portion {
        reservation: number.is_multiple_of(3).then_some(if top {
            Amount::Percent(Percent(100))
        } else {
            Amount::Absolute(unit * (number % 7))
        }),
        limit: number
            .is_multiple_of(5)
            .then_some(Amount::Absolute(unit * 4_000)),
        shares: Some(match number % 4 {
            0 => Shares::High,
            1 => Shares::Low,
            _ => Shares::Normal,
        }),
        ..Portion::default()
    };
    Ok(Pool {
        id: id(number),
        name: Name::parse(&format!("pool-{number}")).context("name a pool")?,
        parent: (!top).then(|| id(number / 4)),
        description: String::new(),
        labels: std::collections::BTreeMap::new(),
        policy: PoolPolicy::default(),
        slice: Slice {
            cpu: portion(100),
            memory: portion(1 << 28),
            ..Slice::default()
        },
        created_at: Timestamp(0),
    })
}

fn id(number: u64) -> PoolId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    PoolId::from_bytes(&bytes)
}

/// A workload's demand of CPU and memory, where it runs, and whose it is.
fn samples(tree: &Tree, round: u64) -> Result<(Vec<Sample>, Vec<Sample>)> {
    let (mut cpu, mut memory) = (Vec::new(), Vec::new());
    let nodes = u64::try_from(tree.nodes.len() - 1)?;
    for number in 0..WORKLOADS {
        let mixed = mix(number ^ (round << 40));
        let node = u32::try_from(1 + mix(number) % nodes)?;
        let host = u32::try_from(mix(number + WORKLOADS) % HOSTS)?;
        let sample = |demand| Sample { node, host, demand };
        cpu.push(sample(mixed % 400));
        memory.push(sample((mixed >> 20) % (2 << 30)));
    }
    Ok((cpu, memory))
}

/// A fixed permutation of numbers (the finalizer of `SplitMix64`), so that every run measures the same.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
