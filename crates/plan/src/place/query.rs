//! What is wanted, compiled for one cluster: texts to numbers, terms to their counts.

use std::collections::BTreeSet;

use model::Capacity;
use model::placement::{Direction, HostAttribute, Matching, Neighbour, Strength, Within};
use model::workload::Protocol;

use super::cluster::Cluster;
use super::fragments::Demand;
use super::gpus::GpuAsk;
use super::host::attribute_name;
use super::judge;
use super::terms::{self, Term};
use super::wanted::Wanted;
use model::PlacementPolicy as Policy;

/// What is wanted, compiled.
pub(super) struct Query<'a> {
    pub(super) wanted: Wanted<'a>,
    pub(super) charge: Capacity,
    pub(super) ports: Vec<(Protocol, u16)>,
    pub(super) gpus: Option<GpuAsk<'a>>,
    /// Number of the host it must be on; `Some(None)`: that host is not there.
    pub(super) pinned: Option<Option<u32>>,
    /// Numbers of the hosts it may not go to.
    pub(super) not_on: Vec<u32>,
    /// What its pools demand of hosts: key and value.
    pub(super) pool_hosts: Vec<(u32, Vec<u32>)>,
    pub(super) rules: Vec<Rule<'a>>,
    /// What others keep away from and it has.
    pub(super) avoided: Vec<&'a Term>,
    /// Workloads like it.
    pub(super) alike: Option<&'a Term>,
    /// Workloads of its image that could not be started.
    pub(super) failed: Option<&'a Term>,
    /// Hosts that have its image, one bit each.
    pub(super) images: Option<&'a [u64]>,
    /// What fetching the image costs.
    pub(super) fetch_cost: i64,
    /// What else is asked of GPUs here, if that matters.
    pub(super) demand: Option<&'a Demand>,
}

/// A rule, in the order in which they are kept: what must be first, the last of what should be is given up first.
pub(super) struct Rule<'a> {
    pub(super) test: Test<'a>,
    pub(super) strength: Strength,
    pub(super) source: Source<'a>,
}

/// The rule as it was written, for reports.
pub(super) enum Source<'a> {
    Host(&'a model::HostRule),
    Affinity(&'a model::placement::Affinity),
}

/// What a rule looks at.
pub(super) enum Test<'a> {
    /// The host's attribute is one of the values, or none of them.
    Attribute {
        key: Option<u32>,
        values: Vec<u32>,
        matching: Matching,
    },
    /// Workloads with the term are near, or are not.
    Term {
        term: Option<&'a Term>,
        within: Within,
        direction: Direction,
    },
    /// That workload is near, or is not: its host and zone.
    Workload {
        at: Option<(u32, u32)>,
        within: Within,
        direction: Direction,
    },
    /// The image is on the host, or is not.
    Image {
        hosts: Option<&'a [u64]>,
        direction: Direction,
    },
}

impl<'a> Query<'a> {
    pub(super) fn new(cluster: &'a Cluster, wanted: Wanted<'a>) -> Self {
        let spec = wanted.spec;
        let find = |name: String| cluster.terms.find(&name);
        let labels = spec.labels.iter();
        let mut avoided: Vec<&Term> = Vec::new();
        if cluster.any_avoids {
            let own = labels.filter_map(|(key, value)| find(terms::label(wanted.pool, key, value)));
            avoided.extend(own);
            if let Some(id) = wanted.id {
                avoided.extend(find(terms::one(wanted.pool, id.as_str())));
            }
        }
        let spread = spec.placement.spread.as_deref();
        let image = &spec.task.image_id;
        Self {
            wanted,
            charge: spec.task.resources.charge(),
            ports: fixed_ports(spec),
            gpus: spec
                .task
                .gpus
                .as_ref()
                .map(|request| GpuAsk::new(request, &cluster.texts)),
            pinned: wanted.pinned.map(|id| cluster.by_id.get(id).copied()),
            not_on: wanted
                .not_on
                .iter()
                .filter_map(|id| cluster.by_id.get(id).copied())
                .collect(),
            pool_hosts: pool_hosts(cluster, wanted),
            rules: rules(cluster, wanted),
            avoided,
            alike: spread.and_then(|word| find(terms::alike(wanted.pool, word))),
            failed: find(terms::failed(wanted.pool, image.as_str())),
            images: cluster.images_of(image),
            fetch_cost: judge::fetch(wanted.image_bytes),
            demand: (wanted.policy == Policy::Pack)
                .then(|| cluster.demand())
                .flatten(),
        }
    }

