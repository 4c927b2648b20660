//! A cluster that shares its CPU, in three ways.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use model::resources::host_reserve;
use model::{
    Capacity, CpuMillis, Division, Host, HostId, Installation, MemoryBytes, Name, Pool, TaskStatus,
    Timestamp, Workload, WorkloadId, WorkloadSpec,
};
use plan::displace::{Lodger, Pressure, relieve};
use plan::entitle::fair::{self, Part};
use plan::entitle::round::{HostView, Local, round};
use plan::place::{Wanted as Asked, place};
use plan::pools::{HostRoom, Tree};

use super::{POLICY, POOLS, REQUEST_PERCENT, Vm, flow, pool, pool_id, pool_of};
use crate::place::{host, id_bytes};

/// Memory of a host: enough for everything, so that nothing has to go for lack of it.
const MEMORY_BYTES: u64 = 1 << 40;

/// Hosts with VMs on them, and what the pools are.
pub(super) struct Cluster<'a> {
    vms: &'a [Vm],
    hosts: Vec<Host>,
    /// Index of each VM's host.
    places: Vec<usize>,
    /// The VMs as workloads.
    workloads: Vec<Workload>,
    tree: Tree,
}

/// What was wanted in all steps, by pool.
pub(super) struct Wanted {
    pub(super) demand: Vec<u64>,
    /// Of this, what is reserved.
    pub(super) reserved: Vec<u64>,
    /// Of this, what could have been given to all pools together with every VM where it is.
    pub(super) possible: u64,
    /// What the cluster could have given.
    pub(super) capacity: u64,
}

/// What was got in all steps, by pool.
#[derive(Default)]
pub(super) struct Given {
    pub(super) got: Vec<u64>,
    /// Of this, what is reserved.
    pub(super) reserved: Vec<u64>,
    /// How often a host was told something new.
    pub(super) told: u64,
    /// Workloads that had to leave their host.
    pub(super) displaced: u64,
}

impl<'a> Cluster<'a> {
    /// So many hosts that together have so many percent of the sum of all peaks, with every VM in its place.
    pub(super) fn new(vms: &'a [Vm], count: u64, percent: u64) -> Result<Self> {
        let peaks: u64 = vms.iter().map(Vm::peak).sum();
        let room = peaks * percent / 100 / count;
        let mut hosts = Vec::new();
        for number in 0..count {
            hosts.push(host(number, with_reserve(room), MEMORY_BYTES)?);
        }
        let mut sizes = [0; POOLS];
        for (at, vm) in vms.iter().enumerate() {
            sizes[pool_of(at)] += vm.peak();
        }
        let pools = sizes.iter().enumerate();
        let pools = pools.map(|(number, peak)| pool(number, peak * 10_000 / peaks));
        let pools: Vec<Pool> = pools.collect::<Result<_>>()?;
        let labels = BTreeMap::new();
        let rooms: Vec<HostRoom<'_>> = hosts
            .iter()
            .map(|host| HostRoom {
                labels: &labels,
                room: room_of(host),
            })
            .collect();
        let tree = Tree::resolve(&pools, &rooms, &Installation::default());
        let requests: Vec<u64> = vms
            .iter()
            .map(|vm| vm.peak() * percent * REQUEST_PERCENT / 10_000)
            .collect();
        let workloads = workloads(&hosts, &requests)?;
        let place = |workload: &Workload| {
            hosts
                .iter()
                .position(|it| Some(&it.id) == workload.host.as_ref())
        };
        let places = workloads
            .iter()
            .map(|it| place(it).context("a VM has no host"));
        Ok(Self {
            vms,
            places: places.collect::<Result<_>>()?,
            workloads,
            hosts,
            tree,
        })
    }

    /// Number of hosts.
    pub(super) fn hosts(&self) -> usize {
        self.hosts.len()
    }

    fn steps(&self) -> usize {
        self.vms.first().map_or(0, |vm| vm.demand.len())
    }

    /// What is reserved for a pool.
    fn reservation(&self, pool: usize) -> u64 {
        let at = self.tree.index(&pool_id(pool));
        at.map_or(0, |at| self.tree.nodes[at].cpu.reservation)
    }

    /// What each pool wants in a step, by host.
    fn wanted_in(&self, step: usize) -> Vec<Vec<u64>> {
        let mut wanted = vec![vec![0; self.hosts.len()]; POOLS];
        for (at, vm) in self.vms.iter().enumerate() {
            wanted[pool_of(at)][self.places[at]] += vm.demand[step];
        }
        wanted
    }

