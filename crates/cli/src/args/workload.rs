//! Workloads.

use clap::{Args, ValueEnum};
use wire::native::workload::{Mount, RestartPolicy};

use super::{Format, ListArgs, YesArgs, value};

/// Where a workload is to be placed.
#[derive(Debug, Clone, Args)]
pub struct PlacementArgs {
    /// What the host must be, for example zone==a, disk!=hdd; ==~ and !=~ for should; can be repeated
    #[arg(long, value_name = "RULE", help_heading = "Placement")]
    pub constraint: Vec<String>,
    /// What must be there, for example app!=web, workload==db; with zone: before it about the zone; can be repeated
    #[arg(long, value_name = "RULE", help_heading = "Placement")]
    pub affinity: Vec<String>,
    /// Spread workloads with this word over zones and hosts
    #[arg(long, value_name = "WORD", help_heading = "Placement")]
    pub spread: Option<String>,
    /// Number of GPUs
    #[arg(long, value_name = "COUNT", help_heading = "Placement")]
    pub gpus: Option<u32>,
    /// Thousandths of each GPU; without: whole ones
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "gpus",
        help_heading = "Placement"
    )]
    pub gpu_millis: Option<u32>,
    /// Model of GPU that will do; can be repeated
    #[arg(
        long,
        value_name = "MODEL",
        requires = "gpus",
        help_heading = "Placement"
    )]
    pub gpu_model: Vec<String>,
    /// What becomes of it when its host is lost: start it elsewhere, keep it where it is, or start it elsewhere and
    /// never let it run twice; without: what the pool and the restart policy say
    #[arg(
        long,
        value_name = "WHAT",
        value_parser = ["restart", "keep", "at-most-one"],
        help_heading = "Placement"
    )]
    pub on_host_loss: Option<String>,
    /// Priority among the workloads of the pool, higher is more important; without: the pool's
    #[arg(
        long,
        value_name = "NUMBER",
        allow_negative_numbers = true,
        help_heading = "Placement"
    )]
    pub priority: Option<i32>,
}

/// Makes and starts a workload.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  plimsoll run --rm busybox echo hello
  plimsoll run -it --rm busybox sh                   a shell; ctrl-p ctrl-q leaves it running
  plimsoll run -d --name web -p 8080:80 --memory 128m nginx
  plimsoll run -d --restart on-failure:5 -e LEVEL=debug worker --fast

Without -d the output is shown and the exit code of the program passed on (125: Plimsoll failed,
126: not executable, 127: not found).")]
pub struct RunArgs {
    /// Image, by name, digest or id
    pub image: String,
    /// Program and arguments instead of the image's
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<String>,

    /// Name; without: one is made up
    #[arg(long)]
    pub name: Option<String>,
    /// Leave it running and print its id
    #[arg(long, short = 'd')]
    pub detach: bool,
    /// Remove it when it ends
    #[arg(long)]
    pub rm: bool,
    /// Keep standard input open
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Keys that leave it running, for example ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Only make it, do not start it
    #[arg(long, conflicts_with_all = ["detach", "queue"])]
    pub no_start: bool,
    /// If there is no room for it now, let it wait in the pool's queue instead of failing
    #[arg(long)]
    pub queue: bool,

    /// Environment variable; NAME alone takes it from here; can be repeated
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// File with NAME=VALUE lines
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<std::path::PathBuf>,
    /// Where it is to be placed.
    #[command(flatten)]
    pub placement: PlacementArgs,
    /// Folder to start in
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, and group after a colon, by name or number
    #[arg(long, short = 'u', value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Supplementary group; can be repeated
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Program to run instead of the image's entry point; empty: none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Run a small init as process 1 that forwards signals and reaps
    #[arg(long)]
    pub init: bool,
    /// Host name inside
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Key-value pair; can be repeated
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = value::pair)]
    pub labels: Vec<(String, String)>,
    /// What happens when it ends: no, always, unless-stopped, on-failure[:TIMES]
    #[arg(long, value_name = "POLICY", value_parser = value::restart)]
    pub restart: Option<RestartPolicy>,
    /// Signal that stops it gently
    #[arg(long, value_name = "SIGNAL", value_parser = value::signal)]
    pub stop_signal: Option<i32>,
    /// Time between stop signal and kill
    #[arg(long, value_name = "SPAN", value_parser = value::span)]
    pub stop_grace: Option<std::time::Duration>,
    /// OCI runtime by name; the pool must allow it
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
    /// When to pull the image
    #[arg(long, value_enum, default_value_t = Pull::Missing)]
    pub pull: Pull,

    /// Network and storage.
    #[command(flatten)]
    pub attach: RunAttachArgs,
    /// What it may take and do.
    #[command(flatten)]
    pub limits: RunLimitArgs,
}

