//! The controller that keeps every image on enough hosts: it tells hosts which images to fetch, and takes that back.
//!
//! Level triggered: every look is at the newest snapshot; what a host is to fetch is on its record
//! ([`Host::fetch_images`]), so that a server goes on where another one stopped, and both say the same. What is
//! decided by two servers at once is put right by the next look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::{Host, HostId, Image, ImageId, Object, PoolId};
pub use plan::copies::OnlyCopy;
use plan::copies::{CopyHost, CopyImage, Standing, lacking, only_on, orders};
use store::{CommitError, Snapshot, Transaction, WatchError};
use tokio::task::JoinHandle;

use crate::caller::{Action, Caller, Scope, ancestors};
use crate::core::{Control, now};
use crate::error::Result;

/// Time between two looks if nothing happens: a host that does not get on is noticed by time alone.
const TICK: Duration = Duration::from_secs(10);

/// Least pause between two looks: what happens at once is seen together.
const PAUSE: Duration = Duration::from_millis(100);

/// A pause is at least this many times what the last look took.
const PAUSE_TIMES: u32 = 20;

/// Starts looking after copies of images; goes on until the store is closed, or the task is aborted.
pub fn keep_copies(control: &Control) -> JoinHandle<()> {
    let control = control.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let Ok(mut watch) = control.store().watch(control.snapshot().revision) else {
            return;
        };
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                event = watch.next() => match event {
                    Ok(event) if event.changes.iter().any(|change| matters(change.key().kind())) => {}
                    Ok(_) => continue,
                    Err(WatchError::Closed) => return,
                    Err(WatchError::Compacted { .. } | WatchError::Lagged { .. }) => {
                        match control.store().watch(control.snapshot().revision) {
                            Ok(anew) => watch = anew,
                            Err(_) => return,
                        }
                    }
                },
            }
            let begin = std::time::Instant::now();
            if let Err(error) = control.keep_copies_once().await {
                tracing::warn!(
                    ?error,
                    "could not look after copies of images, trying again"
                );
            }
            tokio::time::sleep(PAUSE.max(begin.elapsed() * PAUSE_TIMES)).await;
        }
    })
}

fn matters(kind: model::Kind) -> bool {
    match kind {
        model::Kind::Host | model::Kind::Image => true,
        // A pool's hosts change rarely enough for the tick.
        model::Kind::Pool
        | model::Kind::Workload
        | model::Kind::Principal
        | model::Kind::AccessToken
        | model::Kind::JoinToken
        | model::Kind::Setting
        | model::Kind::DroppedImage
        | model::Kind::Installation
        | model::Kind::Division
        | model::Kind::Network => false,
    }
}

impl Control {
    /// One look: hosts are told what they are to fetch from now on.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn keep_copies_once(&self) -> Result<()> {
        let snapshot = self.snapshot();
        let wanted = decide(&snapshot);
        let grant = self.own_grant(Action::HostManage)?;
        for row in snapshot.hosts() {
            let wanted = wanted.get(&row.id).cloned().unwrap_or_default();
            if wanted == row.fetch_images {
                continue;
            }
            let changed = Host {
                fetch_images: wanted,
                ..row.value().clone()
            };
            // Each host by itself: what one of them reports meanwhile does not hold up the others.
            let tx = Transaction::new().update(row.revision(), Object::Host(changed));
            match self.commit(&grant, tx).await {
                // The next look is at what it has become.
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// How many images are on fewer hosts than wanted: two, or as many as there are for them.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn images_lacking_copies(&self, caller: &Caller) -> Result<usize> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::HostRead, Scope::Installation)?;
        Ok(with_views(&snapshot, |hosts, images| {
            lacking(hosts, images).len()
        }))
    }

    /// How many hosts have all of an image, those that are lost not counted.
    #[must_use]
    pub fn hosts_with_image(&self, id: &ImageId) -> usize {
        let has = |host: &Host| host.status.lost_at.is_none() && host.status.images.contains(id);
        self.snapshot().hosts().filter(|host| has(host)).count()
    }
}

/// An image that would be lost with a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlyImage {
    /// Which.
    pub id: ImageId,
    /// The pool that had it first; others may have it, too.
    pub pool: PoolId,
    /// A name it goes by there, as people write it; its id if it has none.
    pub name: String,
    /// Whether another host can still fetch it.
    pub fate: OnlyCopy,
}

/// Images that would be lost with a host, by name.
pub(crate) fn lost_with(snapshot: &Snapshot, host: &HostId) -> Vec<OnlyImage> {
    let only: BTreeMap<ImageId, OnlyCopy> = with_views(snapshot, |hosts, images| {
        let only = only_on(host, hosts, images).into_iter();
        only.map(|(id, fate)| (id.clone(), fate)).collect()
    });
    if only.is_empty() {
        return Vec::new();
    }
    let mut first: BTreeMap<&ImageId, &Image> = BTreeMap::new();
    for row in snapshot.images().filter(|row| only.contains_key(&row.id)) {
        let record: &Image = row.value();
        let known = first.entry(&record.id).or_insert(record);
        if (record.added_at, &record.pool) < (known.added_at, &known.pool) {
            *known = record;
        }
    }
    let image = |(id, record): (&ImageId, &Image)| OnlyImage {
        id: id.clone(),
        pool: record.pool.clone(),
        name: shown_name(record),
        fate: only.get(id).copied().unwrap_or(OnlyCopy::Stays),
    };
    let mut images: Vec<OnlyImage> = first.into_iter().map(image).collect();
    images.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    images
}