    /// Hosts whose attributes satisfy the pools and the first `kept` soft rules, one bit each; `None`: all of them.
    pub(super) fn eligible(&self, cluster: &Cluster, kept: usize) -> Option<Vec<u64>> {
        let mut all: Option<Vec<u64>> = None;
        let mut narrow = |bits: Vec<u64>, invert: u64| {
            let all = all.get_or_insert_with(|| vec![u64::MAX; bits.len()]);
            for (word, bits) in all.iter_mut().zip(bits) {
                *word &= bits ^ invert;
            }
        };
        for (key, values) in &self.pool_hosts {
            narrow(cluster.having(*key, values), 0);
        }
        let hard = self.rules.len() - self.soft_rules();
        for rule in self.rules.iter().take(hard + kept) {
            if let Test::Attribute {
                key,
                values,
                matching,
            } = &rule.test
            {
                let invert = if *matching == Matching::In {
                    0
                } else {
                    u64::MAX
                };
                narrow(cluster.having(key.unwrap_or(u32::MAX), values), invert);
            }
        }
        all
    }

    /// Number of rules that can be given up.
    pub(super) fn soft_rules(&self) -> usize {
        let soft = |rule: &&Rule<'_>| rule.strength == Strength::Should;
        self.rules.iter().filter(soft).count()
    }

    /// Less than this nothing can become unusable: what it takes itself.
    pub(super) fn least_fragments(&self) -> i64 {
        match (&self.gpus, self.demand) {
            (Some(ask), Some(demand)) => -demand.scale(ask.request.total_millis()),
            _ => 0,
        }
    }
}

fn fixed_ports(spec: &model::WorkloadSpec) -> Vec<(Protocol, u16)> {
    let ports = spec.ports.iter();
    ports
        .filter_map(|mapping| Some((mapping.protocol, mapping.host_port?)))
        .collect()
}

fn pool_hosts(cluster: &Cluster, wanted: Wanted<'_>) -> Vec<(u32, Vec<u32>)> {
    let demanded = wanted.pool_hosts.iter().flat_map(|labels| labels.iter());
    demanded
        .map(|(key, value)| {
            let name = attribute_name(&HostAttribute::Label(key.clone()));
            // A label nobody has is one that no host has: no number, no host.
            let key = cluster.texts.find(&name).unwrap_or(u32::MAX);
            (key, cluster.texts.find(value).into_iter().collect())
        })
        .collect()
}

/// Rules that must hold first, then those that should, each in the order written; host rules before affinities.
fn rules<'a>(cluster: &'a Cluster, wanted: Wanted<'a>) -> Vec<Rule<'a>> {
    let placement = &wanted.spec.placement;
    let hosts = placement.hosts.iter().map(|rule| Rule {
        test: attribute_test(cluster, rule),
        strength: rule.strength,
        source: Source::Host(rule),
    });
    let affinities = placement.affinities.iter().map(|rule| Rule {
        test: affinity_test(cluster, wanted, rule),
        strength: rule.strength,
        source: Source::Affinity(rule),
    });
    let mut rules: Vec<Rule<'a>> = hosts.chain(affinities).collect();
    rules.sort_by_key(|rule| rule.strength == Strength::Should);
    rules
}

fn attribute_test<'a>(cluster: &Cluster, rule: &model::HostRule) -> Test<'a> {
    let values: BTreeSet<u32> = rule
        .values
        .iter()
        .flat_map(|pattern| cluster.texts.matching(pattern))
        .collect();
    Test::Attribute {
        key: cluster.texts.find(&attribute_name(&rule.attribute)),
        values: values.into_iter().collect(),
        matching: rule.matching,
    }
}

fn affinity_test<'a>(
    cluster: &'a Cluster,
    wanted: Wanted<'a>,
    rule: &model::placement::Affinity,
) -> Test<'a> {
    let (within, direction) = (rule.within, rule.direction);
    match &rule.to {
        Neighbour::Label { key, value } => Test::Term {
            term: cluster.terms.find(&terms::label(wanted.pool, key, value)),
            within,
            direction,
        },
        Neighbour::Workload { id } => Test::Workload {
            at: cluster.whereabouts(wanted.pool, id),
            within,
            direction,
        },
        Neighbour::Image { id } => Test::Image {
            hosts: cluster.images_of(id),
            direction,
        },
    }
}
