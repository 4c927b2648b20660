//! Room in pools: the ledger of this server, and commits that are admitted by it.
//!
//! How two admissions never count on the same room:
//! - Inside one server the ledger is in memory. A claim is entered before its commit is sent and taken out again if the
//!   commit fails; deciding takes microseconds under a lock, and commits go on in parallel.
//! - Between servers one stored name says whose turn it is to admit. Every commit that adds a claim, or changes the pool
//!   tree, expects that name unchanged; so whatever another server admitted was committed before the turn was taken,
//!   and is in the ledger, which is brought up to the newest snapshot before every decision. Whoever wants the turn
//!   takes it at once: it is no lock, only a fact commits are compared with.
//!
//! What lowers usage (an end, a removal) needs no turn: it makes no admission wrong.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::object::Setting;
use model::{
    Claim, Host, HostId, Installation, Key, Kind, Name, Object, Pool, PoolId, Resource, Workload,
    WorkloadId,
};
use plan::pools::{HostRoom, Ledger, Refusal, Tree};
use store::{Change, CommitError, Expect, Revision, Snapshot, Store, Stored as _, Transaction};

use crate::caller::{Action, Grant};
use crate::core::{Control, random};
use crate::error::{Error, ErrorKind, Result};
use crate::events::Subject;
use crate::metrics::Counters;

/// Name of the setting that says whose turn it is.
const TURN: &str = "admission-turn";

/// Pause before a turn that was lost is taken back: long enough for the other server to commit what it has waiting.
const TURN_PAUSE: Duration = Duration::from_millis(10);

/// How often a lost turn is taken back for one request.
pub(crate) const TURN_TRIES: usize = 200;

const BUSY: &str = "it is being changed by many others at the same time: try again";

/// Looks at the log for events of a snapshot that is shown already: it follows within microseconds.
const CATCH_UP_TRIES: usize = 10_000;

/// Pause between two audits.
const AUDIT_PAUSE: Duration = Duration::from_secs(30);

/// The ledger of this server, made when it is first needed.
pub(crate) struct Admissions {
    /// Differs with every start of a server.
    server: String,
    books: Mutex<Option<Books>>,
    /// Held while the turn is taken; says whether this server had it before.
    turning: tokio::sync::Mutex<bool>,
    /// One change of the pool tree at a time.
    pub(crate) reshaping: tokio::sync::Mutex<()>,
}

struct Books {
    ledger: Ledger,
    watch: store::Watch,
    hosts: BTreeMap<HostId, HostInput>,
    /// Claims whose commit is under way, with the number of the admission.
    pending: HashMap<WorkloadId, (u64, Claim)>,
    admissions: u64,
    /// Whether pools, hosts or the installation changed since the tree was made.
    reshaped: bool,
}

/// What of a host makes a difference to pools.
#[derive(PartialEq)]
struct HostInput {
    labels: BTreeMap<String, String>,
    room: model::Capacity,
}

impl HostInput {
    /// `None`: nothing can be placed on it.
    fn of(host: &Host) -> Option<Self> {
        let total = host.status.facts.capacity;
        let usable = !host.cordoned && host.status.lost_at.is_none();
        usable.then(|| Self {
            labels: host.labels.clone(),
            room: total.minus(model::resources::host_reserve(total)),
        })
    }
}

/// What is over-committed, and by how much.
pub(crate) type Shortage = BTreeMap<(PoolId, Resource), u64>;

/// A claim that was admitted and whose commit is under way, until it is dropped.
pub(crate) struct Pending<'a> {
    control: &'a Control,
    id: WorkloadId,
    number: u64,
}

/// A change that adds to what a pool is charged.
pub(crate) struct Step {
    /// What is committed.
    pub(crate) tx: Transaction,
    /// Who is charged.
    pub(crate) id: WorkloadId,
    /// How much, afterwards.
    pub(crate) claim: Claim,
    /// Who gives up what it is charged in the same commit: it counts as gone already.
    pub(crate) clears: Vec<WorkloadId>,
}

impl Step {
    pub(crate) fn new(tx: Transaction, id: WorkloadId, claim: Claim) -> Self {
        Self {
            tx,
            id,
            claim,
            clears: Vec::new(),
        }
    }
}

/// Why an admitted commit failed.
pub(crate) enum AdmitError {
    /// There is no room.
    Refused(Box<Refusal>),
    /// Another server has taken the turn.
    OutOfTurn,
    /// The turn could not be taken.
    Other(Error),
    /// The store.
    Commit(CommitError),
}

