//! The backends the contract is run on.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use store::{EtcdOptions, HistoryLimits, SqliteOptions, Store};

use crate::etcd::Etcd;

/// A fresh store and what must live as long as it.
pub(crate) struct Fresh {
    pub(crate) store: Arc<dyn Store>,
    _keep: Box<dyn Any + Send + Sync>,
}

impl std::ops::Deref for Fresh {
    type Target = Arc<dyn Store>;
    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

pub(crate) async fn memory(history: HistoryLimits) -> Fresh {
    Fresh {
        store: store::open_memory_with(history),
        _keep: Box::new(()),
    }
}

pub(crate) async fn sqlite(history: HistoryLimits) -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        history,
        reserve_bytes: 64 * 1024,
        ..SqliteOptions::default()
    };
    Fresh {
        store: store::open_sqlite(folder.path().join("store.db"), options).unwrap(),
        _keep: Box::new(folder),
    }
}

pub(crate) async fn replica(history: HistoryLimits) -> Fresh {
    Fresh {
        store: store::Replica::of_with(store::open_memory(), history),
        _keep: Box::new(()),
    }
}

/// A fresh prefix of one etcd shared by the tests of this process.
pub(crate) async fn etcd(history: HistoryLimits) -> Fresh {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let etcd = tokio::task::spawn_blocking(Etcd::shared).await.unwrap();
    let prefix = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let options = EtcdOptions {
        history,
        ..EtcdOptions::default()
    };
    let store = store::open_etcd(&etcd.endpoints(), &prefix, options).await;
    Fresh {
        store: store.unwrap(),
        _keep: Box::new(etcd),
    }
}

/// Makes one test per backend out of each function that takes a way to open a fresh store.
macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        contract!(@on memory: $($test),*);
        contract!(@on sqlite: $($test),*);
        contract!(@on etcd: $($test),*);
        contract!(@on replica: $($test),*);
    };
    (@on $backend:ident: $($test:ident),*) => {
        mod $backend {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test($crate::backend::$backend).await; })*
        }
    };
}
