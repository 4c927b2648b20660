//! Cases, and the properties of victims over random pools and workloads.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Capacity, Charge, Claim, Displaced, Host, HostId, Installation, Phase, Pool, PoolId, QuotaKey,
    Resource, Timestamp, Workload, WorkloadId, WorkloadSpec,
};
use proptest::prelude::*;
use serde_json::json;

use super::{Asked, Lodger, Pressure, Room, grace_seconds, make_room, may_move, pause, relieve};
use crate::place::Cluster;
use crate::place::tests as placing;
use crate::pools::testing::{pool, pool_id, slice};
use crate::pools::{HostRoom, Ledger, Tree};

const GIB: u64 = 1 << 30;

/// Hosts of 4 cores and 8 GiB, pools, and workloads on them.
#[derive(Debug, Clone)]
struct World {
    hosts: Vec<Host>,
    tree: Tree,
    workloads: Vec<Workload>,
}

fn spec(cpu: u64, memory: u64) -> WorkloadSpec {
    let request = json!({ "cpu_millis": cpu, "memory_bytes": memory });
    placing::spec(json!({ "task": { "resources": { "request": request } } }))
}

impl World {
    fn new(hosts: u64, pools: &[Pool]) -> Self {
        let hosts: Vec<Host> = (0..hosts).map(placing::host).collect();
        let rooms = hosts.iter().map(|host| HostRoom {
            labels: &host.labels,
            room: host.room(),
        });
        let rooms: Vec<HostRoom<'_>> = rooms.collect();
        Self {
            tree: Tree::resolve(pools, &rooms, &Installation::default()),
            hosts,
            workloads: Vec::new(),
        }
    }

    /// A running workload of a pool; the later ones started later.
    fn runs(
        &mut self,
        pool: u8,
        host: usize,
        (cpu, memory): (u64, u64),
        priority: i32,
    ) -> WorkloadId {
        let number = self.workloads.len() as u64;
        let mut workload = placing::workload(number, &spec(cpu, memory), &self.hosts[host].id);
        workload.pool = pool_id(pool);
        workload.spec.priority = Some(priority);
        workload.status.phase = Phase::Running;
        workload.status.run = 1;
        workload.status.started_at = Some(Timestamp(i64::try_from(number).unwrap()));
        let id = workload.id.clone();
        self.workloads.push(workload);
        id
    }

    fn ledger(&self) -> Ledger {
        let claims = self
            .workloads
            .iter()
            .map(|it| (it.id.clone(), Claim::of(it)));
        Ledger::new(self.tree.clone(), claims)
    }

    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::new(&self.hosts);
        for workload in &self.workloads {
            cluster.workload_put(workload);
        }
        cluster
    }

    fn lodgers(&self, host: &HostId) -> Vec<Lodger<'_>> {
        let there = self
            .workloads
            .iter()
            .filter(|it| it.host.as_ref() == Some(host));
        there
            .map(|workload| Lodger {
                workload,
                priority: workload.spec.priority.unwrap_or(0),
                memory_used: 0,
            })
            .collect()
    }

    fn room(&self, asking: u8, spec: &WorkloadSpec) -> Option<Room> {
        let pool = pool_id(asking);
        let claim = claim(&pool, spec);
        let asked = Asked {
            wanted: placing::wanted(&pool, spec, 0),
            claim: &claim,
            before: Charge::NONE,
        };
        make_room(&self.cluster(), &self.ledger(), asked, |host| {
            self.lodgers(host)
        })
    }

    fn without(&self, gone: &BTreeSet<WorkloadId>) -> Self {
        let stay = self.workloads.iter().filter(|it| !gone.contains(&it.id));
        Self {
            hosts: self.hosts.clone(),
            tree: self.tree.clone(),
            workloads: stay.cloned().collect(),
        }
    }

    /// Whether a host has room for it as things stand.
    fn fits(&self, host: &HostId, asking: u8, spec: &WorkloadSpec) -> bool {
        let pool = pool_id(asking);
        let wanted = crate::place::Wanted {
            pinned: Some(host),
            ..placing::wanted(&pool, spec, 0)
        };
        crate::place::place(&self.cluster(), wanted).host.is_some()
    }
}

