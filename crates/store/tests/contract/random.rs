//! Random transactions against a model that is as simple as can be.

use std::collections::BTreeMap;

use model::{Key, Object};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use store::{
    Change, CommitError, Expect, HistoryLimits, NameKey, Revision, Snapshot, Store, Transaction,
};

use crate::backend::Fresh;
use crate::objects::*;

contract! { random_transactions }

/// Sequences tried per backend.
const CASES: u32 = 24;

#[derive(Debug, Clone)]
enum Step {
    Put {
        object: Object,
        stale: bool,
        expect: Option<u8>,
    },
    Delete {
        object: Object,
        expect: Option<u8>,
    },
}

/// Few keys and fewer names, so that most steps meet one another.
fn object() -> impl Strategy<Value = Object> {
    let pools = (0u64..3, 0u8..3).prop_map(|(at, called)| pool(at, &format!("p{called}")));
    let settings = (0u8..3, 0u8..4).prop_map(|(at, it)| setting(&format!("s{at}"), it.to_string()));
    let workloads = (0u64..4, 0u64..2, 0u8..3, proptest::option::of(0u64..2)).prop_map(
        |(at, pool, called, host)| {
            Object::Workload(workload(at, pool, &format!("w{called}"), host))
        },
    );
    prop_oneof![pools, settings, workloads]
}

fn step() -> impl Strategy<Value = Step> {
    let expect = || proptest::option::of(0u8..3);
    prop_oneof![
        3 => (object(), any::<bool>(), expect())
            .prop_map(|(object, stale, expect)| Step::Put { object, stale, expect }),
        1 => (object(), expect()).prop_map(|(object, expect)| Step::Delete { object, expect }),
    ]
}

#[derive(Default)]
struct Model {
    objects: BTreeMap<Key, (Revision, Revision, Object)>,
}

impl Model {
    fn transaction(&self, steps: &[Step]) -> Transaction {
        steps.iter().fold(Transaction::new(), |tx, step| {
            let (object, expect, stale) = match step {
                Step::Put {
                    object,
                    stale,
                    expect,
                } => (object, expect, *stale),
                Step::Delete { object, expect } => (object, expect, false),
            };
            let key = object.key();
            let at = self.objects.get(&key).map_or(Revision(1), |it| it.0);
            let tx = match expect {
                None => tx,
                Some(0) => tx.expect(key.clone(), Expect::Absent),
                Some(1) => tx.expect(key.clone(), Expect::Exists),
                Some(_) => {
                    let read = Revision(at.0.saturating_sub(u64::from(stale)));
                    tx.expect(key.clone(), Expect::Revision(read))
                }
            };
            match step {
                Step::Put { object, .. } => tx.put(object.clone()),
                Step::Delete { .. } => tx.delete(key),
            }
        })
    }

    fn holds(&self, tx: &Transaction) -> bool {
        tx.expect.iter().all(|(key, expect)| {
            let found = self.objects.get(key).map(|it| it.0);
            match expect {
                Expect::Absent => found.is_none(),
                Expect::Exists => found.is_some(),
                Expect::Revision(read) => found == Some(*read),
            }
        })
    }

    fn after(
        &self,
        tx: &Transaction,
        revision: Revision,
    ) -> BTreeMap<Key, (Revision, Revision, Object)> {
        let mut objects = self.objects.clone();
        for op in &tx.ops {
            match op {
                store::Op::Put(object) => {
                    let key = object.key();
                    let created = objects.get(&key).map_or(revision, |it| it.1);
                    objects.insert(key, (revision, created, object.clone()));
                }
                store::Op::Delete(key) => drop(objects.remove(key)),
            }
        }
        objects
    }
}

fn names_are_unique(objects: &BTreeMap<Key, (Revision, Revision, Object)>) -> bool {
    let mut names: Vec<NameKey> = objects
        .values()
        .filter_map(|it| NameKey::of(&it.2))
        .collect();
    let all = names.len();
    names.sort();
    names.dedup();
    names.len() == all
}

