//! Which images a host deletes: decided here only.
//!
//! What always holds: an image goes only by an order that is younger than every import of it which the order may have
//! crossed on its way. Not knowing counts against the order.

use std::collections::{BTreeMap, BTreeSet};

use model::{HostDesired, ImageId};

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
        .map(|(id, _)| id.clone())
        .collect()
}
