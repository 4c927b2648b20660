//! What people and programs read of a cluster.

use anyhow::Result;

use super::cluster::Status;
use super::commands::Output;
use super::plan::Plan;
use super::state::State;

/// Says that a cluster is ready and how to talk to it.
pub(super) fn ready(plan: &Plan, state: &State) {
    println!("ready: {} hosts in {}", state.hosts, plan.folder.display());
    println!(
        "  export PLIMSOLL_SERVER=unix://{}",
        plan.socket().display()
    );
}

/// Prints what runs.
pub(super) fn status(status: &Status, output: Output) -> Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(status)?),
        Output::Yaml => print!("{}", serde_yaml_ng::to_string(status)?),
        Output::Table => table(status),
    }
    Ok(())
}

fn table(status: &Status) {
    if status.name.is_none() {
        println!("there is no cluster in {}", status.data);
        return;
    }
    println!("{:<10}{:<10}{:<10}ADDRESS", "NAME", "STATE", "PID");
    for program in &status.programs {
        let pid = program.pid.map_or("-".to_owned(), |pid| pid.to_string());
        println!(
            "{:<10}{:<10}{pid:<10}{}",
            program.name, program.state, program.address
        );
    }
}