fn shown_name(image: &Image) -> String {
    let names = image.tags.iter().chain(&image.digests);
    let mut parsed = names.filter_map(|it| model::ImageReference::parse(it).ok());
    let first = parsed.next();
    first.map_or_else(|| image.id.to_string(), |it| it.familiar())
}

/// What hosts are to fetch.
fn decide(snapshot: &Snapshot) -> BTreeMap<HostId, BTreeMap<ImageId, model::Timestamp>> {
    with_views(snapshot, |hosts, images| {
        if lacking(hosts, images).is_empty() {
            return BTreeMap::new();
        }
        let used = snapshot.workloads().filter(|it| it.takes_room());
        let used = used.map(|it| it.spec.task.image_id.clone()).collect();
        orders(hosts, images, &used, now())
    })
}

/// The words of `plan` for a snapshot.
fn with_views<T>(
    snapshot: &Snapshot,
    use_them: impl FnOnce(&[CopyHost<'_>], &[CopyImage<'_>]) -> T,
) -> T {
    let hosts: Vec<CopyHost<'_>> = snapshot.hosts().map(|row| view(row.value())).collect();
    let mut demands: BTreeMap<&PoolId, Vec<&BTreeMap<String, String>>> = BTreeMap::new();
    let mut images: BTreeMap<&ImageId, CopyImage<'_>> = BTreeMap::new();
    for row in snapshot.images() {
        let record: &Image = row.value();
        let of_pool = demands.entry(&record.pool).or_insert_with(|| {
            ancestors(snapshot, &record.pool)
                .filter_map(|id| Some(&snapshot.pool(&id)?.value().slice.hosts))
                .filter(|labels| !labels.is_empty())
                .collect()
        });
        let image = images.entry(&record.id).or_insert_with(|| CopyImage {
            id: &record.id,
            bytes: 0,
            from_registry: false,
            demands: Vec::new(),
        });
        image.bytes = image.bytes.max(bytes(record));
        image.from_registry |= record.source.is_some();
        // One that may be anywhere is enough.
        if of_pool.is_empty() {
            image.demands = vec![Vec::new()];
        } else if image.demands.first().is_none_or(|it| !it.is_empty()) {
            image.demands.push(of_pool.clone());
        }
    }
    let images: Vec<CopyImage<'_>> = images.into_values().collect();
    use_them(&hosts, &images)
}

fn bytes(image: &Image) -> u64 {
    image.content.layers.iter().map(|it| it.blob_bytes).sum()
}

fn view(host: &Host) -> CopyHost<'_> {
    let standing = if host.status.lost_at.is_some() {
        Standing::Lost
    } else if host.drain.is_some() {
        Standing::Leaving
    } else if host.cordoned {
        Standing::Cordoned
    } else {
        Standing::Ready
    };
    CopyHost {
        id: &host.id,
        zone: &host.zone,
        labels: &host.labels,
        standing,
        connected: host.status.connected,
        images: &host.status.images,
        orders: &host.fetch_images,
    }
}

/// What hosts are told of the images that they are to fetch; hosts without any are left out.
pub(crate) fn told<'a>(
    hosts: impl Iterator<Item = &'a Host>,
    snapshot: &Snapshot,
) -> BTreeMap<HostId, BTreeMap<ImageId, Arc<Image>>> {
    let asked: Vec<&Host> = hosts.filter(|it| !it.fetch_images.is_empty()).collect();
    if asked.is_empty() {
        return BTreeMap::new();
    }
    let ids: BTreeSet<&ImageId> = asked.iter().flat_map(|it| it.fetch_images.keys()).collect();
    let mut records: BTreeMap<&ImageId, Vec<&Image>> = BTreeMap::new();
    for row in snapshot.images().filter(|row| ids.contains(&row.id)) {
        let record: &Image = row.value();
        records.entry(&record.id).or_default().push(record);
    }
    let records: BTreeMap<&ImageId, Arc<Image>> = records
        .into_iter()
        .filter_map(|(id, of)| Some((id, Arc::new(plan::lower::fetch_image(of.into_iter())?))))
        .collect();
    let of_host = |host: &&Host| {
        let images = host.fetch_images.keys();
        // Of what no pool has any more nothing is told, even before the record says so.
        let images = images.filter_map(|id| Some((id.clone(), records.get(id)?.clone())));
        (host.id.clone(), images.collect())
    };
    asked.iter().map(of_host).collect()
}
