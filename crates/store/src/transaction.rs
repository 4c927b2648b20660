//! What a caller asks to be committed.

use model::{Key, Object};

use crate::Revision;

/// What must hold of a key, before the transaction, for it to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no such object.
    Absent,
    /// The object was last changed at this revision.
    Revision(Revision),
    /// There is such an object.
    Exists,
}

/// One change.
#[expect(
    clippy::large_enum_variant,
    reason = "short-lived, and nearly always an object"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Make or replace the object under its own key.
    Put(Object),
    /// Delete the object; nothing happens if there is none.
    Delete(Key),
}

impl Op {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Op::Put(object) => object.key(),
            Op::Delete(key) => key.clone(),
        }
    }
}

/// Changes that are made together or not at all.
///
/// Each key may be changed once. Names are compared after all changes, so that two objects can swap names. A
/// transaction that changes nothing is checked, and answers with the current revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transaction {
    /// What must hold before.
    pub expect: Vec<(Key, Expect)>,
    /// The changes.
    pub ops: Vec<Op>,
}

impl Transaction {
    /// A transaction without expectations and changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an expectation.
    #[must_use]
    pub fn expect(mut self, key: Key, expect: Expect) -> Self {
        self.expect.push((key, expect));
        self
    }

    /// Adds a change.
    #[must_use]
    pub fn op(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Puts without any expectation.
    #[must_use]
    pub fn put(self, object: Object) -> Self {
        self.op(Op::Put(object))
    }

    /// Puts an object that must not exist yet.
    #[must_use]
    pub fn create(self, object: Object) -> Self {
        self.expect(object.key(), Expect::Absent).put(object)
    }

    /// Replaces an object last changed at `read`.
    #[must_use]
    pub fn update(self, read: Revision, object: Object) -> Self {
        self.expect(object.key(), Expect::Revision(read))
            .put(object)
    }

    /// Deletes without any expectation.
    #[must_use]
    pub fn delete(self, key: Key) -> Self {
        self.op(Op::Delete(key))
    }

    /// Deletes an object last changed at `read`.
    #[must_use]
    pub fn delete_unchanged(self, read: Revision, key: Key) -> Self {
        self.expect(key.clone(), Expect::Revision(read)).delete(key)
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}
