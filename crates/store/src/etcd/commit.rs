//! One commit: plan, send, find out what became of it, wait until the watch has shown it.

use std::time::{Duration, Instant};

use etcd_client::{TxnOpResponse, TxnResponse};

use super::Shared;
use super::client::CallError;
use super::confirm;
use super::keys::Mark;
use super::plan::{Plan, ask_holder, plan};
use crate::prepare::Prepared;
use crate::{CommitError, Expect, Revision, Snapshot};

/// How long a commit may take in all: a member dies, the others elect, the client notices, once over.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long the answer to a commit that lost waits for the snapshot to hold what it lost to: the watch is milliseconds
/// behind most of the time, and one that hangs must not hold up the answer.
const CAUSE_LIMIT: Duration = Duration::from_secs(1);

/// Pause after a failed call, doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn commit(shared: &Shared, tx: Prepared) -> Result<Revision, CommitError> {
    let mark = Mark::new().map_err(|error| backend("make a mark", false, error.into()))?;
    shared.pending().insert(mark, None);
    let mut attempt = Attempt {
        shared,
        tx: &tx,
        mark,
        deadline: Instant::now() + DEADLINE,
        pause: PAUSE,
        lost_answer: false,
    };
    let started = Instant::now();
    let result = attempt.run().await;
    if result.is_ok() {
        shared.counters.batch(1, started.elapsed());
    }
    result
}

/// Forgets the mark however the commit ends, also when its caller goes away.
impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.shared.pending().remove(&self.mark);
    }
}

struct Attempt<'a> {
    shared: &'a Shared,
    tx: &'a Prepared,
    mark: Mark,
    deadline: Instant,
    pause: Duration,
    /// A call failed after it may have reached etcd.
    lost_answer: bool,
}

enum Sent {
    Done(Revision),
    Unchanged,
    Stale,
    /// It lost to what was committed at that revision or before.
    Conflict(CommitError, Revision),
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<Revision, CommitError> {
        loop {
            let snapshot = self.shared.feed.snapshot();
            let sending = match plan(&snapshot, self.tx, &self.shared.keys, self.mark) {
                Plan::Send(sending) => sending,
                Plan::Behind => {
                    self.newer_than(&snapshot).await?;
                    continue;
                }
                Plan::Refuse(error) => match self.confirm(error, &snapshot).await? {
                    Some(outcome) => return outcome,
                    None => continue,
                },
            };
            match self.shared.client.txn(sending.txn).await {
                Ok(answer) => match self.read(&answer) {
                    Sent::Done(revision) => {
                        self.shown(revision).await?;
                        return Ok(revision);
                    }
                    Sent::Unchanged => return Ok(self.shared.feed.snapshot().revision),
                    Sent::Stale => self.newer_than(&snapshot).await?,
                    Sent::Conflict(error, cause) => return self.lost(error, cause).await,
                },
                Err(error) => {
                    if let Some(outcome) = self.after_failure(error, sending.once).await {
                        return outcome;
                    }
                }
            }
        }
    }

    fn read(&self, answer: &TxnResponse) -> Sent {
        let responses = answer.op_responses();
        if answer.succeeded() {
            let changed = responses.iter().any(|op| match op {
                TxnOpResponse::Put(_) => true,
                TxnOpResponse::Delete(it) => it.deleted() > 0,
                TxnOpResponse::Get(_) | TxnOpResponse::Txn(_) => false,
            });
            let revision = answer.header().map_or(0, |header| header.revision());
            return if changed {
                Sent::Done(revision_of(revision))
            } else {
                Sent::Unchanged
            };
        }
        for ((key, expect), found) in self.tx.expect.iter().zip(&responses) {
            let found = match found {
                TxnOpResponse::Get(get) => {
                    get.kvs().first().map(|kv| revision_of(kv.mod_revision()))
                }
                TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
            };
            let held = match expect {
                Expect::Absent => found.is_none(),
                Expect::Exists => found.is_some(),
                Expect::Revision(read) => found == Some(*read),
            };
            if !held {
                let answered = answer.header().map_or(0, |header| header.revision());
                let cause = found.unwrap_or_else(|| revision_of(answered));
                return Sent::Conflict(CommitError::Conflict { key: key.clone() }, cause);
            }
        }
        // Only what was taken from the snapshot did not hold.
        Sent::Stale
    }

