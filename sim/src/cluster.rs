//! The cluster: a store, a server that can die, hosts with their wires, and the users' open requests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::clock::Clock;
use agent::driver::ImportedImage;
use anyhow::Context as _;
use control::{Caller, Control, ControlConfig};
use model::{
    Digest, Host, HostDesired, HostId, HostStatus, ImageConfig, ImageContent, ImageReference,
    Layer, Name, Object, Platform, PoolId, Timestamp, WorkloadId,
};
use sha2::Digest as _;
use store::{Store, Transaction};
use tokio::task::JoinSet;

use crate::checker::{Past, World};
use crate::entropy::START_SECONDS;
use crate::faulty_store::FaultyStore;
use crate::host::SimHost;
use crate::link;
use crate::script::{IMAGES, POOLS};
use crate::trace::Trace;

/// Workloads by slot: pool and id.
pub type Slots = Arc<Mutex<BTreeMap<usize, (PoolId, WorkloadId)>>>;

/// The running server.
pub struct Server {
    /// Its verbs.
    pub control: Control,
    /// Its way to the store.
    pub store: Arc<FaultyStore>,
    /// Requests that are open.
    pub requests: JoinSet<()>,
    /// What it does by itself.
    loops: JoinSet<()>,
}

/// Everything.
pub struct Cluster {
    /// What all servers share.
    pub store: Arc<dyn Store>,
    /// The server, unless it is down.
    pub server: Option<Server>,
    /// Hosts.
    pub hosts: Vec<SimHost>,
    /// Pools.
    pub pools: Vec<PoolId>,
    /// Images: the name they are imported by, and what they bring.
    pub images: Vec<(ImageReference, ImportedImage)>,
    /// Workloads.
    pub slots: Slots,
    /// What happened.
    pub past: Past,
    /// What happened, for people.
    pub trace: Trace,
    links: JoinSet<()>,
}

fn digest(of: &str) -> anyhow::Result<Digest> {
    let hex = hex::encode(sha2::Sha256::digest(of.as_bytes()));
    Ok(Digest::parse(&format!("sha256:{hex}"))?)
}

/// Content of the layer of an image.
fn blob(number: usize) -> String {
    format!("blob {number}")
}

/// An image: even ones can be fetched from their registry, odd ones only from other hosts.
fn image(number: usize) -> anyhow::Result<(ImageReference, ImportedImage)> {
    let reference = ImageReference::parse(&format!("image{number}:1"))?;
    let manifest = digest(&format!("manifest {number}"))?;
    let imported = ImportedImage {
        content: ImageContent {
            config: digest(&format!("config {number}"))?,
            config_bytes: 100,
            layers: vec![Layer {
                diff_id: digest(&format!("layer {number}"))?,
                blob: digest(&blob(number))?,
                blob_bytes: 1000,
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            }],
        },
        config: ImageConfig {
            platform: Platform {
                architecture: "amd64".to_owned(),
                os: "linux".to_owned(),
            },
            created: None,
            env: Vec::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            user: String::new(),
            working_dir: String::new(),
            exposed_ports: BTreeSet::new(),
            volumes: BTreeSet::new(),
            labels: BTreeMap::new(),
            stop_signal: None,
            size_bytes: 1000,
            history: Vec::new(),
        },
        tags: vec![reference.to_string()],
        source: number
            .is_multiple_of(2)
            .then(|| format!("{}@{manifest}", reference.name())),
        manifest: Some(manifest),
        unchanged: false,
    };
    Ok((reference, imported))
}

/// How often a server looks after copies of images.
const LOOK: Duration = Duration::from_secs(5);

/// As [`control::copies::keep_copies`], in steps of the simulated time alone.
async fn keep_copies(control: Control) {
    loop {
        tokio::time::sleep(LOOK).await;
        // A store that refuses is asked again by the next look.
        let _ = control.keep_copies_once().await;
    }
}

impl Cluster {
    /// A cluster that runs: hosts connected, pools made, no image imported.
    ///
    /// # Errors
    /// When a part cannot be made.
    pub async fn start(hosts: usize, folder: &Path, trace: Trace) -> anyhow::Result<Self> {
        let clock = Clock::tokio(Timestamp(i64::try_from(START_SECONDS * 1000)?));
        let mut cluster = Self {
            store: store::open_memory(),
            server: None,
            hosts: Vec::new(),
            pools: Vec::new(),
            images: (0..IMAGES).map(image).collect::<anyhow::Result<_>>()?,
            slots: Slots::default(),
            past: Past::default(),
            trace,
            links: JoinSet::new(),
        };
        cluster.start_server().await?;
        for number in 0..hosts {
            cluster.add_host(number, folder, clock).await?;
        }
        let server = cluster.server.as_ref().context("the server runs")?;
        for number in 0..POOLS {
            let pool = server.control.test_pool(&format!("pool{number}")).await?;
            cluster.pools.push(pool);
        }
        Ok(cluster)
    }

