//! The follower: keeps the snapshot equal to etcd, in order, and lists anew when the watch cannot go on.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, GetOptions, SortOrder, SortTarget, WatchOptions, WatchResponse};

use super::Shared;
use super::client::{CallError, Client, PAGE};
use super::commit::revision_of;
use super::keys::{self, Keys, Mark};
use crate::OpenError;
use crate::error::Source;
use crate::feed::kept_bytes;
use crate::state::State;
use crate::types::{Change, Event, Revision, Versioned};

/// Pause before the watch is made again, doubled while nothing comes.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Everything at one revision.
pub(super) struct Listed {
    pub(super) state: State,
    /// The marks of the last writers, with their revisions.
    marks: Vec<(Mark, Revision)>,
}

/// Why following came to an end or a pause.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// Try again from where it was.
    #[error("the watch ended")]
    Ended(#[source] Source),
    /// Events are gone: list anew.
    #[error("etcd has compacted the events up to {0}")]
    Compacted(i64),
    /// This program cannot go on: it would show a wrong state.
    #[error("{0}")]
    Wrong(String),
}

/// Reads everything at one revision.
pub(super) async fn list(client: &Client, keys: &Keys) -> Result<Listed, OpenError> {
    let failed = |error: CallError| client.open_error("read from", error.into());
    let prefix = keys.objects();
    let mut from = prefix.clone();
    let mut listed: Option<Listed> = None;
    loop {
        let mut options = GetOptions::new()
            .with_range(end_of(&prefix))
            .with_limit(PAGE)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        if let Some(listed) = &listed {
            let revision = i64::try_from(listed.state.revision.0).unwrap_or(i64::MAX);
            options = options.with_revision(revision);
        }
        let page = client.get(from, Some(options)).await.map_err(failed)?;
        let listed = listed.get_or_insert_with(|| Listed {
            state: State {
                revision: revision_of(page.header().map_or(0, |it| it.revision())),
                ..State::default()
            },
            marks: Vec::new(),
        });
        for kv in page.kvs() {
            add(listed, keys, kv).map_err(|source| OpenError::Object {
                key: String::from_utf8_lossy(kv.key()).into_owned(),
                place: format!("etcd at {}", client.endpoints),
                source,
            })?;
        }
        match page.kvs().last() {
            Some(last) if page.more() => from = format!("{}\0", last.key_str().unwrap_or(&prefix)),
            Some(_) | None => break,
        }
    }
    listed.ok_or_else(|| client.open_error("read from", "etcd gave no answer".into()))
}

fn add(listed: &mut Listed, keys: &Keys, kv: &etcd_client::KeyValue) -> Result<(), Source> {
    let (mark, versioned) = read(keys, kv)?;
    listed.marks.push((mark, versioned.revision));
    listed.state.tables.insert(Arc::new(versioned));
    Ok(())
}

fn read(keys: &Keys, kv: &etcd_client::KeyValue) -> Result<(Mark, Versioned), Source> {
    let key_text = keys.object_of(kv.key_str()?).ok_or("not an object's key")?;
    let (mark, object) = keys::decode(key_text, kv.value())?;
    let versioned = Versioned {
        revision: revision_of(kv.mod_revision()),
        created: revision_of(kv.create_revision()),
        object,
    };
    Ok((mark, versioned))
}

/// The first key after all that begin with `prefix`, which ends with a slash.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.trim_end_matches('/').to_owned();
    end.push('0'); // the character after the slash
    end
}

