//! One host judged: the first filter that refuses it, or what it costs to take it.

use std::cmp::Ordering;

use model::Capacity;
use model::placement::{Direction, Matching, Strength, Within};
use model::workload::Protocol;

use super::fragments;
use super::gpus::{self, GpuRefusal};
use super::host::{HostState, Readiness};
use super::query::{Query, Source, Test};
use model::PlacementPolicy as Policy;

/// Why a host was not taken; the filters in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No link to it.
    NotReady,
    /// Taken out of use by an operator.
    Cordoned,
    /// Something it depends on is elsewhere.
    Pinned,
    /// It is being taken away from there.
    Left,
    /// The image is for another CPU.
    Architecture,
    /// Its pool may not use it.
    PoolHosts,
    /// The rule of this number.
    Rule(usize),
    /// Somebody there keeps away from it.
    Avoided,
    /// Not enough CPU: free (thousandths of a core).
    Cpu(u64),
    /// Not enough memory: free (bytes).
    Memory(u64),
    /// A host port is taken.
    Port(Protocol, u16),
    /// GPUs.
    Gpus(GpuRefusal),
}

/// What taking a host costs; compared in the order of the fields, less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Workloads of the same image that could not be started there, up to [`FAILURES_MAX`].
    pub(super) failures: u32,
    /// Workloads like it in its zone.
    pub(super) zone_alike: u32,
    /// Workloads like it on it.
    pub(super) host_alike: u32,
    /// GPU capacity that becomes unusable for what is asked for here, weighed by how often it is asked for.
    pub(super) fragments: i64,
    /// Load and bytes to fetch, in parts of [`WHOLE`].
    pub(super) load: i64,
}

/// A cost, for people and programs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Workloads of the same image that could not be started there.
    pub failures: u32,
    /// Workloads like it in its zone.
    pub zone_alike: u32,
    /// Workloads like it on it.
    pub host_alike: u32,
    /// GPU capacity that becomes unusable for what is asked for here, in GPUs; negative: becomes usable.
    pub fragments: f64,
    /// Load after it is placed, workloads there and bytes to fetch in one number, about 0 to 3; less is better.
    pub load: f64,
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "load {:.3}", self.load)?;
        for (count, what) in [
            (self.failures, "failed there"),
            (self.zone_alike, "alike in the zone"),
            (self.host_alike, "alike on the host"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if self.fragments != 0.0 {
            write!(f, ", {:+.3} GPU unusable", self.fragments)?;
        }
        Ok(())
    }
}

/// One whole, in scores: integers, so that sums and bounds are exact.
pub(super) const WHOLE: i64 = 1 << 20;

/// Failures that are counted: a host with more is no worse.
const FAILURES_MAX: u32 = 3;

/// Image bytes that weigh as much as a whole host's load: above 1 GiB the fetch dominates any other difference.
const IMAGE_BYTES_SATURATION: u64 = 1 << 30;

/// What loads are subtracted from when fuller is better: above any load with overcommit.
const FULLEST: i64 = WHOLE << 10;

/// The larger of the parts of CPU and memory in use.
pub(super) fn load(used: Capacity, total: Capacity) -> i64 {
    part(used.cpu.0, total.cpu.0).max(part(used.memory.0, total.memory.0))
}

/// How far from full.
pub(super) fn slack(used: Capacity, total: Capacity) -> i64 {
    FULLEST - load(used, total)
}

fn part(used: u64, total: u64) -> i64 {
    if used == 0 {
        return 0;
    }
    // Memory of a host is below 2^43 bytes, so that the product fits; what does not is full.
    match used.checked_mul(WHOLE.unsigned_abs()) {
        Some(scaled) if total > 0 => i64::try_from(scaled / total)
            .unwrap_or(FULLEST)
            .min(FULLEST),
        _ => FULLEST,
    }
}

/// Number of workloads, so that of two hosts with equal requests the one with fewer workloads wins.
pub(super) fn crowd(workloads: u32) -> i64 {
    /// Workloads that weigh half.
    const HALF: i64 = 100;
    let workloads = i64::from(workloads);
    workloads * WHOLE / (workloads + HALF)
}

/// Cost of fetching so many bytes.
pub(super) fn fetch(bytes: u64) -> i64 {
    let bytes = bytes.min(IMAGE_BYTES_SATURATION);
    i64::try_from(bytes / (IMAGE_BYTES_SATURATION >> 20)).unwrap_or(WHOLE)
}

