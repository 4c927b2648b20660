//! `cargo xtask`: one subcommand for each thing that is done to the project.
//!
//! Only parsing and dispatch live here; the work is in the library's modules.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{ci, demo, fuzz, images, process, repo::Repo, setup, tidy};

/// The project's toolbox.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the source tree: layers, fences, words, docs, reasons.
    Tidy,
    /// Run everything continuous integration runs.
    Ci {
        /// Run only the steps with these names.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Install the Debian packages a purpose needs and does not find.
    Setup {
        /// What the packages are for.
        #[arg(value_enum, default_value = "all")]
        purpose: setup::Purpose,
        /// Only print the list, with the reason of each.
        #[arg(long)]
        list: bool,
    },
    /// Build demo and test images from Debian packages, as docker archives.
    Image {
        /// busybox, nginx, redis, postgres or all.
        name: images::Selection,
        /// The folder the archives are written to.
        #[arg(long)]
        out: PathBuf,
    },
    /// Start a cluster of three hosts and show what it can do.
    Demo {
        /// Remove the demo cluster instead.
        #[arg(long)]
        down: bool,
    },
    /// Run one benchmark.
    Bench {
        /// Its name; without one, the list is printed.
        name: Option<String>,
        /// Further arguments for the benchmark, `--json` among them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the simulated cluster.
    Sim {
        /// Arguments for the simulator, `--seed N` among them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fuzz the decoders of outside bytes.
    Fuzz {
        /// Seconds per target.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
}

fn main() -> Result<()> {
    let repo = Repo::discover()?;
    match Arguments::parse().task {
        Task::Tidy => tidy::run(&repo),
        Task::Ci { only } => ci::run(&repo, &only),
        Task::Setup { purpose, list } => setup::run(purpose, list),
        Task::Image { name, out } => images::run(&repo, name, &out),
        Task::Demo { down: false } => demo::up(&repo),
        Task::Demo { down: true } => demo::down(&repo),
        Task::Bench { name, arguments } => {
            let mut cargo = process::cargo(&repo);
            cargo.args(["run", "--quiet", "--release", "-p", "bench", "--"]);
            cargo.args(name).args(arguments);
            process::run(&mut cargo)
        }
        Task::Sim { arguments } => {
            let mut cargo = process::cargo(&repo);
            cargo
                .args(["run", "--quiet", "-p", "sim", "--"])
                .args(arguments);
            process::run(&mut cargo)
        }
        Task::Fuzz { seconds } => fuzz::run(&repo, seconds),
    }
}