    /// What was wanted.
    pub(super) fn wanted(&self) -> Wanted {
        let rooms: Vec<u64> = self.hosts.iter().map(|host| room_of(host).cpu.0).collect();
        let mut all = Wanted {
            demand: vec![0; POOLS],
            reserved: vec![0; POOLS],
            possible: 0,
            capacity: rooms.iter().sum::<u64>() * self.steps() as u64,
        };
        for step in 0..self.steps() {
            let wanted = self.wanted_in(step);
            let mut reserved = Vec::new();
            for (pool, hosts) in wanted.iter().enumerate() {
                let demand: u64 = hosts.iter().sum();
                reserved.push(demand.min(self.reservation(pool)));
                all.demand[pool] += demand;
                all.reserved[pool] += reserved[pool];
            }
            all.possible += flow::most(&reserved, &wanted, &rooms);
        }
        all
    }

    /// Every step by what each VM gets in it.
    fn all_steps(&self, mut step: impl FnMut(usize) -> Vec<u64>) -> Given {
        let mut given = Given {
            got: vec![0; POOLS],
            reserved: vec![0; POOLS],
            ..Given::default()
        };
        for number in 0..self.steps() {
            let mut pools = vec![0; POOLS];
            for (at, got) in step(number).into_iter().enumerate() {
                pools[pool_of(at)] += got;
            }
            for (pool, got) in pools.into_iter().enumerate() {
                given.got[pool] += got;
                given.reserved[pool] += got.min(self.reservation(pool));
            }
        }
        given
    }

    /// VMs with a property.
    fn those(&self, pick: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..self.vms.len()).filter(|at| pick(*at)).collect()
    }

    /// Shares between equals, into what each VM gets.
    fn share(&self, amount: u64, vms: &[usize], step: usize, into: &mut [u64]) {
        let parts: Vec<Part> = vms
            .iter()
            .map(|at| Part {
                weight: 1,
                low: 0,
                high: self.vms[*at].demand[step],
            })
            .collect();
        for (at, got) in vms.iter().zip(fair::divide(amount, &parts)) {
            into[*at] = got;
        }
    }

    /// Each pool has a machine of its own.
    pub(super) fn partitions(&self) -> Given {
        self.all_steps(|step| {
            let mut got = vec![0; self.vms.len()];
            for pool in 0..POOLS {
                let vms = self.those(|at| pool_of(at) == pool);
                self.share(self.reservation(pool), &vms, step, &mut got);
            }
            got
        })
    }

    /// Everybody gets the same part of what it wants.
    pub(super) fn no_pools(&self) -> Given {
        self.all_steps(|step| {
            let mut got = vec![0; self.vms.len()];
            for (number, host) in self.hosts.iter().enumerate() {
                let vms = self.those(|at| self.places[at] == number);
                let wanted: Vec<u64> = vms.iter().map(|at| self.vms[*at].demand[step]).collect();
                let shares = fair::in_proportion(room_of(host).cpu.0, &wanted);
                for (at, share) in vms.iter().zip(shares) {
                    got[*at] = share;
                }
            }
            got
        })
    }

    /// Pools lend to each other what they do not need.
    pub(super) fn elastic(&self) -> Given {
        let mut divisions: BTreeMap<HostId, Division> = BTreeMap::new();
        let (mut told, mut displaced) = (0, 0);
        let mut given = self.all_steps(|step| {
            // What is measured is what was wanted, so far as anything was.
            let news = round(&self.tree, &self.views(step.checked_sub(1), &divisions));
            told += news.len() as u64;
            divisions.extend(news);
            displaced += self.displaced(&divisions);
            self.by_weight(step, &divisions)
        });
        (given.told, given.displaced) = (told, displaced);
        given
    }

    /// How many have to leave their host, by the product's own rule.
    fn displaced(&self, divisions: &BTreeMap<HostId, Division>) -> u64 {
        let memory = |host: Option<usize>| {
            let mut used = BTreeMap::new();
            for (at, workload) in self.workloads.iter().enumerate() {
                if host.is_none_or(|host| self.places[at] == host) {
                    *used.entry(workload.pool.clone()).or_default() += self.vms[at].memory;
                }
            }
            used
        };
        let victims = self.hosts.iter().enumerate().map(|(number, host)| {
            let told = divisions.get(&host.id);
            let parts = told.into_iter().flat_map(|told| &told.pools);
            let pressure = Pressure {
                room: room_of(host).memory.0,
                used: memory(Some(number)),
                entitled: parts
                    .filter_map(|(pool, part)| Some((pool.clone(), part.memory_high?.0)))
                    .collect(),
                everywhere: memory(None),
            };
            let lodgers = self.those(|at| self.places[at] == number);
            let lodgers: Vec<Lodger<'_>> = lodgers
                .into_iter()
                .map(|at| Lodger {
                    workload: &self.workloads[at],
                    priority: 0,
                    memory_used: self.vms[at].memory,
                })
                .collect();
            relieve(&self.tree, &pressure, &lodgers).len() as u64
        });
        victims.sum()
    }

    /// The hosts as they stand after a step; `None`: before the first, when nothing is measured.
    fn views<'b>(
        &'b self,
        step: Option<usize>,
        divisions: &'b BTreeMap<HostId, Division>,
    ) -> Vec<HostView<'b>> {
        let view = |(number, host): (usize, &'b Host)| {
            let mut pools: BTreeMap<_, Local> = BTreeMap::new();
            for at in self.those(|at| self.places[at] == number) {
                let local = pools.entry(pool_id(pool_of(at))).or_default();
                local.alive = true;
                let request = self.workloads[at].spec.task.resources.charge();
                local.requests = local.requests.plus(request);
                local.demand.memory.0 += self.vms[at].memory;
                local.demand.cpu.0 += match step {
                    Some(step) => self.vms[at].demand[step],
                    None => request.cpu.0,
                };
            }
            HostView {
                id: &host.id,
                room: room_of(host),
                reachable: true,
                division: divisions.get(&host.id),
                confirmed: true,
                pools,
            }
        };
        self.hosts.iter().enumerate().map(view).collect()
    }

    /// What each VM gets when every host shares by what it was told.
    fn by_weight(&self, step: usize, divisions: &BTreeMap<HostId, Division>) -> Vec<u64> {
        let mut got = vec![0; self.vms.len()];
        for (number, host) in self.hosts.iter().enumerate() {
            let told = divisions.get(&host.id);
            let members: Vec<Vec<usize>> = (0..POOLS)
                .map(|pool| self.those(|at| self.places[at] == number && pool_of(at) == pool))
                .collect();
            let parts = members.iter().enumerate().map(|(pool, vms)| {
                let part = told.and_then(|told| told.pools.get(&pool_id(pool)));
                let part = part.cloned().unwrap_or_default();
                let wanted = vms.iter().map(|at| self.vms[*at].demand[step]).sum();
                Part {
                    weight: u64::from(part.cpu_weight),
                    low: 0,
                    high: part.cpu_limit.map_or(wanted, |limit| limit.0.min(wanted)),
                }
            });
            let parts: Vec<Part> = parts.collect();
            let amounts = fair::divide(room_of(host).cpu.0, &parts);
            for (vms, amount) in members.iter().zip(amounts) {
                self.share(amount, vms, step, &mut got);
            }
        }
        got
    }
}

