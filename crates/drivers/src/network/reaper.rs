//! Removes links in the background, many at a time: the kernel takes tens of milliseconds for one, and nobody should
//! wait for that. What is lost in a crash is found at the next start, because the address of such a link is noted as
//! released.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::link;
use super::netlink::Socket;

/// Links that may wait. More are removed at once by whoever brings them, so that a flood slows down its source.
const WAITING: usize = 1024;
/// Links removed as one change, so that others get their turn between.
const BATCH: usize = 128;

/// Hands links to the thread that removes them; the thread ends with this.
#[derive(Debug)]
pub(super) struct Reaper {
    queue: SyncSender<String>,
}

impl Reaper {
    /// Starts the thread; it lives in the caller's network namespace.
    pub(super) fn start() -> io::Result<Self> {
        let (queue, links) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("link-reaper".to_owned())
            .spawn(move || work(&links))?;
        Ok(Self { queue })
    }

    /// Removes a link soon.
    pub(super) fn remove(&self, name: String) -> io::Result<()> {
        match self.queue.try_send(name) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(name) | TrySendError::Disconnected(name)) => {
                link::delete(&mut Socket::route()?, &name)
            }
        }
    }
}

fn work(links: &Receiver<String>) {
    while let Ok(first) = links.recv() {
        let mut batch = vec![first];
        batch.extend(links.try_iter().take(BATCH - 1));
        let removed = Socket::route().and_then(|mut host| link::delete_all(&mut host, &batch));
        if let Err(error) = removed {
            tracing::warn!(%error, links = batch.len(), "links are left until the next start");
        }
    }
}