fn claim(pool: &PoolId, spec: &WorkloadSpec) -> Claim {
    let request = spec.task.resources.charge();
    let mut charge = Charge::NONE;
    charge[QuotaKey::Resource(Resource::Cpu)] = request.cpu.0;
    charge[QuotaKey::Resource(Resource::Memory)] = request.memory.0;
    Claim {
        pool: pool.clone(),
        charge,
    }
}

fn reserving(number: u8, parent: Option<u8>, memory: u64) -> Pool {
    let reservation = json!({ "reservation": { "absolute": memory } });
    pool(number, parent, slice(json!({ "memory": reservation })))
}

#[test]
fn the_owner_gets_its_reservation_from_the_borrower_who_started_last() {
    let mut world = World::new(
        1,
        &[reserving(1, None, 4 * GIB), reserving(2, None, 2 * GIB)],
    );
    let first = world.runs(2, 0, (10, 2 * GIB), 0);
    let second = world.runs(2, 0, (10, 2 * GIB), 0);
    let third = world.runs(2, 0, (10, 2 * GIB), 0);
    let room = world.room(1, &spec(10, 2 * GIB)).unwrap();
    assert_eq!(room.victims, std::slice::from_ref(&third));
    // With all it reserved, two have to go; the first one is inside its pool's own reservation.
    let room = world.room(1, &spec(10, 4 * GIB)).unwrap();
    let victims: BTreeSet<_> = room.victims.into_iter().collect();
    assert_eq!(victims, BTreeSet::from([second, third]));
    assert!(!victims.contains(&first));
    // Beyond its reservation it has no claim.
    assert_eq!(world.room(1, &spec(10, 5 * GIB)), None);
    assert_eq!(
        world.room(2, &spec(10, 3 * GIB)),
        None,
        "nor has a borrower against itself"
    );
}

#[test]
fn priority_counts_before_the_time_of_the_start() {
    let mut world = World::new(1, &[reserving(1, None, 4 * GIB), reserving(2, None, 0)]);
    let unimportant = world.runs(2, 0, (10, 2 * GIB), -1);
    world.runs(2, 0, (10, 2 * GIB), 5);
    world.runs(2, 0, (10, 2 * GIB), 5);
    let room = world.room(1, &spec(10, 2 * GIB)).unwrap();
    assert_eq!(room.victims, [unimportant]);
}

#[test]
fn a_workload_inside_the_reservation_of_a_pool_above_is_no_victim() {
    // Pool 3 is a slice of pool 2, has nothing reserved itself, and is inside of what pool 2 reserved.
    let pools = [
        reserving(1, None, 3 * GIB),
        reserving(2, None, 4 * GIB),
        reserving(3, Some(2), 0),
        reserving(4, None, 0),
    ];
    let mut world = World::new(1, &pools);
    world.runs(3, 0, (10, 3 * GIB), 0);
    world.runs(3, 0, (10, GIB), 0);
    let borrower = world.runs(4, 0, (10, 3 * GIB), 9);
    let room = world.room(1, &spec(10, 3 * GIB)).unwrap();
    assert_eq!(room.victims, [borrower]);
}

#[test]
fn the_host_with_the_fewest_victims_is_cleared() {
    let mut world = World::new(2, &[reserving(1, None, 8 * GIB), reserving(2, None, 0)]);
    for _ in 0..7 {
        world.runs(2, 0, (10, GIB), 0);
    }
    world.runs(2, 1, (10, 4 * GIB), 0);
    world.runs(2, 1, (10, 3 * GIB), 0);
    let room = world.room(1, &spec(10, 3 * GIB)).unwrap();
    assert_eq!(
        (room.host, room.victims.len()),
        (world.hosts[1].id.clone(), 1)
    );
}

