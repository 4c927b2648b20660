//! The best host, without looking at most of them.

use std::fmt::Write as _;

use model::{GpuShare, HostId};

use super::block::BLOCK;
use super::cluster::Cluster;
use super::explain::{self, Verdict};
use super::fragments;
use super::gpus;
use super::host::HostState;
use super::judge::{self, Cost, Score, judge_below};
use super::query::{Query, Source};
use super::wanted::Wanted;
use model::PlacementPolicy as Policy;
use model::placement::Strength;

/// A decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The host; `None`: none fits.
    pub host: Option<HostId>,
    /// GPUs it gets there.
    pub gpus: Vec<GpuShare>,
    /// The score of the host.
    pub score: Option<Score>,
    /// Rules that had to be given up.
    pub given_up: Vec<String>,
    /// Number of hosts there are.
    pub hosts: usize,
    /// How was chosen.
    pub policy: Policy,
    /// Why no host fits, in one sentence for people; empty if one does.
    pub refusal: String,
}

impl Placement {
    /// The decision in one sentence for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some(score) = &self.score else {
            return self.refusal.clone();
        };
        let (hosts, policy) = (self.hosts, word(self.policy));
        let mut text = format!("best of {hosts} hosts by {policy}: {score}");
        if !self.given_up.is_empty() {
            let _ = write!(text, "; given up: {}", self.given_up.join(", "));
        }
        text
    }
}

fn word(policy: Policy) -> &'static str {
    match policy {
        Policy::Balance => "balance",
        Policy::Pack => "pack",
    }
}

/// Picks the host for a workload.
///
/// Rules that should hold are given up one by one, the last one first, until a host fits.
#[must_use]
pub fn place(cluster: &Cluster, wanted: Wanted<'_>) -> Placement {
    place_with(cluster, wanted, fast)
}

/// The GPUs a workload gets on the host it has to stay on.
///
/// # Errors
/// When the host's free GPUs do not do: why, to be read after the host's name.
pub fn gpus_on(
    cluster: &Cluster,
    wanted: Wanted<'_>,
    host: &HostId,
) -> Result<Vec<GpuShare>, String> {
    let query = Query::new(cluster, wanted);
    let number = cluster.by_id.get(host).copied();
    let (Some(ask), Some(host)) = (&query.gpus, number.and_then(|it| cluster.host(it))) else {
        return Ok(Vec::new());
    };
    gpus::check(ask, host).map_err(|why| format!("{} {}", host.name, why.text(ask)))?;
    Ok(shares(&query, host))
}

fn shares(query: &Query<'_>, host: &HostState) -> Vec<GpuShare> {
    let millis = query.gpus.as_ref().map_or(0, |ask| ask.request.millis);
    let devices = fragments::devices(query, host).into_iter();
    devices
        .map(|at| GpuShare {
            uuid: host.gpus[at].gpu.uuid.clone(),
            millis,
            nodes: host.gpus[at].gpu.nodes.clone(),
        })
        .collect()
}

/// A way to find the best host when so many soft rules are kept.
type Search = fn(&Cluster, &Query<'_>, usize) -> Option<Found>;

/// The best host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    cost: Cost,
    /// Order among hosts of equal cost.
    rank: usize,
    /// Number of the host.
    pub(super) host: u32,
}

pub(super) fn place_with(cluster: &Cluster, wanted: Wanted<'_>, search: Search) -> Placement {
    let query = Query::new(cluster, wanted);
    let hosts = cluster.host_count();
    for kept in (0..=query.soft_rules()).rev() {
        let Some(found) = search(cluster, &query, kept) else {
            continue;
        };
        let Some(host) = cluster.host(found.host) else {
            continue;
        };
        let given_up = given_up(&query, kept);
        let score = judge::score(&query, found.cost);
        return Placement {
            host: Some(host.id.clone()),
            gpus: shares(&query, host),
            policy: wanted.policy,
            refusal: String::new(),
            score: Some(score),
            given_up,
            hosts,
        };
    }
    Placement {
        host: None,
        gpus: Vec::new(),
        score: None,
        given_up: Vec::new(),
        hosts,
        policy: wanted.policy,
        refusal: refused(cluster, wanted),
    }
}

fn given_up(query: &Query<'_>, kept: usize) -> Vec<String> {
    let soft = query
        .rules
        .iter()
        .filter(|rule| rule.strength == Strength::Should);
    soft.skip(kept)
        .map(|rule| match &rule.source {
            Source::Host(rule) => rule.to_string(),
            Source::Affinity(rule) => rule.to_string(),
        })
        .collect()
}

/// Hosts named in a sentence: more would not be read.
const MAX_HOSTS_IN_SENTENCE: usize = 5;

