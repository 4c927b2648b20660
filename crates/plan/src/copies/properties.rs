//! Tests of where images are copied to: cases, and properties over random clusters and what happens to them.

use std::collections::{BTreeMap, BTreeSet};

use model::{HostId, ImageId, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;

use super::{
    COPIES, CopyHost, CopyImage, OnlyCopy, Standing, UNDER_WAY, UNDER_WAY_PER_HOST, lacking,
    only_on, orders,
};

#[derive(Debug, Clone)]
struct Host {
    id: HostId,
    zone: String,
    labels: BTreeMap<String, String>,
    standing: Standing,
    connected: bool,
    images: BTreeSet<ImageId>,
    orders: BTreeMap<ImageId, Timestamp>,
}

#[derive(Debug, Clone)]
struct Image {
    id: ImageId,
    bytes: u64,
    from_registry: bool,
    used: bool,
    demands: Vec<Vec<BTreeMap<String, String>>>,
}

/// A cluster, as far as it matters here.
#[derive(Debug, Clone, Default)]
struct World {
    hosts: Vec<Host>,
    images: Vec<Image>,
    now: i64,
}

fn host_id(number: u8) -> HostId {
    HostId::from_bytes(&[number; 32])
}

fn image_id(number: u8) -> ImageId {
    ImageId::parse(&format!("sha256:{}", hex(number).repeat(32))).unwrap()
}

fn hex(number: u8) -> String {
    format!("{number:02x}")
}

fn host(number: u8, zone: &str, images: &[u8]) -> Host {
    Host {
        id: host_id(number),
        zone: zone.into(),
        labels: BTreeMap::new(),
        standing: Standing::Ready,
        connected: true,
        images: images.iter().copied().map(image_id).collect(),
        orders: BTreeMap::new(),
    }
}

fn image(number: u8, bytes: u64) -> Image {
    Image {
        id: image_id(number),
        bytes,
        from_registry: false,
        used: false,
        demands: vec![Vec::new()],
    }
}

fn label(value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("disk".to_owned(), value.to_owned())])
}

type Orders = BTreeMap<HostId, BTreeMap<ImageId, Timestamp>>;

impl World {
    fn with<T>(&self, use_it: impl FnOnce(&[CopyHost<'_>], &[CopyImage<'_>]) -> T) -> T {
        let hosts: Vec<CopyHost<'_>> = self
            .hosts
            .iter()
            .map(|it| CopyHost {
                id: &it.id,
                zone: &it.zone,
                labels: &it.labels,
                standing: it.standing,
                connected: it.connected,
                images: &it.images,
                orders: &it.orders,
            })
            .collect();
        let images: Vec<CopyImage<'_>> = self
            .images
            .iter()
            .map(|it| CopyImage {
                id: &it.id,
                bytes: it.bytes,
                from_registry: it.from_registry,
                demands: it.demands.iter().map(|it| it.iter().collect()).collect(),
            })
            .collect();
        use_it(&hosts, &images)
    }

    fn plan(&self) -> Orders {
        let used = self.images.iter().filter(|it| it.used);
        let used = used.map(|it| it.id.clone()).collect();
        self.with(|hosts, images| orders(hosts, images, &used, Timestamp(self.now)))
    }

    fn lacking(&self) -> BTreeSet<ImageId> {
        self.with(|hosts, images| lacking(hosts, images).into_iter().cloned().collect())
    }

    fn only_on(&self, host: u8) -> BTreeMap<ImageId, OnlyCopy> {
        self.with(|hosts, images| {
            let only = only_on(&host_id(host), hosts, images).into_iter();
            only.map(|(id, fate)| (id.clone(), fate)).collect()
        })
    }

    fn apply(&mut self, orders: &Orders) {
        for host in &mut self.hosts {
            host.orders = orders.get(&host.id).cloned().unwrap_or_default();
        }
    }

    /// Plans and tells the hosts.
    fn round(&mut self) {
        let orders = self.plan();
        self.apply(&orders);
    }

