//! One server of a simulation: control with its loops over its own view of the store.

use std::sync::Arc;
use std::time::Duration;

use control::{Control, ControlConfig};
use store::{Replica, Store};
use tokio::task::{JoinHandle, JoinSet};

use crate::faulty_store::FaultyStore;

/// A running server.
pub struct Server {
    /// Its verbs.
    pub control: Control,
    /// Its way to the store.
    pub store: Arc<FaultyStore>,
    /// What it sees of the store.
    pub view: Arc<Replica>,
    /// Requests that are open.
    pub requests: JoinSet<()>,
    loops: [JoinHandle<()>; 3],
}

impl Server {
    /// Starts one over a store that it may have to itself.
    ///
    /// # Errors
    /// When it cannot open its store.
    pub async fn start(store: &Arc<dyn Store>, number: usize, alone: bool) -> anyhow::Result<Self> {
        let view = Replica::of(Arc::clone(store));
        let store = FaultyStore::new(view.clone(), !alone);
        let config = ControlConfig {
            address: format!("sim{number}:7440"),
        };
        let control = Control::open(store.clone(), config).await?;
        let loops = [
            control::dividing::divide_pools(&control),
            control::displace::keep_placed(&control),
            control::copies::keep_copies(&control),
        ];
        Ok(Self {
            control,
            store,
            view,
            requests: JoinSet::new(),
            loops,
        })
    }

    /// Ends it with everything it has open, where it stands.
    pub async fn kill(mut self) {
        self.store.close().await;
        for running in &self.loops {
            running.abort();
        }
        self.requests.shutdown().await;
    }

    /// Takes back all faults of its store.
    pub fn heal(&self) {
        self.store.heal();
        self.view.lag(Duration::ZERO);
        self.view.cut(false);
    }
}
