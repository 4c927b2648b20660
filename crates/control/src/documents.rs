//! Sends hosts their desired state, and follows the store for everybody who waits.
//!
//! The document of a host is a function of the snapshot (`plan::lower`); its generation is the revision of that
//! snapshot, so that two servers on one store send the same document under the same number.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{
    Host, HostDesired, HostId, HostLoss, HostPool, HostWorkload, Image, ImageConfig, ImageContent,
    ImageId, Object, Platform, Pool, PoolId, Resource, Workload, WorkloadId,
};
use store::{Change, Event, Revision, Snapshot, Stored as _, Versioned, WatchError};
use wire::link::{DesiredUpdate, ToHost};

use crate::admission::installation;
use crate::caller::ancestors;
use crate::core::Control;
use crate::error::ErrorKind;
use crate::maintenance::{HostCondition, condition};

/// Pause before it is tried again to record that a host is connected.
const SAY_AGAIN: Duration = Duration::from_millis(500);

/// What each connected host was told last.
#[derive(Default)]
pub(crate) struct Documents {
    told: Mutex<HashMap<HostId, HostDesired>>,
}

impl Documents {
    fn lock(&self) -> MutexGuard<'_, HashMap<HostId, HostDesired>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn forget(&self, host: &HostId) {
        self.lock().remove(host);
    }
}

/// What a host must know of a workload, by the snapshot; `None`: nothing.
fn lowered(snapshot: &Snapshot, host: &HostId, workload: &Workload) -> Option<Arc<HostWorkload>> {
    let left = workload.left.contains_key(host);
    if !left && (workload.host.as_ref() != Some(host) || !plan::lower::concerns_host(workload)) {
        return None;
    }
    let pool = snapshot.pool(&workload.pool)?;
    let mut above: Vec<PoolId> = ancestors(snapshot, &pool.id).skip(1).collect();
    above.reverse();
    let at_most_one = crate::loss::answer(snapshot, workload) == HostLoss::AtMostOne;
    let lost_after_ms = installation(snapshot)
        .host_loss_seconds
        .saturating_mul(1000);
    let to = plan::lower::Belonging {
        pool: &pool,
        above,
        endpoints: crate::segments::endpoints(snapshot, workload),
        lost_after_ms: at_most_one.then_some(lost_after_ms),
        bounded: ancestors(snapshot, &pool.id)
            .any(|id| snapshot.pool(&id).is_some_and(|pool| is_limited(&pool))),
    };
    let record = snapshot.image(&workload.pool, &workload.spec.task.image_id);
    let without = record
        .is_none()
        .then(|| image_without_record(&pool, workload));
    let image = record.map(|row| row.value()).or(without.as_ref())?;
    Some(Arc::new(if left {
        plan::lower::left_workload(workload, to, image)
    } else {
        plan::lower::host_workload(workload, to, image)
    }))
}

/// A workload that is being removed may outlive its image's record; its host needs no content to remove it.
fn image_without_record(pool: &Pool, workload: &Workload) -> Image {
    let id = workload.spec.task.image_id.clone();
    Image {
        content: ImageContent {
            config: id.clone(),
            config_bytes: 0,
            layers: Vec::new(),
        },
        id,
        pool: pool.id.clone(),
        tags: BTreeSet::new(),
        digests: BTreeSet::new(),
        config: ImageConfig {
            platform: Platform {
                architecture: String::new(),
                os: String::new(),
            },
            created: None,
            env: Vec::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            user: String::new(),
            working_dir: String::new(),
            exposed_ports: BTreeSet::new(),
            volumes: BTreeSet::new(),
            labels: BTreeMap::new(),
            stop_signal: None,
            size_bytes: 0,
            history: Vec::new(),
        },
        source: None,
        added_at: workload.created_at,
    }
}

pub(crate) fn whole(snapshot: &Snapshot, host: &Host) -> HostDesired {
    let workloads: BTreeMap<WorkloadId, Arc<HostWorkload>> = snapshot
        .workloads_on(&host.id)
        .chain(snapshot.workloads_left_on(&host.id))
        .filter_map(|workload| {
            let lowered = lowered(snapshot, &host.id, &workload)?;
            Some((workload.id.clone(), lowered))
        })
        .collect();
    HostDesired {
        generation: snapshot.revision.0,
        workloads,
        drop_images: Drops::of(snapshot).on(host),
        fetch_images: crate::copies::told([host].into_iter(), snapshot)
            .remove(&host.id)
            .unwrap_or_default(),
        pools: parts(snapshot, &host.id),
        networks: crate::segments::networks(snapshot, &host.id),
    }
}