#[test]
fn what_no_victim_can_mend_makes_no_victims() {
    let mut world = World::new(1, &[reserving(1, None, 4 * GIB), reserving(2, None, 0)]);
    world.runs(2, 0, (10, 7 * GIB), 0);
    let rule = placing::spec(json!({
        "placement": { "hosts": [model::rule::Rule::parse("zone==elsewhere").unwrap().about_hosts()] },
        "task": { "resources": { "request": { "memory_bytes": 2 * GIB } } },
    }));
    assert_eq!(world.room(1, &rule), None);
}

#[test]
fn a_host_over_its_line_is_relieved_by_who_is_beyond_its_part() {
    let mut world = World::new(1, &[reserving(1, None, 4 * GIB), reserving(2, None, GIB)]);
    world.runs(1, 0, (10, GIB), 0);
    let keeps = world.runs(2, 0, (10, GIB), 7);
    let goes = world.runs(2, 0, (10, GIB), 0);
    let host = world.hosts[0].id.clone();
    let used = [4 * GIB, 2 * GIB, 3 * GIB];
    let mut lodgers = world.lodgers(&host);
    for (lodger, used) in lodgers.iter_mut().zip(used) {
        lodger.memory_used = used;
    }
    let by_pool = BTreeMap::from([(pool_id(1), 4 * GIB), (pool_id(2), 5 * GIB)]);
    let mut pressure = Pressure {
        room: 7 * GIB,
        everywhere: by_pool.clone(),
        used: by_pool,
        entitled: BTreeMap::from([(pool_id(1), 4 * GIB), (pool_id(2), 3 * GIB)]),
    };
    assert_eq!(
        relieve(&world.tree, &pressure, &lodgers),
        std::slice::from_ref(&goes)
    );
    // With room for all nobody goes.
    pressure.room = 9 * GIB;
    assert!(relieve(&world.tree, &pressure, &lodgers).is_empty());
    // What more lacks than borrowers have is not taken from anybody inside its line.
    pressure.room = GIB;
    let victims = relieve(&world.tree, &pressure, &lodgers);
    assert!(
        victims.iter().all(|id| [&keeps, &goes].contains(&id)),
        "{victims:?}"
    );
    // A pool inside its reservation altogether is not a borrower, whatever its part on this host is.
    pressure.everywhere.insert(pool_id(2), GIB / 2);
    assert!(relieve(&world.tree, &pressure, &lodgers).is_empty());
}

#[test]
fn pauses_grow_until_a_workload_was_healthy() {
    let minute = 60_000;
    let (mut displaced, until) = pause(Displaced::default(), Timestamp(0));
    assert_eq!(until, Timestamp(10_000));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let (next, until) = pause(displaced, Timestamp(minute));
        waits.push(until.millis() - minute);
        displaced = next;
    }
    assert!(waits.is_sorted() && waits[0] == 20_000, "{waits:?}");
    assert_eq!(waits.last(), Some(&600_000));
    let (_, until) = pause(displaced, Timestamp(minute * 60));
    assert_eq!(until.millis() - minute * 60, 10_000);
}

#[test]
fn who_was_moved_stays_for_a_while() {
    let mut displaced = Displaced::default();
    assert!(may_move(displaced, Timestamp(0)));
    displaced.moved_at = Some(Timestamp(1000));
    assert!(!may_move(displaced, Timestamp(1000)));
    assert!(!may_move(displaced, Timestamp(300_999)));
    assert!(may_move(displaced, Timestamp(301_000)));
}

#[test]
fn a_victim_has_its_own_time_to_end_but_not_more_than_memory_may_take() {
    let mut workload = placing::workload(1, &spec(1, 1), &placing::host(1).id);
    assert_eq!(grace_seconds(&workload), 5);
    workload.spec.task.stop_grace_seconds = Some(2);
    assert_eq!(grace_seconds(&workload), 2);
}