    /// A host has fetched what it was told first.
    fn fetched(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let first = host.orders.iter().min_by_key(|(id, since)| (**since, *id));
        if let Some(id) = first.map(|(id, _)| id.clone())
            && host.connected
        {
            host.images.insert(id);
        }
    }

    fn host(&self, id: &HostId) -> &Host {
        self.hosts.iter().find(|it| it.id == *id).unwrap()
    }

    /// Hosts that have an image and are there to stay.
    fn copies(&self, id: &ImageId) -> usize {
        let there = |it: &&Host| it.standing.counts() && it.images.contains(id);
        self.hosts.iter().filter(there).count()
    }

    fn may_be_on(&self, image: &Image, host: &Host) -> bool {
        let met = |labels: &BTreeMap<String, String>| {
            labels.iter().all(|(k, v)| host.labels.get(k) == Some(v))
        };
        image.demands.iter().any(|pool| pool.iter().all(met))
    }

    fn can_be_had(&self, image: &Image) -> bool {
        let answers = |it: &Host| it.connected && it.standing != Standing::Lost;
        let mut hosts = self.hosts.iter();
        image.from_registry || hosts.any(|it| answers(it) && it.images.contains(&image.id))
    }
}

fn to(orders: &Orders, image: u8) -> Vec<HostId> {
    let has = |it: &&HostId| orders[*it].contains_key(&image_id(image));
    orders.keys().filter(has).cloned().collect()
}

#[test]
fn a_loaded_image_is_copied_to_one_host_in_another_zone_with_few_images() {
    let world = World {
        hosts: vec![
            host(1, "a", &[1]),
            host(2, "a", &[]),
            host(3, "b", &[2, 3]),
            host(4, "b", &[2]),
            host(5, "c", &[3, 2]),
        ],
        images: vec![image(1, 10), image(2, 20), image(3, 30)],
        now: 5,
    };
    let orders = world.plan();
    assert_eq!(
        orders,
        BTreeMap::from([(host_id(4), BTreeMap::from([(image_id(1), Timestamp(5))]))])
    );
    assert_eq!(world.lacking(), BTreeSet::from([image_id(1)]));
}

#[test]
fn one_host_alone_keeps_what_it_has() {
    let world = World {
        hosts: vec![host(1, "", &[1])],
        images: vec![image(1, 10)],
        now: 0,
    };
    assert!(world.plan().is_empty());
    assert!(world.lacking().is_empty());
}

#[test]
fn copies_on_lost_and_leaving_hosts_are_made_up_for() {
    for standing in [Standing::Lost, Standing::Leaving] {
        let mut world = World {
            hosts: vec![host(1, "", &[1]), host(2, "", &[1]), host(3, "", &[])],
            images: vec![image(1, 10)],
            now: 0,
        };
        assert!(world.plan().is_empty());
        world.hosts[0].standing = standing;
        assert_eq!(to(&world.plan(), 1), [host_id(3)], "{standing:?}");
        // It was nothing: the copy is not needed any more.
        world.round();
        world.hosts[0].standing = Standing::Ready;
        assert!(world.plan().is_empty(), "{standing:?}");
    }
}

#[test]
fn the_last_copy_can_still_be_had_from_a_host_that_is_being_emptied() {
    let mut world = World {
        hosts: vec![host(1, "", &[1]), host(2, "", &[]), host(3, "", &[])],
        images: vec![image(1, 10)],
        now: 0,
    };
    world.hosts[0].standing = Standing::Leaving;
    assert_eq!(to(&world.plan(), 1).len(), 2);
    world.hosts[0].connected = false;
    assert!(world.plan().is_empty(), "nobody has it now");
    assert_eq!(world.lacking(), BTreeSet::from([image_id(1)]));
    world.images[0].from_registry = true;
    assert_eq!(to(&world.plan(), 1).len(), 2);
}

