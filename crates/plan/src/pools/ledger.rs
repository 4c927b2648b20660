//! Who is charged what: per pool and for everything below it, kept up to date claim by claim.
//!
//! What always holds: the ledger equals the one that is made anew from the same tree and claims. Adding, changing or
//! dropping a claim takes as many steps as the tree is deep.

use std::collections::HashMap;

use model::{Charge, Claim, PoolId, QuotaKey, Resource, WorkloadId};

use super::tree::{Node, ROOT, Tree};

/// Who is charged what.
#[derive(Debug, Clone)]
pub struct Ledger {
    tree: Tree,
    books: Vec<Book>,
    claims: HashMap<WorkloadId, Entry>,
    /// Claims on pools that are not in the tree; they count for nobody.
    strays: HashMap<WorkloadId, Claim>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    at: u32,
    charge: Charge,
}

/// What is charged at one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Book {
    /// By the pool's own workloads.
    pub own: Charge,
    /// By these and everything below.
    pub sum: Charge,
    /// Guaranteed demand: own requests and what the children take, used or not.
    pub(super) cpu: Due,
    pub(super) memory: Due,
}

/// What a node's own requests and its children come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Due {
    /// Own requests, and of every child its reservation or what it takes beyond.
    pub(super) taken: u64,
    /// The same with unused reservations only as far as they are not lent.
    pub(super) kept: u64,
}

impl Book {
    pub(super) fn due(&self, resource: Resource) -> Due {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
        }
    }

    fn due_mut(&mut self, resource: Resource) -> &mut Due {
        match resource {
            Resource::Cpu => &mut self.cpu,
            Resource::Memory => &mut self.memory,
        }
    }
}

/// What a node takes from its parent, given what it comes to itself.
pub(super) fn taken(node: &Node, resource: Resource, due: Due) -> Due {
    let line = node.line(resource);
    let reservation = line.reservation;
    let unlent = reservation.saturating_sub(line.lendable);
    Due {
        taken: if line.expandable {
            due.taken.max(reservation)
        } else {
            reservation
        },
        kept: due.kept.max(unlent),
    }
}

/// A key whose kept amount is not the recomputed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The pool; `None`: the root.
    pub pool: Option<PoolId>,
    /// The key.
    pub key: QuotaKey,
    /// What was kept.
    pub kept: u64,
    /// What it is.
    pub recomputed: u64,
}

impl Ledger {
    /// The ledger of these claims.
    #[must_use]
    pub fn new(tree: Tree, claims: impl IntoIterator<Item = (WorkloadId, Claim)>) -> Self {
        let mut ledger = Self {
            books: vec![Book::default(); tree.nodes.len()],
            tree,
            claims: HashMap::new(),
            strays: HashMap::new(),
        };
        for (id, claim) in claims {
            ledger.enter(id, claim);
        }
        ledger.add_up();
        ledger
    }

    /// Keeps the same claims in another tree.
    pub fn set_tree(&mut self, tree: Tree) {
        let old = std::mem::take(&mut self.claims);
        let pools: Vec<Option<PoolId>> = self
            .tree
            .nodes
            .iter()
            .map(|node| node.pool.clone())
            .collect();
        let strays = std::mem::take(&mut self.strays);
        let moved: Vec<Option<usize>> = pools
            .iter()
            .map(|pool| pool.as_ref().and_then(|pool| tree.index(pool)))
            .collect();
        self.books = vec![Book::default(); tree.nodes.len()];
        self.tree = tree;
        for (id, entry) in old {
            match (moved[entry.at as usize], &pools[entry.at as usize]) {
                (Some(at), _) => self.enter_at(id, at, entry.charge),
                (None, Some(pool)) => {
                    let (pool, charge) = (pool.clone(), entry.charge);
                    self.strays.insert(id, Claim { pool, charge });
                }
                (None, None) => {}
            }
        }
        for (id, claim) in strays {
            self.enter(id, claim);
        }
        self.add_up();
    }

    fn enter(&mut self, id: WorkloadId, claim: Claim) {
        match self.tree.index(&claim.pool) {
            Some(at) => self.enter_at(id, at, claim.charge),
            None => {
                self.strays.insert(id, claim);
            }
        }
    }

    fn enter_at(&mut self, id: WorkloadId, at: usize, charge: Charge) {
        self.books[at].own = self.books[at].own.plus(charge);
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        self.claims.insert(id, Entry { at, charge });
    }

