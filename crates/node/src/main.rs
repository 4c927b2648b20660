//! The `plimsoll` program: server, agent, dev cluster and the user's commands in one file.
//!
//! What it is: the composition root. Here stores, drivers, listeners and personalities are put together; nothing is
//! decided here.
//!
//! Start at [`server`] and [`agent`].

mod agent;
mod dev;
mod doctor;
mod listen;
mod logging;
mod server;
mod sockets;
mod tls;

use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _, Subcommand as _};

fn main() -> ExitCode {
    // There is one provider in the program; a second install cannot happen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut command = command();
    if std::env::args_os().len() < 2 {
        // clap shows the help only as long as no option is set by the environment.
        let _ = command.print_help();
        return ExitCode::from(cli::exit::USAGE);
    }
    let matches = match command.clone().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                cli::exit::USAGE
            } else {
                cli::exit::OK
            });
        }
    };
    match matches.subcommand() {
        Some(("server", matches)) => match server::ServerArgs::from_arg_matches(matches) {
            Ok(args) => service(args.threads, &args.log, server::run(args.clone())),
            Err(error) => usage(&error),
        },
        Some(("agent", matches)) => match agent::AgentArgs::from_arg_matches(matches) {
            Ok(args) => service(args.threads, &args.log, agent::run(args.clone())),
            Err(error) => usage(&error),
        },
        Some(("dev", matches)) => match dev::DevCommand::from_arg_matches(matches) {
            Ok(command) => {
                ended(runtime(1).and_then(|runtime| runtime.block_on(dev::run(command))))
            }
            Err(error) => usage(&error),
        },
        Some(("doctor", matches)) => match doctor::DoctorArgs::from_arg_matches(matches) {
            Ok(args) => ended(doctor::run(&args)),
            Err(error) => usage(&error),
        },
        Some(("openapi", _)) => ended(openapi()),
        _ => match runtime(1) {
            Ok(runtime) => runtime.block_on(cli::dispatch(&command, &matches)),
            Err(error) => failed(&error),
        },
    }
}

fn command() -> clap::Command {
    // The texts come last: deriving arguments would put the structs' own documentation in their place.
    let server = server::ServerArgs::augment_args(clap::Command::new("server"))
        .about("Run a server: the API, the Docker endpoints of pools, and the link to hosts")
        .after_help(server::EXAMPLES);
    let agent = agent::AgentArgs::augment_args(clap::Command::new("agent"))
        .about("Run the agent that makes this machine a host")
        .after_help(agent::EXAMPLES);
    let dev = dev::DevCommand::augment_subcommands(clap::Command::new("dev"))
        .about("Run a whole cluster on this machine, for trying and testing")
        .subcommand_required(true)
        .arg_required_else_help(true);
    let doctor = doctor::DoctorArgs::augment_args(clap::Command::new("doctor"))
        .about("Say what this machine can and cannot do, and how to mend it");
    let openapi = clap::Command::new("openapi")
        .about("Print the API's OpenAPI document")
        .hide(true);
    cli::command().subcommands([server, agent, dev, doctor, openapi])
}

/// Prints the API's OpenAPI document as it is kept in `docs/openapi.json`.
fn openapi() -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    let text = api::native::openapi_json()?;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(ExitCode::from(cli::exit::OK))
}

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?)
}

/// Runs a long-lived program to its end.
fn service(
    threads: usize,
    log: &logging::LogArgs,
    run: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    logging::start(log);
    let result = runtime(threads).and_then(|runtime| runtime.block_on(run));
    match result {
        Ok(()) => ExitCode::from(cli::exit::OK),
        Err(error) => failed(&error),
    }
}

fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  why: {cause}");
    }
    ExitCode::from(cli::exit::FAILED)
}

fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(cli::exit::USAGE)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_command_is_there_and_well_formed() {
        let command = super::command();
        command.clone().debug_assert();
        for name in [
            "server", "agent", "dev", "doctor", "openapi", "run", "ps", "pool",
        ] {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }
}