/// Judges a host, with the first `kept` of the rules that should hold.
pub(super) fn judge(
    query: &Query<'_>,
    number: u32,
    host: &HostState,
    kept: usize,
) -> Result<Cost, Refusal> {
    fits(query, number, host, kept)?;
    let mut cost = without_fragments(query, number, host);
    cost.fragments = fragments::of_placing(query, host, i64::MAX).unwrap_or(i64::MAX);
    Ok(cost)
}

/// Judges a host as [`judge`] does, if it costs no more than `best`; `None`: it is refused, or costs more.
pub(super) fn judge_below(
    query: &Query<'_>,
    number: u32,
    host: &HostState,
    kept: usize,
    best: Option<Cost>,
) -> Option<Cost> {
    fits(query, number, host, kept).ok()?;
    let mut cost = without_fragments(query, number, host);
    let before_fragments = |cost: &Cost| (cost.failures, cost.zone_alike, cost.host_alike);
    let at_most = match best {
        Some(best) => match before_fragments(&cost).cmp(&before_fragments(&best)) {
            Ordering::Less => i64::MAX,
            Ordering::Equal => best.fragments,
            Ordering::Greater => return None,
        },
        None => i64::MAX,
    };
    cost.fragments = fragments::of_placing(query, host, at_most)?;
    Some(cost)
}

fn fits(query: &Query<'_>, number: u32, host: &HostState, kept: usize) -> Result<(), Refusal> {
    usable(query, number, host)?;
    rules(query, number, host, kept)?;
    room(query, host)?;
    if let Some(ask) = &query.gpus {
        gpus::check(ask, host).map_err(Refusal::Gpus)?;
    }
    Ok(())
}

fn usable(query: &Query<'_>, number: u32, host: &HostState) -> Result<(), Refusal> {
    match host.readiness {
        Readiness::Ready => {}
        Readiness::NotReady => return Err(Refusal::NotReady),
        Readiness::Cordoned => return Err(Refusal::Cordoned),
    }
    if query.pinned.is_some_and(|pinned| pinned != Some(number)) {
        return Err(Refusal::Pinned);
    }
    if query.not_on.contains(&number) {
        return Err(Refusal::Left);
    }
    let architecture = query.wanted.architecture;
    if !architecture.is_empty()
        && !host.architecture.is_empty()
        && architecture != host.architecture
    {
        return Err(Refusal::Architecture);
    }
    for (key, values) in &query.pool_hosts {
        if !host.has_one_of(*key, values) {
            return Err(Refusal::PoolHosts);
        }
    }
    Ok(())
}

fn rules(query: &Query<'_>, number: u32, host: &HostState, kept: usize) -> Result<(), Refusal> {
    let mut soft = 0;
    for (at, rule) in query.rules.iter().enumerate() {
        if rule.strength == Strength::Should {
            soft += 1;
            if soft > kept {
                break;
            }
        }
        if !holds(&rule.test, number, host) {
            return Err(Refusal::Rule(at));
        }
    }
    let kept_away = |term: &&super::terms::Term| {
        term.avoided_hosts.of(number) > 0 || term.avoided_zones.of(host.zone) > 0
    };
    if query.avoided.iter().any(kept_away) {
        return Err(Refusal::Avoided);
    }
    Ok(())
}

fn holds(test: &Test<'_>, number: u32, host: &HostState) -> bool {
    let (near, direction) = match test {
        Test::Attribute {
            key,
            values,
            matching,
        } => {
            let found = key.is_some_and(|key| host.has_one_of(key, values));
            return found == (*matching == Matching::In);
        }
        Test::Term {
            term,
            within,
            direction,
        } => {
            let near = term.is_some_and(|term| match within {
                Within::Host => term.hosts.of(number) > 0,
                Within::Zone => term.zones.of(host.zone) > 0,
            });
            (near, direction)
        }
        Test::Workload {
            at,
            within,
            direction,
        } => {
            let near = at.is_some_and(|(other, zone)| match within {
                Within::Host => other == number,
                Within::Zone => zone == host.zone,
            });
            (near, direction)
        }
        Test::Image { hosts, direction } => (has_bit(*hosts, host.position), direction),
    };
    near == (*direction == Direction::Near)
}