    /// Bottom up, from the pools' own charges.
    fn add_up(&mut self) {
        for at in (0..self.books.len()).rev() {
            let node = &self.tree.nodes[at];
            let mut book = Book {
                own: self.books[at].own,
                sum: self.books[at].own,
                ..Book::default()
            };
            for child in &node.children {
                book.sum = book.sum.plus(self.books[*child].sum);
            }
            for resource in Resource::ALL {
                let own = book.own[QuotaKey::Resource(resource)];
                let due = book.due_mut(resource);
                (due.taken, due.kept) = (own, own);
                for child in &node.children {
                    let below = self.books[*child].due(resource);
                    let below = taken(&self.tree.nodes[*child], resource, below);
                    due.taken = due.taken.saturating_add(below.taken);
                    due.kept = due.kept.saturating_add(below.kept);
                }
            }
            self.books[at] = book;
        }
    }

    /// The tree it is kept for.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What is charged at a node.
    #[must_use]
    pub fn book(&self, at: usize) -> &Book {
        &self.books[at]
    }

    /// What a pool is charged, by its own workloads and below.
    #[must_use]
    pub fn usage(&self, pool: &PoolId) -> Option<&Book> {
        Some(&self.books[self.tree.index(pool)?])
    }

    /// What everything together is charged.
    #[must_use]
    pub fn total(&self) -> Charge {
        self.books[ROOT].sum
    }

    /// Number of claims.
    #[must_use]
    pub fn len(&self) -> usize {
        self.claims.len() + self.strays.len()
    }

    /// Whether there is no claim.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The claim of a workload.
    #[must_use]
    pub fn claim(&self, id: &WorkloadId) -> Option<Charge> {
        let stray = || self.strays.get(id).map(|claim| claim.charge);
        self.claims.get(id).map(|it| it.charge).or_else(stray)
    }

    /// Who is charged what for a workload.
    #[must_use]
    pub fn claim_of(&self, id: &WorkloadId) -> Option<Claim> {
        if let Some(entry) = self.claims.get(id) {
            let pool = self.tree.nodes[entry.at as usize].pool.clone()?;
            return Some(Claim {
                pool,
                charge: entry.charge,
            });
        }
        self.strays.get(id).cloned()
    }

    /// Sets what a workload is charged; `None`: it is gone.
    pub fn set(&mut self, id: &WorkloadId, claim: Option<&Claim>) {
        self.strays.remove(id);
        let wanted = claim.and_then(|claim| Some((self.tree.index(&claim.pool)?, claim.charge)));
        if let (None, Some(stray)) = (wanted, claim) {
            self.strays.insert(id.clone(), stray.clone());
        }
        let old = match wanted {
            Some((at, charge)) => {
                let entry = Entry {
                    at: u32::try_from(at).unwrap_or(u32::MAX),
                    charge,
                };
                self.claims.insert(id.clone(), entry)
            }
            None => self.claims.remove(id),
        };
        let old = old.map(|entry| (entry.at as usize, entry.charge));
        if old == wanted {
            return;
        }
        if let Some((at, charge)) = old {
            self.post(at, |sum| sum.minus(charge));
        }
        if let Some((at, charge)) = wanted {
            self.post(at, |sum| sum.plus(charge));
        }
    }

    /// Changes the own charge of a node and everything that follows from it upwards.
    fn post(&mut self, at: usize, change: impl Fn(Charge) -> Charge) {
        let before = self.books[at].own;
        let after = change(before);
        self.books[at].own = after;
        let mut shift: [(Due, Due); 2] = Resource::ALL.map(|resource| {
            let key = QuotaKey::Resource(resource);
            let due = |charge: Charge| Due {
                taken: charge[key],
                kept: charge[key],
            };
            (due(before), due(after))
        });
        let mut next = Some(at);
        while let Some(at) = next {
            let node = &self.tree.nodes[at];
            let book = &mut self.books[at];
            book.sum = change(book.sum);
            for (resource, (old, new)) in Resource::ALL.into_iter().zip(&mut shift) {
                let due = book.due_mut(resource);
                let was = *due;
                due.taken = (due.taken - old.taken).saturating_add(new.taken);
                due.kept = (due.kept - old.kept).saturating_add(new.kept);
                (*old, *new) = (taken(node, resource, was), taken(node, resource, *due));
            }
            next = node.parent;
        }
    }

    /// Where this ledger is not what the other one says; empty if they are equal.
    #[must_use]
    pub fn differences(&self, recomputed: &Ledger) -> Vec<Difference> {
        let mut found = Vec::new();
        for (at, node) in recomputed.tree.nodes.iter().enumerate() {
            let kept = match &node.pool {
                Some(pool) => self.usage(pool).copied().unwrap_or_default(),
                None => self.books[ROOT],
            };
            for key in QuotaKey::ALL {
                let (kept, now) = (kept.sum[key], recomputed.books[at].sum[key]);
                if kept != now {
                    found.push(Difference {
                        pool: node.pool.clone(),
                        key,
                        kept,
                        recomputed: now,
                    });
                }
            }
        }
        found
    }

    /// Everything derived, for comparing in tests.
    #[cfg(test)]
    pub(crate) fn books(&self) -> &[Book] {
        &self.books
    }
}