/// What is said of images that are to be deleted.
struct Drops {
    orders: BTreeMap<ImageId, u64>,
    in_pools: BTreeSet<ImageId>,
}

impl Drops {
    fn of(snapshot: &Snapshot) -> Self {
        let orders: BTreeMap<ImageId, u64> = snapshot
            .dropped_images()
            .map(|image| (image.id.clone(), image.revision().0))
            .collect();
        let in_pools = snapshot
            .images()
            .filter(|image| orders.contains_key(&image.id))
            .map(|image| image.id.clone())
            .collect();
        Self { orders, in_pools }
    }

    fn on(&self, host: &Host) -> BTreeMap<ImageId, u64> {
        plan::lower::drop_images(host, &self.orders, &self.in_pools)
    }
}

/// What of each pool the host may give.
fn parts(snapshot: &Snapshot, host: &HostId) -> BTreeMap<PoolId, HostPool> {
    snapshot
        .division(host)
        .map(|division| division.pools.clone())
        .unwrap_or_default()
}

impl Control {
    /// Tells a host everything.
    pub(crate) fn send_whole_document(&self, host: &HostId) {
        let mut told = self.inner.documents.lock();
        let snapshot = self.snapshot();
        let Some(record) = snapshot.host(host) else {
            return;
        };
        let document = whole(&snapshot, &record);
        let update = DesiredUpdate::whole(&document);
        if self.inner.hub.send(host, ToHost::Desired(update)) {
            told.insert(host.clone(), document);
        }
    }

    /// Tells hosts what an event changes for them.
    fn update_documents(&self, snapshot: &Snapshot, event: &Event, memory: &Memory) {
        let mut told = self.inner.documents.lock();
        if told.is_empty() {
            return;
        }
        let mut pending: HashMap<HostId, DesiredUpdate> = HashMap::new();
        for change in event.changes.iter() {
            match change {
                Change::Put(versioned) => {
                    if let Some(workload) = Workload::of(&versioned.object) {
                        let before = memory.workload(&workload.id);
                        for host in before.into_iter().flat_map(concerned) {
                            if !concerned(workload).any(|it| it == host) {
                                remove(&mut pending, &told, host, &workload.id);
                            }
                        }
                        for host in concerned(workload) {
                            upsert(&mut pending, &told, snapshot, host, workload);
                        }
                    }
                }
                Change::Delete { last, .. } => {
                    if let Some(workload) = Workload::of(&last.object) {
                        for host in concerned(workload) {
                            remove(&mut pending, &told, host, &workload.id);
                        }
                    }
                }
            }
        }
        part_updates(&mut pending, &told, snapshot, event);
        crate::segments::updates(&mut pending, &told, snapshot, event, memory);
        if memory.pools_mean_else(event) {
            pool_updates(&mut pending, &told, snapshot);
        }
        if touches_images(event) {
            image_updates(&mut pending, &told, snapshot);
        }
        for (host, mut update) in pending {
            let Some(document) = told.get_mut(&host) else {
                continue;
            };
            if event.revision.0 <= document.generation {
                continue;
            }
            update.base = Some(document.generation);
            update.generation = event.revision.0;
            document.generation = event.revision.0;
            for (id, workload) in &update.upsert {
                document.workloads.insert(id.clone(), Arc::clone(workload));
            }
            for id in &update.remove {
                document.workloads.remove(id);
            }
            document.drop_images.clone_from(&update.drop_images);
            if let Some(images) = &update.fetch_images {
                document.fetch_images.clone_from(images);
            }
            if let Some(pools) = &update.pools {
                document.pools.clone_from(pools);
            }
            for (id, change) in &update.networks {
                change.apply(id, &mut document.networks);
            }
            if !self.inner.hub.send(&host, ToHost::Desired(update)) {
                told.remove(&host);
            }
        }
    }
}

/// The hosts that are told something of a workload: its own, and those it was taken away from.
fn concerned(workload: &Workload) -> impl Iterator<Item = &HostId> {
    workload.host.iter().chain(workload.left.keys())
}

/// Tells hosts what must never run twice and what limits bound, after that has changed for whole pools.
fn pool_updates(
    pending: &mut HashMap<HostId, DesiredUpdate>,
    told: &HashMap<HostId, HostDesired>,
    snapshot: &Snapshot,
) {
    for host in told.keys() {
        for workload in snapshot.workloads_on(host) {
            upsert(pending, told, snapshot, host, &workload);
        }
    }
}

