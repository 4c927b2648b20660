//! Elastic pools on a public trace: CPU demand of 50 business VMs (Bitbrains; from the OpenDC project), as workloads of
//! five pools.
//!
//! What is modelled. VMs go to pools by turns. The cluster is one host, or four equal ones, that together have, beside
//! their reserve, 1.0, 0.7 or 0.5 of the sum of what each VM wants at most; a pool's `size` is its part of that sum, so
//! that sizes add up to the cluster. A VM's request is [`REQUEST_PERCENT`] of its part of the cluster, and it stays on
//! the host where `plan::place` puts it (policy balance, the largest first) until something has to leave:
//! `plan::displace` is asked each time, but hosts have memory for all, and for CPU alone nothing is parked or moved. MHz
//! stand for thousandths of a core.
//!
//! Three ways to share are compared, on the same demand:
//!
//! - *elastic*: every five minutes `plan::entitle::round` divides from the demand of the five minutes before. (In the
//!   product rounds are two seconds apart: this lag is the worst there can be.) Until the next round each host shares
//!   as the kernel does by what it was told: between pools by weight up to their limits, nobody more than it wants
//!   (weighted max-min); inside a pool all workloads weigh the same.
//! - *partitions*: each pool has a machine of its own as large as its size.
//! - *no pools*: the same hosts and the same places; where more is wanted than there is, everybody gets the same part
//!   of what it wants.
//!
//! A reservation is met as far as the pool got what it wanted of it, over all hosts together. On one host that is a
//! promise. On several no division of CPU can make it one as long as VMs stay where they are: a host cannot give more
//! than it has, and when those on it want more than that, it does not help that others have room. *Most possible* says
//! how much of all reservations could be met by the best division there is, with all demand known ([`flow`]).

mod flow;
mod sharing;
mod trace;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use model::{Name, PlacementPolicy as Policy, Pool, PoolId, PoolPolicy, Slice, Timestamp};

use crate::Options;
use crate::place::id_bytes;
use crate::report::{Promise, Report};
use sharing::{Cluster, Given, Wanted};
use trace::Vm;

/// Pools.
const POOLS: usize = 5;

/// Hosts of the clusters.
const HOSTS: [u64; 2] = [1, 4];

/// Percent of its part of the cluster that a VM asks for: whole parts would fit only if they could be packed without
/// any rest.
const REQUEST_PERCENT: u64 = 90;

/// Sizes of the cluster, in percent of the sum of all peaks.
const CLUSTERS: [u64; 3] = [100, 70, 50];

/// Shares CPU in three ways on clusters of three sizes.
///
/// # Errors
/// When the trace cannot be read, or a VM has no place.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let slice = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/bitbrains");
    let vms = trace::load(options.trace.as_deref().unwrap_or(&slice))?;
    let mut report = Report::new("bitbrains");
    report.add("VMs", vms.len() as f64, "");
    report.add(
        "steps",
        vms.first().map_or(0, |vm| vm.demand.len()) as f64,
        "",
    );
    for hosts in HOSTS {
        for percent in CLUSTERS {
            let cluster = Cluster::new(&vms, hosts, percent)?;
            let name = format!("{hosts} x {:.2}", percent as f64 / 100.0 / hosts as f64);
            compare(&mut report, &name, &cluster);
        }
    }
    Ok(report)
}

fn compare(report: &mut Report, name: &str, cluster: &Cluster<'_>) {
    let wanted = cluster.wanted();
    let elastic = cluster.elastic();
    let name_of = |way: &str| format!("{name}, {way}");
    figures(report, &name_of("elastic"), &wanted, &elastic);
    let worst = worst(&elastic, &wanted);
    let name_of_worst = name_of("elastic, reservation met, worst pool");
    if cluster.hosts() == 1 {
        report.promise(name_of_worst, worst, "%", Promise::AtLeast(100.0));
        let partitions = cluster.partitions();
        figures(report, &name_of("partitions"), &wanted, &partitions);
    } else {
        report.add(name_of_worst, worst, "%");
        let possible = part(wanted.possible, wanted.reserved.iter().sum());
        report.add(name_of("reservations, most possible"), possible, "%");
        let met = part(elastic.reserved.iter().sum(), wanted.reserved.iter().sum());
        report.add(name_of("elastic, reservations met, all pools"), met, "%");
    }
    report.add(name_of("elastic, divisions told"), elastic.told as f64, "");
    report.add(
        name_of("elastic, parks and moves"),
        elastic.displaced as f64,
        "",
    );
    let no_pools = cluster.no_pools();
    figures(report, &name_of("no pools"), &wanted, &no_pools);
    let worst = self::worst(&no_pools, &wanted);
    report.add(name_of("no pools, reservation met, worst pool"), worst, "%");
}

fn part(a: u64, b: u64) -> f64 {
    if b == 0 {
        100.0
    } else {
        a as f64 / b as f64 * 100.0
    }
}

/// The smallest part of its reservation that a pool got when it wanted it, in percent.
fn worst(given: &Given, wanted: &Wanted) -> f64 {
    let pools = given.reserved.iter().zip(&wanted.reserved);
    pools
        .map(|(got, all)| part(*got, *all))
        .fold(100.0, f64::min)
}

fn figures(report: &mut Report, name: &str, wanted: &Wanted, given: &Given) {
    let (all, got) = (wanted.demand.iter().sum(), given.got.iter().sum());
    report.add(format!("{name}, demand met"), part(got, all), "%");
    for (pool, (got, all)) in given.got.iter().zip(&wanted.demand).enumerate() {
        let name = format!("{name}, demand met, pool {pool}");
        report.add(name, part(*got, *all), "%");
    }
    report.add(
        format!("{name}, utilisation"),
        part(got, wanted.capacity),
        "%",
    );
}

/// A pool of a size in hundredths of a percent.
fn pool(number: usize, size: u64) -> Result<Pool> {
    let slice: Slice = serde_json::from_value(serde_json::json!({ "size": size }))?;
    Ok(Pool {
        id: pool_id(number),
        name: Name::parse(&format!("pool-{number}")).context("name a pool")?,
        parent: None,
        description: String::new(),
        labels: BTreeMap::new(),
        policy: PoolPolicy::default(),
        slice,
        created_at: Timestamp(0),
    })
}

fn pool_id(number: usize) -> PoolId {
    PoolId::from_bytes(&id_bytes(number as u64 + 1))
}

const POLICY: Policy = Policy::Balance;

/// The pool of a VM.
fn pool_of(vm: usize) -> usize {
    vm % POOLS
}
