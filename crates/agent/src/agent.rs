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
use crate::core::{Core, CoreParts, EVENT_QUEUE};
use crate::driver::Drivers;
use crate::identity::{Credentials, IdentityError, IdentityFolder, renew_when_due};
use crate::job::JobContext;
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
    /// Whether documents are synced to disk before they are acknowledged; simulations do not.
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

    /// The id this host joined with.
    ///
    /// # Errors
    /// When the identity cannot be read.
    pub fn host_id(&self) -> Result<Option<HostId>, IdentityError> {
        let credential = IdentityFolder::of(&self.config.data_dir).load()?;
        Ok(credential.map(|c| c.identity.host))
    }

    /// Runs until `shutdown` is cancelled. Tasks go on running afterwards. Dropping the future is like killing the
    /// agent.
    ///
    /// # Errors
    /// When the host has not joined or its ledger cannot be opened.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AgentError> {
        let Self {
            config,
            drivers,
            metrics,
        } = self;
        let folder = IdentityFolder::of(&config.data_dir);
        let credentials = Credentials::load(folder)?
            .map(Arc::new)
            .ok_or_else(|| AgentError::NotJoined(config.data_dir.clone()))?;
        let ledger_folder = config.data_dir.join("ledger");
        let (ledger, recovered) = Ledger::open_when_free(&ledger_folder, config.sync).await?;
        for path in &recovered.quarantined {
            warn!(path = %path.display(), "ledger was not readable and was put aside");
        }
        info!(host = %credentials.host(), generation = recovered.desired.generation, "agent starts");
        let (events, event_queue) = mpsc::channel(EVENT_QUEUE);
        let (generation, generation_seen) = watch::channel(0);
        let links = Arc::new(Links::default());
        let board = Arc::new(Board::default());
        let relay = Arc::new(LinkBlobs {
            links: links.clone(),
        });
        let outboxes: Vec<Arc<Outbox>> = config.servers.iter().map(|_| Arc::default()).collect();
        let core = Core::new(CoreParts {
            drivers: drivers.clone(),
            clock: config.clock,
            metrics: metrics.clone(),
            board: board.clone(),
            outboxes: outboxes.clone(),
            generation,
            context: JobContext::new(drivers.clone(), relay, events.clone(), board.clone()),
            ledger,
            recovered,
        });
        let mut side = JoinSet::new();
        for (index, (server, outbox)) in config.servers.iter().zip(outboxes).enumerate() {
            let link = Link {
                index,
                server: server.clone(),
                credentials: credentials.clone(),
                links: links.clone(),
                facts: config.facts.clone(),
                generation: generation_seen.clone(),
                outbox,
                events: events.clone(),
                streams: StreamContext {
                    drivers: drivers.clone(),
                    board: board.clone(),
                },
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
        core.run(event_queue, shutdown).await;
        // The links have heard the same shutdown.
        while side.join_next().await.is_some() {}
        Ok(())
    }
}
