//! The small values everything else is made of.

use std::fmt;
use std::sync::Arc;

use model::{DesiredState, Key, Kind, Name, Object, PoolId};

/// Number of a committed state of the store; 0 is the state before the first commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The state before the first commit.
    pub const ZERO: Revision = Revision(0);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An object with the revisions it was made and last changed at.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// Revision of the last change of this key.
    pub revision: Revision,
    /// Revision this key was made at; changes when it is deleted and made again.
    pub created: Revision,
    /// The object itself.
    pub object: Object,
}

impl PartialEq for Versioned {
    /// The same one is equal without a look inside: differences of snapshots compare many that are.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.revision == other.revision
                && self.created == other.created
                && self.object == other.object)
    }
}

/// What one commit changed.
#[derive(Debug, Clone)]
pub struct Event {
    /// The state these changes lead to.
    pub revision: Revision,
    /// The changes, in the order of the transaction; never empty.
    pub changes: Arc<[Change]>,
}

/// The change of one key.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The object was made or replaced.
    Put(Arc<Versioned>),
    /// The object was deleted.
    Delete {
        /// Its key.
        key: Key,
        /// What it last was.
        last: Arc<Versioned>,
    },
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Change::Put(versioned) => versioned.object.key(),
            Change::Delete { key, .. } => key.clone(),
        }
    }
}

/// A name at the place where it must be unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameKey {
    /// The kind of object that has the name.
    pub kind: Kind,
    /// The pool the name is unique in; `None`: in the installation.
    pub scope: Option<PoolId>,
    /// The name.
    pub name: Name,
}

impl NameKey {
    /// The name of `object` if names of its kind are unique.
    #[must_use]
    pub fn of(object: &Object) -> Option<Self> {
        let (scope, name) = match object {
            Object::Pool(it) => (None, &it.name),
            Object::Host(it) => (None, &it.name),
            Object::Principal(it) => (None, &it.name),
            // What is being removed is gone for its pool: its name is free, though its host still cleans up.
            Object::Workload(it) if it.desired == DesiredState::Removed => return None,
            Object::Workload(it) => (Some(it.pool.clone()), &it.name),
            Object::Network(it) => (Some(it.pool.clone()), &it.name),
            Object::Image(_)
            | Object::AccessToken(_)
            | Object::JoinToken(_)
            | Object::Setting(_)
            | Object::DroppedImage(_)
            | Object::Installation(_)
            | Object::Division(_) => return None,
        };
        Some(Self {
            kind: object.key().kind(),
            scope,
            name: name.clone(),
        })
    }
}

impl fmt::Display for NameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} name \"{}\"", self.kind.prefix(), self.name)?;
        match &self.scope {
            Some(pool) => write!(f, " in pool {pool}"),
            None => Ok(()),
        }
    }
}