/// Follows until the task is aborted or the state cannot be followed any more.
pub(super) async fn run(shared: Arc<Shared>, state: State) {
    let mut follower = Follower {
        seen: state.revision,
        state,
        shared,
    };
    let mut pause = PAUSE;
    loop {
        let seen = follower.seen;
        let broken = match follower.follow().await {
            Ok(never) => match never {},
            Err(broken) => broken,
        };
        let outcome = match broken {
            Broken::Compacted(_) => follower.list_anew().await,
            other => Err(other),
        };
        if let Err(Broken::Wrong(why)) = &outcome {
            tracing::error!(%why, "cannot follow etcd any more: the store closes, restart the server");
            follower.shared.feed.close();
            return;
        }
        if let Err(error) = &outcome {
            tracing::warn!(%error, source = ?std::error::Error::source(error), "lost etcd's watch, trying again");
        }
        pause = if follower.seen > seen {
            PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
        tokio::time::sleep(pause).await;
    }
}

struct Follower {
    shared: Arc<Shared>,
    state: State,
    /// Last revision below the prefix that was seen.
    seen: Revision,
}

impl Follower {
    async fn follow(&mut self) -> Result<std::convert::Infallible, Broken> {
        let from = i64::try_from(self.seen.next().0).unwrap_or(i64::MAX);
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let ended = |error: etcd_client::Error| Broken::Ended(error.into());
        let mut client = self.shared.client.watch_client();
        let mut stream = client
            .watch(self.shared.keys.all(), Some(options))
            .await
            .map_err(ended)?;
        loop {
            let Some(response) = stream.message().await.map_err(ended)? else {
                return Err(Broken::Ended("the stream is over".into()));
            };
            if response.compact_revision() > 0 {
                return Err(Broken::Compacted(response.compact_revision()));
            }
            if response.canceled() {
                return Err(Broken::Ended(response.cancel_reason().into()));
            }
            self.take(&response)?;
        }
    }

    /// Applies a response: whole revisions, in order.
    fn take(&mut self, response: &WatchResponse) -> Result<(), Broken> {
        let mut events: Vec<(Event, usize)> = Vec::new();
        let mut marks = Vec::new();
        let mut seen = self.seen;
        let mut rest = response.events();
        while let Some(first) = rest.first() {
            let revision = revision_of_event(first);
            let count = rest
                .iter()
                .take_while(|it| revision_of_event(it) == revision)
                .count();
            let (now, later) = rest.split_at(count);
            rest = later;
            // Seen before the connection was lost; etcd starts where it is asked to, but that costs nothing to check.
            if revision <= self.seen {
                continue;
            }
            seen = revision;
            if let Some(event) = self.apply(revision, now, &mut marks)? {
                events.push(event);
            }
        }
        self.note(&marks);
        if let Some((last, _)) = events.last() {
            self.state.revision = last.revision;
            self.shared.feed.publish(self.state.snapshot(), events);
        }
        self.show(seen);
        Ok(())
    }

    fn apply(
        &mut self,
        revision: Revision,
        changed: &[etcd_client::Event],
        marks: &mut Vec<(Mark, Revision)>,
    ) -> Result<Option<(Event, usize)>, Broken> {
        let mut changes = Vec::new();
        let mut bytes = 0;
        for kv in changed
            .iter()
            .filter_map(|it| it.kv().map(|kv| (it.event_type(), kv)))
        {
            let (kind, kv) = kv;
            let Some(key_text) = kv
                .key_str()
                .ok()
                .and_then(|key| self.shared.keys.object_of(key))
            else {
                continue;
            };
            let wrong = |why: Source| Broken::Wrong(format!("object {key_text}: {why}"));
            match kind {
                EventType::Put => {
                    let (mark, versioned) = read(&self.shared.keys, kv).map_err(wrong)?;
                    marks.push((mark, revision));
                    bytes += kv.value().len();
                    let versioned = Arc::new(versioned);
                    self.state.tables.insert(Arc::clone(&versioned));
                    changes.push(Change::Put(versioned));
                }
                EventType::Delete => {
                    let key = model::Key::parse(key_text).map_err(|error| wrong(error.into()))?;
                    if let Some(last) = self.state.tables.remove(&key) {
                        changes.push(Change::Delete { key, last });
                    }
                }
            }
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let event = Event {
            revision,
            changes: changes.into(),
        };
        let bytes = kept_bytes(&event, bytes);
        Ok(Some((event, bytes)))
    }

    /// Lists everything; watchers have to do the same, because what was between is not known.
    async fn list_anew(&mut self) -> Result<(), Broken> {
        let listed =
            list(&self.shared.client, &self.shared.keys)
                .await
                .map_err(|error| match error {
                    OpenError::Object { .. } => Broken::Wrong(error.to_string()),
                    other => Broken::Ended(other.into()),
                })?;
        let revision = listed.state.revision;
        if revision < self.seen {
            return Err(Broken::Wrong(format!(
                "etcd went back from revision {} to {revision}; was it restored from a backup?",
                self.seen
            )));
        }
        self.state = listed.state;
        self.note(&listed.marks);
        self.shared
            .counters
            .resyncs
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.shared.feed.publish_gap(self.state.snapshot());
        self.show(revision);
        Ok(())
    }

    /// Tells waiting commits where their marks were seen.
    fn note(&self, marks: &[(Mark, Revision)]) {
        let mut pending = self.shared.pending();
        for (mark, revision) in marks {
            if let Some(found) = pending.get_mut(mark) {
                *found = Some(*revision);
            }
        }
    }

    fn show(&mut self, seen: Revision) {
        self.seen = seen;
        self.shared.shown.send_replace(seen);
    }
}

fn revision_of_event(event: &etcd_client::Event) -> Revision {
    revision_of(event.kv().map_or(0, |kv| kv.mod_revision()))
}
