//! Putting the parts together.

use std::path::PathBuf;
use std::sync::Arc;

use model::{HostFacts, HostId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::board::Board;
use crate::clock::Clock;
use crate::core::{Core, CoreParts, EVENT_QUEUE, Ended, Event};
use crate::driver::{BlobSource, DriverError, Drivers};
use crate::identity::{Credentials, IdentityError, IdentityFolder, renew_when_due};
use crate::imports::Imports;
use crate::job::JobContext;
use crate::lease::Lease;
use crate::ledger::{Ledger, LedgerError};
use crate::link::{Link, LinkBlobs, Links};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::streams::StreamContext;

/// What an agent needs to know.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Folder for identity and ledger.
    pub data_dir: PathBuf,
    /// Servers, each `host:port`; a link is kept to each.
    pub servers: Vec<String>,
    /// What is told of this machine.
    pub facts: HostFacts,
    /// Whether documents are synced to disk before they are acknowledged; simulations do not, and write the ledger in
    /// the owner's own thread so that everything happens in one order.
    pub sync: bool,
    /// Where the time comes from.
    pub clock: Clock,
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The identity is not usable.
    #[error("cannot use the host's identity")]
    Identity(#[from] IdentityError),
    /// The host has not joined.
    #[error("this host has not joined an installation: no identity in {}", .0.display())]
    NotJoined(PathBuf),
    /// The host was removed, and what the drivers made on it cannot be taken back.
    #[error(
        "this host was removed from its installation, but bridge, rules or cgroups cannot be taken away; start the \
         agent again to try once more"
    )]
    Dismantle(#[source] DriverError),
    /// The ledger is not usable.
    #[error("cannot open the ledger")]
    Ledger(#[from] LedgerError),
}

/// An agent that is ready to run.
pub struct Agent {
    config: AgentConfig,
    drivers: Drivers,
    metrics: Arc<Metrics>,
}

impl Agent {
    /// An agent with its drivers.
    #[must_use]
    pub fn new(config: AgentConfig, drivers: Drivers) -> Self {
        Self {
            config,
            drivers,
            metrics: Arc::default(),
        }
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// What is told of this machine.
    pub(crate) fn facts(&self) -> &HostFacts {
        &self.config.facts
    }

    pub(crate) fn drivers(&self) -> &Drivers {
        &self.drivers
    }

    /// The id this host joined with.
    ///
    /// # Errors
    /// When the identity cannot be read.
    pub fn host_id(&self) -> Result<Option<HostId>, IdentityError> {
        let credential = IdentityFolder::of(&self.config.data_dir).load()?;
        Ok(credential.map(|c| c.identity.host))
    }

    /// Runs until `shutdown` is cancelled; tasks go on running afterwards. Or until the installation has removed this
    /// host and no task is left; then what the drivers made is taken back. Dropping the future is like killing the
    /// agent.
    ///
    /// # Errors
    /// When the host has not joined, its ledger cannot be opened, or something cannot be taken back.
    pub async fn run(self, shutdown: CancellationToken) -> Result<Ended, AgentError> {
        let shutdown = shutdown.child_token();
        let folder = IdentityFolder::of(&self.config.data_dir);
        let credentials = Credentials::load(folder)?
            .map(Arc::new)
            .ok_or_else(|| AgentError::NotJoined(self.config.data_dir.clone()))?;
        let config = self.config.clone();
        let metrics = self.metrics();
        let drivers = self.drivers.clone();
        let links = Arc::new(Links::default());
        let relay = Arc::new(LinkBlobs {
            links: links.clone(),
        });
        let assembly = Assembly::new(self, config.servers.len(), relay).await?;
        info!(host = %credentials.host(), generation = *assembly.generation.borrow(), "agent starts");
        let mut side = JoinSet::new();
        for (index, (server, outbox)) in config.servers.iter().zip(&assembly.outboxes).enumerate() {
            let link = Link {
                index,
                server: server.clone(),
                credentials: credentials.clone(),
                links: links.clone(),
                facts: config.facts.clone(),
                generation: assembly.generation.clone(),
                outbox: outbox.clone(),
                events: assembly.events.clone(),
                lease: assembly.lease.clone(),
                streams: assembly.streams.clone(),
                metrics: metrics.clone(),
                shutdown: shutdown.clone(),
                slots: Link::stream_slots(),
            };
            side.spawn(link.run());
        }
        side.spawn(renew_when_due(
            credentials,
            links,
            config.clock,
            shutdown.clone(),
        ));
        let ended = assembly.core.run(assembly.queue, shutdown.clone()).await;
        if ended == Ended::Removed {
            shutdown.cancel();
        }
        // The links have heard the same shutdown.
        while side.join_next().await.is_some() {}
        if ended == Ended::Removed {
            dismantle(&drivers).await.map_err(AgentError::Dismantle)?;
        }
        Ok(ended)
    }
}

/// Takes back what belongs to the host and not to a single task.
pub(crate) async fn dismantle(drivers: &Drivers) -> Result<(), DriverError> {
    drivers.network.dismantle().await?;
    drivers.runtime.dismantle().await
}

/// The parts that do not depend on how sessions are carried.
pub(crate) struct Assembly {
    pub(crate) core: Core,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) queue: mpsc::Receiver<Event>,
    pub(crate) generation: watch::Receiver<u64>,
    pub(crate) outboxes: Vec<Arc<Outbox>>,
    pub(crate) streams: StreamContext,
    pub(crate) lease: Arc<Lease>,
}

impl Assembly {
    /// Opens the ledger and puts the owner together, with an outbox per link.
    pub(crate) async fn new(
        agent: Agent,
        links: usize,
        relay: Arc<dyn BlobSource>,
    ) -> Result<Self, AgentError> {
        let Agent {
            config,
            drivers,
            metrics,
        } = agent;
        let ledger_folder = config.data_dir.join("ledger");
        let (ledger, recovered) = Ledger::open_when_free(&ledger_folder, config.sync).await?;
        for path in &recovered.quarantined {
            warn!(path = %path.display(), "ledger was not readable and was put aside");
        }
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        let (generation, generation_seen) = watch::channel(0);
        let board = Arc::new(Board::default());
        let imports: Arc<Imports> = Arc::default();
        let lease = Arc::new(Lease::new(config.clock));
        let outboxes: Vec<Arc<Outbox>> = (0..links).map(|_| Arc::default()).collect();
        let core = Core::new(CoreParts {
            drivers: drivers.clone(),
            clock: config.clock,
            lease: lease.clone(),
            metrics,
            board: board.clone(),
            imports: imports.clone(),
            outboxes: outboxes.clone(),
            generation,
            context: JobContext::new(
                drivers.clone(),
                relay,
                events.clone(),
                board.clone(),
                lease.clone(),
            ),
            ledger,
            recovered,
            block: !config.sync,
        });
        Ok(Self {
            core,
            events,
            queue,
            generation: generation_seen,
            outboxes,
            lease,
            streams: StreamContext {
                drivers,
                board,
                imports,
            },
        })
    }
}
