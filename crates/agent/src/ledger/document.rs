//! Taking a new document: whole ones and differences, older ones refused.

use model::HostDesired;
use wire::link::{DesiredUpdate, NetworkUpdate};

/// Why a document is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is older than the one at hand.
    #[error("document of generation {offered} is older than generation {current} at hand")]
    Older {
        /// Its number.
        offered: u64,
        /// The number at hand.
        current: u64,
    },
    /// Two documents have one number.
    #[error("generation {0} came again with other content")]
    Differs(u64),
    /// It is a difference to a document that is not at hand.
    #[error("difference to generation {base}, but generation {current} is at hand")]
    WrongBase {
        /// What it builds on.
        base: u64,
        /// The number at hand.
        current: u64,
    },
    /// Zero stands for no document.
    #[error("a document cannot have generation 0")]
    Zero,
}

/// Whether a document changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is the new document.
    New,
    /// It was there already.
    Already,
}

/// Takes an update into a document.
///
/// # Errors
/// When it must not be taken; the document is then unchanged.
pub fn take(document: &mut HostDesired, update: &DesiredUpdate) -> Result<Taken, DocumentError> {
    let current = document.generation;
    let offered = update.generation;
    if offered == 0 {
        return Err(DocumentError::Zero);
    }
    if offered < current {
        return Err(DocumentError::Older { offered, current });
    }
    if offered == current {
        return if agrees(document, update) {
            Ok(Taken::Already)
        } else {
            Err(DocumentError::Differs(offered))
        };
    }
    match update.base {
        None => {
            document.workloads.clone_from(&update.upsert);
            document.networks.clear();
        }
        Some(base) if base == current && knows_networks(document, update) => {
            for id in &update.remove {
                document.workloads.remove(id);
            }
            for (id, workload) in &update.upsert {
                document.workloads.insert(id.clone(), workload.clone());
            }
        }
        Some(base) => return Err(DocumentError::WrongBase { base, current }),
    }
    document.drop_images.clone_from(&update.drop_images);
    match (&update.fetch_images, update.base) {
        (Some(images), _) => document.fetch_images.clone_from(images),
        (None, None) => document.fetch_images.clear(),
        (None, Some(_)) => {}
    }
    match (&update.pools, update.base) {
        (Some(pools), _) => document.pools.clone_from(pools),
        (None, None) => document.pools.clear(),
        (None, Some(_)) => {}
    }
    for (id, change) in &update.networks {
        change.apply(id, &mut document.networks);
    }
    document.generation = offered;
    Ok(Taken::New)
}

/// Whether every network of which only the difference is told is at hand.
fn knows_networks(document: &HostDesired, update: &DesiredUpdate) -> bool {
    update.networks.iter().all(|(id, change)| match change {
        NetworkUpdate::Peers { .. } => document.networks.contains_key(id),
        NetworkUpdate::Whole(_) | NetworkUpdate::Gone => true,
    })
}

/// Whether a document that is at hand is what the update leads to, as far as the update tells.
fn agrees(document: &HostDesired, update: &DesiredUpdate) -> bool {
    let upserts = update
        .upsert
        .iter()
        .all(|(id, workload)| document.workloads.get(id) == Some(workload));
    let removes = update
        .remove
        .iter()
        .all(|id| update.upsert.contains_key(id) || !document.workloads.contains_key(id));
    let whole = update.base.is_some() || document.workloads.len() == update.upsert.len();
    let pools = match &update.pools {
        Some(pools) => document.pools == *pools,
        None => update.base.is_some() || document.pools.is_empty(),
    };
    let networks = update.networks.iter();
    let networks = networks
        .clone()
        .all(|(id, change)| change.agrees(id, &document.networks))
        && (update.base.is_some() || document.networks.len() == networks.count());
    let fetches = match &update.fetch_images {
        Some(images) => document.fetch_images == *images,
        None => update.base.is_some() || document.fetch_images.is_empty(),
    };
    let images = fetches && document.drop_images == update.drop_images;
    upserts && removes && whole && pools && networks && images
}