/// Pool numbers with parents and reservations in GiB; workloads: pool, host, GiB, priority.
fn worlds() -> impl Strategy<Value = World> {
    let pools = prop::collection::vec((0_u8..6, 0_u64..6), 5);
    let workloads = prop::collection::vec((1_u8..6, 0_usize..3, 1_u64..4, -1_i32..2), 0..18);
    (pools, workloads).prop_map(|(shape, runs)| {
        let pools: Vec<Pool> = (1_u8..)
            .zip(shape)
            .map(|(number, (parent, gib))| {
                // Parents have smaller numbers, so that there is no cycle.
                let parent = (parent > 0 && parent < number).then_some(parent);
                reserving(number, parent, gib * GIB)
            })
            .collect();
        let mut world = World::new(3, &pools);
        for (pool, host, gib, priority) in runs {
            let id = world.hosts[host].id.clone();
            let free = world.cluster().free(&id).unwrap();
            if free.fits(Capacity {
                memory: model::MemoryBytes(gib * GIB),
                ..Capacity::default()
            }) {
                world.runs(pool, host, (10, gib * GIB), priority);
            }
        }
        world
    })
}

/// Whether every pool of a workload below the one it has in common with `asking` is beyond its reservation.
fn is_borrower(world: &World, asking: u8, workload: &Workload) -> bool {
    let ledger = world.ledger();
    let tree = &world.tree;
    let at = |pool: &PoolId| tree.index(pool).unwrap();
    let asking: Vec<usize> = tree.upwards(at(&pool_id(asking))).collect();
    let below: Vec<usize> = tree
        .upwards(at(&workload.pool))
        .take_while(|it| !asking.contains(it))
        .collect();
    let memory = QuotaKey::Resource(Resource::Memory);
    !below.is_empty()
        && below
            .iter()
            .all(|at| ledger.book(*at).sum[memory] > tree.nodes[*at].memory.reservation)
}

proptest! {
    #[test]
    fn victims_are_borrowers_and_none_can_be_left_out(world in worlds(), asking in 1_u8..6, gib in 1_u64..7) {
        let spec = spec(10, gib * GIB);
        if let Some(room) = world.room(asking, &spec) {
            let victims: BTreeSet<WorkloadId> = room.victims.iter().cloned().collect();
            prop_assert_eq!(victims.len(), room.victims.len());
            let after = world.without(&victims);
            prop_assert!(after.fits(&room.host, asking, &spec), "room was not made");
            for id in &victims {
                let mut others = victims.clone();
                others.remove(id);
                let spared = world.without(&others);
                prop_assert!(!spared.fits(&room.host, asking, &spec), "a victim was not needed");
                let workload = world.workloads.iter().find(|it| it.id == *id).unwrap();
                prop_assert_eq!(workload.host.as_ref(), Some(&room.host));
                // Also with all the others gone it was beyond its reservation.
                prop_assert!(is_borrower(&spared, asking, workload), "a victim was inside its reservation");
            }
            let again = world.room(asking, &spec);
            prop_assert_eq!(again, Some(room), "the same question has the same answer");
        }
    }

    #[test]
    fn a_start_inside_its_reservation_finds_room_if_only_borrowers_are_in_its_way(
        runs in prop::collection::vec(1_u64..4, 0..6), gib in 1_u64..5,
    ) {
        // Pool 1 has 4 GiB of the one host reserved and uses none; pool 2 has nothing reserved.
        let mut world = World::new(1, &[reserving(1, None, 4 * GIB), reserving(2, None, 0)]);
        let host = world.hosts[0].id.clone();
        for size in runs {
            if world.cluster().free(&host).unwrap().memory.0 >= size * GIB {
                world.runs(2, 0, (10, size * GIB), 0);
            }
        }
        let spec = spec(10, gib * GIB);
        let fits = world.fits(&host, 1, &spec);
        let room = world.room(1, &spec);
        prop_assert_eq!(room.is_some(), gib <= 4 && !fits);
    }
}