pub(crate) fn entry<'a>(
    pending: &'a mut HashMap<HostId, DesiredUpdate>,
    told: &HostDesired,
    host: &HostId,
) -> &'a mut DesiredUpdate {
    pending
        .entry(host.clone())
        .or_insert_with(|| DesiredUpdate {
            drop_images: told.drop_images.clone(),
            ..DesiredUpdate::default()
        })
}

fn upsert(
    pending: &mut HashMap<HostId, DesiredUpdate>,
    told: &HashMap<HostId, HostDesired>,
    snapshot: &Snapshot,
    host: &HostId,
    workload: &Workload,
) {
    let Some(document) = told.get(host) else {
        return;
    };
    let Some(lowered) = lowered(snapshot, host, workload) else {
        return;
    };
    if document.workloads.get(&workload.id) != Some(&lowered) {
        let update = entry(pending, document, host);
        update.remove.remove(&workload.id);
        update.upsert.insert(workload.id.clone(), lowered);
    }
}

fn remove(
    pending: &mut HashMap<HostId, DesiredUpdate>,
    told: &HashMap<HostId, HostDesired>,
    host: &HostId,
    id: &WorkloadId,
) {
    let Some(document) = told.get(host) else {
        return;
    };
    if document.workloads.contains_key(id) {
        let update = entry(pending, document, host);
        update.upsert.remove(id);
        update.remove.insert(id.clone());
    }
}

/// Tells hosts of their new parts of pools.
fn part_updates(
    pending: &mut HashMap<HostId, DesiredUpdate>,
    told: &HashMap<HostId, HostDesired>,
    snapshot: &Snapshot,
    event: &Event,
) {
    for change in event.changes.iter() {
        let model::Key::Division(host) = change.key() else {
            continue;
        };
        let Some(document) = told.get(&host) else {
            continue;
        };
        let wanted = parts(snapshot, &host);
        if wanted != document.pools {
            entry(pending, document, &host).pools = Some(wanted);
        }
    }
}

fn touches_images(event: &Event) -> bool {
    event
        .changes
        .iter()
        .any(|change| match change.key().kind() {
            model::Kind::Host | model::Kind::DroppedImage | model::Kind::Image => true,
            model::Kind::Pool
            | model::Kind::Workload
            | model::Kind::Principal
            | model::Kind::AccessToken
            | model::Kind::JoinToken
            | model::Kind::Setting
            | model::Kind::Installation
            | model::Kind::Division
            | model::Kind::Network => false,
        })
}

fn image_updates(
    pending: &mut HashMap<HostId, DesiredUpdate>,
    told: &HashMap<HostId, HostDesired>,
    snapshot: &Snapshot,
) {
    let drops = Drops::of(snapshot);
    let hosts = told.keys().filter_map(|id| snapshot.host(id));
    let mut fetches = crate::copies::told(hosts.map(|host| host.value()), snapshot);
    for (id, document) in told {
        let Some(host) = snapshot.host(id) else {
            continue;
        };
        let wanted = drops.on(&host);
        if wanted != document.drop_images {
            entry(pending, document, id).drop_images = wanted;
        }
        let wanted = fetches.remove(id).unwrap_or_default();
        if wanted != document.fetch_images {
            entry(pending, document, id).fetch_images = Some(wanted);
        }
    }
}

/// Hosts that an event says something of.
enum Touched {
    All,
    Some(BTreeSet<HostId>),
}

impl Touched {
    fn includes(&self, id: &HostId) -> bool {
        match self {
            Touched::All => true,
            Touched::Some(hosts) => hosts.contains(id),
        }
    }
}

/// What the follower remembers of workloads and hosts to tell what an event changed.
#[derive(Default)]
pub(crate) struct Memory {
    workloads: HashMap<WorkloadId, Arc<Versioned>>,
    hosts: HashMap<HostId, Arc<Versioned>>,
    /// Hosts in maintenance, and whether nothing ran on them when they were looked at last.
    maintained: BTreeMap<HostId, bool>,
    /// What of pools is told to hosts with their workloads.
    pools: HashMap<PoolId, Meaning>,
    /// After how long a host is lost, in seconds.
    host_loss_seconds: u32,
    /// Where hosts are reached by others.
    underlays: HashMap<HostId, Ipv4Addr>,
}

