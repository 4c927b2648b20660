//! The cluster: a store, servers that can die, hosts with their wires, and the users' open requests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use agent::clock::Clock;
use agent::driver::ImportedImage;
use anyhow::Context as _;
use control::pools::PoolUpdate;
use control::{Caller, Control};
use model::{
    Digest, Host, HostDesired, HostStatus, ImageConfig, ImageContent, ImageReference, Layer, Name,
    Object, Platform, PoolId, Resource, Timestamp, WorkloadId,
};
use sha2::Digest as _;
use store::{Store, Transaction};
use tokio::task::JoinSet;

use crate::checker::{Past, Said, World};
use crate::entropy::START_SECONDS;
use crate::host::{Build, SimHost};
use crate::link::Link;
use crate::script::{IMAGES, SERVERS, Setting};
use crate::server::Server;
use crate::trace::Trace;
use crate::usage::Appetites;

/// Workloads by slot: pool and id.
pub type Slots = Arc<Mutex<BTreeMap<usize, (PoolId, WorkloadId)>>>;

/// Everything.
pub struct Cluster {
    /// What all servers share.
    pub store: Arc<dyn Store>,
    /// The servers, as far as they are not down.
    pub servers: [Option<Server>; SERVERS],
    /// How many servers there are.
    pub server_count: usize,
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
    /// What workloads work with.
    pub appetites: Appetites,
    /// Its clock.
    pub clock: Clock,
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

impl Cluster {
    /// A cluster that runs: hosts connected, pools made, no image imported.
    ///
    /// # Errors
    /// When a part cannot be made.
    pub async fn start(setting: &Setting, folder: &Path, trace: Trace) -> anyhow::Result<Self> {
        let clock = Clock::tokio(Timestamp(i64::try_from(START_SECONDS * 1000)?));
        let mut cluster = Self {
            store: store::open_memory(),
            servers: Default::default(),
            server_count: setting.servers,
            hosts: Vec::new(),
            pools: Vec::new(),
            images: (0..IMAGES).map(image).collect::<anyhow::Result<_>>()?,
            slots: Slots::default(),
            past: Past::default(),
            trace,
            appetites: Appetites::default(),
            clock,
            links: JoinSet::new(),
        };
        for server in 0..cluster.server_count {
            cluster.start_server(server).await?;
        }
        for (number, machine) in setting.machines.iter().enumerate() {
            let pulls = cluster.images.iter();
            let pulls = pulls.filter(|(_, image)| image.source.is_some());
            let build = Build {
                number,
                machine: *machine,
                folder: folder.to_owned(),
                clock,
                pulls: pulls
                    .map(|(reference, image)| (reference.to_string(), image.clone()))
                    .collect(),
                contents: (0..IMAGES)
                    .map(|number| Ok((digest(&blob(number))?, blob(number).into_bytes().into())))
                    .collect::<anyhow::Result<_>>()?,
            };
            cluster.hosts.push(SimHost::new(build)?);
            cluster.join(number).await?;
        }
        // Pools are cut out of what hosts have.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        cluster.make_pools(setting).await?;
        Ok(cluster)
    }

    /// Every pool, empty, and then as far as it fits with what it may use.
    async fn make_pools(&mut self, setting: &Setting) -> anyhow::Result<()> {
        let control = self.front(0).context("a server runs")?;
        let seconds = setting.host_loss_seconds;
        let edit = move |it: &mut model::Installation| it.host_loss_seconds = seconds;
        control.installation_update(&Self::caller(), edit).await?;
        for number in 0..setting.pools.len() {
            let pool = control.test_pool(&format!("pool{number}")).await?;
            self.pools.push(pool);
        }
        for (pool, (parent, slice)) in self.pools.iter().zip(&setting.pools) {
            let parent = parent.and_then(|parent| self.pools.get(parent));
            let update = PoolUpdate {
                slice: Some(slice.clone()),
                parent: Some(parent.map(ToString::to_string)),
                ..PoolUpdate::default()
            };
            let made = control
                .pool_update(&Self::caller(), pool.as_str(), update)
                .await;
            if let Err(error) = made {
                self.trace.line(format!("no slice: {}", error.message));
            }
        }
        Ok(())
    }

    /// A server that runs, another one for each number if there are several.
    #[must_use]
    pub fn front(&self, number: usize) -> Option<Control> {
        let up: Vec<&Server> = self.servers.iter().flatten().collect();
        let server = up.get(number % up.len().max(1))?;
        Some(server.control.clone())
    }

