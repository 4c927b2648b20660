//! Room for a start that no host has room for, out of what its pool has reserved and others borrow.

use model::{Capacity, Charge, Claim, GpuShare, HostId, QuotaKey, Resource, WorkloadId};

use super::borrow::{Debts, Lacking, node};
use super::{Lodger, host_of};
use crate::place::{Cluster, Wanted, place};
use crate::pools::Ledger;

/// Hosts that are considered: reclaiming is for what is inside a reservation, and one of so many will do.
const HOSTS_MAX: usize = 256;

/// Victims of one start: as many as fit into one commit with it.
pub const VICTIMS_MAX: usize = 48;

/// What asks for room.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What is to be placed.
    pub wanted: Wanted<'a>,
    /// What it will be charged.
    pub claim: &'a Claim,
    /// What it is charged already.
    pub before: Charge,
}

/// A host, and who has to go from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Room {
    /// The host.
    pub host: HostId,
    /// GPUs there.
    pub gpus: Vec<GpuShare>,
    /// Who has to go; never empty.
    pub victims: Vec<WorkloadId>,
    /// What they are charged.
    pub cleared: Capacity,
}

/// Finds the host where the fewest borrowers have to go for a start inside its pool's reservation; `None`: it is not
/// inside one, or no host can be cleared.
///
/// Victims are picked from the pool that owes most, there the least important first, then the one started last;
/// afterwards each one that turned out not to be needed is let off.
#[must_use]
pub fn make_room<'a>(
    cluster: &Cluster,
    ledger: &Ledger,
    asked: Asked<'_>,
    lodgers: impl Fn(&HostId) -> Vec<Lodger<'a>>,
) -> Option<Room> {
    let asking = node(ledger.tree(), &asked.claim.pool)?;
    let more = asked.claim.charge.minus(asked.before);
    let mut trial = cluster.clone();
    let mut best: Option<(usize, u64, Room)> = None;
    let hosts: Vec<HostId> = trial.host_ids().take(HOSTS_MAX).cloned().collect();
    for host in hosts {
        let lodgers = lodgers(&host);
        let clearing = Clearing {
            ledger,
            asked,
            need: (asking, more),
            host: &host,
            lodgers: &lodgers,
        };
        let Some(room) = clearing.clear(&mut trial) else {
            continue;
        };
        let cost = (room.victims.len(), room.cleared.memory.0);
        if best
            .as_ref()
            .is_none_or(|(victims, memory, _)| cost < (*victims, *memory))
        {
            best = Some((cost.0, cost.1, room));
        }
    }
    best.map(|(.., room)| room)
}

/// One host that is cleared on trial.
struct Clearing<'a, 'l> {
    ledger: &'a Ledger,
    asked: Asked<'a>,
    /// Node of the pool that asks, and how much more it wants.
    need: (usize, Charge),
    host: &'a HostId,
    lodgers: &'a [Lodger<'l>],
}

/// Who was picked, and for what lacked then.
type Picked<'a> = Vec<(&'a Lodger<'a>, Lacking)>;

impl Clearing<'_, '_> {
    /// Leaves the cluster as it was.
    fn clear(&self, trial: &mut Cluster) -> Option<Room> {
        let mut debts = Debts::of(self.ledger);
        let mut picked: Picked<'_> = Vec::new();
        let mut gpus = None;
        // Each turn adds one, perhaps in the place of others who are no candidates from then on.
        for _ in 0..2 * self.lodgers.len().saturating_add(1) {
            let lacking = self.lacking(trial)?;
            if !lacking.contains(&true) {
                gpus = self.fits(trial);
                break;
            }
            let Some(next) = self.next(&debts, &picked, lacking) else {
                break;
            };
            self.go(trial, &mut debts, next);
            while let Some(at) = picked.iter().position(|it| !self.owes_without(&debts, it)) {
                let (spared, _) = picked.remove(at);
                self.come_back(trial, &mut debts, spared);
            }
            picked.push((next, lacking));
        }
        if gpus.is_some() {
            self.let_off(trial, &mut debts, &mut picked);
            gpus = self.fits(trial);
        }
        for (lodger, _) in &picked {
            trial.workload_put(lodger.workload);
        }
        let cleared = picked.iter().fold(Capacity::default(), |sum, (it, _)| {
            sum.plus(it.workload.spec.task.resources.charge())
        });
        Some(Room {
            host: self.host.clone(),
            gpus: gpus?,
            victims: picked
                .iter()
                .map(|(it, _)| it.workload.id.clone())
                .collect(),
            cleared,
        })
        .filter(|room| (1..=VICTIMS_MAX).contains(&room.victims.len()))
    }