impl From<AdmitError> for Error {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::Refused(refusal) => refused(&refusal),
            AdmitError::OutOfTurn => Error::conflict(BUSY),
            AdmitError::Other(error) => error,
            AdmitError::Commit(error) => error.into(),
        }
    }
}

/// A refusal for people.
pub(crate) fn refused(refusal: &Refusal) -> Error {
    Error::new(ErrorKind::Exhausted, refusal.to_string())
}

impl Admissions {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            server: hex::encode(&random()?[..8]),
            books: Mutex::new(None),
            turning: tokio::sync::Mutex::new(false),
            reshaping: tokio::sync::Mutex::new(()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Books>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision of the turn, if it is this server's.
    fn turn(&self, snapshot: &Snapshot) -> Option<Revision> {
        let row = snapshot.setting(TURN)?;
        (row.value == self.server).then(|| row.revision())
    }
}

/// The name of the turn; it is a valid one.
fn turn_name() -> Result<Name> {
    Name::parse(TURN).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
}

/// The pool tree of a snapshot, with `changed` in the place of what is stored of it.
pub(crate) fn tree_of(snapshot: &Snapshot, changed: Option<&Pool>) -> Tree {
    let inputs: Vec<HostInput> = snapshot
        .hosts()
        .filter_map(|host| HostInput::of(&host))
        .collect();
    let stored: Vec<&Pool> = snapshot
        .pools()
        .map(|row| row.value())
        .filter(|pool| changed.is_none_or(|changed| changed.id != pool.id))
        .chain(changed)
        .collect();
    Tree::resolve(stored, &rooms(inputs.iter()), &installation(snapshot))
}

/// The pool tree of a snapshot, if these were its hosts.
pub(crate) fn tree_with_hosts<'a>(
    snapshot: &Snapshot,
    hosts: impl Iterator<Item = &'a Host>,
) -> Tree {
    let inputs: Vec<HostInput> = hosts.filter_map(HostInput::of).collect();
    let pools = snapshot.pools().map(|row| row.value());
    Tree::resolve(pools, &rooms(inputs.iter()), &installation(snapshot))
}

/// What holds for the whole installation.
pub(crate) fn installation(snapshot: &Snapshot) -> Installation {
    snapshot
        .installation()
        .map(|row| *row.value())
        .unwrap_or_default()
}

fn rooms<'a>(inputs: impl Iterator<Item = &'a HostInput>) -> Vec<HostRoom<'a>> {
    inputs
        .map(|input| HostRoom {
            labels: &input.labels,
            room: input.room,
        })
        .collect()
}

impl Books {
    /// From the newest snapshot; `None` when the store is closed.
    fn open(store: &dyn Store) -> Option<Self> {
        loop {
            let snapshot = store.snapshot();
            let watch = match store.watch(snapshot.revision) {
                Ok(watch) => watch,
                Err(store::WatchError::Closed) => return None,
                Err(store::WatchError::Compacted { .. } | store::WatchError::Lagged { .. }) => {
                    continue;
                }
            };
            return Some(Self {
                ledger: recomputed(&snapshot),
                watch,
                hosts: host_inputs(&snapshot),
                pending: HashMap::new(),
                admissions: 0,
                reshaped: false,
            });
        }
    }

    /// Brings the ledger up to `snapshot` or further; if the tree changed, says what lacked before.
    fn catch_up(&mut self, store: &dyn Store, snapshot: &Snapshot) -> Option<Shortage> {
        let mut tries = 0;
        loop {
            match self.watch.try_next() {
                Ok(Some(event)) => {
                    for change in event.changes.iter() {
                        self.take(change);
                    }
                }
                Ok(None) if self.watch.seen() >= snapshot.revision => break,
                Ok(None) if tries < CATCH_UP_TRIES => {
                    tries += 1;
                    std::thread::yield_now();
                }
                Err(store::WatchError::Closed) => break,
                Ok(None) | Err(_) => {
                    self.reopen(store);
                    break;
                }
            }
        }
        if std::mem::take(&mut self.reshaped) {
            let newest = store.snapshot();
            let tree = Tree::resolve(
                newest.pools().map(|row| row.value()),
                &rooms(self.hosts.values()),
                &installation(&newest),
            );
            if tree != *self.ledger.tree() {
                let before = shortage(self.ledger.tree());
                self.ledger.set_tree(tree);
                return Some(before);
            }
        }
        None
    }