    async fn add_host(&mut self, number: usize, folder: &Path, clock: Clock) -> anyhow::Result<()> {
        let hex = hex::encode(sha2::Sha256::digest(format!("host {number}").as_bytes()));
        let id = HostId::parse(&hex[..16])?;
        let record = Host {
            id: id.clone(),
            name: Name::parse(&format!("host{number}"))?,
            zone: format!("zone{}", number % 3),
            labels: BTreeMap::new(),
            cordoned: false,
            drain: None,
            overcommit: model::host::Overcommit::default(),
            fetch_images: BTreeMap::new(),
            certificate_sha256: String::new(),
            previous_certificate_sha256: None,
            status: HostStatus::default(),
            joined_at: clock.now(),
        };
        self.store
            .commit(Transaction::new().create(Object::Host(record)))
            .await?;
        let mut host = SimHost::new(id.clone(), folder.join(format!("host{number}")), clock);
        for (number, (reference, image)) in self.images.iter().enumerate() {
            for layer in &image.content.layers {
                let content = blob(number).into_bytes().into();
                host.fake.add_content(layer.blob.clone(), content);
            }
            if image.source.is_some() {
                host.fake.add_pull(&reference.to_string(), image.clone());
            }
        }
        let control = self.server.as_ref().map(|server| server.control.clone());
        host.wires.send_modify(|wires| wires.control = control);
        host.start_agent();
        self.links.spawn(link::keep_connected(
            id,
            host.wires.subscribe(),
            self.past.clone(),
            self.trace.clone(),
        ));
        self.hosts.push(host);
        Ok(())
    }

    /// Starts a server over the store, if none runs.
    ///
    /// # Errors
    /// When it cannot open its store.
    pub async fn start_server(&mut self) -> anyhow::Result<()> {
        if self.server.is_some() {
            return Ok(());
        }
        let store = FaultyStore::new(Arc::clone(&self.store));
        let config = ControlConfig {
            address: "sim:7440".to_owned(),
        };
        let control = Control::open(store.clone(), config).await?;
        for host in &self.hosts {
            let control = Some(control.clone());
            host.wires.send_modify(|wires| wires.control = control);
        }
        let mut loops = JoinSet::new();
        loops.spawn(keep_copies(control.clone()));
        self.server = Some(Server {
            control,
            store,
            requests: JoinSet::new(),
            loops,
        });
        self.trace.line("server up");
        Ok(())
    }

    /// Kills the server with everything it has open.
    pub async fn kill_server(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        self.trace.line("server down");
        server.store.kill();
        for host in &self.hosts {
            host.wires.send_modify(|wires| wires.control = None);
        }
        server.requests.shutdown().await;
        server.loops.shutdown().await;
    }

    /// The user who may do everything.
    #[must_use]
    pub fn caller() -> Caller {
        Caller::local_admin()
    }

    /// The workload in a slot.
    #[must_use]
    pub fn slot(&self, slot: usize) -> Option<(PoolId, WorkloadId)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(&slot).cloned()
    }

    /// The cluster as data.
    #[must_use]
    pub fn world(&mut self) -> World {
        let mut world = World::default();
        for host in &mut self.hosts {
            host.read_journals(&self.past);
            let view = world.hosts.entry(host.id.clone()).or_default();
            view.tasks = host.fake.statuses();
            view.images = host.images();
        }
        world.take_snapshot(&self.store.snapshot());
        world.past = self.past.with(|past| past.clone());
        world
    }

    /// Ends all agents and compares their ledgers with what they should be.
    ///
    /// # Errors
    /// When a ledger cannot be read.
    pub async fn read_ledgers(&mut self, world: &mut World) -> anyhow::Result<()> {
        let snapshot = self.store.snapshot();
        for host in &mut self.hosts {
            let mut ledger = host.read_ledger().await?;
            let mut wanted = match snapshot.host(&host.id) {
                Some(record) => control::testing::document(&snapshot, &record),
                None => HostDesired::default(),
            };
            wanted.generation = ledger.generation;
            let without_image = |id: &model::WorkloadId| {
                let workload = snapshot.workload(id);
                workload.is_some_and(|it| {
                    let image = &it.spec.task.image_id;
                    snapshot.image(&it.pool, image).is_none()
                })
            };
            // Its image has no record any more: what the host was told of it cannot be made again.
            wanted.workloads.retain(|id, _| !without_image(id));
            ledger.workloads.retain(|id, _| !without_image(id));
            let view = world.hosts.entry(host.id.clone()).or_default();
            view.documents = Some((ledger, wanted));
        }
        Ok(())
    }
}