    /// Whether a victim's pools would be beyond their reservations if it were spared and all the others were not.
    fn owes_without(&self, debts: &Debts<'_>, (lodger, lacking): &(&Lodger<'_>, Lacking)) -> bool {
        let mut spared = debts.clone();
        let charge = Charge::of(lodger.workload);
        node(self.ledger.tree(), &lodger.workload.pool).is_some_and(|pool| {
            spared.owe(pool, charge);
            spared.debt(self.need, (pool, charge), *lacking).is_some()
        })
    }

    /// What lacks on the host; `None`: it could not be used if it were empty.
    fn lacking(&self, trial: &Cluster) -> Option<Lacking> {
        let free = trial.free(self.host)?;
        let need = self.asked.wanted.spec.task.resources.charge();
        Some([need.cpu > free.cpu, need.memory > free.memory])
    }

    fn fits(&self, trial: &Cluster) -> Option<Vec<GpuShare>> {
        let pinned = self.asked.wanted.pinned;
        if pinned.is_some_and(|pinned| pinned != self.host) {
            return None;
        }
        let wanted = Wanted {
            pinned: Some(self.host),
            ..self.asked.wanted
        };
        let placement = place(trial, wanted);
        placement.host.map(|_| placement.gpus)
    }

    /// The next victim: of those whose going would spare nobody picked before, else of all.
    fn next<'s>(
        &'s self,
        debts: &Debts<'_>,
        picked: &Picked<'_>,
        lacking: Lacking,
    ) -> Option<&'s Lodger<'s>> {
        let candidates = self.lodgers.iter().filter(|lodger| {
            host_of(lodger) == Some(self.host)
                && !picked
                    .iter()
                    .any(|(it, _)| it.workload.id == lodger.workload.id)
        });
        candidates
            .filter_map(|lodger| {
                let pool = node(self.ledger.tree(), &lodger.workload.pool)?;
                let charge = Charge::of(lodger.workload);
                let debt = debts.debt(self.need, (pool, charge), lacking)?;
                let mut after = debts.clone();
                after.pay(pool, charge);
                let spares = !picked.iter().all(|it| self.owes_without(&after, it));
                Some(((spares, std::cmp::Reverse(debt), lodger.order()), lodger))
            })
            .min_by(|a, b| a.0.cmp(&b.0))
            .map(|(_, lodger)| lodger)
    }

    fn go(&self, trial: &mut Cluster, debts: &mut Debts<'_>, lodger: &Lodger<'_>) {
        trial.workload_remove(&lodger.workload.id);
        if let Some(pool) = node(self.ledger.tree(), &lodger.workload.pool) {
            debts.pay(pool, Charge::of(lodger.workload));
        }
    }

    fn come_back(&self, trial: &mut Cluster, debts: &mut Debts<'_>, lodger: &Lodger<'_>) {
        trial.workload_put(lodger.workload);
        if let Some(pool) = node(self.ledger.tree(), &lodger.workload.pool) {
            debts.owe(pool, Charge::of(lodger.workload));
        }
    }

    /// The reverse pass: whoever is not needed stays, the most important first.
    fn let_off(&self, trial: &mut Cluster, debts: &mut Debts<'_>, picked: &mut Picked<'_>) {
        let mut order: Vec<&Lodger<'_>> = picked.iter().map(|(it, _)| *it).collect();
        order.sort_by(|a, b| b.order().cmp(&a.order()));
        for lodger in order {
            self.come_back(trial, debts, lodger);
            let enough = self
                .lacking(trial)
                .is_some_and(|lacking| !lacking.contains(&true))
                && self.fits(trial).is_some();
            if enough {
                picked.retain(|(it, _)| it.workload.id != lodger.workload.id);
            } else {
                self.go(trial, debts, lodger);
            }
        }
    }
}

/// Whether some of what a claim of a pool asks for is covered by a reservation of its own or of a pool above it: only
/// then can anybody have to make room for it. What it is charged already counts as asked for.
#[must_use]
pub fn is_reserved(ledger: &Ledger, claim: &Claim, before: Charge) -> bool {
    let Some(at) = node(ledger.tree(), &claim.pool) else {
        return false;
    };
    Resource::ALL.into_iter().any(|resource| {
        let key = QuotaKey::Resource(resource);
        let tree = ledger.tree();
        claim.charge[key] > 0
            && tree.upwards(at).any(|at| {
                let others = ledger.book(at).sum[key].saturating_sub(before[key]);
                tree.nodes[at].pool.is_some()
                    && others.saturating_add(claim.charge[key])
                        <= tree.nodes[at].line(resource).reservation
            })
    })
}