    /// Starts anew; what is under way stays entered.
    fn reopen(&mut self, store: &dyn Store) {
        let Some(mut anew) = Self::open(store) else {
            return;
        };
        for (id, (_, claim)) in &self.pending {
            anew.ledger.set(id, Some(claim));
        }
        anew.pending = std::mem::take(&mut self.pending);
        anew.admissions = self.admissions;
        *self = anew;
    }

    /// Enters what is stored; a claim whose commit is under way stays entered until that has ended.
    fn charge(&mut self, id: &WorkloadId, stored: Option<&Claim>) {
        if !self.pending.contains_key(id) {
            self.ledger.set(id, stored);
        }
    }

    fn take(&mut self, change: &Change) {
        match change {
            Change::Put(versioned) => {
                if let Some(workload) = Workload::of(&versioned.object) {
                    self.charge(&workload.id, Some(&Claim::of(workload)));
                }
                if let Some(host) = Host::of(&versioned.object) {
                    let input = HostInput::of(host);
                    if self.hosts.get(&host.id) != input.as_ref() {
                        self.reshaped = true;
                        match input {
                            Some(input) => self.hosts.insert(host.id.clone(), input),
                            None => self.hosts.remove(&host.id),
                        };
                    }
                }
            }
            Change::Delete { key, .. } => match key {
                Key::Workload(id) => self.charge(id, None),
                Key::Host(id) => self.reshaped |= self.hosts.remove(id).is_some(),
                _ => {}
            },
        }
        self.reshaped |= matches!(change.key().kind(), Kind::Pool | Kind::Installation);
    }
}

fn host_inputs(snapshot: &Snapshot) -> BTreeMap<HostId, HostInput> {
    snapshot
        .hosts()
        .filter_map(|host| Some((host.id.clone(), HostInput::of(&host)?)))
        .collect()
}

/// The ledger of a snapshot, from all objects.
pub(crate) fn recomputed(snapshot: &Snapshot) -> Ledger {
    let claims = snapshot
        .workloads()
        .map(|workload| (workload.id.clone(), Claim::of(&workload)));
    Ledger::new(tree_of(snapshot, None), claims)
}

impl Control {
    /// Reads the ledger, brought up to the newest snapshot; `None` when the store is closed.
    pub(crate) fn with_ledger<T>(&self, read: impl FnOnce(&Ledger) -> T) -> Option<T> {
        let mut books = self.inner.admissions.lock();
        let books = self.caught_up(&mut books, &self.snapshot())?;
        Some(read(&books.ledger))
    }