#[test]
fn what_would_be_lost_with_a_host_is_what_neither_a_registry_nor_a_host_that_stays_has() {
    let mut pulled = image(3, 10);
    pulled.from_registry = true;
    let mut confined = image(4, 10);
    confined.demands = vec![vec![label("ssd")]];
    let mut world = World {
        hosts: vec![
            host(1, "a", &[1, 2, 3, 4]),
            host(2, "a", &[2]),
            host(3, "b", &[]),
        ],
        images: vec![image(1, 10), image(2, 10), pulled, confined],
        now: 0,
    };
    let leaves = (image_id(1), OnlyCopy::Leaves);
    let stays = (image_id(4), OnlyCopy::Stays);
    let expected = BTreeMap::from([leaves.clone(), stays.clone()]);
    assert_eq!(world.only_on(1), expected);
    assert_eq!(world.only_on(2), BTreeMap::new());
    // A copy on a host that leaves as well is none.
    world.hosts[1].standing = Standing::Leaving;
    let both = (image_id(2), OnlyCopy::Leaves);
    assert_eq!(
        world.only_on(1),
        BTreeMap::from([leaves, both.clone(), stays])
    );
    assert_eq!(world.only_on(2), BTreeMap::new());
    world.hosts[0].standing = Standing::Leaving;
    assert_eq!(world.only_on(2), BTreeMap::from([both]));
    // What cannot be asked any more gives nothing away.
    world.hosts[0].standing = Standing::Lost;
    assert!(world.only_on(1).values().all(|it| *it == OnlyCopy::Stays));
    // Once another host has it, nothing is lost.
    world.hosts[2].images = world.hosts[0].images.clone();
    assert_eq!(world.only_on(1), BTreeMap::new());
}

#[test]
fn cordoned_hosts_keep_copies_and_fetch_only_what_no_other_can() {
    let mut world = World {
        hosts: vec![host(1, "a", &[1]), host(2, "b", &[]), host(3, "a", &[])],
        images: vec![image(1, 10)],
        now: 0,
    };
    world.hosts[1].standing = Standing::Cordoned;
    assert_eq!(to(&world.plan(), 1), [host_id(3)]);
    world.hosts.pop();
    assert_eq!(to(&world.plan(), 1), [host_id(2)]);
    world.hosts[1].images.insert(image_id(1));
    assert!(world.plan().is_empty());
}

#[test]
fn a_pool_that_is_confined_to_hosts_has_its_images_copied_to_those_only() {
    let mut world = World {
        hosts: vec![host(1, "", &[1]), host(2, "", &[]), host(3, "", &[])],
        images: vec![image(1, 10)],
        now: 0,
    };
    world.images[0].demands = vec![vec![label("ssd")]];
    assert!(world.plan().is_empty() && world.lacking().is_empty());
    world.hosts[2].labels = label("ssd");
    assert_eq!(to(&world.plan(), 1), [host_id(3)]);
    // Another pool has it as well, and may use any host.
    world.images[0].demands.push(Vec::new());
    assert_eq!(to(&world.plan(), 1), [host_id(2)]);
}

#[test]
fn what_runs_is_copied_first_then_what_no_registry_has_then_the_smaller() {
    let mut world = World {
        hosts: vec![host(1, "", &[1, 2, 3, 4]), host(2, "", &[])],
        images: vec![image(1, 1), image(2, 2), image(3, 3), image(4, 4)],
        now: 0,
    };
    world.images[0].from_registry = true;
    world.images[3].used = true;
    let mut turns: Vec<Vec<u8>> = Vec::new();
    for _ in 0..2 {
        world.round();
        let told = (1..=4).filter(|it| world.hosts[1].orders.contains_key(&image_id(*it)));
        turns.push(told.collect());
        world.fetched(1);
        world.fetched(1);
        let orders: Vec<ImageId> = world.hosts[1].orders.keys().cloned().collect();
        world.hosts[1].images.extend(orders);
    }
    assert_eq!(turns, [[2, 4], [1, 3]]);
}

