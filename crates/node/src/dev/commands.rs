//! `plimsoll dev`: its arguments and what they start.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use model::Resource;

use super::plan::{HOSTS_MAX, Plan};
use super::{cluster, follow, output, teardown};
use crate::agent::offered;

/// A development cluster on this machine.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DevCommand {
    /// Start a server and several hosts on this machine, or what is missing of them
    #[command(after_help = "\
Examples:
  plimsoll dev up --data ./cluster              until Ctrl-C, with logs
  plimsoll dev up --hosts 3 --data ./cluster --detach
  export PLIMSOLL_SERVER=unix://$PWD/cluster/server.sock")]
    Up(UpArgs),
    /// Say what runs
    Status(StatusArgs),
    /// Stop everything and remove every trace
    Down(DownArgs),
}

/// Arguments of `dev up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Number of hosts; without it as many as there are, else 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(HOSTS_MAX)))]
    pub(crate) hosts: Option<u32>,
    /// Folder of the cluster; made if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// CPUs each host offers, for example `0.5`; without it as before, else all of this machine's
    #[arg(long, value_name = "CPUS", value_parser = offered(Resource::Cpu))]
    pub(crate) host_cpus: Option<u64>,
    /// Memory each host offers, for example `2GiB`; without it as before, else all of this machine's
    #[arg(long, value_name = "BYTES", value_parser = offered(Resource::Memory))]
    pub(crate) host_memory: Option<u64>,
    /// Leave it running, return when all hosts are ready
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
}

/// Arguments of `dev status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Folder of the cluster
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Table for people, or JSON or YAML for programs
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    pub(crate) output: Output,
}

/// Arguments of `dev down`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DownArgs {
    /// Folder of the cluster
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Keep the folder's content: the next `dev up` goes on with it
    #[arg(long)]
    pub(crate) keep_data: bool,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// Runs `plimsoll dev …`. Exit codes: 0 it worked (`status`: everything runs), 1 it failed, 3 (`status`) there is no
/// cluster, 6 (`status`) something does not run.
///
/// # Errors
/// When a step fails; the message says which, why and what to do.
pub(crate) async fn run(command: DevCommand) -> Result<ExitCode> {
    match command {
        DevCommand::Up(args) => up(&args).await,
        DevCommand::Status(args) => {
            let status = cluster::status(&Plan::of(&args.data)?).await?;
            output::status(&status, args.output)?;
            Ok(ExitCode::from(status.exit_code()))
        }
        DevCommand::Down(args) => {
            let plan = Plan::of(&args.data)?;
            tokio::task::spawn_blocking(move || teardown::down(&plan, args.keep_data)).await??;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn up(args: &UpArgs) -> Result<ExitCode> {
    let plan = Plan::of(&args.data)?;
    let follower = (!args.detach).then(|| follow::start(&plan));
    let state = tokio::select! {
        state = cluster::up(&plan, args) => state?,
        () = follow::interrupted(), if !args.detach => {
            return stopped(plan).await;
        }
    };
    output::ready(&plan, &state);
    let Some(follower) = follower else {
        return Ok(ExitCode::SUCCESS);
    };
    println!(
        "Ctrl-C stops everything; the data stay in {}",
        plan.folder.display()
    );
    let removed = tokio::select! {
        () = follow::interrupted() => false,
        () = follow::removed(&plan) => true,
    };
    follower.abort();
    if removed {
        println!("the cluster was taken down");
        return Ok(ExitCode::SUCCESS);
    }
    stopped(plan).await
}

async fn stopped(plan: Plan) -> Result<ExitCode> {
    println!("stopping");
    tokio::task::spawn_blocking(move || teardown::down(&plan, true)).await??;
    Ok(ExitCode::SUCCESS)
}
