//! Which images a host deletes, and which it fetches although none of its workloads needs them: decided here only.
//!
//! What always holds: an image goes only by an order that is younger than every import of it which the order may have
//! crossed on its way. Not knowing counts against the order. What is to be fetched is not deleted.

use std::collections::{BTreeMap, BTreeSet};

use model::{HostDesired, Image, ImageId, Timestamp};

/// What a host knows of an image that was pulled or loaded to it.
///
/// The order to delete an image and the import of the same image take different ways, so one may overtake the other.
/// The server puts an end to that by its store: every order and every recorded import has a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Import {
    /// Imports that the server has not answered yet.
    pub under_way: u32,
    /// Revision at which the server has recorded the newest one; 0: none.
    pub recorded: u64,
    /// Generation of the host's document when one ended without the server's answer: whether it is recorded is not
    /// known before a newer document has come.
    pub unsure_in: Option<u64>,
}

impl Import {
    /// Whether it makes an order of this revision void.
    #[must_use]
    pub fn voids(&self, order: u64) -> bool {
        self.under_way > 0 || self.unsure_in.is_some() || order <= self.recorded
    }

    /// What is still worth knowing once a document of this generation is at hand; `None`: nothing. A document says
    /// all that was recorded up to its generation.
    #[must_use]
    pub fn after_document(self, generation: u64) -> Option<Self> {
        let left = Self {
            under_way: self.under_way,
            recorded: Some(self.recorded)
                .filter(|recorded| *recorded > generation)
                .unwrap_or_default(),
            unsure_in: self.unsure_in.filter(|ended| *ended >= generation),
        };
        (left != Self::default()).then_some(left)
    }
}

/// Images the document wants deleted that are on the host, that nothing on it can still need, and that did not come
/// in after the order. `strangers` says that there are tasks the document does not name: their images are not known,
/// so none is deleted.
#[must_use]
pub fn images_to_drop(
    document: &HostDesired,
    complete: &BTreeSet<ImageId>,
    in_use: &BTreeSet<ImageId>,
    imports: &BTreeMap<ImageId, Import>,
    strangers: bool,
) -> Vec<ImageId> {
    if strangers {
        return Vec::new();
    }
    let void = |id: &ImageId, order: u64| imports.get(id).is_some_and(|it| it.voids(order));
    document
        .drop_images
        .iter()
        .filter(|(id, order)| complete.contains(*id) && !in_use.contains(*id) && !void(id, **order))
        .filter(|(id, _)| !document.fetch_images.contains_key(*id))
        .map(|(id, _)| id.clone())
        .collect()
}

/// Wait before an image that could not be fetched is tried again, in milliseconds; doubles with every failure.
const FETCH_AGAIN_MS: i64 = 1000;
/// Longest such wait: a disk that is full or a registry that is away is looked at again every few minutes.
const FETCH_AGAIN_MAX_MS: i64 = 5 * 60 * 1000;

/// Of the disk that images are on, one part in so many is left free by copies: tasks, logs and what a start fetches need
/// it more.
const FREE_PART: u64 = 10;
/// Free bytes that are enough on any disk.
const FREE_ENOUGH: u64 = 4 << 30;

/// Room on the disk that images are on, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRoom {
    /// What can still be written.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// Whether an image may be fetched that nothing here needs: enough of the disk must stay free.
#[must_use]
pub fn copy_fits(image: &Image, room: DiskRoom) -> bool {
    let layers = image.content.layers.iter().map(|it| it.blob_bytes);
    // Layers come compressed and lie there unpacked.
    let bytes = layers.fold(0, u64::saturating_add);
    let bytes = bytes.max(image.config.size_bytes);
    let spare = (room.total / FREE_PART).min(FREE_ENOUGH);
    room.free >= bytes.saturating_add(spare)
}

/// An image that could not be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchFailure {
    /// How often, one after the other.
    pub times: u32,
    /// When it failed last.
    pub last: Timestamp,
}

impl FetchFailure {
    /// When it is tried again.
    #[must_use]
    pub fn again_at(&self) -> Timestamp {
        let doubled = FETCH_AGAIN_MS << self.times.saturating_sub(1).min(16);
        self.last.plus_millis(doubled.min(FETCH_AGAIN_MAX_MS))
    }
}

/// What a host does next for the images it is to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    /// Nothing: all are there.
    Nothing,
    /// It waits until this moment.
    Wait(Timestamp),
    /// It fetches this image.
    Now(ImageId),
}

/// The next image to fetch: one at a time, what failed less often first, then the smaller.
#[must_use]
pub fn next_fetch(
    document: &HostDesired,
    complete: &BTreeSet<ImageId>,
    failures: &BTreeMap<ImageId, FetchFailure>,
    now: Timestamp,
) -> Fetch {
    let missing = || {
        let images = document.fetch_images.iter();
        images.filter(|(id, _)| !complete.contains(*id))
    };
    let due = |id: &ImageId| failures.get(id).map(FetchFailure::again_at);
    let next = missing()
        .filter(|(id, _)| due(id).is_none_or(|at| at <= now))
        .min_by_key(|(id, image)| {
            let failed = failures.get(*id).map_or(0, |it| it.times);
            let bytes: u64 = image.content.layers.iter().map(|it| it.blob_bytes).sum();
            (failed, bytes, (*id).clone())
        });
    if let Some((id, _)) = next {
        return Fetch::Now(id.clone());
    }
    let first = missing().filter_map(|(id, _)| due(id)).min();
    first.map_or(Fetch::Nothing, Fetch::Wait)
}