#[test]
fn a_host_that_does_not_get_on_is_helped_by_another_one() {
    let mut world = World {
        hosts: vec![host(1, "", &[1, 2]), host(2, "", &[]), host(3, "", &[2])],
        images: vec![image(1, 3_000_000), image(2, 1)],
        now: 0,
    };
    world.round();
    assert_eq!(to(&world.plan(), 1), [host_id(2)]);
    world.now = 600_000;
    assert_eq!(to(&world.plan(), 1), [host_id(2)], "it is large");
    world.now = 603_000;
    world.round();
    assert_eq!(to(&world.plan(), 1), [host_id(2), host_id(3)]);
    world.now = 10_000_000;
    world.round();
    assert_eq!(to(&world.plan(), 1).len(), 2, "they go on");
    world.hosts[2].images.insert(image_id(1));
    assert!(world.plan().is_empty());
}

#[test]
fn only_so_many_images_are_under_way_at_once() {
    let all: Vec<u8> = (1..=80).collect();
    let mut hosts = vec![host(100, "", &all)];
    hosts.extend((0..80).map(|number| host(number, "", &[])));
    let world = World {
        hosts,
        images: all.iter().map(|number| image(*number, 10)).collect(),
        now: 0,
    };
    let under_way = |world: &World| world.plan().values().map(BTreeMap::len).sum::<usize>();
    assert_eq!(under_way(&world), UNDER_WAY);
    let few = World {
        hosts: world.hosts[..4].to_vec(),
        ..world
    };
    assert_eq!(under_way(&few), 3 * UNDER_WAY_PER_HOST);
}

#[test]
fn two_servers_that_told_two_hosts_are_put_right() {
    let mut world = World {
        hosts: vec![host(1, "", &[1]), host(2, "", &[]), host(3, "", &[])],
        images: vec![image(1, 10)],
        now: 9,
    };
    world.hosts[1].orders.insert(image_id(1), Timestamp(8));
    world.hosts[2].orders.insert(image_id(1), Timestamp(7));
    assert_eq!(to(&world.plan(), 1), [host_id(3)]);
}

/// What may happen to a cluster.
#[derive(Debug, Clone)]
enum Happens {
    /// A host has fetched one image.
    Fetched(Index),
    /// Hosts are told.
    Planned,
    /// Time goes by.
    Later(i64),
    Standing(Index, Standing),
    Connected(Index, bool),
    /// A host has lost its disk.
    Emptied(Index),
    /// A host is removed.
    Removed(Index),
    /// A pool gets an image, on one host.
    Loaded(u8, Index),
    /// No pool has an image any more.
    Forgotten(Index),
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        4 => Just(Standing::Ready),
        1 => Just(Standing::Cordoned),
        1 => Just(Standing::Leaving),
        1 => Just(Standing::Lost),
    ]
}

fn world() -> impl Strategy<Value = World> {
    let ids = proptest::collection::btree_set(0u8..12, 0..8);
    let orders = proptest::collection::btree_map(0u8..14, 0i64..2_000_000, 0..4);
    let hosts = (
        0u8..3,
        any::<bool>(),
        standing(),
        any::<bool>(),
        ids,
        orders,
    );
    let hosts = hosts.prop_map(|(zone, ssd, standing, connected, images, orders)| Host {
        zone: format!("z{zone}"),
        labels: if ssd { label("ssd") } else { BTreeMap::new() },
        standing,
        connected,
        images: images.into_iter().map(image_id).collect(),
        orders: orders
            .into_iter()
            .map(|(id, since)| (image_id(id), Timestamp(since)))
            .collect(),
        ..host(0, "", &[])
    });
    let demands = prop_oneof![
        4 => Just(vec![vec![]]),
        1 => Just(vec![vec![label("ssd")]]),
        1 => Just(vec![vec![label("ssd")], vec![BTreeMap::new()]]),
    ];
    let images = (0u64..5_000_000, any::<bool>(), any::<bool>(), demands);
    let hosts = proptest::collection::vec(hosts, 0..7);
    let images = proptest::collection::vec(images, 0..12);
    (hosts, images, 0i64..2_000_000).prop_map(|(mut hosts, images, now)| {
        for (number, host) in (1u8..).zip(&mut hosts) {
            host.id = host_id(number);
        }
        let images = images.into_iter().enumerate();
        let images = images.map(|(number, (bytes, from_registry, used, demands))| Image {
            from_registry,
            used,
            demands,
            ..image(u8::try_from(number).unwrap(), bytes)
        });
        World {
            hosts,
            images: images.collect(),
            now,
        }
    })
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        6 => any::<Index>().prop_map(Happens::Fetched),
        6 => Just(Happens::Planned),
        2 => (0i64..900_000).prop_map(Happens::Later),
        2 => (any::<Index>(), standing()).prop_map(|(at, it)| Happens::Standing(at, it)),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(at, it)| Happens::Connected(at, it)),
        1 => any::<Index>().prop_map(Happens::Emptied),
        1 => any::<Index>().prop_map(Happens::Removed),
        2 => (12u8..30, any::<Index>()).prop_map(|(id, at)| Happens::Loaded(id, at)),
        1 => any::<Index>().prop_map(Happens::Forgotten),
    ]
}

