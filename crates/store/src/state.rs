//! The newest state as a single writer sees it: checks a transaction against it and applies it.
//!
//! Used by the memory and SQLite backends. Cloning is cheap; a writer applies to a clone and drops it when the
//! backend refuses.

use std::sync::Arc;

use model::Key;

use crate::prepare::{Prepared, Put};
use crate::tables::Tables;
use crate::types::{Change, NameKey, Revision, Versioned};
use crate::{CommitError, Event, Expect, Snapshot};

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) tables: Tables,
}

impl State {
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            revision: self.revision,
            tables: Arc::new(self.tables.clone()),
        }
    }

    /// Checks and applies; `None` when nothing changes. On an error the state is as before.
    pub(crate) fn apply(&mut self, tx: &mut Prepared) -> Result<Option<Event>, CommitError> {
        self.check_expectations(tx)?;
        check_names(&self.tables, tx)?;
        let revision = self.revision.next();
        let mut changes = Vec::with_capacity(tx.ops.len());
        for op in &mut tx.ops {
            match &mut op.put {
                Some(put) => changes.push(self.put(revision, &op.key, put)),
                None => {
                    if let Some(last) = self.tables.remove(&op.key) {
                        let key = op.key.clone();
                        changes.push(Change::Delete { key, last });
                    }
                }
            }
        }
        if changes.is_empty() {
            return Ok(None);
        }
        self.revision = revision;
        Ok(Some(Event {
            revision,
            changes: changes.into(),
        }))
    }

    /// Whether the transaction would make an object that is not there.
    pub(crate) fn creates(&self, tx: &Prepared) -> bool {
        tx.ops
            .iter()
            .any(|op| op.put.is_some() && self.tables.get(&op.key).is_none())
    }

    fn put(&mut self, revision: Revision, key: &Key, put: &mut Put) -> Change {
        let created = self.tables.get(key).map_or(revision, |old| old.created);
        // Nobody else has it yet, so nothing is copied; after a refused batch it may still be shared, then it is.
        let versioned = Arc::make_mut(&mut put.versioned);
        versioned.revision = revision;
        versioned.created = created;
        self.tables.insert(Arc::clone(&put.versioned));
        Change::Put(Arc::clone(&put.versioned))
    }

    fn check_expectations(&self, tx: &Prepared) -> Result<(), CommitError> {
        let broken = tx
            .expect
            .iter()
            .find(|(key, expect)| !holds(*expect, self.tables.get(key).map(Arc::as_ref)));
        match broken {
            Some((key, _)) => Err(CommitError::Conflict { key: key.clone() }),
            None => Ok(()),
        }
    }
}

pub(crate) fn holds(expect: Expect, found: Option<&Versioned>) -> bool {
    match (expect, found) {
        (Expect::Absent, found) => found.is_none(),
        (Expect::Exists, found) => found.is_some(),
        (Expect::Revision(wanted), Some(found)) => found.revision == wanted,
        (Expect::Revision(_), None) => false,
    }
}

/// Whether every name is held once after the transaction.
pub(crate) fn check_names(tables: &Tables, tx: &Prepared) -> Result<(), CommitError> {
    for (at, op) in tx.ops.iter().enumerate() {
        let Some(name) = op.put.as_ref().and_then(|put| put.name.as_ref()) else {
            continue;
        };
        let taken = |holder: &Key| CommitError::NameTaken {
            name: name.clone(),
            holder: holder.clone(),
        };
        if let Some(holder) = tables.names.get(name)
            && *holder != op.key
            && !releases(tx, holder, name)
        {
            return Err(taken(holder));
        }
        let same = |other: &&crate::prepare::PreparedOp| {
            other.put.as_ref().and_then(|put| put.name.as_ref()) == Some(name)
        };
        if let Some(other) = tx.ops[..at].iter().find(same) {
            return Err(taken(&other.key));
        }
    }
    Ok(())
}

/// Whether the transaction takes `name` away from `holder`.
pub(crate) fn releases(tx: &Prepared, holder: &Key, name: &NameKey) -> bool {
    tx.ops.iter().any(|op| {
        op.key == *holder
            && op
                .put
                .as_ref()
                .is_none_or(|put| put.name.as_ref() != Some(name))
    })
}
