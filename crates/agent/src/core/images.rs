//! Dropping images that the document names and nothing uses.

use std::collections::BTreeSet;

use model::{DesiredState, ImageId};
use plan::steps;
use tracing::{info, warn};

use super::apply::chain;
use super::{Core, Event};
use crate::driver::DriverError;

/// Wait before an image that could not be dropped is tried again.
const DROP_AGAIN_MS: i64 = 30_000;

impl Core {
    pub(super) fn images_changed(&mut self) {
        let complete = self.drivers.images.complete();
        if complete == self.complete {
            return;
        }
        self.complete = complete;
        for outbox in &self.outboxes {
            outbox.images(&self.complete);
        }
        self.check_images();
        self.check_copies();
    }

    /// Images that a workload of the document still needs.
    fn images_in_use(&self) -> BTreeSet<ImageId> {
        self.entries
            .values()
            .filter_map(|entry| {
                let want = entry.want.as_ref()?;
                let over = want.desired == DesiredState::Removed && entry.memory.removed;
                (!over).then(|| want.image.id.clone())
            })
            .collect()
    }

    pub(super) fn check_images(&mut self) {
        let named = |id| self.desired.drop_images.contains_key(id);
        if !self.told || !self.complete.iter().any(named) {
            return;
        }
        let in_use = self.images_in_use();
        let strangers = self
            .entries
            .values()
            .any(|e| e.want.is_none() && e.observed.is_some());
        let known = self.imports.known();
        for id in steps::images_to_drop(&self.desired, &self.complete, &in_use, &known, strangers) {
            let order = self.desired.drop_images.get(&id).copied().unwrap_or(0);
            let Some(dropping) = self.imports.begin_drop(&id, order) else {
                continue;
            };
            let images = self.drivers.images.clone();
            let events = self.context.events.clone();
            let in_use = in_use.clone();
            self.jobs.spawn(async move {
                let result = images.drop_image(&id, &in_use).await;
                let event = Event::ImageDropped {
                    id,
                    result,
                    dropping,
                };
                let _ = events.send(event).await;
            });
        }
    }

    pub(super) fn image_dropped(&mut self, id: &ImageId, result: Result<(), DriverError>) {
        match result {
            Ok(()) => {
                info!(image = %id, "image dropped");
                self.images_changed();
            }
            Err(e) => {
                warn!(image = %id, error = %chain(&e), "cannot drop image");
                self.drop_again_at = Some(self.clock.now().plus_millis(DROP_AGAIN_MS));
            }
        }
    }
}