impl World {
    fn happen(&mut self, what: &Happens) {
        let some = |at: &Index, of: usize| (of > 0).then(|| at.index(of));
        let (hosts, images) = (self.hosts.len(), self.images.len());
        match what {
            Happens::Planned => self.round(),
            Happens::Later(millis) => self.now += millis,
            Happens::Fetched(at) => {
                if let Some(at) = some(at, hosts) {
                    self.fetched(at);
                }
            }
            Happens::Standing(at, standing) => {
                if let Some(at) = some(at, hosts) {
                    self.hosts[at].standing = *standing;
                }
            }
            Happens::Connected(at, connected) => {
                if let Some(at) = some(at, hosts) {
                    self.hosts[at].connected = *connected;
                }
            }
            Happens::Emptied(at) => {
                if let Some(at) = some(at, hosts) {
                    self.hosts[at].images.clear();
                }
            }
            Happens::Removed(at) => {
                if let Some(at) = some(at, hosts) {
                    self.hosts.remove(at);
                }
            }
            Happens::Loaded(id, at) => {
                if let Some(at) = some(at, hosts) {
                    self.hosts[at].images.insert(image_id(*id));
                    if !self.images.iter().any(|it| it.id == image_id(*id)) {
                        self.images.push(image(*id, u64::from(*id) * 1000));
                    }
                }
            }
            Happens::Forgotten(at) => {
                if let Some(at) = some(at, images) {
                    self.images.remove(at);
                }
            }
        }
    }