impl Memory {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            workloads: snapshot
                .workloads()
                .map(|workload| (workload.id.clone(), Arc::clone(workload.versioned())))
                .collect(),
            hosts: snapshot
                .hosts()
                .map(|host| (host.id.clone(), Arc::clone(host.versioned())))
                .collect(),
            maintained: snapshot
                .hosts()
                .filter(|host| host.drain.is_some())
                .map(|host| (host.id.clone(), is_drained(snapshot, &host)))
                .collect(),
            pools: snapshot
                .pools()
                .map(|pool| (pool.id.clone(), meaning_of(&pool)))
                .collect(),
            host_loss_seconds: installation(snapshot).host_loss_seconds,
            underlays: snapshot
                .hosts()
                .filter_map(|host| Some((host.id.clone(), host.status.facts.underlay?)))
                .collect(),
        }
    }

    /// Whether an event changes what hosts are told of whole pools' workloads.
    fn pools_mean_else(&self, event: &Event) -> bool {
        event.changes.iter().any(|change| match change {
            Change::Put(versioned) => match &versioned.object {
                Object::Pool(pool) => self
                    .pools
                    .get(&pool.id)
                    .is_some_and(|known| *known != meaning_of(pool)),
                Object::Installation(it) => it.host_loss_seconds != self.host_loss_seconds,
                _ => false,
            },
            Change::Delete { .. } => false,
        })
    }

    /// The workload as it was before the event.
    pub(crate) fn workload(&self, id: &WorkloadId) -> Option<&Workload> {
        Workload::of(&self.workloads.get(id)?.object)
    }

    /// Where a host was reached by others before the event.
    pub(crate) fn underlay(&self, host: &HostId) -> Option<Ipv4Addr> {
        self.underlays.get(host).copied()
    }

    /// The host as it was before the event.
    pub(crate) fn host(&self, id: &HostId) -> Option<&Host> {
        Host::of(&self.hosts.get(id)?.object)
    }

    /// Hosts that an event may have emptied; to be asked before it is applied.
    fn touched_by(&self, event: &Event) -> Touched {
        let mut hosts = BTreeSet::new();
        for change in event.changes.iter() {
            let (kind, object) = match change {
                Change::Put(versioned) => (change.key().kind(), &versioned.object),
                Change::Delete { last, .. } => (change.key().kind(), &last.object),
            };
            // A host or an image says something of all hosts: where copies of images are.
            if matches!(kind, model::Kind::Host | model::Kind::Image) {
                return Touched::All;
            }
            if let Some(workload) = Workload::of(object) {
                let before = self.workload(&workload.id).into_iter();
                hosts.extend(before.flat_map(concerned).cloned());
                hosts.extend(concerned(workload).cloned());
            }
        }
        Touched::Some(hosts)
    }

    /// Hosts in maintenance on which nothing runs any more since the event.
    fn drained_by(&mut self, snapshot: &Snapshot, touched: &Touched) -> Vec<Host> {
        let mut news = Vec::new();
        for (id, was) in &mut self.maintained {
            if !touched.includes(id) {
                continue;
            }
            let Some(host) = snapshot.host(id) else {
                continue;
            };
            let is = match condition(snapshot, &host) {
                HostCondition::Drained => true,
                HostCondition::Draining | HostCondition::Ready | HostCondition::Cordoned => false,
                // Switched off for its maintenance: nothing new.
                HostCondition::Unreachable | HostCondition::Lost => *was,
            };
            if is && !*was {
                news.push(host.value().clone());
            }
            *was = is;
        }
        news
    }

    fn apply(&mut self, event: &Event) {
        for change in event.changes.iter() {
            match change {
                Change::Put(versioned) => {
                    if let Some(host) = Host::of(&versioned.object) {
                        self.hosts.insert(host.id.clone(), Arc::clone(versioned));
                        if host.drain.is_some() {
                            self.maintained.entry(host.id.clone()).or_default();
                        } else {
                            self.maintained.remove(&host.id);
                        }
                    }
                    if let Some(workload) = Workload::of(&versioned.object) {
                        self.workloads
                            .insert(workload.id.clone(), Arc::clone(versioned));
                    }
                    match &versioned.object {
                        Object::Pool(pool) => {
                            self.pools.insert(pool.id.clone(), meaning_of(pool));
                        }
                        Object::Installation(it) => self.host_loss_seconds = it.host_loss_seconds,
                        Object::Host(host) => match host.status.facts.underlay {
                            Some(at) => {
                                self.underlays.insert(host.id.clone(), at);
                            }
                            None => {
                                self.underlays.remove(&host.id);
                            }
                        },
                        _ => {}
                    }
                }
                Change::Delete { last, .. } => {
                    if let Some(workload) = Workload::of(&last.object) {
                        self.workloads.remove(&workload.id);
                    }
                    if let Some(host) = Host::of(&last.object) {
                        self.hosts.remove(&host.id);
                        self.maintained.remove(&host.id);
                    }
                }
            }
        }
    }
}

/// Whether a host is in maintenance and nothing runs on it.
fn is_drained(snapshot: &Snapshot, host: &Host) -> bool {
    condition(snapshot, host) == HostCondition::Drained
}