    /// Makes the record of a host and lets its machine dial.
    ///
    /// # Errors
    /// When the record cannot be made.
    pub async fn join(&mut self, number: usize) -> anyhow::Result<()> {
        let host = &mut self.hosts[number];
        let record = Host {
            id: host.id.clone(),
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
            joined_at: self.clock.now(),
        };
        self.store
            .commit(Transaction::new().create(Object::Host(record)))
            .await?;
        let controls = control_of(&self.servers);
        host.wires.send_modify(|wires| wires.controls = controls);
        host.start_agent();
        let mut links = Vec::new();
        for server in 0..self.server_count {
            let link = Link {
                host: host.id.clone(),
                server,
                wires: host.wires.subscribe(),
                shared: host.shared.clone(),
                past: self.past.clone(),
                trace: self.trace.clone(),
            };
            links.push(self.links.spawn(link.keep()));
        }
        host.has_links(links);
        Ok(())
    }

    /// Starts a server over the store, if it does not run.
    ///
    /// # Errors
    /// When it cannot open its store.
    pub async fn start_server(&mut self, number: usize) -> anyhow::Result<()> {
        if self.servers[number].is_some() {
            return Ok(());
        }
        let alone = self.server_count == 1;
        let server = Server::start(&self.store, number, alone).await?;
        self.servers[number] = Some(server);
        let controls = control_of(&self.servers);
        for host in &self.hosts {
            let controls = controls.clone();
            host.wires.send_modify(|wires| wires.controls = controls);
        }
        self.trace.line(format!("server {number} up"));
        Ok(())
    }

    /// Kills a server with everything it has open.
    pub async fn kill_server(&mut self, number: usize) {
        let Some(server) = self.servers[number].take() else {
            return;
        };
        self.trace.line(format!("server {number} down"));
        for host in &self.hosts {
            host.wires
                .send_modify(|wires| wires.controls[number] = None);
        }
        server.kill().await;
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

    /// Brings what machines are up to date in the picture of the cluster; records are brought by events.
    pub fn look(&mut self, world: &mut World) {
        world.now = self.clock.now();
        for host in &mut self.hosts {
            host.read_journals(&self.past);
            let view = world.hosts.entry(host.id.clone()).or_default();
            view.tasks = host.fake.statuses();
            view.images = host.images();
            view.parts = host.parts();
            view.forgotten.clone_from(&host.forgotten);
        }
        let ids: BTreeSet<_> = self.hosts.iter().map(|host| &host.id).collect();
        world.hosts.retain(|id, _| ids.contains(id));
        for host in &self.hosts {
            if let Some(view) = world.hosts.get(&host.id) {
                let usage = self.appetites.usage(world, view);
                self.past.with(|past| {
                    for (pool, usage) in &usage {
                        past.used(world.now, &host.id, pool, usage.memory_working_set.0);
                    }
                });
                host.fake.use_pools(usage);
            }
        }
        world.audits = self
            .servers
            .iter()
            .flatten()
            .map(|server| server.control.audit_ledger())
            .collect();
    }

    /// Asks the servers what they say of pools now.
    ///
    /// # Errors
    /// When one does not say it.
    pub fn ask_of_pools(&self, world: &mut World) -> anyhow::Result<()> {
        world.said.clear();
        let caller = &Self::caller();
        for server in self.servers.iter().flatten() {
            let mut said = Said::default();
            for it in server.control.pool_uses(caller)? {
                said.uses.insert(it.pool.id.clone(), [it.cpu, it.memory]);
            }
            for pool in world.pools.keys() {
                let node = server.control.pool_standing(caller, pool)?.node;
                for resource in Resource::ALL {
                    if node.line(resource).over_committed() {
                        said.marked.insert((pool.clone(), resource));
                    }
                }
            }
            world.said.push(said);
        }
        Ok(())
    }

    /// Ends all agents and compares their ledgers with what they should be.
    ///
    /// # Errors
    /// When a ledger cannot be read.
    pub async fn read_ledgers(&mut self, world: &mut World) -> anyhow::Result<()> {
        let snapshot = self.store.snapshot();
        for host in &mut self.hosts {
            let Some(record) = snapshot.host(&host.id) else {
                continue;
            };
            let mut ledger = host.read_ledger().await?;
            let mut wanted: HostDesired = control::testing::document(&snapshot, &record);
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

fn control_of(servers: &[Option<Server>; SERVERS]) -> [Option<Control>; SERVERS] {
    std::array::from_fn(|number| Some(servers[number].as_ref()?.control.clone()))
}
