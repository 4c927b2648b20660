//! The simulator's command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sim::run::{Options, Report};
use sim::script::{Script, Size};
use sim::{batch, loopback, run, shrink};

/// Plays simulated clusters with seeded faults and checks them after every commit.
#[derive(Debug, Parser)]
#[command(name = "sim", bin_name = "cargo xtask sim")]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Hosts of each cluster.
    #[arg(long, default_value_t = 3)]
    hosts: usize,
    /// Steps of each script.
    #[arg(long, default_value_t = 60)]
    steps: usize,
    /// Only these steps of the script.
    #[arg(long, value_delimiter = ',')]
    only: Option<Vec<usize>>,
    /// Simulations at one time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// One JSON object per seed.
    #[arg(long)]
    json: bool,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Do not look for a shorter script that fails.
    #[arg(long)]
    plain: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Real links in real time instead: the seed decides what is done, the machine in which order.
    Loopback(loopback::Options),
}

fn real_time(options: &loopback::Options) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(loopback::run(options))
}

impl Arguments {
    fn options(&self, seed: u64) -> Options {
        Options {
            seed,
            size: Size {
                hosts: self.hosts,
                steps: self.steps,
            },
            only: self.only.clone(),
            print: self.trace,
        }
    }

    fn show(&self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            let state = if report.failure.is_some() {
                "FAILED"
            } else {
                "ok"
            };
            println!(
                "seed {} {state}: trace {}, {} commits, {} starts",
                report.seed, report.hash, report.commits, report.starts
            );
        }
        Ok(())
    }

    fn explain(&self, options: &Options, report: &Report) {
        let Some(failure) = &report.failure else {
            return;
        };
        for line in &failure.tail {
            eprintln!("{line}");
        }
        let script = Script::new(options.seed, options.size);
        if let Some(only) = &options.only {
            eprintln!("steps that are needed:");
            for step in script.only(only).steps {
                eprintln!(
                    "  {} after {} ms: {:?}",
                    step.number, step.after_ms, step.action
                );
            }
        }
        let at = match failure.step {
            Some(step) => format!("at step {step}"),
            None => "at the end".to_owned(),
        };
        eprintln!(
            "seed {} breaks {} {at}: {}",
            options.seed, failure.invariant, failure.why
        );
        eprintln!(
            "repeat: cargo xtask sim {} --plain --trace",
            batch::arguments(options).join(" ")
        );
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Other::Loopback(options)) = &arguments.other {
        real_time(options)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.seeds == 1 && arguments.plain {
        let options = arguments.options(arguments.seed);
        let report = run::run(&options)?;
        arguments.show(&report)?;
        if !arguments.json {
            arguments.explain(&options, &report);
        }
        return Ok(code(report.failure.is_some()));
    }
    let seeds = arguments.seed..arguments.seed.saturating_add(arguments.seeds);
    let mut failed = Vec::new();
    let mut shown = Ok(());
    batch::many(
        seeds.map(|seed| arguments.options(seed)),
        arguments.jobs,
        |report| {
            let bad = report.failure.is_some();
            if bad || arguments.json || arguments.seeds == 1 {
                shown = arguments.show(&report);
            }
            if bad {
                if arguments.keep_going
                    && let Some(failure) = &report.failure
                {
                    eprintln!(
                        "seed {} breaks {}: {}",
                        report.seed, failure.invariant, failure.why
                    );
                }
                failed.push(report);
            }
            shown.is_ok() && (!bad || arguments.keep_going)
        },
    )?;
    shown?;
    if let Some(first) = failed.first() {
        let options = arguments.options(first.seed);
        let (options, report) = if arguments.plain {
            (options, first.clone())
        } else {
            shrink::shrink(&options, first)?
        };
        arguments.explain(&options, &report);
    }
    println!("{} of {} seeds failed", failed.len(), arguments.seeds);
    Ok(code(!failed.is_empty()))
}

fn code(failed: bool) -> ExitCode {
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
