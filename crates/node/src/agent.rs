//! `plimsoll agent`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::agent::driver::Drivers;
use ::agent::identity::{IdentityFolder, JoinOptions};
use ::agent::{Agent, AgentConfig, Ended};
use anyhow::{Context, Result};
use clap::Args;
use model::{Amount, Capacity, CpuMillis, MemoryBytes, Resource};
use tokio_util::sync::CancellationToken;

use crate::logging::LogArgs;

pub(crate) const EXAMPLES: &str = "\
Examples:
  plimsoll host token                                      on the server: a one-time token
  plimsoll agent --server plimsoll.example:7440 --token plm1.…   on the new host
  plimsoll agent --server plimsoll.example:7440                  from then on

The containers of a host go on when its agent ends, and are taken over by the next one.
After `plimsoll host rm` the agent of an empty host takes away its bridge, rules and cgroups, and ends.";

/// Arguments of the agent.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentArgs {
    /// Folder for identity, images and containers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/plimsoll-agent")]
    pub(crate) data: PathBuf,
    /// Server to keep a link to; can be repeated
    // The id is that of the users' global option, so that the parser lets this one take its place.
    #[arg(
        id = "server",
        long = "server",
        value_name = "HOST:PORT",
        required = true
    )]
    pub(crate) servers: Vec<String>,
    /// One-time token to join with; not needed by a host that has joined
    #[arg(
        long,
        value_name = "TOKEN",
        env = "PLIMSOLL_JOIN_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// Name to join under; default: this machine's name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Failure domain to join with
    #[arg(long, value_name = "ZONE", default_value = "")]
    pub(crate) zone: String,
    /// Label to join with; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Address other machines reach this one at
    #[arg(long, value_name = "ADDR", default_value = "")]
    pub(crate) address: String,
    /// Name of this host's cgroup subtree below `plimsoll/`
    #[arg(long, value_name = "NAME", default_value = "host")]
    pub(crate) cgroup: String,
    /// Further OCI runtime pools may be allowed to name; default: `runc` if it is installed. Can be repeated
    #[arg(long = "runtime", value_name = "NAME=PATH")]
    pub(crate) runtimes: Vec<String>,
    /// Further certificate authority, as PEM file, that registries may be certified by; can be repeated
    #[arg(
        long = "registry-ca",
        value_name = "FILE",
        env = "PLIMSOLL_REGISTRY_CA",
        value_delimiter = ','
    )]
    pub(crate) registry_cas: Vec<PathBuf>,
    /// Registry that may be spoken to without TLS (those on loopback always may); can be repeated
    #[arg(
        long = "insecure-registry",
        value_name = "HOST[:PORT]",
        env = "PLIMSOLL_INSECURE_REGISTRY",
        value_delimiter = ','
    )]
    pub(crate) insecure_registries: Vec<String>,
    /// The program that supervises a task; default: `plimsoll-shim` beside this program
    #[arg(long, value_name = "PATH", env = "PLIMSOLL_SHIM")]
    pub(crate) shim: Option<PathBuf>,
    /// Offer only so many of this machine's CPUs, for example `2` or `1500m`; default: all
    #[arg(long, value_name = "CPUS", value_parser = offered(Resource::Cpu))]
    pub(crate) cpus: Option<u64>,
    /// Offer only so much of this machine's memory, for example `4GiB`; default: all
    #[arg(long, value_name = "BYTES", value_parser = offered(Resource::Memory))]
    pub(crate) memory: Option<u64>,
    /// Threads that do the agent's work
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) threads: usize,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Runs the agent until SIGTERM or SIGINT, or until the host was removed and is empty.
pub(crate) async fn run(args: AgentArgs) -> Result<()> {
    std::fs::create_dir_all(&args.data).with_context(|| format!("make {}", args.data.display()))?;
    let data = args
        .data
        .canonicalize()
        .with_context(|| format!("find {}", args.data.display()))?;
    join_if_new(&args, &data).await?;
    let runtimes = runtimes(&args.runtimes)?;
    let mut named: Vec<(&str, &Path)> = runtimes
        .iter()
        .map(|(name, path)| (name.as_str(), path.as_path()))
        .collect();
    named.sort_unstable();
    let mut facts = crate::doctor::facts(&args.address, &named);
    facts.underlay = facts.underlay.or_else(|| own_address(&args.servers));
    offer_only(&mut facts.capacity, args.cpus, args.memory);
    let drivers = open_drivers(&args, &data, runtimes).await?;
    let config = AgentConfig {
        data_dir: data,
        servers: args.servers.clone(),
        facts,
        sync: true,
        clock: ::agent::clock::Clock::System,
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if crate::server::wait_for_signal().await.is_ok() {
            stop.cancel();
        }
    });
    let ended = Agent::new(config, drivers)
        .run(shutdown)
        .await
        .context("run the agent")?;
    if ended == Ended::Removed {
        let identity = args.data.join("identity");
        tracing::info!(
            "this host was removed from its installation and no container is left: its bridge, rules and cgroups \
             are gone; to join again, remove {} and give a new token",
            identity.display()
        );
    }
    Ok(())
}

