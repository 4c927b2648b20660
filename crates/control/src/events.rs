//! What happened, for people and programs that watch: derived from what was committed.
//!
//! Kept in memory of this server, the newest [`KEPT_MAX`]; a watcher that falls behind is told so by the end of its
//! stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures::Stream;
use model::{DesiredState, HoldKind, Host, HostId, Image, PoolId, Timestamp, Workload};
use store::{Change, Snapshot, Stored as _};
use tokio::sync::broadcast;

use crate::caller::{Action, Caller, Scope, authorise};
use crate::core::{Control, now};
use crate::documents::Memory;
use crate::error::Result;

/// Events kept for those who ask for the past.
const KEPT_MAX: usize = 4096;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A workload.
    Workload,
    /// An image.
    Image,
    /// A pool.
    Pool,
    /// A host.
    Host,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When this server saw it.
    pub time: Timestamp,
    /// Unique and growing within a server: nanoseconds since the epoch.
    pub time_ns: i64,
    /// The pool it happened in; `None`: the installation.
    pub pool: Option<PoolId>,
    /// What it is about.
    pub subject: Subject,
    /// What happened, in Docker's words where it has one.
    pub action: String,
    /// Of the subject.
    pub id: String,
    /// Name, image, exit code and the like.
    pub attributes: BTreeMap<String, String>,
}

pub(crate) struct EventLog {
    kept: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            kept: Mutex::new(VecDeque::new()),
            live: broadcast::channel(1024).0,
        }
    }
}

impl EventLog {
    #[expect(clippy::too_many_arguments, reason = "the parts of one event")]
    pub(crate) fn push(
        &self,
        pool: Option<PoolId>,
        subject: Subject,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let time = now();
        let floor = kept.back().map_or(0, |last| last.time_ns + 1);
        let event = Event {
            time,
            time_ns: (time.millis() * 1_000_000).max(floor),
            pool,
            subject,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes,
        };
        kept.push_back(event.clone());
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
        let _ = self.live.send(event);
    }

    pub(crate) fn workload(&self, workload: &Workload, action: &str, extra: &[(&str, String)]) {
        let mut attributes: BTreeMap<String, String> = workload.spec.labels.clone();
        attributes.insert("name".into(), workload.name.to_string());
        attributes.insert("image".into(), workload.spec.task.image.clone());
        for (key, value) in extra {
            attributes.insert((*key).to_owned(), value.clone());
        }
        self.push(
            Some(workload.pool.clone()),
            Subject::Workload,
            action,
            workload.id.as_str(),
            attributes,
        );
    }

    pub(crate) fn host(&self, host: &Host, action: &str, extra: &[(&str, String)]) {
        let mut attributes = BTreeMap::from([("name".to_owned(), host.name.to_string())]);
        for (key, value) in extra {
            attributes.insert((*key).to_owned(), value.clone());
        }
        self.push(None, Subject::Host, action, host.id.as_str(), attributes);
    }

    /// Derives what happened from a commit.
    pub(crate) fn derive(&self, snapshot: &Snapshot, event: &store::Event, memory: &Memory) {
        for change in event.changes.iter() {
            match change {
                Change::Put(versioned) => {
                    if let Some(after) = Workload::of(&versioned.object) {
                        let before = memory.workload(&after.id);
                        if let Some(before) = before {
                            self.derive_displacement(snapshot, before, after);
                        }
                        self.derive_workload(before, after);
                    }
                    if let Some(after) = Host::of(&versioned.object) {
                        self.derive_host(memory.host(&after.id), after);
                    }
                }
                Change::Delete { last, .. } => {
                    if let Some(workload) = Workload::of(&last.object)
                        && workload.desired != DesiredState::Removed
                    {
                        self.workload(workload, "destroy", &[]);
                    }
                    if let Some(host) = Host::of(&last.object) {
                        self.host(host, "removed", &[]);
                    }
                }
            }
        }
    }

    /// Whether it was told to wait, and whether it was taken to another host.
    fn derive_displacement(&self, snapshot: &Snapshot, before: &Workload, after: &Workload) {
        let name = |id: &HostId| match snapshot.host(id) {
            Some(host) => host.name.to_string(),
            None => id.to_string(),
        };
        if let (Some(from), Some(to)) = (&before.host, &after.host)
            && from != to
        {
            let reason = after.placement.clone().unwrap_or_default();
            let extra = [("from", name(from)), ("to", name(to)), ("reason", reason)];
            self.workload(after, "moved", &extra);
        }
        let word = |workload: &Workload| match workload.hold.as_ref()?.kind {
            HoldKind::Queued => Some("queued"),
            HoldKind::Parked => Some("parked"),
            HoldKind::Moving => Some("moving"),
            HoldKind::Awaiting { .. } => Some("waiting"),
        };
        if let (Some(now), Some(hold)) = (word(after), &after.hold)
            && word(before) != Some(now)
        {
            self.workload(after, now, &[("reason", hold.reason.clone())]);
        }
    }

