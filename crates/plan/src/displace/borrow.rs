//! How far pools are beyond their reservations, and who has a claim against whom.

use model::{Charge, PoolId, QuotaKey, Resource};

use crate::pools::Ledger;
use crate::pools::tree::{ROOT, Tree};

/// How far each pool is beyond its reservation, while victims are picked.
#[derive(Debug, Clone)]
pub(super) struct Debts<'a> {
    tree: &'a Tree,
    cpu: Vec<i64>,
    memory: Vec<i64>,
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// Resources that lack.
pub(super) type Lacking = [bool; Resource::ALL.len()];

impl<'a> Debts<'a> {
    pub(super) fn of(ledger: &'a Ledger) -> Self {
        let tree = ledger.tree();
        let debts = |resource| {
            let nodes = tree.nodes.iter().enumerate();
            nodes
                .map(|(at, node)| {
                    let used = ledger.book(at).sum[QuotaKey::Resource(resource)];
                    signed(used).saturating_sub(signed(node.line(resource).reservation))
                })
                .collect()
        };
        Self {
            tree,
            cpu: debts(Resource::Cpu),
            memory: debts(Resource::Memory),
        }
    }

    fn all(&self, resource: Resource) -> &Vec<i64> {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Memory => &self.memory,
        }
    }

    fn all_mut(&mut self, resource: Resource) -> &mut Vec<i64> {
        match resource {
            Resource::Cpu => &mut self.cpu,
            Resource::Memory => &mut self.memory,
        }
    }

    /// A workload of a pool goes.
    pub(super) fn pay(&mut self, pool: usize, charge: Charge) {
        for resource in Resource::ALL {
            let amount = signed(charge[QuotaKey::Resource(resource)]);
            for at in self.tree.upwards(pool) {
                self.all_mut(resource)[at] = self.all(resource)[at].saturating_sub(amount);
            }
        }
    }

    /// It comes back.
    pub(super) fn owe(&mut self, pool: usize, charge: Charge) {
        for resource in Resource::ALL {
            let amount = signed(charge[QuotaKey::Resource(resource)]);
            for at in self.tree.upwards(pool) {
                self.all_mut(resource)[at] = self.all(resource)[at].saturating_add(amount);
            }
        }
    }

    /// How much the pool of a possible victim owes to `asking`, which wants `wanted` more, counting only what lacks and
    /// what the victim takes of it; `None`: it is no victim.
    ///
    /// Below the pool that both have in common, the asking side must have a reservation that covers what it wants, and
    /// every pool on the victim's side must be beyond its own.
    pub(super) fn debt(
        &self,
        (asking, wanted): (usize, Charge),
        (victim, charge): (usize, Charge),
        lacking: Lacking,
    ) -> Option<i64> {
        let common = common(self.tree, asking, victim);
        let resources = Resource::ALL.into_iter().zip(lacking);
        let mut most: Option<i64> = None;
        for (resource, _) in resources.filter(|(_, lacks)| *lacks) {
            let key = QuotaKey::Resource(resource);
            let below = |at: usize| self.tree.upwards(at).take_while(|it| Some(*it) != common);
            let covered = below(asking).any(|at| {
                let debt = self.all(resource)[at];
                debt.saturating_add(signed(wanted[key])) <= 0
            });
            if !covered {
                return None;
            }
            let least = below(victim).map(|at| self.all(resource)[at]).min();
            if let Some(debt) = least.filter(|debt| *debt > 0 && charge[key] > 0) {
                most = most.max(Some(debt));
            }
        }
        most
    }
}

/// The lowest pool that both are in, or are; `None`: the installation only.
fn common(tree: &Tree, a: usize, b: usize) -> Option<usize> {
    tree.upwards(a)
        .find(|at| tree.upwards(b).any(|other| other == *at))
        .or(Some(ROOT))
}

/// The node of a pool.
pub(super) fn node(tree: &Tree, pool: &PoolId) -> Option<usize> {
    tree.index(pool)
}
