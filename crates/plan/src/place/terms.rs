//! How many of what are where: the counts that affinities and spreading look at.

use std::sync::Arc;

use model::PoolId;
use model::placement::Within;

use super::intern::Map;

/// Counts by host or zone, sorted: most are short, and a lookup is a few comparisons.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(Vec<(u32, u32)>);

impl Counts {
    pub(super) fn of(&self, at: u32) -> u32 {
        match self.0.binary_search_by_key(&at, |it| it.0) {
            Ok(found) => self.0[found].1,
            Err(_) => 0,
        }
    }

    fn add(&mut self, at: u32) {
        match self.0.binary_search_by_key(&at, |it| it.0) {
            Ok(found) => self.0[found].1 += 1,
            Err(place) => self.0.insert(place, (at, 1)),
        }
    }

    fn remove(&mut self, at: u32) {
        if let Ok(found) = self.0.binary_search_by_key(&at, |it| it.0) {
            self.0[found].1 -= 1;
            if self.0[found].1 == 0 {
                self.0.remove(found);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is known of one term.
#[derive(Debug, Clone, Default)]
pub(super) struct Term {
    /// Workloads that have it, by host.
    pub(super) hosts: Counts,
    /// Workloads that have it, by zone.
    pub(super) zones: Counts,
    /// Workloads that keep away from it, by host.
    pub(super) avoided_hosts: Counts,
    /// Workloads that keep their zone free of it, by zone.
    pub(super) avoided_zones: Counts,
}

/// How a workload relates to a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// It has it.
    Has,
    /// It keeps away from it.
    Avoids(Within),
}

/// All terms that something relates to. A term is gone when nothing does any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    numbers: Map<Arc<str>, u32>,
    terms: Vec<(Arc<str>, Term)>,
    free: Vec<u32>,
}

/// The name of a term: a label of workloads.
pub(super) fn label(pool: &PoolId, key: &str, value: &str) -> String {
    name(pool, 'l', key, value)
}

/// The name of a term: alike workloads.
pub(super) fn alike(pool: &PoolId, word: &str) -> String {
    name(pool, 's', word, "")
}

/// The name of a term: one workload.
pub(super) fn one(pool: &PoolId, id: &str) -> String {
    name(pool, 'w', id, "")
}

/// The name of a term: workloads of an image that could not be started.
pub(super) fn failed(pool: &PoolId, image: &str) -> String {
    name(pool, 'f', image, "")
}

fn name(pool: &PoolId, kind: char, first: &str, second: &str) -> String {
    let mut name = String::with_capacity(pool.as_str().len() + first.len() + second.len() + 3);
    name.push(kind);
    name.push_str(pool.as_str());
    name.push_str(first);
    name.push('\0');
    name.push_str(second);
    name
}

impl Terms {
    pub(super) fn find(&self, name: &str) -> Option<&Term> {
        let number = self.numbers.get(name)?;
        self.terms.get(*number as usize).map(|(_, term)| term)
    }

    /// Adds a relation at a host of a zone; returns the term's number for [`Terms::remove`].
    pub(super) fn add(&mut self, name: &str, relation: Relation, host: u32, zone: u32) -> u32 {
        let number = match self.numbers.get(name) {
            Some(number) => *number,
            None => self.make(name),
        };
        if let Some((_, term)) = self.terms.get_mut(number as usize) {
            match relation {
                Relation::Has => {
                    term.hosts.add(host);
                    term.zones.add(zone);
                }
                Relation::Avoids(Within::Host) => term.avoided_hosts.add(host),
                Relation::Avoids(Within::Zone) => term.avoided_zones.add(zone),
            }
        }
        number
    }

    fn make(&mut self, name: &str) -> u32 {
        let name: Arc<str> = name.into();
        let number = if let Some(number) = self.free.pop() {
            self.terms[number as usize] = (Arc::clone(&name), Term::default());
            number
        } else {
            self.terms.push((Arc::clone(&name), Term::default()));
            u32::try_from(self.terms.len() - 1).unwrap_or(u32::MAX)
        };
        self.numbers.insert(name, number);
        number
    }

    pub(super) fn remove(&mut self, number: u32, relation: Relation, host: u32, zone: u32) {
        let Some((name, term)) = self.terms.get_mut(number as usize) else {
            return;
        };
        match relation {
            Relation::Has => {
                term.hosts.remove(host);
                term.zones.remove(zone);
            }
            Relation::Avoids(Within::Host) => term.avoided_hosts.remove(host),
            Relation::Avoids(Within::Zone) => term.avoided_zones.remove(zone),
        }
        let unused =
            term.hosts.is_empty() && term.avoided_hosts.is_empty() && term.avoided_zones.is_empty();
        if unused {
            self.numbers.remove(&**name);
            *term = Term::default();
            self.free.push(number);
        }
    }

    /// Number of terms, for tests of leaks.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}