/// Whether the host at a position is in a set of positions.
pub(super) fn has_bit(set: Option<&[u64]>, position: u32) -> bool {
    let word = set.and_then(|set| set.get(position as usize / 64));
    word.is_some_and(|word| word >> (position % 64) & 1 == 1)
}

fn room(query: &Query<'_>, host: &HostState) -> Result<(), Refusal> {
    let free = host.free();
    if query.charge.cpu > free.cpu {
        return Err(Refusal::Cpu(free.cpu.0));
    }
    if query.charge.memory > free.memory {
        return Err(Refusal::Memory(free.memory.0));
    }
    for (protocol, port) in &query.ports {
        if host.ports.contains_key(&(*protocol, *port)) {
            return Err(Refusal::Port(*protocol, *port));
        }
    }
    Ok(())
}

fn without_fragments(query: &Query<'_>, number: u32, host: &HostState) -> Cost {
    let used = host.charged.plus(query.charge);
    let there = has_bit(query.images, host.position);
    let fetch = if there { 0 } else { query.fetch_cost };
    let load = match query.wanted.policy {
        Policy::Balance => load(used, host.total) + crowd(host.workloads),
        Policy::Pack => slack(used, host.total),
    };
    Cost {
        failures: query
            .failed
            .map_or(0, |term| term.hosts.of(number).min(FAILURES_MAX)),
        zone_alike: query.alike.map_or(0, |term| term.zones.of(host.zone)),
        host_alike: query.alike.map_or(0, |term| term.hosts.of(number)),
        fragments: 0,
        load: load + fetch,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "for people; sums are far below 52 bits"
)]
pub(super) fn score(query: &Query<'_>, cost: Cost) -> Score {
    let load = match query.wanted.policy {
        Policy::Balance => cost.load,
        Policy::Pack => cost.load - FULLEST + WHOLE,
    };
    let per_gpu = query.demand.map_or(1, |demand| demand.scale(1000)).max(1);
    Score {
        failures: cost.failures,
        zone_alike: cost.zone_alike,
        host_alike: cost.host_alike,
        fragments: cost.fragments as f64 / per_gpu as f64,
        load: load as f64 / WHOLE as f64,
    }
}

impl Refusal {
    /// For people, after the host's name.
    pub(super) fn text(self, query: &Query<'_>) -> String {
        match self {
            Refusal::NotReady => "is not ready".into(),
            Refusal::Cordoned => "is cordoned".into(),
            Refusal::Pinned => "is not the host of the workload it shares a namespace with".into(),
            Refusal::Left => "is where it is being moved away from".into(),
            Refusal::Architecture => format!("cannot run {} images", query.wanted.architecture),
            Refusal::PoolHosts => "has not the labels its pool demands of hosts".into(),
            Refusal::Rule(at) => match query.rules.get(at).map(|rule| &rule.source) {
                Some(Source::Host(rule)) => format!("does not satisfy {rule}"),
                Some(Source::Affinity(rule)) => format!("does not satisfy {rule}"),
                None => "does not satisfy a rule".into(),
            },
            Refusal::Avoided => "has a workload that keeps away from this one".into(),
            Refusal::Cpu(free) => format!(
                "has {free}m of CPU free, {}m are requested",
                query.charge.cpu.0
            ),
            Refusal::Memory(free) => format!(
                "has {} MiB of memory free, {} MiB are requested",
                free >> 20,
                query.charge.memory.0 >> 20
            ),
            Refusal::Port(protocol, port) => {
                format!("has port {port}/{} in use", protocol.as_str())
            }
            Refusal::Gpus(why) => match &query.gpus {
                Some(ask) => why.text(ask),
                None => "has not the GPUs".into(),
            },
        }
    }

    /// The filter in a word or two, for counting.
    pub(super) fn filter(self) -> &'static str {
        match self {
            Refusal::NotReady => "not ready",
            Refusal::Cordoned => "cordoned",
            Refusal::Pinned => "not the host of the workload it shares a namespace with",
            Refusal::Left => "where it is being moved away from",
            Refusal::Architecture => "another CPU architecture",
            Refusal::PoolHosts => "without the labels the pool demands",
            Refusal::Rule(_) => "against a rule",
            Refusal::Avoided => "kept away from by a workload there",
            Refusal::Cpu(_) => "without enough CPU",
            Refusal::Memory(_) => "without enough memory",
            Refusal::Port(..) => "with a port in use",
            Refusal::Gpus(_) => "without the GPUs",
        }
    }
}