/// What a host has for pools.
fn room_of(host: &Host) -> Capacity {
    let total = host.status.facts.capacity;
    total.minus(host_reserve(total))
}

/// CPU of which so much is left when the reserve is taken.
fn with_reserve(room: u64) -> u64 {
    let left = |cpu: u64| {
        let total = Capacity {
            cpu: CpuMillis(cpu),
            memory: MemoryBytes(MEMORY_BYTES),
        };
        total.minus(host_reserve(total)).cpu.0
    };
    let mut cpu = room;
    while left(cpu) < room {
        cpu += room - left(cpu);
    }
    cpu
}

/// VMs that ask for so much, each where the product places it, one after the other, the largest first.
fn workloads(hosts: &[Host], requests: &[u64]) -> Result<Vec<Workload>> {
    let mut cluster = plan::place::Cluster::new(hosts);
    let mut workloads = Vec::new();
    let mut order: Vec<(usize, u64)> = requests.iter().copied().enumerate().collect();
    order.sort_by_key(|(number, request)| (std::cmp::Reverse(*request), *number));
    for (number, request) in order {
        let pool = pool_id(pool_of(number));
        let spec: WorkloadSpec = serde_json::from_value(serde_json::json!({
            "task": {
                "image": "vm", "image_id": format!("sha256:{}", "a".repeat(64)),
                "resources": { "request": { "cpu_millis": request, "memory_bytes": 1 } },
            },
        }))?;
        let id = WorkloadId::from_bytes(&id_bytes(number as u64));
        let asked = Asked {
            id: Some(&id),
            pool: &pool,
            spec: &spec,
            architecture: "",
            image_bytes: 0,
            pinned: None,
            policy: POLICY,
            pool_hosts: &[],
            not_on: &[],
            seed: number as u64,
        };
        let placement = place(&cluster, asked);
        let host = placement.host.context(placement.refusal)?;
        let workload = Workload {
            id,
            pool,
            name: Name::parse(&format!("vm{number}"))?,
            spec,
            desired: model::DesiredState::Running,
            run: 1,
            host: Some(host),
            placement: None,
            gpus: Vec::new(),
            hold: None,
            left: Default::default(),
            displaced: Default::default(),
            endpoints: Default::default(),
            status: TaskStatus::default(),
            created_at: Timestamp(0),
        };
        cluster.workload_put(&workload);
        workloads.push((number, workload));
    }
    workloads.sort_by_key(|(number, _)| *number);
    Ok(workloads
        .into_iter()
        .map(|(_, workload)| workload)
        .collect())
}
