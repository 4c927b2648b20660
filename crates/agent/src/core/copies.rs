//! Images that the document wants fetched although no workload here needs them: one at a time, in the background.

use std::collections::BTreeMap;

use model::{ImageId, Timestamp};
use plan::steps::{Fetch, FetchFailure, copy_fits, next_fetch};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::apply::chain;
use super::{Core, Event};
use crate::background::Patient;
use crate::driver::{DriverError, ErrorClass};

/// What is fetched, and what could not be.
#[derive(Default)]
pub(super) struct Copies {
    under_way: Option<UnderWay>,
    failures: BTreeMap<ImageId, FetchFailure>,
    /// When the next one that failed is tried again.
    pub(super) again_at: Option<Timestamp>,
}

struct UnderWay {
    image: ImageId,
    cancel: CancellationToken,
    task: tokio::task::Id,
}

impl Core {
    /// Begins to fetch the next image if none is under way; ends what is not wanted any more.
    pub(super) fn check_copies(&mut self) {
        let wanted = &self.desired.fetch_images;
        self.copies.failures.retain(|id, _| wanted.contains_key(id));
        self.copies.again_at = None;
        if let Some(under_way) = &self.copies.under_way {
            if self.removed || !wanted.contains_key(&under_way.image) {
                under_way.cancel.cancel();
            }
            return;
        }
        if self.removed {
            return;
        }
        let now = self.clock.now();
        match next_fetch(&self.desired, &self.complete, &self.copies.failures, now) {
            Fetch::Nothing => {}
            Fetch::Wait(at) => self.copies.again_at = Some(at),
            Fetch::Now(id) => self.fetch_copy(id),
        }
    }

    fn fetch_copy(&mut self, id: ImageId) {
        let Some(image) = self.desired.fetch_images.get(&id).cloned() else {
            return;
        };
        debug!(image = %id, "begin to fetch a copy");
        let cancel = CancellationToken::new();
        let cancelled = cancel.clone();
        let context = self.context.clone();
        let told = id.clone();
        let fetch = async move {
            let (progress, nobody) = mpsc::channel(1);
            drop(nobody);
            let relay = context.relay.clone();
            let fetch = async {
                let relay = Patient::begin(relay, context.urgent.clone(), &image).await;
                let images = &context.drivers.images;
                if images.room().is_some_and(|room| !copy_fits(&image, room)) {
                    let why = "too little of the disk would be left free";
                    return Err(DriverError::new(ErrorClass::Full, why));
                }
                // Once complete it stays without a lease: it is deleted by order only.
                images.ensure(&image, &relay, progress).await.map(drop)
            };
            let result = tokio::select! {
                result = fetch => Some(result),
                () = cancelled.cancelled() => None,
            };
            let event = Event::CopyEnded { id: told, result };
            let _ = context.events.send(event).await;
        };
        let task = self.jobs.spawn(fetch).id();
        self.copies.under_way = Some(UnderWay {
            image: id,
            cancel,
            task,
        });
    }

    /// A fetch has ended; `None`: it was given up.
    pub(super) fn copy_ended(&mut self, id: &ImageId, result: Option<Result<(), DriverError>>) {
        self.copies.under_way = None;
        match result {
            None => {}
            Some(Ok(())) => {
                info!(image = %id, "fetched a copy");
                self.copies.failures.remove(id);
                self.images_changed();
            }
            Some(Err(e)) => {
                warn!(image = %id, error = %chain(&e), "cannot fetch a copy, trying again later");
                self.copy_failed(id);
            }
        }
        self.check_copies();
    }

    fn copy_failed(&mut self, id: &ImageId) {
        let last = self.clock.now();
        let times = self.copies.failures.get(id).map_or(0, |it| it.times);
        let failure = FetchFailure {
            times: times.saturating_add(1),
            last,
        };
        self.copies.failures.insert(id.clone(), failure);
    }

    /// A server can be reached: what failed for the lack of one need not wait.
    pub(super) fn retry_copies(&mut self) {
        self.copies.failures.clear();
        self.check_copies();
    }

    /// Whether a task that ended by a defect was a fetch.
    pub(super) fn copy_panicked(&mut self, task: tokio::task::Id) {
        let under_way = self.copies.under_way.as_ref();
        if let Some(id) = under_way
            .filter(|it| it.task == task)
            .map(|it| it.image.clone())
        {
            warn!(image = %id, "fetching a copy ended by a defect");
            self.copies.under_way = None;
            self.copy_failed(&id);
            self.check_copies();
        }
    }
}
