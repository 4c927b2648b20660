//! The state of an installation: snapshot, commit-if-unchanged, watch.
//!
//! What it is: keyed objects ([`model::Object`]) with revisions; three backends behind one trait, [`Store`]: memory
//! ([`open_memory`]), SQLite ([`open_sqlite`]) and etcd ([`open_etcd`]). What it is not: it knows no rule of the domain
//! except that names are unique where the model says so; who may do what and what follows from what is `control`'s
//! and `plan`'s.
//!
//! Start at [`Store`], then [`Snapshot`] and [`Transaction`].
//!
//! What always holds:
//! - Reads never touch the backend: [`Store::snapshot`] hands out an immutable value in nanoseconds.
//! - A commit is all or nothing, compared against the revisions it names, and durable before it is acknowledged;
//!   after it, the snapshot of the same store contains it.
//! - Revisions only grow, also over crashes and restarts.
//! - Two objects never have the same name: pools, hosts and principals in the installation, workloads in their pool.
//!   A transaction that would break this fails with [`CommitError::NameTaken`].
//! - There are no locks or leases to trust. Work that must be done by one server only writes with
//!   [`Expect::Revision`] of the object that says whose turn it is, in the same transaction.

mod api;
mod error;
mod etcd;
mod feed;
mod memory;
mod metrics;
mod prepare;
mod replica;
mod snapshot;
mod sqlite;
mod state;
mod tables;
mod transaction;
mod types;

pub use api::Store;
pub use error::{CommitError, ConfirmError, OpenError, WatchError};
pub use etcd::{EtcdOptions, EtcdTls, open_etcd};
pub use feed::{HistoryLimits, Watch};
pub use memory::{open_memory, open_memory_with};
pub use metrics::{Histogram, Metrics};
pub use prepare::{MAX_EXPECTATIONS, MAX_OBJECT_BYTES, MAX_OPERATIONS, MAX_TRANSACTION_BYTES};
pub use replica::Replica;
pub use snapshot::{Row, Snapshot, Stored};
pub use sqlite::{SqliteOptions, open_sqlite};
pub use transaction::{Expect, Op, Transaction};
pub use types::{Change, Event, NameKey, Revision, Versioned};
