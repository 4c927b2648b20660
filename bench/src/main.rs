//! Benchmarks: each is one subcommand that prints a table, or one JSON object with the same figures.
//!
//! Start at [`BENCHES`]. What compares with dockerd runs both side by side in one run, with the same client and image.
//! Nothing is left on the machine: the engines are started with folders and namespaces of their own.

mod bitbrains;
mod csv;
mod demo;
mod engines;
mod entitle;
mod memory;
mod openb;
mod parallel;
mod place;
mod report;
mod run;
mod scale;
mod store;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use report::Report;

/// What the benchmarks may be told.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Run one benchmark")]
struct Options {
    /// Which one; without a name the list is printed.
    name: Option<String>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Repetitions, where a benchmark repeats.
    #[arg(long)]
    rounds: Option<u32>,
    /// Hosts of `openb`: a CSV file of the published form.
    #[arg(long)]
    hosts: Option<PathBuf>,
    /// Pods of `openb`: a CSV file of the published form.
    #[arg(long)]
    pods: Option<PathBuf>,
    /// Seeds of `openb`.
    #[arg(long)]
    seeds: Option<u32>,
    /// Folder of `bitbrains`' trace: `vms.csv` and `demand.csv.gz`.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Store of `scale`: sqlite or memory.
    #[arg(long)]
    store: Option<String>,
    /// Hosts of `scale`.
    #[arg(long)]
    host_count: Option<u64>,
    /// Workloads of `scale`.
    #[arg(long)]
    workload_count: Option<u64>,
    /// How long `scale` replaces workloads, in seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// `openb`: also pod lists made from the one given, with other proportions and needs.
    #[arg(long)]
    variants: bool,
}

/// One benchmark.
struct Bench {
    name: &'static str,
    what: &'static str,
    run: fn(&Options) -> Result<Report>,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "run",
        what: "docker run --rm IMAGE true, against dockerd, side by side",
        run: run::run,
    },
    Bench {
        name: "parallel",
        what: "100 containers with docker run -d, 16 at a time, against dockerd",
        run: parallel::run,
    },
    Bench {
        name: "memory",
        what: "shim, agent and server with 3 hosts and 100 containers",
        run: memory::run,
    },
    Bench {
        name: "demo",
        what: "from nothing to running containers, after the build",
        run: demo::run,
    },
    Bench {
        name: "place",
        what: "placements per second on 5,000 hosts, and 2,000,000 workloads on 6,100",
        run: place::run,
    },
    Bench {
        name: "openb",
        what: "GPUs given out when pods of a trace are packed (--hosts, --pods, --seeds, --variants)",
        run: openb::run,
    },
    Bench {
        name: "entitle",
        what: "what 1,000 pools with 200,000 workloads may use on each of 10,000 hosts, recomputed",
        run: entitle::run,
    },
    Bench {
        name: "bitbrains",
        what: "CPU demand of 50 VMs that five pools meet: elastic, partitions, no pools (--trace)",
        run: bitbrains::run,
    },
    Bench {
        name: "scale",
        what: "a control plane with 5,000 hosts and 150,000 workloads (--store, --host-count, --workload-count, --seconds)",
        run: scale::run,
    },
    Bench {
        name: "store",
        what: "durable commits of one object per second, beside one SQLite transaction per row",
        run: store::run,
    },
];

fn main() -> Result<()> {
    let options = Options::parse();
    let Some(name) = &options.name else {
        for bench in BENCHES {
            println!("{:10} {}", bench.name, bench.what);
        }
        return Ok(());
    };
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!(
            "there is no benchmark {name}; there are {}",
            names.join(", ")
        );
    };
    let report = (bench.run)(&options)?;
    if options.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    Ok(())
}
