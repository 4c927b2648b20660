//! Images that are coming in by a pull or load, and images that are being deleted, each aware of the other.
//!
//! What always holds: while an import is held its images are not deleted; a hold begins only when no deletion of them
//! is under way; what ends without the server's answer counts as recorded until a newer document says otherwise.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::ImageId;
use plan::steps::Import;
use tokio::sync::watch;

/// Shared by the owner, who deletes, and the streams that bring images in. Bounded by the imports since the last
/// document.
#[derive(Debug, Default)]
pub struct Imports {
    state: Mutex<State>,
    /// Told when an import has ended, for the owner.
    ended: watch::Sender<u64>,
    /// Told when a deletion has ended, for imports.
    freed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    imports: BTreeMap<ImageId, Import>,
    dropping: BTreeSet<ImageId>,
    generation: u64,
}

/// Imported images that wait for the server's answer; they are not deleted while this lives.
pub(crate) struct Hold {
    imports: Arc<Imports>,
    images: BTreeSet<ImageId>,
    recorded: Option<u64>,
    /// The driver's own lease, given back first.
    lease: Option<Box<dyn Any + Send + Sync>>,
}

/// A deletion under way; over when this is dropped.
#[derive(Debug)]
pub(crate) struct Dropping {
    imports: Arc<Imports>,
    image: ImageId,
}

impl Imports {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told when an import has ended: an order that waited may count now.
    pub(crate) fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    /// What is known of each import.
    pub(crate) fn known(&self) -> BTreeMap<ImageId, Import> {
        self.lock().imports.clone()
    }

    /// A document of this generation is at hand.
    pub(crate) fn document(&self, generation: u64) {
        let mut state = self.lock();
        state.generation = generation;
        let imports = std::mem::take(&mut state.imports);
        state.imports = imports
            .into_iter()
            .filter_map(|(id, import)| Some((id, import.after_document(generation)?)))
            .collect();
    }

    /// Holds images that a driver has just brought in and leases. Waits for deletions of them that began before: the
    /// lease makes them fail.
    pub(crate) async fn hold(
        self: &Arc<Self>,
        images: BTreeSet<ImageId>,
        lease: Box<dyn Any + Send + Sync>,
    ) -> Hold {
        let mut freed = self.freed.subscribe();
        {
            let mut state = self.lock();
            for id in &images {
                state.imports.entry(id.clone()).or_default().under_way += 1;
            }
        }
        let hold = Hold {
            imports: self.clone(),
            images,
            recorded: None,
            lease: Some(lease),
        };
        // The sender lives in `self`: this ends only when the condition holds.
        let free = |_: &u64| self.lock().dropping.is_disjoint(&hold.images);
        let _ = freed.wait_for(free).await;
        hold
    }

    /// Begins to delete an image by an order; `None`: that is under way, or an import has voided the order by now.
    pub(crate) fn begin_drop(self: &Arc<Self>, image: &ImageId, order: u64) -> Option<Dropping> {
        let mut state = self.lock();
        let void = state.imports.get(image).is_some_and(|it| it.voids(order));
        if void || !state.dropping.insert(image.clone()) {
            return None;
        }
        drop(state);
        Some(Dropping {
            imports: self.clone(),
            image: image.clone(),
        })
    }
}

impl Hold {
    /// The server has recorded the images at this revision.
    pub(crate) fn recorded(mut self, revision: u64) {
        self.recorded = Some(revision);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.lease = None;
        {
            let mut state = self.imports.lock();
            let generation = state.generation;
            for id in &self.images {
                let import = state.imports.entry(id.clone()).or_default();
                import.under_way = import.under_way.saturating_sub(1);
                match self.recorded {
                    Some(revision) => import.recorded = import.recorded.max(revision),
                    None => import.unsure_in = Some(generation),
                }
            }
        }
        self.imports.ended.send_modify(|n| *n += 1);
    }
}

impl Drop for Dropping {
    fn drop(&mut self) {
        self.imports.lock().dropping.remove(&self.image);
        self.imports.freed.send_modify(|n| *n += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_import_waits_for_a_deletion_that_began_before_and_keeps_others_from_beginning() {
        let image = ImageId::parse(&format!("sha256:{}", "a".repeat(64))).unwrap();
        let imports: Arc<Imports> = Arc::default();
        let dropping = imports.begin_drop(&image, 4).unwrap();
        let hold = imports.hold(BTreeSet::from([image.clone()]), Box::new(()));
        tokio::pin!(hold);
        assert!(futures::poll!(&mut hold).is_pending());
        drop(dropping);
        let hold = hold.await;
        assert!(
            imports.begin_drop(&image, 5).is_none(),
            "it waits for the server"
        );
        hold.recorded(7);
        assert!(
            imports.begin_drop(&image, 7).is_none(),
            "an order from before"
        );
        assert!(imports.begin_drop(&image, 8).is_some());
    }
}
