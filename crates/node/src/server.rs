//! `plimsoll server`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use api::link::PeerCertificate;
use axum::{Extension, Router};
use clap::Args;
use control::{Caller, Control, ControlConfig};
use store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::logging::LogArgs;
use crate::{listen, sockets, tls};

pub(crate) const EXAMPLES: &str = "\
Examples:
  plimsoll server --data /var/lib/plimsoll --listen 0.0.0.0:7440 --name plimsoll.example
  plimsoll server --data /var/lib/plimsoll --store etcd://10.0.0.1:2379,10.0.0.2:2379

Files in the data folder:
  server.sock        the API, for root of this machine
  pools/POOL.sock    the Docker endpoint of a pool: export DOCKER_HOST=unix://…
  server/state.db    the state of the installation (SQLite)";

/// Arguments of the server.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// Folder for state and sockets
    #[arg(long, value_name = "DIR", default_value = "/var/lib/plimsoll")]
    pub(crate) data: PathBuf,
    /// Address for hosts, remote clients and pools' TLS endpoints
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:7440")]
    pub(crate) listen: SocketAddr,
    /// Further name or address clients reach this server by; the first one is shown to them. Can be repeated
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Where state is kept: `sqlite`, `memory` (lost at the end), or `etcd://HOST:PORT[,HOST:PORT…][/PREFIX]`
    #[arg(long, value_name = "STORE", default_value = "sqlite")]
    pub(crate) store: String,
    /// Threads that serve requests
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) threads: usize,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Runs the server until SIGTERM or SIGINT.
pub(crate) async fn run(args: ServerArgs) -> Result<()> {
    let data = prepare_folder(&args.data)?;
    let store = open_store(&args, &data).await?;
    // The port is taken before anything is written.
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {}", args.listen))?;
    let local = listener
        .local_addr()
        .context("read the listener's address")?;
    let names = names(&args.names, local);
    let address = format!(
        "{}:{}",
        bracketed(names.first().map_or("localhost", String::as_str)),
        local.port()
    );
    let control = Control::open(Arc::clone(&store), ControlConfig { address })
        .await
        .context("open the installation")?;
    control::dividing::divide_pools(&control);
    control::displace::keep_placed(&control);
    control::copies::keep_copies(&control);
    let shutdown = CancellationToken::new();
    let native = api::native::NativeConfig {
        pool_sockets: Some(data.join("pools")),
    };
    let admin = api::native::router(control.clone(), native)
        .layer(Extension(api::native::Identity(Caller::local_admin())));
    listen::unix(data.join("server.sock"), admin, shutdown.clone()).await?;
    sockets::keep(control.clone(), data.join("pools"), shutdown.clone()).await?;
    let config = tls::server_config(&control, names)?;
    let serving = tokio::spawn(listen::tls(
        listener,
        config,
        remote_routers(&control),
        shutdown.clone(),
    ));
    tracing::info!(listen = %local, data = %data.display(), "server ready");
    wait_for_signal().await?;
    tracing::info!("server ends");
    shutdown.cancel();
    let _ = serving.await;
    store.close().await;
    Ok(())
}

fn prepare_folder(path: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .with_context(|| format!("make {}", path.display()))?;
    path.canonicalize()
        .with_context(|| format!("find {}", path.display()))
}

async fn open_store(args: &ServerArgs, data: &Path) -> Result<Arc<dyn Store>> {
    use std::os::unix::fs::DirBuilderExt as _;
    let store = match args.store.as_str() {
        "memory" => store::open_memory(),
        "sqlite" => {
            let folder = data.join("server");
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .with_context(|| format!("make {}", folder.display()))?;
            let path = folder.join("state.db");
            tokio::task::spawn_blocking(move || {
                store::open_sqlite(path, store::SqliteOptions::default())
            })
            .await
            .context("open the store")?
            .context("open the store")?
        }
        other => {
            let rest = other.strip_prefix("etcd://").with_context(|| {
                format!("--store {other}: use sqlite, memory or etcd://HOST:PORT")
            })?;
            let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, "plimsoll"));
            let endpoints: Vec<&str> = hosts.split(',').collect();
            store::open_etcd(&endpoints, prefix, store::EtcdOptions::default())
                .await
                .context("open the store")?
        }
    };
    Ok(store)
}

/// Names the certificate is valid for: those given, the address listened on, this machine's name, and loopback.
fn names(given: &[String], local: SocketAddr) -> Vec<String> {
    let mut names: Vec<String> = given.to_vec();
    if !local.ip().is_unspecified() {
        names.push(local.ip().to_string());
    }
    if let Ok(name) = nix::unistd::gethostname() {
        names.push(name.to_string_lossy().into_owned());
    }
    names.extend([
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ]);
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// A client with the certificate of a pool gets that pool's Docker endpoint; everybody else the API and the link,
/// which ask for a token or a host's certificate themselves.
fn remote_routers(control: &Control) -> listen::RouterOf {
    let link = api::link::router(control.clone());
    // The pools' sockets are of no use to whoever comes from elsewhere.
    let native = api::native::router(control.clone(), api::native::NativeConfig::default());
    let docker = api::docker::router_by_identity(control.clone());
    let control = control.clone();
    Arc::new(move |certificate| -> Router {
        let Some(der) = certificate else {
            return native.clone().merge(link.clone());
        };
        match control.authenticate_certificate(&der) {
            Ok((caller, pool)) => docker
                .clone()
                .layer(Extension(api::docker::Identity { caller, pool })),
            Err(_) => link.clone().layer(Extension(PeerCertificate(der))),
        }
    })
}

/// Resolves on SIGTERM or SIGINT.
pub(crate) async fn wait_for_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