/// Whose slice a pool is, what it says of lost hosts, and whether it has a limit.
type Meaning = (Option<PoolId>, Option<HostLoss>, bool);

fn meaning_of(pool: &Pool) -> Meaning {
    let loss = pool.slice.on_host_loss;
    (pool.parent.clone(), loss, is_limited(pool))
}

/// Whether a pool has a limit of its own.
fn is_limited(pool: &Pool) -> bool {
    let slice = &pool.slice;
    let own = Resource::ALL.map(|resource| slice.portion(resource).limit.is_some());
    own.contains(&true) || (slice.hard && slice.size.is_some())
}

/// Starts the task that follows the store: documents first, then waiters, then events.
///
/// The watch is open before this returns: nothing that is committed afterwards is missed.
pub(crate) fn follow_store(control: &Control) {
    let control = control.clone();
    let Some(mut following) = Following::begin(&control) else {
        return;
    };
    control.inner.leases.told_up_to(following.from);
    tokio::spawn(async move {
        loop {
            match following.watch.next().await {
                Ok(event) => {
                    control.take_event(&event, &mut following.memory);
                    control.inner.leases.told_up_to(event.revision);
                }
                Err(WatchError::Closed) => return,
                Err(WatchError::Compacted { .. } | WatchError::Lagged { .. }) => {
                    tracing::warn!("fell behind the store: sending all hosts their whole document");
                    let Some(anew) = Following::begin(&control) else {
                        return;
                    };
                    following = anew;
                    let hosts: Vec<HostId> =
                        control.inner.documents.lock().keys().cloned().collect();
                    for host in hosts {
                        control.send_whole_document(&host);
                    }
                    control.inner.leases.told_up_to(following.from);
                    control.inner.hub.forget_unknown(&control.snapshot());
                    control.inner.waiters.wake_all();
                }
            }
        }
    });
}

/// Where the follower is.
struct Following {
    /// Revision of the snapshot it began with.
    from: Revision,
    watch: store::Watch,
    memory: Memory,
}

impl Following {
    /// From the newest snapshot on; `None` when the store is closed.
    fn begin(control: &Control) -> Option<Self> {
        loop {
            let snapshot = control.snapshot();
            match control.store().watch(snapshot.revision) {
                Ok(watch) => {
                    return Some(Self {
                        from: snapshot.revision,
                        watch,
                        memory: Memory::of(&snapshot),
                    });
                }
                Err(WatchError::Closed) => return None,
                Err(WatchError::Compacted { .. } | WatchError::Lagged { .. }) => {}
            }
        }
    }
}

impl Control {
    fn take_event(&self, event: &Event, memory: &mut Memory) {
        let snapshot = self.snapshot();
        self.update_documents(&snapshot, event, memory);
        for change in event.changes.iter() {
            match change {
                Change::Put(versioned) => {
                    if let Some(workload) = Workload::of(&versioned.object) {
                        self.inner.waiters.wake(&workload.id);
                    }
                    if let Some(host) = Host::of(&versioned.object) {
                        self.keep_host_connected(host);
                    }
                }
                Change::Delete { last, .. } => {
                    if let Some(workload) = Workload::of(&last.object) {
                        self.inner.waiters.remember(&workload.id, Arc::clone(last));
                        self.inner.waiters.wake(&workload.id);
                    }
                    if Host::of(&last.object).is_some() {
                        self.inner.hub.forget_unknown(&snapshot);
                    }
                }
            }
        }
        self.inner.events.derive(&snapshot, event, memory);
        self.follow_pools(event);
        let touched = memory.touched_by(event);
        memory.apply(event);
        for host in memory.drained_by(&snapshot, &touched) {
            self.inner.events.host(&host, "drained", &[]);
        }
    }

    /// Another server may have recorded a host as gone that has a link to this one.
    fn keep_host_connected(&self, host: &Host) {
        if host.status.connected || !self.inner.hub.is_connected(&host.id) {
            return;
        }
        let (control, id) = (self.clone(), host.id.clone());
        tokio::spawn(async move {
            // Until it is said or no longer true: nobody else knows of the link, and the host would be taken as lost.
            while control.inner.hub.is_connected(&id) {
                let said = control.host_change(&id, |host| {
                    host.status.connected = true;
                    host.status.lost_at = None;
                });
                match said.await {
                    Err(error)
                        if matches!(error.kind, ErrorKind::Full | ErrorKind::Unavailable) =>
                    {
                        tokio::time::sleep(SAY_AGAIN).await;
                    }
                    Ok(_) | Err(_) => return,
                }
            }
        });
    }
}
