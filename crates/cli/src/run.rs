//! From arguments to an exit code.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::args::{Cli, Command};
use crate::exit;

/// The definition of the command line, for a program that adds commands of its own.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses and runs a whole command line, the program's name first.
pub async fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = command();
    match command.clone().try_get_matches_from(args) {
        Ok(matches) => dispatch(&command, &matches).await,
        Err(error) => usage_error(&error),
    }
}

/// Runs what was parsed by `command` (that of [`command`], possibly with further subcommands, which the caller has
/// handled itself before).
pub async fn dispatch(command: &clap::Command, matches: &ArgMatches) -> ExitCode {
    let cli = match Cli::from_arg_matches(matches) {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error),
    };
    match &cli.command {
        Command::Completion { shell } => completion(command.clone(), *shell),
        Command::Man { folder } => man(command.clone(), folder),
        _ => match crate::commands::execute(cli).await {
            Ok(code) => ExitCode::from(code),
            Err(failure) => {
                if !failure.what.is_empty() {
                    // If standard error is gone the exit code still tells.
                    let _ = std::io::stderr().write_all(failure.text().as_bytes());
                }
                ExitCode::from(failure.code)
            }
        },
    }
}

fn usage_error(error: &clap::Error) -> ExitCode {
    // Nothing is left to tell if the terminal is gone.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(exit::USAGE)
    } else {
        ExitCode::from(exit::OK)
    }
}

fn completion(mut command: clap::Command, shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "plimsoll", &mut script);
    match std::io::stdout().lock().write_all(&script) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(_) => ExitCode::from(exit::FAILED),
    }
}

fn man(command: clap::Command, folder: &std::path::Path) -> ExitCode {
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder).map(|_| ()));
    match written {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            eprintln!(
                "error: cannot write man pages to {}\n  why: {error}",
                folder.display()
            );
            ExitCode::from(exit::FAILED)
        }
    }
}