    fn caught_up<'a>(
        &self,
        books: &'a mut Option<Books>,
        snapshot: &Snapshot,
    ) -> Option<&'a mut Books> {
        let store = &*self.inner.store;
        if books.is_none() {
            *books = Books::open(store);
        }
        let books = books.as_mut()?;
        if let Some(before) = books.catch_up(store, snapshot) {
            self.alarm(books.ledger.tree(), &before);
        }
        Some(books)
    }

    /// Whether a claim would be admitted now; changes nothing.
    pub(crate) fn would_admit(
        &self,
        snapshot: &Snapshot,
        id: &WorkloadId,
        claim: &Claim,
    ) -> std::result::Result<(), Box<Refusal>> {
        let mut books = self.inner.admissions.lock();
        let Some(books) = self.caught_up(&mut books, snapshot) else {
            return Ok(());
        };
        let before = books.ledger.claim(id).unwrap_or_default();
        let answer = books.ledger.admit(&claim.pool, before, claim.charge);
        answer.map(drop).map_err(Box::new)
    }

    fn admit(
        &self,
        snapshot: &Snapshot,
        id: &WorkloadId,
        claim: Claim,
        clears: &[WorkloadId],
    ) -> std::result::Result<Option<Pending<'_>>, Box<Refusal>> {
        let mut books = self.inner.admissions.lock();
        let Some(books) = self.caught_up(&mut books, snapshot) else {
            return Ok(None);
        };
        let before = books.ledger.claim(id).unwrap_or_default();
        let cleared: Vec<(&WorkloadId, Claim)> = clears
            .iter()
            .filter_map(|id| Some((id, books.ledger.claim_of(id)?)))
            .collect();
        for (id, _) in &cleared {
            books.ledger.set(id, None);
        }
        let answer = books.ledger.admit(&claim.pool, before, claim.charge);
        // They are charged until they have gone.
        for (id, claim) in &cleared {
            books.ledger.set(id, Some(claim));
        }
        answer?;
        books.admissions += 1;
        let number = books.admissions;
        books.ledger.set(id, Some(&claim));
        books.pending.insert(id.clone(), (number, claim));
        Ok(Some(Pending {
            control: self,
            id: id.clone(),
            number,
        }))
    }

    /// Makes sure that it is this server's turn.
    pub(crate) async fn take_turn(&self) -> Result<()> {
        let mine = &self.inner.admissions;
        if mine.turn(&self.snapshot()).is_some() {
            return Ok(());
        }
        let mut had = mine.turning.lock().await;
        loop {
            let snapshot = self.snapshot();
            if mine.turn(&snapshot).is_some() {
                *had = true;
                return Ok(());
            }
            if std::mem::take(&mut *had) {
                tokio::time::sleep(TURN_PAUSE).await;
                continue;
            }
            let held = snapshot.setting(TURN).map(|row| row.revision());
            let name = turn_name()?;
            let key = Key::Setting(name.clone());
            let setting = Object::Setting(Setting {
                name,
                value: mine.server.clone(),
            });
            let expect = held.map_or(Expect::Absent, Expect::Revision);
            let grant = self.own_grant(Action::WorkloadControl)?;
            let tx = Transaction::new().expect(key, expect).put(setting);
            match self.commit(&grant, tx).await {
                Ok(_) => {}
                Err(CommitError::Conflict { .. }) => *had = true,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Adds to a transaction that it must be this server's turn; `None` when it is not by this snapshot.
    pub(crate) fn in_turn(&self, snapshot: &Snapshot, tx: Transaction) -> Option<Transaction> {
        let at = self.inner.admissions.turn(snapshot)?;
        let key = snapshot.setting(TURN)?.name.clone();
        Some(tx.expect(Key::Setting(key), Expect::Revision(at)))
    }

    /// Commits a transaction that makes `id` be charged `claim`, if there is room for it.
    pub(crate) async fn commit_admitted(
        &self,
        grant: &Grant,
        snapshot: &Snapshot,
        step: Step,
    ) -> std::result::Result<Revision, AdmitError> {
        let tx = self
            .in_turn(snapshot, step.tx)
            .ok_or(AdmitError::OutOfTurn)?;
        let admitted = self.admit(snapshot, &step.id, step.claim, &step.clears);
        let pending = admitted.map_err(|refusal| {
            Counters::add(&self.inner.counters.admissions_refused, 1);
            AdmitError::Refused(refusal)
        })?;
        let revision = self.commit(grant, tx).await.map_err(|error| match error {
            CommitError::Conflict {
                key: Key::Setting(_),
            } => AdmitError::OutOfTurn,
            error => AdmitError::Commit(error),
        })?;
        drop(pending);
        Ok(revision)
    }

    /// As [`Control::change`], for what adds to what a pool is charged. The turn is taken before anything is decided, so
    /// that a refusal is by the newest state.
    pub(crate) async fn change_admitted<T>(
        &self,
        grant: &Grant,
        decide: impl FnMut(&Snapshot) -> Result<(Option<Step>, T)>,
    ) -> Result<T> {
        self.take_turn().await?;
        self.try_admitted(grant, decide).await
    }

    /// The same for what is tried again and again: nothing is written while there is nothing to commit, not even whose
    /// turn it is. Two servers that try would otherwise take the turn from each other for ever.
    pub(crate) async fn try_admitted<T>(
        &self,
        grant: &Grant,
        mut decide: impl FnMut(&Snapshot) -> Result<(Option<Step>, T)>,
    ) -> Result<T> {
        for _ in 0..TURN_TRIES {
            let snapshot = self.snapshot();
            let (step, value) = decide(&snapshot)?;
            let Some(step) = step else {
                return Ok(value);
            };
            match self.commit_admitted(grant, &snapshot, step).await {
                Ok(_) => return Ok(value),
                Err(AdmitError::OutOfTurn) => self.take_turn().await?,
                Err(AdmitError::Commit(CommitError::Conflict { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::conflict(BUSY))
    }

    /// Brings the ledger up to date when pools or hosts changed, so that alarms come at once.
    pub(crate) fn follow_pools(&self, event: &store::Event) {
        let concerns = event.changes.iter().any(|change| {
            matches!(
                change.key().kind(),
                Kind::Pool | Kind::Host | Kind::Installation
            )
        });
        if concerns {
            self.with_ledger(|_| ());
        }
    }

    /// Tells what lacks now and did not before, and what no longer does.
    fn alarm(&self, tree: &Tree, before: &Shortage) {
        let after = shortage(tree);
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let (was, is) = (before.get(key), after.get(key));
            if was == is {
                continue;
            }
            let (pool, resource) = key;
            let name = tree.node(pool).map_or("", |node| node.name.as_str());
            let missing = is.copied().unwrap_or(0);
            let action = if missing > 0 {
                tracing::warn!(
                    pool = name,
                    resource = resource.as_str(),
                    missing,
                    "a pool is over-committed"
                );
                "over-committed"
            } else {
                tracing::info!(
                    pool = name,
                    resource = resource.as_str(),
                    "a pool has all it reserved again"
                );
                "honoured"
            };
            let attributes = BTreeMap::from([
                ("name".to_owned(), name.to_owned()),
                ("resource".to_owned(), resource.as_str().to_owned()),
                ("missing".to_owned(), resource.show(missing)),
            ]);
            let log = &self.inner.events;
            log.push(
                Some(pool.clone()),
                Subject::Pool,
                action,
                pool.as_str(),
                attributes,
            );
        }
    }

    /// Starts the audit: as long as the control lives, the ledger is compared with what it should be.
    pub(crate) fn start_audit(&self) {
        let inner = std::sync::Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(AUDIT_PAUSE).await;
                let Some(inner) = inner.upgrade() else {
                    return;
                };
                Control { inner }.audit_ledger();
            }
        });
    }

    /// Recomputes the ledger from all objects and repairs it if it differs, with a report: an event and a counter for
    /// every pool and key. Returns the number of differences.
    pub fn audit_ledger(&self) -> usize {
        let mut books = self.inner.admissions.lock();
        let snapshot = self.snapshot();
        let Some(books) = self.caught_up(&mut books, &snapshot) else {
            return 0;
        };
        // Both are at the same revision, or nothing can be said this time.
        let snapshot = self.snapshot();
        if books.watch.seen() != snapshot.revision {
            return 0;
        }
        let mut anew = recomputed(&snapshot);
        for (id, (_, claim)) in &books.pending {
            anew.set(id, Some(claim));
        }
        Counters::add(&self.inner.counters.ledger_audits, 1);
        let found = books.ledger.differences(&anew);
        if found.is_empty() {
            return 0;
        }
        for difference in &found {
            self.report(books.ledger.tree(), difference);
        }
        Counters::add(&self.inner.counters.ledger_repairs, found.len() as u64);
        books.ledger = anew;
        found.len()
    }

    fn report(&self, tree: &Tree, difference: &plan::pools::ledger::Difference) {
        let (key, pool) = (difference.key, &difference.pool);
        let node = pool.as_ref().and_then(|pool| tree.node(pool));
        let name = node.map_or("the installation", |node| node.name.as_str());
        tracing::error!(
            pool = name,
            key = key.as_str(),
            kept = difference.kept,
            recomputed = difference.recomputed,
            "the ledger was wrong and has been repaired: this is a defect"
        );
        let attributes = BTreeMap::from([
            ("name".to_owned(), name.to_owned()),
            ("key".to_owned(), key.as_str().to_owned()),
            ("kept".to_owned(), key.show(difference.kept)),
            ("recomputed".to_owned(), key.show(difference.recomputed)),
        ]);
        let id = pool.as_ref().map_or("", |pool| pool.as_str());
        let log = &self.inner.events;
        log.push(
            pool.clone(),
            Subject::Pool,
            "ledger-repaired",
            id,
            attributes,
        );
    }

    /// Puts a wrong number into the ledger, for tests of the audit.
    #[doc(hidden)]
    pub fn test_spoil_ledger(&self, id: &WorkloadId) {
        let mut books = self.inner.admissions.lock();
        if let Some(books) = self.caught_up(&mut books, &self.snapshot()) {
            books.ledger.set(id, None);
        }
    }
}

/// What is missing, by pool and resource.
pub(crate) fn shortage(tree: &Tree) -> Shortage {
    let mut found = Shortage::new();
    for node in &tree.nodes {
        let Some(pool) = &node.pool else { continue };
        for resource in Resource::ALL {
            let short = node.line(resource).short();
            if short > 0 {
                found.insert((pool.clone(), resource), short);
            }
        }
    }
    found
}

impl Drop for Pending<'_> {
    /// From now on what the store says counts: the claim, or what has come in its place meanwhile.
    fn drop(&mut self) {
        let mut books = self.control.inner.admissions.lock();
        let Some(books) = books.as_mut() else { return };
        let mine = |(number, _): &(u64, Claim)| *number == self.number;
        if books.pending.get(&self.id).is_some_and(mine) {
            books.pending.remove(&self.id);
            let snapshot = self.control.snapshot();
            let stored = snapshot.workload(&self.id).map(|row| Claim::of(&row));
            books.ledger.set(&self.id, stored.as_ref());
        }
    }
}
