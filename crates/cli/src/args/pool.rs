//! Pools and docker's way into them.

use clap::{Args, Subcommand};

use super::{ListArgs, OutputArgs, SliceArgs, YesArgs, value};

/// What can be done with pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool
    #[command(after_help = "\
Examples:
  plimsoll pool create team-a
  plimsoll pool create team-a-ci --parent team-a --label stage=ci
  plimsoll pool create finance --size 25% --hard
  plimsoll pool create web --reserve-cpu 2 --reserve-memory 4GiB --limit-memory 8GiB --shares high
  plimsoll pool create builds --allow-runtime runc --allow-host-path /srv/cache")]
    Create(PoolCreateArgs),
    /// List pools
    Ls(ListArgs),
    /// Show a pool and those below it: what is reserved, limited and used at each level
    Show {
        /// Pool, by name or id
        pool_name: String,
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Watch what pools use, may use now, and have borrowed
    #[command(after_help = "\
Examples:
  plimsoll pool top
  plimsoll pool top --once --output json")]
    Top(PoolTopArgs),
    /// Change a pool; what is not named stays
    Update(PoolUpdateArgs),
    /// Remove pools that hold no workloads, with their images
    Rm {
        /// Pools, by name or id
        #[arg(required = true, value_name = "POOL")]
        pools: Vec<String>,
        /// Confirmation.
        #[command(flatten)]
        yes: YesArgs,
    },
}

/// Watches what pools use.
#[derive(Debug, Clone, Args)]
pub struct PoolTopArgs {
    /// Print once instead of again and again
    #[arg(long)]
    pub once: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Makes a pool.
#[derive(Debug, Clone, Args)]
pub struct PoolCreateArgs {
    /// Name: letters, digits, '_', '.' and '-'
    pub name: String,
    /// Pool it is a slice of
    #[arg(long, value_name = "POOL")]
    pub parent: Option<String>,
    /// Free text
    #[arg(long, default_value = "", hide_default_value = true)]
    pub description: String,
    /// Key-value pair; can be repeated
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = value::pair)]
    pub labels: Vec<(String, String)>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// What it may use.
    #[command(flatten)]
    pub slice: SliceArgs,
    /// What its tenants may do.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// Changes a pool.
#[derive(Debug, Clone, Args)]
pub struct PoolUpdateArgs {
    /// Pool, by name or id
    #[arg(value_name = "POOL")]
    pub pool_name: String,
    /// Free text
    #[arg(long)]
    pub description: Option<String>,
    /// Set a label; can be repeated
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = value::pair)]
    pub labels: Vec<(String, String)>,
    /// Remove a label; can be repeated
    #[arg(long = "label-rm", value_name = "KEY")]
    pub labels_removed: Vec<String>,
    /// Move it into another pool; '' for directly into the installation
    #[arg(long, value_name = "POOL")]
    pub parent: Option<String>,
    /// Only check whether it could be done
    #[arg(long)]
    pub dry_run: bool,
    /// Replace the whole policy by the --allow-* options given (none: nothing is allowed)
    #[arg(long)]
    pub replace_policy: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// What it may use.
    #[command(flatten)]
    pub slice: SliceArgs,
    /// What its tenants may do.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// What a pool's tenants may ask for; everything is refused unless named.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Policy: refused unless named")]
pub struct PolicyArgs {
    /// Allow binding a host folder and what is below it; can be repeated
    #[arg(long = "allow-host-path", value_name = "PATH")]
    pub host_paths: Vec<String>,
    /// Allow privileged workloads
    #[arg(long = "allow-privileged")]
    pub privileged: bool,
    /// Allow sharing a host namespace; can be repeated
    #[arg(long = "allow-host-namespace", value_name = "KIND", value_parser = ["network", "pid", "ipc", "uts"])]
    pub host_namespaces: Vec<String>,
    /// Allow handing in a host device; can be repeated
    #[arg(long = "allow-device", value_name = "PATH")]
    pub devices: Vec<String>,
    /// Allow adding a capability; can be repeated
    #[arg(long = "allow-capability", value_name = "CAP")]
    pub capabilities: Vec<String>,
    /// Allow switching off or replacing the seccomp filter
    #[arg(long = "allow-custom-seccomp")]
    pub custom_seccomp: bool,
    /// Allow naming an OCI runtime, for example runc; can be repeated
    #[arg(long = "allow-runtime", value_name = "NAME")]
    pub runtimes: Vec<String>,
}

/// Lets docker use a pool.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  eval \"$(plimsoll docker-env team-a)\"   then: docker ps, docker run, docker logs
  plimsoll docker-env team-a --context team-a && docker --context team-a ps
  eval \"$(plimsoll docker-env --unset)\"  back to the docker of before

On the server's machine the pool's unix socket is used. From elsewhere, or with --tls, a client
certificate is made and kept in ~/.plimsoll/pools/POOL/, readable only by you.")]
pub struct DockerEnvArgs {
    /// Pool, by name or id
    #[arg(value_name = "POOL", required_unless_present = "unset")]
    pub pool_name: Option<String>,
    /// Make a Docker context of this name instead of printing
    #[arg(long, value_name = "NAME", conflicts_with = "unset")]
    pub context: Option<String>,
    /// Print what takes the settings back
    #[arg(long)]
    pub unset: bool,
    /// Use the TLS endpoint even where the unix socket could be used
    #[arg(long, conflicts_with = "unset")]
    pub tls: bool,
    /// Days the client certificate works
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub days: u32,
    /// Shell to print for
    #[arg(long, value_name = "SHELL", value_parser = ["sh", "fish"], default_value = "sh")]
    pub shell: String,
}