fn refused(cluster: &Cluster, wanted: Wanted<'_>) -> String {
    let explanation = explain::explain(cluster, wanted);
    let hosts = &explanation.hosts;
    if hosts.is_empty() {
        return "there is no host: add one with `plimsoll host token` and `plimsoll agent`".into();
    }
    let mut text = format!("no host fits ({} considered): ", hosts.len());
    if hosts.len() <= MAX_HOSTS_IN_SENTENCE {
        for (at, host) in hosts.iter().enumerate() {
            let comma = if at == 0 { "" } else { "; " };
            if let Verdict::Refused { reason, .. } = &host.verdict {
                let _ = write!(text, "{comma}{} {reason}", host.name);
            }
        }
        return text;
    }
    for (at, (filter, count, example)) in explanation.by_filter().into_iter().enumerate() {
        let comma = if at == 0 { "" } else { "; " };
        let _ = write!(text, "{comma}{count} {filter} ({example})");
    }
    text
}

/// Where blocks and hosts within blocks begin to be counted when costs are equal.
struct Ranks {
    blocks: usize,
    first_block: usize,
    first_host: usize,
}

impl Ranks {
    fn new(cluster: &Cluster, seed: u64) -> Self {
        let blocks = cluster.blocks.len().max(1);
        let seed = usize::try_from(seed % (1 << 48)).unwrap_or(0);
        Self {
            blocks,
            first_block: seed % blocks,
            first_host: seed / blocks % BLOCK,
        }
    }

    fn block(&self, block: usize) -> usize {
        (block + self.blocks - self.first_block) % self.blocks
    }

    fn host(&self, position: usize) -> usize {
        let (block, host) = (position / BLOCK, position % BLOCK);
        self.block(block) * BLOCK + (host + BLOCK - self.first_host) % BLOCK
    }
}

/// Looks at blocks in the order of their bounds, until no other can hold a better host.
pub(super) fn fast(cluster: &Cluster, query: &Query<'_>, kept: usize) -> Option<Found> {
    let view = View::new(cluster, query, kept);
    if let Some(pinned) = query.pinned {
        let host = pinned?;
        let position = cluster.host(host)?.position as usize;
        return view.look(position, None);
    }
    let eligible = query.eligible(cluster, kept);
    let eligible = |at: usize| eligible.as_ref().map_or(u64::MAX, |words| words[at]);
    let blocks = cluster.blocks.iter().enumerate();
    let mut open: Vec<(Cost, usize, usize)> = blocks
        .filter(|(at, _)| eligible(*at) != 0)
        .filter_map(|(at, block)| {
            let images = query.images.and_then(|it| it.get(at)).copied();
            let bound = block.bound(query, images.unwrap_or(0))?;
            Some((bound, view.ranks.block(at), at))
        })
        .collect();
    let mut best: Option<Found> = None;
    // Usually one or two blocks are looked at: finding the least again is cheaper than sorting.
    while let Some(next) = least(&open) {
        let (bound, rank, block) = open.swap_remove(next);
        if best.is_some_and(|best| (best.cost, best.rank / BLOCK) < (bound, rank)) {
            break;
        }
        let zone_alike = cluster.blocks[block].zone_alike(query);
        for position in block * BLOCK..(block + 1) * BLOCK {
            let lean = &cluster.lean[position];
            let unfit = !lean.ready || !lean.free.fits(query.charge);
            if unfit || eligible(block) >> (position % BLOCK) & 1 == 0 {
                continue;
            }
            let image = judge::has_bit(query.images, u32::try_from(position).unwrap_or(u32::MAX));
            let least = lean.bound(query, zone_alike, image);
            if best.is_some_and(|best| (best.cost, best.rank) < (least, view.ranks.host(position)))
            {
                continue;
            }
            let known = best.map(|best| best.cost);
            best = better(best, view.look(position, known));
        }
    }
    best
}

fn least(open: &[(Cost, usize, usize)]) -> Option<usize> {
    open.iter()
        .enumerate()
        .min_by_key(|(_, entry)| (entry.0, entry.1))
        .map(|(at, _)| at)
}

/// Looks at every host.
#[cfg(test)]
pub(super) fn exhaustive(cluster: &Cluster, query: &Query<'_>, kept: usize) -> Option<Found> {
    let view = View::new(cluster, query, kept);
    (0..cluster.lean.len()).fold(None, |best, position| {
        better(best, view.look(position, None))
    })
}

fn better(a: Option<Found>, b: Option<Found>) -> Option<Found> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if (b.cost, b.rank) < (a.cost, a.rank) {
            b
        } else {
            a
        }),
        (a, b) => a.or(b),
    }
}

/// What is looked at, and how.
struct View<'a> {
    cluster: &'a Cluster,
    query: &'a Query<'a>,
    /// Rules that should hold and are kept.
    kept: usize,
    ranks: Ranks,
}

impl<'a> View<'a> {
    fn new(cluster: &'a Cluster, query: &'a Query<'a>, kept: usize) -> Self {
        let ranks = Ranks::new(cluster, query.wanted.seed);
        Self {
            cluster,
            query,
            kept,
            ranks,
        }
    }

    /// The host at a position; `None`: it is refused, or costs more than the best one known.
    fn look(&self, position: usize, best: Option<Cost>) -> Option<Found> {
        let number = self.cluster.lean.get(position)?.host.checked_sub(1)?;
        let host = self.cluster.host(number)?;
        let cost = judge_below(self.query, number, host, self.kept, best)?;
        Some(Found {
            cost,
            rank: self.ranks.host(position),
            host: number,
        })
    }
}