/// When to pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// If the pool does not have it.
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Network and storage of a workload.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Network and storage")]
pub struct RunAttachArgs {
    /// Publish ports: [ADDRESS:][HOST_PORT:]PORT[/tcp|udp]; can be repeated
    #[arg(long, short = 'p', value_name = "PORTS", value_parser = value::ports)]
    pub publish: Vec<value::Ports>,
    /// Publish every port the image names on free ports
    #[arg(long)]
    pub publish_all: bool,
    /// bridge, none, host or workload:NAME
    #[arg(long, value_name = "MODE", default_value = "bridge")]
    pub network: String,
    /// Name server; can be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Extra host name; can be repeated
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Mount VOLUME:/TARGET[:ro], or /HOST/PATH:/TARGET[:ro] if the pool allows it; can be repeated
    #[arg(long, short = 'v', value_name = "MOUNT", value_parser = value::volume)]
    pub volume: Vec<Mount>,
    /// Mount memory at /TARGET[:size=SIZE]; can be repeated
    #[arg(long, value_name = "TARGET", value_parser = value::tmpfs)]
    pub tmpfs: Vec<Mount>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = value::bytes)]
    pub shm_size: Option<u64>,
    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,
}

/// What a workload may take and do.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits and rights")]
pub struct RunLimitArgs {
    /// Highest memory, for example 512m
    #[arg(long, short = 'm', value_name = "SIZE", value_parser = value::bytes)]
    pub memory: Option<u64>,
    /// Highest number of CPUs, for example 0.5
    #[arg(long, value_name = "NUMBER", value_parser = value::cpus)]
    pub cpus: Option<u64>,
    /// Memory that placement counts on; without: --memory
    #[arg(long, value_name = "SIZE", value_parser = value::bytes)]
    pub request_memory: Option<u64>,
    /// CPUs that placement counts on; without: --cpus
    #[arg(long, value_name = "NUMBER", value_parser = value::cpus)]
    pub request_cpus: Option<u64>,
    /// Weight against others of the pool; 1024 is normal
    #[arg(long, value_name = "WEIGHT")]
    pub cpu_shares: Option<u64>,
    /// CPUs it may use, for example 0-1,3
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Highest number of processes
    #[arg(long, value_name = "NUMBER")]
    pub pids_limit: Option<i64>,
    /// Process limit, NAME=SOFT[:HARD]; can be repeated
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// Add a capability; can be repeated
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Take a capability away; can be repeated
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Make gaining privileges by set-uid programs impossible
    #[arg(long)]
    pub no_new_privileges: bool,
    /// All devices and capabilities; the pool must allow it
    #[arg(long)]
    pub privileged: bool,
    /// Hand in a host device, HOST[:INSIDE[:rwm]]; the pool must allow it; can be repeated
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// Kernel parameter of its namespaces; can be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = value::pair)]
    pub sysctl: Vec<(String, String)>,
}

/// Changes limits and restart policy.
#[derive(Debug, Clone, Args)]
#[command(
    group = clap::ArgGroup::new("change").required(true).multiple(true),
    after_help = "\
Examples:
  plimsoll update --memory 256m --cpus 0.5 web
  plimsoll update --restart on-failure:3 web worker

What is not named stays as it is. A running workload feels new limits at once."
)]
pub struct UpdateArgs {
    /// Workloads, by name or id
    #[arg(required = true, value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// What happens when it ends: no, always, unless-stopped, on-failure[:TIMES]
    #[arg(long, value_name = "POLICY", value_parser = value::restart, group = "change")]
    pub restart: Option<RestartPolicy>,
    /// Highest memory, for example 512m
    #[arg(long, short = 'm', value_name = "SIZE", value_parser = value::bytes, group = "change")]
    pub memory: Option<u64>,
    /// Memory and swap together; -1: no limit
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = value::swap,
        allow_negative_numbers = true,
        group = "change"
    )]
    pub memory_swap: Option<i64>,
    /// Highest number of CPUs, for example 0.5
    #[arg(long, value_name = "NUMBER", value_parser = value::cpus, group = "change")]
    pub cpus: Option<u64>,
    /// Memory that placement counts on
    #[arg(long, value_name = "SIZE", value_parser = value::bytes, group = "change")]
    pub request_memory: Option<u64>,
    /// CPUs that placement counts on
    #[arg(long, value_name = "NUMBER", value_parser = value::cpus, group = "change")]
    pub request_cpus: Option<u64>,
    /// Weight against others of the pool; 1024 is normal
    #[arg(long, value_name = "WEIGHT", group = "change")]
    pub cpu_shares: Option<u64>,
    /// CPUs it may use, for example 0-1,3
    #[arg(long, value_name = "LIST", group = "change")]
    pub cpuset_cpus: Option<String>,
    /// Highest number of processes; -1: no limit
    #[arg(
        long,
        value_name = "NUMBER",
        allow_negative_numbers = true,
        group = "change"
    )]
    pub pids_limit: Option<i64>,
}

