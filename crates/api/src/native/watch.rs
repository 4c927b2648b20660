//! `?watch=true`: a list, then its changes.
//!
//! The list is read again whenever the store has changed and compared with what was said before, so that a watcher
//! never misses a change, never sees what it may not, and never falls behind by more than one list.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use control::Control;
use serde::Serialize;
use tokio::sync::mpsc;
use wire::native::stream::WatchEvent;

use super::failure::Result;
use super::lines::lines;

/// Least time between two readings: many commits in a row are one change for people, and reading costs CPU.
const PAUSE: Duration = Duration::from_millis(100);

/// Lines that may wait for a slow client; the next reading then waits.
const LINES_MAX: usize = 64;

/// Answers with the changes of what `read` gives; ends when it fails.
pub(crate) fn watch<T>(
    control: &Control,
    id: fn(&T) -> &str,
    read: impl Fn() -> Result<Vec<T>> + Send + 'static,
) -> Response
where
    T: Serialize + PartialEq + Clone + Send + 'static,
{
    let mut revisions = control.store().revisions();
    let first = match read() {
        Ok(first) => first,
        Err(failure) => return failure.into_response(),
    };
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    tokio::spawn(async move {
        let mut known = BTreeMap::new();
        let mut synced = false;
        let mut now = Ok(first);
        while let Ok(items) = now {
            for event in changes(&mut known, items, id) {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            if !std::mem::replace(&mut synced, true)
                && sender.send(WatchEvent::Synced).await.is_err()
            {
                return;
            }
            tokio::select! {
                () = sender.closed() => return,
                changed = revisions.changed() => if changed.is_err() { return },
            }
            tokio::time::sleep(PAUSE).await;
            revisions.borrow_and_update();
            now = read();
        }
    });
    lines(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

fn changes<T: PartialEq + Clone>(
    known: &mut BTreeMap<String, T>,
    items: Vec<T>,
    id: fn(&T) -> &str,
) -> Vec<WatchEvent<T>> {
    let mut events = Vec::new();
    let mut next = BTreeMap::new();
    for item in items {
        let key = id(&item).to_owned();
        match known.remove(&key) {
            None => events.push(WatchEvent::Added(item.clone())),
            Some(before) if before != item => events.push(WatchEvent::Modified(item.clone())),
            Some(_) => {}
        }
        next.insert(key, item);
    }
    let gone = std::mem::replace(known, next);
    events.extend(gone.into_keys().map(WatchEvent::Removed));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_what_differs() {
        type Item = (String, u32);
        fn id(item: &Item) -> &str {
            &item.0
        }
        let item = |name: &str, value| (name.to_owned(), value);
        let mut known = BTreeMap::new();
        let first = changes(&mut known, vec![item("a", 1), item("b", 1)], id);
        assert_eq!(
            first,
            [
                WatchEvent::Added(item("a", 1)),
                WatchEvent::Added(item("b", 1))
            ]
        );
        let second = changes(&mut known, vec![item("b", 2), item("c", 1)], id);
        assert_eq!(
            second,
            [
                WatchEvent::Modified(item("b", 2)),
                WatchEvent::Added(item("c", 1)),
                WatchEvent::Removed("a".into())
            ]
        );
        assert_eq!(
            changes(&mut known, vec![item("b", 2), item("c", 1)], id),
            []
        );
    }
}