/// The address of this host that its way to a server begins at; nothing is sent.
fn own_address(servers: &[String]) -> Option<Ipv4Addr> {
    let towards = |server: &String| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect(server).ok()?;
        match socket.local_addr().ok()?.ip() {
            IpAddr::V4(address) if !address.is_loopback() => Some(address),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    };
    servers.iter().find_map(towards)
}

/// Reads an amount of a resource, in thousandths of a core or bytes.
pub(crate) fn offered(
    resource: Resource,
) -> impl Fn(&str) -> std::result::Result<u64, String> + Clone + Send + Sync {
    move |text| match Amount::parse(resource, text) {
        Ok(Amount::Absolute(amount)) if amount > 0 => Ok(amount),
        Ok(_) => Err("must be an amount above zero, not a percentage".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A machine may keep some of what it has for others.
fn offer_only(has: &mut Capacity, cpus: Option<u64>, memory: Option<u64>) {
    if let Some(cpus) = cpus {
        has.cpu = has.cpu.min(CpuMillis(cpus));
    }
    if let Some(memory) = memory {
        has.memory = has.memory.min(MemoryBytes(memory));
    }
}

async fn join_if_new(args: &AgentArgs, data: &Path) -> Result<()> {
    let folder = IdentityFolder::of(data);
    if folder.load().context("read the host's identity")?.is_some() {
        return Ok(());
    }
    let token = args
        .token
        .as_deref()
        .context("this host has not joined yet: make a token with `plimsoll host token` on the server, then give it with --token")?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()
            .context("read this machine's name")?
            .to_string_lossy()
            .into_owned(),
    };
    let labels = args
        .labels
        .iter()
        .map(|pair| {
            let (key, value) = pair
                .split_once('=')
                .with_context(|| format!("--label {pair}: use KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect::<Result<_>>()?;
    let options = JoinOptions {
        name,
        zone: args.zone.clone(),
        labels,
    };
    let host = ::agent::identity::join(&folder, &args.servers, token, &options)
        .await
        .context("join")?;
    tracing::info!(%host, name = options.name, "joined");
    Ok(())
}

fn runtimes(given: &[String]) -> Result<HashMap<String, PathBuf>> {
    let mut runtimes = HashMap::new();
    for path in ["/usr/sbin/runc", "/usr/bin/runc"] {
        if Path::new(path).exists() {
            runtimes.insert("runc".to_owned(), PathBuf::from(path));
        }
    }
    for pair in given {
        let (name, path) = pair
            .split_once('=')
            .with_context(|| format!("--runtime {pair}: use NAME=PATH"))?;
        anyhow::ensure!(
            Path::new(path).is_absolute(),
            "--runtime {pair}: the path must be absolute"
        );
        runtimes.insert(name.to_owned(), PathBuf::from(path));
    }
    Ok(runtimes)
}

async fn open_drivers(
    args: &AgentArgs,
    data: &Path,
    runtimes: HashMap<String, PathBuf>,
) -> Result<Drivers> {
    let shim = match &args.shim {
        Some(shim) => shim.clone(),
        None => beside_this_program("plimsoll-shim")?,
    };
    let oci = drivers::oci::OciConfig {
        data: data.join("runtime"),
        shim,
        host: args.cgroup.clone(),
        runtimes,
    };
    let images = data.join("images");
    let network = drivers::network::NetworkConfig {
        // Hosts choose different subnets, so that an address in a log says which host it was.
        seed: host_seed(data)?,
        ..drivers::network::NetworkConfig::new(data.join("network"))
    };
    let registries = drivers::images::RegistryOptions {
        extra_roots: args.registry_cas.clone(),
        insecure: args.insecure_registries.iter().cloned().collect(),
        patience: drivers::images::Patience::default(),
    };
    tokio::task::spawn_blocking(move || {
        let images = drivers::images::LocalImages::open(
            &images,
            drivers::images::Limits::default(),
            registries,
        )
        .context("open the image store")?;
        let network = drivers::network::BridgeNetwork::open(network).context("open the network")?;
        let runtime = drivers::oci::OciRuntime::open(oci).context("open the runtime")?;
        Ok(Drivers {
            runtime: Arc::new(runtime),
            images: Arc::new(images),
            network: Arc::new(network),
        })
    })
    .await
    .context("open the drivers")?
}

/// A number that is this host's own: the beginning of its id.
fn host_seed(data: &Path) -> Result<u64> {
    let credential = IdentityFolder::of(data)
        .load()
        .context("read the host's identity")?;
    let id = credential.map(|credential| credential.identity.host);
    Ok(id
        .and_then(|id| u64::from_str_radix(id.as_str(), 16).ok())
        .unwrap_or_default())
}

fn beside_this_program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own file")?;
    let path = own.with_file_name(name);
    anyhow::ensure!(
        path.exists(),
        "{} is missing: build it, or name it with --shim",
        path.display()
    );
    Ok(path)
}