fn same(snapshot: &Snapshot, model: &Model) {
    let found: BTreeMap<Key, (Revision, Revision, Object)> = snapshot
        .objects()
        .map(|it| {
            (
                it.object.key(),
                (it.revision, it.created, it.object.clone()),
            )
        })
        .collect();
    assert_eq!(found, model.objects);
    for at in 0..2 {
        let of: Vec<_> = snapshot
            .workloads_of(&pool_id(at))
            .map(|it| it.id.clone())
            .collect();
        let all = snapshot.workloads().filter(|it| it.pool == pool_id(at));
        assert_eq!(of, all.map(|it| it.id.clone()).collect::<Vec<_>>());
        let on: Vec<_> = snapshot
            .workloads_on(&host_id(at))
            .map(|it| it.id.clone())
            .collect();
        let all = snapshot
            .workloads()
            .filter(|it| it.host == Some(host_id(at)));
        assert_eq!(on, all.map(|it| it.id.clone()).collect::<Vec<_>>());
    }
    let named = snapshot
        .objects()
        .filter_map(|it| Some((NameKey::of(&it.object)?, it)));
    for (name, it) in named {
        assert_eq!(snapshot.holder(&name), Some(&it.object.key()));
    }
}

async fn run(store: &dyn Store, transactions: Vec<Vec<Step>>) {
    let mut model = Model::default();
    let start = store.snapshot().revision;
    let mut replica = BTreeMap::new();
    let mut watch = store.watch(start).unwrap();
    for steps in transactions {
        let tx = model.transaction(&steps);
        let keys: Vec<Key> = tx.ops.iter().map(store::Op::key).collect();
        let twice = (0..keys.len()).any(|at| keys[..at].contains(&keys[at]));
        let before = store.snapshot().revision;
        match store.commit(tx.clone()).await {
            Ok(revision) => {
                let after = model.after(&tx, revision);
                assert!(
                    !twice && model.holds(&tx) && names_are_unique(&after),
                    "{tx:?}"
                );
                assert!(revision >= before);
                model.objects = after;
            }
            Err(CommitError::Duplicate { .. }) => assert!(twice),
            Err(CommitError::Conflict { .. }) => assert!(!model.holds(&tx), "{tx:?}"),
            Err(CommitError::NameTaken { .. }) => {
                let after = model.after(&tx, before.next());
                assert!(model.holds(&tx) && !names_are_unique(&after), "{tx:?}");
            }
            Err(other) => panic!("{other:?}"),
        }
        same(&store.snapshot(), &model);
        while let Some(event) = watch.try_next().unwrap() {
            for change in event.changes.iter() {
                match change {
                    Change::Put(it) => drop(replica.insert(change.key(), (**it).clone())),
                    Change::Delete { key, last } => {
                        assert_eq!(replica.remove(key).as_ref(), Some(&**last));
                    }
                }
            }
        }
        let snapshot = store.snapshot();
        assert!(
            snapshot
                .objects()
                .map(|it| &**it)
                .eq(replica_in_order(&replica, &snapshot))
        );
    }
}

/// The replica's objects in the snapshot's order, if they are the same ones.
fn replica_in_order<'a>(
    replica: &'a BTreeMap<Key, store::Versioned>,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = &'a store::Versioned> {
    assert_eq!(replica.len(), snapshot.objects().count());
    snapshot
        .objects()
        .filter_map(|it| replica.get(&it.object.key()))
}

async fn random_transactions<F: Future<Output = Fresh>>(open: impl Fn(HistoryLimits) -> F) {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let strategy = proptest::collection::vec(proptest::collection::vec(step(), 0..4), 1..40);
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        let outcome = TestRunner::new(config).run(&strategy, |transactions| {
            let fresh = handle.block_on(open(HistoryLimits::default()));
            handle.block_on(run(&**fresh, transactions));
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
    });
}