    /// What holds of every plan.
    fn check(&self) -> Result<(), TestCaseError> {
        let orders = self.plan();
        let mut given: BTreeMap<&ImageId, Vec<&HostId>> = BTreeMap::new();
        for (id, told) in &orders {
            let host = self.host(id);
            prop_assert!(host.standing.counts(), "{id} is told something");
            let before = |image: &ImageId| host.orders.get(image);
            let (mut new, mut under_way) = (false, 0);
            for (image, since) in told {
                let known = self.images.iter().find(|it| it.id == *image);
                let Some(known) = known else {
                    prop_assert!(false, "no pool has {image}");
                    continue;
                };
                prop_assert!(!host.images.contains(image), "{id} has {image}");
                prop_assert!(self.may_be_on(known, host), "{image} must not be on {id}");
                match before(image) {
                    Some(earlier) => {
                        prop_assert_eq!(since, earlier);
                    }
                    None => {
                        prop_assert_eq!(*since, Timestamp(self.now));
                        prop_assert!(host.connected && self.can_be_had(known));
                        new = true;
                    }
                }
                let patience = 600_000 + i64::try_from(known.bytes).unwrap() / 1000;
                if since.plus_millis(patience) > Timestamp(self.now) {
                    under_way += 1;
                }
                given.entry(image).or_default().push(id);
            }
            prop_assert!(
                !new || under_way <= UNDER_WAY_PER_HOST,
                "{id} is told {told:?}"
            );
        }
        for (image, hosts) in given {
            let copies = self.copies(image);
            prop_assert!(copies < COPIES, "{image} has {copies} copies");
            let fresh = |id: &&&HostId| orders[**id][image] == Timestamp(self.now);
            prop_assert!(copies + hosts.iter().filter(fresh).count() <= COPIES);
        }
        let mut again = self.clone();
        again.apply(&orders);
        prop_assert_eq!(again.plan(), orders, "planning again changes something");
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_plan_is_sensible_and_stable_whatever_happened(
        mut world in world(),
        events in proptest::collection::vec(happens(), 0..25),
    ) {
        world.check()?;
        for event in &events {
            world.happen(event);
            world.check()?;
        }
    }

    #[test]
    fn when_nothing_more_happens_everything_is_copied_as_often_as_it_can_be_and_no_more(
        mut world in world(),
        events in proptest::collection::vec(happens(), 0..25),
    ) {
        for event in &events {
            world.happen(event);
        }
        // Nobody is away: what is not connected would keep its orders until it is taken as lost.
        for host in &mut world.hosts {
            host.connected = host.standing != Standing::Lost;
        }
        world.round();
        let before = world.clone();
        // Time stands still: nobody becomes slow beside those that are.
        for _ in 0..100 {
            for at in 0..world.hosts.len() {
                world.fetched(at);
            }
            world.round();
        }
        for host in &world.hosts {
            prop_assert!(host.orders.is_empty(), "{} still has orders", host.id);
        }
        for image in &world.images {
            let places = world.hosts.iter().filter(|it| {
                it.standing.counts() && (it.images.contains(&image.id) || world.may_be_on(image, it))
            });
            let wanted = COPIES.min(places.count());
            let (had, has) = (before.copies(&image.id), world.copies(&image.id));
            if world.can_be_had(image) {
                // A host that was slow may have finished along with the one that helped it.
                let slow_ms = super::SLOW_MS.saturating_add_unsigned(image.bytes / super::SLOW_BYTES_PER_MS);
                let slow = |since: &Timestamp| since.plus_millis(slow_ms).0 <= before.now;
                let late = before.hosts.iter().filter(|it| it.orders.get(&image.id).is_some_and(slow)).count();
                let most = wanted.max(had) + late;
                prop_assert!((wanted..=most).contains(&has), "{}: {had} {has} {wanted} {late}", image.id);
                prop_assert!(!world.lacking().contains(&image.id) || has < COPIES);
            } else {
                prop_assert_eq!(had, has);
            }
        }
    }

    #[test]
    fn a_copy_goes_to_another_zone_if_a_host_there_has_time(world in world()) {
        let mut world = world;
        for host in &mut world.hosts {
            host.orders.clear();
            host.connected = true;
            if host.standing == Standing::Cordoned {
                host.standing = Standing::Ready;
            }
        }
        let orders = world.plan();
        for image in &world.images {
            let told: Vec<&Host> = world.hosts.iter()
                .filter(|it| orders.get(&it.id).is_some_and(|it| it.contains_key(&image.id)))
                .collect();
            let holders: Vec<&Host> = world.hosts.iter()
                .filter(|it| it.standing.counts() && it.images.contains(&image.id))
                .collect();
            let zones: BTreeSet<&str> = told.iter().chain(&holders).map(|it| it.zone.as_str()).collect();
            if told.is_empty() || zones.len() == told.len() + holders.len() {
                continue;
            }
            // Two copies in one zone: no host of another zone had time for it.
            let free = world.hosts.iter().find(|it| {
                it.standing == Standing::Ready
                    && !zones.contains(it.zone.as_str())
                    && !it.images.contains(&image.id)
                    && world.may_be_on(image, it)
                    && orders.get(&it.id).is_none_or(|told| told.len() < UNDER_WAY_PER_HOST)
            });
            prop_assert!(free.is_none(), "{} could go to {:?}", image.id, free);
        }
    }
}