    fn derive_host(&self, before: Option<&Host>, after: &Host) {
        let Some(before) = before else {
            self.host(after, "joined", &[]);
            return;
        };
        let (old, new) = (&before.status, &after.status);
        match (old.connected, new.connected) {
            (false, true) => self.host(after, "connected", &[]),
            (true, false) => self.host(after, "unreachable", &[]),
            (true, true) | (false, false) => {}
        }
        if new.lost_at.is_some() && old.lost_at.is_none() {
            self.host(after, "lost", &[]);
        }
        let begins = after.drain.is_some() && before.drain.is_none();
        match (before.cordoned, after.cordoned) {
            // Maintenance says it already.
            (false, true) if !begins => self.host(after, "cordoned", &[]),
            (true, false) => self.host(after, "uncordoned", &[]),
            (_, true) | (false, false) => {}
        }
        if begins {
            self.host(after, "draining", &[]);
        }
    }

    fn derive_workload(&self, before: Option<&Workload>, after: &Workload) {
        let Some(before) = before else {
            self.workload(after, "create", &[]);
            return;
        };
        if before.name != after.name {
            self.workload(after, "rename", &[("oldName", before.name.to_string())]);
        }
        if before.spec != after.spec {
            self.workload(after, "update", &[]);
        }
        if let DesiredState::Stopped {
            signal: Some(signal),
            ..
        } = after.desired
            && before.desired != after.desired
        {
            self.workload(after, "kill", &[("signal", signal.to_string())]);
        }
        let (old, new) = (&before.status, &after.status);
        if new.started_at.is_some() && new.started_at != old.started_at {
            self.workload(after, "start", &[]);
        }
        if new.oom_killed && !old.oom_killed {
            self.workload(after, "oom", &[]);
        }
        if new.finished_at.is_some() && new.finished_at != old.finished_at {
            self.workload(after, "die", &[("exitCode", new.exit_code.to_string())]);
            if matches!(after.desired, DesiredState::Stopped { .. }) {
                self.workload(after, "stop", &[]);
            }
        }
        match (old.phase, new.phase) {
            (model::Phase::Running, model::Phase::Paused) => self.workload(after, "pause", &[]),
            (model::Phase::Paused, model::Phase::Running) => self.workload(after, "unpause", &[]),
            _ => {}
        }
        let gone = |w: &Workload| w.desired == DesiredState::Removed && !w.status.phase.is_alive();
        if gone(after) && !gone(before) {
            self.workload(after, "destroy", &[]);
        }
    }

    pub(crate) fn image(&self, image: &Image, action: &str, name: &str) {
        let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
        self.push(
            Some(image.pool.clone()),
            Subject::Image,
            action,
            image.id.as_str(),
            attributes,
        );
    }
}

impl Control {
    /// Events of a pool, or of everything the caller may see: first those kept since `since_ms`, then as they happen
    /// until `until_ms`.
    ///
    /// # Errors
    /// When the caller may not see the pool.
    pub fn events(
        &self,
        caller: &Caller,
        pool: Option<&PoolId>,
        since_ms: Option<i64>,
        until_ms: Option<i64>,
    ) -> Result<impl Stream<Item = Event> + Send + 'static> {
        if let Some(pool) = pool {
            self.grant(
                &self.snapshot(),
                caller,
                Action::PoolRead,
                Scope::Pool(pool),
            )?;
        }
        let log = &self.inner.events;
        let (past, live) = {
            let kept = log.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let past: VecDeque<Event> = kept
                .iter()
                .filter(|event| since_ms.is_some_and(|since| event.time.millis() >= since))
                .cloned()
                .collect();
            (past, log.live.subscribe())
        };
        let view = View {
            control: self.clone(),
            caller: caller.clone(),
            pool: pool.cloned(),
        };
        Ok(futures::stream::unfold(
            (past, live, view),
            move |(mut past, mut live, view)| async move {
                loop {
                    let event = match past.pop_front() {
                        Some(event) => event,
                        None => next_live(&mut live, until_ms).await?,
                    };
                    if until_ms.is_some_and(|until| event.time.millis() > until) {
                        return None;
                    }
                    if view.shows(&event) {
                        return Some((event, (past, live, view)));
                    }
                }
            },
        ))
    }
}

async fn next_live(live: &mut broadcast::Receiver<Event>, until_ms: Option<i64>) -> Option<Event> {
    match until_ms {
        None => live.recv().await.ok(),
        Some(until) => {
            let left = u64::try_from(until - now().millis()).unwrap_or(0);
            tokio::time::timeout(std::time::Duration::from_millis(left), live.recv())
                .await
                .ok()?
                .ok()
        }
    }
}

struct View {
    control: Control,
    caller: Caller,
    pool: Option<PoolId>,
}

impl View {
    fn shows(&self, event: &Event) -> bool {
        if let Some(pool) = &self.pool {
            return event.pool.as_ref() == Some(pool);
        }
        let snapshot = self.control.snapshot();
        let (action, scope) = match &event.pool {
            Some(pool) => (Action::PoolRead, Scope::Pool(pool)),
            None => (Action::HostRead, Scope::Installation),
        };
        authorise(&snapshot, &self.caller, action, scope).is_ok()
    }
}
