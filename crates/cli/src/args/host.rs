//! Hosts.

use clap::{Args, Subcommand};

use super::{ListArgs, OutputArgs, YesArgs, value};

/// What can be done with hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// List hosts
    #[command(after_help = "\
States:
  ready        takes workloads
  cordoned     nothing new is placed on it
  draining     in maintenance; something still runs on it
  drained      in maintenance; nothing runs on it any more
  unreachable  no link to it; what runs there goes on
  lost         unreachable for so long that what may run elsewhere is started there

CPU and memory: what workloads ask for, of what the host may give.")]
    Ls(ListArgs),
    /// Show a host: state, room, labels, GPUs, parts of pools, maintenance
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
    /// Set and take away labels of a host
    #[command(after_help = "\
Examples:
  plimsoll host label h1 disk=ssd rack=4
  plimsoll host label h1 rack-                  takes the label rack away

Rules and pools find hosts by labels: plimsoll run --constraint disk==ssd IMAGE,
plimsoll pool create fast --host-label disk=ssd. What is placed already stays where it is.")]
    Label {
        /// Host, by name or id
        host: String,
        /// KEY=VALUE sets a label, KEY- takes it away; can be repeated
        #[arg(required = true, value_name = "CHANGE", value_parser = value::label_change)]
        changes: Vec<value::LabelChange>,
    },
    /// Let requests go beyond what a host has, or keep some of it free
    #[command(
        group = clap::ArgGroup::new("what").required(true).multiple(true),
        after_help = "\
Examples:
  plimsoll host overcommit h1 --cpu 150%
  plimsoll host overcommit h1 --cpu 100% --memory 90%

A percentage of what the host has less its reserve; 100% without other word."
    )]
    Overcommit {
        /// Host, by name or id
        host: String,
        /// What CPU requests may add up to
        #[arg(long, value_name = "PERCENT", value_parser = value::percent, group = "what")]
        cpu: Option<u32>,
        /// What memory requests may add up to
        #[arg(long, value_name = "PERCENT", value_parser = value::percent, group = "what")]
        memory: Option<u32>,
    },
    /// Place nothing new on hosts
    Cordon {
        /// Hosts, by name or id
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Place new workloads on hosts again; ends their maintenance
    Uncordon {
        /// Hosts, by name or id
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Empty a host for maintenance: nothing new is placed on it, and what can move leaves it
    #[command(after_help = "\
Examples:
  plimsoll host drain h2 --dry-run       what would become of each workload
  plimsoll host drain h2                 begin, and wait until nothing runs there
  plimsoll host drain h2 --stop-rest     stop what cannot move
  plimsoll host uncordon h2              take it into use again

What has a restart policy of always or unless-stopped moves, and what is agreed to by on-host-loss;
the reason is shown for everything else. What does not run stays with its files.
Waiting can be interrupted: the maintenance goes on.

Exit codes:
  0    nothing runs there any more (--dry-run: nothing would)
  1    something still runs there after --timeout
  5    something cannot move and is not to be stopped (--dry-run: or has no room now),
       or the host is the last one that takes workloads")]
    Drain(DrainArgs),
    /// Remove hosts from the installation
    #[command(after_help = "\
A host with workloads is removed only with --force. What is forgotten with it, and what was started
elsewhere before, is shown; what still runs there is not stopped by it if the host cannot be reached.")]
    Rm {
        /// Hosts, by name or id
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
        /// Also if workloads are placed on it: they are forgotten, and nobody is asked
        #[arg(long, short = 'f')]
        force: bool,
        /// Confirmation.
        #[command(flatten)]
        yes: YesArgs,
    },
}

/// Empties a host.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// Host, by name or id
    pub host: String,
    /// Stop what cannot move
    #[arg(long)]
    pub stop_rest: bool,
    /// Only show what would become of each workload
    #[arg(long, conflicts_with_all = ["detach", "force"])]
    pub dry_run: bool,
    /// Do not wait
    #[arg(long, short = 'd')]
    pub detach: bool,
    /// How long to wait
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = value::span)]
    pub timeout: std::time::Duration,
    /// Also if it is the last host that takes workloads
    #[arg(long, short = 'f')]
    pub force: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}
