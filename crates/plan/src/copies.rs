//! On which hosts images are to be copied, so that none is lost with its host.
//!
//! Start with [`lacking`]: which images are on too few hosts. [`orders`] says which host fetches which of them, and
//! [`only_on`] what would be lost with a host.
//!
//! What always holds: planning again changes nothing; a copy that is wanted already is not moved to another host
//! unless it does not get on; a host is told to fetch only what it does not have; nothing is deleted here, and an image
//! that is on more hosts than wanted stays there.

#[cfg(test)]
mod properties;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::{HostId, ImageId, Timestamp};

/// Complete copies wanted of every image, on as many hosts: one may be lost at any moment.
pub const COPIES: usize = 2;

/// Images one host is told to fetch at once: it fetches one after the other, and need not wait for the next.
pub const UNDER_WAY_PER_HOST: usize = 2;

/// Images all hosts together are told to fetch at once: most of their bytes go through a server.
pub const UNDER_WAY: usize = 32;

/// How long a host may take, in milliseconds, before another one is told as well: its disk may be full.
const SLOW_MS: i64 = 10 * 60 * 1000;

/// Bytes of an image for which a host may take a millisecond longer: about a megabyte in a second.
const SLOW_BYTES_PER_MS: u64 = 1000;

/// Of one image, orders that may stay with hosts that do not get on with it: what two of them cannot fetch, others
/// will hardly be able to.
const SLOW_PER_IMAGE: usize = 2;

/// Orders one host may have, those it does not get on with included: each makes its document longer.
const PER_HOST_MAX: usize = 32;

/// What may be asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Anything.
    Ready,
    /// What it has counts; it fetches only what no other host can.
    Cordoned,
    /// It is being emptied: what it has may be taken from it, and does not count.
    Leaving,
    /// What it has is taken as gone.
    Lost,
}

impl Standing {
    /// Whether a copy on the host is one to rely on.
    fn counts(self) -> bool {
        match self {
            Standing::Ready | Standing::Cordoned => true,
            Standing::Leaving | Standing::Lost => false,
        }
    }
}

/// A host, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct CopyHost<'a> {
    /// Which.
    pub id: &'a HostId,
    /// Failure domain.
    pub zone: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// What may be asked of it.
    pub standing: Standing,
    /// Whether it can be told something, and asked for what it has.
    pub connected: bool,
    /// Images that are complete there, by its own word.
    pub images: &'a BTreeSet<ImageId>,
    /// What it is told to fetch, each with when it was first told.
    pub orders: &'a BTreeMap<ImageId, Timestamp>,
}

/// An image that some pool has.
#[derive(Debug, Clone)]
pub struct CopyImage<'a> {
    /// Which.
    pub id: &'a ImageId,
    /// Bytes of its layers.
    pub bytes: u64,
    /// Whether it can be fetched from a registry again.
    pub from_registry: bool,
    /// For every pool that has it, the labels that the pool and those above it demand of hosts. It is copied to hosts
    /// of one of its pools only.
    pub demands: Vec<Vec<&'a BTreeMap<String, String>>>,
}

impl CopyImage<'_> {
    /// Whether one of its pools may use the host.
    fn may_be_on(&self, host: &CopyHost<'_>) -> bool {
        let has = |(key, value): (&String, &String)| host.labels.get(key) == Some(value);
        self.demands
            .iter()
            .any(|demands| demands.iter().all(|labels| labels.iter().all(has)))
    }

    /// How long a host may take for it, in milliseconds.
    fn slow_ms(&self) -> i64 {
        SLOW_MS.saturating_add_unsigned(self.bytes / SLOW_BYTES_PER_MS)
    }
}

/// Images that are on fewer hosts than wanted: two, or as many as there are for them.
#[must_use]
pub fn lacking<'a>(hosts: &[CopyHost<'_>], images: &[CopyImage<'a>]) -> BTreeSet<&'a ImageId> {
    let holders = Holders::of(hosts);
    let lacks = |image: &&CopyImage<'a>| {
        let counts = |host: &CopyHost<'_>| host.standing.counts() && host.images.contains(image.id);
        // Also hosts that are lost or being emptied are places where a copy should be.
        holders.counted(image.id, hosts).count() < COPIES
            && hosts.iter().any(|it| image.may_be_on(it) && !counts(it))
    };
    images.iter().filter(lacks).map(|image| image.id).collect()
}

/// What can be done about an image that would be lost with its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlyCopy {
    /// Another host can fetch it: it has to be waited for.
    Leaves,
    /// No other host that stays may have it, or none can be reached: waiting does not help.
    Stays,
}

