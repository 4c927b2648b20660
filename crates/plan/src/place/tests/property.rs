//! The fast way decides as the exhaustive one.

use super::super::search::{exhaustive, fast, place_with};
use super::super::*;
use super::*;
use proptest::prelude::*;
use serde_json::json;

const HOSTS: u64 = 150;

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Event {
    /// A workload of this shape is placed and put.
    Place(Shape),
    /// One of those there is removed.
    Remove(usize),
    /// A host is cordoned or made ready, loses its link or gets it back, or gets an image.
    Host(u64, u8),
}

/// The parameters of a workload.
#[derive(Debug, Clone)]
struct Shape {
    cpu: u64,
    memory: u64,
    app: u8,
    rules: u8,
    gpu: u8,
    pack: bool,
    seed: u64,
}

fn shape() -> impl Strategy<Value = Shape> {
    let numbers = (0..6_u64, 0..6_u64, 0..4_u8, any::<u8>(), 0..6_u8);
    (numbers, any::<bool>(), any::<u64>()).prop_map(
        |((cpu, memory, app, rules, gpu), pack, seed)| Shape {
            cpu: cpu * 250,
            memory: memory << 29,
            app,
            rules,
            gpu,
            pack,
            seed,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => shape().prop_map(Event::Place),
        2 => any::<usize>().prop_map(Event::Remove),
        1 => (0..HOSTS, 0..5_u8).prop_map(|(host, what)| Event::Host(host, what)),
    ]
}

fn spec_of(shape: &Shape) -> WorkloadSpec {
    let app = format!("a{}", shape.app);
    let bit = |at: u8| shape.rules >> at & 1 == 1;
    let strength = |at: u8| if bit(at) { "should" } else { "must" };
    let mut hosts = Vec::new();
    if bit(0) {
        hosts.push(json!({"attribute": {"of": "label", "key": "disk"}, "values": ["s*"], "strength": strength(1)}));
    }
    let mut affinities = Vec::new();
    if bit(2) {
        let to = json!({"what": "label", "key": "app", "value": app});
        affinities.push(json!({"to": to, "direction": "away", "strength": strength(3)}));
    }
    if bit(4) && bit(5) {
        let to = json!({"what": "label", "key": "app", "value": "a0"});
        affinities.push(json!({"to": to, "within": "zone", "strength": strength(6)}));
    }
    let mut placement = json!({"hosts": hosts, "affinities": affinities});
    if bit(7) {
        placement["spread"] = json!(app);
    }
    let mut task =
        json!({"resources": {"cpu_limit_millis": shape.cpu, "memory_limit": shape.memory}});
    task["gpus"] = match shape.gpu {
        1 => json!({"count": 1, "millis": 300}),
        2 => json!({"count": 1, "millis": 700, "models": ["T4"]}),
        3 => json!({"count": 2}),
        _ => json!(null),
    };
    spec(json!({"labels": {"app": app}, "placement": placement, "task": task}))
}

fn start() -> Vec<Host> {
    let mut hosts: Vec<Host> = (0..HOSTS).map(host).collect();
    for (number, host) in (0..).zip(&mut hosts) {
        host.zone = format!("z{}", number % 3);
        if number % 4 == 0 {
            host.labels.insert("disk".into(), "ssd".into());
        }
        if number % 5 == 0 {
            host.status.facts.gpus = gpus(number, if number % 2 == 0 { "T4" } else { "V100" }, 3);
        }
        if number % 7 == 0 {
            host.status.facts.capacity.cpu = CpuMillis(8000);
        }
    }
    hosts
}

struct World {
    hosts: Vec<Host>,
    there: Vec<Workload>,
    cluster: Cluster,
    next: u64,
}

impl World {
    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Place(shape) => self.place(shape)?,
            Event::Remove(at) => {
                if !self.there.is_empty() {
                    let gone = self.there.swap_remove(at % self.there.len());
                    self.cluster.workload_remove(&gone.id);
                }
            }
            Event::Host(number, what) => {
                let image = spec(json!({})).task.image_id;
                let host = &mut self.hosts[usize::try_from(*number).unwrap()];
                match what {
                    0 => host.cordoned = !host.cordoned,
                    1 => host.status.connected = !host.status.connected,
                    2 => {
                        host.status.images.insert(image);
                    }
                    3 => host.status.images.clear(),
                    _ => host.overcommit.cpu_percent = 130,
                }
                self.cluster.host_put(host);
            }
        }
        Ok(())
    }

    fn place(&mut self, shape: &Shape) -> Result<(), TestCaseError> {
        let (pool, spec) = (pool(), spec_of(shape));
        let wanted = Wanted {
            policy: if shape.pack {
                Policy::Pack
            } else {
                Policy::Balance
            },
            image_bytes: 100 << 20,
            ..wanted(&pool, &spec, shape.seed)
        };
        let quick = place_with(&self.cluster, wanted, fast);
        let slow = place_with(&self.cluster, wanted, exhaustive);
        prop_assert_eq!(&quick, &slow, "the fast way decides as the exhaustive one");
        let again = self.rebuilt();
        prop_assert_eq!(
            &place(&again, wanted),
            &quick,
            "how the cluster came to be makes no difference"
        );
        let explained = explain(&self.cluster, wanted);
        let name = chosen(&quick, &self.hosts);
        prop_assert_eq!(&explained.chosen, &name);
        for host in &explained.hosts {
            let fits = matches!(host.verdict, Verdict::Fits(_));
            prop_assert!(fits || Some(&host.name) != name.as_ref());
            prop_assert!(!fits || name.is_some());
        }
        if let Some(id) = &quick.host {
            let mut placed = workload(self.next, &spec, id);
            placed.gpus = quick.gpus;
            self.next += 1;
            self.cluster.workload_put(&placed);
            self.there.push(placed);
        }
        Ok(())
    }

    /// The same cluster made at once, in another order.
    fn rebuilt(&self) -> Cluster {
        let mut cluster = Cluster::new(self.hosts.iter().rev());
        for workload in self.there.iter().rev() {
            cluster.workload_put(workload);
        }
        cluster
    }

    /// No host has more than its room, no device more than itself, no port twice.
    fn check(&self) -> Result<(), TestCaseError> {
        for host in &self.hosts {
            let on: Vec<&Workload> = self
                .there
                .iter()
                .filter(|w| w.host.as_ref() == Some(&host.id))
                .collect();
            let charged = on.iter().fold(Capacity::default(), |sum, w| {
                sum.plus(w.spec.task.resources.charge())
            });
            prop_assert!(host.room().fits(charged));
            let mut taken = BTreeMap::<&str, u32>::new();
            for share in on.iter().flat_map(|w| &w.gpus) {
                *taken.entry(&share.uuid).or_default() += share.millis;
            }
            prop_assert!(taken.values().all(|millis| *millis <= 1000));
            for workload in on.iter().filter(|w| w.spec.task.gpus.is_some()) {
                let request = workload.spec.task.gpus.as_ref().unwrap();
                prop_assert_eq!(workload.gpus.len(), request.count as usize);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_way_decides_as_the_exhaustive_one(events in proptest::collection::vec(event(), 1..60)) {
        let hosts = start();
        let mut world = World { cluster: Cluster::new(&hosts), hosts, there: Vec::new(), next: 1000 };
        for event in &events {
            world.apply(event)?;
        }
        world.check()?;
    }
}
