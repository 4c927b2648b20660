//! Hosts.

use clap::Subcommand;

use super::{ListArgs, OutputArgs, YesArgs, value};

/// What can be done with hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// List hosts
    Ls(ListArgs),
    /// Show a host
    Show {
        /// Host, by name or id
        host: String,
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make a one-time token a machine joins with
    #[command(after_help = "\
Examples:
  plimsoll host token --ttl 10m
On the machine that joins:
  plimsoll agent --server https://SERVER:PORT --token TOKEN")]
    Token {
        /// How long it works
        #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = value::span)]
        ttl: std::time::Duration,
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Place nothing new on hosts
    Cordon {
        /// Hosts, by name or id
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Place new workloads on hosts again
    Uncordon {
        /// Hosts, by name or id
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Remove hosts from the installation
    #[command(after_help = "\
A host with workloads is removed only with --force: its workloads are lost with it.")]
    Rm {
        /// Hosts, by name or id
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
        /// Also if workloads are placed on it
        #[arg(long, short = 'f')]
        force: bool,
        /// Confirmation.
        #[command(flatten)]
        yes: YesArgs,
    },
}