/// Lists workloads.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  plimsoll ps                      what runs in all pools you may see
  plimsoll ps -a --pool team-a     also what ended
  plimsoll ps -o json | jq -r '.items[].name'")]
pub struct PsArgs {
    /// Also what does not run
    #[arg(long, short = 'a')]
    pub all: bool,
    /// Only with this label; can be repeated
    #[arg(long = "label", short = 'l', value_name = "KEY[=VALUE]")]
    pub labels: Vec<String>,
    /// Only on this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub list: ListArgs,
    /// Whole ids and texts
    #[arg(long)]
    pub no_trunc: bool,
}

/// Shows output.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  plimsoll logs -f web
  plimsoll logs --tail 20 --timestamps web
  plimsoll logs --since 10m web 2>errors.txt")]
pub struct LogsArgs {
    /// Workload, by name or id
    pub workload: String,
    /// Go on with new output until it ends
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Only the last so many lines
    #[arg(long, short = 'n', value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only output since then: RFC 3339, or an age such as 10m
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    pub since: Option<value::Time>,
    /// Only output until then
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    pub until: Option<value::Time>,
    /// Begin each line with the time it was written
    #[arg(long, short = 't')]
    pub timestamps: bool,
}

/// Runs a further program.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  plimsoll exec web ls /etc
  plimsoll exec -it web sh
The exit code of the program is passed on.")]
pub struct ExecArgs {
    /// Workload, by name or id
    pub workload: String,
    /// Program and arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<String>,
    /// Do not wait for it
    #[arg(long, short = 'd')]
    pub detach: bool,
    /// Pass on standard input
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Environment variable; NAME alone takes it from here; can be repeated
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Folder to start in
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, and group after a colon
    #[arg(long, short = 'u', value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// All capabilities; the pool must allow it
    #[arg(long)]
    pub privileged: bool,
}

/// Workloads.
#[derive(Debug, Clone, Args)]
pub struct WorkloadsArgs {
    /// Workloads, by name or id
    #[arg(required = true, value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
}

/// Starts workloads.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  plimsoll start web\n  plimsoll start --queue batch")]
pub struct StartArgs {
    /// Workloads, by name or id
    #[arg(required = true, value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// If there is no room now, let them wait in the pool's queue instead of failing
    #[arg(long)]
    pub queue: bool,
}

/// Stops or restarts workloads.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  plimsoll stop web\n  plimsoll stop --time 1m db cache\n  plimsoll restart web"
)]
pub struct StopArgs {
    /// Workloads, by name or id
    #[arg(required = true, value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// Time before it is killed, 10s unless the workload says otherwise
    #[arg(long, short = 't', value_name = "SPAN", value_parser = value::span)]
    pub time: Option<std::time::Duration>,
    /// Signal instead of the workload's own
    #[arg(long, short = 's', value_name = "SIGNAL", value_parser = value::signal)]
    pub signal: Option<i32>,
}

/// Sends signals.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  plimsoll kill -s HUP web")]
pub struct KillArgs {
    /// Workloads, by name or id
    #[arg(required = true, value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// Which signal
    #[arg(long, short = 's', value_name = "SIGNAL", default_value = "KILL", value_parser = value::signal)]
    pub signal: i32,
}

/// Removes workloads.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  plimsoll rm web\n  plimsoll rm -f $(plimsoll ps -aq --label job=test)"
)]
pub struct RmArgs {
    /// Workloads, by name or id
    #[arg(required = true, value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// Also if it runs (it is killed), and do not ask
    #[arg(long, short = 'f')]
    pub force: bool,
    /// Also its anonymous volumes
    #[arg(long, short = 'v')]
    pub volumes: bool,
    /// Confirmation.
    #[command(flatten)]
    pub yes: YesArgs,
}

/// Shows what workloads use.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  plimsoll stats\n  plimsoll stats --no-stream -o json web")]
pub struct StatsArgs {
    /// Workloads, by name or id; none: all that run in the pool
    #[arg(value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// Print once
    #[arg(long)]
    pub no_stream: bool,
    /// Table for people, or JSON or YAML for programs
    #[arg(long, short = 'o', value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
}

/// Shows processes.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  plimsoll top web\n  plimsoll top web -o pid,user,args")]
pub struct TopArgs {
    /// Workload, by name or id
    pub workload: String,
    /// Arguments for ps; without: -ef
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PS ARGS"
    )]
    pub ps_args: Vec<String>,
}
