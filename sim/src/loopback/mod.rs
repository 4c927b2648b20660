//! A cluster of fake hosts: real agents with real links to a real control plane, over drivers in memory.
//!
//! What it is not: no product, and not deterministic to the last step: the seed decides what is done and what goes
//! wrong, the machine in which order it is carried out. A failure is found again by running the same seed a few times.
//!
//! Start at [`run`]. [`world`] is the cluster and what can go wrong in it, [`operators`] are the people who use it,
//! [`check`] is what must hold when everybody has let go.

pub mod check;
pub mod operators;
pub mod random;
pub mod server;
pub mod world;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::loopback::random::Random;
use crate::loopback::world::World;

/// What to simulate.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "sim", about = "A cluster of fake hosts with seeded faults")]
pub struct Options {
    /// Decides what is done and what goes wrong
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Fake hosts
    #[arg(long, default_value_t = 5)]
    pub hosts: u32,
    /// People who create, stop and remove containers at the same time
    #[arg(long, default_value_t = 8)]
    pub operators: u32,
    /// What each of them does, in steps
    #[arg(long, default_value_t = 40)]
    pub steps: u32,
    /// Things that go wrong
    #[arg(long, default_value_t = 60)]
    pub faults: u32,
    /// Seconds the cluster may take to settle in the end
    #[arg(long, default_value_t = 60)]
    pub settle: u64,
}

/// Runs a simulation; fails with what does not hold.
///
/// # Errors
/// When something that must always hold does not, or the cluster cannot be made.
pub async fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    let mut random = Random::new(options.seed);
    let mut world = World::new(options.hosts).await?;
    println!("{} hosts joined in {:.1?}", options.hosts, begun.elapsed());
    let crowd = operators::start(&world, options, &mut random);
    let faults = world.trouble(&mut random, options.faults, &crowd).await?;
    let done = crowd.finish().await?;
    world.calm().await;
    println!("{} operations, {faults}, {:.1?}", done, begun.elapsed());
    let settled = Instant::now();
    check::settled(&world, Duration::from_secs(options.settle)).await?;
    println!(
        "settled in {:.1?}; everything holds: {}",
        settled.elapsed(),
        check::census(&world)
    );
    Ok(())
}
