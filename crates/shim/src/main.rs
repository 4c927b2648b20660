//! `plimsoll-shim`: the single-threaded supervisor of one task.
//!
//! What it is: a small process that outlives the agent, holds a task's streams, writes its log,
//! and records how it ended. What it is not: it decides nothing; a driver tells it what to run.
//! Start with `run::supervisor`. Always holds: libcontainer runs only in a forked child
//! (`run::creator`), so that its memory never stays in the supervisor.

mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::main()
}
