//! Fetching in the background: what nobody waits for gives way to what a start waits for.
//!
//! What always holds: a fetch in the background goes on if a start waits for one of the same layers, for the start may
//! be waiting for just this fetch; and it never waits longer than [`PATIENCE`] for one piece.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use model::{Digest, Image};
use tokio::sync::watch;

use crate::driver::{BlobSource, ByteStream, DriverError};

/// Longest wait of one piece: a start that hangs does not keep images from being copied for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fetches that starts wait for.
#[derive(Debug, Default)]
pub(crate) struct Urgent {
    fetches: watch::Sender<Fetches>,
}

#[derive(Debug, Default)]
struct Fetches {
    last: u64,
    layers: BTreeMap<u64, BTreeSet<Digest>>,
}

/// A fetch that a start waits for; over when this is dropped.
pub(crate) struct UrgentFetch {
    urgent: Arc<Urgent>,
    number: u64,
}

fn layers(image: &Image) -> BTreeSet<Digest> {
    let layers = image.content.layers.iter();
    layers.map(|layer| layer.diff_id.clone()).collect()
}

impl Urgent {
    /// A start begins to wait for an image.
    pub(crate) fn begin(self: &Arc<Self>, image: &Image) -> UrgentFetch {
        let mut number = 0;
        self.fetches.send_modify(|fetches| {
            fetches.last += 1;
            number = fetches.last;
            fetches.layers.insert(number, layers(image));
        });
        UrgentFetch {
            urgent: Arc::clone(self),
            number,
        }
    }

    /// Waits while starts fetch and none of them needs one of these layers.
    async fn give_way(&self, own: &BTreeSet<Digest>) {
        let free = |fetches: &Fetches| {
            let needed = |it: &BTreeSet<Digest>| !it.is_disjoint(own);
            fetches.layers.is_empty() || fetches.layers.values().any(needed)
        };
        let mut fetches = self.fetches.subscribe();
        // The sender lives in `self`: only time ends this before the condition holds.
        let _ = tokio::time::timeout(PATIENCE, fetches.wait_for(free)).await;
    }
}

impl Drop for UrgentFetch {
    fn drop(&mut self) {
        let number = self.number;
        self.urgent.fetches.send_modify(|fetches| {
            fetches.layers.remove(&number);
        });
    }
}

/// A source of blobs for one image that is fetched in the background.
pub(crate) struct Patient {
    relay: Arc<dyn BlobSource>,
    urgent: Arc<Urgent>,
    layers: Arc<BTreeSet<Digest>>,
}

impl Patient {
    /// Waits for its turn to begin.
    pub(crate) async fn begin(
        relay: Arc<dyn BlobSource>,
        urgent: Arc<Urgent>,
        image: &Image,
    ) -> Self {
        let layers = Arc::new(layers(image));
        urgent.give_way(&layers).await;
        Self {
            relay,
            urgent,
            layers,
        }
    }
}

#[async_trait]
impl BlobSource for Patient {
    async fn open(&self, digest: &Digest) -> Result<ByteStream, DriverError> {
        self.urgent.give_way(&self.layers).await;
        let bytes = self.relay.open(digest).await?;
        let (urgent, layers) = (self.urgent.clone(), self.layers.clone());
        Ok(Box::pin(bytes.then(move |piece| {
            let (urgent, layers) = (urgent.clone(), layers.clone());
            async move {
                urgent.give_way(&layers).await;
                piece
            }
        })))
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    fn digest(of: &str) -> Digest {
        Digest::parse(&format!("sha256:{}", of.repeat(64))).unwrap()
    }

    fn image(of: &[&str]) -> Image {
        let layer = |of: &&str| serde_json::json!({ "diff_id": digest(of), "blob": digest(of), "blob_bytes": 1, "media_type": "" });
        serde_json::from_value(serde_json::json!({
            "id": digest("0"), "pool": model::PoolId::from_bytes(&[1; 32]), "added_at": 0,
            "content": {
                "config": digest("0"), "config_bytes": 10,
                "layers": of.iter().map(layer).collect::<Vec<_>>(),
            },
            "config": { "platform": { "architecture": "amd64", "os": "linux" } },
        }))
        .unwrap()
    }

    /// Two pieces of every blob.
    struct Pieces;

    #[async_trait]
    impl BlobSource for Pieces {
        async fn open(&self, _: &Digest) -> Result<ByteStream, DriverError> {
            let pieces = [Ok("a".into()), Ok("b".into())];
            Ok(Box::pin(futures::stream::iter(pieces)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_in_the_background_waits_for_those_of_starts_but_not_for_its_own_layers() {
        let urgent: Arc<Urgent> = Arc::default();
        let own = image(&["a", "b"]);
        let source = Patient::begin(Arc::new(Pieces), urgent.clone(), &own).await;
        let mut blob = source.open(&digest("a")).await.unwrap();
        assert_eq!(blob.next().await.unwrap().unwrap(), "a");
        let other = urgent.begin(&image(&["c"]));
        assert!(poll!(blob.next()).is_pending(), "a start fetches");
        let same = urgent.begin(&image(&["b", "d"]));
        assert!(poll!(blob.next()).is_ready(), "a start waits for this");
        drop(same);
        let second = digest("b");
        let mut open = Box::pin(source.open(&second));
        assert!(poll!(&mut open).is_pending());
        drop(other);
        let mut blob = open.await.unwrap();
        assert_eq!(blob.next().await.unwrap().unwrap(), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_hangs_does_not_stop_it() {
        let urgent: Arc<Urgent> = Arc::default();
        let _hangs = urgent.begin(&image(&["c"]));
        let source = Patient::begin(Arc::new(Pieces), urgent.clone(), &image(&["a"])).await;
        let begun = tokio::time::Instant::now();
        let blob = source.open(&digest("a")).await.unwrap();
        assert_eq!(blob.count().await, 2);
        assert_eq!(begun.elapsed(), PATIENCE * 3);
    }
}
