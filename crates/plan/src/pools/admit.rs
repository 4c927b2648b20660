//! Whether one more claim fits: all keys or none, and if not, which ancestor ran out.
//!
//! Counted quotas and limits (times the overcommit ratio) hold at every level. CPU and memory beyond a pool's own
//! reservation come from the parent's unreserved part, and so on upwards while each pool is expandable; when that is
//! used up they are borrowed from what others reserved, do not use, and lend.

use model::{Charge, Counted, PoolId, QuotaKey, Resource};

use super::ledger::{Due, Ledger, taken};
use super::tree::{ROOT, Tree};

/// How a claim was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Admitted {
    /// CPU and memory that others reserved and lend: to be given back when they need it.
    pub borrows: Charge,
}

/// Why a claim was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What ran out.
    pub key: QuotaKey,
    /// The rule that was hit.
    pub rule: Rule,
    /// The pool that asked.
    pub pool: String,
    /// Id of the pool that ran out, the one that asked or one above; `None`: the installation.
    pub exhausted: Option<PoolId>,
    /// Its name.
    pub exhausted_name: String,
    /// How much it may have.
    pub limit: u64,
    /// How much of that is taken.
    pub usage: u64,
    /// How much more was wanted.
    pub wanted: u64,
}

/// The rules of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The sum of requests may not pass the limit times the overcommit ratio.
    Limit,
    /// A counted quota.
    Quota,
    /// The pool may not take more than its reservation.
    Fixed,
    /// Neither unreserved nor lent capacity is left.
    Capacity,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (key, wanted) = (self.key.as_str(), self.key.show(self.wanted));
        let place = match &self.exhausted {
            None => self.exhausted_name.clone(),
            Some(_) if self.exhausted_name == self.pool => format!("pool {}", self.pool),
            Some(_) => format!("pool {} (above {})", self.exhausted_name, self.pool),
        };
        let (limit, usage) = (self.key.show(self.limit), self.key.show(self.usage));
        match self.rule {
            Rule::Quota => {
                let free_some = match self.key {
                    QuotaKey::Counted(Counted::Gpus) | QuotaKey::Resource(_) => "stop something",
                    QuotaKey::Counted(Counted::Workloads | Counted::PublishedPorts) => {
                        "remove some"
                    }
                };
                write!(
                    f,
                    "{place} has its quota of {limit} {key} used up: {usage} in use, {wanted} more wanted; {free_some}, or \
                     ask for a higher quota"
                )
            }
            Rule::Limit => write!(
                f,
                "{place} has not enough {key} left: {wanted} wanted, {usage} of the limit of {limit} in use; stop \
                 something, ask for less, or ask for a higher limit"
            ),
            Rule::Fixed => write!(
                f,
                "{place} has not enough {key} left: {wanted} wanted, {usage} of its reservation of {limit} in use, and \
                 it is not expandable; stop something, ask for less, or ask for a higher reservation"
            ),
            Rule::Capacity => write!(
                f,
                "{place} has not enough {key} left: {wanted} wanted, {usage} of {limit} in use or reserved; stop \
                 something, ask for less, or add a host"
            ),
        }
    }
}

impl Ledger {
    /// Whether `pool` may be charged `after` instead of `before` for one claim; changes nothing.
    ///
    /// # Errors
    /// The first key that does not fit, and where.
    pub fn admit(&self, pool: &PoolId, before: Charge, after: Charge) -> Result<Admitted, Refusal> {
        let Some(at) = self.tree().index(pool) else {
            return Ok(Admitted::default());
        };
        let more = after.minus(before);
        let mut admitted = Admitted::default();
        for key in QuotaKey::ALL.into_iter().filter(|key| more[*key] > 0) {
            let asked = Asked {
                ledger: self,
                at,
                key,
                wanted: more[key],
            };
            match key {
                QuotaKey::Counted(counted) => {
                    asked.upper(
                        |tree, at| tree.nodes[at].quotas.get(&counted).copied(),
                        Rule::Quota,
                    )?;
                }
                QuotaKey::Resource(resource) => {
                    asked.upper(|tree, at| tree.nodes[at].line(resource).bound, Rule::Limit)?;
                    admitted.borrows[key] = asked.reserve(resource)?;
                }
            }
        }
        Ok(admitted)
    }
}

/// One key of a claim.
struct Asked<'a> {
    ledger: &'a Ledger,
    at: usize,
    key: QuotaKey,
    wanted: u64,
}

impl Asked<'_> {
    /// Compares with an upper bound at every level.
    fn upper(
        &self,
        bound: impl Fn(&Tree, usize) -> Option<u64>,
        rule: Rule,
    ) -> Result<(), Refusal> {
        let tree = self.ledger.tree();
        for at in tree.upwards(self.at) {
            let usage = self.ledger.book(at).sum[self.key];
            if let Some(limit) = bound(tree, at)
                && usage.saturating_add(self.wanted) > limit
            {
                return Err(self.refusal(at, rule, limit, usage));
            }
        }
        Ok(())
    }

    /// Takes from reservations upwards; returns what is borrowed.
    fn reserve(&self, resource: Resource) -> Result<u64, Refusal> {
        let tree = self.ledger.tree();
        let mut rise = Due {
            taken: self.wanted,
            kept: self.wanted,
        };
        for at in tree.upwards(self.at) {
            let node = &tree.nodes[at];
            let line = node.line(resource);
            let was = self.ledger.book(at).due(resource);
            let now = Due {
                taken: was.taken.saturating_add(rise.taken),
                kept: was.kept.saturating_add(rise.kept),
            };
            if now.taken <= line.reservation {
                return Ok(0);
            }
            if at == ROOT || !line.expandable {
                let (most, rule) = if at == ROOT {
                    (line.bound.unwrap_or(line.reservation), Rule::Capacity)
                } else {
                    (line.reservation, Rule::Fixed)
                };
                if now.kept > most {
                    return Err(self.refusal(at, rule, most, was.kept));
                }
                return Ok((now.taken - line.reservation).min(self.wanted));
            }
            let (before, after) = (taken(node, resource, was), taken(node, resource, now));
            rise = Due {
                taken: after.taken - before.taken,
                kept: after.kept - before.kept,
            };
        }
        Ok(0)
    }

    fn refusal(&self, at: usize, rule: Rule, limit: u64, usage: u64) -> Refusal {
        let nodes = &self.ledger.tree().nodes;
        Refusal {
            key: self.key,
            rule,
            pool: nodes[self.at].name.clone(),
            exhausted: nodes[at].pool.clone(),
            exhausted_name: nodes[at].name.clone(),
            limit,
            usage,
            wanted: self.wanted,
        }
    }
}