    /// A refusal the snapshot asks for: certain, unless it is about a name, which may be free by now.
    async fn confirm(
        &mut self,
        error: CommitError,
        snapshot: &Snapshot,
    ) -> Result<Option<Result<Revision, CommitError>>, CommitError> {
        let CommitError::NameTaken { name, .. } = &error else {
            return Ok(Some(self.settle(error).await));
        };
        let ask = ask_holder(self.tx, &self.shared.keys, name);
        let answer = match self.shared.client.txn(ask).await {
            Ok(answer) => answer,
            Err(failed) => return Ok(self.after_failure(failed, true).await),
        };
        if !answer.succeeded() {
            return match self.read(&answer) {
                Sent::Conflict(error, cause) => Ok(Some(self.lost(error, cause).await)),
                Sent::Stale | Sent::Done(_) | Sent::Unchanged => Ok(None),
            };
        }
        let found = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(get) => Some(get.kvs().first()?.value_str().ok()?.to_owned()),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        let known = snapshot.holder(name).map(ToString::to_string);
        // Unknown to the snapshot: the transaction itself gives the name twice.
        if known.is_none() || known == found {
            return Ok(Some(self.settle(error).await));
        }
        self.newer_than(snapshot).await.map(|()| None)
    }

    /// After a failed call: the outcome, if it can be told, or `None` to try again.
    async fn after_failure(
        &mut self,
        error: CallError,
        once: bool,
    ) -> Option<Result<Revision, CommitError>> {
        if let Some(refused) = error.refusal(&self.shared.client.endpoints) {
            return Some(self.settle(refused).await);
        }
        let never_sent = error.never_sent();
        self.lost_answer |= !self.tx.ops.is_empty() && !never_sent;
        tracing::debug!(%error, "a commit to etcd failed");
        let late = Instant::now() + self.pause >= self.deadline;
        if (once || never_sent) && !late {
            // Nothing was applied, or its own write breaks what it compares: it can be sent without being applied twice.
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            return None;
        }
        let error = backend("commit to etcd", self.lost_answer, error.into());
        Some(self.settle(error).await)
    }

    /// It lost to what was committed at `cause` or before: who decides again right away is to decide on that.
    async fn lost(&mut self, error: CommitError, cause: Revision) -> Result<Revision, CommitError> {
        let shown = confirm::all_shown(self.shared, cause);
        if !matches!(tokio::time::timeout(CAUSE_LIMIT, shown).await, Ok(Ok(()))) {
            tracing::debug!(%cause, "cannot see yet what a commit lost to");
        }
        self.settle(error).await
    }

    /// What to answer for `error`, if an earlier try may have been applied: looks for the mark in what the watch shows.
    async fn settle(&mut self, error: CommitError) -> Result<Revision, CommitError> {
        if !self.lost_answer {
            return Err(error);
        }
        let caught_up = self.caught_up().await;
        let found = self.shared.pending().get(&self.mark).copied().flatten();
        match (found, caught_up) {
            (Some(revision), _) => Ok(revision),
            (None, Err(unknown)) => Err(unknown),
            (None, Ok(())) => Err(error),
        }
    }

    /// Waits until the watch has shown everything up to now, or the mark.
    async fn caught_up(&self) -> Result<(), CommitError> {
        let limit = self.deadline + DEADLINE;
        loop {
            if self
                .shared
                .pending()
                .get(&self.mark)
                .copied()
                .flatten()
                .is_some()
            {
                return Ok(());
            }
            // A write of our own: once the watch shows it, it has shown everything before it.
            match self.shared.client.put(self.shared.keys.sync()).await {
                Ok(revision) => return self.shown(revision_of(revision)).await,
                Err(failed) if Instant::now() + LONGEST_PAUSE < limit => {
                    tracing::debug!(error = %failed, "cannot read back from etcd yet");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(failed) => return Err(backend("read back from etcd", true, failed.into())),
            }
        }
    }

    /// Waits until the watch has shown `revision`.
    async fn shown(&self, revision: Revision) -> Result<(), CommitError> {
        let mut shown = self.shared.shown.subscribe();
        let wait = shown.wait_for(|now| *now >= revision);
        let limit = self.deadline + DEADLINE;
        match tokio::time::timeout_at(limit.into(), wait).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(CommitError::Closed),
            Err(elapsed) => Err(backend(
                "see the commit in etcd's watch",
                true,
                elapsed.into(),
            )),
        }
    }

    /// Waits for a snapshot newer than `snapshot`, which etcd has shown to be stale.
    async fn newer_than(&self, snapshot: &Snapshot) -> Result<(), CommitError> {
        let mut revisions = self.shared.feed.revisions();
        let newer = revisions.wait_for(|now| *now > snapshot.revision);
        match tokio::time::timeout_at(self.deadline.into(), newer).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(CommitError::Closed),
            Err(elapsed) => {
                let unknown = self.lost_answer;
                Err(backend("catch up with etcd", unknown, elapsed.into()))
            }
        }
    }
}

fn backend(
    doing: &'static str,
    outcome_unknown: bool,
    source: crate::error::Source,
) -> CommitError {
    CommitError::Backend {
        doing,
        outcome_unknown,
        source,
    }
}

pub(super) fn revision_of(etcd: i64) -> Revision {
    Revision(u64::try_from(etcd).unwrap_or(0))
}
