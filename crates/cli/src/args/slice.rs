//! What a pool may use of its parent, as options; and files that say it for many pools.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{OutputArgs, value};

/// What a pool may use of its parent. An amount is absolute or a percentage of the parent; `none` takes one back.
#[derive(Debug, Clone, Default, Args)]
#[command(
    next_help_heading = "Slice: CPU as 2.5, 500m or 25%; memory as 8GiB or 25%; none takes back"
)]
pub struct SliceArgs {
    /// The short way: a percentage that stands for reservation and shares of CPU and memory
    #[arg(long, value_name = "PERCENT")]
    pub size: Option<String>,
    /// Make the size the limit too
    #[arg(long, overrides_with = "elastic")]
    pub hard: bool,
    /// Let it use more than its size when others do not (default)
    #[arg(long, overrides_with = "hard")]
    pub elastic: bool,
    /// Guaranteed CPU
    #[arg(long, value_name = "CPU")]
    pub reserve_cpu: Option<String>,
    /// Guaranteed memory
    #[arg(long, value_name = "MEMORY")]
    pub reserve_memory: Option<String>,
    /// CPU it never passes
    #[arg(long, value_name = "CPU")]
    pub limit_cpu: Option<String>,
    /// Memory it never passes
    #[arg(long, value_name = "MEMORY")]
    pub limit_memory: Option<String>,
    /// Weight against siblings for CPU and memory: low, normal, high or a number
    #[arg(long, value_name = "SHARES")]
    pub shares: Option<String>,
    /// Weight for CPU only
    #[arg(long, value_name = "SHARES")]
    pub shares_cpu: Option<String>,
    /// Weight for memory only
    #[arg(long, value_name = "SHARES")]
    pub shares_memory: Option<String>,
    /// Whether it may take from its parent when its reservation is used up
    #[arg(long, value_name = "BOOL")]
    pub expandable: Option<bool>,
    /// How much of the unused CPU reservation others may borrow
    #[arg(long, value_name = "CPU")]
    pub lend_cpu: Option<String>,
    /// How much of the unused memory reservation others may borrow
    #[arg(long, value_name = "MEMORY")]
    pub lend_memory: Option<String>,
    /// CPU requests may add up to so many times the limit
    #[arg(long, value_name = "RATIO")]
    pub overcommit_cpu: Option<String>,
    /// Memory requests may add up to so many times the limit
    #[arg(long, value_name = "RATIO")]
    pub overcommit_memory: Option<String>,
    /// Highest count, for example workloads=100, published-ports=20 or gpus=2.5; can be repeated
    #[arg(long = "quota", value_name = "NAME=COUNT", value_parser = value::pair)]
    pub quotas: Vec<(String, String)>,
    /// CPU charged to workloads that do not say
    #[arg(long, value_name = "CPU")]
    pub default_cpu_request: Option<String>,
    /// CPU limit of workloads that do not say
    #[arg(long, value_name = "CPU")]
    pub default_cpu_limit: Option<String>,
    /// Memory charged to workloads that do not say
    #[arg(long, value_name = "MEMORY")]
    pub default_memory_request: Option<String>,
    /// Memory limit of workloads that do not say
    #[arg(long, value_name = "MEMORY")]
    pub default_memory_limit: Option<String>,
    /// Use only hosts with this label; can be repeated
    #[arg(long = "host-label", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub hosts: Vec<(String, String)>,
    /// Use every host the parent may use
    #[arg(long, conflicts_with = "hosts")]
    pub any_host: bool,
    /// How hosts are chosen: balance or pack
    #[arg(long, value_name = "POLICY")]
    pub placement: Option<String>,
    /// What becomes of workloads whose host is lost, unless they say otherwise
    #[arg(long, value_name = "WHAT", value_parser = ["restart", "keep", "at-most-one", "none"])]
    pub on_host_loss: Option<String>,
    /// Priority of workloads that do not say
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub priority: Option<i32>,
}

/// Makes things as a file says.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  plimsoll apply -f pools.yaml --dry-run   show what would change
  plimsoll apply -f pools.yaml

The file:
  pools:
    - name: finance
      size: 25%
      hard: true
      pools:
        - name: payroll
          memory: { reservation: 2GiB, limit: 4GiB, shares: high }
          quotas: { workloads: 50 }

Pools that are named get exactly what is said of them; others are left alone.")]
pub struct ApplyArgs {
    /// The file, YAML or JSON; - for standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    pub file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    pub dry_run: bool,
}

/// What can be done with the installation itself.
#[derive(Debug, Subcommand)]
pub enum InstallationCommand {
    /// Show what holds for the whole installation
    Show {
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Change it; what is not named stays
    #[command(
        after_help = "Examples:\n  plimsoll installation update --overcommit-cpu 2 --overcommit-memory 1.25\n  \
        plimsoll installation update --host-loss-after 30s"
    )]
    Update {
        /// How far CPU sizes and requests may go beyond what there is
        #[arg(long, value_name = "RATIO")]
        overcommit_cpu: Option<String>,
        /// How far memory sizes and requests may go beyond what there is
        #[arg(long, value_name = "RATIO")]
        overcommit_memory: Option<String>,
        /// How long a host must be silent to be taken as lost, 8s to 1d
        #[arg(long, value_name = "SPAN", value_parser = value::span)]
        host_loss_after: Option<std::time::Duration>,
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
}