/// Images that would be lost with a host: no registry has them, and no other host that stays.
#[must_use]
pub fn only_on<'a>(
    host: &HostId,
    hosts: &[CopyHost<'_>],
    images: &[CopyImage<'a>],
) -> BTreeMap<&'a ImageId, OnlyCopy> {
    let Some(there) = hosts.iter().find(|it| it.id == host) else {
        return BTreeMap::new();
    };
    let others = || {
        let others = hosts.iter().filter(|it| it.id != host);
        others.filter(|it| it.standing.counts())
    };
    let only = |image: &&CopyImage<'a>| {
        !image.from_registry
            && there.images.contains(image.id)
            && !others().any(|it| it.images.contains(image.id))
    };
    let answers = there.connected && there.standing != Standing::Lost;
    let fate = |image: &CopyImage<'_>| {
        if answers && others().any(|it| it.connected && image.may_be_on(it)) {
            OnlyCopy::Leaves
        } else {
            OnlyCopy::Stays
        }
    };
    let only = images.iter().filter(only);
    only.map(|image| (image.id, fate(image))).collect()
}

/// Everything hosts are to be told to fetch, each order with when it was first given; hosts without orders are left
/// out. `used` are images that run somewhere: their turn comes first, then that of what no registry has, then that of
/// the smaller.
#[must_use]
pub fn orders(
    hosts: &[CopyHost<'_>],
    images: &[CopyImage<'_>],
    used: &BTreeSet<ImageId>,
    now: Timestamp,
) -> BTreeMap<HostId, BTreeMap<ImageId, Timestamp>> {
    let mut round = Round::new(hosts, images, now);
    for image in images {
        round.keep(image);
    }
    let mut turns: Vec<&CopyImage<'_>> = images.iter().collect();
    turns.sort_by_key(|it| (!used.contains(it.id), it.from_registry, it.bytes, it.id));
    for image in turns {
        round.add(image);
    }
    round.given()
}

/// Whether a copy on the host would be one more to rely on.
fn could_have(host: &CopyHost<'_>, image: &CopyImage<'_>) -> bool {
    host.standing.counts() && !host.images.contains(image.id) && image.may_be_on(host)
}

/// Which hosts say that they have an image.
struct Holders<'a>(HashMap<&'a ImageId, Vec<usize>>);

impl<'a> Holders<'a> {
    fn of(hosts: &[CopyHost<'a>]) -> Self {
        let mut holders: HashMap<&ImageId, Vec<usize>> = HashMap::new();
        for (at, host) in hosts.iter().enumerate() {
            for image in host.images {
                holders.entry(image).or_default().push(at);
            }
        }
        Self(holders)
    }

    fn all(&self, image: &ImageId) -> &[usize] {
        self.0.get(image).map_or(&[], Vec::as_slice)
    }

    fn counted(&self, image: &ImageId, hosts: &[CopyHost<'_>]) -> impl Iterator<Item = usize> {
        let all = self.all(image).iter().copied();
        all.filter(|at| hosts[*at].standing.counts())
    }
}

/// An order of one host.
#[derive(Debug, Clone, Copy)]
struct Order {
    since: Timestamp,
    /// The host does not get on with it.
    slow: bool,
}

/// One planning: first what is kept of the orders there are, then what is added.
struct Round<'a, 'b> {
    hosts: &'b [CopyHost<'a>],
    now: Timestamp,
    holders: Holders<'a>,
    /// Hosts that have an order for an image by now.
    asked: HashMap<&'a ImageId, Vec<usize>>,
    /// Bytes of the images of each host, those it fetches included.
    bytes: Vec<u64>,
    given: Vec<BTreeMap<ImageId, Order>>,
    under_way: usize,
}

impl<'a, 'b> Round<'a, 'b> {
    fn new(hosts: &'b [CopyHost<'a>], images: &[CopyImage<'_>], now: Timestamp) -> Self {
        let size: HashMap<&ImageId, u64> = images.iter().map(|it| (it.id, it.bytes)).collect();
        let size = |id: &ImageId| size.get(id).copied().unwrap_or(0);
        let mut asked: HashMap<&ImageId, Vec<usize>> = HashMap::new();
        for (at, host) in hosts.iter().enumerate() {
            for image in host.orders.keys() {
                asked.entry(image).or_default().push(at);
            }
        }
        let bytes = |host: &CopyHost<'_>| host.images.iter().map(size).sum();
        Self {
            hosts,
            now,
            holders: Holders::of(hosts),
            asked,
            bytes: hosts.iter().map(bytes).collect(),
            given: vec![BTreeMap::new(); hosts.len()],
            under_way: 0,
        }
    }

    /// How many copies are missing, orders not counted.
    fn missing(&self, image: &CopyImage<'_>) -> usize {
        let there = self.holders.counted(image.id, self.hosts).count();
        let missing = COPIES.saturating_sub(there);
        let places = self.hosts.iter().filter(|host| could_have(host, image));
        places.take(missing).count()
    }

    /// Orders that go on: as many as copies are missing, the older first, and some of those that do not get on.
    fn keep(&mut self, image: &CopyImage<'_>) {
        let Some(asked) = self.asked.get(image.id).cloned() else {
            return;
        };
        let missing = self.missing(image);
        let mut orders: Vec<(Timestamp, usize)> = Vec::new();
        for at in asked {
            let host = &self.hosts[at];
            if let Some(since) = host.orders.get(image.id)
                && could_have(host, image)
            {
                orders.push((*since, at));
            }
        }
        orders.sort_by_key(|(since, at)| (*since, self.hosts[*at].id));
        let slow = |since: Timestamp| since.plus_millis(image.slow_ms()) <= self.now;
        let (late, good): (Vec<_>, Vec<_>) = orders.into_iter().partition(|it| slow(it.0));
        let late = late.into_iter().rev().take(missing * SLOW_PER_IMAGE);
        for (since, at) in late {
            self.give(image, at, Order { since, slow: true });
        }
        for (since, at) in good.into_iter().take(missing) {
            self.give(image, at, Order { since, slow: false });
        }
    }

    fn give(&mut self, image: &CopyImage<'_>, at: usize, order: Order) {
        self.given[at].insert(image.id.clone(), order);
        self.bytes[at] = self.bytes[at].saturating_add(image.bytes);
        if !order.slow {
            self.under_way += 1;
        }
    }

    /// New orders for what is missing still.
    fn add(&mut self, image: &CopyImage<'_>) {
        if self.under_way >= UNDER_WAY || !self.can_be_had(image) {
            return;
        }
        let missing = self.missing(image);
        while self.under_way < UNDER_WAY {
            let orders = |slow| {
                let of = self.given.iter().filter_map(|it| it.get(image.id));
                of.filter(|it| it.slow == slow).count()
            };
            if orders(false) >= missing || orders(true) >= SLOW_PER_IMAGE * missing {
                return;
            }
            let Some(at) = self.best(image) else {
                return;
            };
            let since = self.now;
            self.give(image, at, Order { since, slow: false });
        }
    }

    /// Whether a host that fetches it has somewhere to fetch it from.
    fn can_be_had(&self, image: &CopyImage<'_>) -> bool {
        let answers = |at: &usize| {
            let host = &self.hosts[*at];
            host.connected && host.standing != Standing::Lost
        };
        image.from_registry || self.holders.all(image.id).iter().any(answers)
    }

    /// The host to fetch it: not cordoned, one that gets on, in a zone that has no copy, with few bytes of images.
    fn best(&self, image: &CopyImage<'_>) -> Option<usize> {
        let counted = self.holders.counted(image.id, self.hosts);
        let coming = (0..self.hosts.len()).filter(|at| self.given[*at].contains_key(image.id));
        let zones: BTreeSet<&str> = counted
            .chain(coming)
            .map(|at| self.hosts[at].zone)
            .collect();
        let free = |at: &usize| {
            let (host, given) = (&self.hosts[*at], &self.given[*at]);
            let under_way = given.values().filter(|it| !it.slow).count();
            host.connected
                && could_have(host, image)
                && !given.contains_key(image.id)
                && under_way < UNDER_WAY_PER_HOST
                && given.len() < PER_HOST_MAX
        };
        (0..self.hosts.len()).filter(free).min_by_key(|at| {
            let host = &self.hosts[*at];
            (
                host.standing == Standing::Cordoned,
                self.given[*at].values().any(|it| it.slow),
                zones.contains(host.zone),
                self.bytes[*at],
                host.id,
            )
        })
    }

    fn given(self) -> BTreeMap<HostId, BTreeMap<ImageId, Timestamp>> {
        let since = |orders: BTreeMap<ImageId, Order>| {
            let orders = orders.into_iter();
            orders.map(|(image, order)| (image, order.since)).collect()
        };
        self.hosts
            .iter()
            .zip(self.given)
            .filter(|(_, orders)| !orders.is_empty())
            .map(|(host, orders)| (host.id.clone(), since(orders)))
            .collect()
    }
}
