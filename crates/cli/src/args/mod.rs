//! The command line: one definition for parser, help, completions and man pages.
//!
//! Start at [`Cli`] and [`Command`]; each family has a file of its own. Values are parsed by [`value`], so that a
//! wrong one is a usage error before anything is sent.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod access;
mod host;
mod image;
mod pool;
mod slice;
pub mod value;
mod what_if;
mod workload;

pub use access::{Binding, LoginArgs, TokenCommand, UserCommand};
pub use host::{DrainArgs, HostCommand};
pub use image::ImageCommand;
pub use pool::{
    DockerEnvArgs, PolicyArgs, PoolCommand, PoolCreateArgs, PoolTopArgs, PoolUpdateArgs,
};
pub use slice::{ApplyArgs, InstallationCommand, SliceArgs};
pub use what_if::PlanArgs;
pub use workload::{
    ExecArgs, KillArgs, LogsArgs, PlacementArgs, PsArgs, Pull, RmArgs, RunArgs, RunAttachArgs,
    RunLimitArgs, StartArgs, StatsArgs, StopArgs, TopArgs, UpdateArgs, WorkloadsArgs,
};

const ABOUT: &str = "Container pools over many hosts: load your hosts to the line, never below it";

const EXAMPLES: &str = "\
Examples:
  plimsoll pool create team-a                  make a pool
  plimsoll run --pool team-a -d --name web nginx
  plimsoll ps                                  all workloads you may see
  eval \"$(plimsoll docker-env team-a)\"         use docker with the pool
  plimsoll login https://plimsoll.example:7440 use a remote installation
";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "plimsoll",
    bin_name = "plimsoll",
    version,
    about = ABOUT,
    after_help = EXAMPLES,
    after_long_help = concat_help(),
    arg_required_else_help = true,
    subcommand_required = true,
    propagate_version = false,
    max_term_width = 100
)]
pub struct Cli {
    /// What is the same for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

fn concat_help() -> String {
    format!("{EXAMPLES}\n{}", crate::exit::HELP)
}

/// Options every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Server to talk to, `unix:///path/server.sock` or `https://host:port`
    ///
    /// Without it: where you are logged in, else the server of this machine.
    #[arg(
        long,
        global = true,
        env = "PLIMSOLL_SERVER",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub server: Option<String>,

    /// Pool to work in; not needed if you may see only one
    #[arg(
        long,
        global = true,
        env = "PLIMSOLL_POOL",
        hide_env_values = true,
        value_name = "POOL"
    )]
    pub pool: Option<String>,

    /// Only ids or names, for scripts; no progress
    #[arg(long, short = 'q', global = true)]
    pub quiet: bool,

    /// No colour, also without a terminal or with NO_COLOR set
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// How a list or a thing is printed.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Table for people, or JSON or YAML for programs
    #[arg(long, short = 'o', value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
}

/// How a list is printed.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Go on printing as things change (JSON: one line per change)
    #[arg(long, short = 'w')]
    pub watch: bool,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// Confirms a step that loses data.
#[derive(Debug, Clone, Args)]
pub struct YesArgs {
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, show, change and remove pools
    #[command(subcommand, arg_required_else_help = true)]
    Pool(Box<PoolCommand>),
    /// Make pools as a file says
    Apply(ApplyArgs),
    /// Show and change what holds for the whole installation
    #[command(subcommand, arg_required_else_help = true)]
    Installation(InstallationCommand),
    /// Show, add, label, empty and remove hosts
    #[command(subcommand, arg_required_else_help = true)]
    Host(HostCommand),
    /// Make a workload from an image and start it
    Run(Box<RunArgs>),
    /// List workloads
    #[command(visible_alias = "ls")]
    Ps(PsArgs),
    /// Show the output of a workload
    Logs(LogsArgs),
    /// Run a further program in a running workload
    Exec(ExecArgs),
    /// Start workloads that do not run
    Start(StartArgs),
    /// Stop workloads gently, then by force
    Stop(StopArgs),
    /// Stop workloads and start them again
    Restart(StopArgs),
    /// Send a signal to workloads
    Kill(KillArgs),
    /// Freeze workloads
    Pause(WorkloadsArgs),
    /// Let frozen workloads go on
    Resume(WorkloadsArgs),
    /// Wait until workloads end and print their exit codes
    Wait(WorkloadsArgs),
    /// Give a workload another name
    Rename {
        /// Workload, by name or id
        workload: String,
        /// The new name
        name: String,
    },
    /// Change limits and restart policy of workloads
    Update(Box<UpdateArgs>),
    /// Remove workloads
    Rm(RmArgs),
    /// Show everything about workloads or images, as JSON
    #[command(after_help = "Examples:\n  plimsoll inspect web\n  plimsoll inspect -o yaml web db")]
    Inspect {
        /// Workloads or images, by name or id
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// JSON or YAML
        #[arg(long, short = 'o', value_enum, default_value_t = Format::Json, value_name = "FORMAT")]
        output: Format,
    },
    /// Show why a workload is where it is, or why it is pending
    #[command(after_help = "\
Every host with the first filter it fails, or its score (less is better).
Examples:
  plimsoll explain web
  plimsoll explain web -o json")]
    Explain {
        /// Workload, by name or id
        workload: String,
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what would become of everything if something changed
    Plan(Box<PlanArgs>),
    /// Show what happened and happens
    Events(EventsArgs),
    /// Show what workloads use
    Stats(StatsArgs),
    /// Show the processes of a workload
    Top(TopArgs),
    /// List, pull, load, tag, save and remove images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
    /// Print what lets docker use a pool
    DockerEnv(DockerEnvArgs),
    /// Log in to a remote installation
    Login(LoginArgs),
    /// Forget the login
    Logout,
    /// Make, list and remove access tokens
    #[command(subcommand, arg_required_else_help = true)]
    Token(TokenCommand),
    /// Make, list, bind and remove users
    #[command(subcommand, arg_required_else_help = true)]
    User(UserCommand),
    /// Print the completion script of a shell
    #[command(
        after_help = "Examples:\n  plimsoll completion bash > /etc/bash_completion.d/plimsoll\n  \
        plimsoll completion zsh > \"${fpath[1]}/_plimsoll\"\n  \
        plimsoll completion fish > ~/.config/fish/completions/plimsoll.fish"
    )]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a folder
    #[command(after_help = "Examples:\n  plimsoll man /usr/local/share/man/man1")]
    Man {
        /// The folder; made if it is missing
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Show the versions of program and server
    Version {
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Shows events.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  plimsoll events                        from now on, until interrupted
  plimsoll events --since 1h --no-follow what happened in the last hour
  plimsoll events --pool team-a -o json  one JSON document per line")]
pub struct EventsArgs {
    /// From this time on: RFC 3339, or an age such as 10m
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    pub since: Option<value::Time>,
    /// Until this time
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    pub until: Option<value::Time>,
    /// Only what happened until now
    #[arg(long)]
    pub no_follow: bool,
    /// Print a table line or one JSON document per event
    #[arg(long, short = 'o', value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
}
