//! From a transaction and a snapshot to one etcd transaction; pure.
//!
//! The snapshot may lag behind. Everything taken from it is compared in the same etcd transaction, so a stale
//! snapshot costs another round, never a wrong write.

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};
use model::Key;

use super::keys::{Keys, Mark, encode};
use crate::prepare::{Prepared, PreparedOp};
use crate::state::{check_names, holds, releases};
use crate::types::NameKey;
use crate::{CommitError, Expect, Snapshot};

/// etcd's default for `--max-txn-ops`.
const ETCD_OPERATIONS: usize = 128;

/// One comparison, comparable itself so that none is sent twice.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Check {
    Absent,
    Exists,
    ChangedAt(u64),
    Says(String),
}

/// What to do with a transaction at a snapshot.
pub(super) enum Plan {
    /// Send this.
    Send(Sending),
    /// The snapshot is older than what the caller has read: wait for it.
    Behind,
    /// As far as the snapshot knows, it must be refused. Names may be free by now; the rest is certain.
    Refuse(CommitError),
}

pub(super) struct Sending {
    pub(super) txn: Txn,
    /// Whether it could not be applied twice: its own write breaks what it compares.
    pub(super) once: bool,
}

pub(super) fn plan(snapshot: &Snapshot, tx: &Prepared, keys: &Keys, mark: Mark) -> Plan {
    for (key, expect) in &tx.expect {
        let Expect::Revision(read) = expect else {
            continue;
        };
        if *read > snapshot.revision {
            return Plan::Behind;
        }
        // A key never returns to an earlier revision.
        if !holds(*expect, snapshot.get(key).map(AsRef::as_ref)) {
            return Plan::Refuse(CommitError::Conflict { key: key.clone() });
        }
    }
    if let Err(error) = check_names(&snapshot.tables, tx) {
        return Plan::Refuse(error);
    }
    let mut build = Build {
        snapshot,
        tx,
        keys,
        mark,
        checks: Vec::new(),
        ops: Vec::new(),
    };
    for (key, expect) in &tx.expect {
        let at = keys.object(&key.to_string());
        build.check(at, check_of(*expect));
    }
    for op in &tx.ops {
        build.op(op);
    }
    build.finish()
}

fn check_of(expect: Expect) -> Check {
    match expect {
        Expect::Absent => Check::Absent,
        Expect::Exists => Check::Exists,
        Expect::Revision(read) => Check::ChangedAt(read.0),
    }
}

struct Build<'a> {
    snapshot: &'a Snapshot,
    tx: &'a Prepared,
    keys: &'a Keys,
    mark: Mark,
    checks: Vec<(String, Check)>,
    ops: Vec<TxnOp>,
}

impl Build<'_> {
    fn check(&mut self, key: String, check: Check) {
        let check = (key, check);
        if !self.checks.contains(&check) {
            self.checks.push(check);
        }
    }

    fn op(&mut self, op: &PreparedOp) {
        let at = self.keys.object(&op.key_text);
        let old = self.snapshot.get(&op.key);
        let old_name = old.and_then(|it| NameKey::of(&it.object));
        let new_name = op.put.as_ref().and_then(|put| put.name.clone());
        if has_name(&op.key) {
            // What happens to the names rests on the snapshot's idea of this object.
            let check = old.map_or(Check::Absent, |it| Check::ChangedAt(it.revision.0));
            self.check(at.clone(), check);
        }
        match &op.put {
            Some(put) => {
                let value = encode(self.mark, &put.encoded);
                self.ops.push(TxnOp::put(at, value, None));
            }
            None => self.ops.push(TxnOp::delete(at, None)),
        }
        if old_name != new_name {
            self.rename(op, old_name, new_name);
        }
    }

    fn rename(&mut self, op: &PreparedOp, old: Option<NameKey>, new: Option<NameKey>) {
        if let Some(name) = old
            && !self.takes(&name)
        {
            self.ops.push(TxnOp::delete(self.keys.name(&name), None));
        }
        if let Some(name) = new {
            let at = self.keys.name(&name);
            let held = match self.snapshot.holder(&name) {
                // `check_names` has seen to it that this transaction takes the name away from its holder.
                Some(holder) if releases(self.tx, holder, &name) => Check::Says(holder.to_string()),
                Some(_) | None => Check::Absent,
            };
            self.check(at.clone(), held);
            self.ops.push(TxnOp::put(at, op.key_text.clone(), None));
        }
    }

    /// Whether an object of this transaction gets the name.
    fn takes(&self, name: &NameKey) -> bool {
        let mut names = self.tx.ops.iter().filter_map(|op| op.put.as_ref());
        names.any(|put| put.name.as_ref() == Some(name))
    }

    fn finish(self) -> Plan {
        for (what, size) in [
            ("the number of operations in etcd", self.ops.len()),
            ("the number of comparisons in etcd", self.checks.len()),
        ] {
            if size > ETCD_OPERATIONS {
                let limit = ETCD_OPERATIONS;
                return Plan::Refuse(CommitError::TooLarge { what, size, limit });
            }
        }
        let once = self.tx.ops.iter().any(|op| {
            let at = self.keys.object(&op.key_text);
            let breaks = |check: &Check| matches!(check, Check::Absent | Check::ChangedAt(_));
            op.put.is_some() && self.checks.iter().any(|(key, it)| *key == at && breaks(it))
        });
        let compares: Vec<Compare> = self.checks.into_iter().map(compare).collect();
        let txn = Txn::new()
            .when(compares)
            .and_then(self.ops)
            .or_else(read_expected(self.tx, self.keys));
        Plan::Send(Sending { txn, once })
    }
}

/// Asks who has `name`, if the expectations hold: what is refused for two reasons is refused for the first.
pub(super) fn ask_holder(tx: &Prepared, keys: &Keys, name: &NameKey) -> Txn {
    let compares = tx
        .expect
        .iter()
        .map(|(key, expect)| compare((keys.object(&key.to_string()), check_of(*expect))));
    Txn::new()
        .when(compares.collect::<Vec<_>>())
        .and_then([TxnOp::get(keys.name(name), None)])
        .or_else(read_expected(tx, keys))
}

/// Reads when each expected key was last changed, in order, to tell which expectation does not hold.
fn read_expected(tx: &Prepared, keys: &Keys) -> Vec<TxnOp> {
    let read = |key: &Key| {
        let options = GetOptions::new().with_keys_only();
        TxnOp::get(keys.object(&key.to_string()), Some(options))
    };
    tx.expect.iter().map(|(key, _)| read(key)).collect()
}

fn has_name(key: &Key) -> bool {
    match key {
        Key::Pool(_) | Key::Host(_) | Key::Workload(_) | Key::Principal(_) | Key::Network(_) => {
            true
        }
        Key::Image(..)
        | Key::AccessToken(_)
        | Key::JoinToken(_)
        | Key::Setting(_)
        | Key::DroppedImage(_)
        | Key::Installation
        | Key::Division(_) => false,
    }
}

fn compare((key, check): (String, Check)) -> Compare {
    match check {
        Check::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
        Check::Exists => Compare::create_revision(key, CompareOp::Greater, 0),
        Check::ChangedAt(revision) => {
            let revision = i64::try_from(revision).unwrap_or(i64::MAX);
            Compare::mod_revision(key, CompareOp::Equal, revision)
        }
        Check::Says(value) => Compare::value(key, CompareOp::Equal, value),
    }
}
