//! The server: store, control with its controllers, and the API on a Unix socket.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use api::native::{Identity, NativeConfig};
use axum::Extension;
use control::pools::PoolCreate;
use control::{Caller, Control, ControlConfig};
use model::host::HostStatus;
use model::{Digest, Host, Name, Object, PoolPolicy, Slice, Timestamp};
use store::{Store, Transaction};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::client::pool_name;
use super::host::{self, Dial, Running};

/// Hosts that dial at the same time.
const DIALLING: usize = 64;

/// Zones of the hosts.
const ZONES: u64 = 10;

/// Objects in one transaction: below the store's limit.
const BATCH: usize = 50;

/// A server.
pub(super) struct Server {
    control: Control,
    socket: PathBuf,
    serving: JoinHandle<()>,
    told: Arc<AtomicU64>,
    /// Says to hosts that it is over.
    over: watch::Sender<bool>,
}

impl Server {
    /// Starts a server with its state in a folder.
    ///
    /// # Errors
    /// When the store cannot be opened.
    pub(super) async fn start(store: &str, folder: &Path) -> Result<Self> {
        let store: Arc<dyn Store> = match store {
            "memory" => store::open_memory(),
            "sqlite" => {
                let path = folder.join("state.db");
                let open = move || store::open_sqlite(path, store::SqliteOptions::default());
                tokio::task::spawn_blocking(open).await??
            }
            other => bail!("--store {other}: there are memory and sqlite"),
        };
        let address = "bench:7440".to_owned();
        let control = failed(Control::open(store, ControlConfig { address }).await)?;
        control::dividing::divide_pools(&control);
        control::displace::keep_placed(&control);
        let socket = folder.join("server.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = tokio::net::UnixListener::bind(&socket)?;
        let router = api::native::router(control.clone(), NativeConfig::default())
            .layer(Extension(Identity(Caller::local_admin())));
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the API ended: {error}");
            }
        });
        Ok(Self {
            control,
            socket,
            serving,
            told: Arc::default(),
            over: watch::Sender::new(false),
        })
    }

    /// Ends it; what is stored stays, and what runs on hosts.
    ///
    /// # Errors
    /// When a host has panicked.
    pub(super) async fn stop(&self, hosts: Vec<JoinHandle<Running>>) -> Result<Vec<Running>> {
        self.serving.abort();
        self.over.send_replace(true);
        let mut running = Vec::new();
        for host in hosts {
            running.push(host.await?);
        }
        self.control.store().close().await;
        Ok(running)
    }

    /// Where its API is.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// How often hosts were told what they may give of their pools.
    pub(super) fn divisions(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Makes pools with an image each.
    ///
    /// # Errors
    /// When one is refused.
    pub(super) async fn make_pools(&self, count: usize) -> Result<()> {
        // Together a little less than there is.
        let size = 9_800 / count.max(1);
        let caller = Caller::local_admin();
        for number in 0..count {
            let slice: Slice = serde_json::from_value(serde_json::json!({
                "size": size, "hard": number % 5 == 0,
            }))?;
            let create = PoolCreate {
                name: Name::parse(&pool_name(number))?,
                parent: None,
                description: String::new(),
                labels: BTreeMap::new(),
                policy: PoolPolicy::default(),
                slice,
            };
            let made = self.control.pool_create(&caller, create);
            let id = failed(made.await)?.id.clone();
            failed(self.control.test_image(&id, "web:1").await)?;
        }
        Ok(())
    }

    /// Records hosts that are not linked yet.
    ///
    /// # Errors
    /// When the store refuses.
    pub(super) async fn make_hosts(&self, count: u64) -> Result<()> {
        let numbers: Vec<u64> = (0..count).collect();
        for numbers in numbers.chunks(BATCH) {
            let mut tx = Transaction::new();
            for number in numbers {
                tx = tx.create(Object::Host(record(*number)?));
            }
            self.control.store().commit(tx).await?;
        }
        Ok(())
    }

    /// Links all hosts, many at a time, with what each of them runs.
    ///
    /// # Errors
    /// When one is refused.
    pub(super) async fn link_hosts(&self, hosts: Vec<Running>) -> Result<Vec<JoinHandle<Running>>> {
        let images = self.control.snapshot();
        let images: BTreeSet<Digest> = images.images().map(|image| image.id.clone()).collect();
        let mut dialling = JoinSet::new();
        let mut linked = Vec::new();
        for (number, running) in (0_u64..).zip(hosts) {
            let dial = Dial {
                control: self.control.clone(),
                images: images.clone(),
                told: Arc::clone(&self.told),
                over: self.over.subscribe(),
                number,
            };
            dialling.spawn(dial.connect(running));
            while dialling.len() >= DIALLING {
                let host = dialling.join_next().await;
                linked.push(host.context("one is dialling")???);
            }
        }
        while let Some(host) = dialling.join_next().await {
            linked.push(host??);
        }
        Ok(linked)
    }
}

fn failed<T>(outcome: control::Result<T>) -> Result<T> {
    outcome.map_err(|error| anyhow::anyhow!("{}", error.message))
}

fn record(number: u64) -> Result<Host> {
    Ok(Host {
        id: host::id(number)?,
        name: Name::parse(&format!("host{number}"))?,
        zone: format!("zone{}", number % ZONES),
        labels: BTreeMap::new(),
        cordoned: false,
        drain: None,
        overcommit: model::host::Overcommit::default(),
        fetch_images: BTreeMap::new(),
        certificate_sha256: String::new(),
        previous_certificate_sha256: None,
        status: HostStatus::default(),
        joined_at: Timestamp(0),
    })
}
