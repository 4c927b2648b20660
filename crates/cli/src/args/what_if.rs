//! What-if.

use clap::{ArgGroup, Args};

use super::{OutputArgs, SliceArgs};

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("assumption").multiple(false),
    after_help = "\
Nothing is changed by asking. With --pool and options of `pool update` the pool is thought with that slice.
Exit code 0: everything would run and every pool would have what it reserved; 5: something would not.

Examples:
  plimsoll plan --without-host h2                       h2 is lost
  plimsoll plan --without-host h2 --drained             h2 goes into maintenance
  plimsoll plan --pool finance --limit-memory 4GiB
  plimsoll plan --add 20 --like web --pool shop"
)]
pub struct PlanArgs {
    /// The host is not there any more
    #[arg(long, value_name = "HOST", group = "assumption")]
    pub without_host: Option<String>,
    /// It is emptied in order: what cannot move keeps running
    #[arg(long, requires = "without_host")]
    pub drained: bool,
    /// So many more workloads like the one of --like
    #[arg(long, value_name = "N", group = "assumption", requires = "like")]
    pub add: Option<u32>,
    /// The workload they are like, by name or id
    #[arg(long, value_name = "WORKLOAD", requires = "add")]
    pub like: Option<String>,
    /// The slice the pool of --pool would have; what is not named stays.
    #[command(flatten)]
    pub slice: SliceArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}
