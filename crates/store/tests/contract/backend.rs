//! The backends the contract is run on.

use std::sync::Arc;

use store::{HistoryLimits, SqliteOptions, Store};

/// A fresh store and what must live as long as it.
pub(crate) struct Fresh {
    pub(crate) store: Arc<dyn Store>,
    _keep: Box<dyn std::any::Any + Send + Sync>,
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

/// Makes one test per backend out of each function `async fn(history) -> Fresh` user.
macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test($crate::backend::memory).await; })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test($crate::backend::sqlite).await; })*
        }
    };
}

impl std::ops::Deref for Fresh {
    type Target = Arc<dyn Store>;
    fn deref(&self) -> &Self::Target {
        &self.store
    }
}
