//! A stored object that outlives the snapshot it came from.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use store::{Revision, Row, Stored, Versioned};

/// A stored object of known type; use it like a `&T`. Cloning copies a pointer.
pub struct Kept<T> {
    versioned: Arc<Versioned>,
    kind: PhantomData<fn() -> T>,
}

impl<T: Stored> Kept<T> {
    /// Revision of its last change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.versioned.revision
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self {
            versioned: Arc::clone(&self.versioned),
            kind: PhantomData,
        }
    }
}

impl<T: Stored> From<Row<'_, T>> for Kept<T> {
    fn from(row: Row<'_, T>) -> Self {
        Self {
            versioned: Arc::clone(row.versioned()),
            kind: PhantomData,
        }
    }
}

impl<T: Stored> Deref for Kept<T> {
    type Target = T;
    #[expect(
        clippy::expect_used,
        reason = "a Kept is only made from a Row, which checked the type"
    )]
    fn deref(&self) -> &T {
        T::of(&self.versioned.object).expect("object of the row's type")
    }
}

impl<T: Stored + fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
