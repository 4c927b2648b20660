//! Every host with its verdict: why it is there, or why it is pending.

use std::collections::BTreeMap;

use super::cluster::Cluster;
use super::judge::{self, Score, judge};
use super::query::Query;
use super::search::place;
use super::wanted::Wanted;

/// What was found of every host.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The host that would be chosen now, by name.
    pub chosen: Option<String>,
    /// Rules that have to be given up for it.
    pub given_up: Vec<String>,
    /// Every host, by name.
    pub hosts: Vec<HostVerdict>,
}

/// What was found of one host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostVerdict {
    /// Its name.
    pub name: String,
    /// What was found.
    pub verdict: Verdict,
}

/// What was found of a host.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Not possible.
    Refused {
        /// The first failing filter.
        filter: &'static str,
        /// What is wrong, to be read after the host's name.
        reason: String,
    },
    /// Possible.
    Fits(Score),
}

impl Explanation {
    /// How many hosts each filter refused, the largest number first, with an example.
    #[must_use]
    pub fn by_filter(&self) -> Vec<(&'static str, usize, String)> {
        let mut counts: BTreeMap<&'static str, (usize, String)> = BTreeMap::new();
        for host in &self.hosts {
            if let Verdict::Refused { filter, reason } = &host.verdict {
                let entry = counts
                    .entry(filter)
                    .or_insert_with(|| (0, format!("{} {reason}", host.name)));
                entry.0 += 1;
            }
        }
        let mut all: Vec<_> = counts
            .into_iter()
            .map(|(filter, (count, example))| (filter, count, example))
            .collect();
        all.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
        all
    }
}

/// Judges every host for a workload, with the rules that can be kept; with all of them if no host fits.
#[must_use]
pub fn explain(cluster: &Cluster, wanted: Wanted<'_>) -> Explanation {
    let query = Query::new(cluster, wanted);
    let numbers = (0_u32..).zip(&cluster.hosts);
    let judged = |kept: usize| -> Vec<(u32, HostVerdict)> {
        let hosts = numbers.clone();
        hosts
            .filter_map(|(number, host)| {
                let host = host.as_ref()?;
                let verdict = match judge(&query, number, host, kept) {
                    Ok(cost) => Verdict::Fits(judge::score(&query, cost)),
                    Err(refusal) => Verdict::Refused {
                        filter: refusal.filter(),
                        reason: refusal.text(&query),
                    },
                };
                let name = host.name.clone();
                Some((number, HostVerdict { name, verdict }))
            })
            .collect()
    };
    let soft = query.soft_rules();
    let fits = |hosts: &Vec<(u32, HostVerdict)>| {
        hosts
            .iter()
            .any(|(_, host)| matches!(host.verdict, Verdict::Fits(_)))
    };
    let kept = (0..=soft).rev().map(judged).find(fits);
    let anyone = kept.is_some();
    let mut hosts: Vec<HostVerdict> = kept
        .unwrap_or_else(|| judged(0))
        .into_iter()
        .map(|(_, host)| host)
        .collect();
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    let placement = anyone.then(|| place(cluster, wanted));
    let chosen = placement.as_ref().and_then(|placement| {
        let number = cluster.by_id.get(placement.host.as_ref()?)?;
        Some(cluster.host(*number)?.name.clone())
    });
    Explanation {
        chosen,
        given_up: placement.map_or_else(Vec::new, |placement| placement.given_up),
        hosts,
    }
}
