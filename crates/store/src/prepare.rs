//! Everything about a transaction that can be checked and made without the current state.
//!
//! Runs in the caller's task, so that the single writer has little left to do.

use std::sync::Arc;

use model::{Key, stored};

use crate::types::{NameKey, Revision, Versioned};
use crate::{CommitError, Expect, Op, Transaction};

/// Longest stored form of one object. etcd takes requests of 1.5 MiB at most; the rest is for what goes with it.
pub const MAX_OBJECT_BYTES: usize = 1024 * 1024;

/// Longest stored form of all objects of a transaction together, for the same reason.
pub const MAX_TRANSACTION_BYTES: usize = 1280 * 1024;

/// Most changes of one transaction. etcd takes 128 operations per request; a new named object needs two.
pub const MAX_OPERATIONS: usize = 64;

/// Most expectations of one transaction, for the same reason.
pub const MAX_EXPECTATIONS: usize = 64;

/// A checked transaction with its stored forms.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) expect: Vec<(Key, Expect)>,
    pub(crate) ops: Vec<PreparedOp>,
    /// Length of all stored forms.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct PreparedOp {
    pub(crate) key: Key,
    /// The key as it is stored.
    pub(crate) key_text: String,
    pub(crate) put: Option<Put>,
}

/// An object to put. Its revisions are set when the transaction is applied.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) versioned: Arc<Versioned>,
    pub(crate) encoded: Arc<[u8]>,
    pub(crate) name: Option<NameKey>,
}

pub(crate) fn prepare(tx: Transaction) -> Result<Prepared, CommitError> {
    limit("the number of changes", tx.ops.len(), MAX_OPERATIONS)?;
    limit(
        "the number of expectations",
        tx.expect.len(),
        MAX_EXPECTATIONS,
    )?;
    let mut bytes = 0;
    let mut ops: Vec<PreparedOp> = Vec::with_capacity(tx.ops.len());
    for op in tx.ops {
        let op = prepare_op(op)?;
        if ops.iter().any(|other| other.key == op.key) {
            return Err(CommitError::Duplicate { key: op.key });
        }
        if let Some(put) = &op.put {
            limit(
                "the length of an object",
                put.encoded.len(),
                MAX_OBJECT_BYTES,
            )?;
            bytes += put.encoded.len();
        }
        ops.push(op);
    }
    limit("the length of all objects", bytes, MAX_TRANSACTION_BYTES)?;
    Ok(Prepared {
        expect: tx.expect,
        ops,
        bytes,
    })
}

fn prepare_op(op: Op) -> Result<PreparedOp, CommitError> {
    let key = op.key();
    let put = match op {
        Op::Delete(_) => None,
        Op::Put(object) => {
            let encoded = stored::encode(&object).map_err(|source| CommitError::Encode {
                key: key.clone(),
                source,
            })?;
            Some(Put {
                name: NameKey::of(&object),
                versioned: Arc::new(Versioned {
                    revision: Revision::ZERO,
                    created: Revision::ZERO,
                    object,
                }),
                encoded: encoded.into(),
            })
        }
    };
    Ok(PreparedOp {
        key_text: key.to_string(),
        key,
        put,
    })
}

fn limit(what: &'static str, size: usize, limit: usize) -> Result<(), CommitError> {
    if size > limit {
        return Err(CommitError::TooLarge { what, size, limit });
    }
    Ok(())
}
